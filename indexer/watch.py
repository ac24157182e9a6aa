"""Keeps an index current beside the checks, so that a change of another process is in force within moments.

The store's revision is the truth. It is looked at POLL_S after the last look at the latest;
PostgreSQL's NOTIFY is a nudge to look at once. A nudge that is lost therefore costs nothing,
and SQLite, which gives none, needs none. `age_s` tells how long ago the index was known to
hold all that the store had: whoever answers from it can refuse to once that is too long.
"""

import threading
import time
from collections.abc import Callable

from indexer.errors import StoreBroken
from indexer.index import Index
from indexer.record import Record

POLL_S = 0.25
_LISTEN_S = 0.5  # how soon the listener notices that it is to end
_RETRY_S = 1.0


class Watch:
    """The threads that watch one store for one index."""

    def __init__(self, record: Record, index: Index, tell: Callable[[StoreBroken | None], object]) -> None:
        """`tell` gets what is wrong with the store when it breaks, and None when it works again."""
        self._record, self._index, self._tell = record, index, tell
        self._wake, self._ended = threading.Event(), threading.Event()
        self._current_at = time.monotonic()
        self._works = True
        runs = [self._watch, self._listen] if record.store.gives_nudges else [self._watch]
        self._threads = [threading.Thread(target=run, name=run.__name__, daemon=True) for run in runs]

    @property
    def age_s(self) -> float:
        """How long ago the index was last known to be current."""
        return time.monotonic() - self._current_at

    def start(self) -> None:
        """Begin, with an index that was just loaded."""
        self._current_at = time.monotonic()
        self._index.watched = True
        for thread in self._threads:
            thread.start()

    def nudge(self) -> None:
        """Look at the store now."""
        self._wake.set()

    def stop(self) -> None:
        """End the threads."""
        self._index.watched = False
        self._ended.set()
        self._wake.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout=2 * _LISTEN_S)

    def _watch(self) -> None:
        while not self._ended.is_set():
            self._wake.clear()  # before the look: what comes during it asks for another
            self._look()
            self._wake.wait(POLL_S if self._works else _RETRY_S)

    def _look(self) -> None:
        began = time.monotonic()
        try:
            self._index.refresh(self._record)
        except StoreBroken as error:
            self._say(error)
            return
        self._current_at = began
        self._say(None)

    def _say(self, error: StoreBroken | None) -> None:
        if self._works is not (error is None):
            self._works = error is None
            self._tell(error)

    def _listen(self) -> None:
        while not self._ended.is_set():
            try:
                with self._record.store.listening() as nudged:
                    self.nudge()  # for what changed while nobody listened
                    while not self._ended.is_set():
                        if nudged(_LISTEN_S):
                            self.nudge()
            except StoreBroken:  # a standby refuses to listen; what else is wrong the look tells
                self._ended.wait(_RETRY_S)
