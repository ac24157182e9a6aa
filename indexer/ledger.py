"""The record's other books: answers kept for idempotent requests; `audit` has the audit log, `keys` the keys."""

from typing import Any

from sqlalchemy import Select, insert, select

from indexer.audit import AuditLog
from indexer.store import now
from indexer.tables import idempotency


def _kept(key_id: str, idempotency_key: str) -> Select[Any]:
    mine = (idempotency.c.key_id == key_id, idempotency.c.idempotency_key == idempotency_key)
    return select(idempotency).where(*mine)


class Ledger(AuditLog):
    """Audit and idempotency in one store."""

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
