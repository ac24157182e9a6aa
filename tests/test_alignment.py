"""Segments against a truth that is generated: speed, offset, jitter, inserted parts, static scenes, noise."""

import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.alignment import (
    MAX_MISSED,
    MAX_SEGMENTS,
    MAX_UNSEEN_S,
    MIN_BACKWARDS,
    FrameMatches,
    Looked,
    Segment,
    align,
    extended,
)

Rng = np.random.Generator


@dataclass(frozen=True)
class Part:
    """Seconds of the query that show the reference from `reference_s` on, at a speed."""

    query_s: float
    length_s: float
    reference_s: float
    speed: float = 1.0


def columns(rows: list[tuple[float, float, float, float, float, float]]) -> FrameMatches:
    """Rows of frame, query_s, query_stop_s, start_s, stop_s, bits."""
    table = np.array(rows, float).reshape(-1, 6)
    return FrameMatches(
        table[:, 0].astype(np.int64), table[:, 1], table[:, 2], table[:, 3], table[:, 4], table[:, 5].astype(np.int32)
    )


def matches(
    parts: list[Part], rng: Rng, *, spacing_s: float = 0.5, jitter_s: float = 0.05, noise: int = 0
) -> FrameMatches:
    """What a search gives: near each true frame its neighbours, some bits further; and chance matches."""
    end_s = max(part.query_s + part.length_s for part in parts)
    times_s = np.arange(0.0, end_s, spacing_s)
    rows = []
    for frame, query_s in enumerate(times_s):
        for part in parts:
            if part.query_s <= query_s < part.query_s + part.length_s:
                true_s = part.reference_s + part.speed * (query_s - part.query_s) + rng.uniform(-jitter_s, jitter_s)
                for away in (-0.2, -0.1, 0.0, 0.1, 0.2):
                    at = round(max(true_s + away, 0.0), 1)
                    rows.append((frame, query_s, query_s, at, at, 4 + 60 * abs(away) + rng.integers(0, 4)))
    for _ in range(noise):
        frame, at = int(rng.integers(len(times_s))), round(float(rng.uniform(0, 600)), 1)
        rows.append((frame, times_s[frame], times_s[frame], at, at, rng.integers(25, 46)))
    order = rng.permutation(len(rows))
    return columns([rows[place] for place in order])


def close(segment: Segment, part: Part, within_s: float, spacing_s: float = 0.5) -> bool:
    """Say whether a segment is this part: its last frame is up to one spacing before the part's end."""
    end_s = part.query_s + part.length_s
    reference_end_s = part.reference_s + part.speed * part.length_s
    return bool(
        abs(segment.query_s[0] - part.query_s) <= spacing_s + 1e-6
        and -1e-6 <= end_s - segment.query_s[1] <= 2 * spacing_s + 1e-6
        and abs(segment.reference_s[0] - part.reference_s) <= within_s + spacing_s * part.speed
        and abs(segment.reference_s[1] - reference_end_s) <= within_s + 2 * spacing_s * part.speed
    )


@pytest.mark.parametrize("speed", [0.5, 0.8, 0.9, 0.96, 1.0, 1.04, 1.1, 1.25, 1.5, 2.0])
@pytest.mark.parametrize("noise", [0, 100])
def test_a_part_at_any_speed(speed: float, noise: int) -> None:
    rng = np.random.default_rng(int(speed * 100) + noise)
    part = Part(5.0, 30.0, 100.0, speed)
    first = align(matches([part], rng, noise=noise))[0]
    assert close(first, part, 0.5), first
    assert first.frames >= 58
    assert first.reference_s[1] - first.reference_s[0] == pytest.approx(speed * 29.5, abs=0.6)


