"""The commands that look after the store as a whole: backup, restore, erase, seal."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from indexer import sealing
from service import output, upkeep
from service.engine import Engine
from service.settings import read_settings

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table")]
Lists = Annotated[list[Path] | None, typer.Option("--withdrawals", metavar="FILE", help="a list of withdrawals")]
_WITHOUT = "restore although no list of withdrawals is there: what was withdrawn since the backup comes back"


def _show(fields: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.say_json(fields)
    else:
        output.say_table("", ("what", "value"), list(fields.items()))


def back_up(file: Annotated[Path, typer.Argument(help="must not exist yet")], as_json: AsJson = False) -> None:
    """Write the whole record to one sealed file, while everything goes on."""
    with Engine(read_settings()) as engine:
        seal = upkeep.back_up(engine, file, actor="cli")
    _show({"file": str(file)} | asdict(seal), as_json)


def restore(file: Annotated[Path, typer.Argument(help="a backup")], withdrawals: Lists = None,
            without: Annotated[bool, typer.Option("--without-withdrawals", help=_WITHOUT)] = False,
            as_json: AsJson = False) -> None:  # fmt: skip
    """Put a backup into an empty store, without what was withdrawn since."""
    with Engine(read_settings()) as engine:
        done = upkeep.restore(engine, file, withdrawals or [], without=without)
        contents, _ = engine.record.counts()
    known = done.known
    fields = {
        "made_at": done.seal.made_at,
        "revision": done.seal.revision,
        "contents_in_backup": done.seal.contents,
        "contents": contents,
        "withdrawals_known": len(known.content_ids),
        "banks_deleted_known": len(known.banks),
        "withdrawals_known_until": known.latest_at,
    }
    _show(fields, as_json)
    output.say_error(f"Unknown: what was enrolled after {done.seal.made_at}; it has to be enrolled again.")
    until = known.latest_at or done.seal.made_at
    output.say_error(f"Unknown: what was withdrawn after {until} and stands in no list that was given.")


def erase(as_json: AsJson = False) -> None:
    """Make sure that what was withdrawn is physically gone, and print the receipt."""
    with Engine(read_settings()) as engine:
        receipt = upkeep.erase(engine)
    if as_json:
        output.say_json(asdict(receipt))
    else:
        title = f"{receipt.receipt_id}, {receipt.at}, up to revision {receipt.revision}"
        output.say_table(title, ("place", "state", "how"), [(p.place, p.state, p.how) for p in receipt.places])
        gone = [("content", name) for name in receipt.content_ids] + [("bank", name) for name in receipt.banks]
        output.say_table("gone since the last receipt", ("what", "name"), gone)
    raise typer.Exit(2 if receipt.left else 0)


def seal(rotate: Annotated[bool, typer.Option("--rotate", help="make a new key first, and use that")] = False,
         as_json: AsJson = False) -> None:  # fmt: skip
    """Seal every hash in the store with the last key of the key file, while everything goes on; may be interrupted."""
    with Engine(read_settings()) as engine, output.progress(sum(engine.record.counts()), "seal") as bar:
        rows = upkeep.seal(engine, lambda _, count: bar.advance(bar.task_ids[0], count), rotate=rotate, actor="cli")
        counts = sealing.counts(engine.store)
        fields: dict[str, Any] = {"key": sealing.sealed_with(engine.store), "rows": rows}
    said = {name: ", ".join(f"{count} {how}" for how, count in found.items()) for name, found in counts.items()}
    _show(fields | ({"tables": counts} if as_json else said), as_json)
    output.say_error("Rows that were plain may have left copies behind, and older backups have them: staydown erase.")


def install(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command("backup")(back_up)
    app.command("restore")(restore)
    app.command("erase")(erase)
    app.command("seal")(seal)
