"""Makes sure that what was withdrawn is physically gone, and says so in a receipt.

A withdrawal deletes a content's hashes in its own transaction, overwritten by zeros where they lay.
That is not all: when SQLite moves rows between pages it leaves copies behind, of which it knows
nothing (`benchmarks/residue.py` finds them). So an erasure writes the whole database anew, empties the log,
and rewrites the backups that it knows of. What lies elsewhere (a search back-end) says itself
what became of it there. What cannot be reached is named as left.

The receipt has ids and counts, never a hash, and stands in the audit log.
"""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy.exc import SQLAlchemyError

from indexer import backup
from indexer.engines import is_server
from indexer.errors import IndexerError, StoreBroken
from indexer.store import Store, new_id, now
from indexer.tombstones import Known
from indexer.withdrawals import RECEIPT, Withdrawals

_TABLES = ("signal", "exact", "sketch", "contrast", "content", "bank", "idempotency", "retro_signal")
_PATIENCE_MS = 10_000  # for readers of an older state, who keep the log from being emptied


@dataclass(frozen=True, slots=True)
class Place:
    """Where withdrawn hashes may lie, whether they are there, and how that is known."""

    place: str
    state: Literal["gone", "left", "unknown"]
    how: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was erased up to a revision, where, and how that is known."""

    receipt_id: str
    at: str
    store_id: str
    revision: int
    content_ids: tuple[str, ...]
    banks: tuple[str, ...]
    places: tuple[Place, ...]

    @property
    def left(self) -> bool:
        """Whether something is known to be left."""
        return any(place.state == "left" for place in self.places)


def _rewrite_sqlite(store: Store) -> list[Place]:
    """Write the database anew, and empty its log. The scratch copy lies beside it, not in /tmp."""
    path = store.engine.url.database
    with closing(store.engine.raw_connection()) as connection:
        cursor = connection.cursor()
        if path:
            folder = str(Path(path).parent).replace("'", "''")
            cursor.execute(f"PRAGMA temp_store_directory='{folder}'")
        cursor.execute("VACUUM")
        cursor.execute(f"PRAGMA busy_timeout={_PATIENCE_MS}")
        busy, _, _ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        free = cursor.execute("PRAGMA freelist_count").fetchone()[0]
    log_bytes = _size(Path(f"{path}-wal")) if path else 0
    return [
        Place("database", "left" if free else "gone", f"written anew; {free} free pages"),
        Place("write-ahead log", "left" if busy or log_bytes else "gone", f"{log_bytes} bytes long"),
    ]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _rewrite_server(store: Store) -> list[Place]:
    """Let PostgreSQL write the tables anew, and begin another segment of its log."""
    with closing(store.engine.raw_connection()) as pooled:
        connection: Any = pooled.driver_connection
        pooled.detach()
        with closing(connection):
            connection.autocommit = True
            for table in _TABLES:
                connection.execute(f'VACUUM (FULL) "{table}"')
            connection.execute("SELECT set_config('lock_timeout', '1s', false)")
            try:
                connection.execute("CHECKPOINT")
                connection.execute("SELECT pg_switch_wal()")
                log = "another segment begun; gone when the server has recycled or archived the older ones"
            except _driver_error(store) as error:
                log = f"not to be reached by this role ({type(error).__name__}); gone when the server recycles it"
    return [Place("database", "gone", "tables written anew"), Place("write-ahead log", "unknown", log)]


def _driver_error(store: Store) -> type[Exception]:
    error: type[Exception] = store.engine.dialect.loaded_dbapi.Error
    return error


def _rewritten(store: Store) -> list[Place]:
    try:
        return _rewrite_server(store) if is_server(store.engine) else _rewrite_sqlite(store)
    except (SQLAlchemyError, sqlite3.Error, _driver_error(store)) as error:
        raise StoreBroken(f"the store cannot be written anew: {type(error).__name__}") from error


def _backup_place(path: Path, known: Known) -> Place:
    name = f"backup {path}"
    if not path.exists():
        return Place(name, "unknown", "not there any more; copies elsewhere are not known")
    try:
        had = backup.purge(path, known)
    except IndexerError as error:
        return Place(name, "left", f"left as it is: {error.word}")
    return Place(name, "gone", "written anew without them" if had else "holds none of them")


class Eraser:
    """Erases what one store has withdrawn.

    `drop_caches` deletes index snapshots, and says which; `elsewhere` erases where else hashes lie.
    """

    def __init__(self, store: Store, withdrawals: Withdrawals, drop_caches: Callable[[], Sequence[Path]],
                 elsewhere: Callable[[], Sequence[Place]] = lambda: ()) -> None:  # fmt: skip
        self._store, self._withdrawals = store, withdrawals
        self._drop_caches, self._elsewhere = drop_caches, elsewhere

    def pending(self) -> bool:
        """Whether something was withdrawn since the last receipt, or that one left something."""
        last = self._withdrawals.last_receipt()
        left = last is not None and any(place["state"] == "left" for place in last["places"])
        return left or self._withdrawals.gone_since(last["revision"] if last else -1) != ((), ())

    def erase(self, known: Known) -> Receipt:
        """Erase, and write the receipt. `known`: everything that was ever withdrawn. StoreBroken."""
        last = self._withdrawals.last_receipt()
        revision = self._store.revision()
        content_ids, banks = self._withdrawals.gone_since(last["revision"] if last else -1)
        dropped = self._drop_caches()
        with self._store.change("erasure", counted=False) as change:
            answers = self._withdrawals.forget_requests(change)
        places = [
            Place("index snapshots", "gone", f"{len(dropped)} files deleted; built anew from the record"),
            Place("kept answers", "gone", f"{answers} request digests blanked; answers hold no hash"),
            *_rewritten(self._store),
            *self._elsewhere(),
            *(_backup_place(Path(path), known) for path in self._withdrawals.backups()),
        ]
        receipt = Receipt(new_id("e"), now(), self._store.store_id(), revision, content_ids, banks, tuple(places))
        with self._store.change("erasure", counted=False) as change:
            detail = asdict(receipt)
            change.log(RECEIPT, detail.pop("receipt_id"), **detail)
        return receipt
