"""The closer look: times of real clips on the running engine, and its parts against slow truths."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from benchmarks import corpus
from benchmarks.robustness.clips_base import Span, Take, at_rate
from benchmarks.robustness.scores import iou
from hashing.errors import Reason, UnhashableMedia
from hashing.media import MAX_SPANS, Sampling
from hashing.sandbox import Opened
from hashing.signals import FRAME_DTYPE, Frames, Kind, Media, Signal, SignalType, distance, no_frames
from indexer import closer
from indexer.alignment import Segment
from indexer.matcher import Answer
from indexer.matches import Match
from indexer.policy import Verdict
from service.engine import Engine
from service.settings import Settings

Picture = NDArray[np.uint8]
FPS, WIDTH, HEIGHT = 20, 320, 180


def film(seed: int, seconds: float, scenes: int = 2) -> list[Picture]:
    return list(corpus.clip_frames(seed, duration_s=seconds, fps=FPS, width=WIDTH, height=HEIGHT, scenes=scenes))


KNOWN = film(700, 12.0, 4)
PHOTO = corpus.picture(701, 640, 480)
OTHERS = film(702, 10.0, 4)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    home: Path = tmp_path_factory.mktemp("closer")
    with Engine(Settings.model_validate({"home": home, "workers": 1})) as made:
        made.load_index()
        made.record.create_bank("b", actor="t")
        made.enroll_media("b", corpus.write_clip(KNOWN, FPS), "film", (), actor="t")
        made.enroll_media("b", corpus.jpeg(PHOTO, 90), "photo", (), actor="t")
        yield made


def found(engine: Engine, data: bytes, case: str = "film") -> Match:
    """Return the one match, which is of this content."""
    answer = engine.check_media(data, None)
    assert answer.verdict is Verdict.MATCH
    (match,) = answer.matches
    assert engine.record.content(match.bank, match.content_id).case == case
    return match


def overlap(match: Match, truth: Sequence[Span]) -> tuple[float, float]:
    """Return the IoU of the times told with the truth, in the upload and in the reference."""
    both = [
        iou([part.query_s for part in match.segments], [span[:2] for span in truth]),
        iou([part.reference_s for part in match.segments], [span[2:] for span in truth]),
    ]
    return both[0] or 0.0, both[1] or 0.0


def written(frames: Sequence[Picture], options: dict[str, str] | None = None) -> bytes:
    return corpus.write_clip(frames, FPS, options=options)


# --- what is found, and when it is shown ------------------------------------------------


@pytest.mark.parametrize("key", [{}, {"g": "40", "sc_threshold": "0"}], ids=["few key frames", "each 2 s"])
@pytest.mark.parametrize(("at_s", "length_s"), [(13.4, 3.0), (0.0, 4.0), (36.2, 3.8)])
def test_a_clip_inside_a_long_compilation(engine: Engine, at_s: float, length_s: float, key: dict[str, str]) -> None:
    around = [OTHERS[number % len(OTHERS)] for number in range(40 * FPS - round(length_s * FPS))]
    cut = round(at_s * FPS)
    data = written([*around[:cut], *KNOWN[40 : 40 + round(length_s * FPS)], *around[cut:]], key)
    match = found(engine, data)
    assert min(overlap(match, [(at_s, at_s + length_s, 2.0, 2.0 + length_s)])) >= 0.9
    assert match.segments[0].speed == 1.0


def test_parts_in_another_order_are_a_segment_each(engine: Engine) -> None:
    data = written([*KNOWN[160:230], *OTHERS[:50], *KNOWN[20:110]])
    truth = [(0.0, 3.5, 8.0, 11.5), (6.0, 10.5, 1.0, 5.5)]
    match = found(engine, data)
    assert min(overlap(match, truth)) >= 0.85
    assert len(match.segments) == 2


@pytest.mark.parametrize("speed", [0.8, 1.25, 2.0])
def test_another_speed_is_told(engine: Engine, speed: float) -> None:
    faster = at_rate(Take(tuple(KNOWN[:200]), FPS * speed, ()), FPS)
    match = found(engine, written(faster.frames))
    assert match.segments[0].speed == pytest.approx(speed, abs=0.05)
    assert min(overlap(match, [(0.0, 10.0 / speed, 0.0, 10.0)])) >= 0.9


def test_a_clip_that_plays_backwards(engine: Engine) -> None:
    match = found(engine, written(KNOWN[40:140][::-1]))
    assert match.segments[0].speed == pytest.approx(-1.0, abs=0.05)
    assert min(overlap(match, [(0.0, 5.0, 2.0, 7.0)])) >= 0.9


@pytest.mark.parametrize("edit", ["crop", "mirror and crop", "inset"])
def test_what_only_keypoints_find_has_times_too(engine: Engine, edit: str) -> None:
    def edited(number: int) -> Picture:
        frame = KNOWN[number]
        if edit == "inset":
            ground = OTHERS[number % len(OTHERS)].copy()
            ground[40:160, 80:293] = np.array(Image.fromarray(frame).resize((213, 120)))
            return ground
        cropped = frame[20:-16, 30:-30]
        return np.ascontiguousarray(cropped[:, ::-1] if edit.startswith("mirror") else cropped)

    match = found(engine, written([edited(number) for number in range(60, 180)]))
    assert match.signal_type is SignalType.KEYPOINTS
    ours, theirs = overlap(match, [(0.0, 6.0, 3.0, 9.0)])
    assert ours >= 0.9
    assert theirs >= 0.8


def test_a_still_grabbed_from_a_video(engine: Engine) -> None:
    (part,) = found(engine, corpus.jpeg(KNOWN[100], 85)).segments
    assert part.query_s == (0.0, 0.0)
    assert part.reference_s[0] - 0.35 <= 5.0 <= part.reference_s[1] + 0.35
    assert part.speed is None


def test_a_gif_of_a_clip(engine: Engine) -> None:
    small = [Image.fromarray(frame).resize((240, 135)).quantize(64) for frame in KNOWN[40:120:4]]
    file = io.BytesIO()
    small[0].save(file, "GIF", save_all=True, append_images=small[1:], duration=200)
    match = found(engine, file.getvalue())
    assert min(overlap(match, [(0.0, 4.0, 2.0, 6.0)])) >= 0.85


def test_a_slideshow_with_an_enrolled_photo(engine: Engine) -> None:
    """The photo is no video: which seconds show it is told, and the reference's time is 0."""
    slides = [np.array(Image.fromarray(picture).resize((WIDTH, 240)))
              for picture in (corpus.picture(711), PHOTO, corpus.picture(712))]  # fmt: skip
    match = found(engine, written([slide for slide in slides for _ in range(3 * FPS)]), "photo")
    (part,) = match.segments
    assert part.query_s == pytest.approx((3.0, 6.0), abs=0.15)
    assert (part.reference_s, part.speed) == ((0.0, 0.0), None)


