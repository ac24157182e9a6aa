"""What a worker process is sent and what it answers: two fixed binary records, range-checked.

A worker decodes hostile bytes, so nothing it says is trusted: no pickle, no text, no
lengths beyond what was asked for. `ValueError` means that the answer is not one.
"""

import math
import struct

import numpy as np

from hashing.errors import CorruptMedia, MediaError, Reason, UnsupportedMedia
from hashing.hasher import Plan
from hashing.media import Limits, Sampling
from hashing.signals import (
    FRAME_DTYPE,
    MAX_QUALITY,
    PROFILES,
    TRANSFORMS,
    VIEWS,
    Frames,
    Kind,
    Media,
    Signal,
    SignalType,
)

REQUEST = struct.Struct("<4sBIQQdIId")
ANSWER = struct.Struct("<4sBBBIIdII")
_ASK, _TELL = b"sdq1", b"sda1"
_TYPES, _SAMPLINGS, _KINDS, _REASONS = tuple(SignalType), tuple(Sampling), tuple(Kind), tuple(Reason)
_ERRORS: tuple[type[MediaError], ...] = (UnsupportedMedia, CorruptMedia)
_MAX_SIDE = (1 << 31) - 1  # of a header; what is decoded has at most media.MAX_SIDE
_ROWS_A_FRAME = 64  # views × (symmetries + classic types), rounded up


def pack_request(plan: Plan, size_bytes: int) -> bytes:
    """Return the header that precedes the media's bytes."""
    mask = sum(1 << number for number, kind in enumerate(_TYPES) if kind in plan.types)
    limits = plan.limits
    return REQUEST.pack(
        _ASK, _SAMPLINGS.index(plan.sampling), mask, size_bytes, limits.max_pixels,
        limits.max_duration_s, limits.max_frames, limits.max_stills, limits.timeout_s,
    )  # fmt: skip


def unpack_request(header: bytes) -> tuple[Plan, int]:
    """Return the plan, and how many bytes of media follow."""
    magic, sampling, mask, size, pixels, duration, frames, stills, timeout = REQUEST.unpack(header)
    if magic != _ASK:
        raise ValueError("not a request")
    limits = Limits(size, pixels, duration, frames, stills, timeout)
    types = frozenset(kind for number, kind in enumerate(_TYPES) if mask >> number & 1)
    return Plan(_SAMPLINGS[sampling], types, limits), size


def pack_signal(signal: Signal) -> bytes:
    """Return the answer for hashed media."""
    media = signal.media
    duration = math.nan if media.duration_s is None else media.duration_s
    reason = 0 if signal.reason is None else 1 + _REASONS.index(signal.reason)
    header = ANSWER.pack(
        _TELL, 0, _KINDS.index(media.kind), reason, media.width or 0, media.height or 0,
        duration, media.frames_hashed, len(signal.frames),
    )  # fmt: skip
    return header + signal.frames.tobytes()


def pack_error(error: MediaError) -> bytes:
    """Return the answer for media that could not be taken."""
    number = 1 + _ERRORS.index(type(error))
    return ANSWER.pack(_TELL, number, 0, 0, 0, 0, math.nan, 0, 0)


def rows_announced(header: bytes, limits: Limits) -> int:
    """Return how many rows follow an answer's header; raises the MediaError that it states."""
    magic, status, kind, reason, width, height, _, frames, rows = ANSWER.unpack(header)
    if magic != _TELL or status > len(_ERRORS):
        raise ValueError("not an answer")
    if status:
        raise _ERRORS[status - 1]
    if kind >= len(_KINDS) or reason > len(_REASONS) or max(width, height) > _MAX_SIDE:
        raise ValueError("an answer out of range")
    if frames > 2 * max(limits.max_frames, limits.max_stills) or rows > frames * _ROWS_A_FRAME:
        raise ValueError("an answer with more rows than frames can give")
    return int(rows)


def _in_range(rows: Frames) -> bool:
    bounds = {"profile": len(PROFILES), "view": len(VIEWS), "transform": len(TRANSFORMS), "quality": MAX_QUALITY + 1}
    return all(int(rows[name].max(initial=0)) < bound for name, bound in bounds.items()) and not bool(
        np.isinf(rows["timestamp_s"]).any() or np.isinf(rows["until_s"]).any()
    )


def unpack_signal(header: bytes, body: bytes) -> Signal:
    """Return the Signal of an answer whose header `rows_announced` has accepted."""
    _, _, kind, reason, width, height, duration, frames, _ = ANSWER.unpack(header)
    rows = np.frombuffer(body, FRAME_DTYPE)
    if not _in_range(rows) or math.isinf(duration):
        raise ValueError("a row out of range")
    duration_s = None if math.isnan(duration) else float(duration)
    media = Media(_KINDS[kind], None, width or None, height or None, duration_s, frames)
    return Signal(media, rows, reason=_REASONS[reason - 1] if reason else None)
