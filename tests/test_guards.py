"""The guards: what lawful pictures share is held, with a reason, and comes into no answer until it is released."""

import itertools
import json
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from serving import Api, Local
from shelf import Shelf, bare, codes, film, flipped, frames, opened, sketched, still

from benchmarks import corpus, generic_frames
from hashing.hasher import Plan, hash_media
from hashing.media import Sampling
from hashing.pdq import bare_parts, pdq, unsure_bits
from hashing.signals import Kind, Media, Signal, SignalType, View, distance, no_frames
from indexer.enroll import ReadyHash, signal_of
from indexer.errors import UnknownContent
from indexer.exchange.hashlist import export_hashes
from indexer.guarding import is_generic
from indexer.guards import (
    HOLDS,
    MAX_RUNS,
    NUMBERS,
    RELEASABLE,
    Hold,
    Holds,
    Near,
    generic_codes,
    judge_near,
    judge_rows,
    runs,
    totals,
    whole_frames,
    words,
)
from indexer.index import Index
from indexer.policy import HUB_CONTENTS, MAX_BARE_PARTS, MAX_UNSURE_BITS, MIN_QUALITY, POLICIES
from indexer.record import Record
from indexer.store import Store

PDQ, SHA = SignalType.PDQ, SignalType.SHA256
DENSE = Plan(Sampling.DENSE, frozenset({PDQ, SHA, SignalType.KEYPOINTS}))
DEFAULT = POLICIES["default"]
NONE = np.zeros(0, np.uint8)


def numbers(*holds: Hold | None) -> NDArray[np.uint8]:
    return np.array([NUMBERS[hold] if hold else 0 for hold in holds], np.uint8)


def bars(width: int = 640, height: int = 360) -> NDArray[np.uint8]:
    return generic_frames.drawings()["bars, SMPTE"](width, height)


def end_card(width: int = 640, height: int = 360) -> NDArray[np.uint8]:
    """A card with words that are on no list."""
    canvas = np.full((height, width, 3), 20, np.uint8)
    cv2.putText(canvas, "Zebra Films 2031", (60, height // 2), 0, width / 400, (230, 230, 230), 3, cv2.LINE_AA)
    return canvas


# --- pure ---------------------------------------------------------------------------------


def slow_unsure(block: NDArray[np.float64]) -> int:
    """Count, one coefficient after the other, those within 4 of the 128th smallest."""
    values = sorted(block.ravel().tolist())
    return min(sum(abs(value - values[127]) <= 4.0 for value in values), 255)


@given(st.integers(0, 10_000), st.floats(0.1, 60))
def test_unsure_bits_are_those_near_the_median(seed: int, spread: float) -> None:
    block = np.random.default_rng(seed).normal(0, spread, (16, 16))
    assert unsure_bits(block) == slow_unsure(block)


@given(st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7))))
def test_bare_parts_are_those_with_nothing_in_them(drawn: set[tuple[int, int]]) -> None:
    plane = np.full((64, 64), 90, np.float32)
    for row, column in drawn:
        plane[8 * row + 3, 8 * column + 5] = 200
    assert bare_parts(plane) == 64 - len(drawn)


