"""`python -m benchmarks.search`: staydown's index against FAISS's exact kinds, random codes with planted copies.

Radii: where the default policy says `match`, and where it says `review`, to which every
check searches. Every peer here is exact there, so that answers can be compared as well as
times. One thread each. A batch of 16 is what one picture asks: eight symmetries, and as a
negative; a video asks for hundreds of rows at once. Without `--short` there are 10 million
codes too, for which FAISS's multi-index needs 6 GB of memory.
"""

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Action, command, timings
from benchmarks.report import Check, Fact, Floor, Section, Timing
from hashing.signals import HASH_BITS, HASH_BYTES, Codes, SignalType, distances
from indexer.policy import POLICIES
from indexer.segments import Hits, TypeIndex

THRESHOLD = POLICIES["default"].thresholds[SignalType.PDQ]
RADII_BITS = (THRESHOLD.match_bits, THRESHOLD.review_bits)
QUERIES = 64
BATCHES = {1: "one query", 16: "16 at once", 64: "64 at once"}
SIZES = (10_000, 100_000, 1_000_000)
LARGEST = 10_000_000
TABLES, TABLE_BITS = 11, 23  # of MultiHash; flips of radius // tables make it exact, by the pigeonhole principle
OURS, FLAT, MULTI = "staydown", "faiss IndexBinaryFlat", f"faiss IndexBinaryMultiHash {TABLES}×{TABLE_BITS}"
_PAGE_BYTES = 4096

Search = Callable[[Codes], object]
Found = set[tuple[int, int, int]]  # query, key, distance in bits


