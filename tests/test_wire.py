"""What crosses the wall between the pool and a worker: there and back, and nothing else gets through."""

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashing import wire
from hashing.errors import CorruptMedia, MediaError, Reason, UnsupportedMedia
from hashing.evidence import EVIDENCE_DTYPE, EVIDENCE_RANGE, PAIR_DTYPE
from hashing.hasher import Plan
from hashing.keypoints import PLANE_SIDE
from hashing.media import MAX_SPANS, Limits, Sampling
from hashing.signals import (
    FRAME_DTYPE,
    MAX_KEYPOINTS,
    PROFILES,
    SKETCH_DTYPE,
    TRANSFORMS,
    VIEWS,
    Frames,
    Kind,
    Media,
    Signal,
    SignalType,
    Sketches,
)
from hashing.video import MAX_SKETCHES

LIMITS = Limits()
ROW, SKETCH = FRAME_DTYPE.itemsize, SKETCH_DTYPE.itemsize
plans = st.builds(
    Plan,
    st.sampled_from(list(Sampling)),
    st.frozensets(st.sampled_from(list(SignalType))),
    st.builds(
        Limits, st.integers(0, 2**62), st.integers(0, 2**62), st.floats(0, 1e9), st.integers(0, 2**31),
        st.integers(0, 2**31), st.floats(0, 1e6),
    ),
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), max_size=MAX_SPANS).map(tuple),
)  # fmt: skip


@st.composite
def sketches(draw: st.DrawFn) -> Sketches:
    rows = np.zeros(draw(st.integers(0, 3)), SKETCH_DTYPE)
    for row in rows:
        for name, least, most in (("width", 1, PLANE_SIDE), ("height", 1, PLANE_SIDE), ("mirrored", 0, 1)):
            row[name] = draw(st.integers(least, most))
        row["count"] = count = draw(st.sampled_from([0, 1, 7, MAX_KEYPOINTS]))
        row["timestamp_s"] = draw(st.floats(allow_infinity=False))
        row["until_s"] = draw(st.floats(allow_infinity=False))
        row["grid"] = np.random.default_rng(count).integers(0, 256, row["grid"].shape)
        row["keypoints"]["code"][:count] = draw(st.integers(0, 255))
        row["keypoints"]["x"][:count] = row["keypoints"]["y"][:count] = draw(st.integers(0, 65535))
    return rows


