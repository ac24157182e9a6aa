"""The commands for lists of hashes and for what two persons do: import, export, approve, source."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from indexer.banks import DEFAULT_TENANT, OPERATOR, Bank
from indexer.errors import NotApproved
from indexer.exchange import hashlist
from indexer.standing import Source
from indexer.store import now
from service import output
from service.approvals import source_out
from service.engine import Engine
from service.settings import read_settings

_YIELDS = 5  # steps of niceness
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table")]
Form = Annotated[str, typer.Argument(metavar="FORMAT", help="csv or jsonl")]
BankName = Annotated[str, typer.Option(help="the bank")]
SourceName = Annotated[str | None, typer.Option(help="where it comes from, such as a partner's name")]
SignedBy = Annotated[str | None, typer.Option(metavar="HEX", help="key that FILE.sig has to be signed by")]
Approval = Annotated[str | None, typer.Option(metavar="EXPORT_ID", help="the request that somebody else approved")]

sources = typer.Typer(no_args_is_help=True, help="Where contents come from.")


def _show(fields: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.say_json(fields)
    else:
        output.say_table("", list(fields), [list(fields.values())])


def import_hashes(form: Form, file: Annotated[Path, typer.Argument()], bank: BankName, source: SourceName = None,
                  signed_by: SignedBy = None, as_json: AsJson = False) -> None:  # fmt: skip
    """Enroll a list of ready-made hashes; whoever answers checks on this machine goes first."""
    hashlist.check_format(form)
    if signed_by is not None:
        hashlist.check_list(file, signed_by)
    os.nice(_YIELDS)
    with Engine(read_settings()) as engine:
        done = hashlist.import_hashes(engine.lists, bank, file, source=source, actor=OPERATOR)
        proposed = engine.record.settings_of(bank).two_persons
    created = [new for part in done for new in part.created]
    held = sum(sum(part.held_frames.values()) for part in done)
    _show({"contents": len(created), "new": sum(created), "known": len(created) - sum(created), "held": held}, as_json)
    if proposed and any(created):
        output.say_error(f"{sum(created)} contents are proposed: they match once somebody else approved them")


def _approved(engine: Engine, bank: Bank, approval: str | None) -> dict[str, Any]:
    """Return who asked for an export and who approved it, where a bank asks for two persons; NotApproved."""
    if not bank.two_persons:
        return {}
    standing = engine.record.standing
    if approval is None:
        asked = standing.request_export(bank, actor=OPERATOR)
        raise NotApproved(
            f"{bank.name} asks for two persons. Until {asked.expires_at} somebody else with a key of role admin can "
            f'approve this: POST /v1/banks/{bank.name}/approvals {{"export_id": "{asked.export_id}"}}. '
            f"Then run it again with --approval {asked.export_id}"
        )
    used = standing.take_export(bank, approval, actor=OPERATOR)
    return {"export_id": used.export_id, "requested_by": used.requested_by, "approved_by": used.approved_by}


def export_hashes(form: Form, file: Annotated[Path, typer.Argument(help="must not exist yet")], bank: BankName,
                  approval: Approval = None, as_json: AsJson = False) -> None:  # fmt: skip
    """Write the hashes of a bank to a file that only its owner can read, and sign it."""
    hashlist.check_format(form)
    for path in (file, hashlist.signature_of(file)):
        if path.exists():
            raise FileExistsError(17, os.strerror(17), str(path))
    with Engine(read_settings()) as engine:
        of = engine.record.settings_of(bank)
        by = _approved(engine, of, approval)
        with engine.store.change(OPERATOR, counted=False) as change:
            change.log("bank.export", bank, **by)
        count = hashlist.export_hashes(engine.record, bank, file, form)
        about = {"store_id": engine.store.store_id(), "bank": bank, "hashes": count, "at": now()}
        hashlist.sign_list(file, engine.signer, **about, **by)
    _show({"hashes": count}, as_json)


def approve(bank: Annotated[str, typer.Argument(help="the bank's name")],
            content_ids: Annotated[list[str] | None, typer.Argument(metavar="[CONTENT_ID...]")] = None,
            source: SourceName = None, as_json: AsJson = False) -> None:  # fmt: skip
    """Let contents count that keys proposed in a bank of two persons: those named, or all of a source."""
    if not content_ids and source is None:
        raise typer.BadParameter("name contents, or a source")
    with Engine(read_settings()) as engine:
        of = engine.record.settings_of(bank)
        count = engine.record.standing.approve(of, actor=OPERATOR, content_ids=content_ids or None, name=source)
    _show({"approved": count}, as_json)


def _show_sources(found: list[Source], as_json: bool) -> None:
    rows = [source_out(one).model_dump(mode="json") for one in found]
    if as_json:
        for row in rows:
            output.say_json(row)
    else:
        output.say_table("", list(rows[0]) if rows else ["nothing here"], [tuple(row.values()) for row in rows])


@sources.command("list")
def list_sources(as_json: AsJson = False) -> None:
    """List all sources."""
    with Engine(read_settings()) as engine:
        _show_sources(list(engine.record.standing.sources()), as_json)


@sources.command("set")
def set_source(name: Annotated[str, typer.Argument(help="the source's name")],
               enabled: Annotated[bool, typer.Option("--enabled/--disabled", help="whether what comes from it counts")],
               tenant: Annotated[str, typer.Option(help="whose it is")] = DEFAULT_TENANT,
               as_json: AsJson = False) -> None:  # fmt: skip
    """Switch a source off or on: what comes from one that is off is in no answer from then on."""
    with Engine(read_settings()) as engine:
        engine.record.standing.set_source(tenant, name, enabled=enabled, actor=OPERATOR)
        _show_sources([one for one in engine.record.standing.sources(tenant) if one.name == name], as_json)


def install(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(sources, name="source")
    app.command("import")(import_hashes)
    app.command("export")(export_hashes)
    app.command("approve")(approve)
