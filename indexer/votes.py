"""Votes of a query's keypoints for sketches, and how many of them can be true at once. Pure arithmetic.

A vote says little by itself: some of a million descriptors are near to any. But all true
votes for a copy agree: each says how much the copy is turned and scaled, and any two of
them say it again, by the line from one keypoint to the other. Chance votes do not. So a
sketch has as many votes as the one that most others agree with: weak geometric
consistency (Jégou, Douze, Schmid: "Hamming embedding and weak geometric consistency for
large scale image search", ECCV 2008), made stronger by places.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hashing.keypoints import places
from hashing.signals import SCALE_STEP

Keys = NDArray[np.int64]
Keypoints = NDArray[np.void]

MOST = 48  # votes of one sketch that are compared with one another: more would be no surer
LEAST = 3  # fewer votes than this say nothing
TURN_RAD = 0.5  # by which two votes may differ, and the line between them from either
STEPS = 2  # of scale, likewise
STRETCH = 1.6  # of the line
APART_PX = 6.0  # in the sketch: two keypoints nearer than this are one place, seen twice
QUERY_APART_PX = 4.0


@dataclass(frozen=True, slots=True)
class Cast:
    """Votes as columns of one length: whose, for which sketch (a number), and the two keypoints (codes unused)."""

    voter: Keys
    sketch: Keys
    ours: Keypoints
    theirs: Keypoints

    def take(self, chosen: NDArray[np.bool_] | Keys) -> "Cast":
        """Return some of the votes."""
        return Cast(self.voter[chosen], self.sketch[chosen], self.ours[chosen], self.theirs[chosen])


def _runs(groups: Keys) -> tuple[Keys, Keys]:
    """Return for each of sorted group numbers where its group starts and stops."""
    return np.searchsorted(groups, groups), np.searchsorted(groups, groups, side="right")


def _once(cast: Cast) -> Cast:
    """Keep one vote of a voter for a sketch (the first, which is for the nearest), in order of sketches and voters."""
    order = np.lexsort((cast.voter, cast.sketch))
    sketch, voter = cast.sketch[order], cast.voter[order]
    new = np.ones(len(order), bool)
    new[1:] = (sketch[1:] != sketch[:-1]) | (voter[1:] != voter[:-1])
    return cast.take(order[new])


def _enough(cast: Cast) -> Cast:
    """Keep up to MOST votes of each sketch that has LEAST."""
    start, stop = _runs(cast.sketch)
    return cast.take((stop - start >= LEAST) & (np.arange(len(start)) - start < MOST))


def _pairs(sketch: Keys) -> tuple[Keys, Keys]:
    """Return (one, other) of all pairs of votes for the same sketch, each pair in both orders."""
    start, stop = _runs(sketch)
    many = stop - start
    one = np.repeat(np.arange(len(sketch)), many)
    step = np.arange(len(one)) - np.repeat(np.cumsum(many) - many, many)
    return one, start[one] + step


def _complex(points: Keypoints) -> NDArray[np.complex128]:
    where = places(points).astype(np.float64)
    found: NDArray[np.complex128] = where[:, 0] + 1j * where[:, 1]
    return found


def _agree(cast: Cast, one: Keys, other: Keys) -> NDArray[np.bool_]:
    """Say of each pair of votes whether both can be true."""
    turned = cast.ours["angle"].astype(np.float64) - cast.theirs["angle"]
    turn = np.exp(2j * np.pi / 256 * turned)
    scale = cast.ours["octave"].astype(np.float64) - cast.theirs["octave"]
    here, there = _complex(cast.ours), _complex(cast.theirs)
    line, known = here[other] - here[one], there[other] - there[one]
    long, long_known = np.abs(line), np.abs(known)
    apart = (long > QUERY_APART_PX) & (long_known > APART_PX)
    stretch = long / np.maximum(long_known, APART_PX) / SCALE_STEP ** ((scale[one] + scale[other]) / 2)
    same_turn = np.abs(np.angle(turn[one] * np.conj(turn[other]))) < TURN_RAD
    along = np.abs(np.angle(line * np.conj(known) * np.conj(turn[one] + turn[other]))) < TURN_RAD
    same_scale = (np.abs(scale[one] - scale[other]) <= STEPS) & (stretch < STRETCH) & (stretch > 1 / STRETCH)
    found: NDArray[np.bool_] = apart & same_turn & along & same_scale
    return found


def count(cast: Cast) -> tuple[Keys, Keys]:
    """Return (numbers of sketches, their votes that agree), most votes first; none of fewer than LEAST."""
    votes = _enough(_once(cast))
    if not len(votes.sketch):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    one, other = _pairs(votes.sketch)
    agreeing = 1 + np.bincount(one[_agree(votes, one, other)], minlength=len(votes.sketch))
    sketches, first = np.unique(votes.sketch, return_index=True)
    most = np.maximum.reduceat(agreeing, first)
    order = np.argsort(-most, kind="stable")
    order = order[most[order] >= LEAST]
    return sketches[order], most[order]
