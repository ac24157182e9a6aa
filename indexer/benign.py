"""The operator's benign set as a search structure: the hashes of lawful banks, for the guards.

A cache of the record like `index`, but of the lawful banks alone, so that enrolling ten
thousand hashes into a bank of a million is not ten thousand searches over the million.
Every hit is joined with the record, so what was withdrawn or disabled counts no more.
"""

import threading

import numpy as np

from hashing.signals import PERCEPTUAL, Frames, SignalType, profiles_of
from indexer.banks import Bank
from indexer.guards import Near
from indexer.policy import MIN_QUALITY
from indexer.record import Record
from indexer.segments import TypeIndex


def _nothing() -> dict[SignalType, TypeIndex]:
    return {kind: TypeIndex() for kind in PERCEPTUAL}


class BenignSet:
    """The hashes of all lawful banks of one record."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._types = _nothing()
        self._bank_pks: tuple[int, ...] = ()
        self._revision = self._last_pk = 0
        self._lock = threading.Lock()

    def scope(self, bank: Bank) -> list[int]:
        """Return the keys of the lawful banks that speak about a bank's content; none do about a lawful bank's."""
        if bank.lawful:
            return []
        lawful = [each for each in self._record.enabled_banks() if each.lawful]
        if not lawful:
            return []
        self._refresh(tuple(each.bank_pk for each in lawful))
        return [each.bank_pk for each in lawful if each.speaks_for(bank)]

    def _refresh(self, bank_pks: tuple[int, ...]) -> None:
        latest = self._record.store.revision()
        with self._lock:
            if bank_pks != self._bank_pks:
                self._types, self._bank_pks, self._revision, self._last_pk = _nothing(), bank_pks, 0, 0
            if latest > self._revision:
                for keys, frames in self._record.signals_since(self._revision, bank_pks):
                    self._add(keys, frames)
                self._revision = latest

    def _add(self, keys: np.ndarray[tuple[int], np.dtype[np.int64]], frames: Frames) -> None:
        new = (keys > self._last_pk) & (frames["quality"] >= MIN_QUALITY)
        for kind, index in self._types.items():
            chosen = new & np.isin(frames["profile"], profiles_of(kind))
            index.add(keys[chosen], frames["hash"][chosen])
        self._last_pk = max(self._last_pk, int(keys.max(initial=0)))

    def near(self, kind: SignalType, rows: Frames, radius_bits: int, bank_pks: list[int]) -> Near:
        """Return what of the banks' contents lies within a radius of each row, all of one signal type."""
        hits = self._types[kind].search(rows["hash"], radius_bits)
        located = self._record.locate(np.unique(hits.signal_pk), bank_pks)
        if not len(located.signal_pk):
            nothing = np.empty(0, np.int64)
            return Near(nothing, np.empty(0, np.int32), nothing)
        place = np.minimum(np.searchsorted(located.signal_pk, hits.signal_pk), len(located.signal_pk) - 1)
        known = located.signal_pk[place] == hits.signal_pk
        return Near(hits.query[known], hits.distance_bits[known], located.content_pk[place[known]])
