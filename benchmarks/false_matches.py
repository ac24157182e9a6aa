"""`python -m benchmarks.false_matches FOLDER…`: how near unrelated photographs come to one another.

Hashes every picture below the folders, takes all distances between two of them, and fits
the lines of `indexer.policy._TAILS`: log10 of the rate of pairs at or below a distance,
`intercept + slope · bits`, over distances with a few to a few thousand pairs, raised so that
it is an upper estimate. Pairs that agree in PDQ and phash both are the same picture twice,
and are counted apart.

Give it photographs that have nothing to do with staydown. Nothing is written.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hashing.errors import MediaError
from hashing.hasher import Plan
from hashing.media import Sampling
from hashing.sandbox import Pool
from hashing.signals import (
    HASH_BITS,
    HASH_BYTES,
    PROFILE_OF_TYPE,
    TRANSFORMS,
    VIEWS,
    Codes,
    Frames,
    Signal,
    SignalType,
    Transform,
    View,
)
from indexer.policy import MIN_QUALITY
from service.settings import worker_environment

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".heic", ".gif", ".tif", ".tiff"}
TYPES = (SignalType.PDQ, SignalType.PHASH, SignalType.DHASH, SignalType.WHASH)
MIRRORED = "pdq, any symmetry"
DUPLICATE_BITS = 31  # in PDQ and in phash: the same picture, not a false match
FIT_PAIRS = (5, 5_000)  # the line is fitted where so many pairs lie at or below a distance
AIMED_RATE = 1e-7  # of a pair, for a threshold
_BLOCK = 256  # rows compared at a time: 256 × 10,000 distances of four types are 20 MB

Histogram = NDArray[np.int64]  # (257,) pairs at each distance in bits


@dataclass(frozen=True, slots=True)
class Tail:
    """The fitted line of one type: log10 of the rate of pairs at or below a distance."""

    intercept: float
    slope: float
    from_bits: int
    to_bits: int

    def bits_at(self, rate: float) -> int:
        """Return the largest distance whose rate is no more than `rate`; -1 if there is none."""
        return max(-1, int(np.floor((np.log10(rate) - self.intercept) / self.slope)))


@dataclass(frozen=True, slots=True)
class Hashes:
    """Codes of n pictures: (n, 32) for each type, and PDQ in all eight forms, (n, 8, 32)."""

    codes: dict[SignalType, Codes]
    forms: Codes
    skipped: int

    def __len__(self) -> int:
        return len(self.forms)


# --- hashing ----------------------------------------------------------------------------


def _full(rows: Frames, signal_type: SignalType, transform: Transform = Transform.NONE) -> Codes:
    chosen = (
        (rows["profile"] == PROFILE_OF_TYPE[signal_type])
        & (rows["view"] == VIEWS.index(View.FULL))
        & (rows["transform"] == TRANSFORMS.index(transform))
        & (rows["quality"] >= MIN_QUALITY)
    )
    codes: Codes = rows["hash"][chosen]
    return codes[:1]


def _codes(signal: Signal) -> list[Codes] | None:
    """Return the eight forms of PDQ and then one code of each other type; None if of too little quality."""
    found = [_full(signal.frames, SignalType.PDQ, transform) for transform in TRANSFORMS]
    found += [_full(signal.frames, kind) for kind in TYPES[1:]]
    return found if all(map(len, found)) else None


def pictures_below(folders: Iterable[Path]) -> list[Path]:
    """Return the picture files below folders, by name."""
    return sorted(path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def _hashed(pool: Pool, paths: Sequence[Path]) -> Iterator[list[Codes] | None]:
    plan = Plan(Sampling.SPARSE, frozenset(TYPES))

    def one(path: Path) -> list[Codes] | None:
        try:
            return _codes(pool.hash_media(path.read_bytes(), plan))
        except (MediaError, OSError):
            return None

    with ThreadPoolExecutor(pool.workers) as threads:
        yield from threads.map(one, paths)


def hash_all(paths: Sequence[Path], workers: int) -> Hashes:
    """Hash pictures in worker processes; those without features or that cannot be read are skipped."""
    with Pool(workers, worker_environment()) as pool:
        rows = [np.concatenate(codes) for codes in _hashed(pool, paths) if codes is not None]
    table = np.stack(rows) if rows else np.empty((0, len(TRANSFORMS) + len(TYPES) - 1, HASH_BYTES), np.uint8)
    forms, others = table[:, : len(TRANSFORMS)], table[:, len(TRANSFORMS) :]
    codes = {SignalType.PDQ: forms[:, 0]} | {kind: others[:, place] for place, kind in enumerate(TYPES[1:])}
    return Hashes({kind: np.ascontiguousarray(code) for kind, code in codes.items()}, forms, len(paths) - len(rows))


# --- distances --------------------------------------------------------------------------


def between(some: Codes, others: Codes) -> NDArray[np.int16]:
    """Return distances in bits, (a, b), of codes (a, 32) and (b, 32)."""
    left, right = (np.ascontiguousarray(codes).view(np.uint64) for codes in (some, others))
    total = np.zeros((len(left), len(right)), np.int16)
    for word in range(left.shape[1]):
        total += np.bitwise_count(left[:, word, None] ^ right[None, :, word])
    return total


def _count(distances: NDArray[np.int16]) -> Histogram:
    return np.bincount(distances.ravel(), minlength=HASH_BITS + 1).astype(np.int64)


def histograms(hashes: Hashes) -> tuple[dict[str, Histogram], int]:
    """Return how many pairs lie at each distance, by type, and how many were the same picture twice."""
    names = [*(kind.value for kind in TYPES), MIRRORED]
    found = {name: np.zeros(HASH_BITS + 1, np.int64) for name in names}
    duplicates = 0
    for start in range(0, len(hashes), _BLOCK):
        stop = min(start + _BLOCK, len(hashes))
        apart = {kind.value: between(code[start:stop], code[start:]) for kind, code in hashes.codes.items()}
        later = np.arange(start, len(hashes))[None, :] > np.arange(start, stop)[:, None]
        nearest = apart[SignalType.PDQ.value].copy()
        for form in range(1, len(TRANSFORMS)):
            turned = between(hashes.forms[start:stop, form], hashes.codes[SignalType.PDQ][start:])
            np.minimum(nearest, turned, out=nearest)
        apart[MIRRORED] = nearest
        same = (nearest <= DUPLICATE_BITS) & (apart[SignalType.PHASH.value] <= DUPLICATE_BITS)
        duplicates += int((same & later).sum())
        for name, distances in apart.items():
            found[name] += _count(distances[later & ~same])
    return found, duplicates


def fit(histogram: Histogram) -> Tail | None:
    """Fit the line and raise it until no rate that was measured lies above; None for too few distances.

    Every distance counts alike, so that the near ones, which few pairs reach, rule as much as the far ones.
    """
    below = np.cumsum(histogram)
    usable = np.flatnonzero((below >= FIT_PAIRS[0]) & (below <= min(FIT_PAIRS[1], below[-1] // 100)))
    if len(usable) < 3:
        return None
    logs = np.log10(below[usable] / below[-1])
    slope, intercept = np.polyfit(usable, logs, 1)
    raised = intercept + (logs - (intercept + slope * usable)).max()
    return Tail(float(raised), float(slope), int(usable[0]), int(usable[-1]))


# --- text -------------------------------------------------------------------------------


def _counts_table(found: dict[str, Histogram]) -> list[str]:
    thresholds = [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 24, 28, 31, 36, 40, 46, 50, 56, 60, 64]
    out = ["| pairs at or below | " + " | ".join(found) + " |", "|" + " --: |" * (len(found) + 1)]
    sums = [np.cumsum(histogram) for histogram in found.values()]
    return out + [f"| {bits} | " + " | ".join(f"{below[bits]:,}" for below in sums) + " |" for bits in thresholds]


def _tail_line(name: str, histogram: Histogram) -> str:
    tail = fit(histogram)
    if tail is None:
        return f"- {name}: too few pairs to fit a line"
    least = int(np.flatnonzero(histogram)[0])
    return (
        f"- {name}: log10(rate) = {tail.intercept:.2f} + {tail.slope:.4f} · bits, fitted over "
        f"{tail.from_bits}–{tail.to_bits} bits; nearest pair {least} bits; "
        f"{tail.bits_at(AIMED_RATE)} bits for {AIMED_RATE:g} a pair"
    )


def text_of(hashes: Hashes) -> str:
    """Return everything that is to be known of the distances."""
    found, duplicates = histograms(hashes)
    pairs = len(hashes) * (len(hashes) - 1) // 2
    head = [
        f"{len(hashes):,} pictures of quality ≥ {MIN_QUALITY} ({hashes.skipped} skipped), {pairs:,} pairs.",
        f"Left out: {duplicates:,} pairs that are the same picture twice (≤ {DUPLICATE_BITS} bits in pdq and phash).",
    ]
    tails = [_tail_line(name, histogram) for name, histogram in found.items()]
    return "\n".join([*head, "", *_counts_table(found), "", *tails])


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="benchmarks.false_matches")
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes that decode")
    asked = parser.parse_args()
    paths = pictures_below(asked.folders)
    if len(paths) < 2:
        parser.error("there are no pictures below these folders")
    print(text_of(hash_all(paths, asked.workers)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