@given(
    st.floats(0.5, 2.0),
    st.floats(0, 40),
    st.floats(4, 60),
    st.floats(0, 500),
    st.integers(0, 60),
    st.integers(0, 10**6),
)
def test_any_part_is_found(
    speed: float, query_s: float, length_s: float, reference_s: float, noise: int, seed: int
) -> None:
    part = Part(query_s, length_s, reference_s, speed)
    found = align(matches([part], np.random.default_rng(seed), noise=noise))
    assert close(found[0], part, 0.7), (found[0], part)


def test_several_parts_each_at_its_own_speed() -> None:
    parts = [Part(0, 20, 50), Part(20, 15, 10, 1.25), Part(40, 25, 200, 0.8), Part(70, 10, 0)]
    found = align(matches(parts, np.random.default_rng(1), noise=50))
    for part in parts:
        assert any(close(segment, part, 0.7) for segment in found[:5]), (part, found)
    assert [segment.frames for segment in found] == sorted((s.frames for s in found), reverse=True)


def test_an_inserted_part_splits_the_segment() -> None:
    parts = [Part(0, 10, 30), Part(16, 10, 40)]
    found = align(matches(parts, np.random.default_rng(2)))
    assert len(found) == 2
    assert all(any(close(segment, part, 0.5) for segment in found) for part in parts)


def test_the_same_line_after_a_gap_is_two_segments_and_after_a_short_one_is_one() -> None:
    for missed, segments in ((MAX_MISSED, 1), (MAX_MISSED + 1, 2)):
        places = [n for n in range(20) if not 8 <= n < 8 + missed]
        found = align(columns([(n, n, n, n + 3, n + 3, 5) for n in places]))
        assert len(found) == segments
        assert sum(segment.frames for segment in found) == len(places)


def test_a_still_of_a_video_names_the_nearest_frame() -> None:
    rows = [(0, 0, 0, 7.0, 7.0, 40), *[(0, 0, 0, at, at, 60 * abs(at - 3.0)) for at in (2.8, 2.9, 3.0, 3.1, 3.2)]]
    assert align(columns(rows)) == (Segment((0.0, 0.0), (3.0, 3.0), 1),)


def test_a_still_of_a_static_scene_names_all_of_it() -> None:
    assert align(columns([(0, 0, 0, 4.0, 9.5, 2)])) == (Segment((0.0, 0.0), (4.0, 9.5), 1),)


def test_a_video_that_shows_a_photo_all_the_time() -> None:
    assert align(columns([(0, 1.0, 6.0, 0, 0, 3)])) == (Segment((1.0, 6.0), (0.0, 0.0), 1),)


def test_a_static_scene_of_the_reference_is_followed_at_the_usual_speed() -> None:
    """The reference moves until 5 s, stands until 15 s and moves on; the query shows 2 to 12 s of it."""
    rows: list[tuple[float, float, float, float, float, float]] = []
    for frame, query_s in enumerate(np.arange(0, 10, 0.5)):
        true_s = query_s + 2
        start_s, stop_s = (5.0, 15.0) if true_s >= 5 else (true_s, true_s)
        rows.append((frame, query_s, query_s, start_s, stop_s, 2))
    assert align(columns(rows)) == (Segment((0.0, 9.5), (2.0, 11.5), 20, 1.0),)


def test_a_loop_is_one_segment_a_round() -> None:
    parts = [Part(n * 10, 10, 100) for n in range(3)]
    found = align(matches(parts, np.random.default_rng(3)))
    assert len(found) == 3
    assert all(segment.reference_s[0] == pytest.approx(100, abs=0.5) for segment in found)


def test_a_film_of_two_hours_is_one_segment() -> None:
    """More frames than are sampled: the line is proposed from some, and then asked of all."""
    found = align(matches([Part(0, 7200, 60)], np.random.default_rng(4), spacing_s=2.0, noise=500))
    assert found[0].frames == 3600
    assert found[0].query_s == (0.0, 7198.0)
    assert found[0].reference_s == pytest.approx((60, 7258), abs=0.5)


