"""New content against what is kept of earlier checks: the sweep.

What is new is few, and what is kept may be much: so the kept hashes are searched in a small
index of the new ones alone, and only what is near to one is matched, as any check is.
Keypoints are not asked: they need the media itself.

One process of a store sweeps at a time, and up to the revision that its own index has: what
that lacks would be looked for in vain, and is the next sweep's.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from hashing.signals import PERCEPTUAL, SignalType, profiles_of
from indexer.banks import EVERYTHING, Reach
from indexer.errors import UnknownBank
from indexer.frame_matcher import asked_rows
from indexer.matcher import Matcher
from indexer.matches import Match
from indexer.policy import POLICIES, Verdict
from indexer.record import Record
from indexer.retro import Kept, Retro
from indexer.segments import TypeIndex

_PAGE = 100


@dataclass(frozen=True, slots=True)
class _News:
    """The hashes of what was enrolled after a revision."""

    types: dict[SignalType, TypeIndex]
    digests: set[tuple[str, bytes]]

    @classmethod
    def since(cls, record: Record, retro: Retro, revision: int) -> "_News":
        types = {kind: TypeIndex() for kind in PERCEPTUAL}
        for keys, frames in record.signals_since(revision):
            for kind, index in types.items():
                mine = np.isin(frames["profile"], profiles_of(kind))
                index.add(keys[mine], frames["hash"][mine])
        return cls(types, retro.new_digests(revision))

    def near(self, page: list[Kept]) -> Iterator[Kept]:
        """Yield what is near to something new."""
        hit = {n for n, kept in enumerate(page) for kind, digest in kept.signal.exact
               if (kind.value, digest) in self.digests}  # fmt: skip
        for kind, index in self.types.items():
            if len(index):
                hit |= self._near(kind, index, page)
        yield from (page[number] for number in sorted(hit))

    @staticmethod
    def _near(kind: SignalType, index: TypeIndex, page: list[Kept]) -> set[int]:
        rows, whose = asked_rows(kind, [kept.signal for kept in page])
        radius = max(policy.radius_bits(kind) for policy in POLICIES.values())
        if not len(whose):
            return set()
        return set(whose[index.search(rows["hash"], radius).query].tolist())


def sweep(record: Record, matcher: Matcher, retro: Retro, told: Callable[[Match], dict[str, object]],
          stop: Callable[[], bool] = lambda: False,
          reach_of: Callable[[str], Reach] = lambda key_id: EVERYTHING) -> int:  # fmt: skip
    """Ask all that is kept about what was enrolled since the last sweep; returns how much was found.

    `told` gives a match as it is shown, `reach_of` what the key that checked may ask about.
    Cut short, it is done again, and finds nothing twice. Nothing is done while another process sweeps.
    """
    if not _due(retro, matcher):
        return 0
    with record.store.turn("retro") as ours:
        return 0 if ours is None else _swept(record, matcher, retro, told, lambda: stop() or not ours(), reach_of)


def _due(retro: Retro, matcher: Matcher) -> tuple[int, int] | None:
    """Return from which revision to which what is kept has to be asked; None if there is nothing to ask."""
    mark, revision = retro.mark(), matcher.revision
    return None if mark is None or mark >= revision else (mark, revision)


def _swept(record: Record, matcher: Matcher, retro: Retro, told: Callable[[Match], dict[str, object]],
           stop: Callable[[], bool], reach_of: Callable[[str], Reach]) -> int:  # fmt: skip
    due = _due(retro, matcher)  # as of now: another process may have swept before this one had the turn
    if due is None:
        return 0
    mark, revision = due
    news, last, found = _News.since(record, retro, mark), 0, 0
    while not stop():
        page = retro.page(last, _PAGE)
        if page:
            found += sum(_settled(kept, matcher, retro, told, reach_of(kept.key_id)) for kept in news.near(page))
            last = page[-1].retro_pk
        elif retro.finish(mark, revision, last):
            break
    return found


def _settled(kept: Kept, matcher: Matcher, retro: Retro, told: Callable[[Match], dict[str, object]],
             reach: Reach) -> int:  # fmt: skip
    try:
        matches = _new(matcher.match(kept.signal, kept.banks, reach=reach).matches, kept)
    except UnknownBank:  # one that was asked is gone
        return 0
    sure = any(match.verdict is Verdict.MATCH for match in matches)
    return retro.settle(kept, {match.content_id: told(match) for match in matches}, sure=sure) if matches else 0


def _new(matches: Iterable[Match], kept: Kept) -> list[Match]:
    return [match for match in matches if match.content_id not in kept.known]
