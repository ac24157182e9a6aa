"""Linked media: asked of a process of its own, which has the only outgoing sockets (`fetch_worker`).

It is a fresh interpreter with an environment of its own, started at the first link and again
if it ends. Nothing of the service is in it, and what comes back is a number and bytes.
"""

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import anyio

from service import fetch_wire
from service.errors import LinkFailed, LinkRefused
from service.fetch_wire import MAX_LINK_BYTES, Outcome, Rules

GRACE_S = 2.0  # that the process has beyond its own deadline
_GONE = "the process that fetches links ended"


class _Process:
    """The process, and the socket on which it is asked."""

    def __init__(self, rules: Rules, environment: Mapping[str, str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
                [sys.executable, "-P", "-m", "service.fetch_worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()], env=dict(environment),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        self._control.send(fetch_wire.pack_rules(rules))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, link: bytes, answer_to: socket.socket) -> None:
        socket.send_fds(self._control, [link], [answer_to.fileno()])

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._control.close()


class Fetcher:
    """Fetches linked media into memory."""

    def __init__(self, rules: Rules, environment: Mapping[str, str], *, enabled: bool = True) -> None:
        self._rules, self._environment, self._enabled = rules, environment, enabled
        self._process: _Process | None = None
        self._lock = threading.Lock()

    async def fetch(self, link: str) -> bytes:
        """Return the bytes behind a link; LinkRefused, LinkFailed, MediaTooLarge."""
        if not self._enabled:
            raise LinkRefused("links are switched off on this server")
        try:
            data = link.encode()
        except UnicodeEncodeError as error:
            raise fetch_wire.error_of(Outcome.NO_URL, 0) from error
        if not 0 < len(data) < MAX_LINK_BYTES:
            raise fetch_wire.error_of(Outcome.NO_URL, 0)
        ours = self._ask(data)
        try:
            with anyio.fail_after(self._rules.timeout_s + GRACE_S):
                return await self._answer(ours)
        except TimeoutError as error:
            raise fetch_wire.error_of(Outcome.TIMED_OUT, 0) from error
        except (OSError, EOFError, ValueError) as error:  # it died, or answers what is no answer
            raise LinkFailed(_GONE) from error

    def _ask(self, link: bytes) -> socket.socket:
        """Send a link, and return where its answer comes."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._running().ask(link, theirs)
        except OSError as error:
            ours.close()
            raise LinkFailed(_GONE) from error
        return ours

    def _running(self) -> _Process:
        with self._lock:
            if self._process is not None and not self._process.alive:
                self._process.end()
                self._process = None
            if self._process is None:
                self._process = _Process(self._rules, self._environment)
            return self._process

    async def _answer(self, ours: socket.socket) -> bytes:
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            head = await reader.readexactly(fetch_wire.ANSWER.size)
            outcome, status, size = fetch_wire.unpack_answer(head, self._rules.max_bytes)
            if outcome is not Outcome.MEDIA:
                raise fetch_wire.error_of(outcome, status)
            return await reader.readexactly(size)
        finally:
            writer.close()

    @property
    def pid(self) -> int | None:
        """The process, if it was started."""
        return self._process.pid if self._process is not None else None

    def close(self) -> None:
        """End the process."""
        with self._lock:
            if self._process is not None:
                self._process.end()
                self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
