"""The query walk: signals -> verdicts with their evidence.

Exact digests are looked up in the record; perceptual hashes are searched in the index
(`frame_matcher`), and every hit is joined with the record, so that a withdrawal counts at once.
Then the policy of each bank judges, and frames are aligned in time. Lawful banks are asked along
with the others; `apart` says which matches are something lawful instead.

Many signals are judged together by as many questions to index and record as one takes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from hashing.errors import Reason, UnhashableMedia
from hashing.signals import EXACT_BYTES, PERCEPTUAL, Kind, Media, Signal, SignalType, Transform
from indexer.alignment import Segment
from indexer.apart import Apart, Companions, Found, Lawful, Tell
from indexer.banks import EVERYTHING, Bank, Reach
from indexer.companions import Companion
from indexer.errors import IndexNotReady, UnknownBank
from indexer.frame_matcher import FrameMatcher
from indexer.index import Index
from indexer.keypoint_matcher import Confirm, KeypointMatcher
from indexer.matches import LAWFUL_BANK, Match, Suppressed, told
from indexer.policy import POLICIES, Policy, Verdict, false_match_probability, usable
from indexer.record import Content, Record

MAX_MATCHES = 100
_BATCH = 5000


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
class Query:
    """A signal to be judged; `confirm` and `tell` compare its media's own planes, where these are at hand."""

    signal: Signal
    confirm: Confirm | None = None
    tell: Tell | None = None