@pytest.mark.parametrize("pattern", ["bars", "ramp", "rings", "checks", "grid"])
def test_the_hash_of_bars_and_rings_is_noise(pattern: str) -> None:
    y, x = np.mgrid[:360, :640]
    grey = {
        "bars": x // 80 * 30, "ramp": x * 255 // 640, "rings": np.hypot(x - 319.5, y - 179.5) % 200,
        "checks": (x // 80 + y // 60) % 2 * 255, "grid": ((x % 40 < 2) | (y % 40 < 2)) * 255,
    }[pattern]  # fmt: skip
    assert pdq(grey.astype(np.uint8)).unsure > MAX_UNSURE_BITS


def test_photographs_are_free(photos: list[NDArray[np.uint8]]) -> None:
    for photo in photos:
        found = pdq(photo)
        assert found.unsure <= MAX_UNSURE_BITS / 2
        assert found.bare <= MAX_BARE_PARTS / 2
        signal = hash_media(corpus.jpeg(photo, 90), DENSE)
        assert not judge_rows(signal.frames, is_generic(signal.frames)).any()


def test_each_reason_has_its_rows() -> None:
    rows = frames(np.concatenate([codes(1, 5), generic_codes()[:2], codes(2, 2)]))
    rows["unsure"][1] = MAX_UNSURE_BITS + 1
    rows["bare"][2] = MAX_BARE_PARTS + 1
    rows["unsure"][3], rows["bare"][3] = MAX_UNSURE_BITS, MAX_BARE_PARTS
    rows["quality"][[4, 6, 7, 8]] = MIN_QUALITY - 1
    rows["unsure"][7], rows["bare"][8] = 255, 64
    held = judge_rows(rows, is_generic(rows))
    assert words(held) == [
        None, "featureless", "featureless", None, "low_quality", "generic", "low_quality", "low_quality", "featureless",
    ]  # fmt: skip


@settings(max_examples=20)
@given(st.integers(0, 500), st.integers(0, 100))
def test_generic_is_what_lies_within_review_distance_of_the_list(seed: int, bits: int) -> None:
    chance = np.random.default_rng(seed)
    listed = generic_codes()
    code = flipped(listed[chance.integers(len(listed))], bits, seed)
    nearest = min(distance(bytes(code), bytes(each)) for each in listed)
    rows = frames(np.stack([code, codes(seed, 1)[0]]))
    assert is_generic(rows).tolist() == [nearest <= DEFAULT.radius_bits(PDQ), False]


def test_only_pdq_is_compared_with_the_list() -> None:
    assert not is_generic(frames(generic_codes()[:3], kind=SignalType.PHASH)).any()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 60)), max_size=30))
def test_benign_and_hub_follow_from_distances(hits: list[tuple[int, int, int]]) -> None:
    columns = np.array(hits, np.int64).reshape(-1, 3)
    held = judge_near(4, Near(columns[:, 0], columns[:, 2].astype(np.int32), columns[:, 1]), PDQ, DEFAULT)
    for row in range(4):
        mine = [(content, bits) for which, content, bits in hits if which == row]
        hub = len({content for content, bits in mine if bits <= 46}) >= HUB_CONTENTS
        benign = any(bits <= 31 for _, bits in mine)
        assert words(held)[row] == ("hub" if hub else "benign" if benign else None)


@pytest.mark.parametrize(("policy", "same"), [("default", 31), ("strict", 15), ("review-only", 46)])
def test_what_counts_as_the_same_is_the_policys(policy: str, same: int) -> None:
    near = Near(np.array([0, 1]), np.array([same, same + 1], np.int32), np.array([7, 7]))
    assert words(judge_near(2, near, PDQ, POLICIES[policy])) == ["benign", None]


def test_a_frame_is_held_whole_but_for_quality() -> None:
    rows = np.concatenate([
        frames(codes(1, 4), times_s=[0.0, 1.0, 2.0, 3.0]), frames(codes(2, 2), view=View.TRIMMED, times_s=[1.0, 2.0]),
    ])  # fmt: skip
    sketches = sketched(1, 4)
    sketches["timestamp_s"] = [0.0, 1.0, 2.0, 3.0]
    signal = Signal(Media(Kind.VIDEO), rows, sketches=sketches)
    held = whole_frames(signal, numbers(None, Hold.GENERIC, Hold.LOW_QUALITY, None, None, None))
    assert words(held.frames) == [None, "generic", "low_quality", None, "generic", None]
    assert words(held.sketches) == [None, "generic", None, None]
    held = whole_frames(signal, numbers(None, Hold.BENIGN, None, None, Hold.GENERIC, None))
    assert words(held.frames) == [None, "generic", None, None, "generic", None], "the more telling reason"


def test_hashes_without_a_time_are_frames_of_their_own() -> None:
    signal = bare(rows=frames(codes(1, 3)))
    assert words(whole_frames(signal, numbers(None, Hold.HUB, None)).frames) == [None, "hub", None]


