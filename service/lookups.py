"""Hash look-ups that arrive at the same time are judged together: while a batch is judged, the next one gathers.

Nobody waits for company that is not there: a look-up that finds nobody at work is judged at once,
with those that arrived with it. One that does waits for the batch before its own, and no longer.
One thread computes so, where several would only take the interpreter from one another. Long lists
of hashes are not judged here: they would keep the others waiting.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from anyio import to_thread
from fastapi import Request

from hashing.errors import StaydownError
from hashing.signals import Signal
from indexer.banks import EVERYTHING, Reach
from indexer.enroll import ReadyHash, signal_of
from indexer.keys import Key
from indexer.matcher import Answer, Matcher, Query
from service.engine import Keep

MAX_BATCH = 64
MAX_HASHES = 64  # of a look-up
_TURNS = 3  # of the event loop, which take microseconds: what has arrived already gets through to here


def watched(request: Request, key: Key, keep: Keep) -> Keep:
    """Return what is told an answer before it is given: the watch over probing first, which may refuse it."""

    def told(signal: Signal, answer: Answer) -> None:
        request.state.may_tell = request.app.state.probing.look(key, signal, answer)
        keep(signal, answer)

    return told


Judged = Answer | StaydownError
_Waiting = tuple["Lookup", "asyncio.Future[Answer]"]


@dataclass(frozen=True, slots=True)
class Lookup:
    """Hashes of one piece of media, the banks to ask (None: all), and what is told the answer."""

    hashes: Sequence[ReadyHash]
    banks: tuple[str, ...] | None
    keep: Keep
    reach: Reach = EVERYTHING


def judged(matcher: Matcher, lookups: Sequence[Lookup]) -> list[Judged]:
    """Return an answer or an error for each: those that ask the same banks by one search and one join."""
    found: dict[int, Judged] = {}
    asked: dict[tuple[tuple[str, ...] | None, Reach], dict[int, Signal]] = defaultdict(dict)
    for number, lookup in enumerate(lookups):
        try:
            asked[lookup.banks, lookup.reach][number] = signal_of(lookup.hashes)
        except StaydownError as error:
            found[number] = error
    for (banks, reach), signals in asked.items():
        try:
            answers = matcher.match_all([Query(signal) for signal in signals.values()], banks, reach)
        except StaydownError as error:
            found |= dict.fromkeys(signals, error)
            continue
        for (number, signal), answer in zip(signals.items(), answers, strict=True):
            found[number] = _kept(lookups[number].keep, signal, answer)
    return [found[number] for number in range(len(lookups))]


def _kept(keep: Keep, signal: Signal, answer: Answer) -> Judged:
    try:
        keep(signal, answer)
    except StaydownError as error:
        return error
    return answer


class Lookups:
    """The look-ups of one event loop."""

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        self._waiting: list[_Waiting] = []
        self._at_work: asyncio.Task[None] | None = None

    async def ask(self, lookup: Lookup) -> Answer:
        """Return the answer to a look-up, or raise its error."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((lookup, answer))
        if self._at_work is None:
            self._at_work = asyncio.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        try:
            while self._waiting:
                for _ in range(_TURNS):
                    await asyncio.sleep(0)
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                await self._judge([pair for pair in batch if not pair[1].done()])  # who has left is not asked for
        finally:
            self._at_work = None

    async def _judge(self, batch: list[_Waiting]) -> None:
        lookups = [lookup for lookup, _ in batch]
        judging = asyncio.ensure_future(to_thread.run_sync(judged, self._matcher, lookups))
        await asyncio.wait([judging])
        failed = judging.exception()  # what nobody foresaw is the error of each, and the next batch goes on
        found = [failed] * len(batch) if failed else judging.result()
        for (_, answer), one in zip(batch, found, strict=True):
            if answer.done():
                continue
            if isinstance(one, BaseException):
                answer.set_exception(one)
            else:
                answer.set_result(one)
