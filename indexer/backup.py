"""Backups: the whole record as one sealed SQLite file, whatever database it came from.

Written online from one snapshot of the record, while writers go on: rows, not pages, so that it
holds nothing that was deleted, and can be restored into SQLite and PostgreSQL alike. The last line
is the seal: what it is of, and a SHA-256 over the database and the rest of the seal. A file without
its whole seal is no backup. A restored store is not answered from before what was withdrawn since
is withdrawn again: see `tombstones`.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    ColumnElement,
    Connection,
    Integer,
    Table,
    Text,
    cast,
    create_engine,
    delete,
    func,
    select,
    text,
    type_coerce,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.types import NullType

from indexer.engines import insert_rows, is_server, sync_folder
from indexer.errors import BackupExists, InvalidBackup, StoreBroken, StoreNotEmpty
from indexer.seals import SealedJson
from indexer.store import Store, now
from indexer.tables import api_key, audit, bank, content, metadata, state
from indexer.tombstones import Known
from indexer.withdrawals import Withdrawals

_FORMAT = "staydown-backup/1"
_SEAL_BYTES = 4096  # more than any seal has
_ROWS, _BLOCK_BYTES = 20_000, 1 << 20


@dataclass(frozen=True, slots=True)
class Seal:
    """What a backup is of. `schema` is the migration that its tables are at."""

    format: str
    store_id: str
    revision: int
    schema: str
    contents: int
    made_at: str
    bytes: int


def _url(path: Path) -> str:
    return f"sqlite:///{path}"


@contextmanager
def _told() -> Iterator[None]:
    """Make a database's error ours, and a disk's too."""
    try:
        yield
    except SQLAlchemyError as error:
        raise StoreBroken(f"the backup cannot be written or read: {type(error).__name__}") from error
    except OSError as error:
        raise StoreBroken(f"the backup cannot be written or read: {error.strerror}") from error


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """Give a name for a database that does not outlive the block, with all that SQLite puts beside it."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
    finally:
        for ending in ("", "-wal", "-shm", "-journal", ".lock"):
            Path(f"{part}{ending}").unlink(missing_ok=True)


@contextmanager
def _opened(path: Path) -> Iterator[Store]:
    store = Store(_url(path))
    try:
        yield store
    finally:
        store.close()


def _raw(column: Column[Any]) -> ColumnElement[Any]:
    """Return a column as the driver has it: every driver takes what the other gives, but JSON, which goes as text."""
    return cast(column, Text) if isinstance(column.type, JSON | SealedJson) else type_coerce(column, NullType)


def _copy_table(table: Table, source: Connection, target: Connection) -> None:
    every = select(*map(_raw, table.columns)).order_by(*table.primary_key)
    names = [column.name for column in table.columns]
    for part in source.execution_options(yield_per=_ROWS).execute(every).partitions():
        insert_rows(target, table, names, [tuple(row) for row in part], raw=True)


def _copy(source: Connection, target: Connection) -> None:
    """Copy every row; the target's are gone."""
    target.execute(delete(state))
    for table in (one for one in metadata.sorted_tables if "passing" not in one.info):
        _copy_table(table, source, target)
        if is_server(target.engine):
            _next_key(table, target)


def _next_key(table: Table, target: Connection) -> None:
    """Let PostgreSQL give out keys behind those that were copied."""
    (key, *_) = table.primary_key
    sequence = target.execute(
        text("SELECT pg_get_serial_sequence(:table, :key)"), {"table": table.name, "key": key.name}
    )
    if isinstance(key.type, Integer) and (name := sequence.scalar()) is not None:
        last = target.execute(select(func.max(key))).scalar()
        if last is not None:
            target.execute(text("SELECT setval(:name, :last)"), {"name": name, "last": last})


def _sum(path: Path, size: int, seal: Seal) -> str:
    summed, left = hashlib.sha256(), size
    with path.open("rb") as file:
        while left and (block := file.read(min(_BLOCK_BYTES, left))):
            summed.update(block)
            left -= len(block)
    summed.update(json.dumps(asdict(seal), sort_keys=True).encode())
    return summed.hexdigest()