@given(st.lists(st.sampled_from([None, *HOLDS]), min_size=1, max_size=40))
def test_runs_say_which_frames(reasons: list[Hold | None]) -> None:
    """Expanding the runs gives the held frames back, and no two runs that touch have one reason."""
    times = np.arange(len(reasons)) / 10
    signal = film(codes(1, len(reasons)), times)
    found = runs(signal, Holds(numbers(*reasons), NONE))
    expanded = {
        round(run.timestamp_s + step / 10, 3): run.reason for run in found for step in range(run.frames)
        if run.timestamp_s is not None
    }  # fmt: skip
    assert expanded == {
        round(float(time), 3): reason for time, reason in zip(times, reasons, strict=True) if reason is not None
    }  # fmt: skip
    for before, after in itertools.pairwise(found):
        assert before.reason != after.reason or (after.timestamp_s or 0) - (before.until_s or 0) > 0.15
    counted = totals(found)
    assert counted == {reason.value: reasons.count(reason) for reason in HOLDS if reason in reasons}


def test_several_types_of_one_frame_are_one_frame() -> None:
    rows = np.concatenate([frames(codes(1, 1)), frames(codes(2, 1), kind=SignalType.PHASH)])
    signal = Signal(Media(Kind.IMAGE), rows)
    (run,) = runs(signal, whole_frames(signal, numbers(Hold.GENERIC, None)))
    assert (run.frames, run.timestamp_s, run.view) == (1, None, View.FULL)


def test_every_drawn_frame_is_held() -> None:
    for name, picture in generic_frames.pictures():
        rows = hash_media(corpus.encode(picture, "PNG"), Plan(Sampling.DENSE)).frames
        held = words(judge_rows(rows, is_generic(rows)))
        assert {"generic", "featureless"} & set(held) or set(held) == {"low_quality"}, name


def test_the_list_is_what_the_script_draws() -> None:
    """Fonts and filters may differ a little between versions; the drawings may not."""
    entries = json.loads(generic_frames.OUT.read_text())
    drawn = dict(generic_frames.pictures())
    assert len(entries) >= 200
    for name, forms in entries.items():
        hashed = pdq(drawn[name])
        assert len(forms) == 8
        assert distance(bytes.fromhex(forms[0]), bytes(hashed.codes[0])) <= 31, name
    unlisted = [name for name in drawn if name not in entries]
    assert all(pdq(drawn[name]).unsure > MAX_UNSURE_BITS or pdq(drawn[name]).quality < MIN_QUALITY for name in unlisted)


# --- over a store -------------------------------------------------------------------------


@pytest.fixture
def lawful(shelf: Shelf) -> Shelf:
    """A shelf with a lawful bank `ok`."""
    shelf.record.create_bank("ok", actor="t", lawful=True)
    return shelf


def test_a_generic_hash_of_a_partner_is_held(shelf: Shelf) -> None:
    code, fine = generic_codes()[5], codes(1, 1)[0]
    done = shelf.enroll(signal_of([ReadyHash(PDQ, bytes(each).hex()) for each in (code, fine)]))
    assert (done.held_frames, done.warnings) == ({"generic": 1}, ())
    assert shelf.found(still(code)) == []
    assert shelf.found(still(fine)) == [done.content_id]
    assert len(shelf.index) == 1
    assert shelf.record.signal_counts(shelf.content(done).content_pk) == {"pdq": 2}, "it stays in the record"


def test_a_content_of_which_all_is_held_says_so_and_matches_by_its_file_alone(shelf: Shelf) -> None:
    signal = hash_media(corpus.encode(bars(), "PNG"), DENSE)
    done = shelf.enroll(signal)
    assert done.warnings == ("held",)
    assert done.held_frames == {"generic": len(done.held)}
    assert shelf.found(signal) == [done.content_id], "the very file"
    assert shelf.found(hash_media(corpus.jpeg(bars(), 80), Plan(Sampling.SPARSE))) == []
    assert shelf.index.sizes() == dict.fromkeys(shelf.index.sizes(), 0)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 60), st.integers(0, 10_000))
