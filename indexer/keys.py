"""API keys: whose they are, what they may be used for, and until when. The keys themselves are not kept.

A key holds 256 random bits, so a fast hash gives nothing away. It is bound to a pepper, which
lies outside the database: whoever can write the database, but does not know the pepper, can make
no key. A digest without a pepper can be bound later: HMAC(pepper, SHA-256(key)).
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Row, func, insert, or_, select, update

from indexer.banks import DEFAULT_TENANT, TENANT, Reach
from indexer.errors import UnknownContent
from indexer.store import Change, Store, now
from indexer.tables import api_key, tenant_use

_PREFIX = "sd"
_ID_BYTES, _PEPPER_ID_BYTES = 6, 8


class UnknownKey(UnknownContent):
    """There is no such key."""

    code = "unknown_key"


class InvalidKey(UnknownContent):
    """A key cannot be made so: a tenant's name has letters, digits, `_`, `.` and `-`."""

    code = "invalid_key"


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of an API key; the key itself is not."""

    key_id: str
    role: str
    name: str
    created_at: str
    revoked_at: str | None
    tenant: str = DEFAULT_TENANT
    banks: tuple[str, ...] | None = None  # to which it is limited
    networks: tuple[str, ...] | None = None  # from which it may be used
    expires_at: str | None = None
    previous_until: str | None = None  # how long the secret before a rotation is taken
    stopped_until: str | None = None  # how long it is refused at checks

    @property
    def reach(self) -> Reach:
        """The banks that it may ask about: those it is limited to, else those of its tenant."""
        return Reach(self.tenant, None if self.banks is None else frozenset(self.banks))


def _tuple(listed: Any) -> tuple[str, ...] | None:
    return None if listed is None else tuple(listed)


def _key(row: Row[Any]) -> Key:
    return Key(
        row.key_id, row.role, row.name, row.created_at, row.revoked_at, row.tenant, _tuple(row.banks),
        _tuple(row.networks), row.expires_at, row.previous_until, row.stopped_until,
    )  # fmt: skip


def _in(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="seconds")


def _text(key_id: str) -> str:
    return f"{_PREFIX}_{key_id[2:]}_{secrets.token_urlsafe(32)}"


class Keys:
    """The keys of one store. Without a pepper they are kept as plain SHA-256."""

    def __init__(self, store: Store, pepper: bytes | None = None) -> None:
        self._store, self._pepper = store, pepper
        known = b"" if pepper is None else hashlib.sha256(b"staydown pepper id" + pepper).digest()
        self._pepper_id = known[:_PEPPER_ID_BYTES].hex() or None

    def _bound(self, plain: bytes) -> bytes:
        return plain if self._pepper is None else hmac.digest(self._pepper, plain, "sha256")

    def digest(self, text: str) -> bytes:
        """Return what is kept of a key."""
        return self._bound(hashlib.sha256(text.encode()).digest())

    def create(
        self, role: str, *, name: str = "", tenant: str = DEFAULT_TENANT, banks: Sequence[str] | None = None,
        networks: Sequence[str] | None = None, expires_s: float | None = None, actor: str,
    ) -> tuple[Key, str]:  # fmt: skip
        """Make a key; the text is returned this once and never stored. InvalidKey."""
        if not TENANT.match(tenant):
            raise InvalidKey
        expires_at = None if expires_s is None else _in(expires_s)
        limits = {"tenant": tenant, "banks": banks, "networks": networks, "expires_at": expires_at}
        with self._store.change(actor, counted=False) as change:
            return self._new(change, role, name, **limits)

    def create_first(self, role: str) -> str | None:
        """Make a key if the store has none at all; returns its text."""
        if self.all():
            return None
        with self._store.change("serve", counted=False) as change:  # of several that start at once, one makes it
            found = change.connection.execute(select(api_key.c.key_id).limit(1)).first()
            return self._new(change, role, "first start")[1] if found is None else None

    def _new(self, change: Change, role: str, name: str, **limits: Any) -> tuple[Key, str]:
        key_id = f"k_{secrets.token_hex(_ID_BYTES)}"
        text = _text(key_id)
        made = {"key_id": key_id, "role": role, "name": name, "created_at": now()} | limits
        kept = {"digest": self.digest(text), "pepper_id": self._pepper_id}
        row = change.connection.execute(insert(api_key).values(**made, **kept).returning(api_key)).one()
        said = {name: value for name, value in limits.items() if value is not None}
        change.log("key.create", key_id, role=role, **said)
        return _key(row), text

    def rotate(self, key_id: str, *, overlap_s: float = 0.0, actor: str) -> tuple[Key, str]:
        """Give a key a new secret; the one before is taken for so long. All else of the key stays. UnknownKey."""
        text = _text(key_id)
        with self._store.change(actor, counted=False) as change:
            found = change.connection.execute(_live(key_id)).first()
            if found is None:
                raise UnknownKey
            before = self._readable(found, bytes(found.digest)) if overlap_s else None
            values = {"digest": self.digest(text), "pepper_id": self._pepper_id, "previous_digest": before,
                      "previous_until": None if before is None else _in(overlap_s)}  # fmt: skip
            changed = update(api_key).where(api_key.c.key_id == key_id).values(**values).returning(api_key)
            row = change.connection.execute(changed).one()
            change.log("key.rotate", key_id, overlap_s=overlap_s)
        return _key(row), text

    def _readable(self, row: Row[Any], digest: bytes) -> bytes | None:
        """Return a digest as this pepper would have made it; None if it is bound to another."""
        if row.pepper_id == self._pepper_id:
            return digest
        return self._bound(digest) if row.pepper_id is None else None

    def all(self) -> tuple[Key, ...]:
        """Return all keys, revoked ones too, in order of creation."""
        query = select(api_key).order_by(api_key.c.created_at, api_key.c.key_id)
        with self._store.read() as connection:
            return tuple(map(_key, connection.execute(query)))

    def find(self, key_id: str) -> Key:
        """Return a key, valid or not; UnknownKey."""
        with self._store.read() as connection:
            row = connection.execute(select(api_key).where(api_key.c.key_id == key_id)).first()
        if row is None:
            raise UnknownKey
        return _key(row)

    def reach_of(self, key_id: str) -> Reach:
        """Return which banks a key may ask about, valid or not; none if there is no such key."""
        try:
            return self.find(key_id).reach
        except UnknownKey:
            return Reach(names=frozenset())

    def authenticate(self, text: str) -> Key | None:
        """Return the key that this text is, unless it is unknown, revoked, expired, or bound to another pepper."""
        parts = text.split("_", 2)
        if len(parts) != 3 or parts[0] != _PREFIX:
            return None
        with self._store.read() as connection:
            row = connection.execute(_live(f"k_{parts[1]}")).first()
        if row is None or row.pepper_id != self._pepper_id or not self._matches(row, self.digest(text)):
            return None
        return _key(row)

    @staticmethod
    def _matches(row: Row[Any], digest: bytes) -> bool:
        if hmac.compare_digest(bytes(row.digest), digest):
            return True
        current = row.previous_until is not None and row.previous_until > now()
        return current and hmac.compare_digest(bytes(row.previous_digest), digest)

    def revoke(self, key_id: str, *, actor: str) -> None:
        """Revoke a key at once and for good; UnknownKey."""
        with self._store.change(actor, counted=False) as change:
            revoked = update(api_key).where(api_key.c.key_id == key_id).values(revoked_at=now())
            if not change.connection.execute(revoked).rowcount:
                raise UnknownKey
            change.log("key.revoke", key_id)

    def stop(self, key_id: str, seconds: float, *, content_id: str, bits: int, actor: str) -> str:
        """Have a key refused at checks for so long, because of what it asked near a content; returns until when."""
        until = _in(seconds)
        with self._store.change(actor, counted=False) as change:
            stopped = update(api_key).where(api_key.c.key_id == key_id).values(stopped_until=until)
            change.connection.execute(stopped)
            change.log("key.stop", key_id, content=content_id, bits=bits, until=until)
        return until

    def let_go(self, key_id: str, *, actor: str) -> None:
        """Take a stop back; UnknownKey."""
        with self._store.change(actor, counted=False) as change:
            free = update(api_key).where(api_key.c.key_id == key_id).values(stopped_until=None)
            if not change.connection.execute(free).rowcount:
                raise UnknownKey
            change.log("key.let-go", key_id)

    # The pepper

    def unbound(self) -> int:
        """Return how many valid keys are bound to no pepper, though there is one: they open nothing until bound."""
        return 0 if self._pepper is None else self._count(api_key.c.pepper_id.is_(None))

    def foreign(self) -> int:
        """Return how many valid keys are bound to a pepper that is not here: they open nothing."""
        return self._count(api_key.c.pepper_id.is_not(None), api_key.c.pepper_id.is_distinct_from(self._pepper_id))

    def bind(self, *, actor: str) -> int:
        """Bind the keys that are bound to no pepper to the one that is here; returns how many."""
        if not self.unbound():
            return 0
        mine = select(api_key.c.key_id, api_key.c.digest).where(api_key.c.pepper_id.is_(None))
        with self._store.change(actor, counted=False) as change:
            rows = change.connection.execute(mine).all()
            for row in rows:
                values = {"digest": self._bound(bytes(row.digest)), "pepper_id": self._pepper_id}
                change.connection.execute(update(api_key).where(api_key.c.key_id == row.key_id).values(**values))
            change.log("key.bind", "keys", count=len(rows))
        return len(rows)

    def count(self) -> int:
        """Return how many keys are valid."""
        return self._count()

    def _count(self, *which: Any) -> int:
        query = select(func.count()).select_from(api_key).where(*_valid(), *which)
        with self._store.read() as connection:
            return int(connection.execute(query).scalar_one())

    # What tenants use

    def add_use(self, day: str, requests: dict[str, int]) -> dict[str, int]:
        """Add what this process counted on a day, and return the day's sums in all processes. Older days go."""
        use = tenant_use.c
        with self._store.work() as connection:
            connection.execute(tenant_use.delete().where(use.day < day))
            for tenant, count in sorted(requests.items()):
                values = {"requests": use.requests + count}
                mine = update(tenant_use).where(use.tenant == tenant, use.day == day).values(**values)
                if not connection.execute(mine).rowcount:
                    connection.execute(insert(tenant_use).values(tenant=tenant, day=day, requests=count))
            rows = connection.execute(select(tenant_use).where(use.day == day)).all()
        return {row.tenant: row.requests for row in rows}


def _valid() -> tuple[Any, ...]:
    return api_key.c.revoked_at.is_(None), or_(api_key.c.expires_at.is_(None), api_key.c.expires_at > now())


def _live(key_id: str) -> Any:
    return select(api_key).where(api_key.c.key_id == key_id, *_valid())
