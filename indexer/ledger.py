"""The record's other books: the audit log, and answers kept for idempotent requests."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, Text, cast, insert, select, type_coerce
from sqlalchemy.types import NullType

from indexer.store import Store, entry_digest, now
from indexer.tables import audit, idempotency


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the audit log."""

    seq: int
    at: str
    actor: str
    action: str
    target: str
    detail: dict[str, Any]
    revision: int


def _kept(key_id: str, idempotency_key: str) -> Select[Any]:
    mine = (idempotency.c.key_id == key_id, idempotency.c.idempotency_key == idempotency_key)
    return select(idempotency).where(*mine)


def _detail(text: str) -> dict[str, Any]:
    """Read an entry's detail; what is no JSON any more was tampered with, and breaks the chain."""
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError:
        return {"unreadable": text}
    return found


class Ledger:
    """Audit and idempotency in one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # Audit

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        """Yield the audit log in order, each entry with its link."""
        fields = [column for column in audit.c if column.name not in {"detail", "digest"}]
        raw = cast(audit.c.detail, Text).label("detail"), type_coerce(audit.c.digest, NullType).label("digest")
        with self._store.read() as connection:
            for row in connection.execute(select(*fields, *raw).order_by(audit.c.seq)):
                entry = Entry(row.seq, row.at, row.actor, row.action, row.target, _detail(row.detail), row.revision)
                yield entry, row.digest

    def verify(self) -> tuple[int, int | None]:
        """Check the chain; returns the number of entries, and the first broken or missing one or None."""
        head, link, count = self._store.audit_digest(), b"", 0
        for entry, digest in self.entries():
            fields = {"at": entry.at, "actor": entry.actor, "action": entry.action, "target": entry.target,
                      "detail": entry.detail, "revision": entry.revision}  # fmt: skip
            count += 1
            if entry.seq != count or entry_digest(link, fields) != digest:
                return count, entry.seq
            link = digest
        return count, None if link == head else count + 1

    # Idempotency

    def remembered(self, key_id: str, idempotency_key: str) -> tuple[bytes, dict[str, Any]] | None:
        """Return the digest of the request that this key came with before, and its answer."""
        with self._store.read() as connection:
            row = connection.execute(_kept(key_id, idempotency_key)).first()
        return None if row is None else (bytes(row.request_digest), dict(row.answer))

    def remember(self, key_id: str, idempotency_key: str, request: bytes, answer: dict[str, Any]) -> None:
        """Keep the answer to a request; the first one stays."""
        values = {"key_id": key_id, "idempotency_key": idempotency_key, "request_digest": request,
                  "answer": answer, "created_at": now()}  # fmt: skip
        with self._store.change("idempotency", counted=False) as change:
            if change.connection.execute(_kept(key_id, idempotency_key)).first() is None:
                change.connection.execute(insert(idempotency).values(**values))
