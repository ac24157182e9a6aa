"""Look-ups judged together: each gets the answer, or the error, that it gets alone, and nobody waits for company."""

import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import numpy as np
import pytest
from shelf import Shelf, codes, flipped, still

from hashing.errors import InvalidHash, StaydownError
from hashing.signals import Signal, SignalType
from indexer.enroll import ReadyHash
from indexer.errors import StoreBroken, UnknownBank
from indexer.matcher import Answer
from service import lookups
from service.lookups import Lookup, Lookups

BANK = codes(71, 40)


def nothing(signal: Signal, answer: Answer) -> None:
    """Keep nothing."""


def lookup(code: Any, *banks: str, keep: Callable[[Signal, Answer], None] = nothing) -> Lookup:
    return Lookup([ReadyHash(SignalType.PDQ, bytes(code).hex())], banks or None, keep)


@pytest.fixture
def full(shelf: Shelf) -> Shelf:
    shelf.record.create_bank("other", actor="t")
    shelf.enroll_all([still(code) for code in BANK[:20]])
    shelf.enroll_all([still(code) for code in BANK[20:]], "other")
    return shelf


async def outcomes(asked: Lookups, items: list[Lookup]) -> list[Answer | StaydownError]:
    found: dict[int, Answer | StaydownError] = {}

    async def one(number: int) -> None:
        try:
            found[number] = await asked.ask(items[number])
        except StaydownError as error:
            found[number] = error

    async with anyio.create_task_group() as group:
        for number in range(len(items)):
            group.start_soon(one, number)
    return [found[number] for number in range(len(items))]


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    return anyio.run(work)


def test_each_gets_the_answer_that_it_gets_alone(full: Shelf) -> None:
    items = [lookup(flipped(BANK[n], n % 50, seed=n)) for n in range(40)] + [lookup(code) for code in codes(72, 150)]
    items += [lookup(BANK[n], "other") for n in range(15, 25)] + [lookup(BANK[3], "b", "other")]
    together = run(lambda: outcomes(Lookups(full.matcher), items))
    alone = [lookups.judged(full.matcher, [item])[0] for item in items]
    assert together == alone
    assert {answer.verdict.value for answer in together} == {"match", "review", "no_match"}


def test_one_that_fails_fails_alone(full: Shelf) -> None:
    def broken(signal: Signal, answer: Answer) -> None:
        raise StoreBroken

    wrong = Lookup([ReadyHash(SignalType.PDQ, "zz" * 32)], None, nothing)
    items = [lookup(BANK[0]), wrong, lookup(BANK[1], "absent"), lookup(BANK[2], keep=broken), lookup(BANK[3])]
    found = run(lambda: outcomes(Lookups(full.matcher), items))
    assert [type(one) for one in found] == [Answer, InvalidHash, UnknownBank, StoreBroken, Answer]


class Slow:
    """`judged`, which tells of each batch, and holds the first one until it is let go."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.begun, self.go = threading.Event(), threading.Event()
        self._judged = lookups.judged

    def __call__(self, matcher: Any, items: Any) -> Any:
        self.batches.append(len(items))
        self.begun.set()
        assert self.go.wait(20)
        return self._judged(matcher, items)


def test_what_comes_while_a_batch_is_judged_is_the_next_batch(full: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    monkeypatch.setattr(lookups, "judged", slow)

    async def work() -> None:
        asked = Lookups(full.matcher)
        async with anyio.create_task_group() as group:
            group.start_soon(asked.ask, lookup(BANK[0]))
            await anyio.to_thread.run_sync(slow.begun.wait, 20)
            for code in BANK:
                group.start_soon(asked.ask, lookup(code))
            group.start_soon(leaver, asked)
            await anyio.sleep(0.05)
            slow.go.set()

    async def leaver(asked: Lookups) -> None:
        with anyio.move_on_after(0.01):
            await asked.ask(lookup(BANK[1]))

    run(work)
    assert slow.batches == [1, 40]  # the one that left is not asked for


def test_what_nobody_foresaw_ends_no_other_batch(full: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = lookups.judged

    def failing(matcher: Any, items: Any) -> Any:
        if items[0].hashes[0].hash == "00" * 32:
            raise ZeroDivisionError
        return answered(matcher, items)

    monkeypatch.setattr(lookups, "judged", failing)

    async def work() -> Answer:
        asked = Lookups(full.matcher)
        with pytest.raises(ZeroDivisionError):
            await asked.ask(lookup(np.zeros(32, np.uint8)))
        return await asked.ask(lookup(BANK[0]))

    assert run(work).verdict.value == "match"
