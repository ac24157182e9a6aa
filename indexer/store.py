"""Opens the database that holds the record: engine, durability, migrations, transactions.

SQLite runs in WAL mode with synchronous=FULL: with NORMAL or OFF a power cut loses
acknowledged rows. secure_delete overwrites what a withdrawal removes. Every change adds
one to the store's revision by its first statement, so that changes are ordered by their
commits, and appends to the audit log. The driver's own transactions are not used: they
commit each CREATE TABLE by itself, and a process killed at its first start would leave
half a database behind.
"""

import fcntl
import hashlib
import json
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, func, insert, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from indexer.errors import StoreBroken
from indexer.tables import audit, state

_BUSY_TIMEOUT = "PRAGMA busy_timeout=30000"
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA secure_delete=ON",
    _BUSY_TIMEOUT,
)
_CHECKPOINT_MS = 500


def now() -> str:
    """Return the time as the record writes it: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_id(prefix: str) -> str:
    """Return an identifier that cannot be guessed, 96 bits."""
    return f"{prefix}_{secrets.token_hex(12)}"


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver begins nothing; _begin does
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _file(url: URL) -> Path | None:
    """Return where an embedded database lies; None for a server's, and for one in memory."""
    embedded = url.get_backend_name() == "sqlite" and url.database not in {None, "", ":memory:"}
    return Path(str(url.database)) if embedded else None


def _engine(database_url: str) -> Engine:
    url = make_url(database_url)
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True)
    pool = {"pool_size": 16, "max_overflow": 16} if _file(url) else {}  # in memory: one a thread
    engine = create_engine(url, **pool)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin)
    return engine


@contextmanager
def _alone(database_url: str) -> Iterator[None]:
    """Let one process at a time create or migrate an embedded database."""
    path = _file(make_url(database_url))
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path.touch(mode=0o600)
        yield


def _migrate(engine: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        if connection.execute(select(state.c.revision)).first() is None:
            first = {"state_pk": 1, "revision": 0, "store_id": secrets.token_hex(16), "audit_digest": b""}
            connection.execute(insert(state).values(first))


@dataclass(slots=True)
class Change:
    """One transaction that changes the record: its connection, its revision, what the audit log says."""

    connection: Connection
    revision: int
    link: bytes
    actor: str
    entries: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    gone: list[dict[str, Any]] = field(default_factory=list)  # what was withdrawn or deleted, as its tombstones say

    def log(self, action: str, target: str, **detail: Any) -> None:
        """Add one line to the audit log, written with this transaction. Never a hash."""
        self.entries.append((action, target, detail))


def entry_digest(previous: bytes, entry: dict[str, Any]) -> bytes:
    """Return the link of the audit chain: SHA-256 of the link before and the entry as canonical JSON.

    What is no JSON (`repr`) was not written by us, and breaks the chain.
    """
    text = json.dumps(entry, sort_keys=True, separators=(",", ":"), default=repr)
    return hashlib.sha256(previous + text.encode()).digest()


class Store:
    """An opened database."""

    keep_tombstones: Callable[[Sequence[dict[str, Any]]], None] = staticmethod(lambda _: None)

    def __init__(self, database_url: str) -> None:
        """Open, create or migrate it; StoreBroken if that cannot be done."""
        self._writing = threading.Lock()
        try:
            self.engine = _engine(database_url)
            with _alone(database_url):
                _migrate(self.engine)
        except (SQLAlchemyError, CommandError, ImportError, OSError) as error:
            raise StoreBroken(f"the store cannot be opened: {type(error).__name__}") from error

    def revision(self) -> int:
        """Return the number of changes so far."""
        with self.read() as connection:
            return int(connection.execute(select(state.c.revision)).scalar_one())

    def audit_digest(self, before: int | None = None) -> bytes:
        """Return the last link of the audit chain, or the last one before a revision."""
        query = select(state.c.audit_digest)
        if before is not None:
            query = select(audit.c.digest).where(audit.c.revision < before).order_by(audit.c.seq.desc()).limit(1)
        with self.read() as connection:
            return bytes(connection.execute(query).scalar() or b"")

    def store_id(self) -> str:
        """Return the identity of this store, made once."""
        with self.read() as connection:
            return str(connection.execute(select(state.c.store_id)).scalar_one())

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection to read with."""
        try:
            with self.engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StoreBroken(f"the store cannot be read: {type(error).__name__}") from error

    @contextmanager
    def change(self, actor: str, *, counted: bool = True) -> Iterator[Change]:
        """Run one change: durable when the block has ended, or not done at all.

        Writers come one after the other, since each begins by writing the revision; those of
        this process wait without a connection. What no verdict depends on (keys, jobs,
        answers kept) is not counted in it.
        """
        try:
            with self._writing, self.engine.begin() as connection:
                step = 1 if counted else 0
                bump = update(state).values(revision=state.c.revision + step)
                row = connection.execute(bump.returning(state.c.revision, state.c.audit_digest)).one()
                change = Change(connection, int(row.revision), bytes(row.audit_digest), actor)
                yield change
                self._append(change)
                if change.gone:
                    self.keep_tombstones(change.gone)
            if change.gone:
                self._truncate_log()
        except IntegrityError:  # the caller knows which rule was broken
            raise
        except SQLAlchemyError as error:
            raise StoreBroken(f"the store cannot be written: {type(error).__name__}") from error

    def _truncate_log(self) -> None:
        """Empty SQLite's write-ahead log; if readers are in the way, the next erasure or the last close does it."""
        if self.engine.dialect.name != "sqlite":
            return
        with suppress(SQLAlchemyError, sqlite3.Error), closing(self.engine.raw_connection()) as connection:
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout={_CHECKPOINT_MS}")
            try:
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                cursor.fetchall()
            finally:
                cursor.execute(_BUSY_TIMEOUT)

    @staticmethod
    def _append(change: Change) -> None:
        if not change.entries:
            return
        last = int(change.connection.execute(select(func.coalesce(func.max(audit.c.seq), 0))).scalar_one())
        link, at, rows = change.link, now(), []
        for seq, (action, target, detail) in enumerate(change.entries, start=last + 1):
            entry = {"at": at, "actor": change.actor, "action": action, "target": target,
                     "detail": detail, "revision": change.revision}  # fmt: skip
            link = entry_digest(link, entry)
            rows.append(entry | {"seq": seq, "digest": link})
        change.connection.execute(insert(audit), rows)
        change.connection.execute(update(state).values(audit_digest=link))

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
