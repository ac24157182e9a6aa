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

import numpy as np
from numpy.typing import NDArray

from hashing.edges import BLOCKS_A_SIDE, NOT_SHOWN
from hashing.signals import EXACT_BYTES, Frames, SignalType

MIN_BLOCKS = 4  # of 64, with edges to compare; a tiny overlap agrees by chance
MIN_INLIERS = 5  # keypoints in one to one agreement; fewer fit any two pictures
LINE_BITS = 80  # PDQ of a frame at the second where a line through nearer ones says it stands: for times, no verdict
MIN_QUALITY = 50  # PDQ quality; below, pictures without features match one another
# What may be enrolled (docs/matching.md, Guards).
MAX_UNSURE_BITS = 110  # of the 256, that hang on noise; bars, checkerboards and rings have 120 and more
MAX_BARE_PARTS = 50  # of 64, with nothing in them; all but a caption, a logo or a line of text
EDGE_BITS = 6  # to both sides of a threshold; a walk along it by changes of some twenty bits strays no farther
HUB_CONTENTS = 3  # different benign contents within the review distance of one hash


def usable(rows: Frames) -> Frames:
    """Return the rows that may be compared at all."""
    return rows[rows["quality"] >= MIN_QUALITY]


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
class Sureness:
    """What a keypoint match has to reach: its score (log-odds), and the most that its chance to be false may be."""

    least_score: float
    most_probability: float


@dataclass(frozen=True, slots=True)
class Policy:
    """How a bank answers. `match_bits` of -1 never says `match` of its own accord."""

    name: str
    thresholds: dict[SignalType, Threshold]
    match: Sureness  # keypoints
    review: Sureness

    def radius_bits(self, signal_type: SignalType) -> int:
        """Return how far a search has to look."""
        return self.thresholds[signal_type].review_bits

    def same_bits(self, signal_type: SignalType) -> int:
        """Return how near is taken for the same: the match distance, or where there is none the review distance."""
        threshold = self.thresholds[signal_type]
        return threshold.match_bits if threshold.match_bits >= 0 else threshold.review_bits

    def edges_near(self, signal_type: SignalType, distance_bits: int) -> list[int]:
        """Return the thresholds that a distance is so near to that answers there tell of single bits."""
        threshold = self.thresholds[signal_type]
        edges = sorted({threshold.match_bits, threshold.review_bits} - {-1})
        return [edge for edge in edges if edge - EDGE_BITS < distance_bits <= edge + EDGE_BITS]

    def verdict(self, signal_type: SignalType, distance_bits: int) -> Verdict:
        """Judge one distance."""
        if signal_type in EXACT_BYTES:
            exact = self.thresholds[SignalType.PDQ].match_bits >= 0
            return Verdict.MATCH if exact else Verdict.REVIEW
        threshold = self.thresholds[signal_type]
        if distance_bits <= threshold.match_bits:
            return Verdict.MATCH
        return Verdict.REVIEW if distance_bits <= threshold.review_bits else Verdict.NO_MATCH

    def score_verdict(self, score: float, probability: float) -> Verdict:
        """Judge a keypoint match by its score, and by its chance to be false, which grows with the bank."""
        if score >= self.match.least_score and probability <= self.match.most_probability:
            return Verdict.MATCH
        sure = score >= self.review.least_score and probability <= self.review.most_probability
        return Verdict.REVIEW if sure else Verdict.NO_MATCH


def _policy(name: str, pdq: Threshold, phash: Threshold, dhash: Threshold, whash: Threshold, match: Sureness,
            review: Sureness) -> Policy:  # fmt: skip
    types = (SignalType.PDQ, SignalType.PHASH, SignalType.DHASH, SignalType.WHASH)
    return Policy(name, dict(zip(types, (pdq, phash, dhash, whash), strict=True)), match, review)


