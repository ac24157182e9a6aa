"""Hashes that lie in a search back-end: which of them, fed by one process at a time, rebuilt when it disagrees.

What the back-end holds is a cache of the record, like the index. It says of itself which
store it belongs to, in which history (the digest of a revision), and up to which key it has
all hashes that can be found; what is newer every process holds itself. Its hits are joined
with the record like all others, so that a withdrawal counts at once.

Whoever has the store's turn feeds. What is about to be written is noted first, so that the
next feeder deletes what a killed one left half done; and each time the number of hashes is
compared, since a back-end that lost some would say "no match". One that disagrees is dropped
and filled anew under another name: no process ever searches one half filled.

A process that cannot leave its new hashes to the back-end holds no more than HELD_UPTO of them:
they are searched like any index, but a process that ran out of memory would answer nothing.
"""

import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from hashing.signals import PERCEPTUAL, PROFILES, Codes, Frames, SignalType, profiles_of
from indexer.errors import IndexNotReady, SearchUnavailable
from indexer.record import Record
from indexer.segments import Hits, Keys, joined_hits

if TYPE_CHECKING:
    from indexer.milvus import Milvus

FORMAT = 2
FED_AT = 20_000  # new hashes: fewer are searched here in no time
SEALED_AT = 1_024  # below, Milvus makes no index of them
HOLD_S = 30.0  # what was written so long ago is seen by every search (`milvus` says why)
HELD_UPTO = 5_000_000  # new hashes that a process holds itself; with more to hold it is not ready
ERASED_S = 600.0  # longest wait for Milvus to write its files anew
_LOOK_S, _ASKED_AGAIN_S = 0.5, 30.0


@dataclass(frozen=True, slots=True)
class Point:
    """What a collection of the back-end holds."""

    collection: str
    about: Mapping[str, Any]  # the store, and how its hashes are made
    history: tuple[int, str]  # a revision that was there when the last of them were read, and its digest
    last_pk: int = 0  # up to this key it has all that can be found
    begun_pk: int = 0  # up to this key it may have some
    revision: int = 0  # what has later keys was changed after it
    clean: int = 0  # what was withdrawn up to this revision is not in it
    counts: Mapping[str, int] = field(default_factory=lambda: {kind.value: 0 for kind in PERCEPTUAL})
    filled: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """Hashes that lie elsewhere, up to a key; an index holds the rest."""

    backend: "Milvus"
    point: Point
    seen_s: float

    def search(self, kind: SignalType, codes: Codes, radius_bits: int) -> Hits:
        """Return all of them at most `radius_bits` away from each code; SearchUnavailable, TooManyHits."""
        if not self.point.counts[kind.value]:
            return joined_hits(())
        strong = time.monotonic() - self.seen_s < HOLD_S
        hits = self.backend.search(self.point.collection, kind.value, codes, radius_bits, strong=strong)
        return hits.only(hits.signal_pk <= self.point.last_pk)


def _read(said: str | None) -> Point | None:
    """Return what was written, or None if it was not written by this version."""
    try:
        told = json.loads(said or "")
        return Point(**told | {"history": tuple(told["history"])}) if told["about"]["format"] == FORMAT else None
    except (ValueError, TypeError, KeyError):
        return None


