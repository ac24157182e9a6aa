"""Who may do what: roles, the permissions they carry, and the key of a request.

Default deny: a route says which permission it needs through `requires`; one that says
nothing is open, and tests/test_house.py allows that for the two health routes alone.
"""

from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from typing import Any

from anyio import to_thread
from fastapi import Depends, Request

from indexer.banks import DEFAULT_TENANT
from indexer.errors import UnknownBank
from indexer.keys import Key
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
    APPROVE = "approve"  # what others propose
    METRICS = "metrics"
    DOCS = "docs"


_P = Permission
_MEDIA = {_P.CHECK, _P.DOCS}
PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.CHECK: frozenset(_MEDIA),
    Role.LOOKUP: frozenset(_MEDIA | {_P.LOOKUP, _P.HASH, _P.EVIDENCE}),
    Role.ENROLL: frozenset(_MEDIA | {_P.HASH, _P.READ, _P.ENROLL, _P.WITHDRAW, _P.EVIDENCE}),
    Role.REVIEW: frozenset(_MEDIA | {_P.LOOKUP, _P.READ, _P.WITHDRAW, _P.EVIDENCE, _P.RETRO, _P.APPROVE}),
    Role.AUDIT: frozenset({_P.READ, _P.AUDIT, _P.METRICS, _P.DOCS}),
    Role.ADMIN: frozenset(Permission),
}

WATCHED = {Permission.CHECK, Permission.LOOKUP}  # are answered about the bank: not to a key that probes (`probing`)
OPERATORS = {Permission.METRICS, Permission.AUDIT}


def allows(key: Key, permission: Permission) -> bool:
    """Tell whether a key's role carries a permission; what concerns all tenants and banks, only a key of all has."""
    ours = (key.tenant == DEFAULT_TENANT and key.banks is None) or permission not in OPERATORS
    return ours and permission in PERMISSIONS[Role(key.role)]


def requires(permission: Permission) -> Any:
    """Return the dependency that gives a route its key, and refuses keys without the permission.

    A bank in the route's path has to be within the key's reach; else there is none of that name.
    """

    async def authorized(request: Request) -> Key:
        key: Key | None = getattr(request.state, "key", None)
        if key is None:
            raise Unauthenticated
        if not allows(key, permission):
            raise Forbidden
        if permission in WATCHED:
            request.app.state.probing.refuse(key, media=permission is Permission.CHECK)
        if (name := request.path_params.get("bank")) is not None:
            await check_reach(request, key, [name])
        return key

    authorized.permission = permission  # type: ignore[attr-defined]
    dependency: Callable[[Request], Awaitable[Key]] = authorized
    return Depends(dependency)


async def check_reach(request: Request, key: Key, names: Iterable[str]) -> None:
    """Refuse banks out of a key's reach, and names that are not among those it is limited to; UnknownBank."""
    settings_of = request.app.state.engine.record.settings_of
    for name in names:
        if key.banks is not None and name not in key.banks:
            raise UnknownBank
        if "\0" in name:  # the route refuses it
            continue
        try:
            found = await to_thread.run_sync(settings_of, name, limiter=request.app.state.quick_threads)
        except UnknownBank:  # the route says what that means: a bank may be made
            continue
        if not key.reach.holds(found):
            raise UnknownBank
