"""The search structure over local descriptors: which sketches share descriptors with a query.

A cache of the record like `index`, with immutable segments of the same kind. A small
segment is searched whole. A large one is an inverted file (FAISS): each descriptor lies
in the list of the nearest of 4,096 centres, and a query looks into the lists nearest to
it. All segments of all banks share the centres, so that a query finds its lists once,
and merging segments compares nothing. The centres are descriptors of pictures that we
draw (`benchmarks/robustness/centres.py`): nothing is trained, and none is anybody's photo.

A vote says little by itself: some of a million descriptors are near to any. But all true
votes for a copy agree in how much it is turned and scaled, and chance votes do not, so
only votes of one turn and scale are counted together: weak geometric consistency
(Jégou, Douze, Schmid: "Hamming embedding and weak geometric consistency for large scale
image search", ECCV 2008).
"""

import hashlib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from hashing.signals import HASH_BITS, HASH_BYTES, KEYPOINT_DTYPE, OCTAVES, Codes, Sketches
from indexer.snapshot import Arrays

Keys = NDArray[np.int64]
Keypoints = NDArray[np.void]

FLAT_UPTO = 2_048
MERGED_UPTO = 8_000_000
VOTERS = 400  # keypoints of a query that vote: the first of a sketch, which it needs most
NEAREST = 3  # of a voter, how many neighbours get its vote
PROBES = 4  # lists looked into
MAX_BITS = 56  # a neighbour further away gets no vote
TURNS = 16  # parts of a full turn; votes of two neighbouring ones count together
_COLUMNS = KEYPOINT_DTYPE.names or ()
_SCALES = 2 * OCTAVES - 1  # differences of two octaves; three neighbouring ones count together


def _centres() -> Codes:
    data = files("indexer").joinpath("centres.bin").read_bytes()
    return np.frombuffer(data, np.uint8).reshape(-1, HASH_BYTES)


def _coarse() -> Any:
    """Return the search over the centres, which all segments share."""
    flat: Any = faiss.IndexBinaryFlat(HASH_BITS)
    flat.add(_centres())
    return flat


_COARSE = _coarse()
CENTRES_SHA256 = hashlib.sha256(_centres().tobytes()).hexdigest()
LISTS = int(_COARSE.ntotal)


@dataclass(frozen=True, slots=True)
class Votes:
    """Sketches by how many of the query's keypoints agree with one of theirs in turn and scale, most first."""

    sketch_pk: Keys
    votes: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Voters:
    """The keypoints of one sketch that vote, and the lists nearest to each with its distance in bits, (n, PROBES)."""

    keypoints: Keypoints
    codes: Codes
    lists: Keys
    distance_bits: NDArray[np.int32]


def voters(sketch: np.void) -> Voters:
    """Return who votes for a query's sketch, to be asked of any number of banks."""
    keypoints = sketch["keypoints"][: min(int(sketch["count"]), VOTERS)]
    codes = np.ascontiguousarray(keypoints["code"])
    faiss.omp_set_num_threads(1)  # see index
    distances, lists = _COARSE.search(codes, PROBES)
    return Voters(keypoints, codes, lists, distances)


