"""`python -m benchmarks.scaling`: what a growing bank costs, measured, fitted, and carried on by simulation.

The embedded index at 10^5, 10^6 and 10^7 hashes: how long a check's search takes (16 rows
within the wider radius of the default policy), memory, and the reading of the index cache
at a start. Milvus at 10^5, 10^6 and 4·10^6: the same queries in turns with the embedded index, their
answers compared, and how fast it is filled. Straight lines through that (the largest sizes count
most) give a search's mean time at any size; its spread is that of the largest measured. A
queue of Poisson arrivals, first come first served, says how many checks a second replicas
bear: each search has one core of its replica; with Milvus all cores of every shard, and the
slowest counts.
"""

import heapq
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Action, command, timings
from benchmarks.milvus_server import MilvusServer, running
from benchmarks.report import Check, Fact, Section, Timing
from benchmarks.search import OURS, RADII_BITS, as_set, built, codes_with_copies, our_index
from benchmarks.server import family
from hashing.signals import Codes
from indexer import snapshot
from indexer.milvus import Milvus
from indexer.segments import TypeIndex

ROWS, RADIUS_BITS = 16, RADII_BITS[1]  # what one picture asks
SIZES, IN_MILVUS = (100_000, 1_000_000, 10_000_000), (100_000, 1_000_000, 4_000_000)
MILVUS, COLLECTION, KIND = "Milvus 2.3.5 BIN_FLAT", "bench_1", "pdq"
SETTLED_S = 15.0  # until its searches neither wait nor look at what is not in its files

