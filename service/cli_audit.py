"""The commands of the audit log: read it, sign its head, hold it against itself and against heads."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from indexer.audit import Head, read_head
from indexer.errors import NotSigned
from service import output
from service.engine import Engine
from service.settings import read_settings

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table")]
Heads = Annotated[list[Path] | None, typer.Option("--head", metavar="FILE", help="a head taken earlier; repeatable")]
Public = Annotated[str | None, typer.Option(help="hex of the key that heads have to be signed by; ours if left out")]
_PAGE = 1000

audits = typer.Typer(no_args_is_help=True, help="The audit log.")


def _show(fields: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.say_json(fields)
    else:
        output.say_table("", list(fields), [list(fields.values())])


def _head(file: Path, public_key: str | None) -> Head:
    try:
        return read_head(json.loads(file.read_bytes()), public_key)
    except ValueError as error:
        raise NotSigned(f"{file.name} is no head of an audit log") from error


@audits.command("verify")
def verify(head: Heads = None, public_key: Public = None, as_json: AsJson = False) -> None:
    """Check the chain of the audit log, and that it goes on from heads taken earlier; names the first broken entry."""
    with Engine(read_settings()) as engine:
        by = public_key or engine.signer.public_key()
        count, broken = engine.ledger.verify([_head(file, by) for file in head or []])
    _show({"entries": count, "ok": broken is None, "first_broken": broken}, as_json)
    raise typer.Exit(0 if broken is None else 2)


@audits.command("head")
def head(as_json: AsJson = False) -> None:
    """Sign where the audit log ends. Keep it where nobody who can write the database can."""
    with Engine(read_settings()) as engine:
        _show(engine.ledger.signed_head(engine.signer), as_json)


@audits.command("list")
def list_entries(after: Annotated[int, typer.Option(min=0, help="the number behind which to begin")] = 0,
                 as_json: AsJson = False) -> None:  # fmt: skip
    """Show the audit log."""
    columns = ("seq", "at", "actor", "action", "target", "revision", "detail")
    with Engine(read_settings()) as engine:
        while page := engine.ledger.page(after, _PAGE):
            entries, after = list(map(asdict, page)), page[-1].seq
            if as_json:
                for entry in entries:
                    output.say_json(entry)
            else:
                output.say_table("", columns, [[entry[name] for name in columns] for entry in entries])


def install(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(audits, name="audit")