def test_what_the_benign_set_has_is_held(lawful: Shelf, bits: int, seed: int) -> None:
    code = codes(seed, 1)[0]
    lawful.enroll(still(code), "ok")
    done = lawful.enroll(still(flipped(code, bits, seed)))
    assert done.held_frames == ({"benign": 1} if bits <= 31 else {})


def test_what_a_query_can_tell_apart_is_not_held_but_told(lawful: Shelf) -> None:
    """A deepfake lies as near to its lawful original as a copy does: to hold it would keep it up."""
    code = codes(18, 1)[0]
    lawful.enroll(still(code), "ok")
    signal = Signal(Media(Kind.IMAGE, "c" * 64), frames(flipped(code, 9)[None]), sketches=sketched(5))
    done = lawful.enroll(signal)
    assert (done.warnings, done.held) == (("benign",), ())
    assert lawful.record.holds.counts(lawful.content(done).content_pk) == {}
    lawful.record.create_bank("hashes", actor="t", signal_types=[PDQ])
    done = lawful.enroll(signal, "hashes")
    assert (done.warnings, done.held_frames) == (("held",), {"benign": 1})
    for seed in range(2):
        lawful.enroll(still(flipped(code, 40, seed)), "ok")
    done = lawful.enroll(Signal(Media(Kind.IMAGE, "d" * 64), frames(flipped(code, 5)[None]), sketches=sketched(6)))
    assert done.held_frames == {"hub": 1}, "a hub is held all the same"


def test_a_hub_is_held_and_what_is_near_to_fewer_is_not(lawful: Shelf) -> None:
    hub, two = codes(2, 2)
    for seed in range(3):
        lawful.enroll(still(flipped(hub, 40, seed)), "ok")
    for seed in range(2):
        lawful.enroll(still(flipped(two, 40, seed)), "ok")
    done = lawful.enroll_all([still(hub), still(two)])
    assert [one.held_frames for one in done] == [{"hub": 1}, {}]


def test_a_benign_set_speaks_where_it_is_in_scope_and_only_while_it_lives(lawful: Shelf) -> None:
    lawful.record.create_bank("other", actor="t")
    lawful.record.set_bank("ok", actor="t", suppresses=["other"])
    one, two = codes(3, 2)
    kept = lawful.enroll_all([still(one), still(two)], "ok")
    assert lawful.enroll(still(flipped(one, 3))).held == ()
    assert lawful.enroll(still(flipped(one, 3)), "other").held_frames == {"benign": 1}
    lawful.withdraw(kept[0])
    assert lawful.enroll(still(flipped(one, 5)), "other").held == ()
    lawful.record.set_bank("ok", actor="t", enabled=False)
    assert lawful.enroll(still(flipped(two, 5)), "other").held == ()
    lawful.record.set_bank("ok", actor="t", enabled=True, suppresses=None)
    assert lawful.enroll(still(flipped(two, 6))).held_frames == {"benign": 1}


def test_what_is_lawful_is_not_guarded(lawful: Shelf) -> None:
    lawful.enroll(still(codes(4, 1)[0]), "ok")
    done = lawful.enroll_all([still(codes(4, 1)[0], quality=70), still(generic_codes()[0])], "ok")
    assert [one.held for one in done] == [(), ()]


