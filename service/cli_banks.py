"""The commands that look after a store: bank, doctor."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from hashing.signals import SignalType
from indexer.banks import DEFAULT_TENANT
from indexer.guards import RELEASABLE, Hold
from service import answers, output, schemas
from service.doctor import examine, repair
from service.engine import Engine
from service.settings import read_settings

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table")]
Name = Annotated[str, typer.Argument(help="the bank's name")]
Description = Annotated[str | None, typer.Option(help="what the bank is for")]
Policy = Annotated[str | None, typer.Option(help="default, strict or review-only")]
Types = Annotated[list[SignalType] | None, typer.Option("--type", help="signal types kept and compared")]
Lawful = Annotated[bool | None, typer.Option(help="whether what it holds is lawful, and suppresses matches")]
_SCOPE = "a bank in which it suppresses matches; may be repeated; in all if none is named"
TwoPersons = Annotated[bool | None, typer.Option("--two-persons/--one-person", help="whether another has to approve")]
Scope = Annotated[list[str] | None, typer.Option("--suppresses", metavar="BANK", help=_SCOPE)]

Contents = Annotated[list[str], typer.Argument(metavar="CONTENT_ID...")]
Reasons = Annotated[list[Hold] | None, typer.Option(help="why they are held; may be repeated; any reason if left out")]
HoldFound = Annotated[bool, typer.Option("--hold", help="keep what is found out of matching")]

banks = typer.Typer(no_args_is_help=True, help="Banks of known content.")


@contextmanager
def _engine() -> Iterator[Engine]:
    with Engine(read_settings()) as engine:
        yield engine


def _show(items: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for item in items:
            output.say_json(item)
    else:
        columns = list(items[0]) if items else ["nothing here"]
        output.say_table("", columns, [[_cell(item[c]) for c in columns] for item in items])


def _cell(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _given(**options: Any) -> dict[str, Any]:
    asked = schemas.parsed(schemas.BankIn, {name: value for name, value in options.items() if value is not None})
    return asked.given()


@banks.command("create")
def create_bank(name: Name, description: Description = None, policy: Policy = None, types: Types = None,
                lawful: Lawful = None, suppresses: Scope = None, two_persons: TwoPersons = None,
                tenant: Annotated[str, typer.Option(help="whose it is")] = DEFAULT_TENANT,
                as_json: AsJson = False) -> None:  # fmt: skip
    """Create a bank."""
    with _engine() as engine:
        given = _given(description=description, policy=policy, signal_types=types, lawful=lawful,
                       suppresses=suppresses, two_persons=two_persons)  # fmt: skip
        made = engine.record.create_bank(name, actor="cli", tenant=tenant, **given)
    _show([answers.bank_out(made).model_dump(mode="json")], as_json)


@banks.command("list")
def list_banks(as_json: AsJson = False) -> None:
    """List all banks."""
    with _engine() as engine:
        _show([answers.bank_out(bank).model_dump(mode="json") for bank in engine.record.banks()], as_json)


@banks.command("show")
def show_bank(name: Name, as_json: AsJson = False) -> None:
    """Show a bank."""
    with _engine() as engine:
        _show([answers.bank_out(engine.record.bank(name)).model_dump(mode="json")], as_json)


@banks.command("set")
def set_bank(name: Name, description: Description = None, policy: Policy = None, types: Types = None,
             enabled: Annotated[bool | None, typer.Option("--enabled/--disabled")] = None,
             lawful: Lawful = None, suppresses: Scope = None, two_persons: TwoPersons = None,
             everything: Annotated[bool, typer.Option("--suppresses-all", help="suppress in all banks")] = False,
             as_json: AsJson = False) -> None:  # fmt: skip
    """Change the settings that are given."""
    with _engine() as engine:
        given = _given(description=description, policy=policy, signal_types=types, enabled=enabled, lawful=lawful,
                       suppresses=suppresses, two_persons=two_persons)  # fmt: skip
        given |= {"suppresses": None} if everything else {}
        changed = engine.record.set_bank(name, actor="cli", **given)
    _show([answers.bank_out(changed).model_dump(mode="json")], as_json)


@banks.command("delete")
def delete_bank(name: Name, yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False) -> None:
    """Delete a bank with all its contents and hashes, for good."""
    with _engine() as engine:
        found = engine.record.bank(name)
        if not yes:
            _confirm(f"Delete {name} with {found.contents} contents for good?")
        engine.delete_bank(name, actor="cli")


def _confirm(question: str) -> None:
    """Ask; anything but yes ends the command with 2, since 1 says that something matched."""
    output.say_error(f"{question} [y/N]")
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        output.say_error("staydown: nothing was deleted")
        raise typer.Exit(2)


@banks.command("contents")
def list_contents(name: Name, as_json: AsJson = False) -> None:
    """List the live contents of a bank."""
    items: list[dict[str, Any]] = []
    with _engine() as engine:
        after = 0
        while page := engine.record.contents(name, after=after, limit=500):
            known = engine.record.companions.of([c.content_pk for c in page])
            items += [
                {"content_id": c.content_id, "kind": c.kind.value, "case": c.case, "labels": list(c.labels),
                 "created_at": c.created_at, "companions": [one.content_id for one in known.get(c.content_pk, ())]}
                for c in page
            ]  # fmt: skip
            after = page[-1].content_pk
    _show(items, as_json)


@banks.command("audit")
def audit_bank(name: Name, hold: HoldFound = False, as_json: AsJson = False) -> None:
    """List frames of a bank that are near to generic frames, or to what lawful banks hold by now."""
    items: list[dict[str, Any]] = []
    with _engine() as engine:
        guard = engine.enroller.guard
        for suspect in guard.audit(engine.record.settings_of(name)):
            items += [
                {"content_id": suspect.content.content_id, "timestamp_s": run.timestamp_s, "until_s": run.until_s,
                 "view": run.view.value, "reason": run.reason.value, "frames": run.frames}
                for run in suspect.held
            ]  # fmt: skip
            if hold:
                guard.hold(suspect, actor="cli")
    _show(items, as_json)


def release(content_ids: Contents, reason: Reasons = None, as_json: AsJson = False) -> None:
    """Let frames match that the guards hold, after a person looked at them."""
    with _engine() as engine:
        _review(engine, content_ids, engine.release, reason, as_json)


def hold_again(content_ids: Contents, reason: Reasons = None, as_json: AsJson = False) -> None:
    """Take a release back."""
    with _engine() as engine:
        _review(engine, content_ids, engine.hold_again, reason, as_json)


def _review(engine: Engine, content_ids: list[str], action: Callable[..., int], reasons: list[Hold] | None,
            as_json: bool) -> None:  # fmt: skip
    found = engine.contents(content_ids)
    wanted = tuple(reasons or RELEASABLE)
    done = [{"content_id": c.content_id, "rows": action(c.bank, c.content_id, wanted, actor="cli")} for c in found]
    _show(done, as_json)


def doctor(fix: Annotated[bool, typer.Option("--repair", help="make anew what can be, and look again")] = False,
           as_json: AsJson = False) -> None:  # fmt: skip
    """Hold record, index, snapshots and lists against each other; change nothing unless asked to."""
    settings = read_settings()
    with Engine(settings) as engine:
        findings = examine(engine)
        repaired = repair(engine, findings) if fix else []
    if repaired:
        with Engine(settings) as engine:
            findings = examine(engine)
    if as_json:
        found = [{"what": f.what, "ok": f.ok, "code": f.code, "detail": f.detail} for f in findings]
        output.say_json({"settings": settings.shown(), "findings": found, "repaired": repaired})
    else:
        output.say_table("settings", ("setting", "value"), list(settings.shown().items()))
        output.say_table(
            "findings", ("what", "ok", "code", "detail"), [(f.what, f.ok, f.code, f.detail) for f in findings]
        )
        for word in repaired:
            output.say_error(f"repaired: {word}")
    raise typer.Exit(0 if all(f.ok for f in findings) else 2)


def install(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(banks, name="bank")
    app.command("release")(release)
    app.command("hold")(hold_again)
    app.command("doctor")(doctor)