@st.composite
def signals(draw: st.DrawFn) -> Signal:
    count = draw(st.integers(0, 5))
    rows = np.zeros(count, FRAME_DTYPE)
    for row in rows:
        row["profile"] = draw(st.integers(0, len(PROFILES) - 1))
        row["view"] = draw(st.integers(0, len(VIEWS) - 1))
        row["transform"] = draw(st.integers(0, len(TRANSFORMS) - 1))
        row["quality"] = draw(st.integers(0, 100))
        row["timestamp_s"] = draw(st.floats(allow_infinity=False))
        row["until_s"] = draw(st.floats(allow_infinity=False))
        row["hash"] = np.frombuffer(draw(st.binary(min_size=32, max_size=32)), np.uint8)
    sides = st.none() | st.integers(1, 2**31 - 1)
    duration = draw(st.none() | st.floats(0, 1e9))
    seen = draw(sketches())
    frames = draw(st.integers(max(count, (len(seen) + 1) // 2), 50))
    media = Media(draw(st.sampled_from(list(Kind))), None, draw(sides), draw(sides), duration, frames)
    return Signal(media, rows, reason=draw(st.none() | st.sampled_from(list(Reason))), sketches=seen)


def told(record: bytes, limits: Limits = LIMITS) -> Signal:
    """Read an answer as the pool does."""
    header, body = record[: wire.ANSWER.size], record[wire.ANSWER.size :]
    assert wire.bytes_announced(header, limits) == len(body)
    return wire.unpack_signal(header, body)


@given(plans, st.integers(0, 2**62))
def test_a_request_goes_there_and_back(plan: Plan, size: int) -> None:
    header = wire.pack_request(plan, size)
    found, found_size = wire.unpack_request(header)
    assert len(header) == wire.REQUEST.size
    assert found_size == size
    assert (found.sampling, found.types) == (plan.sampling, plan.types)
    for name in ("max_pixels", "max_duration_s", "max_frames", "max_stills", "timeout_s"):
        assert getattr(found.limits, name) == getattr(plan.limits, name)
    assert found.limits.max_body_bytes == size


@given(st.integers(MAX_SPANS + 1, 40))
def test_more_spans_than_fit_are_no_request(count: int) -> None:
    with pytest.raises(ValueError, match="spans"):
        wire.pack_request(Plan(spans=((0.0, 1.0),) * count), 1)


@given(signals())
def test_a_signal_goes_there_and_back(signal: Signal) -> None:
    found = told(wire.pack_signal(signal))
    assert found.frames.tobytes() == signal.frames.tobytes()
    assert found.sketches.tobytes() == signal.sketches.tobytes()
    assert (found.media, found.reason, found.exact) == (signal.media, signal.reason, ())


@pytest.mark.parametrize("kind", [UnsupportedMedia, CorruptMedia])
def test_an_error_goes_there_and_back(kind: type[MediaError]) -> None:
    with pytest.raises(kind):
        told(wire.pack_error(kind()))


@given(st.binary(min_size=wire.ANSWER.size, max_size=wire.ANSWER.size) | st.builds(
    lambda rest: b"sda1" + rest, st.binary(min_size=wire.ANSWER.size - 4, max_size=wire.ANSWER.size - 4)),
    st.binary(max_size=4 * ROW) | st.binary(max_size=4 * ROW).map(lambda rows: rows + SKETCH * b"\1"))  # fmt: skip
def test_random_answers_give_value_or_media_errors_only(header: bytes, body: bytes) -> None:
    try:
        size = wire.bytes_announced(header, LIMITS)
        assert 0 <= size <= 2 * LIMITS.max_frames * 64 * ROW + MAX_SKETCHES * SKETCH
        signal = wire.unpack_signal(header, body)
        assert len(signal.frames) * ROW + len(signal.sketches) * SKETCH == len(body)
    except (ValueError, MediaError) as error:
        assert str(error)


@given(st.binary(min_size=wire.REQUEST.size, max_size=wire.REQUEST.size))
def test_a_random_request_is_none(header: bytes) -> None:
    if header.startswith(b"sdq1"):
        return
    with pytest.raises(ValueError, match="not a request"):
        wire.unpack_request(header)


def answer(**changes: float) -> bytes:
    fields = {"magic": b"sda1", "status": 0, "kind": 0, "reason": 0, "width": 1, "height": 1, "duration": math.nan,
              "frames": 1, "rows": 1, "sketches": 0} | changes  # fmt: skip
    return wire.ANSWER.pack(*fields.values())


@pytest.mark.parametrize(
    "changes",
    [{"magic": b"sdq1"}, {"status": 3}, {"kind": 3}, {"reason": len(Reason) + 1}, {"width": 2**31},
     {"height": 2**32 - 1}, {"frames": 2 * LIMITS.max_frames + 1}, {"rows": 65}, {"rows": 2**32 - 1}, {"frames": 0},
     {"sketches": 3}, {"sketches": 2**32 - 1}, {"frames": MAX_SKETCHES, "sketches": MAX_SKETCHES + 1},
     {"frames": 0, "rows": 0, "sketches": 1}],
)  # fmt: skip
def test_an_answer_out_of_range_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="answer"):
        wire.bytes_announced(answer(**changes), LIMITS)


def test_as_many_sketches_as_frames_can_give_are_taken() -> None:
    for frames, count in ((1, 2), (MAX_SKETCHES, MAX_SKETCHES)):
        header = answer(frames=frames, rows=frames, sketches=count)
        assert wire.bytes_announced(header, LIMITS) == frames * ROW + count * SKETCH


def row(**changes: float) -> Frames:
    rows = np.zeros(1, FRAME_DTYPE)
    for name, value in changes.items():
        rows[name] = value
    return rows


@pytest.mark.parametrize(
    "changes",
    [{"profile": len(PROFILES)}, {"view": 2}, {"transform": 8}, {"quality": 101}, {"bare": 65},
     {"timestamp_s": math.inf}, {"until_s": -math.inf}],
)  # fmt: skip
def test_a_row_out_of_range_is_refused(changes: dict[str, float]) -> None:
    assert len(wire.unpack_signal(answer(), row().tobytes()).frames) == 1
    with pytest.raises(ValueError, match="out of range"):
        wire.unpack_signal(answer(), row(**changes).tobytes())


def test_an_endless_duration_is_refused() -> None:
    with pytest.raises(ValueError, match="out of range"):
        wire.unpack_signal(answer(duration=math.inf), row().tobytes())


def sketched(**changes: float) -> Sketches:
    rows = np.zeros(1, SKETCH_DTYPE)
    for name, value in ({"width": PLANE_SIDE, "height": 1, "count": MAX_KEYPOINTS, "mirrored": 1} | changes).items():
        rows[name] = value
    return rows


@pytest.mark.parametrize(
    "changes",
    [{"count": MAX_KEYPOINTS + 1}, {"count": 65535}, {"width": 0}, {"height": 0}, {"width": PLANE_SIDE + 1},
     {"height": 65535}, {"mirrored": 2}, {"timestamp_s": math.inf}, {"until_s": -math.inf}],
)  # fmt: skip
def test_a_sketch_out_of_range_is_refused(changes: dict[str, float]) -> None:
    header = answer(sketches=1)
    assert len(wire.unpack_signal(header, row().tobytes() + sketched().tobytes()).sketches) == 1
    with pytest.raises(ValueError, match="out of range"):
        wire.unpack_signal(header, row().tobytes() + sketched(**changes).tobytes())


def test_half_a_sketch_is_refused() -> None:
    with pytest.raises(ValueError, match="size"):
        wire.unpack_signal(answer(sketches=1), row().tobytes() + sketched().tobytes()[:-1])


def test_half_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="size"):
        wire.unpack_signal(answer(), row().tobytes()[:-1])


def test_a_short_header_is_no_answer() -> None:
    with pytest.raises((ValueError, struct.error)):
        wire.bytes_announced(b"sda1", LIMITS)


# --- pairs and their evidence -----------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, wire.MAX_PAIRS])
def test_pairs_are_announced_by_a_header_as_long_as_any_request(count: int) -> None:
    pairs = np.zeros(count, PAIR_DTYPE)
    pairs["query"] = np.arange(count)
    sent = wire.pack_pairs(pairs)
    header, body = sent[: wire.REQUEST.size], sent[wire.REQUEST.size :]
    assert wire.pairs_announced(header) == len(body)
    assert np.frombuffer(body, PAIR_DTYPE).tobytes() == pairs.tobytes()
    with pytest.raises(ValueError, match="not a request"):
        wire.unpack_request(header)


@pytest.mark.parametrize("count", [0, wire.MAX_PAIRS + 1, 2**32 - 1])
def test_no_pairs_and_too_many_are_no_request(count: int) -> None:
    header = wire.CONFIRM.pack(b"sdc1", count)
    assert wire.pairs_announced(header) == 0
    with pytest.raises(ValueError, match="not a request"):
        wire.unpack_request(header)


@given(plans, st.integers(0, 2**62))
def test_media_announce_no_pairs(plan: Plan, size: int) -> None:
    assert wire.pairs_announced(wire.pack_request(plan, size)) == 0


def evidence(**changes: float) -> bytes:
    rows = np.zeros(2, EVIDENCE_DTYPE)
    for name, (_, most) in EVIDENCE_RANGE.items():
        rows[name][1] = most
    for name, value in changes.items():
        rows[name][1] = value
    return rows.tobytes()


def test_evidence_goes_there_and_back() -> None:
    assert set(EVIDENCE_RANGE) == set(EVIDENCE_DTYPE.names or ())
    assert wire.unpack_evidence(evidence()).tobytes() == evidence()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, -1e30])
