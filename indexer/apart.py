"""Content or lawful original: which of the two does the media show?

Asked of every match that has a rival: a companion of its content, or lawful content of a
lawful bank that the same media shows. Exact digests decide at once. Then the worker, which
holds the picture, looks at the cells where the two differ. Sketches of a video stand a
second apart, and what moves is elsewhere by then: for a frame between two of them the
distances of PDQ are compared, of which there are ten a second. Each segment of time is
judged by itself, so that lawful footage beside an abusive part takes nothing from it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hashing.contrast import TELL_DTYPE, TOLD_DTYPE, Grid, Tells, Told, relaid
from hashing.signals import EXACT_BYTES, GRID_SIDE, Frames, Kind, Signal, SignalType, profiles_of
from indexer.alignment import Segment
from indexer.banks import Bank
from indexer.companions import Companion
from indexer.matches import COMPANION, LAWFUL_BANK, Match, Suppressed, ToldApart
from indexer.policy import Nearer, Verdict, bits_scores, nearer, told_scores, usable
from indexer.record import Content, Record

Tell = Callable[[Tells], Told]
Found = tuple[Content, Match]
Companions = Mapping[int, Sequence[Companion]]  # by the keys of their contents
Words = NDArray[np.uint64]  # (n, 4): PDQ hashes

MAX_RIVALS = 4  # lawful contents that one match is compared with, the surest
MAX_TELLS = 256  # of one part of a match
_AGAINST = {Nearer.CONTENT: 0, Nearer.UNDECIDED: 1, Nearer.COMPANION: 2}
_SAME_S = 0.25  # what moves is still about where it was
_LEAST_FROM_AFAR = -1.0  # the score of a frame of another moment: what moved away is no sign of the original
_BESIDE_S = 0.6  # a frame of the query and one of the reference are hardly ever taken at the same time


@dataclass(frozen=True, slots=True)
class Rival:
    """Something lawful that a match may be instead. `match` is None for a companion."""

    content_pk: int
    content_id: str
    kind: Kind
    match: Match | None = None

    @property
    def by(self) -> str:
        """The word for it in an answer."""
        return COMPANION if self.match is None else LAWFUL_BANK


@dataclass(frozen=True, slots=True)
class _Pair:
    """A sketch of the query, by its number, and one of a reference that it may show; of how far apart moments."""

    query: int
    sketch_pk: int
    away_s: float = 0.0


def _within(times_s: NDArray[np.float64], span: tuple[float, float]) -> NDArray[np.bool_]:
    return np.isnan(times_s) | ((times_s >= span[0] - _BESIDE_S) & (times_s <= span[1] + _BESIDE_S))


def _line(segment: Segment, query_s: float) -> float:
    """Return which second of the reference a second of the query shows."""
    asked = segment.query_s[0] if np.isnan(query_s) else query_s
    return float(segment.at(np.array([asked]), np.inf)[0])


def _pairs(query_s: NDArray[np.float64], segment: Segment | None, pks: NDArray[np.int64],
           times_s: NDArray[np.float64]) -> list[_Pair]:  # fmt: skip
    """Return which sketches of the query to lay over which of a reference: those of the same moment."""
    if not len(pks):
        return []
    if segment is None or np.isnan(times_s).all():
        wanted = np.arange(len(query_s)) if segment is None else np.flatnonzero(_within(query_s, segment.query_s))
        return [_Pair(int(number), int(pk)) for number in wanted for pk in pks[:2]]
    pairs = []
    for number in np.flatnonzero(_within(query_s, segment.query_s)).tolist():
        away = np.abs(times_s - _line(segment, float(query_s[number])))
        pairs += [_Pair(number, int(pks[at]), float(away[at])) for at in np.argsort(away, kind="stable")[:2]]
    return pairs


def _codes(frames: Frames) -> Words:
    """Return PDQ hashes as words (n, 4)."""
    rows = usable(frames[np.isin(frames["profile"], profiles_of(SignalType.PDQ))])
    return np.ascontiguousarray(rows["hash"]).view(np.uint64)


def _nearest_bits(query: Words, known: Words) -> int:
    """Return the smallest distance between two sets of PDQ hashes, negatives too; 256 if one is empty."""
    least = 256
    for code in query:
        bits = np.bitwise_count(known ^ code).sum(axis=1, dtype=np.int64)
        least = min(least, int(np.minimum(bits, 256 - bits).min(initial=256)))
    return least


def _by_hashes(signal: Signal, segment: Segment | None, ours: Words, theirs: Words) -> dict[float, float]:
    """Return the scores by PDQ of the query's frames in a segment, by their times."""
    rows = usable(signal.of_type(SignalType.PDQ))
    if segment is not None:
        rows = rows[_within(rows["timestamp_s"], segment.query_s)]
    if not len(rows) or not len(ours) or not len(theirs):
        return {}
    times = np.nan_to_num(rows["timestamp_s"])
    moments = np.unique(times)
    frames = [_codes(rows[times == moment]) for moment in moments]
    bits = [(_nearest_bits(frame, ours), _nearest_bits(frame, theirs)) for frame in frames]
    scores = bits_scores(*np.array(bits, np.int64).T)
    near = ~np.isnan(scores)
    return dict(zip(moments[near].tolist(), scores[near].tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the worker saw, one row a frame: the frame's time, its score, of how far apart moments."""

    times_s: NDArray[np.float64]
    away_s: NDArray[np.float64]
    scores: NDArray[np.float64]
    told: Told

    def best(self) -> "_Seen":
        """Keep of each frame's rows the one of the same moment that was laid best."""
        usable = np.flatnonzero(~np.isnan(self.scores))
        far = self.away_s[usable] > _SAME_S
        order = usable[np.lexsort((-self.told["common"][usable], far, self.times_s[usable]))]
        chosen = order[np.diff(self.times_s[order], prepend=-np.inf) > 0]
        return _Seen(self.times_s[chosen], self.away_s[chosen], self.scores[chosen], self.told[chosen])

    def by_time(self, *, near: bool) -> dict[float, float]:
        """Return the scores of frames of the same moment, or of the others."""
        chosen = (self.away_s <= _SAME_S) == near
        scores = self.scores[chosen] if near else np.maximum(self.scores[chosen], _LEAST_FROM_AFAR)
        return dict(zip(self.times_s[chosen].tolist(), scores.tolist(), strict=True))

    def describe(self, side: Nearer, frames: int) -> ToldApart:
        """Return what of it is told."""
        seen = self.told[self.told["cells"] > 0]
        region = None
        if len(seen):
            left, top = seen["region"][:, :2].min(axis=0) / GRID_SIDE
            right, bottom = seen["region"][:, 2:].max(axis=0) / GRID_SIDE
            region = (float(left), float(top), float(right), float(bottom))
        return ToldApart(side, int(seen["cells"].max(initial=0)), region, frames)


@dataclass(frozen=True, slots=True)
class Lawful:
    """What may speak against matches: lawful contents that the same media shows, the surest first, and companions."""

    found: Sequence[Found]
    banks: Mapping[str, Bank]  # of all contents, by name
    companions: Companions  # of the contents that match


class Apart:
    """Tells contents from what is lawful, for one query at a time."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def judge(self, signal: Signal, found: Sequence[Found], lawful: Lawful,
              tell: Tell | None) -> tuple[list[Match], list[Suppressed]]:  # fmt: skip
        """Return the matches that stand, and those that something lawful suppresses.

        UnhashableMedia if the worker is gone.
        """
        kept, suppressed = [], []
        for content, match in found:
            rivals = [Rival(c.content_pk, c.content_id, c.kind) for c in lawful.companions.get(content.content_pk, ())]
            theirs = [
                pair for pair in lawful.found if lawful.banks[pair[0].bank].speaks_for(lawful.banks[content.bank])
            ]
            rivals += [Rival(c.content_pk, c.content_id, c.kind, evidence) for c, evidence in theirs[:MAX_RIVALS]]
            ruled = _Case(self._record, signal, content, match, tell).rule(rivals) if rivals else match
            if isinstance(ruled, Match):
                kept.append(ruled)
            else:
                suppressed.append(ruled)
        return kept, suppressed


class _Case:
    """One match and what may be lawful about it."""

    def __init__(self, record: Record, signal: Signal, content: Content, match: Match, tell: Tell | None) -> None:
        self._record, self._signal, self._content, self._match = record, signal, content, match
        self._query_s = signal.sketches["timestamp_s"]
        self._tell = tell if len(signal.sketches) else None
        self._sketches = record.sketches.times(content.content_pk)
        self._codes: dict[int, Words] = {}  # of the content and of its rivals, as far as they were asked for

    def rule(self, rivals: Sequence[Rival]) -> Match | Suppressed:
        """Judge the match against all its rivals, of which there is one at least."""
        match = self._match
        if match.signal_type in EXACT_BYTES:
            return replace(match, told_apart=ToldApart(Nearer.CONTENT))
        for rival in rivals:
            if self._same_file(rival):
                told = replace(match, told_apart=ToldApart(Nearer.COMPANION))
                return Suppressed(told, rival.by, rival.content_id)
        parts: list[Segment | None] = list(match.segments) or [None]
        return self._weigh([(part, *self._worst(rivals, part)) for part in parts])

    def _same_file(self, rival: Rival) -> bool:
        if rival.match is not None:
            return rival.match.signal_type in EXACT_BYTES
        digests, _ = self._record.hashes_of(rival.content_pk)
        return bool(set(digests) & set(self._signal.exact))

    def _worst(self, rivals: Sequence[Rival], part: Segment | None) -> tuple[Rival, ToldApart]:
        """Return the rival that speaks most against one part of the match, and what was seen."""
        rulings = [(rival, self._against(rival, part)) for rival in rivals]
        return max(rulings, key=lambda ruling: (_AGAINST[ruling[1].nearer], ruling[1].cells, ruling[1].frames))

    def _weigh(self, parts: Sequence[tuple[Segment | None, Rival, ToldApart]]) -> Match | Suppressed:
        """Let the match stand on the parts that are its own; those that show something lawful are dropped."""
        _, rival, told = min(parts, key=lambda part: (_AGAINST[part[2].nearer], -part[2].cells, -part[2].frames))
        match = replace(self._match, told_apart=told)
        if told.nearer is Nearer.COMPANION:
            return Suppressed(match, rival.by, rival.content_id)
        own = tuple(part for part, _, seen in parts if part is not None and seen.nearer is not Nearer.COMPANION)
        verdict = match.verdict if told.nearer is Nearer.CONTENT else Verdict.REVIEW
        return replace(match, verdict=verdict, segments=own)

    def _against(self, rival: Rival, part: Segment | None) -> ToldApart:
        """Judge one part of the match against one rival: each frame by cells, else by PDQ, else it is unknown."""
        if rival.match is not None and part is not None and not _meet(part, rival.match.segments):
            return ToldApart(Nearer.CONTENT)
        laid = self._laid(rival, part)
        seen = self._seen(laid).best()
        near, far = seen.by_time(near=True), seen.by_time(near=False)
        hashed = {} if part is None and near else self._by_hashes(rival, part)
        scores = far | hashed | near
        if scores:
            side = nearer(np.array([scores[moment] for moment in sorted(scores)]))
            return seen.describe(side, len(scores))
        absent = self._tell is not None and len(self._sketches[0]) and rival.kind is not Kind.HASHES and not laid
        return ToldApart(Nearer.CONTENT if absent else Nearer.UNDECIDED)

    def _by_hashes(self, rival: Rival, part: Segment | None) -> dict[float, float]:
        for content_pk in (self._content.content_pk, rival.content_pk):
            if content_pk not in self._codes:
                self._codes[content_pk] = _codes(self._record.hashes_of(content_pk)[1])
        return _by_hashes(self._signal, part, self._codes[self._content.content_pk], self._codes[rival.content_pk])

    def _seen(self, laid: Sequence[tuple[_Pair, Grid]]) -> _Seen:
        """Let the worker lay the query over the content's sketches, and look where the two differ."""
        rows = self._record.sketches.rows(sorted({pair.sketch_pk for pair, _ in laid}))
        tells = np.zeros(len(laid), TELL_DTYPE)
        for number, (pair, grid) in enumerate(laid):
            tells[number] = (pair.query, rows[pair.sketch_pk], grid)
        told = self._tell(tells) if self._tell is not None and laid else np.empty(0, TOLD_DTYPE)
        times_s = np.nan_to_num(self._query_s[tells["query"].astype(np.int64)])
        return _Seen(times_s, np.array([pair.away_s for pair, _ in laid], np.float64), told_scores(told), told)

    def _laid(self, rival: Rival, part: Segment | None) -> list[tuple[_Pair, Grid]]:
        """Return the pairs for which it is known how the rival looks there, and that."""
        if self._tell is None:
            return []
        pairs = _pairs(self._query_s, part, *self._sketches)[:MAX_TELLS]
        if rival.match is not None:
            return self._relaid(rival.content_pk, rival.match.segments, pairs)
        grids = self._record.companions.grids(sorted({pair.sketch_pk for pair in pairs}), rival.content_pk)
        return [(pair, grids[pair.sketch_pk]) for pair in pairs if pair.sketch_pk in grids]

    def _relaid(self, lawful_pk: int, segments: Sequence[Segment], pairs: Sequence[_Pair]) -> list[tuple[_Pair, Grid]]:
        """The same for lawful content that was enrolled by itself: what the same sketch of the query may show."""
        times = self._record.sketches.times(lawful_pk)
        theirs = [other for segment in (segments or (None,)) for other in _pairs(self._query_s, segment, *times)]
        both = {
            (replace(pair, away_s=max(pair.away_s, other.away_s)), other.sketch_pk)
            for pair in pairs
            for other in theirs
            if other.query == pair.query
        }
        chosen = sorted(both, key=lambda two: (two[0].query, two[0].away_s, two[0].sketch_pk, two[1]))[:MAX_TELLS]
        rows = self._record.sketches.rows(sorted({pk for pair, other in chosen for pk in (pair.sketch_pk, other)}))
        wanted = {(other, pair.sketch_pk) for pair, other in chosen}
        grids = {key: relaid(rows[key[0]], rows[key[1]]) for key in wanted}
        found = [(pair, grids[other, pair.sketch_pk]) for pair, other in chosen]
        return [(pair, grid) for pair, grid in found if grid is not None]


def _meet(part: Segment, others: Sequence[Segment]) -> bool:
    """Say whether something lawful was seen at the same time of the query; a still is seen at all times."""
    return not others or any(
        part.query_s[0] <= other.query_s[1] + _BESIDE_S and other.query_s[0] <= part.query_s[1] + _BESIDE_S
        for other in others
    )
