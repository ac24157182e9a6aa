"""Connections as uvicorn has them, without those who keep one for nothing.

uvicorn waits for ever for a request's headers, for its body, and for somebody to read an answer.
Here each of them has a time: the headers have to be there, the body has to come at a least rate,
and what was written has to be taken. Who is slower is cut off. While we keep a client waiting
ourselves, nothing is counted.
"""

import asyncio
import asyncio.constants
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.settings import Settings

MAX_HEADER_BYTES = 16 * 1024
_LOOKS = 14  # at a connection in the time that a slow client has
_HEADERS, _BODY, _REST, _ANSWER, _NOTHING = "headers", "body", "rest", "answer", ""
Dropped = Callable[[str], None]


class PatientNoLonger(H11Protocol):
    """One connection, looked at from time to time."""

    def __init__(self, settings: Settings, dropped: Dropped, **given: Any) -> None:
        super().__init__(**given)
        self._limit_s, self._least_rate = settings.slow_client_s, settings.min_upload_bytes_per_s
        self._most_connections, self._dropped = settings.max_connections, dropped
        self._doing: tuple[str, object] = (_NOTHING, None)  # what is waited for, and in which request
        self._since_s, self._bytes = 0.0, 0
        self._look_again: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self._most_connections:
            self._drop("too_many")
            return
        self._doing, self._since_s = (_HEADERS, self.cycle), self.loop.time()
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        if self._look_again is not None:
            self._look_again.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what arrives."""
        self._bytes += len(data)
        super().data_received(data)

    def _look_later(self) -> None:
        self._look_again = self.loop.call_later(self._limit_s / _LOOKS, self._look)

    def _waited_for(self) -> str:
        """Say in a word what the client owes."""
        if self.flow.write_paused:
            return _ANSWER
        if self.conn.their_state is h11.IDLE:
            return _HEADERS
        if self.conn.their_state is not h11.SEND_BODY:
            return _NOTHING
        if self.cycle.response_complete:
            return _REST  # of a body that nobody waits for any more
        ours = self.flow.read_paused or self.cycle.waiting_for_100_continue
        return _NOTHING if ours else _BODY

    def _look(self) -> None:
        now, doing = self.loop.time(), (self._waited_for(), self.cycle)
        if doing != self._doing:
            self._doing, self._since_s, self._bytes = doing, now, 0
        elif doing[0] and now - self._since_s >= self._limit_s:
            if doing[0] != _BODY or self._bytes < self._least_rate * (now - self._since_s):
                self._drop(doing[0])
                return
            self._since_s, self._bytes = now, 0
        self._look_later()

    def _drop(self, why: str) -> None:
        self._dropped(why)
        self.transport.abort()


def guarded(settings: Settings, dropped: Dropped) -> type[asyncio.Protocol]:
    """Return what uvicorn is to make connections of; `dropped` is told why one is cut off."""
    return cast(type[asyncio.Protocol], partial(PatientNoLonger, settings, dropped))


def _tls(settings: Settings) -> dict[str, Any]:
    """Return uvicorn's options for TLS; a client that begins a handshake has the time of other slow ones."""
    if settings.tls_certificate_file is None:
        return {}
    asyncio.constants.SSL_HANDSHAKE_TIMEOUT = settings.slow_client_s  # a minute; uvicorn hands no other on
    wanted = ssl.CERT_NONE if settings.tls_client_ca_file is None else ssl.CERT_REQUIRED
    return {"ssl_certfile": settings.tls_certificate_file, "ssl_keyfile": settings.tls_key_file,
            "ssl_ca_certs": settings.tls_client_ca_file, "ssl_cert_reqs": wanted}  # fmt: skip


def config(app: Any, settings: Settings, dropped: Dropped, **more: Any) -> uvicorn.Config:
    """Return uvicorn's configuration: guarded connections, no log lines of its own, proxies only if they are named."""
    proxies = [str(network) for network in settings.trusted_proxies]
    more |= _tls(settings)
    return uvicorn.Config(
        app, http=guarded(settings, dropped), ws="none", access_log=False, log_config=None, server_header=False,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES, proxy_headers=bool(proxies), forwarded_allow_ips=proxies,
        **more,
    )  # fmt: skip


def tuned(listener: socket.socket, settings: Settings) -> None:
    """Set a listener's options, which its connections inherit.

    No waiting for more to send, else a kept connection waits 40 ms an answer; and an end for what was
    sent to somebody who is gone, two seconds after we would have ended it.
    """
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(settings.slow_client_s * 1000) + 2000)