def _describe(store: Store, size: int) -> Seal:
    with store.read() as connection:
        head = connection.execute(select(state.c.store_id, state.c.revision)).one()
        schema = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
        live = select(func.count()).select_from(content).where(content.c.withdrawn_at.is_(None))
        contents = connection.execute(live).scalar_one()
    return Seal(_FORMAT, head.store_id, head.revision, str(schema), contents, now(), size)


def _one_file(store: Store) -> None:
    """Leave no log beside the database."""
    connection = store.engine.raw_connection()
    try:
        connection.cursor().execute("PRAGMA journal_mode=DELETE")
    finally:
        connection.close()


def write(store: Store, path: Path, *, over: bool = False) -> Seal:
    """Write a backup, whole or not at all; BackupExists."""
    if path.exists() and not over:
        raise BackupExists(f"{path.name} is there already")
    with _told(), _scratch(path) as part:
        with _opened(part) as copy, store.moment() as source:
            with copy.engine.begin() as target:
                _copy(source, target)
            _one_file(copy)
            seal = _describe(copy, part.stat().st_size)
        line = json.dumps(asdict(seal) | {"sha256": _sum(part, seal.bytes, seal)})
        with part.open("ab") as file:
            file.write(f"\n{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
    return seal


def verified(path: Path) -> Seal:
    """Return what a backup is of; InvalidBackup unless it is whole, byte for byte."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - _SEAL_BYTES))
            line = file.read().removesuffix(b"\n").rpartition(b"\n")[2]
        fields = json.loads(line)
        said = fields.pop("sha256")
        seal = Seal(**fields)
        whole = seal.format == _FORMAT and end == seal.bytes + len(line) + 2 and said == _sum(path, seal.bytes, seal)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidBackup(f"{path.name} is no backup, or a damaged one: {type(error).__name__}") from error
    if not whole:
        raise InvalidBackup(f"{path.name} is damaged: its checksum does not agree")
    return seal


@contextmanager
def _unsealed(path: Path, seal: Seal, beside: Path) -> Iterator[Store]:
    """Open the database of a backup, migrated, as a copy that does not outlive the block."""
    with _scratch(beside) as part:
        part.touch(mode=0o600)
        shutil.copyfile(path, part)
        os.truncate(part, seal.bytes)
        with _opened(part) as store:
            yield store


def _empty(connection: Connection) -> bool:
    return not any(connection.execute(select(table).limit(1)).first() for table in (bank, content, api_key, audit))


def restore(path: Path, store: Store, known: Known) -> Seal:
    """Put a backup into a store with nothing in it, and withdraw what is known to be gone.

    InvalidBackup, StoreNotEmpty. In one transaction, withdrawals included.
    """
    seal = verified(path)
    beside = Path(str(store.engine.url.database)) if not is_server(store.engine) else path
    with _told(), _unsealed(path, seal, beside) as old, old.moment() as source, store.engine.begin() as target:
        Withdrawals(old).replay(known.content_ids, known.banks)
        if not _empty(target):
            raise StoreNotEmpty
        _copy(source, target)
    with store.change("restore") as change:
        change.log("store.restore", path.name, made_at=seal.made_at, revision=seal.revision, schema=seal.schema)
    return seal


def holds_withdrawn(path: Path, known: Known) -> bool:
    """Tell whether a backup still has hashes of what is gone; it is read where it lies."""
    engine = create_engine(f"sqlite:///file:{path}?mode=ro&immutable=1&uri=true")
    try:
        with engine.connect() as connection:
            live = connection.execute(text("SELECT content_id FROM content WHERE withdrawn_at IS NULL")).scalars()
            born = connection.execute(text("SELECT store_id, bank_pk, created_at FROM state, bank"))
            return not known.content_ids.isdisjoint(live) or not known.banks.isdisjoint(map(tuple, born))
    finally:
        engine.dispose()


def purge(path: Path, known: Known) -> bool:
    """Rewrite a backup without what is gone, if it has any of it; InvalidBackup. Tells whether it had."""
    with _told():
        if not holds_withdrawn(path, known):
            return False
        with _unsealed(path, verified(path), path.with_name(f"{path.name}.old")) as store:
            Withdrawals(store).replay(known.content_ids, known.banks)
            write(store, path, over=True)
    return True
