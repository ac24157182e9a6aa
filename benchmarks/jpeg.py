"""`python -m benchmarks.jpeg [FOLDER…]`: what a query's short way through a JPEG saves, and what it costs in bits.

A query has a JPEG decoded to luma alone, and a large one to a smaller picture; enrolment decodes it
whole. Here both are done in turns, for JPEGs of any folders, or for pictures that we make. Pictures
that match nothing anyway (quality below the policy's) are left out.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import corpus
from benchmarks.measure import machine
from hashing.errors import MediaError
from hashing.media import Frame, Limits, Sampling
from hashing.pdq import pdq
from hashing.signals import distances
from hashing.stills import Still
from indexer.policy import MIN_QUALITY

MADE = ((512, 512), (1152, 864), (1920, 1080), (4000, 3000))
ROUNDS = 3


def jpegs(folders: list[Path]) -> Iterator[bytes]:
    """Yield the files' bytes, or those of pictures that we make."""
    if not folders:
        yield from (corpus.jpeg(corpus.picture(seed, *size), 85) for size in MADE for seed in range(8))
    for folder in folders:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg"})
        yield from (path.read_bytes() for path in paths)


def decoded(data: bytes, sampling: Sampling) -> tuple[Frame, float]:
    """Return the first picture, and the least seconds that decoding it took; CorruptMedia."""
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        frame = next(iter(Still(data, Limits()).frames(sampling)))
        took.append(time.perf_counter() - began)
    return frame, min(took)


def main() -> None:
    """Print a table by how much smaller a picture is decoded."""
    parser = argparse.ArgumentParser(prog="benchmarks.jpeg")
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--count", type=int, default=2000, help="of pictures at most")
    asked = parser.parse_args()
    found: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for number, data in enumerate(jpegs(asked.folders)):
        if number >= asked.count:
            break
        try:
            (whole, whole_s), (spared, spared_s) = decoded(data, Sampling.DENSE), decoded(data, Sampling.SPARSE)
        except (MediaError, StopIteration):
            continue
        exact = pdq(np.ascontiguousarray(whole.pixels))
        if exact.quality >= MIN_QUALITY:
            bits = int(distances(pdq(spared.pixels, spared.full).codes[:1], exact.codes[0])[0])
            found[round(whole.pixels.shape[0] / spared.pixels.shape[0])].append((bits, whole_s / spared_s))
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print("| decoded | pictures | bits, mean | 99 % | most | times as fast, median |")
    print("| --- | --- | --- | --- | --- | --- |")
    for times, rows in sorted(found.items()):
        bits, faster = np.array(rows).T
        how = "luma alone" if times == 1 else f"and 1/{times} of each side"
        print(f"| {how} | {len(rows)} | {bits.mean():.2f} | {np.quantile(bits, 0.99):.0f} | {bits.max():.0f} "
              f"| {np.median(faster):.1f} |")  # fmt: skip


if __name__ == "__main__":
    main()
