"""Verdicts with their evidence, on media that was really hashed and on distances that are known."""

from functools import lru_cache
from itertools import islice

import numpy as np
import pytest
from shelf import Shelf, bare, codes, film, flipped, frames, still

from benchmarks import corpus
from hashing.errors import Reason
from hashing.hasher import Plan, hash_media
from hashing.media import Sampling
from hashing.signals import PERCEPTUAL, Kind, Media, Signal, SignalType, Transform, no_frames
from indexer.errors import IndexNotReady, UnknownBank
from indexer.index import Index
from indexer.matcher import MAX_MATCHES, Answer, Match, Matcher
from indexer.policy import MIN_QUALITY, POLICIES, Verdict, false_match_probability

SHA, MD5, PDQ = SignalType.SHA256, SignalType.MD5, SignalType.PDQ
MATCH, REVIEW, NO_MATCH, UNHASHABLE = Verdict.MATCH, Verdict.REVIEW, Verdict.NO_MATCH, Verdict.UNHASHABLE


@lru_cache
def scene(seed: int) -> corpus.Picture:
    return corpus.picture(seed, 320, 240)


def known(data: bytes) -> Signal:
    return hash_media(data, Plan(Sampling.DENSE))


def asked(data: bytes) -> Signal:
    return hash_media(data, Plan(Sampling.SPARSE))


def only(answer: Answer) -> Match:
    assert len(answer.matches) == 1, answer
    return answer.matches[0]


# --- pictures and what was done to them -------------------------------------------------

DONE = {
    "none": lambda picture: picture,
    **{name: corpus.EDITS[name] for name in ("mirror", "flip", "rotate90", "rotate180", "rotate270")},
    "transpose": lambda picture: np.ascontiguousarray(picture.swapaxes(0, 1)),
    "transverse": lambda picture: np.ascontiguousarray(np.rot90(picture, 2).swapaxes(0, 1)),
}
BORDERS = ("letterbox", "pillarbox", "white_frame")


@pytest.mark.parametrize("name", DONE)
def test_the_transform_is_what_was_done_to_the_reference(shelf: Shelf, name: str) -> None:
    picture = scene(31)
    done = shelf.enroll(known(corpus.jpeg(picture, 95)))
    shelf.enroll(known(corpus.jpeg(scene(32), 95)))
    answer = shelf.match(asked(corpus.jpeg(DONE[name](picture), 80)))
    match = only(answer)
    assert (answer.verdict, match.verdict, match.content_id) == (MATCH, MATCH, done.content_id)
    assert (match.signal_type, match.transform, match.bank) == (PDQ, name, "b")
    assert match.distance_bits <= 31
    assert match.segments == ()
    assert answer.reason is None
    assert answer.bank_revision == shelf.store.revision()


def test_the_symmetries_are_all_there_are() -> None:
    assert set(DONE) == {transform.value for transform in Transform}


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("turn", ["", "mirror", "rotate90"])
def test_a_border_is_named_on_the_side_that_has_it(shelf: Shelf, border: str, turn: str) -> None:
    picture = scene(33)
    turned = DONE[turn or "none"](picture)
    framed = corpus.EDITS[border]
    first = shelf.enroll(known(corpus.jpeg(picture, 95)))
    match = only(shelf.match(asked(corpus.jpeg(framed(turned), 90))))
    assert (match.content_id, match.transform) == (first.content_id, f"border+{turn}".rstrip("+"))
    shelf.withdraw(first)
    second = shelf.enroll(known(corpus.jpeg(framed(picture), 95)))
    match = only(shelf.match(asked(corpus.jpeg(turned, 90))))
    assert (match.content_id, match.transform) == (second.content_id, f"border_removed+{turn}".rstrip("+"))
    match = only(shelf.match(asked(corpus.jpeg(framed(picture), 70))))
    assert match.transform == "none", "both have it"


