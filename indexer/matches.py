"""What a match is: one content of a bank that the media shows, with the evidence."""

from dataclasses import dataclass, replace

import numpy as np

from hashing.signals import EXACT_BYTES, Signal, SignalType
from indexer.alignment import Looked, Segment, extended
from indexer.policy import Nearer, Verdict

COMPANION, LAWFUL_BANK = "companion", "lawful_bank"  # by what a match is suppressed


@dataclass(frozen=True, slots=True)
class ToldApart:
    """How the media compares with a content and with its lawful original.

    `cells` and `region` (left, top, right, bottom, as shares of the reference's frame) are
    where the two differ and the media shows it, None if they were compared by hashes alone;
    `frames` is how many frames were compared.
    """

    nearer: Nearer
    cells: int = 0
    region: tuple[float, float, float, float] | None = None
    frames: int = 0


@dataclass(frozen=True, slots=True)
class Match:
    """`distance_bits` is None for keypoints, `inliers` for all other types."""

    bank: str
    content_id: str
    verdict: Verdict
    signal_type: SignalType
    transform: str
    distance_bits: int | None
    inliers: int | None
    false_match_probability: float
    segments: tuple[Segment, ...] = ()
    told_apart: ToldApart | None = None


@dataclass(frozen=True, slots=True)
class Suppressed:
    """What would be a match, were the media not nearer to something lawful: a `companion`, or in a `lawful_bank`."""

    match: Match
    by: str
    lawful_content_id: str


def looked_at(signal: Signal, signal_type: SignalType, reference_s: float | None) -> Looked:
    """Return when the media was looked at for one type; `reference_s` is how long the known content is."""
    rows = signal.sketches if signal_type is SignalType.KEYPOINTS else signal.frames
    times_s = np.concatenate([rows["timestamp_s"], rows["until_s"]])
    return Looked(np.unique(np.nan_to_num(times_s)), signal.media.duration_s or 0.0, reference_s or 0.0)


def told(match: Match, signal: Signal, reference_s: float | None) -> Match:
    """Return a match whose segments reach as far as is told of them; those of the same file are the whole of it."""
    if not match.segments or match.signal_type in EXACT_BYTES:
        return match
    looked = looked_at(signal, match.signal_type, reference_s)
    return replace(match, segments=extended(match.segments, looked))