class Matcher:
    """Judges signals against the banks of one record."""

    def __init__(self, record: Record, index: Index) -> None:
        self._record, self._index = record, index
        self._frames = FrameMatcher(record, index)
        self._keypoints = KeypointMatcher(record, index)
        self._apart = Apart(record)

    @property
    def revision(self) -> int:
        """The revision up to which everything is found."""
        return self._index.revision

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
        """Judge one signal: the batch of one."""
        (answer,) = self.match_all([Query(signal, confirm, tell)], bank_names, reach)
        return answer

    def match_all(self, asked: Sequence[Query], bank_names: Sequence[str] | None = None,
                  reach: Reach = EVERYTHING) -> list[Answer]:  # fmt: skip
        """Judge signals against the named banks (None: all) within reach, each by itself. UnknownBank, IndexNotReady.

        One search and one join for all of them; an answer does not depend on what else is asked.
        """
        banks = self._banks(bank_names, reach)
        revision = self._index.catch_up(self._record)
        found = self._found([one.signal for one in asked], banks.all)
        companions = self._companions(pair for each in found for pair in each)
        pairs = zip(asked, found, strict=True)
        return [self._answer(one, each, banks, companions, revision) for one, each in pairs]

    def _answer(self, asked: Query, found: list[Found], banks: _Asked, companions: Companions, revision: int) -> Answer:
        """Judge what was found of one signal, and ask keypoints where nothing cheaper says `match`."""
        signal = asked.signal
        try:
            matches, suppressed = self._ruled(asked, found, banks, companions)
            if asked.confirm is not None and not any(match.verdict is Verdict.MATCH for match in matches):
                more = self._keypoints.match(signal.sketches, banks.all, asked.confirm)
                if more:
                    found, companions = found + more, {**companions, **self._companions(more)}
                    matches, suppressed = self._ruled(asked, found, banks, companions)
        except UnhashableMedia as failure:  # the worker that held the media is gone
            signal = replace(signal, reason=failure.reason)
            matches, suppressed = self._ruled(Query(signal), found, banks, companions)
        verdict, reason = _conclude(signal, matches)
        return Answer(verdict, reason, signal.media, matches, revision, banks.policy, suppressed)

    def _companions(self, found: Iterable[Found]) -> Companions:
        pks, companions = sorted({content.content_pk for content, _ in found}), dict[int, Sequence[Companion]]()
        for start in range(0, len(pks), _BATCH):
            companions |= self._record.companions.of(pks[start : start + _BATCH])
        return companions

    def _ruled(self, asked: Query, found: Sequence[Found], banks: _Asked,
               companions: Companions) -> tuple[tuple[Match, ...], tuple[Suppressed, ...]]:  # fmt: skip
        """Return the surest match of each content that stands, and what is suppressed."""
        best: dict[int, Found] = {}
        for content, seen in found:
            match = told(seen, asked.signal, content.duration_s)
            known = best.get(content.content_pk)
            if known is None or _rank(match) < _rank(known[1]):
                best[content.content_pk] = (content, match)
        ordered = sorted(best.values(), key=lambda pair: _rank(pair[1]))
        lawful_banks = {bank.name: bank for bank in banks.lawful}
        by_name = {bank.name: bank for bank in banks.all}
        lawful = [pair for pair in ordered if pair[0].bank in lawful_banks]
        others = [pair for pair in ordered if pair[0].bank not in lawful_banks][:MAX_MATCHES]
        kept, suppressed = self._apart.judge(asked.signal, others, Lawful(lawful, by_name, companions), asked.tell)
        suppressed += [
            Suppressed(match, LAWFUL_BANK, content.content_id)
            for content, match in lawful
            if content.bank in banks.named
        ]
        return tuple(sorted(kept, key=_rank)), tuple(suppressed[:MAX_MATCHES])

    def _found(self, signals: Sequence[Signal], banks: list[Bank]) -> list[list[Found]]:
        """Return for each signal what of these banks it matches, exact digests first."""
        if not banks:
            return [[] for _ in signals]
        policies = {bank.name: POLICIES[bank.policy] for bank in banks}
        exact = self._exact(signals, banks)
        near = [one for kind in PERCEPTUAL if (one := self._frames.near(kind, signals, banks)) is not None]
        pks = {pk for pairs in exact for pk, _ in pairs}.union(*(one.content_pks for one in near))
        contents = self._record.contents_by_pk(sorted(pks)) if pks else {}
        return [
            [
                *_exact_matches(pairs, contents, banks),
                *(match for one in near for match in one.matches(number, contents, policies)),
            ]
            for number, pairs in enumerate(exact)
        ]

    def _exact(self, signals: Sequence[Signal], banks: list[Bank]) -> list[list[tuple[int, SignalType]]]:
        """Return for each signal the contents with one of its digests, and by which type: by SHA-256 last."""
        digests = {pair for signal in signals for pair in signal.exact}
        users = [bank.bank_pk for bank in banks if bank.signal_types & EXACT_BYTES.keys()]
        known = self._record.find_exact(digests, users) if digests and users else {}
        ordered = [sorted(signal.exact, key=lambda pair: pair[0] is SignalType.SHA256) for signal in signals]
        return [[(pk, pair[0]) for pair in each for pk in known.get(pair, ())] for each in ordered]


def _concerns(bank: Bank, asked: Sequence[Bank]) -> bool:
    """Say whether a lawful bank is asked for, or speaks for one that is."""
    return bank in asked or any(map(bank.speaks_for, asked))


def _exact_matches(pairs: Iterable[tuple[int, SignalType]], contents: Mapping[int, Content],
                   banks: Iterable[Bank]) -> list[Found]:  # fmt: skip
    """Return the contents that are found by a type which their bank compares."""
    asked = {bank.name: bank for bank in banks}
    found = [(contents[pk], kind) for pk, kind in pairs if pk in contents]
    kinds = {content.content_pk: kind for content, kind in found if kind in asked[content.bank].signal_types}
    return [
        (contents[pk], _exact_match(contents[pk], kind, POLICIES[asked[contents[pk].bank].policy]))
        for pk, kind in kinds.items()
    ]


def _exact_match(content: Content, kind: SignalType, policy: Policy) -> Match:
    whole = (0.0, content.duration_s or 0.0)
    segments = (Segment(whole, whole, content.frames_hashed, 1.0),) if content.kind is Kind.VIDEO else ()
    return Match(
        content.bank, content.content_id, policy.verdict(kind, 0), kind, Transform.NONE.value, 0, None,
        false_match_probability(kind, 0, 1), segments,
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
