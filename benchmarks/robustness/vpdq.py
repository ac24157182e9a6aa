"""vPDQ as its makers use it: PDQ of a frame a second, quality 50, 31 bits, a share of the query's frames."""

import io
from collections.abc import Iterator

import av
import numpy as np
from numpy.typing import NDArray

from benchmarks.corpus import Picture
from benchmarks.robustness.edits_base import decode
from hashing.media import sniff
from hashing.pdq import pdq

Codes = NDArray[np.uint8]  # (frames, 32)
RADIUS_BITS = 31
MIN_QUALITY = 50


def _a_second(data: bytes) -> Iterator[Picture]:
    """Yield the first frame of each second."""
    due = 0.0
    with av.open(io.BytesIO(data), "r") as container:
        first: float | None = None
        for frame in container.decode(video=0):
            if frame.pts is None:
                continue
            first = frame.time if first is None else first
            if frame.time - first >= due:
                due += 1.0
                yield frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)


def vpdq(data: bytes) -> Codes:
    """Return the hashes of the frames that are good enough."""
    pictures = _a_second(data) if sniff(data).demuxer or data[:4] == b"GIF8" else iter([decode(data)])
    found = [hashed.codes[0] for hashed in map(pdq, pictures) if hashed.quality >= MIN_QUALITY]
    return np.stack(found) if found else np.zeros((0, 32), np.uint8)


def share_found(query: Codes, reference: Codes) -> float:
    """Return which share of the query's frames are near a frame of the reference."""
    if not len(query) or not len(reference):
        return 0.0
    bits = np.bitwise_count(query[:, None] ^ reference).sum(2, dtype=np.int64)
    return float((bits.min(1) <= RADIUS_BITS).mean())
