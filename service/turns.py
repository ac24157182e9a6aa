"""Whose turn it is to have media decoded: tenants take turns, however much one of them sends.

While another tenant was there within the last seconds, none has every worker: so who comes
seldom does not wait for what a busy one has under way. Alone, a tenant has them all.
"""

import time
from asyncio import Future, get_running_loop
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

LATELY_S = 10.0


class Turns:
    """Places at the workers; runs on the event loop alone."""

    def __init__(self, places: int, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._places, self._shared, self._clock = places, max(1, workers - 1), clock
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[Future[None]]] = {}  # in the order of their next turns
        self._seen: dict[str, float] = {}

    @asynccontextmanager
    async def __call__(self, tenant: str) -> AsyncIterator[None]:
        """Wait for a place, hold it while the block runs, and give it on."""
        self._seen[tenant] = self._clock()
        mine: Future[None] = get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(mine)
        self._give()
        try:
            await mine
            yield
        finally:
            self._leave(tenant, mine)

    def _leave(self, tenant: str, mine: "Future[None]") -> None:
        if mine.done() and not mine.cancelled():
            self._running[tenant] -= 1
        elif mine in self._waiting.get(tenant, ()):
            self._waiting[tenant].remove(mine)
            if not self._waiting[tenant]:
                del self._waiting[tenant]
        self._seen[tenant] = self._clock()
        self._give()

    def _most(self) -> int:
        """Return how many places one tenant may have now."""
        recent = self._clock() - LATELY_S
        there = self._waiting.keys() | +self._running
        self._seen = {name: at for name, at in self._seen.items() if at >= recent or name in there}
        return self._shared if len(self._seen) > 1 else self._places

    def _next(self) -> str | None:
        """Return whose turn it is: of those that may have one more, who has the fewest, and waits longest."""
        most = self._most()
        full = self._running.total() >= self._places
        free = [name for name in self._waiting if self._running[name] < most and not full]
        return min(free, key=lambda name: self._running[name], default=None)

    def _give(self) -> None:
        while (name := self._next()) is not None:
            queue = self._waiting.pop(name)
            turn = queue.popleft()
            if queue:
                self._waiting[name] = queue  # behind the others
            if not turn.done():
                turn.set_result(None)
                self._running[name] += 1
