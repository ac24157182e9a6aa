"""The search structure over local descriptors: which sketches share descriptors with a query.

A cache of the record like `index`, with segments of the same kind. Small segments are
searched whole. Large ones are inverted files: each descriptor lies in the list of the
nearest of some descriptors drawn from the segment itself, and a query looks into the
lists nearest to it. Drawn centres need no training and lose little: of 40 hard edits
against 360,000 descriptors, the right picture was among the first eight as often as with
a whole search (docs/accuracy.md).
"""

import threading
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from hashing.signals import HASH_BITS, HASH_BYTES, Codes, Sketches

Keys = NDArray[np.int64]

FLAT_UPTO = 2_048
MERGED_UPTO = 1_000_000  # building one takes two seconds, in which other changes wait
NEAREST = 3  # of a query's descriptor, how many neighbours may vote
PROBES = 6  # lists looked into
MAX_BITS = 52  # a neighbour further away does not vote


@dataclass(frozen=True, slots=True)
class Votes:
    """Sketches by how many of the query's descriptors are near to one of theirs, most first."""

    sketch_pk: Keys
    votes: NDArray[np.int64]


def _searchable(codes: Codes) -> Any:
    faiss.omp_set_num_threads(1)  # see index
    flat: Any = faiss.IndexBinaryFlat(HASH_BITS)
    if len(codes) <= FLAT_UPTO:
        flat.add(codes)
        return flat
    lists = 1 << int(np.log2(2 * np.sqrt(len(codes))))
    drawn = np.random.default_rng(0).choice(len(codes), lists, replace=False)
    flat.add(np.ascontiguousarray(codes[np.sort(drawn)]))
    inverted: Any = faiss.IndexBinaryIVF(flat, HASH_BITS, lists)
    inverted.is_trained = True
    inverted.nprobe = PROBES
    inverted.add(codes)
    return inverted


class _Segment:
    """Some descriptors that never change: whose they are (n,) int64, and codes (n, 32) uint8."""

    def __init__(self, owners: Keys, codes: Codes) -> None:
        self.owners, self.codes = owners, np.ascontiguousarray(codes)
        self.sketches = np.unique(owners)
        self._search = _searchable(self.codes)

    def __len__(self) -> int:
        return len(self.owners)

    def near(self, codes: Codes) -> tuple[Keys, Keys]:
        """Return (row of the query, owner) of each near descriptor."""
        faiss.omp_set_num_threads(1)
        distances, positions = self._search.search(codes, min(NEAREST, len(self)))
        rows, columns = np.nonzero((positions >= 0) & (distances <= MAX_BITS))
        return rows, self.owners[positions[rows, columns]]


def codes_of(sketches: Sketches) -> tuple[NDArray[np.int64], Codes]:
    """Return all descriptors of sketches, and the row of the sketch that each belongs to."""
    counts = sketches["count"].astype(np.int64)
    rows = np.repeat(np.arange(len(sketches)), counts)
    parts = [row["keypoints"]["code"][: row["count"]] for row in sketches]
    return rows, np.concatenate(parts) if parts else np.empty((0, HASH_BYTES), np.uint8)


def _merge(older: int, newer: int) -> bool:
    return older <= 2 * newer and older + newer <= MERGED_UPTO


class Descriptors:
    """All descriptors of one bank's sketches.

    One bank's, since only a few neighbours vote: copies in other banks would crowd it out.
    """

    def __init__(self) -> None:
        self._segments: tuple[_Segment, ...] = ()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(map(len, self._segments))

    @property
    def sketches(self) -> int:
        """How many sketches can be found."""
        return sum(len(segment.sketches) for segment in self._segments)

    def add(self, sketch_pks: Keys, sketches: Sketches) -> None:
        """Add sketches; a search that begins after sees them."""
        rows, codes = codes_of(sketches)
        if not len(rows):
            return
        with self._lock:
            segments = [*self._segments, _Segment(sketch_pks[rows], codes)]
            while len(segments) > 1 and _merge(len(segments[-2]), len(segments[-1])):
                newer, older = segments.pop(), segments.pop()
                owners = np.concatenate([older.owners, newer.owners])
                segments.append(_Segment(owners, np.concatenate([older.codes, newer.codes])))
            self._segments = tuple(segments)

    def keep(self, sketch_pks: Keys) -> None:
        """Forget all sketches but these: copies that were withdrawn would crowd out those that were not."""
        with self._lock:
            segments = []
            for segment in self._segments:
                kept = np.intersect1d(segment.sketches, sketch_pks)
                if len(kept) < len(segment.sketches):
                    rows = np.isin(segment.owners, kept)
                    segments += [_Segment(segment.owners[rows], segment.codes[rows])] if rows.any() else []
                else:
                    segments.append(segment)
            self._segments = tuple(segments)

    def vote(self, sketch: np.void) -> Votes:
        """Return the sketches that share descriptors with a query's; each of its descriptors has one vote a sketch."""
        codes = np.ascontiguousarray(sketch["keypoints"]["code"][: sketch["count"]])
        segments = self._segments
        if not len(codes) or not segments:
            return Votes(np.empty(0, np.int64), np.empty(0, np.int64))
        found = [segment.near(codes) for segment in segments]
        pairs = np.stack([np.concatenate([rows for rows, _ in found]), np.concatenate([pks for _, pks in found])], 1)
        owners, votes = np.unique(np.unique(pairs, axis=0)[:, 1], return_counts=True)
        order = np.argsort(-votes, kind="stable")
        return Votes(owners[order], votes[order])
