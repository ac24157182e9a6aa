"""What a worker process is sent and what it answers: fixed binary records, range-checked.

A worker decodes hostile bytes, so nothing it says is trusted: no pickle, no text, no
lengths beyond what was asked for. `ValueError` means that the answer is not one.

A request is media to hash, or pairs of sketches to confirm or to tell apart on the media
hashed last, or a companion to be laid over sketches of its content.
"""

import math
import struct

import numpy as np
from numpy.typing import NDArray

from hashing.cage import LAYERS
from hashing.contrast import (
    CONTRAST_DTYPE,
    MAX_CONTRASTS,
    TELL_DTYPE,
    TOLD_DTYPE,
    TOLD_RANGE,
    Contrasts,
    Tells,
    Told,
)
from hashing.edges import NOT_SHOWN
from hashing.errors import CorruptMedia, MediaError, Reason, UnsupportedMedia
from hashing.evidence import EVIDENCE_DTYPE, EVIDENCE_RANGE, PAIR_DTYPE, Evidence, Pairs
from hashing.hasher import Plan
from hashing.keypoints import PLANE_SIDE
from hashing.media import MAX_SPANS, Limits, Sampling
from hashing.pdq import PARTS
from hashing.signals import (
    FRAME_DTYPE,
    MAX_KEYPOINTS,
    MAX_QUALITY,
    OCTAVES,
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
from hashing.video import MAX_QUERY_SKETCHES, MAX_SKETCHES

REQUEST = struct.Struct(f"<4sBIQQdIId{2 * MAX_SPANS}d")
CONFIRM = struct.Struct(f"<4sI{REQUEST.size - 8}x")  # as long as a request
LAY = struct.Struct(f"<4sIQ{REQUEST.size - 16}x")
ANSWER = struct.Struct("<4sBBBIIdIII")
BORN = struct.Struct("<I")  # the number of a worker's process, as the zygote says it
_ASK, _ASK_CONFIRM, _TELL = b"sdq1", b"sdc1", b"sda1"
_ASK_APART, _ASK_LAID = b"sdt1", b"sdl1"
MAX_PAIRS = 256
_TYPES, _SAMPLINGS, _KINDS, _REASONS = tuple(SignalType), tuple(Sampling), tuple(Kind), tuple(Reason)
_ERRORS: tuple[type[MediaError], ...] = (UnsupportedMedia, CorruptMedia)
_MAX_SIDE = (1 << 31) - 1  # of a header; what is decoded has at most media.MAX_SIDE
_ROWS_A_FRAME = 64  # views × (symmetries + classic types), rounded up


def pack_request(plan: Plan, size_bytes: int) -> bytes:
    """Return the header that precedes the media's bytes."""
    mask = sum(1 << number for number, kind in enumerate(_TYPES) if kind in plan.types)
    limits = plan.limits
    if len(plan.spans) > MAX_SPANS:
        raise ValueError("more spans than a request can hold")
    spans = [edge for span in plan.spans for edge in span]
    return REQUEST.pack(
        _ASK, _SAMPLINGS.index(plan.sampling), mask, size_bytes, limits.max_pixels,
        limits.max_duration_s, limits.max_frames, limits.max_stills, limits.timeout_s,
        *spans, *[math.nan] * (2 * MAX_SPANS - len(spans)),
    )  # fmt: skip


def unpack_request(header: bytes) -> tuple[Plan, int]:
    """Return the plan, and how many bytes of media follow."""
    magic, sampling, mask, size, pixels, duration, frames, stills, timeout, *edges = REQUEST.unpack(header)
    if magic != _ASK:
        raise ValueError("not a request")
    limits = Limits(size, pixels, duration, frames, stills, timeout)
    types = frozenset(kind for number, kind in enumerate(_TYPES) if mask >> number & 1)
    spans = tuple((a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if not math.isnan(a))
    return Plan(_SAMPLINGS[sampling], types, limits, spans), size


def pack_signal(signal: Signal) -> bytes:
    """Return the answer for hashed media."""
    media = signal.media
    duration = math.nan if media.duration_s is None else media.duration_s
    reason = 0 if signal.reason is None else 1 + _REASONS.index(signal.reason)
    header = ANSWER.pack(
        _TELL, 0, _KINDS.index(media.kind), reason, media.width or 0, media.height or 0,
        duration, media.frames_hashed, len(signal.frames), len(signal.sketches),
    )  # fmt: skip
    return header + signal.frames.tobytes() + signal.sketches.tobytes()


def pack_error(error: MediaError) -> bytes:
    """Return the answer for media that could not be taken."""
    number = 1 + _ERRORS.index(type(error))
    return ANSWER.pack(_TELL, number, 0, 0, 0, 0, math.nan, 0, 0, 0)


def bytes_announced(header: bytes, limits: Limits) -> int:
    """Return how many bytes follow an answer's header; raises the MediaError that it states."""
    magic, status, kind, reason, width, height, _, frames, rows, sketches = ANSWER.unpack(header)
    if magic != _TELL or status > len(_ERRORS):
        raise ValueError("not an answer")
    if status:
        raise _ERRORS[status - 1]
    if kind >= len(_KINDS) or reason > len(_REASONS) or max(width, height) > _MAX_SIDE:
        raise ValueError("an answer out of range")
    if frames > 2 * max(limits.max_frames, limits.max_stills) or rows > frames * _ROWS_A_FRAME:
        raise ValueError("an answer with more rows than frames can give")
    if sketches > min(2 * frames, max(2 * MAX_QUERY_SKETCHES, MAX_SKETCHES)):
        raise ValueError("an answer with more sketches than frames can give")
    return int(rows) * FRAME_DTYPE.itemsize + int(sketches) * SKETCH_DTYPE.itemsize


def _in_range(rows: Frames) -> bool:
    most = {
        "profile": len(PROFILES) - 1, "view": len(VIEWS) - 1, "transform": len(TRANSFORMS) - 1, "quality": MAX_QUALITY,
        "bare": PARTS * PARTS,
    }  # fmt: skip
    return all(int(rows[name].max(initial=0)) <= bound for name, bound in most.items()) and _timed(rows)


def _timed(rows: Frames | Sketches) -> bool:
    return not bool(np.isinf(rows["timestamp_s"]).any() or np.isinf(rows["until_s"]).any())


def _sketched(rows: Sketches) -> bool:
    bounds = {"width": PLANE_SIDE, "height": PLANE_SIDE, "count": MAX_KEYPOINTS, "mirrored": 1}
    sized = bool((rows["width"] > 0).all() and (rows["height"] > 0).all())
    sized &= int(rows["keypoints"]["octave"].max(initial=0)) < OCTAVES
    return sized and all(int(rows[name].max(initial=0)) <= most for name, most in bounds.items()) and _timed(rows)


def unpack_signal(header: bytes, body: bytes) -> Signal:
    """Return the Signal of an answer whose header `bytes_announced` has accepted."""
    _, _, kind, reason, width, height, duration, frames, count, _ = ANSWER.unpack(header)
    rows = np.frombuffer(body, FRAME_DTYPE, count)
    sketches = np.frombuffer(body, SKETCH_DTYPE, offset=rows.nbytes)
    if not _in_range(rows) or not _sketched(sketches) or math.isinf(duration):
        raise ValueError("a row out of range")
    duration_s = None if math.isnan(duration) else float(duration)
    media = Media(_KINDS[kind], None, width or None, height or None, duration_s, frames)
    return Signal(media, rows, (), _REASONS[reason - 1] if reason else None, sketches)


def pack_pairs(pairs: Pairs) -> bytes:
    """Return the request to confirm pairs, at most MAX_PAIRS."""
    return CONFIRM.pack(_ASK_CONFIRM, len(pairs)) + pairs.tobytes()


def pairs_announced(header: bytes) -> int:
    """Return how many bytes of pairs follow a request's header: 0 if it asks to hash media."""
    magic, count = CONFIRM.unpack(header)
    return int(count) * PAIR_DTYPE.itemsize if magic == _ASK_CONFIRM and count <= MAX_PAIRS else 0


def _check_range(rows: NDArray[np.void], bounds: dict[str, tuple[int, int]]) -> None:
    for name, (least, most) in bounds.items():
        if not ((rows[name] >= least) & (rows[name] <= most)).all():  # NaN is neither
            raise ValueError("evidence out of range")


def unpack_evidence(body: bytes) -> Evidence:
    """Return the evidence of an answer of the right length; ValueError if it is out of range."""
    rows = np.frombuffer(body, EVIDENCE_DTYPE)
    _check_range(rows, EVIDENCE_RANGE)
    if ((rows["agreement"] < -100) & (rows["agreement"] != NOT_SHOWN)).any():
        raise ValueError("evidence out of range")
    return rows


def pack_tells(tells: Tells) -> bytes:
    """Return the request to tell contents from companions, at most MAX_PAIRS."""
    return CONFIRM.pack(_ASK_APART, len(tells)) + tells.tobytes()


def tells_announced(header: bytes) -> int:
    """Return how many bytes of TELL_DTYPE follow a request's header: 0 if it asks for something else."""
    magic, count = CONFIRM.unpack(header)
    return int(count) * TELL_DTYPE.itemsize if magic == _ASK_APART and count <= MAX_PAIRS else 0


def unpack_told(body: bytes) -> Told:
    """Return the rows of an answer of the right length; ValueError if one is out of range."""
    rows = np.frombuffer(body, TOLD_DTYPE)
    _check_range(rows, TOLD_RANGE)
    return rows


def pack_lay(plan: Plan, data: bytes, references: Sketches) -> bytes:
    """Return the request, but for the media's bytes, to lay media over at most MAX_CONTRASTS sketches."""
    head = LAY.pack(_ASK_LAID, len(references), len(data))
    return head + pack_request(plan, len(data)) + references.tobytes()


def lay_announced(header: bytes) -> int:
    """Return how many bytes follow such a request's header: 0 if it asks for something else."""
    magic, count, size = LAY.unpack(header)
    laid = magic == _ASK_LAID and count <= MAX_CONTRASTS
    return REQUEST.size + int(count) * SKETCH_DTYPE.itemsize + int(size) if laid else 0


def unpack_lay(header: bytes, body: bytes) -> tuple[Plan, Sketches, bytes]:
    """Return the plan, the sketches and the media of such a request."""
    _, count, _ = LAY.unpack(header)
    plan, size = unpack_request(body[: REQUEST.size])
    sketches = np.frombuffer(body, SKETCH_DTYPE, count, REQUEST.size)
    return plan, sketches, body[len(body) - size :]


def unpack_contrasts(body: bytes) -> Contrasts:
    """Return the rows of an answer of the right length; ValueError if one is out of range."""
    rows = np.frombuffer(body, CONTRAST_DTYPE)
    if (rows["found"] > 1).any():
        raise ValueError("contrast out of range")
    return rows


def pack_layers(held: frozenset[str]) -> bytes:
    """Return which layers of the cage hold, as one byte."""
    return bytes([sum(1 << bit for bit, layer in enumerate(LAYERS) if layer in held)])


def unpack_layers(data: bytes) -> frozenset[str]:
    """Return what `pack_layers` packed; ValueError."""
    if len(data) != 1 or data[0] >> len(LAYERS):
        raise ValueError("no worker of ours")
    return frozenset(layer for bit, layer in enumerate(LAYERS) if data[0] >> bit & 1)
