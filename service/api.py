"""The /v1 routes: a request read from top to bottom, one engine call, one shape of answer."""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from hashing.hasher import DEFAULT_TYPES
from hashing.signals import SignalType
from indexer.enroll import Enrolled
from indexer.errors import UnknownBank
from indexer.keys import Key
from indexer.matcher import Answer
from indexer.record import Content
from service import answers, held, schemas
from service.audits import is_noted, note_evidence
from service.auth import Permission, allows, check_reach, requires
from service.engine import Engine, Original
from service.errors import IdempotencyConflict, InvalidRequest
from service.freshness import MinRevision, at_revision
from service.lookups import MAX_HASHES, Lookup, watched
from service.retro import Consented
from service.uploads import MAX_JSON_BYTES, URL_FIELD, Upload, read_upload

T = TypeVar("T")
NOT_JSON = "the body has to be application/json"
Model = TypeVar("Model", bound=BaseModel)
MAX_IDEMPOTENCY_KEY = 255
Banks = Annotated[list[str] | None, Query(alias="bank", description="banks to ask; all if left out")]
Name = schemas.Text
Types = Annotated[list[SignalType] | None, Query(alias="type", description="signal types; the usual ones if left out")]

router = APIRouter(prefix="/v1")


def body_of(*models: type[BaseModel], media: bool = False, lawful: bool = False) -> dict[str, Any]:
    """Return the OpenAPI description of a body that the route reads itself."""
    content: dict[str, Any] = {}
    if media:
        one = {"type": "string", "format": "binary"}
        form = {
            "type": "object",
            "properties": {"media": one} | ({"lawful": {"type": "array", "items": one}} if lawful else {}),
            "required": ["media"],
        }
        content["multipart/form-data"] = {"schema": form}
        content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    for model in models:
        content["application/json"] = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    return {"requestBody": {"required": True, "content": content}}


def engine_of(request: Request) -> Engine:
    """Return the engine of the app that got the request."""
    engine: Engine = request.app.state.engine
    return engine


async def in_thread(request: Request, action: Callable[..., T], *args: Any, media: bool = False) -> T:
    """Run blocking work beside the event loop; hashes do not queue behind media, nor one tenant behind another."""
    limiter: CapacityLimiter = request.app.state.media_threads if media else request.app.state.quick_threads
    if not media:
        return await to_thread.run_sync(lambda: action(*args), limiter=limiter)
    async with request.app.state.turns(request.state.key.tenant):
        return await to_thread.run_sync(lambda: action(*args), limiter=limiter, abandon_on_cancel=True)


async def read_model(request: Request, model: type[Model]) -> Model:
    """Read a JSON body; MediaTooLarge, InvalidRequest."""
    upload = await read_upload(request, MAX_JSON_BYTES)
    if upload.document is None:
        raise InvalidRequest(NOT_JSON)
    return schemas.parsed(model, upload.document)


async def media_of(request: Request, upload: Upload) -> bytes:
    """Return the media of an upload, fetched if it is a link."""
    if upload.media is not None:
        return upload.media
    document = upload.document if upload.document is not None else {"url": upload.fields[URL_FIELD][0]}
    return await engine_of(request).fetcher.fetch(schemas.parsed(schemas.LinkIn, document).url)


async def _verdict(request: Request, answer: Answer, key: Key) -> schemas.VerdictOut:
    if is_noted(key, answer):
        await in_thread(request, note_evidence, engine_of(request), key, answer)
    request.state.verdict, request.state.reason = answer.verdict.value, answer.reason
    evidence = allows(key, Permission.EVIDENCE) and request.state.may_tell
    return answers.verdict_out(answer, request.state.request_id, evidence=evidence)


