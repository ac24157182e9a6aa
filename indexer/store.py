"""The opened database that holds the record: migrations, revisions, transactions.

Every change adds one to the store's revision by its first statement. That statement locks
the one row of `state` until the commit, on SQLite and on PostgreSQL: so changes are ordered
by their commits, keys are given out in that order, and nothing can commit late behind a
reader. Every change appends to the audit log.
"""

import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, func, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from indexer.engines import (
    CHANNEL,
    CONNECTIONS,
    Turn,
    alone,
    insert_rows,
    is_server,
    listening,
    open_engine,
    read_engine,
    truncate_log,
    turn,
)
from indexer.errors import StoreBroken
from indexer.seals import Ring, give_ring
from indexer.tables import audit, state

Position = tuple[int, bytes]  # the revision, and the audit chain's last link: the same while nothing has changed
Nudges = Callable[[float], bool]  # waits so many seconds for one; says whether it came


def now() -> str:
    """Return the time as the record writes it: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


_ID_BYTES = 12


def new_id(prefix: str) -> str:
    """Return an identifier that cannot be guessed, 96 bits."""
    return f"{prefix}_{secrets.token_hex(_ID_BYTES)}"


def new_ids(prefix: str, count: int) -> list[str]:
    """Return several, in the order of an index over them: inserting them as they come is then cheap."""
    digits, width = secrets.token_hex(_ID_BYTES * count), 2 * _ID_BYTES
    return sorted(f"{prefix}_{digits[start : start + width]}" for start in range(0, len(digits), width))


def _migrate(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
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


_POSITION = select(state.c.revision, state.c.audit_digest, state.c.sealed_with)
_POSITION_SQL = str(_POSITION)
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=repr).encode


def entry_digest(previous: bytes, entry: dict[str, Any]) -> bytes:
    """Return the link of the audit chain: SHA-256 of the link before and the entry as canonical JSON.

    What is no JSON (`repr`) was not written by us, and breaks the chain.
    """
    return hashlib.sha256(previous + _canonical(entry).encode()).digest()


class Store:
    """An opened database."""

    keep_tombstones: Callable[[Sequence[dict[str, Any]]], None] = staticmethod(lambda _: None)

    def __init__(self, database_url: str, connections: int = CONNECTIONS, key_file: Path | None = None) -> None:
        """Open, create or migrate it; StoreBroken, KeyFileBroken, or KeyMissing if it is sealed with another key."""
        self._writing, self.ring = threading.Lock(), Ring(key_file)
        try:
            with ExitStack() as undo:
                self.engine = open_engine(database_url, connections)
                undo.callback(self.engine.dispose)
                with alone(self.engine) as connection:
                    _migrate(connection)
                undo.pop_all()
        except ImportError as error:
            raise StoreBroken(f"the store's driver is not installed: {error.name}, see the extra `postgres`") from error
        except (SQLAlchemyError, CommandError, OSError) as error:
            raise StoreBroken(f"the store cannot be opened: {type(error).__name__}") from error
        give_ring(self.engine, self.ring)
        self._reading = read_engine(self.engine)
        self._driver_error: type[Exception] = self.engine.dialect.loaded_dbapi.Error
        self.gives_nudges = is_server(self.engine)
        self._nudge = (func.pg_notify(CHANNEL, ""),) if self.gives_nudges else ()  # sent by the commit

    def revision(self) -> int:
        """Return the number of changes so far."""
        return self.position()[0]

    def position(self) -> Position:
        """Return where the record stands: what was read of it before holds while that is the same.

        Asked several times a check, so by the driver itself where that saves the most: SQLAlchemy costs ten times
        what SQLite does. On a server it saves nothing, and would open a transaction.
        """
        if self.gives_nudges:
            with self.read() as connection:
                row = connection.execute(_POSITION).one()
        else:
            with self.broken_told("read"), closing(self.engine.raw_connection()) as borrowed:
                row = borrowed.cursor().execute(_POSITION_SQL).fetchone()
        self.ring.use(row[2])
        return int(row[0]), bytes(row[1])

    def audit_digest(self) -> bytes:
        """Return the last link of the audit chain."""
        with self.read() as connection:
            return bytes(connection.execute(select(state.c.audit_digest)).scalar() or b"")

    def revision_digest(self, revision: int) -> bytes:
        """Return the link of the audit chain that a revision began with, or the last before it.

        It tells this history from any other. What is logged without a new revision comes behind it.
        """
        began = select(audit.c.digest).where(audit.c.revision == revision).order_by(audit.c.seq).limit(1)
        before = select(audit.c.digest).where(audit.c.revision < revision).order_by(audit.c.seq.desc()).limit(1)
        with self.read() as connection:
            return bytes(connection.execute(began).scalar() or connection.execute(before).scalar() or b"")

    def is_history(self, revision: int, digest: str) -> bool:
        """Say whether this store has a revision, and began it with this link (`revision_digest`, as hex)."""
        return revision <= self.revision() and self.revision_digest(revision).hex() == digest

    @contextmanager
    def turn(self, what: Turn) -> Iterator[Callable[[], bool] | None]:
        """Give the turn at what one process of this store does at a time, or None; StoreBroken. See `engines`."""
        with self.broken_told("reached"), turn(self.engine, what) as ours:
            yield ours

    def store_id(self) -> str:
        """Return the identity of this store, made once."""
        with self.read() as connection:
            return str(connection.execute(select(state.c.store_id)).scalar_one())

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection to read with."""
        with self._readable(self._reading) as connection:
            yield connection

    @contextmanager
    def stream(self) -> Iterator[Connection]:
        """Give a connection to read with `yield_per`, which PostgreSQL does in a transaction alone."""
        with self._readable(self.engine) as connection:
            yield connection

    @contextmanager
    def moment(self) -> Iterator[Connection]:
        """Give a connection that sees one state of the record, whatever others write meanwhile."""
        level = {"isolation_level": "REPEATABLE READ"} if is_server(self.engine) else {}
        with self.stream() as plain:
            yield plain.execution_options(**level)

    @staticmethod
    @contextmanager
    def _readable(engine: Engine) -> Iterator[Connection]:
        try:
            with engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StoreBroken(f"the store cannot be read: {type(error).__name__}") from error

    @contextmanager
    def listening(self) -> Iterator[Nudges]:
        """Give what waits for a nudge that the store has changed; StoreBroken. PostgreSQL alone gives nudges."""
        with self.broken_told("listened to"), listening(self.engine) as connection:
            yield lambda timeout_s: any(True for _ in connection.notifies(timeout=timeout_s, stop_after=1))

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
                nudge = self._nudge if counted else ()
                told = (state.c.revision, state.c.audit_digest, state.c.sealed_with, *nudge)
                row = connection.execute(bump.returning(*told)).one()
                self.ring.use(row.sealed_with)
                change = Change(connection, int(row.revision), bytes(row.audit_digest), actor)
                yield change
                self._append(change)
                if change.gone:
                    self.keep_tombstones(change.gone)
            if change.gone:
                truncate_log(self.engine)
        except IntegrityError:  # the caller knows which rule was broken
            raise
        except (SQLAlchemyError, self._driver_error) as error:
            raise StoreBroken(f"the store cannot be written: {type(error).__name__}") from error

    @contextmanager
    def work(self) -> Iterator[Connection]:
        """Run one transaction on what is no part of the record: no revision, no waiting for other writers."""
        with self.broken_told(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def broken_told(self, what: str = "written") -> Iterator[None]:
        """Make a database's error ours: StoreBroken says what the store cannot be."""
        try:
            yield
        except (SQLAlchemyError, self._driver_error) as error:
            raise StoreBroken(f"the store cannot be {what}: {type(error).__name__}") from error

    @staticmethod
    def _append(change: Change) -> None:
        if not change.entries:
            return
        last = int(change.connection.execute(select(func.coalesce(func.max(audit.c.seq), 0))).scalar_one())
        link, at, rows = change.link, now(), []
        names = ("seq", "at", "actor", "action", "target", "detail", "revision", "digest")
        for seq, (action, target, detail) in enumerate(change.entries, start=last + 1):
            entry = {"at": at, "actor": change.actor, "action": action, "target": target,
                     "detail": detail, "revision": change.revision}  # fmt: skip
            link = entry_digest(link, entry)
            rows.append((seq, at, change.actor, action, target, json.dumps(detail), change.revision, link))
        insert_rows(change.connection, audit, names, rows)
        change.connection.execute(update(state).values(audit_digest=link))

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
