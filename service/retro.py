"""Checks whose sender agrees that their hashes are kept for some days, and what was found of them since.

Nothing is kept unless `retro_days` is set and the request agrees, check by check.
"""

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import BaseModel

from hashing.signals import Signal
from indexer.keys import Key
from indexer.matcher import Answer
from indexer.retro import MAX_REFERENCE, Find, Retro
from indexer.retro_sweep import sweep
from service import answers, schemas
from service.auth import Permission, requires
from service.engine import Engine
from service.logs import log
from service.upkeep import paced

PAGE, EVERY_S, STOP_S = 1000, 2.0, 1.0
_SHARE = 0.2  # of the time, at most
router = APIRouter(prefix="/v1/retro-matches", tags=["retro-matches"])
Keep = Callable[[Signal, Answer], None]


class RetroMatchOut(BaseModel):
    """Content that was enrolled after media which shows it was checked; `reference` is what the check was given."""

    number: int
    reference: str | None
    key_id: str
    checked_at: datetime
    found_at: datetime
    match: schemas.MatchOut


class RetroMatchesOut(BaseModel):
    """A page of what was found; `cursor` is the next `since`."""

    matches: list[RetroMatchOut]
    cursor: int


class Consent:
    """What a check says of being kept, by its headers."""

    def __init__(self, request: Request, retain: bool, reference: str | None) -> None:
        self._request, self._retain, self._reference = request, retain, reference

    def keeping(self, banks: list[str] | None) -> Keep:
        """Return what keeps a signal with its answer, or does not."""
        engine: Engine = self._request.app.state.engine
        if not self._retain or not engine.settings.retro_days:
            return lambda signal, answer: None
        key_id = self._request.state.key_id

        def keep(signal: Signal, answer: Answer) -> None:
            Retro(engine.store).keep(signal, answer, banks, key_id=key_id, reference=self._reference)

        return keep


async def _consent(
    request: Request,
    retain: Annotated[bool, Header(alias="Staydown-Retain", description="keep the hashes for some days")] = False,
    reference: Annotated[
        str | None,
        Header(alias="Staydown-Reference", max_length=MAX_REFERENCE, description="what a find is to be called"),
    ] = None,
) -> Consent:
    """Read the headers. Async, though it waits for nothing: else FastAPI has a thread do it, for a millisecond."""
    return Consent(request, retain, reference)


Consented = Annotated[Consent, Depends(_consent)]


@router.get("")
def found(
    request: Request, since: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0, key: Key = requires(Permission.RETRO)
) -> RetroMatchesOut:
    """List what was found of the tenant's earlier checks, in that order; `since` is the last number that is known."""
    engine: Engine = request.app.state.engine
    finds = Retro(engine.store).finds(since, PAGE, key.tenant)
    matches = [_out(find) for find in finds if _within(find, key)]
    if matches:
        engine.ledger.log_read(key.key_id, "retro.read", "retro-matches", since=since, matches=len(matches))
    return RetroMatchesOut(matches=matches, cursor=finds[-1].number if finds else since)


def _within(find: Find, key: Key) -> bool:
    return key.banks is None or find.match.get("bank") in key.banks


def _out(find: Find) -> RetroMatchOut:
    return RetroMatchOut(
        number=find.number, reference=find.reference, key_id=find.key_id,
        checked_at=datetime.fromisoformat(find.checked_at), found_at=datetime.fromisoformat(find.found_at),
        match=schemas.MatchOut.model_validate(find.match),
    )  # fmt: skip


class RetroKeeper:
    """The thread that forgets what was kept long enough, and asks the rest about what is new."""

    def __init__(self, engine: Engine, every_s: float = EVERY_S) -> None:
        self._engine, self._every_s = engine, every_s
        self._retro, self._ended = Retro(engine.store), threading.Event()
        self._thread = threading.Thread(target=self._run, name="retro", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; a sweep under way is done again after the next start."""
        self._ended.set()
        self._thread.join(timeout=STOP_S)

    def _run(self) -> None:
        paced(self._ended, self._turn, self._every_s, _SHARE, "retro-match waits")

    def _turn(self) -> None:
        if forgotten := self._retro.forget(self._engine.settings.retro_days):
            log().info("kept signals forgotten", count=forgotten)
        if self._engine.index.ready and (count := self._sweep()):
            log().info("retro-matches", count=count)

    def _sweep(self) -> int:
        def told(match: Any) -> dict[str, Any]:
            return answers.match_out(match).model_dump(mode="json")

        return sweep(
            self._engine.record, self._engine.matcher, self._retro, told, self._ended.is_set, self._engine.keys.reach_of
        )
