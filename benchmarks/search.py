"""`python -m benchmarks.search`: staydown's index against raw FAISS, radius 31, random codes with planted copies.

Every peer here is exact at this radius, so that answers can be compared as well as times.
One thread each. The batch of 8 is what a check asks: the symmetries of one picture.
"""

import ctypes
import gc
import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Action, command, timings
from benchmarks.report import Check, Fact, Section, Timing
from hashing.signals import HASH_BITS, HASH_BYTES, TRANSFORMS, Codes, distances
from indexer.segments import Hits, TypeIndex

RADIUS_BITS = 31
QUERIES = 64
BATCH = len(TRANSFORMS)
SIZES = (1_000, 10_000, 100_000, 1_000_000)
TABLES, TABLE_BITS, FLIPS = 16, 16, 1  # MultiHash so is exact to 31 bits, by the pigeonhole principle
OURS, FLAT, MULTI = "staydown TypeIndex", "faiss IndexBinaryFlat", f"faiss IndexBinaryMultiHash {TABLES}×{TABLE_BITS}"
_PAGE_BYTES = 4096

Found = set[tuple[int, int, int]]  # query, key, distance in bits


def flipped(code: NDArray[np.uint8], bits: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a code that differs in so many bits."""
    places = np.zeros(HASH_BITS, np.uint8)
    places[rng.choice(HASH_BITS, bits, replace=False)] = 1
    return code ^ np.packbits(places)


def codes_with_copies(count: int, seed: int = 1) -> tuple[Codes, Codes]:
    """Return random codes (count, 32) and queries (64, 32), each with a copy of 0 to 33 bits among the codes."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256, (count, HASH_BYTES), np.uint8)
    queries = rng.integers(0, 256, (QUERIES, HASH_BYTES), np.uint8)
    for number, place in enumerate(rng.choice(count, QUERIES, replace=False)):
        codes[place] = flipped(queries[number], number % (RADIUS_BITS + 3), rng)
    return codes, queries


def brute_force(codes: Codes, queries: Codes) -> Found:
    """Return all pairs within the radius by the slow truth."""
    found: Found = set()
    for number, query in enumerate(queries):
        apart = distances(codes, query)
        found |= {(number, int(key), int(apart[key])) for key in np.flatnonzero(apart <= RADIUS_BITS)}
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
    return index


def flat_index(codes: Codes) -> Any:
    """Return FAISS's exhaustive index."""
    index = faiss.IndexBinaryFlat(HASH_BITS)
    index.add(codes)
    return index


def multi_index(codes: Codes) -> Any:
    """Return FAISS's multi-index hashing, set to be exact."""
    index = faiss.IndexBinaryMultiHash(HASH_BITS, TABLES, TABLE_BITS)
    index.nflip = FLIPS
    index.add(codes)
    return index


def _turning(search: Callable[[Codes, int], object], queries: Codes, batch: int, radius: int) -> Action:
    """Return an action that searches the next `batch` queries."""
    parts = cycle([np.ascontiguousarray(queries[start : start + batch]) for start in range(0, len(queries), batch)])
    return lambda: search(next(parts), radius)


def _searches(count: int, ours: TypeIndex, peers: dict[str, Any], queries: Codes, rounds: int) -> list[Timing]:
    """Time one query at a time and eight at a time. FAISS's radius is strict, hence + 1."""
    found: list[Timing] = []
    for batch, words in ((1, "one query"), (BATCH, "eight queries at once")):
        mine = {OURS: _turning(ours.search, queries, batch, RADIUS_BITS)}
        theirs = {name: _turning(p.range_search, queries, batch, RADIUS_BITS + 1) for name, p in peers.items()}
        found += timings(f"{count:,} hashes, {words}", mine, theirs, rounds, items=batch)
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


def sized(count: int, rounds: int) -> tuple[list[Timing], list[Fact], Check]:
    """Measure one size."""
    codes, queries = codes_with_copies(count)
    ours, our_bytes = built(lambda: our_index(codes), count)
    multi, multi_bytes = built(lambda: multi_index(codes), count)
    flat, flat_bytes = built(lambda: flat_index(codes), count)
    times = _searches(count, ours, {FLAT: flat, MULTI: multi}, queries, rounds)
    times += _addings(count, codes, rounds)
    facts = []
    if count >= 100_000:  # below, the process grows by less than its page
        grown = {OURS: our_bytes, FLAT: flat_bytes, MULTI: multi_bytes}
        facts = [Fact(f"{count:,} hashes", name, value, "bytes a hash") for name, value in grown.items()]
    truth, answered = brute_force(codes, queries), as_set(ours.search(queries, RADIUS_BITS))
    detail = f"{len(truth)} pairs by brute force, {len(truth & answered)} of them found, {len(answered - truth)} others"
    return times, facts, Check(f"exact among {count:,} hashes", truth == answered, detail)


def collect(short: bool) -> Section:
    """Measure all sizes."""
    times: list[Timing] = []
    facts: list[Fact] = []
    checks: list[Check] = []
    for count in SIZES:
        found = sized(count, 9 if short else 31)
        times += found[0]
        facts += found[1]
        checks.append(found[2])
    note = f"All hashes within {RADIUS_BITS} bits of a query among random codes; one thread; times are for one query."
    return Section("Search", note, tuple(times), tuple(facts), tuple(checks))


if __name__ == "__main__":
    sys.exit(command("search", collect))
