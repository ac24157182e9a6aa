"""Roles and the permissions they carry."""

import pytest

from indexer.keys import Key
from service.auth import PERMISSIONS, Permission, Role, allows


def key(role: str) -> Key:
    return Key("k_1", role, "", "2026-01-01", None)


def test_every_role_has_its_permissions_and_no_other() -> None:
    assert set(PERMISSIONS) == set(Role)
    assert PERMISSIONS[Role.CHECK] == {Permission.CHECK, Permission.DOCS}
    assert PERMISSIONS[Role.ADMIN] == set(Permission)


def test_who_sees_evidence() -> None:
    seeing = {role for role in Role if allows(key(role), Permission.EVIDENCE)}
    assert seeing == {Role.LOOKUP, Role.ENROLL, Role.REVIEW, Role.ADMIN}


def test_who_may_change_what_is_known() -> None:
    assert {role for role in Role if allows(key(role), Permission.ENROLL)} == {Role.ENROLL, Role.ADMIN}
    assert {role for role in Role if allows(key(role), Permission.MANAGE)} == {Role.ADMIN}


def test_a_role_that_there_is_not_allows_nothing() -> None:
    with pytest.raises(ValueError, match="root"):
        allows(key("root"), Permission.CHECK)
