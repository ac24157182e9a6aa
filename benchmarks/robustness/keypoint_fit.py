"""`python -m benchmarks.robustness.keypoint_fit FOLDER…`: the numbers by which policy scores keypoint evidence.

A bank of pictures of the tune half (and of `--fill` folders) is _sketched. It is asked about
copies of some by every edit, strangers as they are and through the same edits, and each of
its own pictures: what else of the bank looks like it. Every candidate that the votes bring
is confirmed. A logistic regression tells right pairs from wrong ones; the scores of the
surest wrong answer to each stranger give the null distribution. Prints the constants of
`indexer/policy.py`, and recall and wrong answers at several scores.

Public sets hold pictures twice. Pairs that were looked at and show the same picture or
thing stand in `same.txt` beside this file, by the beginnings of their SHA-256.
"""

import argparse
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.corpus import Picture
from benchmarks.measure import machine
from benchmarks.robustness import corpus
from benchmarks.robustness.corpus import Item, Split
from benchmarks.robustness.edits import EDITS, apply
from benchmarks.robustness.edits_base import decode
from hashing.edges import Plane
from hashing.evidence import PAIR_DTYPE, Pairs
from hashing.hasher import confirm_pairs
from hashing.keypoints import ENROLL_KEYPOINTS, QUERY_KEYPOINTS, plane_of, sketch, sketch_both, turned_over
from hashing.media import Frame
from hashing.signals import Sketches
from indexer.descriptors import Descriptors, voters
from indexer.keypoint_matcher import CANDIDATES
from indexer.policy import keypoint_enough, keypoint_features

Floats = NDArray[np.float64]
_STEPS, _RIDGE = 60, 0.5
_PARTNERS = 12
_SAME = Path(__file__).with_name("same.txt")
COPY, PLAIN, EDITED, ALIKE = "copies", "strangers", "strangers, edited", "look-alikes"


@dataclass(slots=True)
class Bank:
    """Sketched pictures and the search over them; kept for the worker processes."""

    items: Sequence[Item]
    sketches: Sketches
    descriptors: Descriptors
    partners: list[Picture]


@dataclass(frozen=True, slots=True)
class Query:
    """One picture that is asked about, edited if an edit is named."""

    kind: str
    item: Item
    edit: str
    seed: int


@dataclass(frozen=True, slots=True)
class Asked:
    """The candidates of one query: whether each is the picture itself, and its features (n, 4)."""

    query: Query
    right: NDArray[np.bool_]
    features: Floats


Opening = tuple[Sequence[Item], Sketches, Sequence[Path]]
_banks: list[Bank] = []


def _sketched(path: Path) -> Sketches:
    return sketch(plane_of(Frame(corpus.load(path))), ENROLL_KEYPOINTS)


def open_bank(items: Sequence[Item], sketches: Sketches, partners: Sequence[Path]) -> None:
    """Make this process's bank."""
    bank = Bank(items, sketches, Descriptors(), [corpus.load(path) for path in partners])
    bank.descriptors.add(np.arange(len(items)), sketches)
    _banks[:] = [bank]


def enrolled(folders: Sequence[Path], fill: Sequence[Path], processes: int) -> tuple[Split, Opening]:
    """Return the tune half, and what `open_bank` takes: its pictures enrolled, and what fills the bank."""
    split = corpus.pictures(folders, "tune", processes, fill)
    items = [*split.bank, *split.fill]
    with corpus.workers(processes, cv2.setNumThreads, 1) as pool:
        sketches = np.concatenate(list(pool.map(_sketched, [item.path for item in items], chunksize=64)))
    return split, (items, sketches, [item.path for item in split.distractors[-_PARTNERS:]])


def opened_bank() -> Bank:
    """Return this process's bank."""
    return _banks[0]


def candidates(rows: Sketches) -> tuple[list[int], Pairs]:
    """Return the numbers of the bank's pictures that the votes of a query's sketches bring, paired with these."""
    bank = _banks[0]
    voted = [bank.descriptors.vote(voters(row)).sketch_pk[:CANDIDATES].tolist() for row in rows]
    found = [(number, pk) for number, best in enumerate(voted) for pk in best]
    pairs = np.zeros(len(found), PAIR_DTYPE)
    pairs["query"], pairs["reference"] = [n for n, _ in found], bank.sketches[[pk for _, pk in found]]
    return [pk for _, pk in found], pairs


def shown(query: Query) -> Picture:
    """Return the picture that is asked about, edited."""
    picture = corpus.load(query.item.path)
    return decode(apply(query.edit, picture, query.seed, _banks[0].partners)) if query.edit else picture


def looked(picture: Picture) -> tuple[list[Plane], Sketches]:
    """Return a query's planes and sketches: the picture's, and its mirror image's."""
    plane = plane_of(Frame(picture))
    return [plane, turned_over(plane)], sketch_both(plane, QUERY_KEYPOINTS)


