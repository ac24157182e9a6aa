"""The query walk: Signal -> verdict with its evidence.

Exact digests are looked up in the record; perceptual hashes are searched in the index,
and every hit is joined with the record, so that a withdrawal counts at once. Then the
policy of each bank judges, and frames are aligned in time. Lawful banks are asked along
with the others; `apart` says which matches are something lawful instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hashing.errors import Reason, UnhashableMedia
from hashing.signals import (
    EXACT_BYTES,
    INVERSE,
    PERCEPTUAL,
    TRANSFORMS,
    VIEWS,
    Frames,
    Kind,
    Media,
    Signal,
    SignalType,
    Transform,
    View,
)
from indexer.alignment import FrameMatches, Segment, align
from indexer.apart import Apart, Tell
from indexer.banks import EVERYTHING, Bank, Reach
from indexer.errors import IndexNotReady, UnknownBank
from indexer.index import Index
from indexer.keypoint_matcher import Confirm, KeypointMatcher
from indexer.matches import LAWFUL_BANK, Match, Suppressed, told
from indexer.policy import POLICIES, Policy, Verdict, false_match_probability, usable
from indexer.record import Content, Located, Record
from indexer.segments import Hits

MAX_MATCHES = 100
_NEGATIVE = 255  # in the column `transform`, for the bits of the negative


@dataclass(frozen=True, slots=True)
class Answer:
    """The verdict on one piece of media."""

    verdict: Verdict
    reason: Reason | None
    media: Media
    matches: tuple[Match, ...]
    bank_revision: int
    policy: str
    suppressed: tuple[Suppressed, ...] = ()


@dataclass(frozen=True, slots=True)
class _Asked:
    """The banks of one query: those that were asked for, the lawful ones that speak for them, what was named."""

    wanted: tuple[Bank, ...]
    lawful: tuple[Bank, ...]
    named: frozenset[str]

    @property
    def all(self) -> list[Bank]:
        return [*(bank for bank in self.wanted if not bank.lawful), *self.lawful]

    @property
    def policy(self) -> str:
        names = {bank.policy for bank in self.wanted if not bank.lawful}
        return "+".join(sorted(names)) or "default"


@dataclass(frozen=True, slots=True)
class _Found:
    """Hits of one signal type joined with the record: columns of one length."""

    query: NDArray[np.int64]
    distance_bits: NDArray[np.int32]
    content_pk: NDArray[np.int64]
    reference: Frames

    def take(self, chosen: NDArray[np.bool_]) -> "_Found":
        return _Found(self.query[chosen], self.distance_bits[chosen], self.content_pk[chosen], self.reference[chosen])


def _join(hits: Hits, located: Located) -> _Found:
    place = np.searchsorted(located.signal_pk, hits.signal_pk)
    place = np.minimum(place, max(len(located.signal_pk) - 1, 0))
    known = located.signal_pk[place] == hits.signal_pk if len(located.signal_pk) else np.zeros(len(hits), bool)
    place = place[known]
    return _Found(hits.query[known], hits.distance_bits[known], located.content_pk[place], located.rows[place])


def inverted(rows: Frames) -> Frames:
    """Return the upright rows as they would be of the negative: every bit of PDQ turns with its coefficient."""
    found: Frames = rows[rows["transform"] == 0].copy()
    found["hash"] ^= 0xFF
    found["transform"] = _NEGATIVE
    return found


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


class Matcher:
    """Judges signals against the banks of one record."""

    def __init__(self, record: Record, index: Index) -> None:
        self._record, self._index = record, index
        self._keypoints = KeypointMatcher(record, index)
        self._apart = Apart(record)

    def signal_types(self, bank_names: Sequence[str] | None, reach: Reach = EVERYTHING) -> frozenset[SignalType]:
        """Return the types that the asked banks compare, with which a query has to be hashed.

        UnknownBank and IndexNotReady come from here, before anything is decoded.
        """
        return frozenset(kind for bank in self._banks(bank_names, reach).all for kind in bank.signal_types)

    def _banks(self, names: Sequence[str] | None, reach: Reach) -> _Asked:
        if not self._index.ready:
            raise IndexNotReady
        banks = self._record.enabled_banks()
        named = frozenset(names or ())
        reached = tuple(bank for bank in banks if reach.holds(bank))
        if not {bank.name for bank in reached} >= named and not self._record.bank_names(reach) >= named:
            raise UnknownBank
        wanted = tuple(bank for bank in reached if not named or bank.name in named)
        return _Asked(wanted, tuple(bank for bank in banks if bank.lawful and _concerns(bank, wanted)), named)

    def match(self, signal: Signal, bank_names: Sequence[str] | None = None, confirm: Confirm | None = None,
              tell: Tell | None = None, reach: Reach = EVERYTHING) -> Answer:  # fmt: skip
        """Judge a signal against the named banks (None: all) within reach. UnknownBank, IndexNotReady.

        Keypoints are asked where nothing cheaper says `match`, and where `confirm` can
        compare the media's own planes with sketches; `tell` tells contents from what is
        lawful with those planes.
        """
        banks = self._banks(bank_names, reach)
        revision = self._index.catch_up(self._record)
        found = self._all_matches(signal, banks.all)
        try:
            matches, suppressed = self._ruled(signal, found, banks, tell)
            if confirm is not None and not any(match.verdict is Verdict.MATCH for match in matches):
                more = self._keypoints.match(signal.sketches, banks.all, confirm)
                if more:
                    found += more
                    matches, suppressed = self._ruled(signal, found, banks, tell)
        except UnhashableMedia as failure:  # the worker that held the media is gone
            signal = replace(signal, reason=failure.reason)
            matches, suppressed = self._ruled(signal, found, banks, None)
        verdict, reason = _conclude(signal, matches)
        return Answer(verdict, reason, signal.media, matches, revision, banks.policy, suppressed)

    def _ruled(self, signal: Signal, found: Sequence[tuple[Content, Match]], banks: _Asked,
               tell: Tell | None) -> tuple[tuple[Match, ...], tuple[Suppressed, ...]]:  # fmt: skip
        """Return the surest match of each content that stands, and what is suppressed."""
        best: dict[int, tuple[Content, Match]] = {}
        for content, seen in found:
            match = told(seen, signal, content.duration_s)
            known = best.get(content.content_pk)
            if known is None or _rank(match) < _rank(known[1]):
                best[content.content_pk] = (content, match)
        ordered = sorted(best.values(), key=lambda pair: _rank(pair[1]))
        lawful_banks = {bank.name: bank for bank in banks.lawful}
        by_name = {bank.name: bank for bank in banks.all}
        lawful = [pair for pair in ordered if pair[0].bank in lawful_banks]
        others = [pair for pair in ordered if pair[0].bank not in lawful_banks][:MAX_MATCHES]
        kept, suppressed = self._apart.judge(signal, others, lawful, by_name, tell)
        suppressed += [
            Suppressed(match, LAWFUL_BANK, content.content_id)
            for content, match in lawful
            if content.bank in banks.named
        ]
        return tuple(sorted(kept, key=_rank)), tuple(suppressed[:MAX_MATCHES])

    def _all_matches(self, signal: Signal, banks: list[Bank]) -> list[tuple[Content, Match]]:
        if not banks:
            return []
        policies = {bank.name: POLICIES[bank.policy] for bank in banks}
        found = self._exact(signal, banks, policies)
        for kind in PERCEPTUAL:
            users = [bank for bank in banks if kind in bank.signal_types]
            rows = usable(signal.of_type(kind))
            if users and len(rows):
                found += self._perceptual(kind, rows, users, policies)
        return found

    def _exact(self, signal: Signal, banks: list[Bank], policies: dict[str, Policy]) -> list[tuple[Content, Match]]:
        wanted = {kind: [bank.bank_pk for bank in banks if kind in bank.signal_types] for kind in EXACT_BYTES}
        kinds: dict[int, SignalType] = {}
        for kind, digest in sorted(signal.exact, key=lambda pair: pair[0] is SignalType.SHA256):
            kinds |= self._record.find_exact([(kind, digest)], wanted[kind])
        contents = self._record.contents_by_pk(list(kinds)) if kinds else {}
        return [(content, _exact_match(content, kinds[pk], policies[content.bank])) for pk, content in contents.items()]

    def _perceptual(self, kind: SignalType, rows: Frames, banks: list[Bank],
                    policies: dict[str, Policy]) -> list[tuple[Content, Match]]:  # fmt: skip
        rows = np.concatenate([rows, inverted(rows)]) if kind is SignalType.PDQ else rows
        radius = max(policies[bank.name].radius_bits(kind) for bank in banks)
        hits = self._index.search(kind, rows["hash"], radius)
        if not len(hits):
            return []
        located = self._record.locate(np.unique(hits.signal_pk), [bank.bank_pk for bank in banks])
        found = _join(hits, located)
        contents = self._record.contents_by_pk([int(pk) for pk in np.unique(found.content_pk)])
        pairs = len(rows) * self._index.sizes()[kind.value]
        matches = []
        for pk, content in contents.items():
            mine = found.take(found.content_pk == pk)
            match = _judge(kind, content, mine, rows, policies[content.bank], pairs)
            if match is not None:
                matches.append((content, match))
        return matches


def _concerns(bank: Bank, asked: Sequence[Bank]) -> bool:
    """Say whether a lawful bank is asked for, or speaks for one that is."""
    return bank in asked or any(map(bank.speaks_for, asked))


def _exact_match(content: Content, kind: SignalType, policy: Policy) -> Match:
    whole = (0.0, content.duration_s or 0.0)
    segments = (Segment(whole, whole, content.frames_hashed, 1.0),) if content.kind is Kind.VIDEO else ()
    return Match(
        content.bank, content.content_id, policy.verdict(kind, 0), kind, Transform.NONE.value, 0, None,
        false_match_probability(kind, 0, 1), segments,
    )  # fmt: skip


def _judge(kind: SignalType, content: Content, found: _Found, rows: Frames, policy: Policy,
           pairs: int) -> Match | None:  # fmt: skip
    found = found.take(found.distance_bits <= policy.radius_bits(kind))
    if not len(found.query):
        return None
    nearest = int(np.argmin(found.distance_bits))
    distance_bits = int(found.distance_bits[nearest])
    return Match(
        content.bank, content.content_id, policy.verdict(kind, distance_bits), kind,
        _transform(rows[found.query[nearest]], found.reference[nearest]), distance_bits, None,
        false_match_probability(kind, distance_bits, pairs), _segments(found, rows),
    )  # fmt: skip


def _rank(match: Match) -> tuple[bool, float, int]:
    return (match.verdict is not Verdict.MATCH, match.false_match_probability, match.distance_bits or 0)


def _conclude(signal: Signal, matches: tuple[Match, ...]) -> tuple[Verdict, Reason | None]:
    """What was found counts; else what could not be judged; only then is it no match."""
    for verdict in (Verdict.MATCH, Verdict.REVIEW):
        if any(match.verdict is verdict for match in matches):
            return verdict, signal.reason
    if signal.reason is not None:
        return Verdict.UNHASHABLE, signal.reason
    asked_exact_only = signal.media.kind is Kind.HASHES and not len(signal.frames)
    if not asked_exact_only and not len(usable(signal.frames)):
        return Verdict.UNHASHABLE, Reason.FEATURELESS
    return Verdict.NO_MATCH, None
