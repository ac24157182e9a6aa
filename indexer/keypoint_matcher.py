"""Keypoints: sketches of the query -> candidates by votes -> confirmed by geometry and edges -> matches.

Votes are cheap and say little. What confirms is the evidence of `hashing.evidence`: a
map under which keypoints agree one to one, and under which the edges of the whole
overlap agree, block by block. `policy` says how sure that is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from hashing.evidence import PAIR_DTYPE, Evidence, Pairs
from hashing.signals import SignalType, Sketches, Transform
from indexer.alignment import FrameMatches, Segment, align
from indexer.banks import Bank
from indexer.descriptors import Descriptors, voters
from indexer.index import Index
from indexer.matches import Match
from indexer.policy import POLICIES, Policy, Verdict, keypoint_score, score_probability
from indexer.record import Content, Record
from indexer.sketches import LocatedSketches

Confirm = Callable[[Pairs], Evidence]

CANDIDATES = 4  # of each sketch of the query, in each bank
MAX_CONFIRMED = 48  # of all of them
_TURNED_DEG, _CROPPED, _EMBEDDED = 1.5, 0.93, 0.75
_BITS_A_SCORE = 10.0


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Pairs of the query's sketches (by number) and references, as columns of one length."""

    query: NDArray[np.int64]
    sketch_pk: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Confirmed:
    """Confirmed pairs: what was compared, the evidence, and its score."""

    query: Sketches
    reference: Sketches
    content_pk: NDArray[np.int64]
    evidence: Evidence
    score: NDArray[np.float64]

    def take(self, chosen: NDArray[np.bool_]) -> "_Confirmed":
        return _Confirmed(
            self.query[chosen], self.reference[chosen], self.content_pk[chosen], self.evidence[chosen],
            self.score[chosen],
        )  # fmt: skip


def _transform(query: np.void, evidence: np.void) -> str:
    """Say what was done to the reference to make the copy."""
    words = [
        (Transform.MIRROR.value, bool(query["mirrored"])),
        ("rotated", abs(float(evidence["turn_deg"])) > _TURNED_DEG),
        ("crop", float(evidence["area"]) < _CROPPED),
        ("embedded", float(evidence["cover"]) < _EMBEDDED),
    ]
    return "+".join(word for word, said in words if said) or Transform.NONE.value


def score_bits(score: NDArray[np.float64]) -> NDArray[np.int32]:
    """Return scores as what alignment weighs matches by: a surer one counts as nearer."""
    return np.clip(100.0 - _BITS_A_SCORE * score, 0.0, 255.0).astype(np.int32)


def _segments(found: _Confirmed) -> tuple[Segment, ...]:
    times = [np.nan_to_num(rows["timestamp_s"]) for rows in (found.query, found.reference)]
    if np.isnan(found.query["timestamp_s"]).all() and np.isnan(found.reference["timestamp_s"]).all():
        return ()
    frame = np.unique(times[0], return_inverse=True)[1]
    until = [np.nan_to_num(rows["until_s"]) for rows in (found.query, found.reference)]
    bits = score_bits(found.score)
    return align(FrameMatches(frame.astype(np.int64), times[0], until[0], times[1], until[1], bits))


class KeypointMatcher:
    """Finds edited copies by their local descriptors."""

    def __init__(self, record: Record, index: Index) -> None:
        self._record, self._index = record, index

    def match(self, sketches: Sketches, banks: Sequence[Bank], confirm: Confirm) -> list[tuple[Content, Match]]:
        """Return the contents of these banks that the sketches show; UnhashableMedia if the worker is gone."""
        users = [bank.bank_pk for bank in banks if SignalType.KEYPOINTS in bank.signal_types]
        searched = self._index.descriptors(users)
        candidates = _candidates(sketches, searched)
        if not len(candidates.query):
            return []
        located = self._record.sketches.locate([int(pk) for pk in np.unique(candidates.sketch_pk)], users)
        found = _confirmed(sketches, candidates, located, confirm)
        contents = self._record.contents_by_pk([int(pk) for pk in np.unique(found.content_pk)])
        policies = {bank.name: POLICIES[bank.policy] for bank in banks}
        compared = len(sketches) * sum(each.sketches for each in searched)
        matches = []
        for pk, content in contents.items():
            mine = found.take(found.content_pk == pk)
            match = _judge(content, mine, policies[content.bank], compared)
            if match is not None:
                matches.append((content, match))
        return matches


def _candidates(sketches: Sketches, banks: Sequence[Descriptors]) -> _Candidates:
    """Return what shares the most descriptors with each sketch, of each bank."""
    rows: list[tuple[int, int, int]] = []
    asked = [voters(sketch) for sketch in sketches] if banks else []
    for (number, who), bank in product(enumerate(asked), banks):
        votes = bank.vote(who)
        best = zip(votes.votes[:CANDIDATES].tolist(), votes.sketch_pk[:CANDIDATES].tolist(), strict=True)
        rows += [(count, number, pk) for count, pk in best]
    chosen = np.array(sorted(rows, reverse=True)[:MAX_CONFIRMED], np.int64).reshape(-1, 3)
    return _Candidates(chosen[:, 1], chosen[:, 2])


def _confirmed(sketches: Sketches, candidates: _Candidates, located: LocatedSketches, confirm: Confirm) -> _Confirmed:
    known = np.isin(candidates.sketch_pk, located.sketch_pk)
    query, place = candidates.query[known], np.searchsorted(located.sketch_pk, candidates.sketch_pk[known])
    pairs = np.zeros(len(query), PAIR_DTYPE)
    pairs["query"], pairs["reference"] = query, located.rows[place]
    evidence = confirm(pairs)
    return _Confirmed(
        sketches[query], located.rows[place], located.content_pk[place], evidence, keypoint_score(evidence)
    )  # fmt: skip


def _judge(content: Content, found: _Confirmed, policy: Policy, compared: int) -> Match | None:
    best = int(np.argmax(found.score))
    score = float(found.score[best])
    probability = score_probability(score, compared)
    verdict = policy.score_verdict(score, probability)
    if verdict is Verdict.NO_MATCH:
        return None
    sure = found.take(found.score >= policy.review.least_score)
    return Match(
        content.bank, content.content_id, verdict, SignalType.KEYPOINTS,
        _transform(found.query[best], found.evidence[best]), None, int(found.evidence["inliers"][best]),
        probability, _segments(sure),
    )  # fmt: skip
