"""Items and results of queued rescans, on PostgreSQL. A job of procrastinate says which, and holds none.

An item's row is there as long as it has no result. Its result is written by the transaction
that deletes the row, and only if there was one: so an item that two workers worked on, because
the one was taken for dead, has one result. A result's row goes when its line was written to the
submitter's file. Jobs are made in the transaction that writes their items.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from indexer.engines import alone, connect_arguments, insert_rows, is_server
from indexer.store import Store, now
from indexer.tables import queue_schema, queued_item, queued_rescan, queued_result

Range = tuple[int, int]  # first number, and the one behind the last
Defer = Callable[[Any, str, Sequence[Range]], None]  # makes jobs on a connection of the driver's
_ROW = ("rescan_id", "number")


@dataclass(frozen=True, slots=True)
class QueuedRescan:
    """A queued rescan: which banks it asks, how many items it has, and how many of them are in the store."""

    rescan_id: str
    banks: list[str] | None
    total: int
    submitted: int


@dataclass(frozen=True, slots=True)
class JobsSchema:
    """The tables that procrastinate keeps its jobs in: as SQL, and the names and SQL of their migrations."""

    sql: str
    migrations: tuple[tuple[str, str], ...]


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection


class Queue:
    """The queued rescans of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def possible(self) -> bool:
        """Whether this store can have a queue."""
        return is_server(self._store.engine)

    def connect_arguments(self) -> dict[str, Any]:
        """Return with what psycopg connects to the store."""
        return connect_arguments(self._store.engine)

    def prepare(self, schema: JobsSchema) -> None:
        """Make or migrate procrastinate's tables, one process at a time; StoreBroken."""
        with self._store.broken_told(), alone(self._store.engine) as connection:
            known = set(connection.execute(select(queue_schema.c.name)).scalars())
            new = [(name, sql) for name, sql in schema.migrations if name not in known]
            driver = _driver(connection)
            there = driver.execute("SELECT to_regclass('procrastinate_jobs')").fetchone()[0]
            steps = [schema.sql] if there is None else [sql for _, sql in new] if known else []
            for sql in steps:
                driver.execute(sql)
            if new:
                connection.execute(insert(queue_schema), [{"name": name} for name, _ in new])

    def begin(self, rescan_id: str, banks: list[str] | None, total: int, *, actor: str) -> QueuedRescan:
        """Begin a rescan that has no items yet."""
        row = {"rescan_id": rescan_id, "banks": banks, "total": total, "submitted": 0}
        with self._store.change(actor, counted=False) as change:
            change.connection.execute(insert(queued_rescan).values(**row, seen_at=now()))
            change.log("rescan.submit", rescan_id, total=total)
        return QueuedRescan(**row)  # type: ignore[arg-type]

    def find(self, rescan_id: str) -> QueuedRescan | None:
        """Return a rescan, unless it was never begun, has ended or was forgotten."""
        query = select(queued_rescan).where(queued_rescan.c.rescan_id == rescan_id)
        with self._store.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else QueuedRescan(row.rescan_id, row.banks, row.total, row.submitted)

    def submit(self, rescan_id: str, first: int, requests: Sequence[str], jobs: Sequence[Range], defer: Defer) -> None:
        """Write the items from number `first` on, together with the jobs for them."""
        rows = [(rescan_id, number, request) for number, request in enumerate(requests, start=first)]
        behind = update(queued_rescan).where(queued_rescan.c.rescan_id == rescan_id)
        with self._store.work() as connection:
            connection.execute(behind.values(submitted=first + len(rows), seen_at=now()))
            insert_rows(connection, queued_item, (*_ROW, "request"), rows)
            defer(_driver(connection), rescan_id, jobs)

    def items(self, rescan_id: str, numbers: Range) -> list[tuple[int, str]]:
        """Return what is left to do of a range: numbers and requests, in order."""
        item = queued_item.c
        query = select(item.number, item.request).where(
            item.rescan_id == rescan_id, item.number >= numbers[0], item.number < numbers[1]
        )
        with self._store.read() as connection:
            return [(row.number, row.request) for row in connection.execute(query.order_by(item.number))]

    def rewrite(self, rescan_id: str, number: int, request: str) -> None:
        """Write what is asked of an item anew, unless it has a result by now."""
        mine = update(queued_item).where(queued_item.c.rescan_id == rescan_id, queued_item.c.number == number)
        with self._store.work() as connection:
            connection.execute(mine.values(request=request))

    def settle(self, rescan_id: str, results: Sequence[tuple[int, str]]) -> int:
        """Write results in their items' place; returns how many. What somebody else settled stays as it is."""
        mine = dict(results)
        gone = delete(queued_item).where(queued_item.c.rescan_id == rescan_id, queued_item.c.number.in_(mine))
        with self._store.work() as connection:
            numbers = sorted(connection.execute(gone.returning(queued_item.c.number)).scalars())
            rows = [(rescan_id, number, mine[number]) for number in numbers]
            insert_rows(connection, queued_result, (*_ROW, "result"), rows)
        return len(rows)

    def results(self, rescan_id: str, first: int, limit: int) -> list[str]:
        """Return the results from number `first` on, up to the first that is not there yet."""
        result = queued_result.c
        query = select(result.number, result.result).where(result.rescan_id == rescan_id, result.number >= first)
        with self._store.read() as connection:
            rows = connection.execute(query.order_by(result.number).limit(limit)).all()
        return [row.result for place, row in enumerate(rows, start=first) if row.number == place]

    def hand_over(self, rescan_id: str, before: int) -> None:
        """Forget the results below a number, which are safe elsewhere; and note that the submitter is there."""
        mine = queued_rescan.c.rescan_id == rescan_id
        old = delete(queued_result).where(queued_result.c.rescan_id == rescan_id, queued_result.c.number < before)
        with self._store.work() as connection:
            connection.execute(update(queued_rescan).where(mine).values(seen_at=now()))
            connection.execute(old)

    def end(self, rescan_id: str) -> None:
        """Forget a rescan with all that is left of it; its jobs find nothing to do."""
        with self._store.work() as connection:
            connection.execute(delete(queued_rescan).where(queued_rescan.c.rescan_id == rescan_id))

    def forget(self, days: float) -> int:
        """Forget the rescans whose submitter was not there for so long; returns how many."""
        limit = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")
        with self._store.work() as connection:
            return connection.execute(delete(queued_rescan).where(queued_rescan.c.seen_at < limit)).rowcount
