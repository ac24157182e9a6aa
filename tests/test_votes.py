"""Votes count as far as they agree: turn, scale, and the line between two keypoints."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashing.signals import KEYPOINT_DTYPE, OCTAVES, SCALE_STEP
from indexer import votes
from indexer.votes import APART_PX, LEAST, MOST, QUERY_APART_PX, STEPS, STRETCH, TURN_RAD, Cast, Keypoints


def _turn_rad(one: float, other: float) -> float:
    """Return by how much two angles differ."""
    return abs((one - other + math.pi) % (2 * math.pi) - math.pi)


def _both_true(ours: Keypoints, theirs: Keypoints, a: int, b: int) -> bool:
    turn = [(int(ours["angle"][n]) - int(theirs["angle"][n])) * 2 * math.pi / 256 for n in (a, b)]
    steps = [int(ours["octave"][n]) - int(theirs["octave"][n]) for n in (a, b)]
    lines = []
    for points in (ours, theirs):
        x, y = ((float(points[name][b]) - float(points[name][a])) / 64 for name in ("x", "y"))
        lines.append((math.hypot(x, y), math.atan2(y, x)))
    (long, along), (known, known_along) = lines
    if long <= QUERY_APART_PX or known <= APART_PX:
        return False
    middle = math.atan2(*(sum(f(each) for each in turn) for f in (math.sin, math.cos)))
    stretch = long / known / SCALE_STEP ** (sum(steps) / 2)
    return (
        _turn_rad(*turn) < TURN_RAD and _turn_rad(along - known_along, middle) < TURN_RAD
        and abs(steps[0] - steps[1]) <= STEPS and 1 / STRETCH < stretch < STRETCH
    )  # fmt: skip


def slow(voter: list[int], sketch: list[int], ours: Keypoints, theirs: Keypoints) -> dict[int, int]:
    """The obvious truth: of each sketch's first votes, one a voter, the one that most others agree with."""
    mine: dict[int, dict[int, int]] = {}
    for place, (who, whom) in enumerate(zip(voter, sketch, strict=True)):
        mine.setdefault(whom, {}).setdefault(who, place)
    found = {}
    for whom, places in mine.items():
        chosen = [places[who] for who in sorted(places)][:MOST]
        if len(chosen) >= LEAST:
            found[whom] = max(1 + sum(_both_true(ours, theirs, a, b) for b in chosen if b != a) for a in chosen)
    return {whom: count for whom, count in found.items() if count >= LEAST}


def points(seed: int, count: int) -> Keypoints:
    chance, made = np.random.default_rng(seed), np.zeros(count, KEYPOINT_DTYPE)
    made["x"], made["y"] = chance.integers(0, 512 * 64, (2, count))
    made["angle"], made["octave"] = chance.integers(0, 256, count), chance.integers(0, OCTAVES, count)
    return made


def turned(known: Keypoints, degrees: float, scale: float = 1.0) -> Keypoints:
    """Return keypoints as a turned and scaled copy has them, about the middle of the plane."""
    made, turn = known.copy(), np.radians(degrees)
    where = (known["x"] / 64 - 256) + 1j * (known["y"] / 64 - 256)
    there = where * scale * np.exp(1j * turn)
    made["x"], made["y"] = np.clip((there.real + 256) * 64, 0, 65535), np.clip((there.imag + 256) * 64, 0, 65535)
    made["angle"] = (known["angle"].astype(np.int64) + round(degrees * 256 / 360)) % 256
    return made


def counted(cast: Cast) -> dict[int, int]:
    sketches, most = votes.count(cast)
    assert most.tolist() == sorted(most.tolist(), reverse=True)
    return dict(zip(sketches.tolist(), most.tolist(), strict=True))


@given(seed=st.integers(0, 10_000), size=st.integers(0, 160), sketches=st.integers(1, 6), true=st.integers(0, 80))
def test_counts_are_those_of_the_obvious_way(seed: int, size: int, sketches: int, true: int) -> None:
    chance = np.random.default_rng(seed)
    theirs = points(seed, size)
    ours = points(seed + 1, size)
    ours[:true] = turned(theirs[:true], float(chance.uniform(-180, 180)))[:size]
    voter, sketch = np.sort(chance.integers(0, 60, size)), chance.integers(0, sketches, size)
    wanted = slow(voter.tolist(), sketch.tolist(), ours, theirs)
    assert counted(Cast(voter, sketch, ours, theirs)) == wanted


@pytest.mark.parametrize("degrees", [0, 17, 90, 200])
def test_all_votes_for_a_copy_agree_and_chance_votes_do_not(degrees: float) -> None:
    known = points(1, 40)
    known["octave"] = 3
    known["x"], known["y"] = known["x"] // 2 + 128 * 64, known["y"] // 2 + 128 * 64  # stays inside when turned
    numbers = np.arange(40)
    copy = Cast(numbers, np.zeros(40, np.int64), turned(known, degrees), known)
    assert counted(copy)[0] >= 38, "two keypoints may lie at one place"
    chance = counted(Cast(numbers, np.ones(40, np.int64), points(2, 40), known))
    assert chance.get(1, 0) <= 6
    few = copy.take(numbers < LEAST - 1)
    assert counted(few) == {}


def test_keypoints_of_one_place_are_one_vote() -> None:
    """A caption's letter, or a logo, has many descriptors at one place."""
    known = points(3, 20)
    known["x"], known["y"], known["angle"], known["octave"] = 6400, 6400, 0, 2
    assert counted(Cast(np.arange(20), np.zeros(20, np.int64), known, known)) == {}


def test_votes_agree_where_a_scale_explains_them() -> None:
    known = points(4, 30)
    known["octave"] = 2
    larger = turned(known, 0, SCALE_STEP**2)
    inside = (larger["x"] > 0) & (larger["x"] < 65535) & (larger["y"] > 0) & (larger["y"] < 65535)
    numbers = np.arange(int(inside.sum()))
    for octave, agree in ((4, True), (7, False)):  # the second says that it is much larger than it is
        larger["octave"] = octave
        found = counted(Cast(numbers, np.zeros(len(numbers), np.int64), larger[inside], known[inside])).get(0, 0)
        assert (found >= len(numbers) - 2) is agree
