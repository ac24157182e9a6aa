"""The search structure over all hashes: exact within a radius. With `descriptors` the only file that imports faiss.

A cache of the record, which may be deleted at any time. Each signal type has a list of
immutable segments; new hashes become a new segment, and segments of like size are merged
as in a binary counter, so that adding costs O(log n) and readers never wait: a search
takes the list as it stands. A hash is searchable with one hash in the bank as with a
million.

What is withdrawn, or held by a reviewer, stays in a segment until the next snapshot is
written or loaded; the record is asked about every hit, so it can no longer answer. Sketches
are forgotten at the next refresh. What a reviewer releases has a new key in the record, so
that it is taken in like what is new.

Snapshot: one file, `MAGIC`, the SHA-256 of the rest in hex, a JSON header (version, store,
revision, history, profiles, counts), then the arrays. FAISS's own files are not used, since
a damaged one may load without a word. A snapshot that disagrees in anything is not loaded:
one of another store, or of a record that was since replaced by its backup (`history`, the
link of the audit chain, tells).
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
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
from indexer.descriptors import Descriptors
from indexer.record import Record

MAGIC = b"staydown-index\n"
VERSION = 1
_CHECKSUM_BYTES = 65
Keys = NDArray[np.int64]


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
        faiss.omp_set_num_threads(1)  # holds for the calling thread alone; on a busy machine two are 9 times slower
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

    def keep(self, keys: Keys) -> None:
        """Forget all hashes but those with one of these keys."""
        mine, codes = self.all()
        kept = np.isin(mine, keys)
        if not kept.all():
            self._segments = (Segment(mine[kept], codes[kept]),) if kept.any() else ()

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
        self._descriptors: dict[int, Descriptors] = {}  # of each bank; replaced, never changed
        self._last_pk = self._last_sketch_pk = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(map(len, self._types.values()))

    def sizes(self) -> dict[str, int]:
        """Return the number of searchable hashes of each type."""
        sizes = {kind.value: len(index) for kind, index in self._types.items()}
        return sizes | {SignalType.KEYPOINTS.value: sum(each.sketches for each in self._descriptors.values())}

    def search(self, signal_type: SignalType, codes: Codes, radius_bits: int) -> Hits:
        """Search one signal type."""
        return self._types[signal_type].search(codes, radius_bits)

    def descriptors(self, bank_pks: Iterable[int]) -> list[Descriptors]:
        """Return the descriptors of these banks, to be searched bank by bank."""
        known = self._descriptors
        return [known[bank_pk] for bank_pk in bank_pks if bank_pk in known]

    def refresh(self, record: Record) -> int:
        """Take in what the record has enrolled since; returns the revision that the index is at."""
        latest = record.store.revision()
        if latest > self.revision or not self.ready:
            with self._lock:
                if latest > self.revision or not self.ready:
                    for keys, frames in record.signals_since(self.revision):
                        self._add(keys, frames)
                    self._add_sketches(record)
                    self.revision = latest
        self.ready = True
        return self.revision

    def _add(self, keys: Keys, frames: Frames) -> None:
        """Add what is new: a content that got more hashes comes with its old ones again.

        The record gives keys out in ascending order, one writer after the other.
        """
        usable = (frames["quality"] >= self.min_quality) & (keys > self._last_pk)
        for kind, index in self._types.items():
            chosen = usable & np.isin(frames["profile"], profiles_of(kind))
            index.add(keys[chosen], frames["hash"][chosen])
        self._last_pk = max(self._last_pk, int(keys.max(initial=0)))

    def _add_sketches(self, record: Record) -> None:
        """Take in what is new and what is gone; no sketch is in the snapshot, so after a load all are new."""
        book = record.sketches
        if self._descriptors and (
            book.withdrawn_since(self.revision) or book.held_since(self.revision, self._last_sketch_pk)
        ):
            self._forget_sketches(record)
        for new in record.sketches.since(self._last_sketch_pk):
            for bank_pk in np.unique(new.bank_pk).tolist():
                if bank_pk not in self._descriptors:
                    self._descriptors = {**self._descriptors, bank_pk: Descriptors()}
                mine = new.bank_pk == bank_pk
                self._descriptors[bank_pk].add(new.sketch_pk[mine], new.rows[mine])
            self._last_sketch_pk = int(new.sketch_pk[-1])

    def _forget_sketches(self, record: Record) -> None:
        known = record.sketches.keys()
        for each in self._descriptors.values():
            each.keep(known)

    # The snapshot

    def save(self, path: Path, record: Record) -> None:
        """Write the snapshot, whole or not at all, without what was withdrawn."""
        with self._lock:
            self._forget_withdrawn(record)
            self._forget_sketches(record)
            revision, arrays = self.revision, {kind: index.all() for kind, index in self._types.items()}
        header = self._header(record, revision) | {
            "counts": {kind.value: len(keys) for kind, (keys, _) in arrays.items()},
        }
        body = json.dumps(header).encode() + b"\n"
        body += b"".join(keys.tobytes() + codes.tobytes() for keys, codes in arrays.values())
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(MAGIC + _checksum(body) + body)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        known = record.signal_keys()
        if not all(np.isin(keys, known).all() for keys, _ in arrays.values()):
            path.unlink(missing_ok=True)  # withdrawn since; whoever withdrew may have unlinked an older file

    def _forget_withdrawn(self, record: Record) -> None:
        known = record.signal_keys()
        for index in self._types.values():
            index.keep(known)

    def _header(self, record: Record, revision: int) -> dict[str, Any]:
        return {
            "version": VERSION,
            "store": record.store.store_id(),
            "revision": revision,
            "history": record.store.audit_digest(before=revision).hex(),
            "profiles": [str(profile) for profile in PROFILES],
            "min_quality": self.min_quality,
        }

    def load(self, path: Path, record: Record) -> bool:
        """Load a snapshot if it is whole and of this store; otherwise say False and change nothing."""
        try:
            data = path.read_bytes()
        except OSError:
            return False
        start = len(MAGIC) + _CHECKSUM_BYTES
        if data[:start] != MAGIC + _checksum(memoryview(data)[start:]):
            return False
        end = data.index(b"\n", start)  # ours, byte for byte, from here on
        header: dict[str, Any] = json.loads(data[start:end])
        revision, counts = int(header["revision"]), header.pop("counts")
        if revision > record.store.revision() or header != self._header(record, revision):
            return False
        with self._lock:
            self._types = dict(_type_indexes(counts, memoryview(data)[end + 1 :]))
            self._forget_withdrawn(record)
            self._last_pk = max(int(index.all()[0].max(initial=0)) for index in self._types.values())
            self.revision = revision
        return True


def _checksum(data: bytes | memoryview) -> bytes:
    return hashlib.sha256(data).hexdigest().encode() + b"\n"


def _type_indexes(counts: dict[str, int], body: memoryview) -> Iterator[tuple[SignalType, TypeIndex]]:
    start = 0
    for kind in PERCEPTUAL:
        middle, stop = start + 8 * counts[kind.value], start + (8 + HASH_BYTES) * counts[kind.value]
        index = TypeIndex()
        codes = np.frombuffer(body[middle:stop], np.uint8).reshape(-1, HASH_BYTES)
        index.add(np.frombuffer(body[start:middle], np.int64), codes)
        yield kind, index
        start = stop
