"""The process that fetches links: the only outgoing sockets. It has no key, no bank, no setting but its rules.

A name is resolved once, every address it has is judged, and the connection goes to one
of those very addresses, so that a name cannot change its mind in between. Every redirect
is judged again. Bytes are counted as they arrive; one deadline covers everything.

    python -m service.fetch_worker FD        (started by service.fetch, over a socket pair)
"""

import asyncio
import resource
import socket
import ssl
import sys
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, urljoin

import anyio
import httpcore
from anyio import to_thread

from service.addresses import is_allowed, is_inside
from service.fetch_wire import ANSWER, MAX_LINK_BYTES, MAX_RULES_BYTES, Outcome, Rules, unpack_rules

_PORTS = {80, 443, 8080, 8443}
_REDIRECTS = {301, 302, 303, 307, 308}
_OK, _MOST_PROXY_BYTES, _AT_A_TIME = 200, 4096, 64
_HEADERS: dict[bytes | str, bytes | str] = {
    "User-Agent": "staydown",
    "Accept": "image/*, video/*",
    "Accept-Encoding": "identity",
}


class Ended(Exception):
    """A fetch ended without media."""

    def __init__(self, outcome: Outcome, status: int = 0) -> None:
        super().__init__(outcome.name)
        self.outcome, self.status = outcome, status


class _GuardedBackend(httpcore.AnyIOBackend):
    """Connects to judged addresses only, straight or through the proxy."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._judged(host, port)
        error: Exception = Ended(Outcome.UNRESOLVED)
        for address in addresses:
            try:
                if self._rules.proxy:
                    return await self._through_proxy(address, port)
                return await super().connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.ConnectError as refused:
                error = refused
        raise error

    async def _judged(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host; Ended if one of them, or the port, is not allowed."""
        name = host.rstrip(".").lower()
        if self._rules.hosts and not any(name == one or name.endswith(f".{one}") for one in self._rules.hosts):
            raise Ended(Outcome.REFUSED)
        try:
            found = await to_thread.run_sync(
                lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), abandon_on_cancel=True
            )
        except (OSError, UnicodeError) as error:
            raise Ended(Outcome.UNRESOLVED) from error
        addresses, networks = [str(entry[4][0]) for entry in found], self._rules.internal_networks
        if not all(is_allowed(address, networks) for address in addresses):
            raise Ended(Outcome.REFUSED)
        if port not in _PORTS and not all(is_inside(address, networks) for address in addresses):
            raise Ended(Outcome.PORT)
        return addresses

    async def _through_proxy(self, address: str, port: int) -> httpcore.AsyncNetworkStream:
        """Ask the proxy for the very address that was judged: it resolves no name."""
        proxy = httpcore.URL(self._rules.proxy)
        stream = await super().connect_tcp(proxy.host.decode(), proxy.port or 80)
        where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        await stream.write(f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = await stream.read(1)  # no byte of what comes behind
            head += piece
            if not piece or len(head) > _MOST_PROXY_BYTES:
                raise Ended(Outcome.PROXY)
        if head.split(b" ", 2)[1:2] != [b"200"]:
            raise Ended(Outcome.PROXY)
        return stream

    async def connect_unix_socket(self, *args: Any, **kwargs: Any) -> httpcore.AsyncNetworkStream:
        raise Ended(Outcome.REFUSED)


def _parsed(link: str) -> httpcore.URL:
    """Read a link; letters beyond ASCII are percent-encoded, which a host's name may not be."""
    if not link.isprintable() or " " in link:
        raise Ended(Outcome.NO_URL)
    try:
        url = httpcore.URL("".join(c if c.isascii() else quote(c) for c in link))
    except (ValueError, UnicodeError, TypeError) as error:
        raise Ended(Outcome.NO_URL) from error
    if url.scheme not in {b"http", b"https"} or not url.host or b"%" in url.host or "@" in link.split("/")[2]:
        raise Ended(Outcome.REFUSED)
    return url


async def _get(pool: httpcore.AsyncConnectionPool, link: str, max_bytes: int) -> tuple[bytearray, str | None]:
    """Return the body of an answer, or where it leads on."""
    body = bytearray()
    async with pool.stream("GET", _parsed(link), headers=_HEADERS) as response:
        headers = {name.lower(): value for name, value in response.headers}
        if response.status in _REDIRECTS and b"location" in headers:
            return body, headers[b"location"].decode("utf-8", "replace")
        if response.status != _OK:
            raise Ended(Outcome.STATUS, min(response.status, 999))
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Ended(Outcome.ENCODING)
        async for chunk in response.aiter_stream():
            body += chunk
            if len(body) > max_bytes:
                raise Ended(Outcome.TOO_LARGE)
    return body, None


async def _follow(rules: Rules, link: str) -> bytearray:
    backend = _GuardedBackend(rules)
    async with httpcore.AsyncConnectionPool(network_backend=backend, max_connections=2) as pool:
        for _ in range(rules.max_redirects + 1):
            try:
                body, onward = await _get(pool, link, rules.max_bytes)
                if onward is None:
                    return body
                link = urljoin(link, onward)
            except ValueError as error:  # a redirect to what is no URL
                raise Ended(Outcome.NO_URL) from error
    raise Ended(Outcome.REDIRECTS)


async def fetched(rules: Rules, link: str) -> bytearray:
    """Return the bytes behind a link; Ended."""
    try:
        with anyio.fail_after(rules.timeout_s):
            return await _follow(rules, link)
    except (TimeoutError, httpcore.TimeoutException) as error:
        raise Ended(Outcome.TIMED_OUT) from error
    except httpcore.ProtocolError as error:
        raise Ended(Outcome.NO_HTTP) from error
    except (
        httpcore.NetworkError,
        httpcore.ProxyError,
        httpcore.ConnectionNotAvailable,
        ssl.SSLError,
        OSError,
    ) as error:
        raise Ended(Outcome.UNREACHED) from error


async def _answer(rules: Rules, link: str, places: asyncio.Semaphore, back: socket.socket) -> None:
    """Fetch, and answer on a socket; given up when its other end is closed."""
    reader, writer = await asyncio.open_connection(sock=back)

    async def work() -> None:
        outcome, status, body = Outcome.MEDIA, 0, bytearray()
        async with places:
            try:
                body = await fetched(rules, link)
            except Ended as ended:
                outcome, status = ended.outcome, ended.status
        writer.write(ANSWER.pack(outcome, status, len(body)))
        writer.write(body)
        await writer.drain()

    fetching, gone = asyncio.ensure_future(work()), asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait({fetching, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (fetching, gone):
            task.cancel()
        await asyncio.gather(fetching, gone, return_exceptions=True)
        writer.close()


async def _serve(control: socket.socket) -> None:
    """Fetch what is asked until the service is gone."""
    loop, tasks, places = asyncio.get_running_loop(), set[asyncio.Task[None]](), asyncio.Semaphore(_AT_A_TIME)
    rules, over = unpack_rules(control.recv(MAX_RULES_BYTES)), loop.create_future()

    def asked() -> None:
        link, sockets, _, _ = socket.recv_fds(control, MAX_LINK_BYTES, 1)
        if not sockets:
            over.set_result(None)
            loop.remove_reader(control)
            return
        back = socket.socket(fileno=sockets[0])
        task = loop.create_task(_answer(rules, link.decode("utf-8", "replace"), places, back))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_reader(control, asked)
    await over


def main() -> None:
    """Serve on the socket that was inherited."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold media and links
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no file is written
    with socket.socket(fileno=int(sys.argv[1])) as control:
        asyncio.run(_serve(control))


if __name__ == "__main__":
    main()
