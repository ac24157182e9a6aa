"""The guards' walk: over content that is to be enrolled, and over a bank whose benign set has grown since."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hashing.signals import PERCEPTUAL, Frames, Media, Signal, SignalType, joined, profiles_of
from indexer.banks import Bank
from indexer.benign import BenignSet
from indexer.guards import (
    HOLDS,
    NUMBERS,
    Held,
    Hold,
    Holds,
    Run,
    generic_codes,
    judge_near,
    judge_rows,
    none_held,
    runs,
    whole_frames,
)
from indexer.policy import POLICIES
from indexer.record import Content, Record
from indexer.segments import TypeIndex

_PAGE = 200


@dataclass(frozen=True, slots=True)
class Suspect:
    """A content of a bank of which hashes that may match would be held today."""

    content: Content
    held: tuple[Run, ...]
    keys: tuple[tuple[int, Hold], ...]  # of the hashes, and why


@lru_cache(maxsize=1)
def _generic() -> TypeIndex:
    index, codes = TypeIndex(), generic_codes()
    index.add(np.arange(len(codes)), codes)
    return index


def is_generic(rows: Frames) -> NDArray[np.bool_]:
    """Tell which rows are PDQ hashes within review distance of a listed frame's; (n,)."""
    found = np.zeros(len(rows), np.bool_)
    asked = np.flatnonzero(np.isin(rows["profile"], profiles_of(SignalType.PDQ)))
    radius_bits = POLICIES["default"].radius_bits(SignalType.PDQ)
    found[asked[_generic().search(rows["hash"][asked], radius_bits).query]] = True
    return found


class Guard:
    """Judges content against the listed generic frames and the operator's benign set."""

    def __init__(self, record: Record) -> None:
        self._record, self._benign = record, BenignSet(record)

    def holds(self, bank: Bank, signals: Sequence[Signal]) -> list[Holds]:
        """Return what of signals is to be held in a bank; all of them are searched at once."""
        if bank.lawful or not signals:
            return [none_held(signal) for signal in signals]
        held = self._judge(bank, joined([signal.frames for signal in signals]))
        parts = np.split(held, np.cumsum([len(signal.frames) for signal in signals])[:-1])
        return [_holds(bank, signal, part) for signal, part in zip(signals, parts, strict=True)]

    def held(self, bank: Bank, rows: Frames) -> Held:
        """Return what of hashes made elsewhere is to be held in a bank: each is a frame of its own."""
        return np.zeros(len(rows), np.uint8) if bank.lawful else self._judge(bank, rows)

    def _judge(self, bank: Bank, rows: Frames) -> Held:
        held = judge_rows(rows, is_generic(rows))
        scope = self._benign.scope(bank)
        policy = POLICIES[bank.policy]
        for kind in PERCEPTUAL if scope else ():
            asked = np.flatnonzero((held == 0) & np.isin(rows["profile"], profiles_of(kind)) & (rows["transform"] == 0))
            if len(asked):
                near = self._benign.near(kind, rows[asked], policy.radius_bits(kind), scope)
                held[asked] = judge_near(len(asked), near, kind, policy)
        return held

    def audit(self, bank: Bank) -> Iterator[Suspect]:
        """Yield the contents of a bank of which something would be held today that is not.

        What a reviewer released is left alone. Of a stored hash nobody knows any more how much
        of its picture was empty, so only the lists are asked: generic frames, and benign ones.
        """
        after = 0
        while page := self._record.contents(bank.name, after=after, limit=_PAGE):
            yield from self._suspects(bank, page)
            after = page[-1].content_pk

    def _suspects(self, bank: Bank, contents: Sequence[Content]) -> Iterator[Suspect]:
        found = self._record.holds.unheld([content.content_pk for content in contents])
        held = self._judge(bank, found.rows)
        for content in contents:
            mine = found.content_pk == content.content_pk
            one = Signal(Media(content.kind), found.rows[mine])
            frames = whole_frames(one, _telling(held[mine])).frames
            keys = zip(found.signal_pk[mine][frames > 0].tolist(), frames[frames > 0].tolist(), strict=True)
            if frames.any():
                holds = Holds(frames, np.zeros(0, np.uint8))
                yield Suspect(content, runs(one, holds), tuple((key, HOLDS[number - 1]) for key, number in keys))

    def hold(self, suspect: Suspect, *, actor: str) -> None:
        """Hold what an audit found; UnknownContent if it was withdrawn since."""
        with self._record.store.change(actor) as change:
            content = suspect.content
            self._record.holds.hold(change, content.content_pk, content.content_id, suspect.keys)


def _holds(bank: Bank, signal: Signal, held: Held) -> Holds:
    benign = held == NUMBERS[Hold.BENIGN]
    if not benign.any() or not len(signal.sketches) or SignalType.KEYPOINTS not in bank.signal_types:
        return whole_frames(signal, held)
    return replace(whole_frames(signal, np.where(benign, 0, held).astype(np.uint8)), benign=True)


def _telling(held: Held) -> NDArray[np.uint8]:
    """Leave out low quality: no index has those."""
    return np.where(held == NUMBERS[Hold.LOW_QUALITY], 0, held).astype(np.uint8)
