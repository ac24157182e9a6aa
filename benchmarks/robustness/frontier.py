"""`python -m benchmarks.robustness.frontier FOLDER… --fill FOLDER…`: what keypoints find, against what they cost.

The tune half is enrolled, and asked about with edited copies that PDQ misses and with
strangers, once for each setting of the search: how many keypoints vote, into how many lists
they look, whether the mirror image is asked about, whether a candidate is looked at twice.
Cost is processor time of a stranger's sketch, votes and confirmation in one process, as a
ratio to decoding the same picture as a JPEG of a megapixel and hashing it with PDQ.
"""

import argparse
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks.corpus import Picture
from benchmarks.measure import machine
from benchmarks.robustness import corpus, keypoint_fit
from benchmarks.robustness.corpus import Item
from benchmarks.robustness.cost import megapixel
from benchmarks.robustness.edits_base import decode
from benchmarks.robustness.keypoint_fit import COPY, PLAIN, Query
from hashing import evidence
from hashing.hasher import confirm_pairs
from hashing.pdq import pdq
from hashing.signals import SignalType, Sketches, distances
from indexer import descriptors
from indexer.policy import POLICIES, keypoint_score

Setting = Mapping[str, int]
SETTINGS: dict[str, Setting] = {
    "as it is": {},
    "one look": {"_SURE_INLIERS": -1},
    "no mirror image": {"MIRRORED_VOTERS": 0},
    "mirror image as the picture": {"MIRRORED_VOTERS": descriptors.VOTERS},
    "200 voters": {"VOTERS": 200, "MIRRORED_VOTERS": 125},
    "100 voters": {"VOTERS": 100, "MIRRORED_VOTERS": 62},
    "600 voters": {"VOTERS": 600, "MIRRORED_VOTERS": 375},
    "1 list": {"PROBES": 1},
    "2 lists": {"PROBES": 2},
    "8 lists, whatever their distance": {"PROBES": 8, "FURTHER_BITS": 256},
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of one query. Times are processor time in seconds; `base_s` is decoding and PDQ."""

    query: Query
    candidate: bool  # the picture itself is one
    score: float  # of it
    candidates: int
    sketch_s: float
    votes_s: float
    confirm_s: float
    base_s: float


def _open(setting: Setting, items: Sequence[Item], sketches: Sketches, partners: Sequence[Path]) -> None:
    cv2.setNumThreads(1)
    for name, value in setting.items():
        setattr(evidence if hasattr(evidence, name) else descriptors, name, value)
    keypoint_fit.open_bank(items, sketches, partners)


def _base_s(picture: Picture) -> float:
    data = megapixel(picture)
    start = time.process_time()
    pdq(decode(data))
    return time.process_time() - start


def _missed(picture: Picture, item: Item) -> bool:
    """Say whether PDQ, in all symmetries, is too far away."""
    reference = pdq(corpus.load(item.path)).codes[0]
    return bool(distances(pdq(picture).codes, reference).min() > POLICIES["default"].same_bits(SignalType.PDQ))


def ask(query: Query) -> Seen | None:
    """Ask this process's bank; None of a copy that PDQ finds."""
    picture = keypoint_fit.shown(query)
    if query.edit and not _missed(picture, query.item):
        return None
    times = [time.process_time()]
    planes, rows = keypoint_fit.looked(picture)
    times.append(time.process_time())
    numbers, pairs = keypoint_fit.candidates(rows)
    times.append(time.process_time())
    scores = keypoint_score(confirm_pairs(rows, planes, pairs))
    times.append(time.process_time())
    items = keypoint_fit.opened_bank().items
    right = np.array([items[number].sha256 == query.item.sha256 for number in numbers], bool)
    taken = np.diff(times).tolist()
    base_s = 0.0 if query.edit else _base_s(picture)
    return Seen(query, bool(right.any()), float(scores[right].max(initial=-np.inf)), len(numbers),
                taken[0], taken[1], taken[2], base_s)  # fmt: skip


def line(name: str, seen: Sequence[Seen]) -> str:
    """Return a line of the table."""
    copies = [each for each in seen if each.query.kind == COPY]
    strangers = [each for each in seen if each.query.kind == PLAIN]
    least = POLICIES["default"].match.least_score
    found, brought = (100 * statistics.mean(values) for values in (
        [each.score >= least for each in copies], [each.candidate for each in copies]))  # fmt: skip
    base = 1000 * statistics.median(each.base_s for each in strangers)
    parts = [1000 * statistics.median(getattr(each, part) for each in strangers)
             for part in ("sketch_s", "votes_s", "confirm_s")]  # fmt: skip
    several = statistics.mean(each.candidates for each in strangers)
    cells = [f"{brought:.1f}", f"{found:.1f}", f"{several:.2f}", *(f"{part:.1f}" for part in parts)]
    return f"| {name} | {' | '.join(cells)} | {1 + sum(parts) / base:.1f} |"


def main() -> None:
    """Enroll, ask with every setting, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--fill", type=Path, nargs="*", default=[], help="folders whose pictures stand in the bank")
    parser.add_argument("--queries", type=int, default=3, help="how many copies for each edit")
    parser.add_argument("--strangers", type=int, default=100)
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    split, opening = keypoint_fit.enrolled(asked.folders, asked.fill, asked.processes)
    chosen = _chosen(keypoint_fit.queries(split, asked.queries), asked.strangers)
    print(machine(), f"{len(opening[0])} pictures enrolled")
    print(
        "| setting | is a candidate % | match % | a stranger's candidates | sketch ms | votes ms | confirm ms | ratio |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, setting in SETTINGS.items():
        with corpus.workers(asked.processes, _open, setting, *opening) as pool:
            seen = [each for each in pool.map(ask, chosen, chunksize=16) if each is not None]
        print(line(name, seen), flush=True)


def _chosen(every: Iterable[Query], strangers: int) -> list[Query]:
    found = list(every)
    plain = [query for query in found if query.kind == PLAIN]
    return [query for query in found if query.kind == COPY] + plain[:strangers]


if __name__ == "__main__":
    main()
