"""`python -m benchmarks.robustness.centres`: draws pictures and writes the centres of `indexer/descriptors.py`.

The centres are 4,096 of the descriptors of eighty pictures that we draw, so that the
lists of an inverted file are about as even as those of centres drawn from photographs
(docs/accuracy.md). Whoever changes them has to rebuild nothing but the index.
"""

from pathlib import Path

import numpy as np

from benchmarks.corpus import picture
from hashing.keypoints import describe, detect, plane_of
from hashing.media import Frame

CENTRES, PICTURES, CORNERS = 4096, 80, 400
TARGET = Path(__file__).parents[2] / "indexer" / "centres.bin"


def main() -> None:
    """Write the file."""
    planes = [plane_of(Frame(picture(70_000 + seed))) for seed in range(PICTURES)]
    codes = np.concatenate([describe(plane, detect(plane, CORNERS))["code"] for plane in planes])
    distinct = np.unique(codes, axis=0)
    chosen = np.random.default_rng(0).choice(len(distinct), CENTRES, replace=False)
    TARGET.write_bytes(np.ascontiguousarray(distinct[np.sort(chosen)]).tobytes())
    print(f"{CENTRES} of {len(distinct)} distinct descriptors of {PICTURES} pictures")


if __name__ == "__main__":
    main()
