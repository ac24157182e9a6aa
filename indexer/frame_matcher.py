"""Whole frames: hashes of signals -> hits -> joined with the record -> matches, content by content.

One search and one join for all signals that are asked about together. Hits are put in order
before anything is judged, so that neither the company that a signal is asked about in nor the
way in which hashes lie in the index decides between equals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hashing.signals import (
    INVERSE,
    TRANSFORMS,
    VIEWS,
    Frames,
    Signal,
    SignalType,
    Transform,
    View,
    no_frames,
    profiles_of,
)
from indexer.alignment import FrameMatches, Segment, align
from indexer.banks import Bank
from indexer.index import Index
from indexer.matches import Match
from indexer.policy import MIN_QUALITY, POLICIES, Policy, false_match_probability
from indexer.record import Content, Located, Record
from indexer.segments import Hits

_NEGATIVE = 255  # in the column `transform`, for the bits of the negative


@dataclass(frozen=True, slots=True)
class _Found:
    """Hits of one signal and type joined with the record: columns of one length."""

    query: NDArray[np.int64]
    distance_bits: NDArray[np.int32]
    content_pk: NDArray[np.int64]
    reference: Frames

    def take(self, chosen: NDArray[np.bool_]) -> "_Found":
        return _Found(self.query[chosen], self.distance_bits[chosen], self.content_pk[chosen], self.reference[chosen])


@dataclass(frozen=True, slots=True)
class _Joined:
    """Hits of many signals that the record knows, ordered by the row of the query and by key, and where they stand."""

    hits: Hits
    located: Located

    @classmethod
    def of(cls, hits: Hits, located: Located) -> "_Joined":
        hits = hits.only(np.isin(hits.signal_pk, located.signal_pk))
        order = np.lexsort((hits.signal_pk, hits.query))
        return cls(Hits(hits.query[order], hits.signal_pk[order], hits.distance_bits[order]), located)

    def within(self, start: int, end: int) -> _Found:
        """Return the hits of these rows of the query, of which the first becomes number 0."""
        part = slice(*np.searchsorted(self.hits.query, (start, end)).tolist())
        place = np.searchsorted(self.located.signal_pk, self.hits.signal_pk[part])
        return _Found(
            self.hits.query[part] - start, self.hits.distance_bits[part], self.located.content_pk[place],
            self.located.rows[place],
        )  # fmt: skip


def inverted(rows: Frames) -> Frames:
    """Return the upright rows as they would be of the negative: every bit of PDQ turns with its coefficient."""
    found: Frames = rows[rows["transform"] == 0].copy()
    found["hash"] ^= 0xFF
    found["transform"] = _NEGATIVE
    return found


def asked_rows(kind: SignalType, signals: Sequence[Signal]) -> tuple[Frames, NDArray[np.int64]]:
    """Return the rows of signals that are searched for one type, signal by signal, and whose each is.

    Of each signal its usable rows, and then the negatives of those.
    """
    rows = np.concatenate([no_frames(), *(signal.frames for signal in signals)])
    whose = np.repeat(np.arange(len(signals)), [len(signal.frames) for signal in signals])
    asked = np.isin(rows["profile"], profiles_of(kind)) & (rows["quality"] >= MIN_QUALITY)
    rows, whose = rows[asked], whose[asked]
    if kind is SignalType.PDQ:
        upright = rows["transform"] == 0
        rows, whose = np.concatenate([rows, inverted(rows)]), np.concatenate([whose, whose[upright]])
        order = np.argsort(whose, kind="stable")
        rows, whose = rows[order], whose[order]
    return rows, whose


def _transform(query: np.void, reference: np.void) -> str:
    """Say what was done to the reference to make the copy."""
    if query["transform"] == _NEGATIVE:
        return "inverted"
    symmetry = INVERSE[TRANSFORMS[int(query["transform"])]]
    ours, theirs = VIEWS[int(query["view"])], VIEWS[int(reference["view"])]
    border = {(View.TRIMMED, View.FULL): "border", (View.FULL, View.TRIMMED): "border_removed"}.get((ours, theirs))
    words = [word for word in (border, None if symmetry is Transform.NONE else symmetry.value) if word]
    return "+".join(words) or Transform.NONE.value


def _times(rows: Frames, name: str) -> NDArray[np.float64]:
    times: NDArray[np.float64] = np.nan_to_num(rows[name])
    return times


def _segments(found: _Found, query: Frames) -> tuple[Segment, ...]:
    """Align one content's hits; nothing to align between two stills."""
    timed = ~np.isnan(query["timestamp_s"][found.query]) | ~np.isnan(found.reference["timestamp_s"])
    if not timed.any():
        return ()
    query_s = _times(query[found.query], "timestamp_s")
    frame = np.searchsorted(np.unique(_times(query, "timestamp_s")), query_s)
    return align(
        FrameMatches(
            frame, query_s, _times(query[found.query], "until_s"),
            _times(found.reference, "timestamp_s"), _times(found.reference, "until_s"), found.distance_bits,
        )
    )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Near:
    """What of the banks lies near to some signals, for one type."""

    kind: SignalType
    rows: Frames  # searched, of all signals
    whose: NDArray[np.int64]  # each row is, in order
    joined: _Joined
    known: int  # hashes that were searched

    @property
    def content_pks(self) -> set[int]:
        """The contents that are near to any of the signals."""
        return set(self.joined.located.content_pk.tolist())

    def matches(self, number: int, contents: Mapping[int, Content],
                policies: Mapping[str, Policy]) -> list[tuple[Content, Match]]:  # fmt: skip
        """Return the contents that one of the signals matches, by the policies of their banks."""
        start, end = np.searchsorted(self.whose, (number, number + 1)).tolist()
        rows, found = self.rows[start:end], self.joined.within(start, end)
        matches = []
        for pk in np.unique(found.content_pk).tolist():
            if content := contents.get(pk):
                match = self._judge(content, found.take(found.content_pk == pk), rows, policies[content.bank])
                if match is not None:
                    matches.append((content, match))
        return matches

    def _judge(self, content: Content, found: _Found, rows: Frames, policy: Policy) -> Match | None:
        found = found.take(found.distance_bits <= policy.radius_bits(self.kind))
        if not len(found.query):
            return None
        nearest = int(np.argmin(found.distance_bits))
        distance_bits = int(found.distance_bits[nearest])
        return Match(
            content.bank, content.content_id, policy.verdict(self.kind, distance_bits), self.kind,
            _transform(rows[found.query[nearest]], found.reference[nearest]), distance_bits, None,
            false_match_probability(self.kind, distance_bits, len(rows) * self.known), _segments(found, rows),
        )  # fmt: skip


class FrameMatcher:
    """Searches whole frames of many signals at once."""

    def __init__(self, record: Record, index: Index) -> None:
        self._record, self._index = record, index

    def near(self, kind: SignalType, signals: Sequence[Signal], banks: Sequence[Bank]) -> Near | None:
        """Search one type in these banks; None if nothing of it is near."""
        users = [bank for bank in banks if kind in bank.signal_types]
        if not users:
            return None
        rows, whose = asked_rows(kind, signals)
        if not len(rows):
            return None
        radius = max(POLICIES[bank.policy].radius_bits(kind) for bank in users)
        known = self._index.sizes()[kind.value]
        hits = self._index.search(kind, rows["hash"], radius)
        if not len(hits):
            return None
        located = self._record.locate(np.unique(hits.signal_pk), [bank.bank_pk for bank in users])
        return Near(kind, rows, whose, _Joined.of(hits, located), known)