def test_a_release_is_found_everywhere_and_can_be_taken_back(lawful: Shelf) -> None:
    """Also by a process that has read the store before, and by one that starts from a snapshot."""
    code, kept = generic_codes()[20], codes(5, 1)[0]
    signal = Signal(Media(Kind.IMAGE, "a" * 64), frames(code[None]), sketches=sketched(3))
    done = lawful.enroll(signal)
    lawful.enroll(still(kept))
    content = lawful.content(done)
    assert lawful.record.holds.counts(content.content_pk) == {"generic": 2}
    sketches = lambda: lawful.index.sizes()["keypoints"]  # noqa: E731
    with opened(lawful.url) as other:
        assert (lawful.found(still(code), "b"), other.found(still(code), "b"), sketches()) == ([], [], 0)
        for _ in range(2):
            before = len(lawful.index)
            release = lawful.record.holds.release(content.content_pk, done.content_id, RELEASABLE, actor="t")
            again = lawful.record.holds.release(content.content_pk, done.content_id, RELEASABLE, actor="t")
            assert (release, again) == (2, 0)
            for shelf in (lawful, other):
                shelf.index.refresh(shelf.record)
                assert len(shelf.record.locate(shelf.record.signal_keys(), [content_bank(shelf)]).rows) == 2
                assert shelf.index.sizes()["keypoints"] == 1
            assert len(lawful.index) == before + 1
            snapshot = lawful.path.with_name("index")
            lawful.index.save(snapshot, lawful.record)
            third = Index(MIN_QUALITY)
            assert third.load(snapshot, lawful.record)
            third.refresh(lawful.record)
            assert third.sizes() == {**third.sizes(), "pdq": 2, "keypoints": 1}
            lawful.record.holds.restore(content.content_pk, done.content_id, [Hold.GENERIC], actor="t")
            assert (lawful.found(still(code), "b"), other.found(still(code), "b")) == ([], [])
            assert (sketches(), other.index.sizes()["keypoints"]) == (0, 0)
    assert [entry.action for entry, _ in lawful.ledger.entries()][-2:] == ["content.release", "content.hold"]
    assert lawful.ledger.verify()[1] is None


def content_bank(shelf: Shelf) -> int:
    return shelf.record.settings_of("b").bank_pk


def test_a_release_is_for_the_reasons_named(lawful: Shelf) -> None:
    one, two = codes(6, 1)[0], generic_codes()[9]
    lawful.enroll(still(one), "ok")
    done = lawful.enroll(bare(rows=frames(np.stack([one, two, codes(7, 1)[0]]), quality=100)))
    pk = lawful.content(done).content_pk
    assert lawful.record.holds.release(pk, done.content_id, [Hold.HUB], actor="t") == 0
    assert lawful.record.holds.release(pk, done.content_id, [Hold.GENERIC], actor="t") == 1
    assert lawful.record.holds.counts(pk) == {"benign": 1}
    assert lawful.found(still(two)) == [done.content_id]


def test_low_quality_is_never_released(shelf: Shelf) -> None:
    done = shelf.enroll(still(codes(8, 1)[0], quality=MIN_QUALITY - 1))
    assert done.warnings == ("featureless",)
    pk = shelf.content(done).content_pk
    assert shelf.record.holds.release(pk, done.content_id, HOLDS, actor="t") == 0
    assert shelf.record.holds.counts(pk) == {"low_quality": 1}


def test_what_is_withdrawn_cannot_be_released(shelf: Shelf) -> None:
    done = shelf.enroll(still(generic_codes()[0]))
    pk = shelf.content(done).content_pk
    shelf.withdraw(done)
    for action in (shelf.record.holds.release, shelf.record.holds.restore):
        with pytest.raises(UnknownContent):
            action(pk, done.content_id, RELEASABLE, actor="t")


def test_enrolled_again_a_released_hash_stays_released(lawful: Shelf) -> None:
    signal = still(codes(9, 1)[0])
    lawful.enroll(signal, "ok")
    done = lawful.enroll(signal)
    lawful.record.holds.release(lawful.content(done).content_pk, done.content_id, [Hold.BENIGN], actor="t")
    assert lawful.enroll(signal).content_id == done.content_id
    assert lawful.record.holds.counts(lawful.content(done).content_pk) == {}


def test_held_hashes_are_not_exported(shelf: Shelf) -> None:
    fine = codes(10, 1)[0]
    shelf.enroll(signal_of([ReadyHash(PDQ, bytes(code).hex()) for code in (generic_codes()[0], fine)]))
    out = shelf.path.with_name("list.csv")
    assert export_hashes(shelf.record, "b", out, "csv") == 1
    assert bytes(fine).hex() in out.read_text()


