"""Around every request: its id, its log line, its metrics, and the gate in front of media."""

import secrets
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import problems
from service.drain import Drain
from service.errors import TooManyRequests
from service.logs import log
from service.metrics import Metrics

# Told apart from those of other processes by where it begins. Random bytes for each would let go of the interpreter.
_request_numbers = count(secrets.randbits(127))
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


def _route(scope: Scope) -> str:
    route = scope.get("route")
    return str(getattr(route, "path", "unmatched"))


def _method(scope: Scope) -> str:
    """Return the method, if it is one: a client may send any word, and a label must not grow with that."""
    return scope["method"] if scope["method"] in _METHODS else "other"


def _places(error: Exception) -> list[str]:
    """Return where an error came from, without its message: that may hold a hash, a name or a link."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]


class Observed:
    """ASGI middleware: names, times, counts and logs each request; turns what nobody foresaw into an answer."""

    def __init__(self, app: ASGIApp, metrics: Metrics, drain: Drain) -> None:
        self._app, self._metrics, self._drain = app, metrics, drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, status, began = f"{next(_request_numbers):032x}", 0, time.perf_counter()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                if self._drain.begun:
                    headers["Connection"] = "close"
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, answered)
            except Exception as error:  # the HTTP boundary
                log().error("internal error", error=type(error).__name__, where=_places(error))
                if not status:
                    await problems.internal(Request(scope))(scope, receive, answered)
            finally:
                self._tell(scope, status, time.perf_counter() - began)

    def _tell(self, scope: Scope, status: int, took_s: float) -> None:
        route, method, state = _route(scope), _method(scope), scope["state"]
        code, verdict = state.get("code"), state.get("verdict")
        self._metrics.requests.labels(method, route, status).inc()
        self._metrics.seconds.labels(route).observe(took_s)
        if code:
            self._metrics.errors.labels(code).inc()
        if verdict:
            self._metrics.verdicts.labels(verdict, state.get("reason") or "").inc()
        words = {"code": code, "verdict": verdict, "reason": state.get("reason"), "key_id": state.get("key_id")}
        said = {name: word for name, word in words.items() if word}
        log().info("request", method=method, route=route, status=status, ms=round(took_s * 1000, 1), **said)


class Gate:
    """Lets so many media requests in at a time; the others are told to come back."""

    def __init__(self, max_in_flight: int, metrics: Metrics) -> None:
        self._free, self._metrics = max_in_flight, metrics

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[None]:
        """Hold a place while the block runs; TooManyRequests at once if there is none."""
        if self._free <= 0:
            raise TooManyRequests
        self._free -= 1
        self._metrics.in_flight.inc()
        try:
            yield
        finally:
            self._free += 1
            self._metrics.in_flight.dec()
