"""The record's other books: API keys, answers kept for idempotent requests; `audit` has the audit log."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, insert, select, update

from indexer.audit import AuditLog
from indexer.errors import UnknownContent
from indexer.store import Change, now
from indexer.tables import api_key, idempotency

_PREFIX = "sd"


class UnknownKey(UnknownContent):
    """There is no such key."""

    code = "unknown_key"


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of an API key; the key itself is not."""

    key_id: str
    role: str
    name: str
    created_at: str
    revoked_at: str | None


def _kept(key_id: str, idempotency_key: str) -> Select[Any]:
    mine = (idempotency.c.key_id == key_id, idempotency.c.idempotency_key == idempotency_key)
    return select(idempotency).where(*mine)


def _digest(key: str) -> bytes:
    """Hash a key. It holds 256 random bits, so a fast hash gives nothing away."""
    return hashlib.sha256(key.encode()).digest()


def _new_key(change: Change, role: str, name: str) -> tuple[Key, str]:
    key_id = f"k_{secrets.token_hex(6)}"
    text = f"{_PREFIX}_{key_id[2:]}_{secrets.token_urlsafe(32)}"
    made = {"key_id": key_id, "role": role, "name": name, "created_at": now()}
    change.connection.execute(insert(api_key).values(digest=_digest(text), **made))
    change.log("key.create", key_id, role=role)
    return Key(revoked_at=None, **made), text


class Ledger(AuditLog):
    """Keys, audit and idempotency in one store."""

    # Keys

    def create_key(self, role: str, *, name: str = "", actor: str) -> tuple[Key, str]:
        """Make a key; the text is returned this once and never stored."""
        with self._store.change(actor, counted=False) as change:
            return _new_key(change, role, name)

    def create_first_key(self, role: str) -> str | None:
        """Make a key if the store has none at all; returns its text."""
        if self.keys():
            return None
        with self._store.change("serve", counted=False) as change:  # of several that start at once, one makes it
            found = change.connection.execute(select(api_key.c.key_id).limit(1)).first()
            return _new_key(change, role, "first start")[1] if found is None else None

    def keys(self) -> tuple[Key, ...]:
        """Return all keys, revoked ones too, in order of creation."""
        query = select(api_key).order_by(api_key.c.created_at, api_key.c.key_id)
        with self._store.read() as connection:
            rows = connection.execute(query).all()
        return tuple(Key(row.key_id, row.role, row.name, row.created_at, row.revoked_at) for row in rows)

    def authenticate(self, text: str) -> Key | None:
        """Return the key that this text is, unless it is unknown or revoked."""
        parts = text.split("_", 2)
        if len(parts) != 3 or parts[0] != _PREFIX:
            return None
        query = select(api_key).where(api_key.c.key_id == f"k_{parts[1]}", api_key.c.revoked_at.is_(None))
        with self._store.read() as connection:
            row = connection.execute(query).first()
        if row is None or not hmac.compare_digest(bytes(row.digest), _digest(text)):
            return None
        return Key(row.key_id, row.role, row.name, row.created_at, row.revoked_at)

    def revoke_key(self, key_id: str, *, actor: str) -> None:
        """Revoke a key at once and for good; UnknownKey."""
        with self._store.change(actor, counted=False) as change:
            revoked = update(api_key).where(api_key.c.key_id == key_id).values(revoked_at=now())
            if not change.connection.execute(revoked).rowcount:
                raise UnknownKey
            change.log("key.revoke", key_id)

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

    def count_keys(self) -> int:
        """Return how many keys are not revoked."""
        query = select(func.count()).select_from(api_key).where(api_key.c.revoked_at.is_(None))
        with self._store.read() as connection:
            return int(connection.execute(query).scalar_one())
