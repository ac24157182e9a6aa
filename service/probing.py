"""Who walks along the edge of a bank's hash to learn it: found, told to the audit log, and stopped.

A yes or no, asked for hashes that differ by single bits, gives away an exact hash of 256 bits within
some 276 answers. What such answers can have told is counted for each tenant and content: of the
different hashes that were asked within a few bits of a threshold, how many fell on either side, as bits
of information. Copies that lie well inside of a threshold, and hashes that are asked again, tell
nothing. Only memory has this: digests of what was asked, by a key of this process, and for a minute
at most the hashes of contents near which much was asked.

Where that is too much, every key of the tenant that asks there is stopped: refused at every look-up,
whatever it asks. Were it refused near one content alone, the refusal would be the next edge to walk along.
Of media it is told only, unless it is set otherwise: what a platform checks is sent by others, and whoever
uploads could take the platform's protection away. Media is counted by itself, for the same reason.
"""

import hashlib
import heapq
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hashing.signals import Frames, Kind, Signal, SignalType, profiles_of
from indexer.banks import Bank
from indexer.frame_matcher import asked_rows
from indexer.keys import Key
from indexer.matcher import Answer
from indexer.matches import Match
from indexer.policy import POLICIES, Verdict, usable
from indexer.record import Record
from service.errors import ProbingSuspected
from service.logs import log

KINDS = (SignalType.PDQ, SignalType.PHASH)  # the types that are wide enough to be walked around
MOST_TOLD = 16  # different hashes of a tenant near one content, for which roles like `lookup` are told exact distances
SETTLED_S = 6.0  # after a stop: by then every process knows of it, and a key that is not stopped was let go again
_WALKS, _SIDE, _HOT, _HOT_FROM, _KEPT_S = 20_000, 2048, 16, 4, 60.0
_TELLS_ALL = frozenset({"review", "admin"})  # are shown distances anyway: told to the audit log, not stopped
Codes = dict[SignalType, NDArray[np.uint64]]
Edge = tuple[SignalType, int]  # a type and one of its thresholds
_Asked = Callable[[SignalType], Frames]  # what a signal is searched by


@dataclass(frozen=True, slots=True)
class Step:
    """One hash that was asked near an edge: a digest of it, and on which side it fell."""

    edge: Edge
    inside: bool
    digest: bytes


@dataclass(frozen=True, slots=True)
class _Asker:
    """Those whose answers are counted together, and whether too many of them stop a key."""

    name: str
    stops: bool


class _Walk:
    """What somebody was told near one content."""

    __slots__ = ("alarmed", "bank", "sides", "told")

    def __init__(self, bank: str) -> None:
        self.bank, self.alarmed = bank, False
        self.sides: dict[Edge, tuple[set[bytes], set[bytes]]] = {}
        self.told: set[bytes] = set()

    def add(self, step: Step) -> None:
        side = self.sides.setdefault(step.edge, (set(), set()))[step.inside]
        if len(side) < _SIDE:
            side.add(step.digest)

    @property
    def hashes(self) -> int:
        return sum(len(side) for sides in self.sides.values() for side in sides)

    @property
    def bits(self) -> float:
        """At most so much was told."""
        return sum(told_bits(*map(len, sides)) for sides in self.sides.values())


def told_bits(outside: int, inside: int) -> float:
    """Return what so many answers of yes and no can tell: their number times the entropy of their shares."""
    both = outside + inside
    return sum(-n * math.log2(n / both) for n in (outside, inside) if n)


