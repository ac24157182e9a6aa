"""Requests over some connections at once, each sent when the answer to the one before is there.

One thread over plain sockets, with requests that are put together before: on a machine of
two cores a client library would take more of them than the service.
"""

import selectors
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from benchmarks.server import HOST

_CHUNK_BYTES = 1 << 16
PATIENCE_S = 60.0


class BadAnswer(Exception):
    """An answer was no 200, or there was none."""


def request_of(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """Return the bytes of a request."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", f"Content-Length: {len(body)}",
             *(f"{name}: {value}" for name, value in named.items())]  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(frozen=True, slots=True)
class Load:
    """What a load came to."""

    elapsed_s: float
    latencies_s: tuple[float, ...]

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return len(self.latencies_s) / self.elapsed_s

    def percentile_ms(self, percent: float) -> float:
        """Return a percentile of the times to an answer."""
        return float(np.percentile(self.latencies_s, percent)) * 1000


def parts_of(head: bytes) -> tuple[int, Mapping[str, str]]:
    """Return the status and the headers, their names in small letters; BadAnswer for what is no HTTP."""
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split()
    if len(words) < 2 or not words[1].isdigit():
        raise BadAnswer("what came is no answer of HTTP")
    pairs = (line.partition(":") for line in lines)
    return int(words[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}


@dataclass(slots=True)
class _Connection:
    """One connection: what is left to be sent, what has come, since when it waits."""

    port: int
    selector: selectors.BaseSelector
    sent: memoryview = field(default_factory=lambda: memoryview(b""))
    came: bytearray = field(default_factory=bytearray)
    since: float = 0.0
    sock: socket.socket | None = None

    def ask(self, request: bytes) -> None:
        """Begin to send; connect first if the other side closed."""
        if self.sock is None:
            self.sock = socket.create_connection((HOST, self.port), PATIENCE_S)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock.setblocking(False)
            self.selector.register(self.sock, selectors.EVENT_READ, self)
        self.sent, self.since = memoryview(request), time.perf_counter()
        self.came.clear()
        self._send()

    def _send(self) -> None:
        assert self.sock is not None
        with suppress(BlockingIOError):
            self.sent = self.sent[self.sock.send(self.sent) :]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.sent else 0)
        self.selector.modify(self.sock, events, self)

    def move(self, events: int) -> bool:
        """Send and receive what can be; return whether the answer is complete. BadAnswer."""
        assert self.sock is not None
        if events & selectors.EVENT_WRITE:
            self._send()
        if not events & selectors.EVENT_READ:
            return False
        chunk = self.sock.recv(_CHUNK_BYTES)
        self.came += chunk
        head, end, body = self.came.partition(b"\r\n\r\n")
        if not chunk and not end:
            raise BadAnswer("the connection was closed before an answer")
        return bool(end) and self._complete(parts_of(bytes(head)), len(body), closed=not chunk)

    def _complete(self, parts: tuple[int, Mapping[str, str]], size: int, *, closed: bool) -> bool:
        status, headers = parts
        if not closed and ("content-length" not in headers or size < int(headers["content-length"])):
            return False
        if status != 200:
            raise BadAnswer(f"answered with {status}")
        if closed or headers.get("connection", "").lower() == "close":
            self.close()
        return True

    def close(self) -> None:
        """Close the connection."""
        if self.sock is not None:
            self.selector.unregister(self.sock)
            self.sock.close()
            self.sock = None


def load(port: int, requests: Sequence[bytes], connections: int, count: int) -> Load:
    """Send `count` requests in all, the given ones again and again; BadAnswer."""
    latencies: list[float] = []
    with selectors.DefaultSelector() as selector:
        every = [_Connection(port, selector) for _ in range(connections)]
        try:
            start = time.perf_counter()
            for number, connection in enumerate(every):
                connection.ask(requests[number % len(requests)])
            _until(selector, requests, count, latencies, connections)
            return Load(time.perf_counter() - start, tuple(latencies))
        finally:
            for connection in every:
                connection.close()


def _until(selector: selectors.BaseSelector, requests: Sequence[bytes], count: int, latencies: list[float],
           begun: int) -> None:  # fmt: skip
    while len(latencies) < count:
        ready = selector.select(PATIENCE_S)
        if not ready:
            raise BadAnswer(f"no answer for {PATIENCE_S:.0f} s")
        for key, events in ready:
            connection: _Connection = key.data
            if not connection.move(events):
                continue
            latencies.append(time.perf_counter() - connection.since)
            if begun < count:
                connection.ask(requests[begun % len(requests)])
                begun += 1