class _Segment:
    """Some descriptors that never change: whose they are (n,) int32, and their turns and octaves (n,) uint8.

    `owner` counts from 0; `sketches` (m,) int64 are the keys. The codes lie in FAISS alone.
    """

    def __init__(
        self, sketches: Keys, owner: NDArray[np.int32], keypoints: Keypoints, lists: NDArray[np.int32]
    ) -> None:
        self.sketches, self.owner = sketches, owner
        self.angle, self.octave, self.lists = keypoints["angle"].copy(), keypoints["octave"].copy(), lists
        self._flat = len(owner) <= FLAT_UPTO
        self._search = self._searchable(np.ascontiguousarray(keypoints["code"]))

    def _searchable(self, codes: Codes) -> Any:
        if self._flat:
            flat: Any = faiss.IndexBinaryFlat(HASH_BITS)
            flat.add(codes)
            return flat
        inverted: Any = faiss.IndexBinaryIVF(_COARSE, HASH_BITS, LISTS)
        inverted.is_trained, inverted.nprobe = True, PROBES
        lists = self.lists.astype(np.int64)
        inverted.add_core(len(codes), faiss.swig_ptr(codes), None, faiss.swig_ptr(lists))
        return inverted

    def __len__(self) -> int:
        return len(self.owner)

    def keypoints(self) -> Keypoints:
        """Return everything that is searched (KEYPOINT_DTYPE, places left out), to be merged."""
        found = np.zeros(len(self), KEYPOINT_DTYPE)
        found["angle"], found["octave"] = self.angle, self.octave
        if self._flat:
            found["code"] = faiss.vector_to_array(self._search.xb).reshape(-1, HASH_BYTES)
            return found
        held = self._search.invlists
        for number in np.unique(self.lists).tolist():
            size = held.list_size(number)
            rows = faiss.rev_swig_ptr(held.get_ids(number), size)
            found["code"][rows] = faiss.rev_swig_ptr(held.get_codes(number), size * HASH_BYTES).reshape(size, -1)
        return found

    def arrays(self) -> Arrays:
        """Return everything, to be written."""
        columns: Arrays = {"sketches": self.sketches, "owner": self.owner, "lists": self.lists}
        keypoints = self.keypoints()
        return columns | {name: keypoints[name] for name in _COLUMNS}

    @classmethod
    def of(cls, arrays: Arrays) -> "_Segment":
        """Return the segment that was written; FAISS copies the codes to its lists, and compares nothing."""
        keypoints = np.zeros(len(arrays["owner"]), KEYPOINT_DTYPE)
        for name in _COLUMNS:
            keypoints[name] = arrays[name]
        kept = [arrays[name].copy() for name in ("sketches", "owner", "lists")]  # the file is not held open
        return cls(kept[0], kept[1], keypoints, kept[2])

    def near(self, asked: Voters) -> tuple[Keys, Keys]:
        """Return (number of the voter, row of the descriptor) of each vote."""
        faiss.omp_set_num_threads(1)
        nearest = min(NEAREST, len(self))
        if self._flat:
            distances, rows = self._search.search(asked.codes, nearest)
        else:
            distances, rows = self._search.search_preassigned(
                asked.codes, nearest, asked.lists, asked.distance_bits
            )  # fmt: skip
        voter, column = np.nonzero((rows >= 0) & (distances <= MAX_BITS))
        return voter, rows[voter, column]

    def vote(self, asked: Voters) -> tuple[Keys, NDArray[np.int64]]:
        """Return the keys of the sketches that got votes, and how many that agree with one another."""
        voter, row = self.near(asked)
        found, place = np.unique(self.owner[row], return_inverse=True)
        first = np.unique(place * VOTERS + voter, return_index=True)[1]  # one vote a sketch: for the nearest
        voter, row, place = voter[first], row[first], place[first]
        turn = (asked.keypoints["angle"][voter] - self.angle[row]).astype(np.int64) // (256 // TURNS)
        scale = asked.keypoints["octave"][voter].astype(np.int64) - self.octave[row] + OCTAVES - 1
        cells = (place * TURNS + turn) * _SCALES + scale
        return self.sketches[found], _agreeing(np.bincount(cells, minlength=len(found) * TURNS * _SCALES))


