"""The index: all hashes and sketches that can be found, as of one revision of the record.

A cache of the record, which may be deleted at any time. Each signal type is some segments
(`segments`), each bank's sketches are others (`descriptors`), and all of them together are
saved as one file (`snapshot`).

What is withdrawn, or held by a reviewer, stays in a segment until the next `compact`; the
record is asked about every hit, so it can no longer answer. Where there are few sketches,
they are forgotten at the next refresh. What a reviewer releases has a new key in the
record, so that it is taken in like what is new.

A snapshot that disagrees in anything is not loaded: a damaged one, one of another store, of
other profiles or centres, or of a record that was since replaced by its backup (`history`,
the link of the audit chain, tells). Nothing in a snapshot was erased before its revision.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hashing.signals import KEYPOINT_DTYPE, PERCEPTUAL, PROFILES, Codes, Frames, SignalType, profiles_of
from indexer import snapshot
from indexer.descriptors import CENTRES_SHA256, Descriptors
from indexer.errors import IndexNotReady
from indexer.record import Record
from indexer.remote import HELD_UPTO, Base
from indexer.segments import SCANNED_UPTO, Hits, Keys, Segment, TypeIndex, joined_hits
from indexer.snapshot import Arrays

_Types = Mapping[SignalType, TypeIndex]
TAKEN_AT_ONCE = 500  # hashes that a check takes in itself; more are the watch's
_BREATH_S = 0.001  # between two portions of many: checks of this process wait for Python's lock meanwhile
LOOSE_UPTO = 2 * SCANNED_UPTO  # hashes of a type that are looked at one by one
FORGOTTEN_AT_ONCE = 1_000_000  # descriptors; a search does not wait until more than these are looked through


def _empty() -> _Types:
    return {kind: TypeIndex() for kind in PERCEPTUAL}


class Index:
    """The indexes of all perceptual types, as of one revision of the record."""

    def __init__(self, min_quality: int, *, remote: bool = False) -> None:
        """Hashes of frames below `min_quality` (featureless ones) are not searchable.

        `remote`: the most of whole frames lie in a search back-end, on which it has to `rest`.
        """
        self.min_quality = min_quality
        self.revision = 0
        self.ready = False
        self._remote = remote
        self.watched = False  # somebody else takes in what is new within moments
        self._held: tuple[_Types, Base | None] = _empty(), None  # together: a search takes both as they stand
        self._descriptors: dict[int, Descriptors] = {}  # of each bank; replaced, never changed
        self._last_pk = self._last_sketch_pk = 0
        self._saved = 0  # what the snapshot has: the sum of its last keys
        self._clean = 0  # the revision up to which what was erased is not in here
        self._lock, self._tidying = threading.Lock(), threading.Lock()

    @property
    def _types(self) -> _Types:
        return self._held[0]

    def __len__(self) -> int:
        sizes = self.sizes()
        return sum(sizes[kind.value] for kind in PERCEPTUAL)

    @property
    def held(self) -> int:
        """How many hashes are here and in no back-end."""
        return sum(map(len, self._types.values()))

    @property
    def full(self) -> bool:
        """Whether more is here, and in no back-end, than a process with a back-end is meant to hold."""
        return self._remote and self.held >= HELD_UPTO

    def sizes(self) -> dict[str, int]:
        """Return the number of searchable hashes of each type."""
        types, base = self._held
        elsewhere = {} if base is None else base.point.counts
        sizes = {kind.value: len(index) + elsewhere.get(kind.value, 0) for kind, index in types.items()}
        return sizes | {SignalType.KEYPOINTS.value: sum(each.sketches for each in self._descriptors.values())}

    def search(self, signal_type: SignalType, codes: Codes, radius_bits: int) -> Hits:
        """Search one signal type. With a back-end SearchUnavailable, TooManyHits."""
        types, base = self._held
        hits = types[signal_type].search(codes, radius_bits)
        return hits if base is None else joined_hits((base.search(signal_type, codes, radius_bits), hits))

    def rest(self, base: Base, record: Record) -> None:
        """Leave to a back-end what it holds, and hold the rest."""
        with self._tidying, self._lock:
            types, old = self._held
            if old is not None and old.point.collection == base.point.collection:
                self._held = {kind: index.above(base.point.last_pk) for kind, index in types.items()}, base
                return
            types, last_pk = _empty(), base.point.last_pk
            for keys, frames in record.signals_since(base.point.revision):
                last_pk = self._add(types, keys, frames, last_pk)
                if sum(map(len, types.values())) >= HELD_UPTO:
                    self.ready, self.revision = False, min(self.revision, base.point.revision)
                    break
            self._held, self._last_pk = (types, base), last_pk

    def descriptors(self, bank_pks: Iterable[int]) -> list[Descriptors]:
        """Return the descriptors of these banks, to be searched bank by bank."""
        known = self._descriptors
        return [known[bank_pk] for bank_pk in bank_pks if bank_pk in known]

    def catch_up(self, record: Record) -> int:
        """Take in what is new before an answer; returns the revision that the index is at.

        Of a long list that is just being imported, a check that took it in would be late, and so
        would every check after it: that is left to whoever watches. An answer says its revision.
        """
        if (
            self.watched
            and record.store.revision() > self.revision
            and record.newest_signal() > self._last_pk + TAKEN_AT_ONCE
        ):
            return self.revision
        return self.refresh(record)

    def refresh(self, record: Record) -> int:
        """Take in what the record has enrolled since; returns the revision that the index is at."""
        latest = record.store.revision()
        if latest > self.revision or not self.ready:
            with self._lock:
                if latest > self.revision or not self.ready:
                    self.ready = self._take_in(record, latest)
        return self.revision

    def _take_in(self, record: Record, latest: int) -> bool:
        """Take in what the record has more; say whether that was all: what is too much waits for the back-end."""
        news = record.signals_since(max(self.revision, self._settled())) if not self.full else ()
        for number, (keys, frames) in enumerate(news):
            if number and self.watched:
                time.sleep(_BREATH_S)
            self._last_pk = self._add(self._types, keys, frames, self._last_pk)
            if self.full:
                break
        if self.full:
            return False
        self._add_sketches(record)
        self.revision = latest
        return True

    def _settled(self) -> int:
        """Return the revision up to which the record is not asked for hashes: a back-end has them."""
        base = self._held[1]
        if self._remote and base is None:
            raise IndexNotReady
        return 0 if base is None else base.point.revision

    def _add(self, types: _Types, keys: Keys, frames: Frames, last_pk: int) -> int:
        """Add what is behind a key, and return the last: a content that got more hashes comes with its old ones again.

        The record gives keys out in ascending order, one writer after the other.
        """
        usable = (frames["quality"] >= self.min_quality) & (keys > last_pk)
        for kind, index in types.items():
            chosen = usable & np.isin(frames["profile"], profiles_of(kind))
            index.add(keys[chosen], frames["hash"][chosen])
        return max(last_pk, int(keys.max(initial=0)))

    def _add_sketches(self, record: Record) -> None:
        """Take in what is new, and forget what is gone: copies that were withdrawn would crowd out others."""
        book = record.sketches
        if 0 < sum(map(len, self._descriptors.values())) <= FORGOTTEN_AT_ONCE and (
            book.withdrawn_since(self.revision) or book.held_since(self.revision, self._last_sketch_pk)
        ):
            self._forget_sketches(record, self._last_sketch_pk)
        for new in record.sketches.since(self._last_sketch_pk):
            for bank_pk in np.unique(new.bank_pk).tolist():
                if bank_pk not in self._descriptors:
                    self._descriptors = {**self._descriptors, bank_pk: Descriptors()}
                mine = new.bank_pk == bank_pk
                self._descriptors[bank_pk].add(new.sketch_pk[mine], new.rows[mine])
            self._last_sketch_pk = int(new.sketch_pk[-1])

    def _forget_sketches(self, record: Record, newest: int) -> None:
        known = record.sketches.keys()
        for each in list(self._descriptors.values()):
            each.keep(known, newest)

    def fold(self) -> None:
        """Make large segments of small ones where these are many, as when a list is imported; forgets nothing."""
        with self._tidying:
            for index in self._types.values():
                if index.loose > LOOSE_UPTO:
                    index.compact()

    def compact(self, record: Record) -> None:
        """Make large segments of small ones, and forget what is gone; searches and refreshes go on meanwhile."""
        with self._tidying:
            self._compact(record)

    def _compact(self, record: Record) -> bool:
        """Compact; say whether large segments were made."""
        revision = record.store.revision()
        with self._lock:  # what comes in later is not judged by the keys that are read now
            newest, newest_sketch = self._last_pk, self._last_sketch_pk
        live = None
        if record.erased_since(self._clean):
            for index in self._types.values():  # of what was searched: there is a second of everything in a moment
                index.let_go()
            self._forget_sketches(record, newest_sketch)
            live = record.signal_keys()
        made = [index.compact(live, newest) for index in self._types.values()]
        self._clean = revision
        return any(made)

    # The snapshot

    def save(self, path: Path, record: Record) -> None:
        """Write the snapshot, whole or not at all, without what was withdrawn; OSError."""
        with self._tidying:
            self._compact(record)
            self._write(path, record)

    def tend(self, path: Path, record: Record) -> None:
        """Compact, and write the snapshot where there is none, or where it lacks much; OSError."""
        with self._tidying:
            if self._compact(record) or not path.exists() or self.lacks(path) > SCANNED_UPTO:
                self._write(path, record)

    def lacks(self, path: Path) -> int:
        """Say how many hashes and sketches at most the snapshot lacks that this index wrote or loaded."""
        newest = self._last_pk + self._last_sketch_pk
        return max(newest, 1) if not path.exists() else newest - self._saved

    def _write(self, path: Path, record: Record) -> None:
        with self._lock:  # what is written is settled here, and copied later
            about = self._about(record, self.revision) | {"last": [self._last_pk, self._last_sketch_pk]}
            segments = {kind: () if self._remote else index.segments for kind, index in self._types.items()}
            sketches = {bank_pk: each.parts() for bank_pk, each in self._descriptors.items()}
        snapshot.write(path, about, dict(_arrays(segments, sketches)), record.store.ring)
        self._saved = sum(about["last"])
        if record.erased_since(self._clean):
            path.unlink(missing_ok=True)  # whoever erased something may have unlinked an older file
        elif record.store.ring.current is None and (found := snapshot.read(path)):
            # mapped memory, that the system may take back; no older file stays open
            groups = _grouped(found.arrays)
            for kind, index in self._types.items():
                index.exchange(segments[kind], map(Segment.of, _parts(groups, kind.value)))

    def _about(self, record: Record, revision: int) -> dict[str, Any]:
        remote = {"remote": True} if self._remote else {}
        return remote | {
            "store": record.store.store_id(),
            "revision": revision,
            "history": record.store.revision_digest(revision).hex(),
            "profiles": [str(profile) for profile in PROFILES],
            "min_quality": self.min_quality,
            "centres": CENTRES_SHA256,
            "keypoints": str(KEYPOINT_DTYPE),
        }

    def load(self, path: Path, record: Record) -> bool:
        """Load a snapshot if it is whole and of this store; otherwise say False and change nothing."""
        found = snapshot.read(path, record.store.ring)
        if found is None:
            return False
        about, revision = dict(found.about), int(found.about["revision"])
        last = about.pop("last")
        if revision > record.store.revision() or about != self._about(record, revision):
            return False
        groups = _grouped(found.arrays)
        with self._lock:
            types = {kind: TypeIndex(map(Segment.of, _parts(groups, kind.value))) for kind in PERCEPTUAL}
            self._held = types, None
            self._descriptors = {
                int(name.split("/")[1]): Descriptors(_parts(groups, name))
                for name in dict.fromkeys(group.rpartition("/")[0] for group in groups)
                if name.startswith(f"{SignalType.KEYPOINTS.value}/")
            }
            self._last_pk, self._last_sketch_pk = last
            self._saved = sum(last)
            self.revision = self._clean = revision
        return True


def _arrays(
    segments: Mapping[SignalType, Iterable[Segment]], sketches: Mapping[int, Iterable[Arrays]]
) -> Iterator[tuple[str, Any]]:
    """Yield the arrays of all segments, named TYPE/NUMBER/COLUMN, or keypoints/BANK/NUMBER/COLUMN."""
    parts = {kind.value: (segment.arrays() for segment in each) for kind, each in segments.items()}
    named = {f"{SignalType.KEYPOINTS.value}/{bank_pk}": each for bank_pk, each in sketches.items()}
    for place, each in (parts | named).items():
        for number, columns in enumerate(each):
            yield from ((f"{place}/{number}/{column}", array) for column, array in columns.items())


def _grouped(arrays: Arrays) -> dict[str, Arrays]:
    """Return the arrays of each segment, in the order in which they were written."""
    groups: dict[str, Arrays] = {}
    for name, array in arrays.items():
        group, _, column = name.rpartition("/")
        groups.setdefault(group, {})[column] = array
    return groups


def _parts(groups: dict[str, Arrays], place: str) -> Iterator[Arrays]:
    return (arrays for group, arrays in groups.items() if group.rpartition("/")[0] == place)
