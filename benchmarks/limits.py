"""`python -m benchmarks.limits`: what the machine allows, beside what staydown reaches of it. One thread.

Three limits: decoding, which nothing that looks at a picture can do without; memory
bandwidth, of which a hash needs at least to read each pixel once; and counting bits, of
which an exhaustive search needs one pass over all codes.
"""

import io
import sys
from collections.abc import Callable
from functools import partial

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import corpus
from benchmarks.measure import Action, command, timings
from benchmarks.report import Section, Timing
from benchmarks.search import RADII_BITS, codes_with_copies, flat_index, our_index
from hashing.hasher import Plan, hash_pictures
from hashing.pdq import pdq
from hashing.signals import HASH_BITS, HASH_BYTES, SignalType

SIZES = ((512, 512), (1152, 864), (1920, 1080), (4000, 3000))
BUFFER_BYTES = 1 << 28  # no cache holds it
CODES = 1_000_000
BATCH = 16  # what one picture asks
_IN_CACHE = 4096  # codes
PDQ_ONLY = Plan(types=frozenset({SignalType.PDQ}))


def decode_pillow(data: bytes) -> None:
    """Decode a picture to an array of RGB."""
    np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def decode_opencv(data: bytes) -> None:
    """Decode a picture to an array, in OpenCV's order of colours."""
    cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def decode_pyav(data: bytes) -> None:
    """Decode a JPEG to planes of luma and colour, not converted to RGB."""
    with av.open(io.BytesIO(data), "r", format="jpeg_pipe") as container:
        container.streams.video[0].thread_type = "NONE"
        next(container.decode(video=0))


DECODERS: dict[str, Callable[[bytes], None]] = {
    "bare decoding, Pillow": decode_pillow,
    "bare decoding, OpenCV": decode_opencv,
    "bare decoding, PyAV": decode_pyav,
}


def decoding(width: int, height: int, rounds: int) -> tuple[Timing, ...]:
    """Time a JPEG's bytes to its PDQ beside only decoding them."""
    data = corpus.jpeg(corpus.picture(width, width, height), 85)
    ours: dict[str, Action] = {"staydown, bytes to PDQ": lambda: hash_pictures(data, PDQ_ONLY)}
    theirs: dict[str, Action] = {name: partial(decode, data) for name, decode in DECODERS.items()}
    return timings(f"JPEG of {width}×{height}", ours, theirs, rounds)


def bandwidth(rounds: int, buffer_bytes: int = BUFFER_BYTES) -> tuple[Timing, ...]:
    """Time PDQ of 12 MP beside reading and copying memory, for a megabyte each."""
    rgb = corpus.picture(12, 4000, 3000)
    memory = np.zeros(buffer_bytes // 8, np.uint64)
    other = np.zeros_like(memory)
    ours: dict[str, Action] = {"staydown PDQ, RGB of 12 MP": lambda: pdq(rgb)}
    theirs: dict[str, Action] = {
        "reading memory": lambda: np.bitwise_or.reduce(memory),
        "copying memory": lambda: np.copyto(other, memory),
    }
    sizes = {name: (rgb.nbytes if name in ours else buffer_bytes) / 1e6 for name in {**ours, **theirs}}
    return timings("1 MB of pixels", ours, theirs, rounds, sizes)


def _counted(codes: NDArray[np.uint64], query: NDArray[np.uint64]) -> None:
    np.bitwise_count(codes ^ query)


def popcount(rounds: int, count: int = CODES) -> tuple[Timing, ...]:
    """Time searching beside comparing every code: seconds a query and code, however few of them are looked at."""
    codes, queries = codes_with_copies(count)
    mine, flat = our_index(codes), flat_index(codes)
    words = np.ascontiguousarray(codes[:_IN_CACHE]).view(np.uint64)
    asked = np.ascontiguousarray(queries[:BATCH])
    ours: dict[str, Action] = {
        f"staydown search, {bits} bits": partial(mine.search, asked, radius_bits=bits) for bits in RADII_BITS
    }
    rate = f"NumPy, counting {HASH_BITS} bits in cache"
    theirs: dict[str, Action] = {rate: partial(_counted, words, words[0])}
    pairs = dict.fromkeys(ours, float(BATCH * count)) | {rate: float(len(words))}
    times = timings(f"one code of {count:,}", ours, theirs, rounds, pairs)
    exhaustive: dict[str, Action] = {"faiss IndexBinaryFlat, all": lambda: flat.range_search(asked, RADII_BITS[-1] + 1)}
    widest = {f"staydown search, {RADII_BITS[-1]} bits": ours[f"staydown search, {RADII_BITS[-1]} bits"]}
    title = f"one code of {count:,}, beside FAISS"
    return times + timings(title, widest, exhaustive, rounds, float(BATCH * count))


def collect(short: bool) -> Section:
    """Measure everything."""
    rounds = 7 if short else 21
    times = [timing for size in SIZES for timing in decoding(*size, rounds)]
    times += bandwidth(rounds)
    times += popcount(rounds)
    note = (f"What the machine allows, beside what staydown reaches; one thread. A code is {HASH_BYTES} bytes; a "
            "search that looks at few of them needs less than the counting of their bits would.")  # fmt: skip
    return Section("Limits", note, tuple(times))


if __name__ == "__main__":
    sys.exit(command("limits", collect))