def flipped(code: NDArray[np.uint8], bits: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a code that differs in so many bits."""
    places = np.zeros(HASH_BITS, np.uint8)
    places[rng.choice(HASH_BITS, bits, replace=False)] = 1
    return code ^ np.packbits(places)


def codes_with_copies(count: int, seed: int = 1) -> tuple[Codes, Codes]:
    """Return random codes (count, 32) and queries (64, 32), each with a copy of 0 to 48 bits among the codes."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256, (count, HASH_BYTES), np.uint8)
    queries = rng.integers(0, 256, (QUERIES, HASH_BYTES), np.uint8)
    for number, place in enumerate(rng.choice(count, QUERIES, replace=False)):
        codes[place] = flipped(queries[number], number % (RADII_BITS[1] + 3), rng)
    return codes, queries


def clustered(count: int, seed: int = 3) -> tuple[Codes, Codes]:
    """Return a fifth of the codes in clumps of about 50, one code a hundredth of all, half of the queries near them."""
    codes, queries = codes_with_copies(count, seed)
    rng = np.random.default_rng(seed)
    rows = rng.choice(count, count // 5, replace=False)
    middles = codes[rng.choice(rows, count // 250)[rng.integers(0, count // 250, len(rows))]]
    codes[rows] = middles ^ np.packbits(rng.random((len(rows), HASH_BITS)) < rng.random((len(rows), 1)) * 0.11, axis=1)
    codes[rng.choice(count, count // 100, replace=False)] = codes[rows[0]]
    for number in range(0, QUERIES, 2):
        queries[number] = flipped(codes[rows[number]], number % 24, rng)
    return codes, queries


def brute_force(codes: Codes, queries: Codes, radius_bits: int) -> Found:
    """Return all pairs within a radius by the slow truth."""
    found: Found = set()
    for number, query in enumerate(queries):
        apart = distances(codes, query)
        found |= {(number, int(key), int(apart[key])) for key in np.flatnonzero(apart <= radius_bits)}
    return found


def as_set(hits: Hits) -> Found:
    """Return hits as brute force gives them; keys are positions here."""
    return set(zip(hits.query.tolist(), hits.signal_pk.tolist(), hits.distance_bits.tolist(), strict=True))


def _resident_bytes() -> int:
    """Return the memory of this process in bytes, once what is free is given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


def built(make: Callable[[], Any], count: int) -> tuple[Any, float]:
    """Return what is made and by how many bytes a hash the process grew."""
    before = _resident_bytes()
    made = make()
    return made, (_resident_bytes() - before) / count


def our_index(codes: Codes) -> TypeIndex:
    """Return our index of codes, their positions as keys."""
    index = TypeIndex()
    index.add(np.arange(len(codes), dtype=np.int64), codes)
    index.compact()
    return index


def flat_index(codes: Codes) -> Any:
    """Return FAISS's exhaustive index."""
    index = faiss.IndexBinaryFlat(HASH_BITS)
    index.add(codes)
    return index


def multi_index(codes: Codes) -> Any:
    """Return FAISS's multi-index hashing."""
    index = faiss.IndexBinaryMultiHash(HASH_BITS, TABLES, TABLE_BITS)
    index.add(codes)
    return index


def within(index: Any, radius_bits: int) -> Callable[[Codes], Any]:
    """Return a search of FAISS's for all within a radius, exact. Its radius is strict, hence + 1."""
    if isinstance(index, faiss.IndexBinaryMultiHash):
        index.nflip = radius_bits // TABLES
    return lambda codes: index.range_search(codes, radius_bits + 1)


def turning(search: Search, queries: Codes, batch: int) -> Action:
    """Return an action that searches the next `batch` queries."""
    parts = cycle([np.ascontiguousarray(queries[start : start + batch]) for start in range(0, len(queries), batch)])
    return lambda: search(next(parts))


def _searches(title: str, ours: TypeIndex, peers: dict[str, Any], queries: Codes, rounds: int) -> list[Timing]:
    """Time all batches at all radii. FAISS's multi-index is asked for the first radius alone."""
    found: list[Timing] = []
    for radius_bits in RADII_BITS:
        asked = {name: peer for name, peer in peers.items() if name != MULTI or radius_bits == RADII_BITS[0]}
        for batch, words in BATCHES.items():
            mine = {OURS: turning(partial(ours.search, radius_bits=radius_bits), queries, batch)}
            theirs = {name: turning(within(peer, radius_bits), queries, batch) for name, peer in asked.items()}
            found += timings(f"{title}, {radius_bits} bits, {words}", mine, theirs, rounds, items=batch)
    return found


def _addings(count: int, codes: Codes, rounds: int) -> tuple[Timing, ...]:
    """Time adding one hash and finding it, on indexes of their own."""
    ours, flat = our_index(codes), flat_index(codes)
    rng = np.random.default_rng(2)
    fresh = cycle(rng.integers(0, 256, (4096, 1, HASH_BYTES), np.uint8))
    keys = iter(range(count, 1 << 62))

    def mine() -> None:
        code, key = next(fresh), next(keys)
        ours.add(np.array([key]), code)
        assert key in ours.search(code, 0).signal_pk

    def theirs() -> None:
        code = next(fresh)
        flat.add(code)
        assert len(flat.range_search(code, 1)[2])

    return timings(f"{count:,} hashes, add one and find it", {OURS: mine}, {FLAT: theirs}, rounds)


def _exact(title: str, ours: TypeIndex, codes: Codes, queries: Codes) -> Iterator[Check]:
    widest = brute_force(codes, queries, RADII_BITS[-1])
    for radius_bits in RADII_BITS:
        truth = {pair for pair in widest if pair[2] <= radius_bits}
        answered = as_set(ours.search(queries, radius_bits))
        detail = f"{len(truth)} pairs by brute force, {len(truth & answered)} found, {len(answered - truth)} others"
        yield Check(f"exact at {radius_bits} bits among {title}", truth == answered, detail)


def sized(count: int, rounds: int) -> tuple[list[Timing], list[Fact], list[Check]]:
    """Measure one size."""
    title, (codes, queries) = f"{count:,} hashes", codes_with_copies(count)
    ours, our_bytes = built(lambda: our_index(codes), count)
    multi, multi_bytes = built(lambda: multi_index(codes), count)
    flat, flat_bytes = built(lambda: flat_index(codes), count)
    times = _searches(title, ours, {FLAT: flat, MULTI: multi}, queries, rounds)
    if count < LARGEST:
        times += _addings(count, codes, rounds)
    facts = []
    if count >= 100_000:  # below, the process grows by less than its page
        grown = {OURS: our_bytes, FLAT: flat_bytes, MULTI: multi_bytes}
        facts = [Fact(title, name, value, "bytes a hash") for name, value in grown.items()]
    return times, facts, list(_exact(title, ours, codes, queries))


def in_clumps(count: int, rounds: int) -> tuple[list[Timing], list[Fact], list[Check]]:
    """Measure codes that are not spread evenly, without the multi-index of FAISS."""
    title, (codes, queries) = f"{count:,} hashes in clumps", clustered(count)
    ours, flat = our_index(codes), flat_index(codes)
    times = _searches(title, ours, {FLAT: flat}, queries, rounds)
    return times, [], list(_exact(title, ours, codes, queries))


def collect(short: bool) -> Section:
    """Measure all sizes."""
    rounds, sizes = (7, SIZES) if short else (15, (*SIZES, LARGEST))
    found = [*(sized(count, rounds) for count in sizes), in_clumps(SIZES[-1], rounds)]
    times, facts, checks = (tuple(one for part in parts for one in part) for parts in zip(*found, strict=True))
    floors = [
        Floor(f"{count:,} hashes, {RADII_BITS[0]} bits, {BATCHES[batch]}", MULTI, 3.0)
        for count in sizes[2:] for batch in (16, 64)  # a check asks no fewer
    ]  # fmt: skip
    note = "All hashes within a radius of a query among random codes; one thread; times are for one query."
    return Section("Search", note, times, facts, checks, tuple(floors))


if __name__ == "__main__":
    sys.exit(command("search", collect))