def test_an_unrelated_picture_does_not_match(shelf: Shelf) -> None:
    shelf.enroll_all([known(corpus.jpeg(scene(seed), 90)) for seed in range(40, 46)])
    answer = shelf.match(asked(corpus.jpeg(scene(50), 90)))
    assert (answer.verdict, answer.reason, answer.matches) == (NO_MATCH, None, ())


def test_an_exact_copy_is_told_by_its_digest(shelf: Shelf) -> None:
    data = corpus.jpeg(scene(34), 90)
    done = shelf.enroll(known(data))
    match = only(shelf.match(asked(data)))
    assert (match.signal_type, match.distance_bits, match.transform) == (SHA, 0, "none")
    assert match.false_match_probability < 1e-20
    assert match.segments == ()
    shelf.record.set_bank("b", actor="t", signal_types=[MD5, PDQ])
    assert only(shelf.match(asked(data))).signal_type is MD5
    shelf.record.set_bank("b", actor="t", signal_types=[PDQ])
    assert only(shelf.match(asked(data))).signal_type is PDQ
    assert shelf.found(asked(data)) == [done.content_id]


def test_digests_alone_match_or_do_not(shelf: Shelf) -> None:
    shelf.enroll(bare((MD5, b"m" * 16), (SHA, b"s" * 32)))
    assert only(shelf.match(bare((MD5, b"m" * 16)))).signal_type is MD5
    assert only(shelf.match(bare((MD5, b"m" * 16), (SHA, b"s" * 32)))).signal_type is SHA
    answer = shelf.match(bare((MD5, b"n" * 16)))
    assert (answer.verdict, answer.reason) == (NO_MATCH, None)


def test_an_exact_copy_of_a_video_is_all_of_it(shelf: Shelf, short_clip: bytes) -> None:
    signal = known(short_clip)
    shelf.enroll(signal)
    match = only(shelf.match(asked(short_clip)))
    segment = match.segments[0]
    assert match.signal_type is SHA
    assert segment.query_s == segment.reference_s == (0.0, signal.media.duration_s)
    assert segment.frames == signal.media.frames_hashed


# --- thresholds -------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", PERCEPTUAL)
def test_each_policy_at_its_edges(shelf: Shelf, policy: str, kind: SignalType) -> None:
    shelf.record.set_bank("b", actor="t", policy=policy, signal_types=[kind])
    code = codes(1, 1)[0]
    shelf.enroll(still(code, kind=kind))
    threshold = POLICIES[policy].thresholds[kind]
    for bits, verdict in (
        (0, MATCH if threshold.match_bits >= 0 else REVIEW),
        (max(threshold.match_bits, 0), MATCH if threshold.match_bits >= 0 else REVIEW),
        (threshold.match_bits + 1, REVIEW),
        (threshold.review_bits, REVIEW),
        (threshold.review_bits + 1, NO_MATCH),
    ):
        answer = shelf.match(still(flipped(code, bits, bits), kind=kind))
        assert (answer.verdict, answer.policy) == (verdict, policy), bits
        if verdict is not NO_MATCH:
            match = only(answer)
            assert (match.verdict, match.distance_bits) == (verdict, bits)
            forms = 2 if kind is PDQ else 1  # as it is and as a negative
            assert match.false_match_probability == false_match_probability(kind, bits, forms)


def test_review_only_never_says_match(shelf: Shelf) -> None:
    shelf.record.set_bank("b", actor="t", policy="review-only")
    data = corpus.jpeg(scene(35), 90)
    shelf.enroll(known(data))
    for copy in (data, corpus.jpeg(scene(35), 50)):
        answer = shelf.match(asked(copy))
        assert (answer.verdict, only(answer).verdict) == (REVIEW, REVIEW)


