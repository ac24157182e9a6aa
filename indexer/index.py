"""The search structure over all hashes: exact within a radius. The only file that imports faiss.

A cache of the record, which may be deleted at any time. Each signal type has a list of
immutable segments; new hashes become a new segment, and segments of like size are merged
as in a binary counter, so that adding costs O(log n) and readers never wait: a search
takes the list as it stands. A hash is searchable with one hash in the bank as with a
million.

What is withdrawn stays in a segment until it is next merged or loaded; the record is
asked about every hit, so it can no longer answer.

Snapshot: one file, `MAGIC`, a JSON header (version, store, revision, profiles, counts,
SHA-256 of the rest), then the arrays. FAISS's own files are not used, since a damaged one
may load without a word. A snapshot that disagrees in anything is not loaded.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from hashing.signals import (
    HASH_BITS,
    HASH_BYTES,
    PERCEPTUAL,
    PROFILES,
    Codes,
    Frames,
    SignalType,
    profiles_of,
)
from indexer.record import Record

MAGIC = b"staydown-index\n"
VERSION = 1
Keys = NDArray[np.int64]

faiss.omp_set_num_threads(1)  # two threads on a busy machine are slower than one; callers are parallel


@dataclass(frozen=True, slots=True)
class Hits:
    """Matches within a radius, as columns: row of the query, key of the hash, distance in bits."""

    query: Keys
    signal_pk: Keys
    distance_bits: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.query)


def _hits(parts: Iterable[Hits]) -> Hits:
    found = list(parts)
    nothing = np.empty(0, np.int64)
    if not found:
        return Hits(nothing, nothing, np.empty(0, np.int32))
    return Hits(
        np.concatenate([part.query for part in found]),
        np.concatenate([part.signal_pk for part in found]),
        np.concatenate([part.distance_bits for part in found]),
    )


class Segment:
    """Some hashes that never change: keys (n,) int64 and codes (n, 32) uint8."""

    def __init__(self, keys: Keys, codes: Codes) -> None:
        self.keys = keys
        self._flat: Any = faiss.IndexBinaryFlat(HASH_BITS)
        self._flat.add(np.ascontiguousarray(codes))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def codes(self) -> Codes:
        """The codes, uint8 (n, 32), as a view on FAISS's memory."""
        size = len(self.keys) * HASH_BYTES
        codes: Codes = faiss.rev_swig_ptr(self._flat.xb.data(), size).reshape(-1, HASH_BYTES)
        return codes

    def search(self, codes: Codes, radius_bits: int) -> Hits:
        """Return all hashes at most `radius_bits` away. FAISS's radius is strict, hence + 1."""
        limits, distances, positions = self._flat.range_search(codes, radius_bits + 1)
        query = np.repeat(np.arange(len(codes)), np.diff(limits.astype(np.int64)))
        return Hits(query, self.keys[positions], distances.astype(np.int32))


class TypeIndex:
    """All segments of one signal type."""

    def __init__(self) -> None:
        self._segments: tuple[Segment, ...] = ()

    def __len__(self) -> int:
        return sum(len(segment) for segment in self._segments)

    def add(self, keys: Keys, codes: Codes) -> None:
        """Add hashes; a search that began before does not see them, one that begins after does."""
        if not len(keys):
            return
        segments = [*self._segments, Segment(keys, codes)]
        while len(segments) > 1 and len(segments[-2]) <= 2 * len(segments[-1]):
            newer, older = segments.pop(), segments.pop()
            merged = np.concatenate([older.keys, newer.keys])
            segments.append(Segment(merged, np.concatenate([older.codes, newer.codes])))
        self._segments = tuple(segments)

    def search(self, codes: Codes, radius_bits: int) -> Hits:
        """Return all hashes at most `radius_bits` away from each code, uint8 (q, 32)."""
        wanted = np.ascontiguousarray(codes)
        return _hits(segment.search(wanted, radius_bits) for segment in self._segments)

    def all(self) -> tuple[Keys, Codes]:
        """Return every key and code."""
        segments = self._segments
        if not segments:
            return np.empty(0, np.int64), np.empty((0, HASH_BYTES), np.uint8)
        return (
            np.concatenate([segment.keys for segment in segments]),
            np.concatenate([segment.codes for segment in segments]),
        )


