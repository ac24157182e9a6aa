"""Thresholds at their exact edges, and estimates that grow as they should."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashing.edges import NOT_SHOWN
from hashing.evidence import EVIDENCE_DTYPE, Evidence, no_evidence
from hashing.signals import EXACT_BYTES, PERCEPTUAL, SignalType
from indexer.policy import (
    MIN_BLOCKS,
    MIN_INLIERS,
    POLICIES,
    WORST,
    Verdict,
    false_match_probability,
    keypoint_features,
    keypoint_score,
    score_probability,
    tier,
)

EDGES = [(name, kind) for name in POLICIES for kind in PERCEPTUAL]
kinds = st.sampled_from(PERCEPTUAL)


@pytest.mark.parametrize(("name", "kind"), EDGES)
def test_verdicts_change_at_the_thresholds(name: str, kind: SignalType) -> None:
    policy = POLICIES[name]
    threshold = policy.thresholds[kind]
    assert policy.radius_bits(kind) == threshold.review_bits
    for bits in range(257):
        wanted = Verdict.NO_MATCH
        if bits <= threshold.match_bits:
            wanted = Verdict.MATCH
        elif bits <= threshold.review_bits:
            wanted = Verdict.REVIEW
        assert policy.verdict(kind, bits) is wanted
    assert -1 <= threshold.match_bits < threshold.review_bits < 64


def test_the_policies_are_those_that_are_documented() -> None:
    pdq = {name: policy.thresholds[SignalType.PDQ] for name, policy in POLICIES.items()}
    assert {name: (each.match_bits, each.review_bits) for name, each in pdq.items()} == {
        "default": (31, 46), "strict": (15, 31), "review-only": (-1, 46),
    }  # fmt: skip


def test_review_only_never_says_match() -> None:
    policy = POLICIES["review-only"]
    types = set(SignalType) - {SignalType.KEYPOINTS}
    assert {policy.verdict(kind, bits) for kind in types for bits in range(257)} == {
        Verdict.REVIEW, Verdict.NO_MATCH,
    }  # fmt: skip
    scores = (-math.inf, *np.linspace(-50.0, 50.0, 1001).tolist(), 1e300)
    assert {policy.score_verdict(score, 0.0) for score in scores} == {Verdict.REVIEW, Verdict.NO_MATCH}


@pytest.mark.parametrize("name", POLICIES)
def test_verdicts_change_at_the_scores_and_the_probabilities(name: str) -> None:
    policy = POLICIES[name]
    match, review = policy.match, policy.review
    below, above = math.nextafter(review.least_score, -math.inf), math.nextafter(review.most_probability, 1.0)
    assert policy.score_verdict(review.least_score, review.most_probability) is Verdict.REVIEW
    assert policy.score_verdict(below, 0.0) is Verdict.NO_MATCH
    assert policy.score_verdict(1e300, above) is Verdict.NO_MATCH
    assert policy.score_verdict(-math.inf, 1.0) is Verdict.NO_MATCH
    if math.isfinite(match.least_score):
        assert match.least_score > review.least_score
        assert match.most_probability < review.most_probability
        assert policy.score_verdict(match.least_score, match.most_probability) is Verdict.MATCH
        assert policy.score_verdict(math.nextafter(match.least_score, -math.inf), 0.0) is Verdict.REVIEW
        assert policy.score_verdict(1e300, math.nextafter(match.most_probability, 1.0)) is Verdict.REVIEW


def test_the_same_evidence_is_less_sure_in_a_larger_bank() -> None:
    policy, score = POLICIES["default"], 2.0
    found = [policy.score_verdict(score, score_probability(score, 2 * pictures)) for pictures in (100, 10**5, 10**7)]
    assert found == [Verdict.MATCH, Verdict.REVIEW, Verdict.NO_MATCH]


def evidence(*, blocks: int = 60, agreement: float = 0.8, worst: float | None = None, **values: float) -> Evidence:
    """Return one row; `blocks` agree alike, but for nine in the middle if `worst` is told."""
    rows = no_evidence()
    for name, value in values.items():
        rows[name] = value
    square = rows["agreement"][0].reshape(8, 8)
    square.flat[:blocks] = round(100 * agreement)
    if worst is not None:
        square[2:5, 2:5] = round(100 * worst)
    return rows


GOOD = {"inliers": 120, "spread": 40, "blocks": 60, "agreement": 0.8, "area": 0.9, "cover": 0.9}


def test_few_inliers_are_no_evidence_whatever_else_agrees() -> None:
    assert keypoint_score(evidence(**GOOD))[0] > 2
    assert keypoint_score(evidence(**(GOOD | {"inliers": MIN_INLIERS - 1})))[0] == -math.inf
    assert keypoint_score(evidence(**(GOOD | {"blocks": MIN_BLOCKS - 1})))[0] == -math.inf
    assert keypoint_score(no_evidence())[0] == -math.inf
    assert len(keypoint_score(np.empty(0, EVIDENCE_DTYPE))) == 0


@pytest.mark.parametrize("name", ["inliers", "agreement", "area"])
def test_more_agreement_is_a_higher_score(name: str) -> None:
    less = GOOD | {name: type(GOOD[name])(0.5 * GOOD[name])}
    assert keypoint_score(evidence(**less))[0] < keypoint_score(evidence(**GOOD))[0]


def test_one_place_where_all_is_different_weighs_more_than_the_same_spread_out() -> None:
    one = evidence(**GOOD, worst=-0.1)
    mean = float(one["agreement"][one["agreement"] != NOT_SHOWN].mean()) / 100
    spread = evidence(**(GOOD | {"agreement": mean}))
    assert keypoint_score(one)[0] < keypoint_score(spread)[0]


@given(st.lists(st.one_of(st.just(NOT_SHOWN), st.integers(-100, 100)), min_size=64, max_size=64))
def test_the_worst_place_is_the_least_mean_of_nine_blocks_or_of_all(values: list[int]) -> None:
    row = no_evidence()
    row["agreement"][0] = values
    square = np.array(values).reshape(8, 8)
    places = [square[y : y + 3, x : x + 3].ravel() for y in range(6) for x in range(6)]
    means = [part[part != NOT_SHOWN].mean() / 100 for part in places if (part != NOT_SHOWN).sum() > 4]
    all_shown = square[square != NOT_SHOWN]
    means += [all_shown.mean() / 100] if len(all_shown) else [0.0]
    assert keypoint_features(row)[0, WORST] == pytest.approx(min(means))


@given(st.floats(-50, 50), st.floats(0, 10), st.integers(0, 10**12), st.integers(0, 10**6))
def test_a_higher_score_is_less_likely_false_and_more_pairs_likelier(score: float, more: float, pairs: int,
                                                                     others: int) -> None:  # fmt: skip
    found = score_probability(score, pairs)
    assert 0 <= score_probability(score + more, pairs) <= found <= score_probability(score, pairs + others) <= 1


@pytest.mark.parametrize("kind", EXACT_BYTES)
def test_an_exact_copy_is_a_match(kind: SignalType) -> None:
    found = {name: policy.verdict(kind, 0) for name, policy in POLICIES.items()}
    assert found == {"default": Verdict.MATCH, "strict": Verdict.MATCH, "review-only": Verdict.REVIEW}
    assert false_match_probability(kind, 0, 10**12) < 1e-20


@given(kinds, st.integers(0, 255), st.integers(0, 10**12))
def test_the_estimate_grows_with_the_distance(kind: SignalType, bits: int, pairs: int) -> None:
    near, far = (false_match_probability(kind, distance, pairs) for distance in (bits, bits + 1))
    assert 0 < near <= far <= 1
    assert near < far or far > 0.999


@given(kinds, st.integers(0, 256), st.integers(0, 10**12), st.integers(1, 10**6))
def test_the_estimate_grows_with_the_pairs(kind: SignalType, bits: int, pairs: int, more: int) -> None:
    fewer, all_pairs = false_match_probability(kind, bits, pairs), false_match_probability(kind, bits, pairs + more)
    assert fewer <= all_pairs <= fewer + more * false_match_probability(kind, bits, 1) * 1.000001


@given(st.floats(0, 1))
def test_a_tier_is_the_next_power_of_ten(probability: float) -> None:
    found = tier(probability)
    assert found >= probability * (1 - 1e-8)
    assert found == pytest.approx(10.0 ** round(math.log10(found)))
    assert found <= max(10 * probability * (1 + 1e-6), 1e-30)


@given(st.floats(0, 1), st.floats(0, 1))
def test_tiers_are_in_order(a: float, b: float) -> None:
    assert (tier(a) <= tier(b)) or b < a


def test_tiers_stay_where_they_are() -> None:
    steps = [10.0**-power for power in range(31)]
    assert [tier(step) for step in steps] == steps
    assert all(tier(higher * 0.999) == higher > tier(lower) for higher, lower in pairwise(steps))
