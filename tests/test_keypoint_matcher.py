"""Edited copies that whole-frame hashes lose are found by their keypoints; other pictures are not.

In process, but through the worker that holds the media, as a check over HTTP goes.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice

import numpy as np
import pytest
from shelf import Shelf, ended, opened, run, sketched

from benchmarks import corpus
from benchmarks.robustness.edits import apply
from hashing import wire
from hashing.errors import Reason, UnhashableMedia
from hashing.hasher import Plan
from hashing.keypoints import Evidence, Pairs
from hashing.media import Sampling
from hashing.sandbox import Opened, Pool
from hashing.signals import Signal, SignalType
from indexer.descriptors import voters
from indexer.enroll import Enrolled
from indexer.index import Index
from indexer.keypoint_matcher import MAX_CONFIRMED, MIN_VOTES
from indexer.matcher import Answer, Matcher
from indexer.matches import Match
from indexer.policy import POLICIES, Verdict

KEYPOINTS, PDQ = SignalType.KEYPOINTS, SignalType.PDQ
MATCH, REVIEW, NO_MATCH, UNHASHABLE = Verdict.MATCH, Verdict.REVIEW, Verdict.NO_MATCH, Verdict.UNHASHABLE
TYPES = frozenset({KEYPOINTS, PDQ, SignalType.SHA256, SignalType.MD5})
KNOWN = range(12)
CLIP = 71


@lru_cache(maxsize=64)
def scene(seed: int) -> corpus.Picture:
    return corpus.picture(seed)


def edited(name: str, seed: int) -> bytes:
    return apply(name, scene(seed), seed, [scene(seed) for seed in range(900, 904)])


def crop(picture: corpus.Picture) -> corpus.Picture:
    """Cut a fifth off the left and the top."""
    height, width = picture.shape[:2]
    return picture[height // 5 :, width // 5 :]


@lru_cache
def cropped(seed: int) -> bytes:
    return corpus.jpeg(crop(scene(seed)), 88)


@dataclass(frozen=True)
class Desk:
    """A shelf and the workers that hash for it."""

    shelf: Shelf
    pool: Pool

    def hashed(self, data: bytes) -> Signal:
        return self.pool.hash_media(data, Plan(Sampling.DENSE, TYPES))

    def enroll(self, data: bytes, bank: str = "b") -> Enrolled:
        return self.shelf.enroll(self.hashed(data), bank)

    def check(self, data: bytes, *banks: str) -> Answer:
        with self.pool.open(data, Plan(Sampling.SPARSE, TYPES)) as media:
            return self.shelf.matcher.match(media.signal, banks, media.confirm)

    def found(self, data: bytes, *banks: str) -> list[str]:
        return [match.content_id for match in self.check(data, *banks).matches]


def only(answer: Answer) -> Match:
    assert len(answer.matches) == 1, answer
    return answer.matches[0]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(1) as made:
        yield made


@pytest.fixture
def desk(shelf: Shelf, pool: Pool) -> Desk:
    return Desk(shelf, pool)


@pytest.fixture(scope="module")
def full(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Desk, dict[int, str]]]:
    """A bank that stays as it is, with twelve pictures, by their seeds, and a clip."""
    with opened(tmp_path_factory.mktemp("full") / "staydown.db") as shelf:
        desk = Desk(shelf, pool)
        known = {seed: desk.enroll(corpus.jpeg(scene(seed), 92)).content_id for seed in KNOWN}
        yield desk, known | {CLIP: desk.enroll(corpus.clip(CLIP)).content_id}


# --- copies and others -----------------------------------------------------------------

WORDS = {
    "crop_edge_15": {"crop"},
    "rot_10_black": {"rotated"},
    "screenshot_dark": {"embedded"},
    "pip_50": {"embedded"},
    "caption_40": {"embedded"},
    "collage_1x2": {"embedded"},
    "mirror+crop_edge_15": {"mirror", "crop"},
}
MAY_BE_SAID = {"mirror", "rotated", "crop", "embedded"}


@pytest.mark.parametrize("seed", [3, 7])
@pytest.mark.parametrize("name", WORDS)
def test_an_edited_copy_is_found_and_what_was_done_is_said(
    full: tuple[Desk, dict[int, str]], name: str, seed: int
) -> None:
    desk, known = full
    answer = desk.check(edited(name, seed))
    match = only(answer)
    assert (answer.verdict, match.verdict, match.content_id) == (MATCH, MATCH, known[seed])
    assert (match.signal_type, match.distance_bits, match.segments) == (KEYPOINTS, None, ())
    assert match.inliers is not None
    assert match.inliers >= 5
    assert 0 < match.false_match_probability < 1e-3
    words = set(match.transform.split("+"))
    assert WORDS[name] <= words <= MAY_BE_SAID
    assert ("mirror" in words) is ("mirror" in name)


@pytest.mark.parametrize("seed", [3, 5, 7])
def test_a_blended_copy_is_found_as_it_stands(full: tuple[Desk, dict[int, str]], seed: int) -> None:
    desk, known = full
    match = only(desk.check(edited("blend_80", seed)))
    assert (match.verdict, match.content_id, match.transform) == (MATCH, known[seed], "none")
    assert match.signal_type is (KEYPOINTS if seed == 5 else PDQ)


@pytest.mark.parametrize("name", [*WORDS, "blend_80", "invert"])
@pytest.mark.parametrize("seed", [503, 507])
def test_another_picture_is_no_match_through_the_same_edits(
    full: tuple[Desk, dict[int, str]], name: str, seed: int
) -> None:
    answer = full[0].check(edited(name, seed))
    assert (answer.verdict, answer.reason, answer.matches) == (NO_MATCH, None, ())


@pytest.mark.parametrize("seed", range(520, 540))
def test_another_picture_is_no_match(full: tuple[Desk, dict[int, str]], seed: int) -> None:
    answer = full[0].check(corpus.jpeg(scene(seed), 90))
    assert (answer.verdict, answer.reason, answer.matches) == (NO_MATCH, None, ())


@pytest.mark.parametrize("seed", KNOWN)
def test_a_negative_is_found_as_one(full: tuple[Desk, dict[int, str]], seed: int) -> None:
    desk, known = full
    match = only(desk.check(edited("invert", seed)))
    assert (match.verdict, match.content_id) == (MATCH, known[seed])
    assert (match.signal_type, match.transform) == (PDQ, "inverted")


def test_what_a_cheaper_type_matches_is_not_confirmed(full: tuple[Desk, dict[int, str]]) -> None:
    desk, known = full
    data = corpus.jpeg(scene(4), 60)
    signal = desk.pool.hash_media(data, Plan(Sampling.SPARSE, TYPES))

    def never(pairs: Pairs) -> Evidence:
        raise AssertionError

    match = only(desk.shelf.matcher.match(signal, None, never))
    assert (match.content_id, match.signal_type) == (known[4], PDQ)


def test_confirmations_are_bounded(desk: Desk) -> None:
    """A video of many sketches against many copies: as many pairs as one request takes, and not more."""
    for quality in range(70, 90, 2):
        desk.enroll(corpus.jpeg(scene(1), quality))
    asked: list[int] = []
    query = desk.pool.hash_media(corpus.jpeg(crop(scene(1)), 90), Plan(Sampling.SPARSE, TYPES))
    many = Signal(query.media, query.frames[:0], (), None, np.concatenate([query.sketches] * 30))

    def counted(pairs: Pairs) -> Evidence:
        asked.append(len(pairs))
        raise UnhashableMedia(Reason.DECODER_CRASHED)

    desk.shelf.matcher.match(many, None, counted)
    assert asked == [MAX_CONFIRMED]
    assert MAX_CONFIRMED <= wire.MAX_PAIRS


def test_few_votes_are_not_confirmed(desk: Desk) -> None:
    row = sketched(1)
    done = desk.hashed(corpus.jpeg(scene(2), 90))
    desk.shelf.enroll(Signal(done.media, done.frames, (), None, row))
    asked: list[int] = []

    def counted(pairs: Pairs) -> Evidence:
        asked.append(len(pairs))
        raise UnhashableMedia(Reason.DECODER_CRASHED)

    query = desk.pool.hash_media(corpus.jpeg(scene(520), 90), Plan(Sampling.SPARSE, TYPES))
    for shared in (MIN_VOTES - 1, MIN_VOTES):
        other = sketched(2)
        other["keypoints"]["code"][0, :shared] = row["keypoints"]["code"][0, :shared]
        desk.shelf.matcher.match(Signal(query.media, query.frames, (), None, other), None, counted)
    assert asked == [1]


# --- banks and withdrawals --------------------------------------------------------------


def test_a_bank_without_keypoints_does_not_find_them(desk: Desk) -> None:
    record = desk.shelf.record
    record.create_bank("plain", actor="t", signal_types=[PDQ])
    desk.enroll(corpus.jpeg(scene(1), 92), "plain")
    assert desk.check(cropped(1)).verdict is NO_MATCH
    done = desk.enroll(corpus.jpeg(scene(1), 92))
    assert desk.found(cropped(1)) == [done.content_id]
    record.set_bank("b", actor="t", signal_types=[PDQ])
    assert desk.check(cropped(1)).verdict is NO_MATCH, "it has sketches, but compares them no more"
    record.set_bank("b", actor="t", signal_types=[PDQ, KEYPOINTS])
    assert desk.found(cropped(1)) == [done.content_id]


def test_a_bank_of_keypoints_alone_finds_copies_and_says_no_match_of_others(desk: Desk) -> None:
    desk.shelf.record.set_bank("b", actor="t", signal_types=[KEYPOINTS])
    done = desk.enroll(corpus.jpeg(scene(1), 92))
    assert done.warnings == ()
    assert desk.found(cropped(1)) == desk.found(corpus.jpeg(scene(1), 50)) == [done.content_id]
    assert desk.check(corpus.jpeg(scene(521), 90)).verdict is NO_MATCH


def test_only_the_banks_that_are_asked_answer(desk: Desk) -> None:
    """Also where other banks hold more copies than there are votes for one place."""
    names = [f"other{number}" for number in range(8)]
    for name in names:
        desk.shelf.record.create_bank(name, actor="t")
        desk.enroll(corpus.jpeg(scene(1), 92), name)
    done = desk.enroll(corpus.jpeg(scene(1), 92))
    assert desk.found(cropped(1), "b") == [done.content_id]
    assert [match.bank for match in desk.check(cropped(1), names[5]).matches] == [names[5]]
    assert {match.bank for match in desk.check(cropped(1)).matches} == {"b", *names}
    desk.shelf.record.set_bank("b", actor="t", enabled=False)
    assert desk.found(cropped(1), "b") == []
    assert {match.bank for match in desk.check(cropped(1)).matches} == set(names)


def test_each_bank_judges_by_its_own_policy(desk: Desk) -> None:
    for name in POLICIES:
        desk.shelf.record.create_bank(name, actor="t", policy=name)
        desk.enroll(corpus.jpeg(scene(3), 92), name)
    answer = desk.check(edited("crop_edge_15", 3))
    assert {match.bank: match.verdict for match in answer.matches} | {"strict": MATCH} == {
        "default": MATCH, "strict": MATCH, "review-only": REVIEW,
    }  # fmt: skip
    assert answer.verdict is MATCH
    alone = desk.check(edited("crop_edge_15", 3), "review-only")
    assert (alone.verdict, only(alone).verdict, only(alone).signal_type) == (REVIEW, REVIEW, KEYPOINTS)


def test_a_withdrawal_counts_at_once_and_leaves_the_others(desk: Desk) -> None:
    one, two = desk.enroll(corpus.jpeg(scene(1), 92)), desk.enroll(corpus.jpeg(scene(2), 92))
    assert desk.found(cropped(1)) == [one.content_id]
    desk.shelf.withdraw(one)
    assert desk.check(cropped(1)).verdict is NO_MATCH
    assert desk.found(cropped(2)) == [two.content_id]


def test_disabled_content_does_not_answer(desk: Desk) -> None:
    done = desk.enroll(corpus.jpeg(scene(1), 92))
    desk.shelf.record.set_content("b", done.content_id, actor="t", enabled=False)
    assert desk.check(cropped(1)).verdict is NO_MATCH
    desk.shelf.record.set_content("b", done.content_id, actor="t", enabled=True)
    assert desk.found(cropped(1)) == [done.content_id]


def test_what_is_enrolled_again_after_each_withdrawal_is_found_each_time(desk: Desk) -> None:
    """Votes of withdrawn copies must not crowd out those of the one that stands."""
    for _ in range(10):
        done = desk.enroll(corpus.jpeg(scene(1), 92))
        assert desk.found(cropped(1)) == [done.content_id]
        desk.shelf.withdraw(done)
    done = [desk.enroll(corpus.jpeg(scene(1), quality)) for quality in range(80, 90)]
    for each in done[:-1]:
        desk.shelf.withdraw(each)
    assert desk.found(cropped(1)) == [done[-1].content_id]


def test_a_withdrawal_between_the_votes_and_the_join_counts(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    done = desk.enroll(corpus.jpeg(scene(1), 92))
    book, locate = desk.shelf.record.sketches, desk.shelf.record.sketches.locate

    def and_withdrawn(*what: list[int]) -> object:
        desk.shelf.withdraw(done)
        return locate(*what)

    monkeypatch.setattr(book, "locate", and_withdrawn)
    assert desk.check(cropped(1)).verdict is NO_MATCH


# --- video --------------------------------------------------------------------------------


def test_a_cropped_clip_is_found_with_its_seconds(full: tuple[Desk, dict[int, str]]) -> None:
    desk, known = full
    match = only(desk.check(corpus.write_clip(map(crop, corpus.clip_frames(CLIP)))))
    assert (match.verdict, match.content_id, match.signal_type) == (MATCH, known[CLIP], KEYPOINTS)
    assert "crop" in match.transform
    assert match.segments
    whole = [time for segment in match.segments for time in (*segment.query_s, *segment.reference_s)]
    assert 0 <= min(whole) <= max(whole) <= 6.1
    for segment in match.segments:
        assert segment.query_s == pytest.approx(segment.reference_s, abs=1.1)
    assert sum(segment.query_s[1] - segment.query_s[0] for segment in match.segments) >= 2.5


@pytest.mark.parametrize("at_s", [1.0, 4.0])
def test_a_still_cropped_from_a_clip_is_found_with_its_second(full: tuple[Desk, dict[int, str]], at_s: float) -> None:
    desk, known = full
    frame = next(islice(corpus.clip_frames(CLIP), round(25 * at_s), None))
    match = only(desk.check(corpus.jpeg(crop(frame), 90)))
    assert (match.verdict, match.content_id, match.signal_type) == (MATCH, known[CLIP], KEYPOINTS)
    assert match.segments
    assert match.segments[0].query_s == (0.0, 0.0)
    assert match.segments[0].reference_s[0] == pytest.approx(at_s, abs=1.1)


def test_a_picture_shown_in_a_clip_is_found(desk: Desk) -> None:
    frame = next(islice(corpus.clip_frames(CLIP), 30, None))
    done = desk.enroll(corpus.jpeg(frame, 92))
    match = only(desk.check(corpus.write_clip(map(crop, corpus.clip_frames(CLIP)))))
    assert (match.content_id, match.signal_type) == (done.content_id, KEYPOINTS)
    assert match.segments
    assert match.segments[0].reference_s == (0.0, 0.0)
    assert match.segments[0].query_s[0] <= 1.2 + 1.1


def test_another_clip_is_no_match(full: tuple[Desk, dict[int, str]]) -> None:
    answer = full[0].check(corpus.write_clip(map(crop, corpus.clip_frames(CLIP + 1))))
    assert (answer.verdict, answer.matches) == (NO_MATCH, ())


# --- what can go wrong ----------------------------------------------------------------------


def test_a_worker_that_dies_while_it_confirms_is_unhashable_and_never_no_match(desk: Desk) -> None:
    desk.enroll(corpus.jpeg(scene(1), 92))
    with desk.pool.open(cropped(1), Plan(Sampling.SPARSE, TYPES)) as media:
        assert media._worker is not None
        media._worker.kill()
        answer = desk.shelf.matcher.match(media.signal, None, media.confirm)
    assert (answer.verdict, answer.reason, answer.matches) == (UNHASHABLE, Reason.DECODER_CRASHED, ())
    assert desk.check(cropped(1)).verdict is MATCH, "another worker took its place"


@pytest.mark.parametrize("reason", [Reason.DECODER_CRASHED, Reason.DECODER_TIMED_OUT])
def test_what_was_found_before_the_worker_died_still_counts(desk: Desk, reason: Reason) -> None:
    desk.shelf.record.create_bank("careful", actor="t", policy="review-only")
    done = desk.enroll(corpus.jpeg(scene(1), 92), "careful")
    signal = desk.pool.hash_media(corpus.jpeg(scene(1), 50), Plan(Sampling.SPARSE, TYPES))

    def dies(pairs: Pairs) -> Evidence:
        raise UnhashableMedia(reason)

    answer = desk.shelf.matcher.match(signal, None, dies)
    assert (answer.verdict, answer.reason, only(answer).content_id) == (REVIEW, reason, done.content_id)


def test_without_candidates_the_worker_is_not_asked(desk: Desk) -> None:
    with desk.pool.open(cropped(1), Plan(Sampling.SPARSE, TYPES)) as media:
        assert media._worker is not None
        media._worker.kill()
        assert desk.shelf.matcher.match(media.signal, None, media.confirm).verdict is NO_MATCH


def test_without_the_media_nothing_is_confirmed(desk: Desk) -> None:
    """Ready-made hashes and hashes of a worker that is gone have no planes: other types still answer."""
    desk.enroll(corpus.jpeg(scene(1), 92))
    signal = desk.pool.hash_media(cropped(1), Plan(Sampling.SPARSE, TYPES))
    assert desk.shelf.match(signal).verdict is NO_MATCH
    gone = Opened(None, Signal(signal.media, signal.frames[:0], (), Reason.DECODER_CRASHED))
    answer = desk.shelf.matcher.match(gone.signal, None, gone.confirm)
    assert (answer.verdict, answer.reason) == (UNHASHABLE, Reason.DECODER_CRASHED)


# --- other processes and restarts -----------------------------------------------------------

ENROLLING = """
import sys
from pathlib import Path
from shelf import opened
from benchmarks import corpus
from hashing.hasher import Plan, hash_media
from hashing.media import Sampling
from hashing.signals import SignalType