def distances_bits(asked: NDArray[np.uint8], codes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return how far each asked hash lies from the nearest of some codes."""
    rows = np.ascontiguousarray(asked).view(np.uint64)
    nearest = np.full(len(rows), 256, np.int64)
    for code in codes:
        np.minimum(nearest, np.bitwise_count(rows ^ code).sum(axis=1, dtype=np.int64), out=nearest)
    return nearest


def _nearest_of_frames(rows: Frames, codes: NDArray[np.uint64]) -> Iterable[tuple[int, bytes]]:
    """Yield for each frame how near it comes, in any of the forms it is searched in, and that form."""
    bits = distances_bits(rows["hash"], codes)
    order = np.argsort(bits, kind="stable")
    _, first = np.unique(rows["timestamp_s"][order], return_index=True)  # what has no time is one frame
    return [(int(bits[n]), rows["hash"][n].tobytes()) for n in order[first].tolist()]


class Probing:
    """Watches over the checks of one process."""

    def __init__(
        self, record: Record, budget_bits: int, stop: Callable[[Key, str, int], str],
        note: Callable[[Key, str, int], None], alarmed: Callable[[], None], *, stops_media: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """`stop` stops a key because of a content and says until when, `note` notes one that is not to be stopped."""
        self._record, self._budget_bits, self._clock = record, budget_bits, clock
        self._stop, self._note, self._alarmed, self._stops_media = stop, note, alarmed, stops_media
        self._walks: dict[str, dict[str, _Walk]] = {}
        self._hot: dict[str, set[str]] = {}  # of the walks, those with so many hashes that each check looks at them
        self._codes: dict[str, tuple[Codes, float]] = {}
        self._stopped: dict[str, tuple[float, str]] = {}
        self._lock, self._secret = threading.Lock(), secrets.token_bytes(32)

    # What a door asks

    def refuse(self, key: Key, *, media: bool) -> None:
        """Refuse a key that is stopped; ProbingSuspected."""
        if media and not self._stops_media:
            return
        until = key.stopped_until
        if key.key_id in self._stopped:
            at, here = self._stopped[key.key_id]
            if until is not None or self._clock() - at < SETTLED_S:
                until = max(until or "", here)
            else:
                self._let_go(key)
        if until is not None and (left_s := _left_s(until)) > 0:
            raise ProbingSuspected(retry_after_s=left_s)

    def look(self, key: Key, signal: Signal, answer: Answer) -> bool:
        """Take in an answer before it is given; ProbingSuspected instead. Says whether distances may go with it."""
        if not self._budget_bits:
            return True
        asker = self._asker(key, signal)
        near = self._concerned(asker, answer)
        steps = self._all_steps(signal, near) if near else {}
        with self._lock:
            found = [name for name, taken in steps.items() if taken and self._taken(asker, name, near[name][0], taken)]
            may_tell = self._may_tell(key, asker, signal, answer)
            self._bound()
        for content_id in found:
            self._alarm(key, asker, content_id)
        return may_tell

    def forget(self) -> None:
        """Forget the hashes of contents that nobody asked near lately."""
        with self._lock:
            late = self._clock() - _KEPT_S
            self._codes = {name: kept for name, kept in self._codes.items() if kept[1] > late}

    # What was asked

    def _asker(self, key: Key, signal: Signal) -> _Asker:
        """Return whose answers are counted together: all of a tenant's, but of those who are shown all anyway."""
        if key.role in _TELLS_ALL:
            return _Asker(f"key/{key.key_id}", stops=False)
        if signal.media.kind is not Kind.HASHES and not self._stops_media:
            return _Asker(f"media/{key.tenant}", stops=False)
        return _Asker(f"tenant/{key.tenant}", stops=True)

    def _concerned(self, asker: _Asker, answer: Answer) -> dict[str, tuple[str, Match | None]]:
        """Return the contents whose edges may be near: those that match, and those near which much was asked."""
        with self._lock:
            mine = self._walks.get(asker.name, {})
            hot = heapq.nsmallest(_HOT, ((-mine[name].hashes, name) for name in self._hot.get(asker.name, ())))
            near: dict[str, tuple[str, Match | None]] = {name: (mine[name].bank, None) for _, name in hot}
        return near | {match.content_id: (match.bank, match) for match in answer.matches}

    def _all_steps(self, signal: Signal, near: dict[str, tuple[str, Match | None]]) -> dict[str, list[Step]]:
        banks = {bank.name: bank for bank in self._record.enabled_banks()}
        asked = cache(lambda kind: asked_rows(kind, [signal])[0])
        return {
            content_id: self._steps(signal, asked, content_id, banks[bank], match)
            for content_id, (bank, match) in near.items() if bank in banks
        }  # fmt: skip

    def _steps(self, signal: Signal, asked: _Asked, content_id: str, bank: Bank, match: Match | None) -> list[Step]:
        firm = match is not None and _is_firm(match, bank)
        if firm and signal.media.kind is not Kind.HASHES:
            return []  # an ordinary copy; see docs/security.md for what that leaves open
        if firm and np.isnan(signal.frames["timestamp_s"]).all():
            return []  # no segments that would tell of single hashes
        return [
            step for kind, codes in self._codes_of(content_id).items() if kind in bank.signal_types
            for step in self._near_edges(asked(kind), kind, codes, bank)
        ]  # fmt: skip

    def _near_edges(self, rows: Frames, kind: SignalType, codes: NDArray[np.uint64], bank: Bank) -> Iterable[Step]:
        policy = POLICIES[bank.policy]
        for bits, code in _nearest_of_frames(rows, codes):
            for threshold in policy.edges_near(kind, bits):
                yield Step((kind, threshold), bits <= threshold, self._digest(code))

    def _digest(self, data: bytes) -> bytes:
        return hashlib.blake2b(data, key=self._secret, digest_size=8).digest()

    def _codes_of(self, content_id: str) -> Codes:
        kept, now = self._codes.get(content_id), self._clock()
        if kept is not None and now - kept[1] < _KEPT_S:
            return kept[0]
        found = [one for one in self._record.contents_by_id((content_id,)) if one.withdrawn_at is None]
        frames = [usable(self._record.hashes_of(one.content_pk)[1]) for one in found]
        codes = {
            kind: np.ascontiguousarray(rows["hash"][np.isin(rows["profile"], profiles_of(kind))]).view(np.uint64)
            for rows in frames for kind in KINDS
        }  # fmt: skip
        with self._lock:
            self._codes[content_id] = codes, now
        return codes

    # What it comes to

    def _taken(self, asker: _Asker, content_id: str, bank: str, steps: Iterable[Step]) -> bool:
        """Add steps to a walk; say whether too much was told by now."""
        walk = self._walk(asker.name, content_id, bank)
        for step in steps:
            walk.add(step)
        if walk.hashes >= _HOT_FROM:
            self._hot.setdefault(asker.name, set()).add(content_id)
        return walk.bits >= self._budget_bits

    def _walk(self, subject: str, content_id: str, bank: str) -> _Walk:
        return self._walks.setdefault(subject, {}).setdefault(content_id, _Walk(bank))

    def _may_tell(self, key: Key, asker: _Asker, signal: Signal, answer: Answer) -> bool:
        """Say whether exact distances may be told: with them, a few dozens of answers are enough."""
        if key.role in _TELLS_ALL:
            return True
        matches = [match for match in answer.matches if match.signal_type in KINDS]
        if not matches:
            return True
        digest = self._digest(signal.frames.tobytes())
        walks = [self._walk(asker.name, match.content_id, match.bank) for match in matches]
        for walk in walks:
            if len(walk.told) <= MOST_TOLD:
                walk.told.add(digest)
        return all(len(walk.told) <= MOST_TOLD for walk in walks)

    def _bound(self) -> None:
        """Keep to the memory there is: of all walks, those that got the least far go first."""
        count = sum(map(len, self._walks.values()))
        if count <= _WALKS:
            return
        every = [(w.hashes, len(w.told), who, name) for who, walks in self._walks.items() for name, w in walks.items()]
        for *_, who, name in sorted(every)[: count - _WALKS // 2]:
            del self._walks[who][name]
        self._walks = {who: walks for who, walks in self._walks.items() if walks}
        self._hot = {who: names & self._walks[who].keys() for who, names in self._hot.items() if who in self._walks}

    def _alarm(self, key: Key, asker: _Asker, content_id: str) -> None:
        with self._lock:
            walk = self._walk(asker.name, content_id, "")
            bits, known, walk.alarmed = round(walk.bits), walk.alarmed, True
        if known and not asker.stops:
            return
        log().warning("probing suspected", key_id=key.key_id, content_id=content_id, bits=bits, stopped=asker.stops)
        self._alarmed()
        if not asker.stops:
            self._note(key, content_id, bits)
            return
        until = self._stop(key, content_id, bits)
        self._stopped[key.key_id] = self._clock(), until
        raise ProbingSuspected(retry_after_s=max(_left_s(until), 1))

    def _let_go(self, key: Key) -> None:
        """Begin anew with a key that a person let go."""
        with self._lock:
            self._stopped.pop(key.key_id, None)
            self._walks.pop(f"tenant/{key.tenant}", None)
            self._hot.pop(f"tenant/{key.tenant}", None)


def _is_firm(match: Match, bank: Bank) -> bool:
    """Tell whether media would match, and as surely, were one hash of it a few bits farther away."""
    if match.verdict is not Verdict.MATCH or match.distance_bits is None or match.signal_type not in KINDS:
        return match.verdict is Verdict.MATCH
    return not POLICIES[bank.policy].edges_near(match.signal_type, match.distance_bits)


def _left_s(until: str) -> int:
    return math.ceil((datetime.fromisoformat(until) - datetime.now(UTC)).total_seconds())
