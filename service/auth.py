"""Who may do what: roles, the permissions they carry, and the key of a request.

Default deny: a route says which permission it needs through `requires`; one that says
nothing is open, and tests/test_house.py allows that for the two health routes alone.
"""

import base64
import binascii
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any

from anyio import to_thread
from fastapi import Depends, Request

from indexer.ledger import Key
from service.errors import Forbidden, Unauthenticated


class Role(StrEnum):
    """What a key is for."""

    CHECK = "check"
    LOOKUP = "lookup"
    ENROLL = "enroll"
    REVIEW = "review"
    AUDIT = "audit"
    ADMIN = "admin"


class Permission(StrEnum):
    """One thing that can be allowed."""

    CHECK = "check"  # media in, verdict out
    LOOKUP = "lookup"  # hashes in, verdict out
    HASH = "hash"  # media in, its hashes out
    READ = "read"  # banks and contents, never their hashes
    ENROLL = "enroll"
    WITHDRAW = "withdraw"
    MANAGE = "manage"  # banks
    EVIDENCE = "evidence"  # distances and exact probabilities
    RETRO = "retro"  # what was found of earlier checks
    AUDIT = "audit"  # the audit log
    METRICS = "metrics"
    DOCS = "docs"


_P = Permission
_MEDIA = {_P.CHECK, _P.DOCS}
PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.CHECK: frozenset(_MEDIA),
    Role.LOOKUP: frozenset(_MEDIA | {_P.LOOKUP, _P.HASH, _P.EVIDENCE}),
    Role.ENROLL: frozenset(_MEDIA | {_P.HASH, _P.READ, _P.ENROLL, _P.WITHDRAW, _P.EVIDENCE}),
    Role.REVIEW: frozenset(_MEDIA | {_P.LOOKUP, _P.READ, _P.WITHDRAW, _P.EVIDENCE, _P.RETRO}),
    Role.AUDIT: frozenset({_P.READ, _P.AUDIT, _P.METRICS, _P.DOCS}),
    Role.ADMIN: frozenset(Permission),
}


def allows(key: Key, permission: Permission) -> bool:
    """Tell whether a key's role carries a permission."""
    return permission in PERMISSIONS[Role(key.role)]


def _key_text(request: Request) -> str:
    """Return the key of a Bearer header, or the password of a Basic one (a browser's only way)."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError) as error:
            raise Unauthenticated from error
    raise Unauthenticated


def requires(permission: Permission) -> Any:
    """Return the dependency that gives a route its key, and refuses keys without the permission."""

    async def authorized(request: Request) -> Key:
        text = _key_text(request)
        known: Callable[[str], Key | None] = request.app.state.engine.ledger.authenticate
        key = await to_thread.run_sync(known, text) if text.isascii() and text.isprintable() else None
        if key is None:
            raise Unauthenticated
        request.state.key_id = key.key_id
        if not allows(key, permission):
            raise Forbidden
        return key

    authorized.permission = permission  # type: ignore[attr-defined]
    dependency: Callable[[Request], Awaitable[Key]] = authorized
    return Depends(dependency)