@router.post("/check", openapi_extra=body_of(schemas.LinkIn, media=True), tags=["check"])
async def check(
    request: Request,
    consent: Consented,
    bank: Banks = None,
    min_revision: MinRevision = None,
    key: Key = requires(Permission.CHECK),
) -> schemas.VerdictOut:
    """Judge media: a multipart field `media`, the raw body, or JSON with a link."""
    engine = engine_of(request)
    await at_revision(request, min_revision)
    async with request.app.state.gate():
        data = await media_of(request, await read_upload(request, engine.settings.max_body_bytes))
        keep = watched(request, key, consent.keeping(bank))
        answer = await in_thread(request, engine.check_media, data, bank, keep, key.reach, media=True)
    return await _verdict(request, answer, key)


@router.post("/check/hashes", openapi_extra=body_of(schemas.SignalsIn), tags=["check"])
async def check_hashes(
    request: Request,
    consent: Consented,
    bank: Banks = None,
    min_revision: MinRevision = None,
    key: Key = requires(Permission.LOOKUP),
) -> schemas.VerdictOut:
    """Judge hashes that were made elsewhere, as one piece of media."""
    await at_revision(request, min_revision)
    asked = await read_model(request, schemas.SignalsIn)
    hashes, keep = schemas.ready_hashes(asked.signals), watched(request, key, consent.keeping(bank))
    if len(hashes) > MAX_HASHES:
        answer = await in_thread(request, engine_of(request).check_hashes, hashes, bank, keep, key.reach)
    else:
        lookup = Lookup(hashes, tuple(bank) if bank else None, keep, key.reach)
        answer = await request.app.state.lookups.ask(lookup)
    return await _verdict(request, answer, key)


@router.post("/hash", openapi_extra=body_of(schemas.LinkIn, media=True), tags=["hash"],
             dependencies=[requires(Permission.HASH)])  # fmt: skip
async def hash_media(request: Request, types: Types = None) -> schemas.HashOut:
    """Hash media; nothing is stored."""
    engine = engine_of(request)
    async with request.app.state.gate():
        data = await media_of(request, await read_upload(request, engine.settings.max_body_bytes))
        signal = await in_thread(request, engine.hash_for_show, data, types or DEFAULT_TYPES, media=True)
    return answers.hash_out(signal)


# Banks


@router.get("/banks", tags=["banks"])
async def list_banks(request: Request, key: Key = requires(Permission.READ)) -> schemas.BanksOut:
    """List all banks within reach."""
    banks = await in_thread(request, engine_of(request).record.banks)
    return schemas.BanksOut(banks=[answers.bank_out(bank) for bank in banks if key.reach.holds(bank)])


@router.put("/banks/{bank}", openapi_extra=body_of(schemas.BankIn), tags=["banks"],
            responses={201: {"model": schemas.BankOut, "description": "created"}})  # fmt: skip
async def put_bank(
    request: Request, response: Response, bank: Name, key: Key = requires(Permission.MANAGE)
) -> schemas.BankOut:
    """Create a bank (201), or change the settings that are given (200)."""
    asked, record = await _optional(request), engine_of(request).record
    await check_reach(request, key, asked.suppresses or ())

    def put() -> schemas.BankOut:
        try:
            return answers.bank_out(record.set_bank(bank, actor=key.key_id, **asked.given()))
        except UnknownBank:
            response.status_code = 201
            return answers.bank_out(record.create_bank(bank, actor=key.key_id, tenant=key.tenant, **asked.given()))

    return await in_thread(request, put)


async def _optional(request: Request) -> schemas.BankIn:
    """Read a bank's settings; no body at all means the defaults."""
    upload = await read_upload(request, MAX_JSON_BYTES)
    if upload.document is None and upload.media != b"":
        raise InvalidRequest(NOT_JSON)
    return schemas.parsed(schemas.BankIn, upload.document or {})


@router.get("/banks/{bank}", tags=["banks"], dependencies=[requires(Permission.READ)])
async def get_bank(request: Request, bank: Name) -> schemas.BankOut:
    """Show a bank."""
    return answers.bank_out(await in_thread(request, engine_of(request).record.bank, bank))