@given(
    st.lists(st.tuples(st.sampled_from([-1.5, -1.0, 0.7, 0.8, 1.0, 1.25, 1.8]), st.floats(4, 20)), min_size=1,
             max_size=4),
    st.floats(0, 0.5),
    st.integers(0, 10**6),
)  # fmt: skip
def test_parts_are_found_though_frames_drop_out(parts: list[tuple[float, float]], dropped: float, seed: int) -> None:
    """Planted parts, forwards and backwards, one after another and far apart in the reference; some frames missing."""
    rng = np.random.default_rng(seed)
    rows, truth, begin_s, frame = [], [], 0.0, 0
    for number, (speed, length_s) in enumerate(parts):
        for query_s in np.arange(begin_s, begin_s + length_s, 0.25):
            frame += 1
            if rng.random() >= dropped:
                at = 1000 * (number + 1) + speed * (query_s - begin_s) + rng.uniform(-0.05, 0.05)
                rows.append((frame, query_s, query_s, at, at, rng.integers(0, 20)))
        truth.append((speed, begin_s, length_s, sum(row[1] >= begin_s for row in rows)))
        begin_s, frame = begin_s + length_s + 5.0, frame + 20
    found = align(columns(rows))
    for number, (speed, start_s, length_s, frames) in enumerate(truth):
        if frames < 8:
            continue
        mine = [s for s in found if 1000 * (number + 0.9) < s.reference_s[0] < 1000 * (number + 1.9)]
        assert sum(s.frames for s in mine) == frames
        best = max(mine, key=lambda segment: segment.frames)
        if best.frames >= 8 and best.query_s[1] - best.query_s[0] >= 3:
            assert best.speed == pytest.approx(speed, abs=0.12)
        assert min(s.query_s[0] for s in mine) >= start_s - 0.001
        assert max(s.query_s[1] for s in mine) <= start_s + length_s + 0.001


def test_backwards_needs_more_than_a_few_frames() -> None:
    for count in (3, MIN_BACKWARDS, 12):
        rows = [(n, n, n, 50.0 - n, 50.0 - n, 5) for n in range(count)]
        first = align(columns(rows))[0]
        assert (first.speed == -1.0) is (count >= MIN_BACKWARDS)


# --- ends -------------------------------------------------------------------------------


def test_ends_reach_half_way_to_the_next_look_and_to_the_ends_of_the_media() -> None:
    looked = Looked(np.arange(0.0, 10.0, 0.5), 10.0, 100.0)
    part = Segment((3.0, 6.0), (43.0, 46.0), 7, 1.0)
    assert extended([part], looked) == (Segment((2.75, 6.25), (42.75, 46.25), 7, 1.0),)
    whole = Segment((0.0, 9.5), (40.0, 59.0), 20, 2.0)
    assert extended([whole], looked) == (Segment((0.0, 10.0), (40.0, 60.0), 20, 2.0),)


def test_ends_do_not_pass_those_of_the_reference() -> None:
    looked = Looked(np.arange(0.0, 40.0, 4.0), 40.0, 20.0)
    part = Segment((8.0, 24.0), (1.0, 19.5), 5, 1.0)
    assert extended([part], looked) == (Segment((7.0, 24.5), (0.0, 20.0), 5, 1.0),)
    backwards = replace(part, speed=-1.0)
    assert extended([backwards], looked) == (Segment((7.5, 25.0), (0.0, 20.0), 5, -1.0),)


