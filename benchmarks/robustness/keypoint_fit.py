"""`python -m benchmarks.robustness.keypoint_fit FOLDER…`: the numbers by which policy scores keypoint evidence.

A bank of pictures of the tune split is sketched. Copies of some, made by every edit, and
strangers through the same edits ask it; every candidate that the votes bring is
confirmed. A logistic regression then tells right pairs from wrong ones, and the tail of
the scores that wrong pairs reach is fitted as a straight line in its logarithm. Prints
the constants of `indexer/policy.py`, and the recall of the edits at several scores.
"""

import argparse
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpus import Picture
from benchmarks.measure import machine
from benchmarks.robustness import corpus
from benchmarks.robustness.corpus import Split
from benchmarks.robustness.edits import EDITS, apply
from benchmarks.robustness.edits_base import decode
from hashing.hasher import confirm_pairs
from hashing.keypoints import ENROLL_KEYPOINTS, PAIR_DTYPE, QUERY_KEYPOINTS, plane_of, sketch, sketch_both, turned_over
from hashing.media import Frame
from hashing.signals import Sketches
from indexer.descriptors import Descriptors, voters
from indexer.keypoint_matcher import CANDIDATES, MIN_VOTES
from indexer.policy import MIN_BLOCKS, MIN_INLIERS, keypoint_features

Floats = NDArray[np.float64]
_STEPS, _RIDGE = 60, 0.5
_SAME_SCORE = 6.0  # a stranger that scores so high was looked at, and is the same picture


@dataclass(slots=True)
class Bank:
    """Sketched pictures and the search over them; kept for the worker processes."""

    sketches: Sketches
    descriptors: Descriptors
    split: Split
    partners: list[Picture]


_banks: list[Bank] = []


def _sketch_bank(split: Split, size: int) -> None:
    rows = [sketch(plane_of(Frame(corpus.load(item.path))), ENROLL_KEYPOINTS) for item in split.bank[:size]]
    bank = Bank(np.concatenate(rows), Descriptors(), split, [corpus.load(i.path) for i in split.distractors[-12:]])
    bank.descriptors.add(np.arange(len(rows)), bank.sketches)
    _banks[:] = [bank]


def _candidates(picture: Picture) -> tuple[list[int], Floats]:
    """Return the numbers of the bank's pictures that the votes bring, and the features of each."""
    bank, plane = _banks[0], plane_of(Frame(picture))
    planes, rows = [plane, turned_over(plane)], sketch_both(plane, QUERY_KEYPOINTS)
    found: list[tuple[int, int]] = []
    for number, row in enumerate(rows):
        votes = bank.descriptors.vote(voters(row))
        best = zip(votes.sketch_pk[:CANDIDATES].tolist(), votes.votes[:CANDIDATES].tolist(), strict=True)
        found += [(number, pk) for pk, count in best if count >= MIN_VOTES]
    pairs = np.zeros(len(found), PAIR_DTYPE)
    pairs["query"], pairs["reference"] = [n for n, _ in found], bank.sketches[[pk for _, pk in found]]
    evidence = confirm_pairs(rows, planes, pairs)
    usable = (evidence["inliers"] >= MIN_INLIERS) & (evidence["blocks"] >= MIN_BLOCKS)
    return [pk for (_, pk), use in zip(found, usable, strict=True) if use], keypoint_features(evidence[usable])


def _agreement(features: Floats) -> float:
    return float(features[0] * max(features[5], 0.0))


def _ask(name: str, queries: int) -> tuple[list[Floats], list[Floats], int]:
    """Return features of right pairs and of wrong ones, and how many copies were asked about."""
    bank, seed = _banks[0], zlib.crc32(name.encode()) % 9973
    right, wrong = [], []
    for number in range(queries):
        truth = (seed + 131 * number) % len(bank.sketches)
        stranger = bank.split.distractors[(seed + 37 * number) % (len(bank.split.distractors) - 12)]
        for path, true in ((bank.split.bank[truth].path, truth), (stranger.path, -1)):
            pks, features = _candidates(decode(apply(name, corpus.load(path), number, bank.partners)))
            mine = [row for pk, row in zip(pks, features, strict=True) if pk == true]
            right += sorted(mine, key=_agreement)[-1:]  # the others of the same picture are mirrored or misplaced
            wrong += [row for pk, row in zip(pks, features, strict=True) if pk != true]
    return right, wrong, queries


def logistic(features: Floats, right: NDArray[np.bool_]) -> Floats:
    """Return the weights of a ridge logistic regression, the bias last (Newton's method)."""
    mean, spread = features.mean(0), features.std(0) + 1e-9
    columns = np.c_[(features - mean) / spread, np.ones(len(features))]
    ridge = _RIDGE * np.r_[np.ones(features.shape[1]), 0.0]
    weights = np.zeros(columns.shape[1])
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-columns @ weights))
        slope = columns.T @ (right - chance) - ridge * weights
        bend = (columns * (chance * (1 - chance))[:, None]).T @ columns + np.diag(ridge + 1e-9)
        weights += np.linalg.solve(bend, slope)
    plain: Floats = weights[:-1] / spread
    return np.append(plain, weights[-1] - float(plain @ mean))


def tail(scores: Floats, asked: int) -> tuple[float, float]:
    """Return log10 of the rate of wrong scores at 0 for one of `asked` comparisons, and its fall a point."""
    ordered = np.sort(scores[scores < _SAME_SCORE])[::-1]
    ranks = np.arange(4, min(len(ordered), 120))
    slope, start = np.polyfit(ordered[ranks], np.log10((ranks + 1) / asked), 1)
    return float(start), float(-slope)


def main() -> None:
    """Collect, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--bank", type=int, default=1500)
    parser.add_argument("--queries", type=int, default=6)
    asked = parser.parse_args()
    split = corpus.pictures(asked.folders, "tune")
    right: list[Floats] = []
    wrong: list[Floats] = []
    copies = 0
    with corpus.workers(2, _sketch_bank, split, asked.bank) as processes:
        for found in processes.map(_ask, EDITS, [asked.queries] * len(EDITS)):
            right, wrong, copies = right + found[0], wrong + found[1], copies + found[2]
    features = np.array(right + wrong)
    truth = np.arange(len(features)) < len(right)
    weights = logistic(features, truth)
    scores = features @ weights[:-1] + weights[-1]
    bank = min(asked.bank, len(split.bank))
    print(machine())
    print(
        f"{copies} copies and as many strangers against {bank} pictures: {len(right)} right pairs, {len(wrong)} wrong"
    )
    print("weights", weights.round(3).tolist())
    print("tail", tail(scores[~truth], 2 * copies * 2 * bank))
    for least in (-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0):
        share, false = (scores[truth] >= least).sum() / copies, int((scores[~truth] >= least).sum())
        print(f"score >= {least}: recall {share:.3f}, wrong pairs {false}")
    print("highest wrong", np.sort(scores[~truth])[::-1][:12].round(2).tolist())


if __name__ == "__main__":
    main()