def test_a_camera_that_pans_and_zooms_over_an_enrolled_photo(engine: Engine) -> None:
    def frame(at: float) -> Picture:
        left, top, share = 60 * at, 40 * at, 0.9 - 0.2 * at
        box = (left, top, left + 640 * share, top + 480 * share)
        return np.array(Image.fromarray(PHOTO).resize((WIDTH, 240), box=box))

    match = found(engine, written([frame(at) for at in np.linspace(0, 1, 6 * FPS)]), "photo")
    (part,) = match.segments
    assert iou([part.query_s], [(0.0, 6.0)]) == pytest.approx(1.0, abs=0.15)
    assert (part.reference_s, part.speed) == ((0.0, 0.0), None)


def test_a_still_of_an_enrolled_still_has_no_times(engine: Engine) -> None:
    assert found(engine, corpus.jpeg(PHOTO, 60), "photo").segments == ()


# --- when it looks, and when it does not ------------------------------------------------


@pytest.fixture
def looks(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[Sampling]:
    """Count the second looks."""
    seen: list[Sampling] = []
    original = Opened.look

    def look(self: Opened, data: bytes, plan: object) -> Signal:
        seen.append(plan.sampling)  # type: ignore[attr-defined]
        return original(self, data, plan)  # type: ignore[arg-type]

    monkeypatch.setattr(Opened, "look", look)
    return seen


def test_only_what_was_found_is_looked_at_again(engine: Engine, looks: list[Sampling]) -> None:
    assert engine.check_media(written(OTHERS), None).verdict is Verdict.NO_MATCH
    assert engine.check_media(corpus.jpeg(PHOTO, 60), None).verdict is Verdict.MATCH
    assert looks == []
    found(engine, written(KNOWN[:80]))
    assert looks == [Sampling.CLOSE]


def test_a_worker_that_fails_meanwhile_changes_no_answer(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    data = written(KNOWN[:80])

    def fails(*_: object) -> Signal:
        raise UnhashableMedia(Reason.DECODER_CRASHED)

    good = engine.check_media(data, None)
    monkeypatch.setattr(Opened, "look", fails)
    poor = engine.check_media(data, None)
    assert told(poor) == told(good)
    assert poor.matches[0].segments


def told(answer: Answer) -> tuple[object, ...]:
    return answer.verdict, answer.reason, [replace(match, segments=()) for match in answer.matches]


# --- which seconds deserve it -----------------------------------------------------------


def seen(times_s: Sequence[float], end_s: float) -> Signal:
    rows = np.zeros(len(times_s), FRAME_DTYPE)
    rows["timestamp_s"] = rows["until_s"] = times_s
    return Signal(Media(Kind.VIDEO, duration_s=end_s), rows)


def match_of(*parts: tuple[float, float]) -> Match:
    segments = tuple(Segment(part, part, 3, 1.0) for part in parts)
    return Match("b", "c", Verdict.MATCH, SignalType.PDQ, "none", 3, None, 1e-9, segments)


def test_a_short_video_is_looked_at_from_end_to_end() -> None:
    assert closer.spans([match_of((3.0, 5.0))], seen([0, 3, 5, 9], 12.0)) == ((0.0, 12.0),)


def test_a_long_one_between_the_last_frame_that_failed_and_the_first_that_matched() -> None:
    signal = seen(list(range(0, 300, 4)), 300.0)
    assert closer.spans([match_of((100.0, 200.0))], signal) == ((96.0, 102.0), (198.0, 204.0))
    assert closer.spans([match_of((100.0, 100.0))], signal) == ((96.0, 104.0),)
    apart = seen([0, 100, 200], 300.0)
    assert closer.spans([match_of((100.0, 100.0))], apart) == ((90.0, 110.0),)


def test_where_nothing_has_times_there_is_nothing_to_look_at() -> None:
    signal = seen([0, 1], 30.0)
    assert closer.spans([], signal) == ()
    assert closer.spans([match_of()], signal) == ()
    assert closer.spans([replace(match_of((0, 1)), signal_type=SignalType.SHA256)], signal) == ()
    assert closer.spans([match_of((0, 1))], replace(signal, media=Media(Kind.IMAGE))) == ()
    assert closer.spans([match_of((0, 1))], replace(signal, media=Media(Kind.VIDEO))) == ()


moments = st.lists(st.floats(0, 7000), min_size=1, max_size=40)


@given(moments, st.lists(st.tuples(st.floats(0, 7000), st.floats(0, 500)), min_size=1, max_size=12))
def test_spans_are_few_in_order_apart_and_short(times_s: list[float], parts: list[tuple[float, float]]) -> None:
    matches = [match_of((start, start + length)) for start, length in parts]
    spans = closer.spans(matches, seen(sorted(times_s), 7500.0))
    assert 1 <= len(spans) <= MAX_SPANS
    for start_s, stop_s in spans:
        assert 0 <= start_s <= stop_s <= 7500.0
    for (_, stop_s), (start_s, _) in zip(spans, islice(spans, 1, None), strict=False):
        assert stop_s < start_s
    assert sum(stop - start for start, stop in spans) <= MAX_SPANS * 2 * (closer.AROUND_S + closer.INSIDE_S)


# --- its arithmetic ---------------------------------------------------------------------


def rows_of(seed: int, count: int) -> Frames:
    rng = np.random.default_rng(seed)
    rows = np.zeros(count, FRAME_DTYPE)
    base = rng.integers(0, 256, (4, 32), dtype=np.uint8)
    rows["hash"] = base[rng.integers(0, 4, count)] ^ np.packbits(rng.random((count, 256)) < 0.1, axis=1)
    rows["timestamp_s"] = np.arange(count)
    rows["until_s"] = rows["timestamp_s"] + 0.5
    return rows


@pytest.mark.parametrize("chunk", [1, 50, 10_000])
def test_pairs_of_hashes_are_those_of_the_slow_truth(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closer, "_CHUNK", chunk)
    base = rows_of(1, 20)
    query, reference = base[:9], base[5:]
    pairs = closer._hashed(query, reference, 50)
    expected = [
        (*(row[name] for row in (ours, theirs) for name in ("timestamp_s", "until_s")), apart)
        for ours in query for theirs in reference
        if (apart := distance(bytes(ours["hash"]), bytes(theirs["hash"]))) <= 50
    ]  # fmt: skip
    assert len(expected) > 4
    got = [(*times.tolist(), int(bits)) for times, bits in zip(pairs.times_s, pairs.bits, strict=True)]
    assert sorted(got) == sorted(expected)


def test_of_nothing_there_are_no_pairs() -> None:
    for query, reference in ((no_frames(), rows_of(2, 3)), (rows_of(2, 3), no_frames())):
        assert len(closer._hashed(query, reference, 50).bits) == 0
        assert closer._nearest_form(query, reference) == 0


def test_the_nearest_form_is_the_symmetry_of_the_nearest_row() -> None:
    reference = rows_of(3, 6)
    query = rows_of(4, 6)
    query["transform"] = np.arange(6)
    query["hash"][4] = reference["hash"][2]
    assert closer._nearest_form(query, reference) == 4


def test_a_stray_within_a_better_segment_is_dropped_and_a_part_beside_it_is_kept() -> None:
    good, stray, beside = Segment((0, 10), (0, 10), 40), Segment((4, 5), (30, 31), 2), Segment((20, 21), (5, 6), 2)
    assert closer._sound([good, stray, beside], [good, stray, beside]) == (good, beside)
    assert closer._sound([good, beside], [good]) == (good,), "nearness to a line alone makes no segment"
