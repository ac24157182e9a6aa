"""What crosses the wall between the pool and a worker: there and back, and nothing else gets through."""

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashing import wire
from hashing.errors import CorruptMedia, MediaError, Reason, UnsupportedMedia
from hashing.hasher import Plan
from hashing.media import Limits, Sampling
from hashing.signals import FRAME_DTYPE, PROFILES, TRANSFORMS, VIEWS, Frames, Kind, Media, Signal, SignalType

LIMITS = Limits()
plans = st.builds(
    Plan,
    st.sampled_from(list(Sampling)),
    st.frozensets(st.sampled_from(list(SignalType))),
    st.builds(
        Limits, st.integers(0, 2**62), st.integers(0, 2**62), st.floats(0, 1e9), st.integers(0, 2**31),
        st.integers(0, 2**31), st.floats(0, 1e6),
    ),
)  # fmt: skip


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
    media = Media(
        draw(st.sampled_from(list(Kind))), None, draw(sides), draw(sides), duration, draw(st.integers(count, 50))
    )
    return Signal(media, rows, reason=draw(st.none() | st.sampled_from(list(Reason))))


def told(record: bytes, limits: Limits = LIMITS) -> Signal:
    """Read an answer as the pool does."""
    header, body = record[: wire.ANSWER.size], record[wire.ANSWER.size :]
    size = wire.rows_announced(header, limits) * FRAME_DTYPE.itemsize
    assert size == len(body)
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


@given(signals())
def test_a_signal_goes_there_and_back(signal: Signal) -> None:
    found = told(wire.pack_signal(signal))
    assert found.frames.tobytes() == signal.frames.tobytes()
    assert (found.media, found.reason, found.exact) == (signal.media, signal.reason, ())


@pytest.mark.parametrize("kind", [UnsupportedMedia, CorruptMedia])
def test_an_error_goes_there_and_back(kind: type[MediaError]) -> None:
    with pytest.raises(kind):
        told(wire.pack_error(kind()))


@given(st.binary(min_size=wire.ANSWER.size, max_size=wire.ANSWER.size) | st.builds(
    lambda rest: b"sda1" + rest, st.binary(min_size=wire.ANSWER.size - 4, max_size=wire.ANSWER.size - 4)),
    st.binary(max_size=4 * FRAME_DTYPE.itemsize))  # fmt: skip
def test_random_answers_give_value_or_media_errors_only(header: bytes, body: bytes) -> None:
    try:
        rows = wire.rows_announced(header, LIMITS)
        assert 0 <= rows <= 2 * LIMITS.max_frames * 64
        signal = wire.unpack_signal(header, body)
        assert len(signal.frames) * FRAME_DTYPE.itemsize == len(body)
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
              "frames": 1, "rows": 1} | changes  # fmt: skip
    return wire.ANSWER.pack(*fields.values())


@pytest.mark.parametrize(
    "changes",
    [{"magic": b"sdq1"}, {"status": 3}, {"kind": 3}, {"reason": len(Reason) + 1}, {"width": 2**31},
     {"height": 2**32 - 1}, {"frames": 2 * LIMITS.max_frames + 1}, {"rows": 65}, {"rows": 2**32 - 1}, {"frames": 0}],
)  # fmt: skip
def test_an_answer_out_of_range_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="answer"):
        wire.rows_announced(answer(**changes), LIMITS)


def row(**changes: float) -> Frames:
    rows = np.zeros(1, FRAME_DTYPE)
    for name, value in changes.items():
        rows[name] = value
    return rows


@pytest.mark.parametrize(
    "changes",
    [{"profile": len(PROFILES)}, {"view": 2}, {"transform": 8}, {"quality": 101}, {"timestamp_s": math.inf},
     {"until_s": -math.inf}],
)  # fmt: skip
def test_a_row_out_of_range_is_refused(changes: dict[str, float]) -> None:
    assert len(wire.unpack_signal(answer(), row().tobytes()).frames) == 1
    with pytest.raises(ValueError, match="out of range"):
        wire.unpack_signal(answer(), row(**changes).tobytes())


def test_an_endless_duration_is_refused() -> None:
    with pytest.raises(ValueError, match="out of range"):
        wire.unpack_signal(answer(duration=math.inf), row().tobytes())


def test_half_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="size"):
        wire.unpack_signal(answer(), row().tobytes()[:-1])


def test_a_short_header_is_no_answer() -> None:
    with pytest.raises((ValueError, struct.error)):
        wire.rows_announced(b"sda1", LIMITS)
