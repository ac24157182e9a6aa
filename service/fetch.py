"""The only outgoing sockets: linked media over HTTP(S).

A name is resolved once, every address it has is judged, and the connection goes to one
of those very addresses, so that a name cannot change its mind in between. Every redirect
is judged again. Bytes are counted as they arrive; one deadline covers everything.
"""

import socket
import ssl
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, urljoin

import anyio
import httpcore
from anyio import to_thread

from hashing.errors import MediaTooLarge
from service.addresses import is_allowed, is_inside
from service.errors import LinkFailed, LinkRefused
from service.settings import Network, Settings

_PORTS = {80, 443, 8080, 8443}
_REDIRECTS = {301, 302, 303, 307, 308}
_HEADERS: dict[bytes | str, bytes | str] = {
    "User-Agent": "staydown",
    "Accept": "image/*, video/*",
    "Accept-Encoding": "identity",
}
_FAILURES = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
    httpcore.ConnectionNotAvailable,
    ssl.SSLError,
    TimeoutError,
    OSError,
)


class _GuardedBackend(httpcore.AnyIOBackend):
    """Connects to judged addresses only."""

    def __init__(self, internal: tuple[Network, ...]) -> None:
        self._internal = internal

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._resolve(host, port)
        error: Exception = LinkFailed("the link's host has no address")
        for address in addresses:
            try:
                return await super().connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.ConnectError as refused:
                error = refused
        raise error

    async def _resolve(self, host: str, port: int) -> list[str]:
        try:
            found = await to_thread.run_sync(
                lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), abandon_on_cancel=True
            )
        except (OSError, UnicodeError) as error:
            raise LinkFailed("the link's host cannot be resolved") from error
        addresses = [str(entry[4][0]) for entry in found]
        if not all(is_allowed(address, self._internal) for address in addresses):
            raise LinkRefused
        if port not in _PORTS and not all(is_inside(address, self._internal) for address in addresses):
            raise LinkRefused("the link's port is not one of the web's")
        return addresses

    async def connect_unix_socket(self, *args: Any, **kwargs: Any) -> httpcore.AsyncNetworkStream:
        raise LinkRefused


def _parsed(link: str) -> httpcore.URL:
    """Read a link; letters beyond ASCII are percent-encoded, which a host's name may not be."""
    if not link.isprintable() or " " in link:
        raise LinkRefused("the link is not a URL")
    try:
        url = httpcore.URL("".join(c if c.isascii() else quote(c) for c in link))
    except (ValueError, UnicodeError, TypeError) as error:
        raise LinkRefused("the link is not a URL") from error
    if url.scheme not in {b"http", b"https"} or not url.host or b"%" in url.host or "@" in link.split("/")[2]:
        raise LinkRefused
    return url


class Fetcher:
    """Fetches linked media into memory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def fetch(self, link: str) -> bytes:
        """Return the bytes behind a link; LinkRefused, LinkFailed, MediaTooLarge."""
        if not self._settings.fetch_enabled:
            raise LinkRefused("links are switched off on this server")
        try:
            with anyio.fail_after(self._settings.fetch_timeout_s):
                return await self._follow(link)
        except _FAILURES as error:
            raise LinkFailed(f"the link could not be fetched: {type(error).__name__}") from error

    async def _follow(self, link: str) -> bytes:
        backend = _GuardedBackend(self._settings.fetch_internal_networks)
        async with httpcore.AsyncConnectionPool(network_backend=backend, max_connections=2) as pool:
            for _ in range(self._settings.fetch_max_redirects + 1):
                body, onward = await self._get(pool, link)
                if onward is None:
                    return body
                link = urljoin(link, onward)
        raise LinkFailed("the link redirects too often")

    async def _get(self, pool: httpcore.AsyncConnectionPool, link: str) -> tuple[bytes, str | None]:
        async with pool.stream("GET", _parsed(link), headers=_HEADERS) as response:
            headers = {name.lower(): value for name, value in response.headers}
            if response.status in _REDIRECTS and b"location" in headers:
                return b"", headers[b"location"].decode("utf-8", "replace")
            if response.status != 200:
                raise LinkFailed(f"the link answered with status {response.status}")
            if headers.get(b"content-encoding", b"identity").lower() != b"identity":
                raise LinkFailed("the link answered with a content encoding that was not asked for")
            body = bytearray()
            async for chunk in response.aiter_stream():
                body += chunk
                if len(body) > self._settings.max_body_bytes:
                    raise MediaTooLarge
            return bytes(body), None