@given(
    st.floats(0, 100), st.floats(0, 50), st.floats(0, 500), st.sampled_from([-2.0, -1.0, 0.5, 1.0, 2.0, None]),
    st.lists(st.floats(0, 160), max_size=30), st.floats(0, 20), st.floats(0, 20),
)  # fmt: skip
def test_an_extended_segment_holds_what_was_seen_and_claims_little_more(
    start_s: float, length_s: float, since_s: float, speed: float | None, others: list[float], after_s: float,
    beyond_s: float,
) -> None:  # fmt: skip
    part = Segment((start_s, start_s + length_s), (since_s, since_s + abs(speed or 1.0) * length_s), 5, speed)
    looked = Looked(
        np.unique([start_s, start_s + length_s, *others]), start_s + length_s + after_s, part.reference_s[1] + beyond_s
    )
    (wide,) = extended([part], looked)
    slack = 0.002
    for axis, scale in (("query_s", 1.0), ("reference_s", abs(speed or 1.0))):
        (low, high), (lower, higher) = getattr(part, axis), getattr(wide, axis)
        assert -slack <= lower <= low + slack
        assert high - slack <= higher
        assert max(low - lower, higher - high) <= scale * MAX_UNSEEN_S + slack
    assert wide.reference_s[1] <= looked.reference_end_s + slack
    for seen_s in looked.seen_s:
        inside = part.query_s[0] - slack <= seen_s <= part.query_s[1] + slack
        assert inside or not wide.query_s[0] + slack < seen_s < wide.query_s[1] - slack, "it was seen not to match"


def test_nothing_is_aligned_to_nothing() -> None:
    assert align(columns([])) == ()


numbers = st.floats(0, 1000)
rows_of = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 3), numbers, st.floats(0, 50), st.integers(0, 60)), max_size=80
)


@given(rows_of)
def test_segments_lie_within_what_was_given(drawn: list[tuple[int, int, float, float, int]]) -> None:
    given_matches = columns([
        (frame, 1.5 * frame, 1.5 * frame + frame % 3 * 0.4, start_s, start_s + length_s, bits)
        for frame, _, start_s, length_s, bits in drawn
    ])  # fmt: skip
    found = align(given_matches)
    assert bool(found) is bool(drawn)
    assert len(found) <= MAX_SEGMENTS
    frames = {frame for frame, *_ in drawn}
    assert sum(segment.frames for segment in found) <= len(frames)
    if len(frames) <= MAX_SEGMENTS:
        assert sum(segment.frames for segment in found) == len(frames), "each frame says something"
    slack = 0.001
    for segment in found:
        assert segment.frames >= 1
        assert segment.query_s[0] <= segment.query_s[1]
        assert segment.reference_s[0] <= segment.reference_s[1]
        assert given_matches.query_s.min() - slack <= segment.query_s[0]
        assert segment.query_s[1] <= given_matches.query_stop_s.max() + slack
        assert given_matches.start_s.min() - slack <= segment.reference_s[0]
        assert segment.reference_s[1] <= given_matches.stop_s.max() + slack


@given(rows_of, st.randoms(use_true_random=False))
def test_the_order_of_matches_changes_no_count(drawn: list[tuple[int, int, float, float, int]], chance: object) -> None:
    rows = [(f, 1.5 * f, 1.5 * f, s, s + d, bits) for f, _, s, d, bits in {(r[0], r[2]): r for r in drawn}.values()]
    shuffled = list(rows)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    again = align(columns(shuffled))
    assert sum(s.frames for s in align(columns(rows))) == sum(s.frames for s in again) or len(again) == MAX_SEGMENTS


@pytest.mark.parametrize("frames", [1, 20, 150, 5000])
@pytest.mark.parametrize("kind", ["noise", "static", "same", "line"])
def test_five_thousand_matches_take_no_time(frames: int, kind: str) -> None:
    rng = np.random.default_rng(5)
    frame = np.sort(rng.integers(0, frames, 5000))
    start_s = {
        "noise": rng.uniform(0, 3600, 5000), "static": np.zeros(5000), "same": np.full(5000, 7.0), "line": frame + 3.0,
    }[kind]  # fmt: skip
    stop_s = start_s + 3600 if kind == "static" else start_s
    given_matches = FrameMatches(frame, frame * 1.0, frame * 1.0, start_s, stop_s, np.full(5000, 9, np.int32))
    begun = time.process_time()
    found = align(given_matches)
    assert time.process_time() - begun < 1.0
    assert 1 <= len(found) <= MAX_SEGMENTS
