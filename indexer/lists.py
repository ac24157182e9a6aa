"""The enrolment walk of a list: thousands of contents of ready-made hashes at a time, as columns.

It writes what `enroll` would write of them one by one, many times as fast (the tests compare
the two). The audit log has one line a transaction, which names all contents of it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hashing.signals import PROFILES, Frames, Kind, Media, Signal, SignalType
from indexer.banks import Bank
from indexer.contents import NewContent, NewList, insert_list
from indexer.engines import prepare_bulk
from indexer.enroll import fingerprint, fingerprints, kept_rows
from indexer.errors import NothingToEnroll
from indexer.guarding import Guard
from indexer.guards import HOLDS, Held, Holds
from indexer.hashes import lacking
from indexer.index import Index
from indexer.record import Known, Record
from indexer.store import Change

Digests = Sequence[tuple[SignalType, bytes]]
_NO_SKETCHES = np.zeros(0, np.uint8)


@dataclass(frozen=True, slots=True)
class HashList:
    """Contents of ready-made hashes as columns: the frames of all of them behind one another, so many of each."""

    frames: Frames
    sizes: NDArray[np.int64]
    cases: Sequence[str | None]
    labels: Sequence[tuple[str, ...]]
    exact: Mapping[int, Digests] = field(default_factory=dict)  # of those contents that have any

    def __len__(self) -> int:
        return len(self.sizes)

    def part(self, start: int, stop: int) -> "HashList":
        """Return some contents in a row."""
        stop = min(stop, len(self))
        begin, end = int(self.sizes[:start].sum()), int(self.sizes[:stop].sum())
        exact = {number - start: self.exact[number] for number in range(start, stop) if number in self.exact}
        some = slice(start, stop)
        return HashList(self.frames[begin:end], self.sizes[some], self.cases[some], self.labels[some], exact)


@dataclass(frozen=True, slots=True)
class Listed:
    """What one transaction of a list came to: the contents in the list's order, which of them are new, what is held."""

    content_ids: tuple[str, ...]
    created: tuple[bool, ...]
    bank_revision: int
    held_frames: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Batch:
    """What of a list is to be written in a bank; `owner` is the place of each frame's content."""

    marks: list[str]
    contents: HashList
    owner: NDArray[np.int64]
    frames: Frames
    held: Held
    digests: Mapping[int, Digests]

    def take(self, chosen: Sequence[int]) -> NewList:
        """Return some contents, in this order of their places."""
        whole, places = self.contents, np.full(len(self.contents), -1)
        places[list(chosen)] = np.arange(len(chosen))
        mine = places[self.owner] >= 0
        digests = [
            (place, kind, code) for place, number in enumerate(chosen) for kind, code in self.digests.get(number, ())
        ]
        return NewList(
            [self.marks[number] for number in chosen], whole.sizes[list(chosen)].tolist(),
            [whole.cases[number] for number in chosen], [whole.labels[number] for number in chosen],
            places[self.owner[mine]], self.frames[mine], self.held[mine], digests,
        )  # fmt: skip

    def lacking(self, change: Change, pks: NDArray[np.int64], asked: NDArray[np.bool_]) -> list[int]:
        """Return which of the contents asked about have something that those with these keys in the record lack."""
        places, mine = np.flatnonzero(asked).tolist(), asked[self.owner]
        if not places:
            return []
        digests = [(int(pks[place]), *pair) for place in places for pair in self.digests.get(place, ())]
        found = lacking(change.connection, pks[self.owner[mine]].tolist(), self.frames[mine], digests)
        return [place for place in places if int(pks[place]) in found]

    def one(self, number: int) -> NewContent:
        """Return one content as it is written by itself."""
        mine = self.owner == number
        media = Media(Kind.HASHES, None, frames_hashed=int(self.contents.sizes[number]))
        return NewContent(
            self.marks[number], media, self.frames[mine], self.digests.get(number, ()), self.contents.cases[number],
            self.contents.labels[number], holds=Holds(self.held[mine], _NO_SKETCHES),
        )  # fmt: skip


def _marks(contents: HashList) -> list[str]:
    """Return the fingerprint of each content."""
    if (contents.sizes == 1).all() and not contents.exact:
        return fingerprints(contents.frames)
    parts = np.split(contents.frames, np.cumsum(contents.sizes)[:-1])
    exact = (tuple(contents.exact.get(number, ())) for number in range(len(contents)))
    return [fingerprint(_signal(rows, digests)) for rows, digests in zip(parts, exact, strict=True)]