@router.patch("/banks/{bank}", openapi_extra=body_of(schemas.BankIn), tags=["banks"])
async def patch_bank(request: Request, bank: Name, key: Key = requires(Permission.MANAGE)) -> schemas.BankOut:
    """Change the settings that are given."""
    asked, record = await read_model(request, schemas.BankIn), engine_of(request).record
    await check_reach(request, key, asked.suppresses or ())
    changed = await in_thread(request, lambda: record.set_bank(bank, actor=key.key_id, **asked.given()))
    return answers.bank_out(changed)


@router.delete("/banks/{bank}", status_code=204, tags=["banks"])
async def delete_bank(request: Request, bank: Name, key: Key = requires(Permission.MANAGE)) -> None:
    """Delete a bank with all its contents and hashes, for good."""
    await in_thread(request, lambda: engine_of(request).delete_bank(bank, actor=key.key_id))


# Contents


def _beside(request: Request, upload: Upload) -> dict[str, Any]:
    """Return case, labels and source that come with media: as fields of the form, or in the query."""
    fields, query = upload.fields, request.query_params
    labels = fields.get("labels") or fields.get("label") or query.getlist("labels") or query.getlist("label")
    case, source = (fields.get(name, [query.get(name) or ""])[0] or None for name in ("case", "source"))
    return {"case": case, "labels": labels, "source": source}


async def _enrolled(request: Request, bank: str, upload: Upload, key: Key) -> Enrolled:
    engine = engine_of(request)
    await in_thread(request, engine.record.bank, bank)
    document = _beside(request, upload) if upload.document is None else upload.document
    asked = schemas.parsed(schemas.ContentIn, document)
    lawful = [*upload.lawful, *[await _original(request, original) for original in asked.lawful]]
    if len(lawful) > schemas.MAX_LAWFUL:
        raise InvalidRequest(f"lawful: at most {schemas.MAX_LAWFUL} originals a content")
    given: dict[str, Any] = {"lawful": lawful, "source": asked.source, "actor": key.key_id}
    if asked.signals:
        hashes = schemas.ready_hashes(asked.signals)
        enrolling = partial(engine.enroll_hashes, bank, hashes, asked.case, asked.labels, **given)
        return await in_thread(request, enrolling, media=bool(lawful))
    if upload.document is not None:
        upload = Upload(document={"url": asked.url} if asked.url else {})
    data = await media_of(request, upload)
    return await in_thread(
        request, partial(engine.enroll_media, bank, data, asked.case, asked.labels, **given), media=True
    )


async def _original(request: Request, asked: schemas.LawfulIn) -> Original:
    """Return a content's lawful original: its hashes, or its media, fetched."""
    if asked.signals is not None:
        return schemas.ready_hashes(asked.signals)
    return await media_of(request, Upload(document={"url": asked.url}))


def _idempotency_key(request: Request) -> str:
    wanted = request.headers.get("idempotency-key", "")
    if len(wanted) > MAX_IDEMPOTENCY_KEY:
        raise InvalidRequest(f"Idempotency-Key: it has at most {MAX_IDEMPOTENCY_KEY} characters")
    return wanted


def _request_digest(bank: str, upload: Upload, beside: str, idempotency_key: str) -> bytes:
    parts: tuple[str, ...] = (idempotency_key, bank, beside, repr(upload.document), repr(sorted(upload.fields.items())))
    bodies = [upload.media or b"", *upload.lawful]
    parts += tuple(hashlib.sha256(body).hexdigest() for body in bodies)
    return hashlib.sha256("\n".join(parts).encode()).digest()


@router.post("/banks/{bank}/contents", status_code=201, tags=["contents"], response_model=schemas.EnrolledOut,
             openapi_extra=body_of(schemas.ContentIn, media=True, lawful=True))  # fmt: skip
