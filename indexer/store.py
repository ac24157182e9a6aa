"""Opens the database that holds the record: engine, durability, migrations, transactions.

SQLite runs in WAL mode with synchronous=FULL: with NORMAL or OFF a power cut loses
acknowledged rows. secure_delete overwrites what a withdrawal removes. Every change adds
one to the store's revision by its first statement, so that changes are ordered by their
commits, and appends to the audit log.
"""

import fcntl
import hashlib
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, insert, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from indexer.errors import StoreBroken
from indexer.tables import audit, state

_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA secure_delete=ON",
    "PRAGMA busy_timeout=30000",
)


def now() -> str:
    """Return the time as the record writes it: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_id(prefix: str) -> str:
    """Return an identifier that cannot be guessed, 96 bits."""
    return f"{prefix}_{secrets.token_hex(12)}"


def _prepare_sqlite(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def _engine(database_url: str) -> Engine:
    url = make_url(database_url)
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(url, pool_size=16, max_overflow=16)
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


@contextmanager
def _alone(database_url: str) -> Iterator[None]:
    """Let one process at a time create or migrate an embedded database."""
    database = make_url(database_url).database
    if not database_url.startswith("sqlite") or not database:
        yield
        return
    path = Path(database)
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
            connection.execute(insert(state).values(state_pk=1, revision=0, store_id=secrets.token_hex(16)))


@dataclass(slots=True)
class Change:
    """One transaction that changes the record: its connection, its revision, what the audit log says."""

    connection: Connection
    revision: int
    actor: str
    entries: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    def log(self, action: str, target: str, **detail: Any) -> None:
        """Add one line to the audit log, written with this transaction. Never a hash."""
        self.entries.append((action, target, detail))


def entry_digest(previous: bytes, entry: dict[str, Any]) -> bytes:
    """Return the link of the audit chain: SHA-256 of the link before and the entry as canonical JSON."""
    text = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(previous + text.encode()).digest()


class Store:
    """An opened database."""

    def __init__(self, database_url: str) -> None:
        """Open, create or migrate it; StoreBroken if that cannot be done."""
        try:
            self.engine = _engine(database_url)
            with _alone(database_url):
                _migrate(self.engine)
        except (SQLAlchemyError, OSError) as error:
            raise StoreBroken(f"the store cannot be opened: {type(error).__name__}") from error

    def revision(self) -> int:
        """Return the number of changes so far."""
        with self.read() as connection:
            return int(connection.execute(select(state.c.revision)).scalar_one())

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

        Writers come one after the other, since each begins by writing the revision. What
        no verdict depends on (keys, jobs, answers kept) is not counted in it.
        """
        try:
            with self.engine.begin() as connection:
                step = 1 if counted else 0
                bump = update(state).values(revision=state.c.revision + step).returning(state.c.revision)
                change = Change(connection, int(connection.execute(bump).scalar_one()), actor)
                yield change
                self._append(change)
        except IntegrityError:  # the caller knows which rule was broken
            raise
        except SQLAlchemyError as error:
            raise StoreBroken(f"the store cannot be written: {type(error).__name__}") from error

    @staticmethod
    def _append(change: Change) -> None:
        last = select(audit.c.digest).order_by(audit.c.seq.desc()).limit(1)
        link = bytes(change.connection.execute(last).scalar() or b"")
        for action, target, detail in change.entries:
            entry = {"at": now(), "actor": change.actor, "action": action, "target": target,
                     "detail": detail, "revision": change.revision}  # fmt: skip
            link = entry_digest(link, entry)
            change.connection.execute(insert(audit).values(**entry, digest=link))

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