# What the carried figures assume of a machine, and ask of a search.
CORES, MEMORY_GB, SHARE = 2, 24, 0.7
P99_S, START_S = 1.0, 60.0
CARRIED = tuple(10**n for n in range(5, 10))
ARRIVALS, STEPS = 4_000, 12
Times = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line that is nowhere below 0."""

    fixed: float
    each: float

    def at(self, hashes: float) -> float:
        """Return its height at so many hashes."""
        return max(0.0, self.fixed) + self.each * hashes


def fitted(points: Sequence[tuple[int, float]]) -> Line:
    """Return the line through the two largest sizes; it begins at 0 where that would lie below."""
    (small, low), (large, high) = sorted(points)[-2:]
    each = (high - low) / (large - small)
    fixed = low - each * small
    return Line(fixed, each) if fixed >= 0 else Line(0.0, high / large)


# The queue


def lasting(rate_per_s: float, services_s: Times, cores: int, shards: int, seed: int = 1) -> Times:
    """Return how long each search takes from its arrival, waiting included; every shard has to answer it."""
    chance = np.random.default_rng(seed)
    arrivals = np.cumsum(chance.exponential(1 / rate_per_s, ARRIVALS))
    ends = np.zeros(ARRIVALS)
    for _ in range(shards):
        free = [0.0] * cores
        needs = chance.choice(services_s, ARRIVALS)
        for number, (at, need) in enumerate(zip(arrivals.tolist(), needs.tolist(), strict=True)):
            end = max(at, heapq.heappop(free)) + need
            heapq.heappush(free, end)
            ends[number] = max(ends[number], end)
    return np.asarray(ends - arrivals, np.float64)


def capacity_per_s(services_s: Times, cores: int, shards: int = 1) -> float:
    """Return the highest rate at which 99 of 100 searches are done in time; 0 if even a lone one is not."""
    if np.quantile(lasting(1e-6, services_s, cores, shards), 0.99) > P99_S:
        return 0.0
    low, high = 0.0, cores / float(services_s.mean())
    for _ in range(STEPS):
        middle = (low + high) / 2
        done = np.quantile(lasting(middle, services_s, cores, shards), 0.99) <= P99_S
        low, high = (middle, high) if done else (low, middle)
    return low


# Measuring


def _turning(search: Action) -> Times:
    """Return seconds of many searches, one by one."""
    took = []
    for _ in range(96):
        began = time.perf_counter()
        search()
        took.append(time.perf_counter() - began)
    return np.array(took[16:])


def _batches(queries: Codes) -> Iterator[Codes]:
    return cycle([np.ascontiguousarray(queries[start : start + ROWS]) for start in range(0, len(queries), ROWS)])


def _start_s(index: TypeIndex) -> float:
    """Return how long the cache of an index takes to be read and hashed."""
    arrays = {f"{n}/{name}": array for n, each in enumerate(index.segments) for name, array in each.arrays().items()}
    with tempfile.TemporaryDirectory(prefix="staydown-bench-") as folder:
        path = Path(folder) / "index.cache"
        snapshot.write(path, {}, arrays)
        began = time.perf_counter()
        snapshot.read(path)
        return time.perf_counter() - began


def _resident_bytes(pid: int) -> int:
    """Return the memory of a process and all below it."""
    return sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in family(pid)) * 4096


@contextmanager
def _filled(server: MilvusServer, codes: Codes) -> Iterator[tuple[Milvus, float, float]]:
    """Give a Milvus that holds codes, the seconds that took, and by how many bytes a hash it grew."""
    milvus, before = Milvus(server.url, 60.0), _resident_bytes(server.pid)
    milvus.create(COLLECTION, [KIND])
    began = time.perf_counter()
    milvus.insert(COLLECTION, KIND, np.arange(len(codes)), codes)
    milvus.seal(COLLECTION)
    took_s = time.perf_counter() - began
    time.sleep(SETTLED_S)
    yield milvus, took_s, (_resident_bytes(server.pid) - before) / len(codes)
    milvus.drop(COLLECTION)
    milvus.close()


@dataclass(frozen=True, slots=True)
class Measured:
    """What one size took."""

    hashes: int
    search_s: Times
    bytes_each: float
    ready_s: float  # the start of a replica; with Milvus, filling it


def embedded(hashes: int) -> tuple[Measured, TypeIndex, Codes, Codes]:
    """Measure the embedded index."""
    codes, queries = codes_with_copies(hashes)
    index, bytes_each = built(lambda: our_index(codes), hashes)
    parts = _batches(queries)
    took = _turning(lambda: index.search(next(parts), RADIUS_BITS))
    return Measured(hashes, took, bytes_each, _start_s(index)), index, codes, queries


def beside(server: MilvusServer, hashes: int, rounds: int) -> tuple[Measured, tuple[Timing, ...], list[Check]]:
    """Measure Milvus in turns with the embedded index."""
    codes, queries = codes_with_copies(hashes)
    index = our_index(codes)
    with _filled(server, codes) as (milvus, filled_s, bytes_each):
        ours, theirs = _batches(queries), _batches(queries)

        def there() -> object:
            return milvus.search(COLLECTION, KIND, next(theirs), RADIUS_BITS, strong=False)

        took = _turning(there)
        group = f"{hashes:,} hashes, {RADIUS_BITS} bits, {ROWS} at once"
        mine: dict[str, Action] = {OURS: lambda: index.search(next(ours), RADIUS_BITS)}
        times = timings(group, mine, {MILVUS: there}, rounds)
        checks = []
        for radius_bits in RADII_BITS:
            here = as_set(index.search(queries, radius_bits))
            found = as_set(milvus.search(COLLECTION, KIND, queries, radius_bits, strong=False))
            said = f"{len(here)} pairs here, {len(found & here)} of them there, {len(found - here)} others"
            checks.append(Check(f"Milvus answers the same at {radius_bits} bits among {hashes:,}", here == found, said))
    return Measured(hashes, took, bytes_each, filled_s), times, checks


# Carrying on


@dataclass(frozen=True, slots=True)
class Model:
    """Straight lines through what was measured, and the spread of a search about its mean."""

    search_s: Line
    memory_bytes: Line
    ready_s: Line
    spread: Times

    def services_s(self, hashes: float) -> Times:
        """Return searches as long as they would take."""
        return np.asarray(self.spread * self.search_s.at(hashes), np.float64)


def modelled(found: Sequence[Measured]) -> Model:
    """Fit a model."""
    last = found[-1].search_s
    return Model(
        fitted([(each.hashes, float(each.search_s.mean())) for each in found]),
        fitted([(each.hashes, each.bytes_each * each.hashes) for each in found]),
        fitted([(each.hashes, each.ready_s) for each in found]),
        np.clip(last / last.mean(), 0, np.quantile(last / last.mean(), 0.99)),
    )


def carried(model: Model) -> Iterator[Fact]:
    """Yield what a replica of the embedded index would need and bear."""
    for hashes in CARRIED:
        title, memory_gb = f"embedded, {hashes:,} hashes", model.memory_bytes.at(hashes) / 1e9
        rate = capacity_per_s(model.services_s(hashes), CORES)
        limits = {
            "its memory": memory_gb / (SHARE * MEMORY_GB),
            "the time of a search": float(np.quantile(model.services_s(hashes), 0.99)) / P99_S,
            "the time of a start": model.ready_s.at(hashes) / START_S,
        }
        first = max(limits, key=lambda name: limits[name])
        yield Fact(title, "memory of a replica", memory_gb, "GB")
        yield Fact(title, "one search", model.search_s.at(hashes) * 1000, "ms")
        yield Fact(title, "start from the cache", model.ready_s.at(hashes), "s")
        yield Fact(title, f"searches of a replica of {CORES} cores, p99 in {P99_S} s", rate, "a second")
        yield Fact(title, f"nearest limit: {first}", 100 * limits[first], "% of it")


def sharded(model: Model) -> Iterator[Fact]:
    """Yield how many query nodes Milvus would need for what is too large, and what they bear."""
    for hashes in CARRIED:
        by_memory = model.memory_bytes.at(hashes) / (SHARE * MEMORY_GB * 1e9)
        by_time = float(np.quantile(model.services_s(hashes), 0.99)) / (P99_S / 2)
        shards = max(1, int(np.ceil(max(by_memory, by_time))))
        title = f"Milvus, {hashes:,} hashes"
        yield Fact(title, f"query nodes of {CORES} cores and {MEMORY_GB} GB", shards, "nodes")
        yield Fact(title, "of them needed for memory alone", int(np.ceil(by_memory)), "nodes")
        rate = capacity_per_s(model.services_s(hashes / shards), 1, shards)  # one search takes all cores of a node
        yield Fact(title, f"searches of one such set, p99 in {P99_S} s", rate, "a second")
        yield Fact(title, "filling it anew", model.ready_s.at(hashes) / 60, "minutes")


def collect(short: bool) -> Section:
    """Measure, fit, carry on."""
    rounds, sizes, there = (5, SIZES[:2], IN_MILVUS[:1]) if short else (15, SIZES, IN_MILVUS)
    here = [embedded(hashes)[0] for hashes in sizes]
    with tempfile.TemporaryDirectory(prefix="sdmv") as folder, running(Path(folder)) as server:
        found = [beside(server, hashes, rounds) for hashes in there]
    facts = [
        Fact(f"{name}, {each.hashes:,} hashes", what, value, unit)
        for name, some, ready in (
            ("embedded", here, "start from the cache"),
            ("Milvus", [f[0] for f in found], "filled"),
        )
        for each in some
        for what, value, unit in (
            ("a search, mean", float(each.search_s.mean()) * 1000, "ms"),
            ("a search, p99", float(np.quantile(each.search_s, 0.99)) * 1000, "ms"),
            ("memory", each.bytes_each, "bytes a hash"),
            (ready, each.ready_s, "s"),
        )
    ]
    facts += carried(modelled(here))
    if len(found) > 1:
        facts += sharded(modelled([each[0] for each in found]))
    note = f"A search is of {ROWS} rows within {RADIUS_BITS} bits; measured first, then carried on by simulation."
    times = tuple(timing for each in found for timing in each[1])
    return Section("Scaling", note, times, tuple(facts), tuple(check for each in found for check in each[2]), ())


if __name__ == "__main__":
    sys.exit(command("scaling", collect))
