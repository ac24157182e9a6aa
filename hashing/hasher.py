"""hash_media(): the one way from media to a Signal.

Called in this process by tests and benchmarks, and inside a worker process by
`sandbox.Pool`, which is what every door of staydown uses.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hashing.contrast import TOLD_DTYPE, Contrasts, Tells, Told, contrasts, tell_apart
from hashing.edges import Plane
from hashing.errors import MediaTooLarge, UnsupportedMedia
from hashing.evidence import EVIDENCE_DTYPE, Evidence, Pairs, confirm
from hashing.keypoints import plane_of
from hashing.media import Container, Limits, Sampling, Spans, sniff
from hashing.parts import Parts
from hashing.signals import Kind, Media, Signal, SignalType, Sketches
from hashing.video import hash_frames

DEFAULT_TYPES = frozenset({SignalType.SHA256, SignalType.MD5, SignalType.PDQ})


@dataclass(frozen=True, slots=True)
class Plan:
    """How media is to be hashed: how closely, with which types, at what cost."""

    sampling: Sampling = Sampling.SPARSE
    types: frozenset[SignalType] = DEFAULT_TYPES
    limits: Limits = Limits()  # noqa: RUF009  (frozen)
    spans: Spans = ()  # the seconds of a close look; all if there are none


def digests(data: bytes) -> tuple[tuple[SignalType, bytes], ...]:
    """Return the exact hashes of the bytes. md5 finds files listed by others; it protects nothing."""
    return (
        (SignalType.SHA256, hashlib.sha256(data).digest()),
        (SignalType.MD5, hashlib.md5(data, usedforsecurity=False).digest()),
    )


def admit(data: bytes, limits: Limits) -> Container:
    """Judge the bytes before anything decodes them: MediaTooLarge or UnsupportedMedia."""
    if len(data) > limits.max_body_bytes:
        raise MediaTooLarge
    if not data:
        raise UnsupportedMedia("there are no bytes")
    return sniff(data)


def hash_pictures(data: bytes, plan: Plan) -> tuple[Signal, tuple[Plane, ...]]:
    """Hash what the media shows; `exact` stays empty and `media.sha256` None.

    The planes belong to the signal's sketches, one each, for `confirm_pairs`.
    """
    source = Parts(data, admit(data, plan.limits), plan.limits)
    found = hash_frames(source.frames(plan.sampling, plan.spans), plan.sampling, plan.types)
    duration_s = source.duration_s if source.kind is Kind.VIDEO else None
    media = Media(source.kind, None, source.width or None, source.height or None, duration_s, found.count)
    return Signal(media, found.frames, (), source.reason, found.sketches), found.planes


def confirm_pairs(sketches: Sketches, planes: Sequence[Plane], pairs: Pairs) -> Evidence:
    """Return a row of EVIDENCE_DTYPE for each pair (PAIR_DTYPE) of a query's sketch and a reference's."""
    rows = [confirm(planes[pair["query"]], sketches[pair["query"]], pair["reference"]) for pair in pairs]
    return np.concatenate(rows) if rows else np.empty(0, EVIDENCE_DTYPE)


def lay_over(data: bytes, plan: Plan, references: Sketches) -> Contrasts:
    """Lay a companion's frames over sketches of its content: a row of CONTRAST_DTYPE each.

    UnsupportedMedia, CorruptMedia, MediaTooLarge.
    """
    frames = Parts(data, admit(data, plan.limits), plan.limits).frames(plan.sampling)
    return contrasts((plane_of(frame) for frame in frames), references)


def tell_pairs(sketches: Sketches, planes: Sequence[Plane], tells: Tells) -> Told:
    """Return a row of TOLD_DTYPE for each row of TELL_DTYPE."""
    rows = [tell_apart(planes[row["query"]], sketches[row["query"]], row["reference"], row["lawful"]) for row in tells]
    return np.concatenate(rows) if rows else np.empty(0, TOLD_DTYPE)


def with_digests(signal: Signal, exact: tuple[tuple[SignalType, bytes], ...]) -> Signal:
    """Add exact hashes to what the pictures gave."""
    media = replace(signal.media, sha256=dict(exact)[SignalType.SHA256].hex())
    return replace(signal, media=media, exact=exact)


def hash_media(data: bytes, plan: Plan) -> Signal:
    """Hash media in this process. UnsupportedMedia, CorruptMedia, MediaTooLarge.

    What could be opened but not judged comes back as a Signal with a reason.
    """
    return with_digests(hash_pictures(data, plan)[0], digests(data))
