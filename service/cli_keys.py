"""The commands for keys of the HTTP service: create, list, rotate, revoke, let-go, bind."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from typing import Annotated, Any

import typer

from indexer.banks import DEFAULT_TENANT
from indexer.keys import InvalidKey, Key
from service import output
from service.auth import Role
from service.engine import Engine
from service.settings import read_settings

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table")]
KeyId = Annotated[str, typer.Argument(metavar="KEY_ID")]
_BANKS = "a bank that the key is limited to, whosever it is; may be repeated; all of the tenant's if none is named"
_NETWORKS = "a network from which the key may be used, such as 10.0.0.0/8; may be repeated"
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MOST_S = 100 * 365 * 86400

keys = typer.Typer(no_args_is_help=True, help="Keys of the HTTP service.")


def seconds(text: str) -> float:
    """Read a time such as 90s, 15m, 1h or 30d; InvalidKey."""
    found = re.fullmatch(r"(\d{1,9})([smhd])", text, re.ASCII)
    if found is None or int(found[1]) * _UNITS_S[found[2]] > _MOST_S:
        raise InvalidKey(f"{text!r} is no time: give it as 90s, 15m, 1h or 30d")
    return int(found[1]) * _UNITS_S[found[2]]


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
        output.say_table("", columns, [tuple(item.values()) for item in items])


def _networks(given: list[str] | None) -> list[str] | None:
    try:
        return [str(ip_network(text)) for text in given] if given else None
    except ValueError as error:
        raise InvalidKey(f"{error}") from error


def _shown(key: Key) -> dict[str, Any]:
    banks, networks = (None if many is None else list(many) for many in (key.banks, key.networks))
    return {"key_id": key.key_id, "role": key.role, "name": key.name, "tenant": key.tenant, "banks": banks,
            "networks": networks, "created_at": key.created_at, "expires_at": key.expires_at,
            "revoked_at": key.revoked_at, "previous_until": key.previous_until,
            "stopped_until": key.stopped_until}  # fmt: skip


@keys.command("create")
def create_key(role: Annotated[Role, typer.Option(help="what the key is for")],
               name: Annotated[str, typer.Option(help="whose it is")] = "",
               tenant: Annotated[str, typer.Option(help="whose banks it reaches")] = DEFAULT_TENANT,
               bank: Annotated[list[str] | None, typer.Option(help=_BANKS)] = None,
               network: Annotated[list[str] | None, typer.Option(help=_NETWORKS)] = None,
               expires: Annotated[str | None, typer.Option(help="for how long it is valid: 90s, 15m, 1h, 30d")] = None,
               as_json: AsJson = False) -> None:  # fmt: skip
    """Make a key. It is shown once, and only a hash of it is kept."""
    networks, expires_s = _networks(network), None if expires is None else seconds(expires)
    with _engine() as engine:
        for one in bank or []:
            engine.record.settings_of(one)
        key, text = engine.keys.create(
            role.value,
            name=name,
            tenant=tenant,
            banks=bank or None,
            networks=networks,
            expires_s=expires_s,
            actor="cli",
        )
    _show([{"key_id": key.key_id, "key": text, "role": key.role}], as_json)


@keys.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List all keys, revoked ones too."""
    with _engine() as engine:
        found = engine.keys.all()
    _show(list(map(_shown, found)), as_json)


@keys.command("rotate")
def rotate_key(key_id: KeyId,
               overlap: Annotated[str, typer.Option(help="how long the old secret is taken: 90s, 15m, 1h, 30d")] = "0s",
               as_json: AsJson = False) -> None:  # fmt: skip
    """Give a key a new secret, shown once; all else of it stays, and the old secret is taken for a while."""
    overlap_s = seconds(overlap)
    with _engine() as engine:
        key, text = engine.keys.rotate(key_id, overlap_s=overlap_s, actor="cli")
    _show([{"key_id": key.key_id, "key": text, "role": key.role, "previous_until": key.previous_until}], as_json)


@keys.command("revoke")
def revoke_key(key_id: KeyId) -> None:
    """Revoke a key at once and for good."""
    with _engine() as engine:
        engine.keys.revoke(key_id, actor="cli")


@keys.command("let-go")
def let_go(key_id: KeyId) -> None:
    """Let a key check again that was stopped because it seemed to probe for hashes."""
    with _engine() as engine:
        engine.keys.let_go(key_id, actor="cli")


@keys.command("bind")
def bind_keys(as_json: AsJson = False) -> None:
    """Bind keys from before there was a pepper to the one that is here; until then they open nothing."""
    with _engine() as engine:
        bound = engine.keys.bind(actor="cli")
    _show([{"bound": bound}], as_json)


def install(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(keys, name="key")
