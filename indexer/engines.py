"""How each kind of database is opened and kept honest: SQLite in a file, or PostgreSQL through psycopg 3.

SQLite runs in WAL mode with synchronous=FULL: with NORMAL or OFF a power cut loses
acknowledged rows. secure_delete overwrites what a withdrawal removes. The driver's own
transactions are not used: they commit each CREATE TABLE by itself, and a process killed at
its first start would leave half a database behind.

PostgreSQL runs at READ COMMITTED whatever the server's default: a writer that waited for
the one before it must then see what that one wrote. A connection whose server is gone is
noticed without asking: its socket has something to read. What vanishes without a word is
given up after seconds, on either side.
"""

import fcntl
import json
import os
import select
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import URL, Connection, Engine, Table, TableValuedAlias, column, create_engine, event, func, literal
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import make_url
from sqlalchemy.exc import InvalidatePoolError, SQLAlchemyError
from sqlalchemy.types import TypeEngine

from indexer.seals import sealed_rows

CHANNEL = "staydown"  # of PostgreSQL's NOTIFY
CONNECTIONS = 16
_WAIT_MS = 30_000  # for whoever writes just now
_BUSY_TIMEOUT = f"PRAGMA busy_timeout={_WAIT_MS}"
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA secure_delete=ON",
    "PRAGMA cache_size=-32768",  # KiB: new rows land anywhere in the indexes of random names
    _BUSY_TIMEOUT,
)
_CHECKPOINT_MS = 500
_BULK_PRAGMAS = (
    "PRAGMA cache_size=-131072",
    "PRAGMA wal_autocheckpoint=16384",  # pages: what thousands of rows touch again and again is moved once
)
# PostgreSQL does not know yet how large a table is that has just grown: what thousands of values are compared with
# is looked up by the index for each of them, and not walked. Compiling queries pays for walks alone.
_OFF = ("enable_hashjoin", "enable_mergejoin", "enable_material", "enable_seqscan", "enable_bitmapscan", "jit")
_BULK_SETTINGS = tuple(f"SET LOCAL {name} = off" for name in _OFF)
_IDLE_MS = 60_000  # of a transaction: a stopped process does not keep the others from writing for longer
_SESSION = f"-c lock_timeout={_WAIT_MS} -c idle_in_transaction_session_timeout={_IDLE_MS}"
_CONNECT: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "staydown",
}
_POOL_TIMEOUT_S = 10
# Nothing is answered before it is durable, whatever the server's default; its stronger settings stay.
_DURABLE = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
_LOCK_KEY = 0x7374_6179_646F_776E  # 'staydown'
Turn = Literal["search", "retro"]  # what one process of a store does at a time
_TURN_KEYS = {"search": _LOCK_KEY + 1, "retro": _LOCK_KEY + 2}


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver begins nothing; _begin does
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _prepare_postgresql(connection: Any, _: object) -> None:
    connection.execute(_DURABLE)
    connection.commit()


def _refuse_dead(connection: Any, *_: object) -> None:
    """Take no connection from the pool on which something arrived unasked: as a rule the server's farewell."""
    waiting = select.poll()
    if not connection.closed:
        waiting.register(connection.fileno(), select.POLLIN)
    if connection.closed or waiting.poll(0):
        raise InvalidatePoolError


def _file(url: URL) -> Path | None:
    """Return where an embedded database lies; None for a server's, and for one in memory."""
    embedded = url.get_backend_name() == "sqlite" and url.database not in {None, "", ":memory:"}
    return Path(str(url.database)) if embedded else None


def _session(url: URL) -> dict[str, Any]:
    """Return what every connection to a server is opened with; what the address says counts more."""
    given = {name: value for name, value in _CONNECT.items() if name not in url.query}
    given["options"] = f"{_SESSION} {url.query.get('options', '')}".strip()
    return given


def connect_arguments(engine: Engine) -> dict[str, Any]:
    """Return with what psycopg opens a connection like the engine's own."""
    _, named = engine.dialect.create_connect_args(engine.url)
    named.pop("context", None)  # SQLAlchemy's own ways with types
    return {**named, **_session(engine.url)}


def _postgresql(url: URL, connections: int) -> Engine:
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    engine = create_engine(
        url, isolation_level="READ COMMITTED", connect_args=_session(url),
        pool_size=connections, max_overflow=0, pool_timeout=_POOL_TIMEOUT_S, pool_use_lifo=True,
    )  # fmt: skip
    event.listen(engine, "connect", _prepare_postgresql)
    event.listen(engine, "checkout", _refuse_dead)
    return engine


def open_engine(database_url: str, connections: int = CONNECTIONS) -> Engine:
    """Return the engine of a database; at most so many connections to a server."""
    url = make_url(database_url)
    if url.get_backend_name() == "postgresql":
        return _postgresql(url, connections)
    if url.get_backend_name() != "sqlite":
        return create_engine(url)
    pool = {"pool_size": 16, "max_overflow": 16} if _file(url) else {}  # in memory: one a thread
    engine = create_engine(url, **pool)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin)
    return engine