def _signal(rows: Frames, digests: tuple[tuple[SignalType, bytes], ...]) -> Signal:
    sha256 = next((code.hex() for kind, code in digests if kind is SignalType.SHA256), None)
    return Signal(Media(Kind.HASHES, sha256, frames_hashed=len(rows)), rows, digests)


def _batch(bank: Bank, contents: HashList, marks: list[str], held: Held) -> _Batch:
    """Return what the bank keeps; NothingToEnroll."""
    kept, owner = kept_rows(contents.frames, bank), np.repeat(np.arange(len(contents)), contents.sizes)
    of_types = (
        (number, [pair for pair in pairs if pair[0] in bank.signal_types]) for number, pairs in contents.exact.items()
    )
    digests = {number: pairs for number, pairs in of_types if pairs}
    filled = np.zeros(len(contents), np.bool_)
    filled[owner[kept]] = True
    filled[list(digests)] = True
    if not filled.all():
        raise NothingToEnroll
    return _Batch(marks, contents, owner[kept], contents.frames[kept], held[kept], digests)


class ListEnroller:
    """Writes lists to the record and the index."""

    def __init__(self, record: Record, index: Index, guard: Guard) -> None:
        self._record, self._index, self._guard = record, index, guard

    def enroll(self, bank_name: str, contents: HashList, *, actor: str) -> Listed:
        """Enroll contents in one transaction: all of them or none. UnknownBank, NothingToEnroll."""
        return next(self.enroll_parts(bank_name, [contents], actor=actor))

    def enroll_parts(
        self, bank_name: str, parts: Iterable[HashList], *, source: str | None = None, actor: str
    ) -> Iterator[Listed]:
        """Enroll lists, each as `enroll` does; one is made ready while the one before it is written."""
        with ThreadPoolExecutor(1) as ahead:
            ready = ((part, ahead.submit(self._prepared, bank_name, part)) for part in parts)
            current = next(ready, None)
            while current is not None:
                following = next(ready, None)
                yield self._enroll(bank_name, current[0], current[1].result(), source, actor)
                current = following

    def _prepared(self, bank_name: str, contents: HashList) -> tuple[list[str], Held]:
        """Return the fingerprint of each content, and what the guards hold of its hashes. UnknownBank."""
        held = self._guard.held(self._record.settings_of(bank_name), contents.frames)
        return _marks(contents), held

    def _enroll(
        self, bank_name: str, contents: HashList, prepared: tuple[list[str], Held], source: str | None, actor: str
    ) -> Listed:
        with self._record.store.change(actor) as change:
            prepare_bulk(change.connection)
            bank = self._record.bank_within(change, bank_name)
            done = self._write(change, bank, _batch(bank, contents, *prepared), source)
        if self._index.ready:
            self._index.refresh(self._record)
        return done

    def _write(self, change: Change, bank: Bank, batch: _Batch, source: str | None) -> Listed:
        first: dict[str, int] = {}
        for number, mark in enumerate(batch.marks):
            first.setdefault(mark, number)
        before = self._record.find_fingerprints(change, bank.bank_pk, sorted(first))  # in the order of the index
        new = [number for mark, number in first.items() if mark not in before]
        added = insert_list(change, bank.bank_pk, batch.take(new))
        self._record.standing.mark(change, bank, [pk for pk, _ in added], source)
        known = before | {batch.marks[number]: Known(*key) for number, key in zip(new, added, strict=True)}
        created = np.zeros(len(batch.marks), np.bool_)
        created[new] = True
        pks = np.array([known[mark].content_pk for mark in batch.marks], np.int64)
        for number in () if bank.two_persons else batch.lacking(change, pks, ~created):
            self._record.complete(change, int(pks[number]), batch.one(number))
        ids = tuple(known[mark].content_id for mark in batch.marks)
        return _listed(change, bank, batch, ids, tuple(created.tolist()))


def _listed(change: Change, bank: Bank, batch: _Batch, ids: tuple[str, ...], created: tuple[bool, ...]) -> Listed:
    """Log a transaction of a list, and return what it came to."""
    signals = Counter(PROFILES[number].signal_type.value for number in batch.frames["profile"].tolist())
    signals.update(kind.value for pairs in batch.digests.values() for kind, _ in pairs)
    held = Counter(HOLDS[number - 1].value for number in batch.held[batch.held > 0].tolist())
    change.log("content.import", bank.name, content_ids=ids, new=sum(created), signals=signals, held=held)
    return Listed(ids, created, change.revision, held)