@pytest.mark.parametrize("name", ["area", "cover", "turn_deg"])
def test_evidence_that_is_no_number_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match="out of range"):
        wire.unpack_evidence(evidence(**{name: value}))


@pytest.mark.parametrize(
    "changes",
    [{"inliers": MAX_KEYPOINTS + 1}, {"spread": 65}, {"area": -0.1}, {"area": 1.1},
     {"agreement": 101}, {"agreement": -101}, {"agreement": -127}, {"cover": -0.1},
     {"cover": 1.1}, {"turn_deg": 181}, {"turn_deg": -181}],
)  # fmt: skip
def test_evidence_out_of_range_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="out of range"):
        wire.unpack_evidence(evidence(**changes))


@given(st.binary(max_size=3 * EVIDENCE_DTYPE.itemsize))
def test_random_evidence_is_in_range_or_refused(body: bytes) -> None:
    try:
        rows = wire.unpack_evidence(body)
    except ValueError:
        return
    assert len(rows) * EVIDENCE_DTYPE.itemsize == len(body)
    for name, (least, most) in EVIDENCE_RANGE.items():
        assert ((least <= rows[name]) & (rows[name] <= most)).all()


def test_half_a_row_of_evidence_is_refused() -> None:
    with pytest.raises(ValueError, match="size"):
        wire.unpack_evidence(evidence()[:-1])