def test_an_audit_finds_what_became_benign_and_holds_it_when_asked(lawful: Shelf) -> None:
    one, two, released = codes(11, 3)
    signal = Signal(Media(Kind.VIDEO, None, 1, 1, 2.0, 2), frames(np.stack([one, two]), times_s=[0.0, 1.0]),
                    sketches=sketched(4, 2))  # fmt: skip
    signal.sketches["timestamp_s"] = [0.0, 1.0]
    done, other = lawful.enroll(signal), lawful.enroll(still(codes(12, 1)[0]))
    lawful.enroll(still(released), "ok")
    spared = lawful.enroll(still(released))
    lawful.record.holds.release(lawful.content(spared).content_pk, spared.content_id, RELEASABLE, actor="t")
    guard = lawful.enroller.guard
    bank = lawful.record.settings_of("b")
    assert list(guard.audit(bank)) == []
    lawful.enroll(still(flipped(one, 9)), "ok")
    (suspect,) = guard.audit(bank)
    assert suspect.content.content_id == done.content_id
    assert [(run.timestamp_s, run.reason, run.frames) for run in suspect.held] == [(0.0, "benign", 1)]
    guard.hold(suspect, actor="t")
    assert list(guard.audit(bank)) == []
    assert lawful.record.holds.counts(lawful.content(done).content_pk) == {"benign": 2}, "the frame and its sketch"
    assert lawful.found(still(one), "b") == []
    assert lawful.found(still(two), "b") == [done.content_id]
    assert lawful.found(still(codes(12, 1)[0]), "b") == [other.content_id]
    lawful.index.refresh(lawful.record)
    assert lawful.index.sizes()["keypoints"] == 1


def test_a_batch_is_guarded_as_each_alone_would_be(lawful: Shelf) -> None:
    benign = codes(13, 4)
    lawful.enroll_all([still(code) for code in benign], "ok")
    signals = [
        still(flipped(benign[0], 9)), bare((SHA, b"a" * 32)), film(np.stack([codes(14, 1)[0], benign[1]]), [0.0, 1.0]),
        still(generic_codes()[3]), still(codes(15, 1)[0]), Signal(Media(Kind.VIDEO), no_frames(), ((SHA, b"b" * 32),)),
    ]  # fmt: skip
    bank, guard = lawful.record.settings_of("b"), lawful.enroller.guard
    together = guard.holds(bank, signals)
    for signal, held in zip(signals, together, strict=True):
        (alone,) = guard.holds(bank, [signal])
        assert (alone.frames.tolist(), alone.sketches.tolist()) == (held.frames.tolist(), held.sketches.tolist())
    assert [words(held.frames) for held in together] == [["benign"], [], [None, "benign"], ["generic"], [None], []]


def test_the_list_of_held_frames_is_bounded(shelf: Shelf) -> None:
    mixed = np.concatenate([frames(np.stack([generic_codes()[0], code])) for code in codes(16, MAX_RUNS + 20)])
    mixed["timestamp_s"] = mixed["until_s"] = np.arange(len(mixed))
    done = shelf.enroll(Signal(Media(Kind.VIDEO, None, 1, 1, 300.0, len(mixed)), mixed))
    assert len(done.held) == MAX_RUNS
    assert done.held_frames == {"generic": MAX_RUNS + 20}


def test_a_store_of_the_version_before_holds_nothing(shelf: Shelf) -> None:
    """What was enrolled before there were guards has no reason beside it, and is found."""
    done = shelf.enroll(still(codes(17, 1)[0]))
    store = Store(shelf.url)
    try:
        index = Index(MIN_QUALITY)
        index.refresh(Record(store))
        assert len(index) == 1
    finally:
        store.close()
    assert shelf.record.holds.counts(shelf.content(done).content_pk) == {}


# --- on the running program ---------------------------------------------------------------


