"""Rescans that were asked for over HTTP: their items and results, kept until they are done and read."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, insert, select, update

from indexer.store import Store, new_id, now
from indexer.tables import rescan, rescan_item


@dataclass(frozen=True, slots=True)
class Rescan:
    """A rescan and how far it is."""

    rescan_id: str
    key_id: str
    banks: list[str] | None
    total: int
    done: int
    verdicts: dict[str, int]


@dataclass(frozen=True, slots=True)
class RescanItem:
    """One item: its number, what was asked, and the result or None."""

    rescan_id: str
    number: int
    request: dict[str, Any]
    banks: list[str] | None
    result: dict[str, Any] | None = None
    key_id: str = ""


class Jobs:
    """Rescans in one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def submit(self, requests: list[dict[str, Any]], banks: list[str] | None, *, key_id: str) -> str:
        """Keep a rescan; returns its id once it is durable."""
        rescan_id = new_id("r")
        with self._store.change(key_id, counted=False) as change:
            head = {"rescan_id": rescan_id, "key_id": key_id, "banks": banks or [], "created_at": now(),
                    "total": len(requests)}  # fmt: skip
            change.connection.execute(insert(rescan).values(**head))
            rows = [{"rescan_id": rescan_id, "number": n, "request": r} for n, r in enumerate(requests)]
            if rows:
                change.connection.execute(insert(rescan_item), rows)
            change.log("rescan.submit", rescan_id, total=len(requests))
        return rescan_id

    def pending(self, limit: int) -> list[RescanItem]:
        """Return items without a result, oldest rescans first."""
        query = (
            select(rescan_item, rescan.c.banks, rescan.c.key_id)
            .join(rescan, rescan.c.rescan_id == rescan_item.c.rescan_id)
            .where(rescan_item.c.result.is_(None))
            .order_by(rescan.c.created_at, rescan_item.c.rescan_id, rescan_item.c.number)
            .limit(limit)
        )
        with self._store.read() as connection:
            rows = connection.execute(query).all()
        return [RescanItem(row.rescan_id, row.number, row.request, row.banks or None, None, row.key_id) for row in rows]

    def finish(self, item: RescanItem, result: dict[str, Any]) -> None:
        """Write the result of an item, unless it has one; what was asked is forgotten, since it may hold hashes."""
        mine = (rescan_item.c.rescan_id == item.rescan_id, rescan_item.c.number == item.number)
        kept = {"id": item.request.get("id")}
        with self._store.change("rescan", counted=False) as change:
            change.connection.execute(
                update(rescan_item).where(*mine, rescan_item.c.result.is_(None)).values(result=result, request=kept)
            )

    def find(self, rescan_id: str) -> Rescan | None:
        """Return a rescan with its progress."""
        with self._store.read() as connection:
            head = connection.execute(select(rescan).where(rescan.c.rescan_id == rescan_id)).first()
            if head is None:
                return None
            verdict = rescan_item.c.result["verdict"].as_string()
            counted = (
                select(verdict, func.count())
                .where(rescan_item.c.rescan_id == rescan_id, rescan_item.c.result.is_not(None))
                .group_by(verdict)
            )
            counts: Counter[str] = Counter({str(word): int(n) for word, n in connection.execute(counted)})
        return Rescan(rescan_id, head.key_id, head.banks or None, head.total, counts.total(), dict(counts))

    def results(self, rescan_id: str, *, after: int, limit: int) -> list[RescanItem]:
        """Return finished items in order, from behind number `after`."""
        query = (
            select(rescan_item)
            .where(
                rescan_item.c.rescan_id == rescan_id,
                rescan_item.c.result.is_not(None),
                rescan_item.c.number > after,
            )
            .order_by(rescan_item.c.number)
            .limit(limit)
        )
        with self._store.read() as connection:
            rows = connection.execute(query).all()
        return [RescanItem(row.rescan_id, row.number, row.request, None, row.result) for row in rows]
