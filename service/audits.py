"""The audit log over HTTP, and what is written in it of those who only read."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from indexer.audit import Entry
from indexer.keys import Key
from indexer.matcher import Answer
from service.auth import Permission, Role, requires
from service.engine import Engine

PAGE = 1000
router = APIRouter(prefix="/v1/audit", tags=["audit"])


class EntryOut(BaseModel):
    """One line of the audit log."""

    seq: int
    at: str
    actor: str
    action: str
    target: str
    detail: dict[str, Any]
    revision: int


class EntriesOut(BaseModel):
    """Some of its lines; `cursor` is the next `after`."""

    entries: list[EntryOut]
    cursor: int


class HeadOut(BaseModel):
    """Where the audit log ends, signed."""

    format: str
    store_id: str
    seq: int
    link: str
    at: str
    public_key: str
    signature: str


def _out(entry: Entry) -> EntryOut:
    return EntryOut(seq=entry.seq, at=entry.at, actor=entry.actor, action=entry.action, target=entry.target,
                    detail=entry.detail, revision=entry.revision)  # fmt: skip


@router.get("")
def read(request: Request, after: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0,
         key: Key = requires(Permission.AUDIT)) -> EntriesOut:  # fmt: skip
    """Read the audit log, a page at a time; that it was read stands in it."""
    engine: Engine = request.app.state.engine
    entries = list(map(_out, engine.ledger.page(after, PAGE)))
    engine.ledger.log_read(key.key_id, "audit.read", "audit", after=after)
    return EntriesOut(entries=entries, cursor=entries[-1].seq if entries else after)


@router.get("/head", dependencies=[requires(Permission.AUDIT)])
def head(request: Request) -> HeadOut:
    """Sign where the audit log ends: to be kept elsewhere, for `staydown audit verify --head`."""
    engine: Engine = request.app.state.engine
    return HeadOut.model_validate(engine.ledger.signed_head(engine.signer))


def is_noted(key: Key, answer: Answer) -> bool:
    """Say whether an answer shows a reviewer how near something is to known content."""
    return key.role == Role.REVIEW and bool(answer.matches)


def note_evidence(engine: Engine, key: Key, answer: Answer) -> None:
    """Write that it does, before it does; StoreBroken."""
    shown = sorted({match.content_id for match in answer.matches})
    engine.ledger.log_read(key.key_id, "evidence.read", "check", contents=shown)