NEVER = Sureness(math.inf, 0.0)
POLICIES = {
    policy.name: policy
    for policy in (
        _policy("default", Threshold(31, 46), Threshold(31, 40), Threshold(10, 18), Threshold(2, 4),
                Sureness(1.0, 1e-3), Sureness(0.0, 1e-2)),
        _policy("strict", Threshold(15, 31), Threshold(15, 31), Threshold(4, 10), Threshold(0, 2),
                Sureness(3.0, 1e-5), Sureness(1.0, 1e-3)),
        _policy("review-only", Threshold(-1, 46), Threshold(-1, 40), Threshold(-1, 18), Threshold(-1, 4),
                NEVER, Sureness(0.0, 1e-2)),
    )
}  # fmt: skip

# log10 of the rate of false pairs at distance 0, and its growth a bit.
_TAILS = {
    SignalType.PDQ: (-10.31, 0.0772),
    SignalType.PHASH: (-9.83, 0.0760),
    SignalType.DHASH: (-8.17, 0.0714),
    SignalType.WHASH: (-5.99, 0.1468),
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


# Log-odds that a confirmed pair shows the same picture: a logistic regression over copies made by 109
# edits and over the best candidates among other pictures of one corpus. Then the tail of the scores that
# other pictures reach: log10 of the rate at score 0 for one pair of sketches, and its fall a point. Both
# are printed by `benchmarks/robustness/keypoint_fit.py`; docs/accuracy.md names the corpus.
_SCORE_WEIGHTS = np.array([3.405, -2.796, 9.126, 1.07])
_SCORE_BIAS = -7.035
_SCORE_TAIL = (-7.072, 0.489)


def _worst(agreement: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the least mean of nine blocks in a square, or of all, (n,): of agreements (n, 8, 8), NaN if not shown.

    A copy agrees everywhere but under what was laid over it; another subject before the
    same background disagrees in one place. A square of which too little is shown does not count.
    """
    windows = np.lib.stride_tricks.sliding_window_view(agreement, (3, 3), axis=(1, 2))
    windows = windows.reshape(len(agreement), (BLOCKS_A_SIDE - 2) ** 2, 9)
    known = np.isfinite(windows).sum(axis=2)
    mean = np.nansum(windows, axis=2) / np.maximum(known, 1)
    shown = np.maximum(np.isfinite(agreement).sum(axis=(1, 2)), 1)
    whole = np.nansum(agreement, axis=(1, 2)) / shown
    worst: NDArray[np.float64] = np.minimum(np.where(known > 4, mean, 1.0).min(axis=1, initial=1.0), whole)
    return worst


WORST = 2  # of the features, where the worst place stands


def keypoint_features(evidence: NDArray[np.void]) -> NDArray[np.float64]:
    """Return (n, 4): what the score of each row of EVIDENCE_DTYPE is a weighted sum of.

    The more of each the surer, but for the spread: chance inliers lie here and there, true ones side by
    side. What is heaped on one logo has all the rest against it.
    """
    inliers, spread, area = (evidence[name].astype(np.float64) for name in ("inliers", "spread", "area"))
    agreement = np.where(evidence["agreement"] != NOT_SHOWN, evidence["agreement"] / 100.0, np.nan)
    worst = _worst(agreement.reshape(-1, BLOCKS_A_SIDE, BLOCKS_A_SIDE))
    return np.stack([np.log1p(inliers), np.log1p(spread), worst, area], axis=1)


def keypoint_enough(evidence: NDArray[np.void]) -> NDArray[np.bool_]:
    """Say of each row of EVIDENCE_DTYPE, (n,), whether it is evidence at all."""
    shown = (evidence["agreement"] != NOT_SHOWN).sum(axis=1)
    enough: NDArray[np.bool_] = (evidence["inliers"] >= MIN_INLIERS) & (shown >= MIN_BLOCKS)
    return enough


def keypoint_score(evidence: NDArray[np.void]) -> NDArray[np.float64]:
    """Return the score of each row of EVIDENCE_DTYPE, shape (n,)."""
    score: NDArray[np.float64] = keypoint_features(evidence) @ _SCORE_WEIGHTS + _SCORE_BIAS
    return np.where(keypoint_enough(evidence), score, -np.inf)


def score_probability(score: float, pairs: int) -> float:
    """Return an upper estimate of the chance that a keypoint match with this score is false.

    `pairs` is how many sketches of the query times how many of the bank could have matched.
    """
    start, fall = _SCORE_TAIL
    return float(-math.expm1(-(10.0 ** (start - fall * score)) * max(pairs, 1)))


def tier(probability: float) -> float:
    """Round a probability up to the next power of ten, so that it tells no distance."""
    return next(step for step in _TIERS if probability <= step * (1 + 1e-9))


def veiled(signal_type: SignalType, distance_bits: int | None, verdict: Verdict, probability: float) -> float:
    """Return a probability as those see it who see no distance: as at the farthest of its verdict, and in tiers.

    A tier of the distance itself would be one more edge by which a hash can be found out.
    """
    if signal_type not in _TAILS or distance_bits is None or probability >= 1:
        return tier(probability)
    limits = [policy.thresholds[signal_type] for policy in POLICIES.values()]
    farthest = max(one.match_bits if verdict is Verdict.MATCH else one.review_bits for one in limits)
    rate = -math.log1p(-probability) * 10.0 ** (_TAILS[signal_type][1] * (farthest - distance_bits))
    return tier(float(-math.expm1(-rate)))


# Content or its lawful original. Scores are log-odds for the content: of one frame by the cells where the
# two differ (hashing.contrast.TOLD_DTYPE), or by their PDQ distances. `benchmarks/robustness/swaps.py --fit`
# prints how they come out; docs/accuracy.md names the corpus.
MIN_TOLD_CELLS = 3  # of 1024; on fewer it is not seen
_MIN_COMMON = 0.25  # agreement where the two are alike; below, the picture was not laid rightly
_HALF = 0.5  # of that agreement is asked where the two differ: other footage of the same room is like neither
_TOLD_WEIGHT, _ENOUGH_CELLS = 3.0, 100.0
_BIT_WEIGHT = 0.375
_NOISE = 2.0  # a smaller score says nothing; neighbouring frames have the same noise, and would add it up
_TOLD_APART = 3.0


class Nearer(StrEnum):
    """Which of a content and its lawful original media is nearer to."""

    CONTENT = "content"
    COMPANION = "companion"
    UNDECIDED = "undecided"


def told_scores(told: NDArray[np.void]) -> NDArray[np.float64]:
    """Return the log-odds for the content of each row of TOLD_DTYPE; NaN where the picture could not be laid."""
    content, lawful = (told[name].astype(np.float64) for name in ("like_reference", "like_lawful"))
    cells = np.minimum(told["cells"].astype(np.float64), _ENOUGH_CELLS)
    like_one = np.maximum(content, lawful) >= _HALF * told["common"]
    seen = (told["cells"] >= MIN_TOLD_CELLS) & like_one
    laid = (told["placed"] == 1) & (told["common"] >= _MIN_COMMON)
    return np.where(laid, np.where(seen, _TOLD_WEIGHT * (content - lawful) * np.sqrt(cells), 0.0), np.nan)


def bits_scores(content_bits: NDArray[np.int64], lawful_bits: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the log-odds for the content of frames, by PDQ; NaN where a frame is near to neither."""
    near = np.minimum(content_bits, lawful_bits) <= POLICIES["default"].radius_bits(SignalType.PDQ)
    return np.where(near, _BIT_WEIGHT * (lawful_bits - content_bits).astype(np.float64), np.nan)


def _best_run(scores: NDArray[np.float64]) -> float:
    """Return the largest sum of neighbouring scores (Kadane's scan)."""
    sums = np.concatenate([[0.0], np.cumsum(scores)])
    return float((sums - np.minimum.accumulate(sums)).max())


def nearer(scores: NDArray[np.float64]) -> Nearer:
    """Judge the scores of some frames, in order of time: a run of frames that show the content is enough.

    More frames are more chances, so that more is asked of their best run.
    """
    scores = np.where(np.abs(scores) < _NOISE, 0.0, scores)
    more = math.log(max(len(scores), 1))
    if _best_run(scores) >= _TOLD_APART + more:
        return Nearer.CONTENT
    return Nearer.COMPANION if _best_run(-scores) >= _TOLD_APART else Nearer.UNDECIDED
