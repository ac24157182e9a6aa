"""What a match is: one content of a bank that the media shows, with the evidence."""

from dataclasses import dataclass

from hashing.signals import SignalType
from indexer.alignment import Segment
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
