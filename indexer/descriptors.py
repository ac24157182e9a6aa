"""The search structure over local descriptors: which sketches share descriptors with a query.

A cache of the record like `index`, with immutable segments of the same kind. A small
segment is searched whole. A large one is an inverted file (FAISS): each descriptor lies
in the list of the nearest of 4,096 centres, and a query looks into the lists nearest to
it. All segments of all banks share the centres, so that a query finds its lists once,
and merging segments compares nothing. The centres are descriptors of pictures that we
draw (`benchmarks/robustness/centres.py`): nothing is trained, and none is anybody's photo.

`votes` counts what the neighbours come to.
"""

import hashlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import faiss
import numpy as np
from numpy.lib.recfunctions import repack_fields
from numpy.typing import NDArray

from hashing.signals import HASH_BITS, HASH_BYTES, KEYPOINT_DTYPE, Codes, Sketches
from indexer.snapshot import Arrays, let_go
from indexer.votes import Cast, Keypoints, Keys, count

FLAT_UPTO = 2_048
MERGED_UPTO = 8_000_000
VOTERS = 400  # keypoints of a query that vote: the first of a sketch, which it needs most
MIRRORED_VOTERS = 250  # of its mirror image: fewer copies are mirrored
NEAREST = 3  # of a voter, how many neighbours get its vote
PROBES = 4  # lists looked into, at most
FURTHER_BITS = 5  # than the nearest centre; lists of centres further away are left out
MAX_BITS = 56  # a neighbour further away gets no vote
_PLACED = ("x", "y", "angle", "octave")  # of a keypoint, beside its code
_COLUMNS = KEYPOINT_DTYPE.names or ()


def _centres() -> Codes:
    data = files("indexer").joinpath("centres.bin").read_bytes()
    return np.frombuffer(data, np.uint8).reshape(-1, HASH_BYTES)


def _coarse() -> Any:
    """Return the search over the centres, which all segments share."""
    flat: Any = faiss.IndexBinaryFlat(HASH_BITS)
    flat.add(CENTRES)
    return flat


CENTRES = _centres()
CENTRES_SHA256 = hashlib.sha256(CENTRES.tobytes()).hexdigest()
_COARSE = _coarse()
LISTS = int(_COARSE.ntotal)


@dataclass(frozen=True, slots=True)
class Votes:
    """Sketches by how many of the query's votes for them agree with one another, most first."""

    sketch_pk: Keys
    votes: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Voters:
    """The keypoints of one sketch that vote, and the lists that each looks into with their distances, (n, PROBES).

    A list of -1 is none.
    """

    keypoints: Keypoints
    codes: Codes
    lists: Keys
    distance_bits: NDArray[np.int32]


def voters(sketch: np.void) -> Voters:
    """Return who votes for a query's sketch, to be asked of any number of banks."""
    keypoints = sketch["keypoints"][: min(int(sketch["count"]), MIRRORED_VOTERS if sketch["mirrored"] else VOTERS)]
    codes = np.ascontiguousarray(keypoints["code"])
    faiss.omp_set_num_threads(1)  # see index
    distances, lists = _COARSE.search(codes, PROBES)
    near = distances <= distances[:, :1] + FURTHER_BITS
    return Voters(keypoints, codes, np.where(near, lists, -1), distances)


class _Segment:
    """Some descriptors that never change: whose they are (n,) int32, and where they lie (KEYPOINT_DTYPE without codes).

    `owner` counts from 0; `sketches` (m,) int64 are the keys. The codes lie in FAISS alone.
    """

    def __init__(
        self, sketches: Keys, owner: NDArray[np.int32], keypoints: Keypoints, lists: NDArray[np.int32]
    ) -> None:
        self.sketches, self.owner = sketches, owner
        self.placed, self.lists = repack_fields(keypoints[list(_PLACED)]), lists
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
        """Return all keypoints (KEYPOINT_DTYPE), to be merged."""
        found = np.zeros(len(self), KEYPOINT_DTYPE)
        for name in _PLACED:
            found[name] = self.placed[name]
        self._read_codes(found["code"])
        return found

    def _read_codes(self, into: Codes) -> None:
        if self._flat:
            into[:] = faiss.vector_to_array(self._search.xb).reshape(-1, HASH_BYTES)
            return
        held = self._search.invlists
        for number in np.unique(self.lists).tolist():
            size = held.list_size(number)
            rows = faiss.rev_swig_ptr(held.get_ids(number), size)
            into[rows] = faiss.rev_swig_ptr(held.get_codes(number), size * HASH_BYTES).reshape(size, -1)

    def arrays(self) -> Arrays:
        """Return everything, to be written."""
        code = np.empty((len(self), HASH_BYTES), np.uint8)
        self._read_codes(code)
        columns: Arrays = {"sketches": self.sketches, "owner": self.owner, "lists": self.lists}
        return columns | {name: code if name == "code" else self.placed[name] for name in _COLUMNS}

    @classmethod
    def of(cls, arrays: Arrays) -> "_Segment":
        """Return the segment that was written; FAISS copies the codes to its lists, and compares nothing."""
        keypoints = np.zeros(len(arrays["owner"]), KEYPOINT_DTYPE)
        for name in _COLUMNS:
            keypoints[name] = arrays[name]
        kept = [arrays[name].copy() for name in ("sketches", "owner", "lists")]  # the file is not held open
        for array in arrays.values():
            let_go(array)
        return cls(kept[0], kept[1], keypoints, kept[2])

    def near(self, asked: Voters) -> tuple[NDArray[np.int32], Keys]:
        """Return (distances in bits, rows of descriptors) of each voter's nearest few, (n, NEAREST); row -1 is none."""
        faiss.omp_set_num_threads(1)
        if self._flat:
            found: tuple[NDArray[np.int32], Keys] = self._search.search(asked.codes, NEAREST)
        else:
            found = self._search.search_preassigned(asked.codes, NEAREST, asked.lists, asked.distance_bits)
        return found


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
        """Return the sketches that share descriptors with a query's, most votes first."""
        segments = self._segments
        if not segments or not len(asked.codes):
            return Votes(np.empty(0, np.int64), np.empty(0, np.int64))
        found = [segment.near(asked) for segment in segments]
        bits = np.concatenate([np.where(rows >= 0, distances, HASH_BITS + 1) for distances, rows in found], axis=1)
        nearest = np.argsort(bits, axis=1, kind="stable")[:, :NEAREST]
        voter, column = np.nonzero(np.take_along_axis(bits, nearest, axis=1) <= MAX_BITS)
        place = nearest[voter, column]
        row = np.concatenate([rows for _, rows in found], axis=1)[voter, place]
        sketches, votes = count(_cast(segments, asked, voter, place // NEAREST, row))
        return Votes(np.concatenate([segment.sketches for segment in segments])[sketches], votes)


def _cast(segments: Sequence[_Segment], asked: Voters, voter: Keys, segment: Keys, row: Keys) -> Cast:
    """Return votes for descriptors, each a row of a segment; sketches are numbered through all segments."""
    sketch, theirs = np.empty(len(voter), np.int64), np.empty(len(voter), segments[0].placed.dtype)
    first = 0
    for number, each in enumerate(segments):
        mine = segment == number
        sketch[mine], theirs[mine] = each.owner[row[mine]] + first, each.placed[row[mine]]
        first += len(each.sketches)
    return Cast(voter, sketch, asked.keypoints[voter], theirs)
