"""Rescans over HTTP: the routes, and the thread that works them off.

Items and results are kept in the store, so that a restart goes on where it was. One item
at a time, behind the requests that somebody waits for.
"""

import threading
from typing import Annotated, Any, Literal

import anyio
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from hashing.errors import StaydownError
from hashing.signals import Signal
from indexer.enroll import ReadyHash
from indexer.errors import NO_INPUTS_FAULT
from indexer.jobs import Rescan, RescanItem
from indexer.keys import Key
from indexer.matcher import Answer
from service import answers, schemas
from service.api import body_of, engine_of, in_thread, read_model
from service.auth import Permission, allows, check_reach, requires
from service.engine import Engine
from service.errors import Forbidden, InvalidRequest, UnknownRescan
from service.inputs import fault_of
from service.logs import log
from service.probing import Probing

PAGE, MAX_ITEMS, STOP_S = 1000, 10_000, 1.0
router = APIRouter(prefix="/v1/rescans", tags=["rescans"])


class RescanItemIn(schemas.Strict):
    """One thing to check: a link, or hashes. `id` comes back with its result."""

    id: Annotated[schemas.Text | None, Field(max_length=256)] = None
    url: Annotated[schemas.Text | None, Field(max_length=8192)] = None
    signals: Annotated[list[schemas.SignalIn] | None, Field(min_length=1, max_length=schemas.MAX_SIGNALS)] = None


class RescanIn(schemas.Strict):
    """A batch to check in the background."""

    items: Annotated[list[RescanItemIn], Field(min_length=1, max_length=MAX_ITEMS)]
    banks: Annotated[list[schemas.Text] | None, Field(max_length=1000)] = None


class RescanOut(schemas.Strict):
    """A rescan: its progress, and one page of its results."""

    rescan_id: str
    status: Literal["running", "done"]
    total: int
    done: int
    verdicts: dict[str, int]
    results: list[dict[str, Any]]
    cursor: str | None


def _hashes(signals: list[dict[str, Any]]) -> list[ReadyHash]:
    return schemas.ready_hashes([schemas.SignalIn.model_validate(signal) for signal in signals])


class RescanWorker:
    """The thread that works off what is pending."""

    def __init__(self, engine: Engine, probing: Probing) -> None:
        self._engine, self._probing = engine, probing
        self._wake, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="rescans", daemon=True)

    def start(self) -> None:
        """Begin, with what an earlier run left."""
        self._thread.start()

    def wake(self) -> None:
        """Say that there is something to do."""
        self._wake.set()

    def stop(self) -> None:
        """End after the item under way, or without it: it is done again after the next start."""
        self._ended.set()
        self._wake.set()
        self._thread.join(timeout=STOP_S)

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                done = self._some()
            except NO_INPUTS_FAULT as error:  # they may come back
                log().error("rescans wait", code=error.word)
                done = 0
            if not done:
                self._wake.wait(timeout=1.0)
                self._wake.clear()

    def _some(self) -> int:
        items = self._engine.jobs.pending(100) if self._engine.index.ready else []
        for item in items:
            result = self._result(item)
            if self._ended.is_set():
                return 0
            self._engine.jobs.finish(item, result)
        return len(items)

    def _result(self, item: RescanItem) -> dict[str, Any]:
        """Check one item: whatever goes wrong with it is its result, but a store or a search that is gone."""
        request_id = f"{item.rescan_id}-{item.number}"
        try:
            return self._check(item, request_id)
        except StaydownError as error:
            word = fault_of(self._engine, error)
        except Exception:  # the batch-item boundary of rescans over HTTP
            word = "internal_error"
        return answers.unjudged(request_id, word, self._engine.index.revision)

    def _check(self, item: RescanItem, request_id: str) -> dict[str, Any]:
        key = self._engine.keys.find(item.key_id)
        self._probing.refuse(key, media="signals" not in item.request)
        told: list[bool] = []

        def keep(signal: Signal, answer: Answer) -> None:
            told.append(self._probing.look(key, signal, answer))

        if signals := item.request.get("signals"):
            answer = self._engine.check_hashes(_hashes(signals), item.banks, keep, key.reach)
        else:
            data = anyio.run(self._engine.fetcher.fetch, item.request["url"])
            answer = self._engine.check_media(data, item.banks, keep, key.reach)
        return answers.verdict_out(answer, request_id, evidence=all(told)).model_dump(mode="json")


@router.post("", status_code=202, openapi_extra=body_of(RescanIn))
async def submit(request: Request, response: Response, key: Key = requires(Permission.CHECK)) -> RescanOut:
    """Check a batch in the background; the answer says where to look for its results."""
    asked, engine = await read_model(request, RescanIn), engine_of(request)
    for number, item in enumerate(asked.items):
        if (item.url is None) == (item.signals is None):
            raise InvalidRequest(f"items.{number}: either url or signals")
        if item.signals is not None and not allows(key, Permission.LOOKUP):
            raise Forbidden
    await check_reach(request, key, asked.banks or ())
    for name in asked.banks or []:
        await in_thread(request, engine.record.bank, name)
    request.app.state.tenants.spend(key.tenant, len(asked.items) - 1)
    requests = [item.model_dump(mode="json", exclude_none=True) for item in asked.items]
    rescan_id = await in_thread(request, lambda: engine.jobs.submit(requests, asked.banks, key_id=key.key_id))
    request.app.state.rescans.wake()
    response.headers["Location"] = f"/v1/rescans/{rescan_id}"
    return await _shown(request, rescan_id, key, -1, 0)


@router.get("/{rescan_id}")
async def show(
    request: Request, rescan_id: schemas.Text, cursor: Annotated[int, Query(ge=-1, le=MAX_ITEMS)] = -1,
    key: Key = requires(Permission.CHECK),
) -> RescanOut:  # fmt: skip
    """Show a rescan's progress and a page of its results; only to the key that asked for it, and to admins."""
    return await _shown(request, rescan_id, key, cursor, PAGE)


async def _is_for(request: Request, found: Rescan, key: Key) -> bool:
    """Tell whether a key may see a rescan: its own, and an admin with all of a tenant's banks those of the tenant."""
    if found.key_id == key.key_id:
        return True
    admin = key.banks is None and allows(key, Permission.MANAGE)
    return admin and await in_thread(request, _tenant_of, request, found) == key.tenant


def _tenant_of(request: Request, found: Rescan) -> str:
    return engine_of(request).keys.find(found.key_id).tenant


async def _shown(request: Request, rescan_id: str, key: Key, after: int, limit: int) -> RescanOut:
    jobs = engine_of(request).jobs
    found = await in_thread(request, jobs.find, rescan_id)
    if found is None or not await _is_for(request, found, key):
        raise UnknownRescan
    items = await in_thread(request, lambda: jobs.results(rescan_id, after=after, limit=limit)) if limit else []
    seen = allows(key, Permission.EVIDENCE)
    results = [
        {"number": item.number, "id": item.request.get("id")}
        | ((item.result or {}) if seen else answers.without_evidence(item.result or {}))
        for item in items
    ]
    return RescanOut(
        rescan_id=rescan_id, status="done" if found.done == found.total else "running", total=found.total,
        done=found.done, verdicts=found.verdicts, results=results,
        cursor=str(items[-1].number) if items and len(items) == limit else None,
    )  # fmt: skip
