"""What a match is: one content of a bank that the media shows, with the evidence."""

from dataclasses import dataclass

from hashing.signals import SignalType
from indexer.alignment import Segment
from indexer.policy import Verdict


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
