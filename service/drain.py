"""Stopping without a failed request: says that it is not ready, goes on answering for a while, and only then ends.

A load balancer needs moments to see that a process is going. Until then it sends requests, so
the process still takes them; each answer closes its connection. A second signal, or
Ctrl-C, ends it at once.
"""

import signal
import threading
import time
from types import FrameType

import uvicorn


class Drain:
    """Whether a process is about to end."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self._began_at = 0.0

    @property
    def begun(self) -> bool:
        """Whether it was asked to end."""
        return self._begun.is_set()

    def begin(self) -> None:
        """Say so from now on."""
        self._began_at = time.monotonic()
        self._begun.set()

    def over(self, drain_s: float) -> bool:
        """Tell whether it was asked to, so long ago."""
        return self.begun and time.monotonic() - self._began_at >= drain_s


class DrainingServer(uvicorn.Server):
    """uvicorn's server, which goes on for `drain_s` after SIGTERM."""

    def __init__(self, config: uvicorn.Config, drain: Drain, drain_s: float) -> None:
        super().__init__(config)
        self._drain, self._drain_s = drain, drain_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; at the second signal, or at another, stop as uvicorn does."""
        if sig != signal.SIGTERM or self._drain.begun:
            super().handle_exit(sig, frame)
        else:
            self._drain.begin()

    async def on_tick(self, counter: int) -> bool:
        """Tell whether to stop; asked ten times a second."""
        return await super().on_tick(counter) or self._drain.over(self._drain_s)
