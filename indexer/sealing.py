"""Sealing a store, and changing its key: rows are sealed anew in portions, while everything goes on.

The store says with which key it is written (`state.sealed_with`). Once it does, every writer uses that
key, and what was written before is sealed by and by. A row that begins with the head of the key is done:
nothing has to be remembered, and whoever was interrupted runs it once more.
"""

import base64
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    LargeBinary,
    String,
    Table,
    bindparam,
    case,
    func,
    select,
    type_coerce,
    update,
)

from indexer.engines import sync_folder
from indexer.errors import KeyFileBroken, KeyMissing
from indexer.seals import HEAD_BYTES, KEY_BYTES, MAGIC, SealedHex, as_text, read_keys
from indexer.signing import make_secret_file
from indexer.store import Store
from indexer.tables import bank, content, contrast, exact, signal, sketch, state

_PORTION = 2000  # rows a transaction, for which other writers wait
_TEXT_HEAD = HEAD_BYTES // 3 * 4  # characters of base64
_NOTE = b"# keys that hashes are sealed with: keep a copy, and not beside the database\n"
_COLUMNS: tuple[Column[Any], ...] = (
    signal.c.hash,
    exact.c.digest,
    content.c.fingerprint,
    sketch.c.data,
    contrast.c.data,
)
Progress = Callable[[str, int], None]


def _new_key() -> bytes:
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n"


def make_key_file(path: Path) -> None:
    """Make a file with one key, unless there is one; KeyFileBroken."""
    if not path.exists():
        make_secret_file(path, _NOTE + _new_key())


def add_key(path: Path) -> None:
    """Write a new key behind the others, durably, whole or not at all; KeyFileBroken."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        make_secret_file(new, path.read_bytes().rstrip(b"\n") + b"\n" + _new_key())
        new.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise KeyFileBroken(f"{path.name} cannot be written: {error.strerror}") from error


def sealed_with(store: Store) -> str | None:
    """Return the id of the key that a store is written with."""
    with store.read() as connection:
        found: str | None = connection.execute(select(state.c.sealed_with)).scalar_one()
    return found


def is_new(store: Store) -> bool:
    """Tell whether nothing was ever in a store that could have been sealed."""
    with store.read() as connection:
        return connection.execute(select(bank.c.bank_pk).limit(1)).first() is None


def write_with(store: Store, path: Path, *, actor: str) -> str:
    """Write a store with the last key of a file from now on; returns its id. KeyMissing, KeyFileBroken."""
    if not (keys := read_keys(path)):
        raise KeyMissing(f"there is no key in {path.name}")
    key_id = list(keys)[-1]
    with store.change(actor, counted=False) as change:
        if store.ring.current != key_id:
            change.connection.execute(update(state).values(sealed_with=key_id))
            change.log("store.seal", key_id, before=store.ring.current)
    store.revision()
    return key_id


def _raw(column: Column[Any]) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """Return a column as it lies there, and the beginning of it."""
    if isinstance(column.type, SealedHex):
        raw: ColumnElement[Any] = type_coerce(column, String())
        return raw, func.substr(raw, 1, _TEXT_HEAD)
    raw = type_coerce(column, LargeBinary())
    return raw, type_coerce(func.substr(raw, 1, HEAD_BYTES), LargeBinary())


def _head(column: Column[Any], key_id: str) -> Any:
    head = MAGIC + bytes.fromhex(key_id)
    return as_text(head)[:_TEXT_HEAD] if isinstance(column.type, SealedHex) else head


def _key(table: Table) -> Column[Any]:
    (key,) = table.primary_key
    return key


def seal_rows(store: Store, told: Progress) -> int:
    """Seal all rows with the key that the store is written with; returns how many were not.

    `told` hears of each portion: the table, and how many rows. KeyMissing where an older key is gone.
    """
    return sum(_seal_column(store, column, told) for column in _COLUMNS)


def _seal_column(store: Store, column: Column[Any], told: Progress) -> int:
    table, done, after = column.table, 0, 0
    while last := _seal_portion(store, column, after):
        after, count = last
        done += count
        told(str(table.name), count)
    return done


def _seal_portion(store: Store, column: Column[Any], after: int) -> tuple[int, int] | None:
    """Seal some rows behind a key, in one transaction; returns the last, and how many."""
    key, (_, beginning) = _key(column.table), _raw(column)
    with store.change("seal", counted=False) as change:
        wanted = beginning != _head(column, str(store.ring.current))
        query = select(key, column).where(key > after, column.is_not(None), wanted).order_by(key).limit(_PORTION)
        rows = change.connection.execute(query).all()
        if not rows:
            return None
        sealed = (
            update(column.table).where(key == bindparam("row")).values({column: bindparam("value", type_=column.type)})
        )
        change.connection.execute(sealed, [{"row": row[0], "value": row[1]} for row in rows])
    return int(rows[-1][0]), len(rows)


def counts(store: Store) -> dict[str, dict[str, int]]:
    """Return of each table how many rows are plain, and how many sealed with which key."""
    return {str(column.table.name): _counts(store, column) for column in _COLUMNS}


def _counts(store: Store, column: Column[Any]) -> dict[str, int]:
    raw, beginning = _raw(column)
    keys = {key_id: beginning == _head(column, key_id) for key_id in store.ring.keys}
    text = isinstance(column.type, SealedHex)
    start = as_text(MAGIC)[:5] if text else MAGIC
    sealed = type_coerce(func.substr(raw, 1, len(start)), String() if text else LargeBinary()) == start
    asked = [func.count(), *(func.sum(case((each, 1), else_=0)) for each in (sealed, *keys.values()))]
    with store.read() as connection:
        row = connection.execute(select(*asked).where(column.is_not(None))).one()
    total, all_sealed, *each = (int(count or 0) for count in row)
    named = dict(zip(keys, each, strict=True))
    found = {"plain": total - all_sealed, "key missing": all_sealed - sum(each)} | named
    return {name: count for name, count in found.items() if count}