def _clip(seed: int, cards: bool) -> bytes:
    """Real footage of three seconds; with cards: black, a test card, footage, an end card, two seconds each."""

    def pictures() -> Iterator[NDArray[np.uint8]]:
        extra = [np.zeros((270, 480, 3), np.uint8), bars(480, 270)] if cards else []
        for picture in extra:
            yield from [picture] * 50
        yield from corpus.clip_frames(seed, duration_s=3.0)
        if cards:
            yield from [end_card(480, 270)] * 50

    return corpus.write_clip(pictures())


@pytest.fixture(scope="module")
def clips() -> dict[str, bytes]:
    return {"first": _clip(1, True), "second": _clip(2, True), "footage": _clip(1, False)}


def test_only_the_footage_of_a_clip_with_cards_matches(local: Local, admin: Api, clips: dict[str, bytes]) -> None:
    assert admin.call("PUT", "/v1/banks/carded").status == 201
    done = admin.post("/v1/banks/carded/contents", clips["first"])
    assert done.status == 201
    held = done.json["held"]
    assert {"generic", "featureless"} == set(done.json["held_frames"])
    assert done.json["warnings"] == []
    by_reason = {reason: [run for run in held if run["reason"] == reason] for reason in done.json["held_frames"]}
    assert all(1.9 <= run["timestamp_s"] <= run["until_s"] <= 4.1 for run in by_reason["generic"])
    assert all(run["until_s"] <= 2.1 or run["timestamp_s"] >= 6.8 for run in by_reason["featureless"])

    def verdict(media: bytes) -> dict[str, object]:
        answer = admin.post("/v1/check?bank=carded", media)
        assert answer.status == 200
        return dict(answer.json)

    assert verdict(clips["footage"])["verdict"] == "match"
    assert verdict(clips["second"])["verdict"] == "no_match", "only the cards are the same"
    for card in (bars(480, 270), end_card(480, 270)):
        assert verdict(corpus.encode(card, "PNG"))["verdict"] in {"no_match", "unhashable"}
    (match,) = verdict(corpus.edited_clip(1, "grey", duration_s=3.0))["matches"]  # type: ignore[misc]
    for part in match["segments"]:
        assert 3.5 <= part["reference_s"][0] <= part["reference_s"][1] <= 7.2


def test_a_reviewer_releases_and_holds_over_http(local: Local, admin: Api, photo_jpeg: bytes, copy_jpeg: bytes) -> None:
    assert admin.call("PUT", "/v1/banks/stock", {"lawful": True, "suppresses": None}).status == 201
    assert admin.call("PUT", "/v1/banks/reviewed", {"signal_types": ["sha256", "pdq"]}).status == 201
    kept = admin.post("/v1/banks/stock/contents", photo_jpeg).json
    done = admin.post("/v1/banks/reviewed/contents", copy_jpeg).json
    assert done["held_frames"] == {"benign": 1}
    assert done["warnings"] == ["held"]
    assert done["held"] == [
        {"timestamp_s": None, "until_s": None, "view": "full", "reason": "benign", "frames": 1}
    ]  # fmt: skip
    where = f"/v1/banks/reviewed/contents/{done['content_id']}"
    admin.call("DELETE", f"/v1/banks/stock/contents/{kept['content_id']}")  # or it would suppress the match
    reviewer, edited = local.api("review"), corpus.jpeg(corpus.EDITS["noise"](corpus.picture(503, 320, 240)), 80)
    check = lambda: admin.post("/v1/check?bank=reviewed", edited).json["verdict"]  # noqa: E731
    assert check() == "no_match"
    released = reviewer.call("PATCH", where, {"release": ["benign"]})
    assert (released.status, released.json["held"]) == (200, {})
    assert check() == "match"
    again = reviewer.call("PATCH", where, {"hold": ["benign"]})
    assert again.json["held"] == {"benign": 1}
    assert check() == "no_match"
    assert reviewer.call("PATCH", where, {"release": ["low_quality"]}).is_problem(422, "invalid_request")
    admin.call("DELETE", "/v1/banks/stock")