def test_each_bank_judges_by_its_own_policy(shelf: Shelf) -> None:
    code = codes(2, 1)[0]
    shelf.record.create_bank("strict", actor="t", policy="strict")
    shelf.record.create_bank("review", actor="t", policy="review-only")
    for bank in ("b", "strict", "review"):
        shelf.enroll(still(code), bank)
    at_20 = shelf.match(still(flipped(code, 20)))
    assert at_20.policy == "default+review-only+strict"
    assert {match.bank: match.verdict for match in at_20.matches} == {"b": MATCH, "strict": REVIEW, "review": REVIEW}
    assert at_20.matches[0].bank == "b", "what matches stands first"
    at_40 = shelf.match(still(flipped(code, 40)))
    assert {match.bank for match in at_40.matches} == {"b", "review"}
    assert at_40.verdict is REVIEW


# --- which banks ------------------------------------------------------------------------


def test_only_the_banks_that_are_asked_answer(shelf: Shelf) -> None:
    code = codes(3, 1)[0]
    shelf.record.create_bank("other", actor="t")
    here, there = shelf.enroll(still(code)), shelf.enroll(still(code), "other")
    assert shelf.found(still(code), "b") == [here.content_id]
    assert shelf.found(still(code), "other") == [there.content_id]
    assert len(shelf.found(still(code), "b", "other")) == len(shelf.found(still(code))) == 2
    assert shelf.matcher.match(still(code), []).verdict is MATCH, "no name asks all"
    shelf.record.set_bank("other", actor="t", enabled=False)
    assert shelf.found(still(code)) == [here.content_id]
    assert shelf.found(still(code), "other") == []
    for names in (("none",), ("b", "none")):
        with pytest.raises(UnknownBank):
            shelf.match(still(code), *names)
        with pytest.raises(UnknownBank):
            shelf.matcher.signal_types(names)


def test_the_types_of_a_query_are_those_of_the_banks(shelf: Shelf) -> None:
    shelf.record.create_bank("other", actor="t", signal_types=[SignalType.PHASH])
    assert shelf.matcher.signal_types(["b"]) == {SHA, MD5, PDQ, SignalType.KEYPOINTS}
    assert shelf.matcher.signal_types(["other"]) == {SignalType.PHASH}
    assert shelf.matcher.signal_types(None) == {SHA, MD5, PDQ, SignalType.KEYPOINTS, SignalType.PHASH}


def test_a_bank_compares_its_own_types_only(shelf: Shelf) -> None:
    code = codes(4, 1)[0]
    shelf.enroll(still(code))
    shelf.record.set_bank("b", actor="t", signal_types=[SignalType.PHASH])
    assert shelf.found(still(code)) == []


def test_without_a_bank_there_is_nothing_to_match(shelf: Shelf) -> None:
    shelf.record.delete_bank("b", actor="t")
    answer = shelf.match(still(codes(5, 1)[0]))
    assert (answer.verdict, answer.policy) == (NO_MATCH, "default")


def test_an_index_that_is_not_loaded_answers_nothing(shelf: Shelf) -> None:
    index = Index(MIN_QUALITY)
    matcher = Matcher(shelf.record, index)
    with pytest.raises(IndexNotReady):
        matcher.match(still(codes(6, 1)[0]))
    index.refresh(shelf.record)
    assert matcher.match(still(codes(6, 1)[0])).verdict is NO_MATCH


# --- what could not be judged -----------------------------------------------------------


@pytest.mark.parametrize("reason", list(Reason))
def test_media_that_could_not_be_judged_is_never_no_match(shelf: Shelf, reason: Reason) -> None:
    code = codes(7, 1)[0]
    shelf.enroll(still(code))
    nothing = Signal(Media(Kind.VIDEO), no_frames(), ((SHA, b"q" * 32),), reason)
    assert (shelf.match(nothing).verdict, shelf.match(nothing).reason) == (UNHASHABLE, reason)
    partial = Signal(Media(Kind.VIDEO, frames_hashed=1), frames(codes(8, 1)), (), reason)
    assert (shelf.match(partial).verdict, shelf.match(partial).reason) == (UNHASHABLE, reason)
    found = shelf.match(Signal(Media(Kind.VIDEO, frames_hashed=1), frames(code[None]), (), reason))
    assert (found.verdict, found.reason) == (MATCH, reason)