class Remote:
    """The back-end of one store."""

    def __init__(self, record: Record, backend: "Milvus", min_quality: int, *, fed_at: int = FED_AT,
                 hold_s: float = HOLD_S) -> None:  # fmt: skip
        self._record, self._backend, self._min_quality = record, backend, min_quality
        self._fed_at, self._hold_s = fed_at, hold_s
        self._store_id = record.store.store_id()
        self._base: Base | None = None
        self._next: Base | None = None

    def close(self) -> None:
        """Close the connection."""
        self._backend.close()

    def base(self, waiting: int | None = None) -> Base:
        """Do what has to be done, if nobody else does; return what an index may rest on now.

        `waiting` is how many new hashes an index holds itself; None: feed whatever there is.
        IndexNotReady while somebody fills it, SearchUnavailable, StoreBroken.
        """
        with self._record.store.turn("search") as ours:
            if ours is not None:
                self._tidy(ours, feed=waiting is None or waiting >= self._fed_at)
        return self._settled()

    def _tidy(self, ours: Callable[[], bool], *, feed: bool) -> None:
        point = self._trusted() or self._begin()
        point = self._erase(point, ours)
        if feed or not point.filled:
            self._feed(point, ours)

    def probe(self) -> None:
        """See whether those who search what an index rests on answer; SearchUnavailable."""
        if self._base is not None:
            self._backend.ask(self._base.point.collection)

    def erase(self, patience_s: float = ERASED_S) -> int:
        """Have what was withdrawn deleted, and the files written anew; returns how many hashes they hold then.

        As many as live: what is deleted and still stored would be counted. SearchUnavailable if it takes too long.
        """
        deadline = time.monotonic() + patience_s
        while True:
            with self._record.store.turn("search") as ours:
                if ours is not None:
                    self._tidy(ours, feed=False)
                    return self._written_anew(deadline)
            self._wait(deadline, "another process has the turn at it")

    def _written_anew(self, deadline: float) -> int:
        """Wait until files and memory hold what is live, and nothing else; nobody feeds meanwhile."""
        point = self._look()
        if point is None:
            raise SearchUnavailable("the search back-end is of another history")
        live, asked_s = sum(point.counts.values()), -_ASKED_AGAIN_S
        while self._backend.stored(point.collection) != (live, live):
            if time.monotonic() - asked_s > _ASKED_AGAIN_S:
                self._backend.write_anew(point.collection)
                asked_s = time.monotonic()
            self._wait(deadline, "it has not written its files anew yet")
        return live

    @staticmethod
    def _wait(deadline: float, why: str) -> None:
        if time.monotonic() > deadline:
            raise SearchUnavailable(f"the search back-end was waited for too long: {why}")
        time.sleep(_LOOK_S)

    # What it says, and whether that can be true

    def _history(self) -> tuple[int, str]:
        revision = self._record.store.revision()
        return revision, self._record.store.revision_digest(revision).hex()

    def _about(self) -> dict[str, Any]:
        profiles = [str(profile) for profile in PROFILES]
        return {"format": FORMAT, "store": self._store_id, "profiles": profiles, "min_quality": self._min_quality}

    def _look(self) -> Point | None:
        """Return what it says it holds, if that is of this record."""
        point = _read(self._backend.read(self._store_id))
        if point is None or point.about != self._about() or not self._record.store.is_history(*point.history):
            return None
        return point

    def _trusted(self) -> Point | None:
        """Return what it holds, if it holds no less and no more; what was half written is deleted first."""
        point = self._look()
        if point is None:
            return None
        if point.begun_pk > point.last_pk:
            self._backend.delete_above(point.collection, point.last_pk)
        return point if self._backend.count(point.collection) == sum(point.counts.values()) else None

    def _settled(self) -> Base:
        """Return what is seen by every search by now: what changed since is taken after a while."""
        point, now = self._look(), time.monotonic()
        if point is None or not point.filled:
            raise IndexNotReady("the search back-end is being filled; ask again in a while")
        if self._base is None or self._base.point.collection != point.collection:
            self._base, self._next = Base(self._backend, point, now), None
        elif self._next is None and point != self._base.point:
            self._next = Base(self._backend, point, now)
        if self._next is not None and now - self._next.seen_s >= self._hold_s:
            self._base, self._next = self._next, None
        return self._base

    # What changes it: by whoever has the turn

    def _write(self, point: Point, ours: Callable[[], bool]) -> Point:
        if not ours():
            raise SearchUnavailable("another process has the turn at the search back-end")
        self._backend.write(self._store_id, json.dumps(asdict(point)))
        return point

    def _begin(self) -> Point:
        """Begin anew: whatever is there belongs to another history, or is not whole."""
        prefix, history = f"staydown_{self._store_id}_", self._history()
        point = Point(prefix + secrets.token_hex(4), self._about(), history, clean=history[0])
        self._backend.drop(prefix)
        self._backend.create(point.collection, list(point.counts))
        return point

    def _feed(self, point: Point, ours: Callable[[], bool]) -> None:
        """Add what the record has more."""
        revision, before = self._record.store.revision(), sum(point.counts.values())
        for keys, frames in self._record.signals_since(point.revision):
            new = keys > point.last_pk
            if new.any():
                point = self._add(point, keys[new], frames[new], ours)
        if sum(point.counts.values()) - before >= SEALED_AT:
            self._backend.seal(point.collection)
        self._write(replace(point, revision=revision, filled=True), ours)

    def _add(self, point: Point, keys: Keys, frames: Frames, ours: Callable[[], bool]) -> Point:
        newest, counts = int(keys[-1]), dict(point.counts)
        self._write(replace(point, begun_pk=newest), ours)
        for kind in PERCEPTUAL:
            chosen = (frames["quality"] >= self._min_quality) & np.isin(frames["profile"], profiles_of(kind))
            self._backend.insert(point.collection, kind.value, keys[chosen], frames["hash"][chosen])
            counts[kind.value] += int(chosen.sum())
        history = self._history()  # read after the rows: their keys are of it
        return self._write(replace(point, history=history, last_pk=newest, begun_pk=newest, counts=counts), ours)

    def _erase(self, point: Point, ours: Callable[[], bool]) -> Point:
        """Delete what can be found no more, if something was withdrawn since."""
        if not self._record.erased_since(point.clean):
            return point
        revision, live, counts = self._record.store.revision(), np.sort(self._record.signal_keys()), dict(point.counts)
        for kind in counts:
            for keys in self._backend.keys(point.collection, kind):
                gone = keys[~_among(keys, live)]
                self._backend.delete(point.collection, gone)
                counts[kind] -= len(gone)
        return self._write(replace(point, clean=revision, counts=counts), ours)


def _among(keys: Keys, ordered: Keys) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Say which keys are among others, which are many and in order."""
    if not len(ordered):
        return np.zeros(len(keys), bool)
    found: np.ndarray[tuple[int], np.dtype[np.bool_]] = (
        ordered[np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)] == keys
    )
    return found


def opened(record: Record, url: str, timeout_s: float, min_quality: int) -> Remote:
    """Connect; SearchUnavailable. The client is loaded here, since most have none."""
    try:
        milvus = import_module("indexer.milvus")
    except ImportError as error:
        raise SearchUnavailable(f"the client is not installed: {error.name}, see the extra `milvus`") from error
    return Remote(record, milvus.Milvus(url, timeout_s), min_quality)
