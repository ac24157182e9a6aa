"""What one proposes and another approves, over HTTP; and the sources that contents come from."""

from typing import Annotated, Self

from fastapi import APIRouter, Request
from pydantic import Field, model_validator

from indexer.banks import DEFAULT_TENANT
from indexer.keys import Key
from indexer.standing import Export, Source
from service import schemas
from service.api import body_of, engine_of, in_thread, read_model
from service.auth import Permission, allows, requires
from service.errors import Forbidden

router = APIRouter(prefix="/v1", tags=["approvals"])
_Name = Annotated[schemas.Text, Field(min_length=1, max_length=64)]


class ApprovalIn(schemas.Strict):
    """What is approved: contents by their ids, all that wait of a source, or an export."""

    content_ids: Annotated[list[_Name] | None, Field(min_length=1, max_length=1000)] = None
    source: _Name | None = None
    export_id: _Name | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if [self.content_ids, self.source, self.export_id].count(None) != 2:
            raise ValueError("one of content_ids, source and export_id")
        return self


class ApprovedOut(schemas.Strict):
    """How many contents count from now on, or that an export may be written."""

    approved: int


class WaitingOut(schemas.Strict):
    """Contents that wait for approval."""

    proposed_by: str
    source: str | None
    contents: int


class ExportOut(schemas.Strict):
    """A request to read all hashes of a bank."""

    export_id: str
    requested_by: str
    requested_at: str
    expires_at: str
    approved_by: str | None


class ApprovalsOut(schemas.Strict):
    """What waits in a bank."""

    contents: list[WaitingOut]
    exports: list[ExportOut]


class SourceIn(schemas.Strict):
    """Whether what comes from a source counts."""

    enabled: bool


class SourceOut(schemas.Strict):
    """A source; `contents` counts what is live of it, `proposed` what of that waits for approval."""

    source: str
    tenant: str
    enabled: bool
    contents: int
    proposed: int


class SourcesOut(schemas.Strict):
    """The sources of a tenant."""

    sources: list[SourceOut]


def source_out(found: Source) -> SourceOut:
    """Return a source."""
    return SourceOut(source=found.name, tenant=found.tenant, enabled=found.enabled, contents=found.contents,
                     proposed=found.proposed)  # fmt: skip


def export_out(found: Export) -> ExportOut:
    """Return a request to export."""
    return ExportOut(export_id=found.export_id, requested_by=found.requested_by, requested_at=found.requested_at,
                     expires_at=found.expires_at, approved_by=found.approved_by)  # fmt: skip


@router.get("/banks/{bank}/approvals", dependencies=[requires(Permission.READ)])
async def waiting(request: Request, bank: schemas.Text) -> ApprovalsOut:
    """Show what waits for a second person."""
    record = engine_of(request).record

    def found() -> ApprovalsOut:
        of = record.settings_of(bank)
        contents = [
            WaitingOut(proposed_by=by, source=name, contents=count)
            for (by, name), count in record.standing.proposed(of).items()
        ]
        return ApprovalsOut(contents=contents, exports=list(map(export_out, record.standing.exports(of))))

    return await in_thread(request, found)


@router.post("/banks/{bank}/approvals", openapi_extra=body_of(ApprovalIn))
async def approve(request: Request, bank: schemas.Text, key: Key = requires(Permission.APPROVE)) -> ApprovedOut:
    """Approve what somebody else proposed; an export only an admin can."""
    asked, record = await read_model(request, ApprovalIn), engine_of(request).record
    if asked.export_id is not None and not allows(key, Permission.MANAGE):
        raise Forbidden

    def approved() -> int:
        of = record.settings_of(bank)
        if asked.export_id is not None:
            record.standing.approve_export(of, asked.export_id, actor=key.key_id)
            return 1
        return record.standing.approve(of, actor=key.key_id, content_ids=asked.content_ids, name=asked.source)

    return ApprovedOut(approved=await in_thread(request, approved))


@router.get("/sources")
async def sources(request: Request, key: Key = requires(Permission.READ)) -> SourcesOut:
    """List the sources of the tenant, of all tenants to the operator's."""
    tenant = None if key.tenant == DEFAULT_TENANT else key.tenant
    found = await in_thread(request, engine_of(request).record.standing.sources, tenant)
    return SourcesOut(sources=list(map(source_out, found)))


@router.put("/sources/{source}", openapi_extra=body_of(SourceIn))
async def set_source(request: Request, source: _Name, key: Key = requires(Permission.MANAGE)) -> SourceOut:
    """Switch a source of the tenant off or on: what comes from one that is off is in no answer from then on."""
    asked, standing = await read_model(request, SourceIn), engine_of(request).record.standing
    if key.banks is not None:
        raise Forbidden  # a source may have contents in banks that it does not reach

    def switched() -> Source:
        standing.set_source(key.tenant, source, enabled=asked.enabled, actor=key.key_id)
        return next(one for one in standing.sources(key.tenant) if one.name == source)

    return source_out(await in_thread(request, switched))
