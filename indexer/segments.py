"""Hashes of one type as a few segments that never change, searched exactly within a radius.

New hashes become a small segment, which is searched by looking at everything (FAISS's
scan); small ones are joined as they come, so that adding costs O(log n) and readers never
wait: a search takes the segments as they stand. `compact` makes large ones of them, with
tables (`bands`), and forgets what is gone. It is slow, and meant for a thread of its own:
searches and additions go on meanwhile. What is wider than the tables pay for, or meets too
many candidates, is scanned, so that every radius is exact at every size.
"""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from hashing.signals import HASH_BYTES, Codes
from indexer.bands import Bands, nearby, words_of
from indexer.snapshot import Arrays, let_go

SCANNED_UPTO = 131_072  # hashes in a segment without tables
Keys = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Hits:
    """Matches within a radius, as columns: row of the query, key of the hash, distance in bits."""

    query: Keys
    signal_pk: Keys
    distance_bits: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.query)

    def only(self, chosen: NDArray[np.bool_]) -> "Hits":
        """Return some of them."""
        return Hits(self.query[chosen], self.signal_pk[chosen], self.distance_bits[chosen])


def joined_hits(parts: Iterable[Hits]) -> Hits:
    """Return all of them as one."""
    found = [part for part in parts if len(part)]
    if not found:
        nothing = np.empty(0, np.int64)
        return Hits(nothing, nothing, np.empty(0, np.int32))
    if len(found) == 1:
        return found[0]
    return Hits(
        np.concatenate([part.query for part in found]),
        np.concatenate([part.signal_pk for part in found]),
        np.concatenate([part.distance_bits for part in found]),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Some hashes that never change: keys (n,) ascending, codes (n, 32), and tables over them where they are many."""

    keys: Keys
    codes: Codes
    bands: Bands | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def search(self, codes: Codes, radius_bits: int) -> Hits:
        """Return all hashes at most `radius_bits` away from each code, uint8 (q, 32)."""
        if self.bands is None or self.bands.cost(radius_bits) > len(self):
            return self._scan(codes, radius_bits)
        words, queries, parts, left = words_of(self.codes), words_of(codes), [], []
        for row, values in enumerate(self.bands.values(queries)):
            rows = self.bands.candidates(values, radius_bits)
            if rows is None:
                left.append(row)
                continue
            near, distance_bits = nearby(words, rows, queries[row], radius_bits)
            parts.append(Hits(np.full(len(near), row), self.keys[near], distance_bits))
        if left:
            rest = self._scan(codes[left], radius_bits)
            parts.append(Hits(np.array(left)[rest.query], rest.signal_pk, rest.distance_bits))
        return joined_hits(parts)

    def _scan(self, codes: Codes, radius_bits: int) -> Hits:
        """Look at everything. FAISS's radius is strict, hence + 1."""
        faiss.omp_set_num_threads(1)  # holds for the calling thread alone; on a busy machine two are 9 times slower
        result, queries = faiss.RangeSearchResult(len(codes)), np.ascontiguousarray(codes)
        faiss.hamming_range_search(  # type: ignore[attr-defined]
            faiss.swig_ptr(queries), faiss.swig_ptr(self.codes), len(queries), len(self), radius_bits + 1, HASH_BYTES,
            result,
        )  # fmt: skip
        limits = faiss.rev_swig_ptr(result.lims, len(queries) + 1).astype(np.int64)
        rows = faiss.rev_swig_ptr(result.labels, int(limits[-1]))
        distance_bits = faiss.rev_swig_ptr(result.distances, int(limits[-1])).astype(np.int32)
        return Hits(np.repeat(np.arange(len(queries)), np.diff(limits)), self.keys[rows], distance_bits)

    def arrays(self) -> Arrays:
        """Return everything, to be written."""
        found: Arrays = {"keys": self.keys, "codes": self.codes}
        return found if self.bands is None else found | {"rows": self.bands.rows, "starts": self.bands.starts}

    @classmethod
    def of(cls, arrays: Arrays) -> "Segment":
        """Return the segment that was written."""
        bands = Bands(arrays["rows"], arrays["starts"]) if "rows" in arrays else None
        return cls(arrays["keys"], arrays["codes"], bands)

    def only(self, live: Keys, newest: int) -> "Segment":
        """Return the segment of the hashes with one of these keys, and of those with keys above `newest`."""
        kept = np.isin(self.keys, live) | (self.keys > newest)
        if kept.all():
            return self
        keys, codes = self.keys[kept], self.codes[kept]
        self.let_go()
        return Segment(keys, codes, None if self.bands is None else self.bands.only(kept, let_go))

    def let_go(self) -> None:
        """Give mapped memory back to the system, which reads it anew where it is needed."""
        for array in self.arrays().values():
            let_go(array)


def _joined(segments: Sequence[Segment]) -> Segment:
    """Return one segment without tables of several, the oldest first."""
    if len(segments) == 1:
        return segments[0]
    keys = np.concatenate([segment.keys for segment in segments])
    joined = Segment(keys, np.concatenate([segment.codes for segment in segments]))
    for segment in segments:
        segment.let_go()
    return joined


def _compacted(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """Join the small segments; if they are enough for tables, along with older ones that are not much larger."""
    older, pile, size = [segment for segment in segments if len(segment)], list[Segment](), 0
    while older and (older[-1].bands is None or (size > SCANNED_UPTO and len(older[-1]) <= 2 * size)):
        pile.insert(0, older.pop())
        size += len(pile[0])
    if not pile:
        return tuple(older)
    made = _joined(pile)
    return (*older, made if size <= SCANNED_UPTO else Segment(made.keys, made.codes, Bands.of(made.codes)))


class TypeIndex:
    """All segments of one signal type."""

    def __init__(self, segments: Iterable[Segment] = ()) -> None:
        self._segments: tuple[Segment, ...] = tuple(segments)
        self._sealed = 0  # so many are being compacted, and are not joined with newer ones meanwhile
        self._changing, self._compacting = threading.Lock(), threading.Lock()

    def __len__(self) -> int:
        return sum(map(len, self._segments))

    @property
    def loose(self) -> int:
        """How many hashes are in segments without tables."""
        return sum(len(segment) for segment in self._segments if segment.bands is None)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments as they stand, the oldest first."""
        return self._segments

    def add(self, keys: Keys, codes: Codes) -> None:
        """Add hashes; a search that began before does not see them, one that begins after does."""
        if not len(keys):
            return
        with self._changing:
            segments = [*self._segments, Segment(keys.copy(), np.array(codes, order="C"))]
            while len(segments) - 1 > self._sealed and _alike(*segments[-2:]):
                segments[-2:] = [_joined(segments[-2:])]
            self._segments = tuple(segments)

    def search(self, codes: Codes, radius_bits: int) -> Hits:
        """Return all hashes at most `radius_bits` away from each code, uint8 (q, 32)."""
        wanted = np.ascontiguousarray(codes)
        return joined_hits(segment.search(wanted, radius_bits) for segment in self._segments)

    def above(self, key: int) -> "TypeIndex":
        """Return an index of the hashes with later keys."""
        nothing = np.empty(0, np.int64)
        return TypeIndex(part for each in self._segments if len(part := each.only(nothing, key)))

    def compact(self, live: Keys | None = None, newest: int = 0) -> bool:
        """Make large segments of small ones, and forget all up to the key `newest` but what has a `live` key.

        Says whether large segments were made.
        """
        with self._compacting:
            with self._changing:
                seen = self._segments
                self._sealed = len(seen)
            made = _compacted(seen if live is None else [segment.only(live, newest) for segment in seen])
            with self._changing:
                self._segments = (*made, *self._segments[len(seen) :])
                self._sealed = 0
        return any(segment.bands is not None and segment not in seen for segment in made)

    def let_go(self) -> None:
        """Give mapped memory back to the system."""
        for segment in self._segments:
            segment.let_go()

    def exchange(self, old: Iterable[Segment], new: Iterable[Segment]) -> None:
        """Put segments in the place of others that hold the same."""
        places = dict(zip(old, new, strict=True))
        with self._changing:
            self._segments = tuple(places.get(segment, segment) for segment in self._segments)

    def all(self) -> tuple[Keys, Codes]:
        """Return every key and code."""
        whole = _joined([Segment(np.empty(0, np.int64), np.empty((0, HASH_BYTES), np.uint8)), *self._segments])
        return whole.keys, whole.codes


def _alike(older: Segment, newer: Segment) -> bool:
    small = older.bands is None and newer.bands is None and len(older) + len(newer) <= SCANNED_UPTO
    return small and len(older) <= 2 * len(newer)
