"""Whose turn it is at the workers: nobody waits behind all that another one sends, and no place is lost."""

from collections import Counter

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.turns import LATELY_S, Turns


class Log:
    """Who held a place, in order, and how many at most."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    async def work(self, turns: Turns, tenant: str, for_s: float = 0.001) -> None:
        async with turns(tenant):
            self.order.append(tenant)
            self.now[tenant] += 1
            self.most[tenant] = max(self.most[tenant], self.now[tenant])
            self.most["all"] = max(self.most["all"], self.now.total())
            await anyio.sleep(for_s)
            self.now[tenant] -= 1


def test_alone_a_tenant_has_every_place() -> None:
    log, turns = Log(), Turns(4, 2)

    async def run() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(log.work, turns, "a")

    anyio.run(run)
    assert log.order == ["a"] * 20
    assert log.most["a"] == 4


def test_who_comes_seldom_is_next_though_another_sent_a_hundred() -> None:
    log, turns = Log(), Turns(3, 1)

    async def run() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(log.work, turns, "flood")
            await anyio.sleep(0.005)
            began = len(log.order)
            await log.work(turns, "quiet")
            assert log.order.index("quiet") <= began + 3
            group.cancel_scope.cancel()

    anyio.run(run)


def test_while_others_are_there_one_worker_is_kept_free_of_each() -> None:
    log, turns = Log(), Turns(6, 4)

    async def run() -> None:
        await log.work(turns, "quiet")
        async with anyio.create_task_group() as group:
            for _ in range(40):
                group.start_soon(log.work, turns, "flood")

    anyio.run(run)
    assert log.most["flood"] == 3
    assert log.order == ["quiet", *["flood"] * 40]


def test_a_tenant_that_was_not_there_lately_reserves_nothing() -> None:
    at = [0.0]
    log, turns = Log(), Turns(6, 4, lambda: at[0])

    async def run() -> None:
        await log.work(turns, "quiet")
        at[0] += LATELY_S + 1
        async with anyio.create_task_group() as group:
            for _ in range(40):
                group.start_soon(log.work, turns, "flood")

    anyio.run(run)
    assert log.most["flood"] == 6


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["work", "cancel", "fail"])), max_size=40),
       st.integers(1, 4), st.integers(1, 4))  # fmt: skip
def test_no_place_is_lost_or_given_twice(steps: list[tuple[str, str]], places: int, workers: int) -> None:
    log, turns = Log(), Turns(places, workers)

    async def one(tenant: str, what: str) -> None:
        if what == "cancel":
            with anyio.move_on_after(0.002):
                async with turns(tenant):
                    await anyio.sleep(5)
        elif what == "fail":
            with pytest.raises(ZeroDivisionError):
                async with turns(tenant):
                    raise ZeroDivisionError
        else:
            await log.work(turns, tenant)

    async def run() -> None:
        async with anyio.create_task_group() as group:
            for step in steps:
                group.start_soon(one, *step)
        with anyio.fail_after(5):
            await log.work(turns, "last")

    anyio.run(run)
    assert log.most["all"] <= places
    assert not turns._waiting
    assert turns._running.total() == 0
