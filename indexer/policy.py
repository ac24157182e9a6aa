"""What a distance means: thresholds, verdicts, and how likely a match is to be false.

The only file where a distance is compared with a number.

`false_match_probability` is an upper estimate: the chance that unrelated media would
come as near to *something* in the bank. The rate for one pair falls about as a straight
line in its logarithm as the distance falls; the lines are fitted to distances of
unrelated photographs by `benchmarks/false_matches.py` (see docs/accuracy.md) and carried
below the smallest distance seen, which is on the safe side where the true rate falls
faster. A pair's rate is multiplied by the number of pairs compared.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from hashing.signals import EXACT_BYTES, SignalType

MIN_QUALITY = 50  # PDQ quality; below, pictures without features match one another


class Verdict(StrEnum):
    """What staydown says of media. `unhashable` never means `no_match`."""

    MATCH = "match"
    REVIEW = "review"
    NO_MATCH = "no_match"
    UNHASHABLE = "unhashable"


@dataclass(frozen=True, slots=True)
class Threshold:
    """The largest distances in bits that are a `match`, and that go to `review`."""

    match_bits: int
    review_bits: int


@dataclass(frozen=True, slots=True)
class Policy:
    """How a bank answers. `match_bits` of -1 never says `match` of its own accord."""

    name: str
    thresholds: dict[SignalType, Threshold]

    def radius_bits(self, signal_type: SignalType) -> int:
        """Return how far a search has to look."""
        return self.thresholds[signal_type].review_bits

    def verdict(self, signal_type: SignalType, distance_bits: int) -> Verdict:
        """Judge one distance."""
        if signal_type in EXACT_BYTES:
            exact = self.thresholds[SignalType.PDQ].match_bits >= 0
            return Verdict.MATCH if exact else Verdict.REVIEW
        threshold = self.thresholds[signal_type]
        if distance_bits <= threshold.match_bits:
            return Verdict.MATCH
        return Verdict.REVIEW if distance_bits <= threshold.review_bits else Verdict.NO_MATCH


def _policy(name: str, pdq: Threshold, phash: Threshold, dhash: Threshold, whash: Threshold) -> Policy:
    types = (SignalType.PDQ, SignalType.PHASH, SignalType.DHASH, SignalType.WHASH)
    return Policy(name, dict(zip(types, (pdq, phash, dhash, whash), strict=True)))


POLICIES = {
    policy.name: policy
    for policy in (
        _policy("default", Threshold(31, 46), Threshold(31, 40), Threshold(10, 18), Threshold(4, 8)),
        _policy("strict", Threshold(15, 31), Threshold(15, 31), Threshold(4, 10), Threshold(0, 4)),
        _policy("review-only", Threshold(-1, 46), Threshold(-1, 40), Threshold(-1, 18), Threshold(-1, 8)),
    )
}

# log10 of the rate of false pairs at distance 0, and its growth a bit.
_TAILS = {
    SignalType.PDQ: (-10.6, 0.073),
    SignalType.PHASH: (-11.0, 0.080),
    SignalType.DHASH: (-8.4, 0.066),
    SignalType.WHASH: (-6.0, 0.080),
}
_EXACT = 1e-30
_TIERS = tuple(10.0**-power for power in range(30, -1, -1))


def false_match_probability(signal_type: SignalType, distance_bits: int, pairs: int) -> float:
    """Return an upper estimate of the chance that a match at this distance is false.

    `pairs` is how many comparisons were made: forms of the query times hashes searched.
    """
    if signal_type in EXACT_BYTES:
        return _EXACT
    start, growth = _TAILS[signal_type]
    rate = 10.0 ** (start + growth * distance_bits)
    return float(-math.expm1(-rate * max(pairs, 1)))


def tier(probability: float) -> float:
    """Round a probability up to the next power of ten, so that it tells no distance."""
    return next(step for step in _TIERS if probability <= step * (1 + 1e-9))
