"""Who comes in: the key of a request, from where it may be used, and what its tenant may still have.

This is in front of routing and of the body, so that what is refused costs next to nothing. It
gives a request its key; whether that is needed, and allows what is asked, the route says
(`auth.requires`). One deadline covers everything behind it.
"""

import base64
import binascii
from ipaddress import ip_address, ip_network

import anyio
from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hashing.errors import StaydownError
from indexer.keys import Key
from service import problems
from service.errors import DeadlineExceeded, Forbidden
from service.settings import Settings

OPEN = frozenset({"/health/live", "/health/ready"})


def key_text(header: str) -> str | None:
    """Return the key of a Bearer header, or the password of a Basic one (a browser's only way)."""
    scheme, _, credentials = header.partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None


def comes_from(client: tuple[str, int] | None, networks: tuple[str, ...] | None) -> bool:
    """Tell whether a client's address is in one of the networks; where none are named, any is."""
    if networks is None:
        return True
    try:
        address = ip_address(client[0] if client else "")
    except ValueError:  # no address, as of a socket file
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in map(ip_network, networks) if network.version == address.version)


class Admission:
    """ASGI middleware: finds the key, counts its tenant's requests, and ends what takes too long."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._timeout_s = app, settings.request_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        request, begun = Request(scope), False

        async def answered(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._admitted(request, receive, answered)
        except StaydownError as error:
            if begun:
                raise
            await problems.known(request, error)(scope, receive, send)

    async def _admitted(self, request: Request, receive: Receive, send: Send) -> None:
        key = await self._key(request)
        if key is None:
            await self._in_time(request, receive, send)
            return
        with request.app.state.tenants.admitted(key.tenant):
            await self._in_time(request, receive, send)

    async def _key(self, request: Request) -> Key | None:
        text = key_text(request.headers.get("authorization", ""))
        key: Key | None = await request.app.state.keyring.find(text) if text else None
        if key is not None:
            request.state.key, request.state.key_id = key, key.key_id
            client = request.client
            if not comes_from((client.host, client.port) if client else None, key.networks):
                raise Forbidden("this key may not be used from this address")
        return key

    async def _in_time(self, request: Request, receive: Receive, send: Send) -> None:
        with anyio.move_on_after(self._timeout_s) as timer:
            await self._app(request.scope, receive, send)
        if timer.cancelled_caught:
            raise DeadlineExceeded
