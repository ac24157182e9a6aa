"""Thresholds at their exact edges, and estimates that grow as they should."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashing.signals import EXACT_BYTES, PERCEPTUAL, SignalType
from indexer.policy import POLICIES, Verdict, false_match_probability, tier

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
    assert {policy.verdict(kind, bits) for kind in SignalType for bits in range(257)} == {
        Verdict.REVIEW, Verdict.NO_MATCH,
    }  # fmt: skip


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
