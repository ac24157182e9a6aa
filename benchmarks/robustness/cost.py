"""`python -m benchmarks.robustness.cost FOLDER… --home HOME`: what a check of an unrelated picture costs.

HOME is one bank below the `--home` of `benchmarks.robustness.images`, enrolled before. Strangers
are made JPEGs of a megapixel, and each is decoded, decoded and hashed (PDQ), and checked
with both signals by the engine, in turns, on one core. What PDQ alone would have answered
(a match, or a picture without features) is left out.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2

from benchmarks.corpus import Picture
from benchmarks.measure import machine
from benchmarks.robustness import corpus
from benchmarks.robustness.edits_base import decode, encode, scaled
from hashing.pdq import pdq
from indexer.policy import Verdict
from service.engine import Engine
from service.settings import Settings

_PIXELS = 1_000_000


def megapixel(picture: Picture) -> bytes:
    """Return a picture as a JPEG of a megapixel."""
    height, width = picture.shape[:2]
    return encode(scaled(picture, (_PIXELS / (height * width)) ** 0.5))


def _took(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure(engine: Engine, files: Iterator[bytes], count: int) -> list[tuple[float, float, float]]:
    """Return (decoding, decoding and PDQ, the whole check) in seconds, for `count` files that match nothing."""
    rows: list[tuple[float, float, float]] = []
    for data in files:
        if engine.check_media(data, None).verdict is not Verdict.NO_MATCH:
            continue
        decoding = _took(lambda data=data: decode(data))  # type: ignore[misc]
        hashing = _took(lambda data=data: pdq(decode(data)))  # type: ignore[misc]
        rows.append((decoding, hashing, _took(lambda data=data: engine.check_media(data, None))))  # type: ignore[misc]
        if len(rows) == count:
            break
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--split", choices=("tune", "held_out"), default="held_out")
    parser.add_argument("--count", type=int, default=200)
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    split = corpus.pictures(asked.folders, asked.split, 1)
    with Engine(Settings.model_validate({"home": str(asked.home / "staydown"), "workers": 1})) as engine:
        engine.load_index()
        rows = measure(engine, (megapixel(corpus.load(item.path)) for item in split.distractors), asked.count)
        print(machine(), engine.index.sizes())
    names = ("decoding", "decoding and PDQ", "check")
    for name, times in zip(names, zip(*rows, strict=True), strict=True):
        print(f"{name}: median {1000 * statistics.median(times):.1f} ms")
    ratios = [check / hashing for _, hashing, check in rows]
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"check / (decoding and PDQ): median {middle:.2f}, middle half {low:.2f}–{high:.2f}, n = {len(ratios)}")


if __name__ == "__main__":
    main()