async def enroll(request: Request, bank: Name, key: Key = requires(Permission.ENROLL)) -> Response:
    """Enroll media, a link or ready-made hashes, with its lawful originals; `Idempotency-Key` is honoured."""
    engine = engine_of(request)
    wanted = _idempotency_key(request)
    async with request.app.state.gate():
        upload = await read_upload(request, engine.settings.max_body_bytes)
        digest = _request_digest(bank, upload, request.url.query, wanted)
        if wanted and (known := await in_thread(request, engine.ledger.remembered, key.key_id, wanted)):
            if known[0] != digest:
                raise IdempotencyConflict
            return JSONResponse(known[1], 201, {"Idempotency-Replayed": "true"})
        answer = answers.enrolled_out(await _enrolled(request, bank, upload, key)).model_dump(mode="json")
        if wanted:
            await in_thread(request, engine.ledger.remember, key.key_id, wanted, digest, answer)
    return JSONResponse(answer, 201)


@router.get("/banks/{bank}/contents", tags=["contents"], dependencies=[requires(Permission.READ)])
async def list_contents(
    request: Request, bank: Name, cursor: str | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> schemas.ContentsOut:
    """List the live contents of a bank, a page at a time."""
    if cursor and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
        raise InvalidRequest("cursor: it has to be the one of the page before")
    record = engine_of(request).record

    def page() -> schemas.ContentsOut:
        found = record.contents(bank, after=int(cursor or 0), limit=limit)
        onward = str(found[-1].content_pk) if len(found) == limit else None
        contents = [_content_out(engine_of(request), content) for content in found]
        return schemas.ContentsOut(contents=contents, cursor=onward)

    return await in_thread(request, page)


def _content(engine: Engine, bank: str, content_id: str) -> schemas.ContentOut:
    return _content_out(engine, engine.record.content(bank, content_id))


def _content_out(engine: Engine, found: Content) -> schemas.ContentOut:
    record = engine.record
    companions = record.companions.of([found.content_pk]).get(found.content_pk, ())
    owner = record.contents_by_pk([found.lawful_of]).get(found.lawful_of) if found.lawful_of else None
    return answers.content_out(
        found, record.signal_counts(found.content_pk), record.holds.counts(found.content_pk),
        [one.content_id for one in companions], owner.content_id if owner else None,
        record.standing.source_names([found.content_pk]).get(found.content_pk),
    )  # fmt: skip


@router.get("/banks/{bank}/contents/{content_id}", tags=["contents"], dependencies=[requires(Permission.READ)])
async def get_content(request: Request, bank: Name, content_id: Name) -> schemas.ContentOut:
    """Show a content, withdrawn or not."""
    return await in_thread(request, _content, engine_of(request), bank, content_id)


@router.patch("/banks/{bank}/contents/{content_id}", openapi_extra=body_of(schemas.ContentChange), tags=["contents"])
async def patch_content(
    request: Request, bank: Name, content_id: Name, key: Key = requires(Permission.WITHDRAW)
) -> schemas.ContentOut:
    """Change case, labels, or whether a content answers; release what the guards hold, or hold it again."""
    asked, engine = await read_model(request, schemas.ContentChange), engine_of(request)
    fields = asked.model_dump(exclude_unset=True, exclude={"release", "hold"})
    if "case" in fields:
        fields["case_ref"] = fields.pop("case")
    fields = {name: value for name, value in fields.items() if value is not None or name == "case_ref"}

    def patch() -> schemas.ContentOut:
        engine.record.set_content(bank, content_id, actor=key.key_id, **fields)
        if asked.release:
            engine.release(bank, content_id, held.holds(asked.release), actor=key.key_id)
        if asked.hold:
            engine.hold_again(bank, content_id, held.holds(asked.hold), actor=key.key_id)
        return _content(engine, bank, content_id)

    return await in_thread(request, patch)


@router.delete("/banks/{bank}/contents/{content_id}", status_code=204, tags=["contents"])
async def withdraw(
    request: Request,
    bank: Name,
    content_id: Name,
    reason: Annotated[schemas.Text, Query(max_length=1024)] = "",
    key: Key = requires(Permission.WITHDRAW),
) -> None:
    """Withdraw a content: gone from every answer at once, for good."""
    engine = engine_of(request)
    await in_thread(request, lambda: engine.withdraw_from(bank, content_id, reason=reason, actor=key.key_id))