def is_server(engine: Engine) -> bool:
    """Tell whether the database is PostgreSQL's, with processes on other machines beside this one."""
    return engine.dialect.name == "postgresql"


def read_engine(engine: Engine) -> Engine:
    """Return the engine to read with: on PostgreSQL without BEGIN and ROLLBACK, each of which is a round trip."""
    return engine.execution_options(isolation_level="AUTOCOMMIT") if is_server(engine) else engine


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably: SQLite syncs the names inside it, and nobody its own."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for each in missing:
        sync_folder(each.parent)


@contextmanager
def alone(engine: Engine) -> Iterator[Connection]:
    """Give a transaction in which a database is created or migrated, to one process at a time."""
    path = _file(engine.url)
    if path is None:
        with engine.begin() as connection:
            if is_server(engine):
                connection.exec_driver_sql("SET LOCAL lock_timeout = 0")  # a migration may take its time
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK_KEY})")
            yield connection
        return
    make_folder(path.parent)
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path.touch(mode=0o600)
        with engine.begin() as connection:
            yield connection


@contextmanager
def turn(engine: Engine, what: Turn) -> Iterator[Callable[[], bool] | None]:
    """Give the turn at what one process does at a time: what says whether it is still ours; None if another has it.

    On PostgreSQL it is a connection's own, which no transaction holds open, and ends with it.
    """
    path = _file(engine.url)
    if path is not None:
        with Path(f"{path}.{what}.turn").open("w") as lock, suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield lambda: True
            return
        yield None
        return
    pooled = engine.raw_connection()
    connection: Any = pooled.driver_connection
    pooled.detach()
    with closing(connection):
        connection.autocommit = True
        got = connection.execute(f"SELECT pg_try_advisory_lock({_TURN_KEYS[what]})").fetchone()[0]
        yield (lambda: connection.execute("SELECT 1").fetchone() is not None) if got else None
        if got:  # its server ends a closed connection when it comes to it: the next turn would be in vain till then
            connection.execute(f"SELECT pg_advisory_unlock({_TURN_KEYS[what]})")


def truncate_log(engine: Engine) -> None:
    """Empty SQLite's write-ahead log; if readers are in the way, the next erasure or the last close does it."""
    if is_server(engine):
        return
    with suppress(SQLAlchemyError, sqlite3.Error), closing(engine.raw_connection()) as connection:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={_CHECKPOINT_MS}")
        try:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            cursor.fetchall()
        finally:
            cursor.execute(_BUSY_TIMEOUT)


def prepare_bulk(connection: Connection) -> None:
    """Make a connection ready for transactions of thousands of contents."""
    for statement in _BULK_SETTINGS if is_server(connection.engine) else _BULK_PRAGMAS:
        connection.exec_driver_sql(statement)


def values_of(connection: Connection, values: Sequence[Any], kind: TypeEngine[Any]) -> TableValuedAlias:
    """Return values as a table of one column, `value`: one parameter, however many they are.

    A list of parameters PostgreSQL would go through once for each row that it compares. Both
    databases look each value up where the other table is joined from the outside (`outerjoin`);
    else they may walk through all values for each row.
    """
    value = column("value", kind)
    if is_server(connection.engine):
        return func.unnest(literal(list(values), ARRAY(kind))).table_valued(value, name="wanted").render_derived()
    return func.json_each(json.dumps(list(values))).table_valued(value, name="wanted")


def insert_rows(
    connection: Connection, table: Table, names: Sequence[str], rows: Sequence[tuple[Any, ...]], *, raw: bool = False
) -> None:
    """Write rows, of values as the driver takes them: by COPY on PostgreSQL.

    SQLAlchemy's own ways bind each value by its name, which takes longer than the database does.
    What columns seal is sealed here, unless the rows come as they lie in a store (`raw`).
    """
    if not rows:
        return
    rows = rows if raw else sealed_rows(connection.dialect, table, names, rows)
    columns = ", ".join(names)
    if not is_server(connection.engine):
        marks = ", ".join("?" * len(names))
        statement = f"INSERT INTO {table.name} ({columns}) VALUES ({marks})"  # noqa: S608 - names of ours  # nosec B608
        connection.exec_driver_sql(statement, list(rows))
        return
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} ({columns}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


@contextmanager
def listening(engine: Engine) -> Iterator[Any]:
    """Give a connection of PostgreSQL that listens to our channel and is used for nothing else.

    Queries on it may swallow notifications (psycopg issue 962). It is not the pool's any more.
    """
    pooled = engine.raw_connection()
    connection: Any = pooled.driver_connection
    pooled.detach()
    with closing(connection):
        connection.autocommit = True
        connection.execute(f"LISTEN {CHANNEL}")
        yield connection
