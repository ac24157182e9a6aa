"""Which key a request comes with: asked of the store at most every two seconds for each key.

So a revoked or expired key opens nothing after two seconds at the latest, in every process, and a
flood of requests is no flood of questions to the store. What is no key is never remembered: a key
that was made just now is known at once.
"""

import hashlib
import time
from collections.abc import Callable

from anyio import CapacityLimiter, to_thread

from indexer.keys import Key
from service.errors import TooManyRequests

KNOWN_S = 2.0
_MOST_KEYS, _MOST_WAITING, _THREADS = 10_000, 64, 4


class Keyring:
    """What was known of keys moments ago."""

    def __init__(self, authenticate: Callable[[str], Key | None], clock: Callable[[], float] = time.monotonic) -> None:
        self._authenticate, self._clock = authenticate, clock
        self._known: dict[bytes, tuple[Key, float]] = {}
        self._threads: CapacityLimiter | None = None

    async def find(self, text: str) -> Key | None:
        """Return the key that a text is, or None; TooManyRequests while too many unknown ones are looked up."""
        if not (text.isascii() and text.isprintable()):
            return None
        digest = hashlib.sha256(text.encode()).digest()
        key, read_at = self._known.get(digest, (None, 0.0))
        if key is not None and self._clock() - read_at < KNOWN_S:
            return key
        return await self._look_up(digest, text)

    async def _look_up(self, digest: bytes, text: str) -> Key | None:
        self._threads = self._threads or CapacityLimiter(_THREADS)
        if self._threads.statistics().tasks_waiting >= _MOST_WAITING:
            raise TooManyRequests
        began = self._clock()
        key = await to_thread.run_sync(self._authenticate, text, limiter=self._threads)
        self._known.pop(digest, None)
        if key is not None:
            if len(self._known) >= _MOST_KEYS:
                self._known.pop(next(iter(self._known)))
            self._known[digest] = (key, began)
        return key