plan = Plan(Sampling.DENSE, frozenset({SignalType.KEYPOINTS, SignalType.PDQ}))
with opened(sys.argv[1]) as shelf:
    print(shelf.enroll(hash_media(corpus.jpeg(corpus.picture(int(sys.argv[2])), 92), plan)).content_id)
"""


def test_what_another_process_enrolls_is_found_at_once(desk: Desk) -> None:
    assert desk.check(cropped(6)).verdict is NO_MATCH
    content_id = ended(run(ENROLLING, desk.shelf.url, 6)).strip()
    assert desk.found(cropped(6)) == [content_id]


def restarted(desk: Desk, load: Callable[[Index], object]) -> Desk:
    """Return the desk as it would be after a restart: same record, new index."""
    index = Index(desk.shelf.index.min_quality)
    load(index)
    index.refresh(desk.shelf.record)
    return Desk(replace(desk.shelf, index=index), desk.pool)


def test_sketches_are_searched_after_a_restart_with_the_snapshot_and_without(desk: Desk) -> None:
    path = desk.shelf.path.with_name("index.cache")
    one, two = (desk.enroll(corpus.jpeg(scene(seed), 92)) for seed in (1, 2))
    desk.shelf.index.save(path, desk.shelf.record)
    three = desk.enroll(corpus.jpeg(scene(3), 92))
    desk.shelf.withdraw(two)
    for load in (partial(Index.load, path=path, record=desk.shelf.record), lambda index: None):
        other = restarted(desk, load)
        assert other.found(cropped(1)) == [one.content_id]
        assert other.found(cropped(2)) == []
        assert other.found(cropped(3)) == [three.content_id]
        assert other.shelf.index.sizes()["keypoints"] == 2


def test_checks_while_others_enroll_and_withdraw(desk: Desk) -> None:
    """Each enrolment is found as soon as it is answered, whatever else goes on."""
    stays = desk.enroll(corpus.jpeg(scene(1), 92))
    asked = desk.pool.hash_media(cropped(1), Plan(Sampling.SPARSE, TYPES))
    wrong: list[object] = []
    signals = [desk.hashed(corpus.jpeg(scene(seed), 92)) for seed in (8, 9, 10, 11)]

    def work(signal: Signal) -> None:
        for _ in range(8):
            done = desk.shelf.enroll(signal)
            searched = desk.shelf.index.descriptors([1])[0].vote(voters(signal.sketches[0]))
            located = desk.shelf.record.sketches.locate(searched.sketch_pk[:4].tolist(), [1])
            if desk.shelf.content(done).content_pk not in located.content_pk:
                wrong.append(done)
            desk.shelf.withdraw(done)
            Matcher(desk.shelf.record, desk.shelf.index).match(asked)

    threads = [threading.Thread(target=work, args=(signal,)) for signal in signals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert desk.found(cropped(1)) == [stays.content_id]
    assert desk.shelf.index.sizes()["keypoints"] == 1