class Index:
    """The indexes of all perceptual types, as of one revision of the record."""

    def __init__(self, min_quality: int) -> None:
        """Hashes of frames below `min_quality` (featureless ones) are not searchable."""
        self.min_quality = min_quality
        self.revision = 0
        self.ready = False
        self._types = {kind: TypeIndex() for kind in PERCEPTUAL}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(map(len, self._types.values()))

    def sizes(self) -> dict[str, int]:
        """Return the number of searchable hashes of each type."""
        return {kind.value: len(index) for kind, index in self._types.items()}

    def search(self, signal_type: SignalType, codes: Codes, radius_bits: int) -> Hits:
        """Search one signal type."""
        return self._types[signal_type].search(codes, radius_bits)

    def refresh(self, record: Record) -> int:
        """Take in what the record has enrolled since; returns the revision that the index is at."""
        latest = record.store.revision()
        if latest > self.revision:
            with self._lock:
                if latest > self.revision:
                    for keys, frames in record.signals_since(self.revision, latest):
                        self._add(keys, frames)
                    self.revision = latest
        self.ready = True
        return self.revision

    def _add(self, keys: Keys, frames: Frames) -> None:
        usable = frames["quality"] >= self.min_quality
        for kind, index in self._types.items():
            chosen = usable & np.isin(frames["profile"], profiles_of(kind))
            index.add(keys[chosen], frames["hash"][chosen])

    # The snapshot

    def save(self, path: Path, store_id: str) -> None:
        """Write the snapshot, whole or not at all."""
        with self._lock:
            revision, arrays = self.revision, {kind: index.all() for kind, index in self._types.items()}
        body = b"".join(keys.tobytes() + codes.tobytes() for keys, codes in arrays.values())
        header = self._header(store_id) | {
            "revision": revision,
            "counts": {kind.value: len(keys) for kind, (keys, _) in arrays.items()},
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            file.write(MAGIC + json.dumps(header).encode() + b"\n" + body)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o600)
        part.replace(path)

    def _header(self, store_id: str) -> dict[str, Any]:
        return {
            "version": VERSION,
            "store": store_id,
            "profiles": [str(profile) for profile in PROFILES],
            "min_quality": self.min_quality,
        }

    def load(self, path: Path, record: Record) -> bool:
        """Load a snapshot if it is whole and of this store; otherwise say False and change nothing."""
        try:
            found = _read(path.read_bytes(), self._header(record.store.store_id()))
        except (OSError, ValueError, KeyError, TypeError):
            return False
        if found is None or found[0] > record.store.revision():
            return False
        revision, arrays = found
        with self._lock:
            for kind, (keys, codes) in arrays.items():
                self._types[kind] = TypeIndex()
                self._types[kind].add(keys, codes)
            self.revision = revision
        return True


def _read(data: bytes, wanted: dict[str, Any]) -> tuple[int, dict[SignalType, tuple[Keys, Codes]]] | None:
    """Return revision and arrays of a snapshot's bytes, or None where anything disagrees."""
    if not data.startswith(MAGIC):
        return None
    line, _, body = data[len(MAGIC) :].partition(b"\n")
    header = json.loads(line)
    if not isinstance(header, dict) or any(header.get(name) != value for name, value in wanted.items()):
        return None
    if hashlib.sha256(body).hexdigest() != header["sha256"]:
        return None
    arrays, start = {}, 0
    for kind in PERCEPTUAL:
        count = int(header["counts"][kind.value])
        middle, stop = start + 8 * count, start + (8 + HASH_BYTES) * count
        if count < 0 or stop > len(body):
            return None
        keys = np.frombuffer(body[start:middle], np.int64)
        arrays[kind] = (keys, np.frombuffer(body[middle:stop], np.uint8).reshape(-1, HASH_BYTES))
        start = stop
    return (int(header["revision"]), arrays) if start == len(body) else None