def _agreeing(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the most votes of two turns and three scales beside one another, for each sketch."""
    counts = cells.reshape(-1, TURNS, _SCALES)
    counts = counts + np.roll(counts, -1, axis=1)
    padded = np.pad(counts, ((0, 0), (0, 0), (1, 1)))
    most: NDArray[np.int64] = (padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]).max(axis=(1, 2), initial=0)
    return most


def _segment(sketch_pks: Keys, rows: Sketches) -> _Segment | None:
    counts = rows["count"].astype(np.int64)
    keypoints = np.concatenate([np.empty(0, KEYPOINT_DTYPE), *(row["keypoints"][: row["count"]] for row in rows)])
    if not len(keypoints):
        return None
    faiss.omp_set_num_threads(1)
    lists = _COARSE.assign(np.ascontiguousarray(keypoints["code"]), 1)[:, 0].astype(np.int32)
    return _Segment(sketch_pks, np.repeat(np.arange(len(rows), dtype=np.int32), counts), keypoints, lists)


def _merged(older: _Segment, newer: _Segment) -> _Segment:
    owner = np.concatenate([older.owner, newer.owner + np.int32(len(older.sketches))])
    keypoints = np.concatenate([older.keypoints(), newer.keypoints()])
    sketches = np.concatenate([older.sketches, newer.sketches])
    return _Segment(sketches, owner, keypoints, np.concatenate([older.lists, newer.lists]))


def _only(segment: _Segment, kept: NDArray[np.bool_]) -> _Segment:
    """Return a segment of the sketches that are kept."""
    rows = kept[segment.owner]
    renumbered = np.cumsum(kept, dtype=np.int32) - np.int32(1)
    owner = renumbered[segment.owner[rows]]
    return _Segment(segment.sketches[kept], owner, segment.keypoints()[rows], segment.lists[rows])


def _merge(older: int, newer: int) -> bool:
    return older <= 2 * newer and older + newer <= MERGED_UPTO


class Descriptors:
    """All descriptors of one bank's sketches.

    One bank's, since only a few neighbours get votes: copies in other banks would crowd it out.
    """

    def __init__(self, parts: Iterable[Arrays] = ()) -> None:
        """Start with nothing, or with the `parts` that were written."""
        self._segments: tuple[_Segment, ...] = tuple(map(_Segment.of, parts))
        self._lock = threading.Lock()

    def parts(self) -> Iterator[Arrays]:
        """Return all segments as they stand, to be written one by one."""
        return (segment.arrays() for segment in self._segments)

    def __len__(self) -> int:
        return sum(map(len, self._segments))

    @property
    def sketches(self) -> int:
        """How many sketches can be found."""
        return sum(len(segment.sketches) for segment in self._segments)

    def add(self, sketch_pks: Keys, sketches: Sketches) -> None:
        """Add sketches; a search that begins after sees them."""
        some = sketches["count"] > 0
        made = _segment(sketch_pks[some], sketches[some])
        if made is None:
            return
        with self._lock:
            segments = [*self._segments, made]
            while len(segments) > 1 and _merge(len(segments[-2]), len(segments[-1])):
                newer, older = segments.pop(), segments.pop()
                segments.append(_merged(older, newer))
            self._segments = tuple(segments)

    def keep(self, sketch_pks: Keys, newest: int) -> None:
        """Forget all sketches up to the key `newest` but these: copies that were withdrawn would crowd out others.

        Searches and additions go on meanwhile; what they merged is looked through again.
        """
        while lacking := {
            segment: kept
            for segment in self._segments
            if not (kept := np.isin(segment.sketches, sketch_pks) | (segment.sketches > newest)).all()
        }:
            made = {segment: _only(segment, kept) if kept.any() else None for segment, kept in lacking.items()}
            with self._lock:
                places = [made.get(segment, segment) for segment in self._segments]
                self._segments = tuple(segment for segment in places if segment is not None)

    def vote(self, asked: Voters) -> Votes:
        """Return the sketches that share descriptors with a query's."""
        found = [segment.vote(asked) for segment in self._segments] if len(asked.codes) else []
        nothing = np.empty(0, np.int64)
        owners = np.concatenate([nothing, *(keys for keys, _ in found)])
        votes = np.concatenate([nothing, *(counts for _, counts in found)])
        order = np.argsort(-votes, kind="stable")
        return Votes(owners[order], votes[order])