def test_a_truncated_picture_matches_or_is_unhashable(shelf: Shelf) -> None:
    data = corpus.jpeg(scene(36), 90)
    done = shelf.enroll(known(data))
    answer = shelf.match(asked(data[: len(data) * 97 // 100]))
    assert answer.verdict in {MATCH, REVIEW}
    assert answer.reason is Reason.TRUNCATED
    assert only(answer).content_id == done.content_id
    other = corpus.jpeg(scene(37), 90)
    answer = shelf.match(asked(other[: len(other) * 97 // 100]))
    assert (answer.verdict, answer.reason) == (UNHASHABLE, Reason.TRUNCATED)


def test_a_picture_without_features_is_unhashable(shelf: Shelf) -> None:
    blank = np.full((200, 300, 3), 90, np.uint8)
    shelf.enroll(known(corpus.encode(blank, "PNG")))
    answer = shelf.match(asked(corpus.encode(blank + 1, "PNG")))
    assert (answer.verdict, answer.reason, answer.matches) == (UNHASHABLE, Reason.FEATURELESS, ())
    exact = shelf.match(asked(corpus.encode(blank, "PNG")))
    assert (exact.verdict, exact.reason) == (MATCH, None)
    some = Signal(Media(Kind.VIDEO), np.concatenate([frames(codes(9, 1), quality=0), frames(codes(10, 1))]))
    assert shelf.match(some).verdict is NO_MATCH
    assert shelf.match(bare(rows=frames(codes(9, 1), quality=MIN_QUALITY - 1))).reason is Reason.FEATURELESS
    assert shelf.match(bare(rows=frames(codes(9, 1), quality=MIN_QUALITY))).verdict is NO_MATCH


# --- several contents -------------------------------------------------------------------


def test_each_content_is_named_once_the_nearest_first(shelf: Shelf) -> None:
    code = codes(11, 1)[0]
    done = {bits: shelf.enroll(film(np.array([flipped(code, bits, bits), flipped(code, bits + 9, bits)]), [0.0, 0.1]))
            for bits in (30, 3, 38, 17)}  # fmt: skip
    answer = shelf.match(still(code))
    assert [match.content_id for match in answer.matches] == [done[bits].content_id for bits in (3, 17, 30, 38)]
    assert [match.distance_bits for match in answer.matches] == [3, 17, 30, 38]
    assert [match.verdict for match in answer.matches] == [MATCH, MATCH, MATCH, REVIEW]


def test_no_more_matches_than_a_page_and_those_the_nearest(shelf: Shelf) -> None:
    code = codes(12, 1)[0]
    shelf.enroll_all([still(flipped(code, 1 + number % 30, number)) for number in range(150)])
    answer = shelf.match(still(code))
    assert len(answer.matches) == MAX_MATCHES
    assert [match.distance_bits for match in answer.matches] == sorted(1 + n % 30 for n in range(150))[:MAX_MATCHES]


def test_a_collage_of_frames_finds_every_source(shelf: Shelf) -> None:
    done = [shelf.enroll(still(code)).content_id for code in codes(13, 5)]
    answer = shelf.match(film(codes(13, 5), np.arange(5.0)))
    assert sorted(match.content_id for match in answer.matches) == sorted(done)
    assert sorted(match.segments[0].query_s for match in answer.matches) == [
        (max(n - 0.5, 0.0), min(n + 0.5, 4.0)) for n in range(5)
    ], "each was shown up to half way to the frames beside it"


# --- video ------------------------------------------------------------------------------


@lru_cache
def reference() -> bytes:
    return corpus.clip(61, duration_s=8.0, width=320, height=180)


def cut(start_s: float, stop_s: float, fps: int = 25, **more: str) -> bytes:
    shown = islice(corpus.clip_pictures(reference()), int(start_s * fps), int(stop_s * fps))
    return corpus.write_clip(shown, fps, **more)


def test_a_part_of_a_video_names_the_seconds(shelf: Shelf) -> None:
    done = shelf.enroll(known(reference()))
    shelf.enroll(known(corpus.clip(62, duration_s=2.0, width=320, height=180)))
    answer = shelf.match(asked(cut(2.0, 6.0)))
    match = only(answer)
    assert (answer.verdict, match.content_id, match.transform) == (MATCH, done.content_id, "none")
    segment = match.segments[0]
    assert segment.query_s[0] == pytest.approx(0.0, abs=0.6)
    assert segment.query_s[1] == pytest.approx(4.0, abs=0.9)
    assert segment.reference_s[0] == pytest.approx(2.0, abs=0.7)
    assert segment.reference_s[1] == pytest.approx(6.0, abs=1.0)
    assert segment.reference_s[0] - segment.query_s[0] == pytest.approx(2.0, abs=0.4)
    assert segment.frames >= 3


def test_two_parts_with_another_scene_between_are_two_segments(shelf: Shelf) -> None:
    shelf.enroll(known(reference()))
    pictures = list(corpus.clip_pictures(reference()))
    other = list(corpus.clip_frames(63, duration_s=4.0, width=320, height=180))
    answer = shelf.match(asked(corpus.write_clip([*pictures[100:175], *other, *pictures[10:90]], 25)))
    first, second = sorted(only(answer).segments, key=lambda segment: segment.query_s)[:2]
    assert first.reference_s[0] - first.query_s[0] == pytest.approx(4.0, abs=0.4)
    assert second.reference_s[0] - second.query_s[0] == pytest.approx(0.4 - 7.0, abs=0.4)


def test_a_still_of_a_video_names_its_second(shelf: Shelf) -> None:
    shelf.enroll(known(reference()))
    picture = next(islice(corpus.clip_pictures(reference()), 75, None))
    match = only(shelf.match(asked(corpus.jpeg(picture, 85))))
    assert match.verdict is MATCH
    assert match.segments[0].query_s == (0.0, 0.0)
    assert match.segments[0].reference_s[0] == pytest.approx(3.0, abs=0.25)


def test_a_video_made_from_a_photo_names_how_long_it_is_shown(shelf: Shelf) -> None:
    photo = corpus.picture(64, 320, 180)
    done = shelf.enroll(known(corpus.jpeg(photo, 95)))
    other = list(corpus.clip_frames(65, duration_s=2.0, width=320, height=180, scenes=1))
    match = only(shelf.match(asked(corpus.write_clip([*other, *[photo] * 75], 25))))
    assert (match.content_id, match.verdict, match.transform) == (done.content_id, MATCH, "none")
    assert len(match.segments) == 1
    segment = match.segments[0]
    assert segment.query_s[0] == pytest.approx(2.0, abs=0.6)
    assert segment.query_s[1] == pytest.approx(5.0, abs=0.7)
    assert segment.reference_s == (0.0, 0.0)


def test_a_mirrored_video_is_named_so(shelf: Shelf) -> None:
    shelf.enroll(known(reference()))
    mirrored = corpus.write_clip(map(corpus.EDITS["mirror"], islice(corpus.clip_pictures(reference()), 100)), 25)
    match = only(shelf.match(asked(mirrored)))
    assert (match.verdict, match.transform) == (MATCH, "mirror")


# --- while others write -----------------------------------------------------------------


def test_a_bank_that_is_deleted_during_a_search_answers_nothing(shelf: Shelf) -> None:
    code = codes(14, 1)[0]
    shelf.enroll(still(code))
    hits = shelf.index.search(PDQ, code[None], 31)
    shelf.record.delete_bank("b", actor="t")
    assert len(hits) == 1
    assert len(shelf.record.locate(hits.signal_pk, [1]).rows) == 0