def ask(query: Query) -> Asked:
    """Ask this process's bank."""
    bank, (planes, rows) = _banks[0], looked(shown(query))
    numbers, pairs = candidates(rows)
    evidence = confirm_pairs(rows, planes, pairs)
    usable = keypoint_enough(evidence)
    found = [bank.items[number].sha256 for number, use in zip(numbers, usable, strict=True) if use]
    right = np.array([digest == query.item.sha256 for digest in found], bool)
    known = np.array([_same(digest, query.item.sha256) for digest in found], bool)
    features = keypoint_features(evidence[usable])
    return Asked(query, right[~known], features[~known])


def _pairs_looked_at() -> frozenset[frozenset[str]]:
    lines = (line.partition("#")[0].split() for line in _SAME.read_text().splitlines())
    return frozenset(frozenset(words) for words in lines if words)


_looked_at = _pairs_looked_at()


def _same(one: str, other: str) -> bool:
    """Say whether two pictures were looked at and show the same."""
    return frozenset((one[:12], other[:12])) in _looked_at


def queries(split: Split, copies: int) -> Iterator[Query]:
    """Yield everything that is asked."""
    strangers = split.distractors[:-_PARTNERS]
    for edit in EDITS:
        start = zlib.crc32(edit.encode()) % 9973
        for number in range(copies):
            yield Query(COPY, split.bank[(start + 131 * number) % len(split.bank)], edit, number)
            yield Query(EDITED, strangers[(start + 37 * number) % len(strangers)], edit, number)
    yield from (Query(PLAIN, item, "", 0) for item in strangers)
    yield from (Query(ALIKE, item, "", 0) for item in split.bank)


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


def surest(asked: Sequence[Asked], scores: Sequence[Floats], kind: str, *, right: bool) -> Floats:
    """Return the highest score of each query of a kind among its right or its wrong candidates; -inf if none."""
    return np.array(
        [
            score[each.right == right].max(initial=-np.inf)
            for each, score in zip(asked, scores, strict=True)
            if each.query.kind == kind
        ]
    )


def tail(scores: Floats, compared: int) -> tuple[float, float]:
    """Return log10 of the rate of false pairs at score 0 for one of `compared` pairs a query, and its fall a point.

    A straight line through the logarithm of the rates from the fifth surest answer to where
    one query in twenty has one as sure.
    """
    ordered = np.sort(scores)[::-1]
    ranks = np.arange(4, max(len(ordered) // 20, 8))
    rates = -np.log1p(-(ranks + 1) / len(ordered)) / compared
    slope, start = np.polyfit(ordered[ranks], np.log10(rates), 1)
    return float(start), float(-slope)


def _print(asked: Sequence[Asked], weights: Floats, compared: int) -> None:
    scores = [each.features @ weights[:-1] + weights[-1] for each in asked]
    copies = surest(asked, scores, COPY, right=True)
    wrong = {kind: surest(asked, scores, kind, right=False) for kind in (PLAIN, EDITED, ALIKE, COPY)}
    print("weights", weights[:-1].round(3).tolist(), "bias", round(float(weights[-1]), 3))
    print("tail", tail(np.concatenate([wrong[PLAIN], wrong[EDITED]]), compared))
    print("queries", {kind: len(found) for kind, found in wrong.items()})
    for least in (-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0):
        share = {kind: int((found >= least).sum()) for kind, found in wrong.items()}
        print(f"score >= {least}: copies {(copies >= least).mean():.4f}, wrong", share)
    for kind in wrong:
        first = sorted(
            (
                (float(score[~each.right].max(initial=-np.inf)), each.query.item.name, each.query.edit)
                for each, score in zip(asked, scores, strict=True) if each.query.kind == kind
            ), reverse=True,
        )  # fmt: skip
        print("surest wrong,", kind, [(round(score, 1), name, edit) for score, name, edit in first[:8]])


def main() -> None:
    """Collect, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--fill", type=Path, nargs="*", default=[], help="folders whose pictures stand in the bank")
    parser.add_argument("--queries", type=int, default=8, help="how many copies, and strangers, for each edit")
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    split, opening = enrolled(asked.folders, asked.fill, asked.processes)
    items = opening[0]
    with corpus.workers(asked.processes, open_bank, *opening) as pool:
        answers = list(pool.map(ask, queries(split, asked.queries), chunksize=32))
    right = np.concatenate([each.right for each in answers])
    features = np.concatenate([each.features for each in answers])
    used = np.concatenate([each.right <= (each.query.kind == COPY) for each in answers])  # itself, plain, is no copy
    print(machine(), f"{len(items)} pictures enrolled, {len(split.bank)} of them asked about")
    _print(answers, logistic(features[used], right[used]), 2 * len(items))


if __name__ == "__main__":
    main()
