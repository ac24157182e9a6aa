"""Companions and lawful banks: what they suppress, what they never do, and that they go with their content."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shelf import Codes, Shelf, bare, codes, film, flipped, frames, sketched, still
from sqlalchemy import func, select

from hashing.contrast import CONTRAST_DTYPE, TOLD_DTYPE, Contrasts, Tells, Told
from hashing.signals import GRID_BYTES, Kind, Media, Signal, SignalType, Sketches, distance
from indexer.enroll import Enrolled
from indexer.errors import InvalidCompanion, NothingToEnroll, UnknownContent
from indexer.lawful import CompanionEnroller, Lawful, check_differs
from indexer.matches import COMPANION, LAWFUL_BANK
from indexer.policy import Nearer, Verdict, bits_scores, nearer, told_scores
from indexer.tables import content, contrast, exact, signal, sketch

MATCH, REVIEW, NO_MATCH = Verdict.MATCH, Verdict.REVIEW, Verdict.NO_MATCH
SHA = SignalType.SHA256


def companion(shelf: Shelf, done: Enrolled, of: Signal, lay: Callable[[Sketches], Contrasts] | None = None) -> str:
    return CompanionEnroller(shelf.record).add(done.bank, done.content_id, Lawful(of, lay), actor="test")


def picture(seed: int, code: Codes) -> Signal:
    """Return the signal of a picture with one hash and one sketch."""
    return Signal(Media(Kind.IMAGE, None, 640, 480, None, 1), frames(code[None]), (), None, sketched(seed))


def everywhere(sketches: Sketches) -> Contrasts:
    rows = np.zeros(len(sketches), CONTRAST_DTYPE)
    rows["found"], rows["grid"] = 1, 7
    return rows


def saying(like_reference: float, like_lawful: float, cells: int = 40) -> Callable[[Tells], Told]:
    """Return what a worker would that sees this everywhere."""

    def tell(tells: Tells) -> Told:
        rows = np.zeros(len(tells), TOLD_DTYPE)
        rows["placed"], rows["cells"], rows["common"] = 1, cells, 0.8
        rows["like_reference"], rows["like_lawful"] = like_reference, like_lawful
        rows["region"] = (8, 4, 16, 12)
        return rows

    return tell


def kept(shelf: Shelf) -> dict[str, int]:
    with shelf.store.read() as connection:
        return {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (signal, exact, sketch, contrast)
        }


# --- the record -----------------------------------------------------------------------------


def test_a_companion_is_no_content(shelf: Shelf) -> None:
    done = shelf.enroll(still(codes(1, 1)[0]))
    lawful = companion(shelf, done, still(codes(2, 1)[0]))
    assert [one.content_id for one in shelf.record.contents("b")] == [done.content_id]
    assert shelf.record.bank("b").contents == 1
    assert [bank.contents for bank in shelf.record.banks()] == [1]
    assert shelf.record.counts()[0] == 1
    assert shelf.found(still(codes(2, 1)[0])) == []
    found = shelf.record.companions.of([shelf.content(done).content_pk])
    assert [one.content_id for one in found[shelf.content(done).content_pk]] == [lawful]
    assert shelf.record.content("b", lawful).lawful_of == shelf.content(done).content_pk
    with pytest.raises(UnknownContent):
        shelf.record.set_content("b", lawful, actor="t", enabled=False)


def test_the_same_original_is_one_companion_of_a_content_and_another_of_the_next(shelf: Shelf) -> None:
    first, second = shelf.enroll(still(codes(1, 1)[0])), shelf.enroll(still(codes(2, 1)[0]))
    original = still(codes(3, 1)[0])
    once = companion(shelf, first, original)
    assert companion(shelf, first, original) == once
    assert companion(shelf, second, original) != once
    assert shelf.record.bank("b").contents == 2
    assert shelf.enroll(original).created, "and it may be a content itself"


def test_what_cannot_be_a_companion_is_refused(shelf: Shelf) -> None:
    done = shelf.enroll(still(codes(1, 1)[0]))
    lawful = companion(shelf, done, still(codes(2, 1)[0]))
    before = kept(shelf), shelf.store.revision()
    with pytest.raises(InvalidCompanion):
        companion(shelf, Enrolled(lawful, "b", 0, True, Media(Kind.IMAGE)), still(codes(3, 1)[0]))
    with pytest.raises(NothingToEnroll):
        companion(shelf, done, bare())
    with pytest.raises(UnknownContent):
        companion(shelf, Enrolled("c_0", "b", 0, True, Media(Kind.IMAGE)), still(codes(3, 1)[0]))
    assert (kept(shelf), shelf.store.revision()) == before, "nothing was written"
    same = bare((SHA, b"1" * 32))
    for one in (still(codes(4, 1)[0]), same):
        with pytest.raises(InvalidCompanion):
            check_differs(one, one)
    check_differs(still(codes(4, 1)[0]), same)


def test_a_withdrawn_content_takes_its_companions_with_it(shelf: Shelf) -> None:
    done = shelf.enroll(picture(1, codes(1, 1)[0]))
    lawful = companion(shelf, done, bare((SHA, b"2" * 32), rows=frames(codes(2, 3))), everywhere)
    assert kept(shelf) == {"signal": 4, "exact": 1, "sketch": 1, "contrast": 1}
    shelf.withdraw(done)
    assert kept(shelf) == {"signal": 0, "exact": 0, "sketch": 0, "contrast": 0}
    gone = shelf.record.content("b", lawful)
    assert (gone.withdrawn_at is not None, gone.withdrawn_reason) == (True, "by mistake")
    with pytest.raises(UnknownContent):
        companion(shelf, done, still(codes(3, 1)[0]))


def test_a_companion_can_be_withdrawn_by_itself(shelf: Shelf) -> None:
    code = codes(1, 1)[0]
    done = shelf.enroll(picture(1, code))
    lawful = companion(shelf, done, still(flipped(code, 20)), everywhere)
    assert shelf.match(still(flipped(code, 20))).verdict is NO_MATCH
    shelf.record.withdraw(shelf.record.content("b", lawful), reason="it was none", actor="t")
    assert kept(shelf) == {"signal": 1, "exact": 0, "sketch": 1, "contrast": 0}
    assert shelf.match(still(flipped(code, 20))).verdict is MATCH


def test_a_deleted_bank_leaves_no_companion(shelf: Shelf) -> None:
    done = shelf.enroll(picture(1, codes(1, 1)[0]))
    companion(shelf, done, still(codes(2, 1)[0]), everywhere)
    shelf.record.delete_bank("b", actor="t")
    assert kept(shelf) == {"signal": 0, "exact": 0, "sketch": 0, "contrast": 0}
    with shelf.store.read() as connection:
        assert connection.execute(select(func.count()).select_from(content)).scalar_one() == 0


def test_what_is_added_is_logged_without_a_hash(shelf: Shelf) -> None:
    done = shelf.enroll(picture(1, codes(1, 1)[0]))
    lawful = companion(shelf, done, still(codes(2, 1)[0]), everywhere)
    assert shelf.ledger.verify()[1] is None
    with shelf.store.read() as connection:
        entries = "SELECT action, target, CAST(detail AS TEXT) FROM audit ORDER BY seq DESC LIMIT 1"
        said = connection.exec_driver_sql(entries).one()
    assert said[:2] == ("content.companion", done.content_id)
    assert lawful in said[2]
    assert '"contrasts":1' in said[2].replace(" ", "")


def test_a_companion_that_could_not_be_laid_can_be_laid_later(shelf: Shelf) -> None:
    done = shelf.enroll(picture(1, codes(1, 1)[0]))
    companion(shelf, done, still(codes(2, 1)[0]))
    assert kept(shelf)["contrast"] == 0
    for _ in range(2):
        companion(shelf, done, still(codes(2, 1)[0]), everywhere)
        assert kept(shelf)["contrast"] == 1


# --- companions at a query ------------------------------------------------------------------


@given(st.integers(0, 60), st.integers(0, 45), st.integers(0, 2**32 - 1))
def test_a_query_nearer_to_the_companion_never_matches(apart: int, away: int, seed: int) -> None:
    """Held to the plain distances; the margins are those of `policy`."""
    known = codes(seed, 1)[0]
    lawful = flipped(known, apart, seed)
    query = flipped(lawful, away, seed + 1)
    ours, theirs = distance(known.tobytes(), query.tobytes()), distance(lawful.tobytes(), query.tobytes())
    verdict = nearer(bits_scores(np.array([ours]), np.array([theirs])))
    if min(ours, theirs) <= 46:
        assert verdict is (
            Nearer.CONTENT if theirs - ours >= 8 else Nearer.COMPANION if ours - theirs >= 8 else Nearer.UNDECIDED
        )
    assert (verdict is Nearer.CONTENT) <= (ours < theirs)


@pytest.mark.parametrize(
    ("apart", "verdict"), [(4, REVIEW), (7, REVIEW), (8, NO_MATCH), (20, NO_MATCH), (31, NO_MATCH)]
)
def test_by_hashes_alone_the_original_is_no_match(shelf: Shelf, apart: int, verdict: Verdict) -> None:
    known = codes(1, 1)[0]
    original = still(flipped(known, apart))
    done = shelf.enroll(still(known))
    assert shelf.match(original).verdict is MATCH
    lawful = companion(shelf, done, original)
    answer = shelf.match(original)
    assert answer.verdict is verdict
    if verdict is NO_MATCH:
        (found,) = answer.suppressed
        assert (found.by, found.lawful_content_id, found.match.content_id) == (COMPANION, lawful, done.content_id)
        assert found.match.told_apart is not None
        assert found.match.told_apart.nearer is Nearer.COMPANION
        assert answer.matches == ()
    again = shelf.match(still(known))
    told = again.matches[0].told_apart
    assert told is not None
    assert (again.verdict, told.nearer) == ((MATCH, Nearer.CONTENT) if apart >= 8 else (REVIEW, Nearer.UNDECIDED))


def test_a_content_without_companions_is_not_told_apart(shelf: Shelf) -> None:
    shelf.enroll(still(codes(1, 1)[0]))
    answer = shelf.match(still(codes(1, 1)[0]))
    assert (answer.matches[0].told_apart, answer.suppressed) == (None, ())


def test_the_same_file_is_certain_on_either_side(shelf: Shelf) -> None:
    code = codes(1, 1)[0]
    bad, good = (SHA, b"b" * 32), (SHA, b"g" * 32)
    done = shelf.enroll(bare(bad, rows=frames(code[None])))
    companion(shelf, done, bare(good, rows=frames(code[None])))
    for files, verdict in ((bad, MATCH), (good, NO_MATCH), ((SHA, b"x" * 32), REVIEW)):
        assert shelf.match(bare(files, rows=frames(code[None]))).verdict is verdict


@pytest.mark.parametrize(
    ("tell", "verdict"),
    [
        (saying(0.7, 0.0), MATCH),
        (saying(0.0, 0.7), NO_MATCH),
        (saying(0.5, 0.5), REVIEW),
        (saying(0.3, -0.2), REVIEW),
        (saying(-0.2, 0.3), REVIEW),
        (saying(0.7, 0.0, cells=2), REVIEW),
        (saying(0.7, 0.0, cells=0), REVIEW),
    ],
)
def test_what_the_worker_sees_counts_more_than_hashes(
    shelf: Shelf, tell: Callable[[Tells], Told], verdict: Verdict
) -> None:
    code = codes(1, 1)[0]
    done = shelf.enroll(picture(1, code))
    companion(shelf, done, still(flipped(code, 28)), everywhere)
    answer = shelf.matcher.match(picture(1, flipped(code, 3)), None, None, tell)
    assert answer.verdict is verdict
    found = (answer.matches or [one.match for one in answer.suppressed])[0].told_apart
    assert found is not None
    assert found.frames == 1
    if verdict is MATCH:
        assert (found.cells, found.region) == (40, (0.25, 0.125, 0.5, 0.375))


def test_of_several_originals_the_nearest_counts(shelf: Shelf) -> None:
    code = codes(1, 1)[0]
    done = shelf.enroll(still(code))
    companion(shelf, done, still(codes(9, 1)[0]))
    assert shelf.match(still(flipped(code, 20))).verdict is MATCH
    lawful = companion(shelf, done, still(flipped(code, 20)))
    answer = shelf.match(still(flipped(code, 20)))
    assert answer.verdict is NO_MATCH
    assert [one.lawful_content_id for one in answer.suppressed] == [lawful]


def test_an_original_far_from_the_query_takes_nothing_away(shelf: Shelf) -> None:
    done = shelf.enroll(picture(1, codes(1, 1)[0]))
    companion(shelf, done, bare(rows=frames(codes(2, 1))))
    assert shelf.match(still(codes(1, 1)[0])).verdict is MATCH


def test_abuse_behind_lawful_footage_is_found_by_itself(shelf: Shelf) -> None:
    bad, times = codes(1, 8), np.arange(8) * 2.0
    good = np.stack([flipped(code, 24, seed) for seed, code in enumerate(bad)])
    done = shelf.enroll(film(bad, times))
    companion(shelf, done, film(good, times))
    assert shelf.match(film(good, times)).verdict is NO_MATCH
    assert shelf.match(film(bad, times)).verdict is MATCH
    mixed = np.concatenate([good, bad[5:]])
    answer = shelf.match(film(mixed, np.arange(11) * 2.0))
    assert answer.verdict is MATCH
    assert all(part.query_s[1] >= 16.0 for part in answer.matches[0].segments)
    one_line = np.concatenate([good[:5], bad[5:]])
    assert shelf.match(film(one_line, times)).verdict is MATCH


# --- lawful banks ---------------------------------------------------------------------------


def lawful_bank(shelf: Shelf, name: str = "known", **settings: object) -> None:
    shelf.record.create_bank(name, actor="t", lawful=True, **settings)


def test_what_a_lawful_bank_holds_suppresses_and_never_matches(shelf: Shelf) -> None:
    code = codes(1, 1)[0]
    lawful_bank(shelf)
    bad, good = shelf.enroll(still(code)), shelf.enroll(still(flipped(code, 20)), "known")
    answer = shelf.match(still(flipped(code, 20)))
    assert (answer.verdict, answer.matches) == (NO_MATCH, ())
    (found,) = answer.suppressed
    assert (found.by, found.lawful_content_id, found.match.content_id) == (
        LAWFUL_BANK, good.content_id, bad.content_id,
    )  # fmt: skip
    assert shelf.match(still(code)).verdict is MATCH, "a deepfake of a lawful picture is nearer to itself"
    assert shelf.match(still(flipped(flipped(code, 20), 10))).matches == ()
    assert good.content_id not in shelf.found(still(flipped(code, 20)))
    shelf.withdraw(good)
    assert shelf.match(still(flipped(code, 20))).verdict is MATCH


def test_a_lawful_bank_is_asked_even_if_another_is_named(shelf: Shelf) -> None:
    code = codes(1, 1)[0]
    lawful_bank(shelf)
    shelf.enroll(still(code)), shelf.enroll(still(flipped(code, 20)), "known")
    assert shelf.match(still(flipped(code, 20)), "b").verdict is NO_MATCH


def test_a_lawful_bank_speaks_for_the_banks_it_names(shelf: Shelf) -> None:
    code = codes(1, 1)[0]
    shelf.record.create_bank("c", actor="t")
    lawful_bank(shelf, suppresses=["c"])
    in_b, in_c = shelf.enroll(still(code)), shelf.enroll(still(code), "c")
    shelf.enroll(still(flipped(code, 20)), "known")
    answer = shelf.match(still(flipped(code, 20)))
    assert [match.content_id for match in answer.matches] == [in_b.content_id]
    assert [one.match.content_id for one in answer.suppressed] == [in_c.content_id]
    shelf.record.set_bank("known", actor="t", suppresses=None)
    assert shelf.match(still(flipped(code, 20))).verdict is NO_MATCH
    shelf.record.set_bank("known", actor="t", enabled=False)
    assert len(shelf.match(still(flipped(code, 20))).matches) == 2


def test_the_same_file_in_a_lawful_bank_suppresses_all_but_the_same_file(shelf: Shelf) -> None:
    code, digest = codes(1, 1)[0], (SHA, b"g" * 32)
    lawful_bank(shelf)
    shelf.enroll(bare(digest), "known")
    shelf.enroll(still(code))
    assert shelf.match(bare(digest, rows=frames(code[None]))).verdict is NO_MATCH
    shelf.enroll(bare(digest))
    assert shelf.match(bare(digest, rows=frames(code[None]))).verdict is MATCH


def test_a_lawful_bank_asked_by_its_name_shows_what_it_found_and_matches_nothing(shelf: Shelf) -> None:
    lawful_bank(shelf)
    good = shelf.enroll(still(codes(1, 1)[0]), "known")
    answer = shelf.match(still(codes(1, 1)[0]), "known")
    assert (answer.verdict, answer.matches) == (NO_MATCH, ())
    assert [(one.by, one.lawful_content_id) for one in answer.suppressed] == [(LAWFUL_BANK, good.content_id)]
    assert shelf.match(still(codes(1, 1)[0])).suppressed == ()


def test_lawful_footage_at_another_time_takes_nothing_away(shelf: Shelf) -> None:
    lawful_bank(shelf)
    bad, good = codes(1, 6), codes(2, 6)
    shelf.enroll(film(bad, np.arange(6) * 2.0))
    shelf.enroll(film(good, np.arange(6) * 2.0), "known")
    both = film(np.concatenate([good, bad]), np.arange(12) * 2.0)
    assert shelf.match(both).verdict is MATCH


# --- what the numbers mean ------------------------------------------------------------------


@given(st.lists(st.floats(-8, 8), max_size=40))
def test_the_best_run_is_the_best_of_all_runs(scores: list[float]) -> None:
    scores = [score for score in scores if abs(abs(score) - 2.0) > 1e-9]
    kept = [score if abs(score) > 2.0 else 0.0 for score in scores]
    best = max((sum(kept[a:b]) for a in range(len(scores)) for b in range(a, len(scores) + 1)), default=0.0)
    worst = max((-sum(kept[a:b]) for a in range(len(scores)) for b in range(a, len(scores) + 1)), default=0.0)
    asked = 3.0 + np.log(max(len(scores), 1))
    wanted = Nearer.CONTENT if best >= asked else Nearer.COMPANION if worst >= 3.0 else Nearer.UNDECIDED
    if min(abs(best - asked), abs(worst - 3.0)) > 1e-6:
        assert nearer(np.array(scores)) is wanted


def test_scores_grow_with_what_was_seen() -> None:
    rows = np.zeros(4, TOLD_DTYPE)
    rows["placed"], rows["common"], rows["cells"] = 1, 0.8, [10, 40, 40, 40]
    rows["like_reference"], rows["like_lawful"] = [0.5, 0.5, 0.8, 0.1], [0.1, 0.1, 0.1, 0.5]
    scores = told_scores(rows)
    assert 0 < scores[0] < scores[1] < scores[2]
    assert scores[3] == pytest.approx(-scores[1])
    rows["placed"] = 0
    assert np.isnan(told_scores(rows)).all()
    assert GRID_BYTES == 512
