"""Banks: named sets of known content, and the policy by which each answers.

`record.Record` adds the contents and their hashes.
"""

import re
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from hashing.signals import SignalType
from indexer.errors import BankExists, InvalidBank, NotApproved, UnknownBank
from indexer.policy import POLICIES
from indexer.store import Change, Position, Store, now
from indexer.tables import bank, content, source
from indexer.withdrawals import delete_bank_within

_BANK_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
TENANT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\Z")
DEFAULT_TENANT = "default"
OPERATOR = "cli"  # the actor who has the machine
DEFAULT_SIGNAL_TYPES = (SignalType.SHA256, SignalType.MD5, SignalType.PDQ, SignalType.KEYPOINTS)
KEPT = content.c.withdrawn_at.is_(None)
LIVE = and_(KEPT, content.c.lawful_of.is_(None))  # companions are not counted, found or listed as contents
_SWITCHED_OFF = select(source.c.source_pk).where(source.c.source_pk == content.c.source_pk, source.c.enabled.is_(False))
ACTIVE = and_(content.c.enabled.is_(True), LIVE, ~_SWITCHED_OFF.exists())  # what counts in answers


@dataclass(frozen=True, slots=True)
class Bank:
    """A named set of known content, with the policy by which it answers.

    What a `lawful` bank holds never matches: it suppresses matches of the banks that
    `suppresses` names, of all banks of its tenant if that is None.
    """

    bank_pk: int
    name: str
    description: str
    enabled: bool
    policy: str
    signal_types: tuple[SignalType, ...]
    created_at: str
    contents: int = 0
    lawful: bool = False
    suppresses: tuple[str, ...] | None = None
    tenant: str = DEFAULT_TENANT
    two_persons: bool = False  # what one enrolls, another approves before it counts; exports too

    def speaks_for(self, other: "Bank") -> bool:
        """Tell whether what this lawful bank holds suppresses matches of another bank."""
        return other.tenant == self.tenant if self.suppresses is None else other.name in self.suppresses


@dataclass(frozen=True, slots=True)
class Reach:
    """Which banks somebody may ask about: those of a tenant, or those that are named, whosever they are."""

    tenant: str | None = None  # any
    names: frozenset[str] | None = None

    def holds(self, bank: Bank) -> bool:
        """Tell whether a bank is one of them."""
        return bank.name in self.names if self.names is not None else self.tenant in {None, bank.tenant}


EVERYTHING = Reach()


def _bank(row: Row[Any], contents: int) -> Bank:
    types = tuple(SignalType(name) for name in row.signal_types)
    suppresses = None if row.suppresses is None else tuple(row.suppresses)
    return Bank(
        row.bank_pk, row.name, row.description, row.enabled, row.policy, types, row.created_at, contents,
        row.lawful, suppresses, row.tenant, row.two_persons,
    )  # fmt: skip


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    """Refuse settings by which a bank could not answer; InvalidBank."""
    known = {"description", "enabled", "policy", "signal_types", "lawful", "suppresses", "two_persons"}
    types = settings.get("signal_types", DEFAULT_SIGNAL_TYPES)
    right = settings.keys() <= known and settings.get("policy", "default") in POLICIES
    if not right or not types or not set(types) <= set(SignalType):
        raise InvalidBank
    listed = {name: list(settings[name]) for name in ("signal_types", "suppresses") if settings.get(name)}
    return settings | listed


def _told(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings as the audit log tells them: without the words of a description."""
    return {name: value for name, value in settings.items() if name != "description"}


def _check_scope(connection: Connection, settings: dict[str, Any]) -> None:
    """Refuse banks to suppress that there are not: a mistyped name would suppress nothing. InvalidBank."""
    names = settings.get("suppresses")
    if names is None:
        return
    found = connection.execute(select(func.count()).select_from(bank).where(bank.c.name.in_(names))).scalar_one()
    if not names or found < len(set(names)):
        raise InvalidBank("`suppresses` has to name banks that there are")


def _named(connection: Connection, name: str, *, counted: bool) -> Bank:
    row = connection.execute(select(bank).where(bank.c.name == name)).first()
    if row is None:
        raise UnknownBank
    live = select(func.count()).select_from(content).where(content.c.bank_pk == row.bank_pk, LIVE)
    return _bank(row, connection.execute(live).scalar_one() if counted else 0)


class Banks:
    """The banks of one store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._enabled: tuple[Position, tuple[Bank, ...]] | None = None

    def banks(self) -> tuple[Bank, ...]:
        """Return all banks by name, with the number of their live contents."""
        counted = (
            select(content.c.bank_pk, func.count().label("contents")).where(LIVE).group_by(content.c.bank_pk)
        ).subquery()
        query = select(bank, counted.c.contents).outerjoin(counted, counted.c.bank_pk == bank.c.bank_pk)
        with self.store.read() as connection:
            rows = connection.execute(query.order_by(bank.c.name)).all()
        return tuple(_bank(row, row.contents or 0) for row in rows)

    def _settings(self, *which: ColumnElement[bool]) -> tuple[Bank, ...]:
        with self.store.read() as connection:
            rows = connection.execute(select(bank).where(*which).order_by(bank.c.name)).all()
        return tuple(_bank(row, 0) for row in rows)

    def enabled_banks(self) -> tuple[Bank, ...]:
        """Return the banks that answer, without counting what is in them: asked at every check."""
        position, known = self.store.position(), self._enabled
        if known is None or known[0] != position:
            self._enabled = known = position, self._settings(bank.c.enabled.is_(True))  # as of then, or newer
        return known[1]

    def bank_names(self, reach: Reach = EVERYTHING) -> frozenset[str]:
        """Return the names of all banks that are within reach."""
        return frozenset(found.name for found in self._settings() if reach.holds(found))

    def bank(self, name: str) -> Bank:
        """Return one bank; UnknownBank."""
        with self.store.read() as connection:
            return _named(connection, name, counted=True)

    def settings_of(self, name: str) -> Bank:
        """Return one bank, its contents not counted; UnknownBank."""
        with self.store.read() as connection:
            return _named(connection, name, counted=False)

    def bank_within(self, change: Change, name: str, *, counted: bool = False) -> Bank:
        """Return one bank as a change sees it: nobody can delete it meanwhile. UnknownBank."""
        return _named(change.connection, name, counted=counted)

    def create_bank(self, name: str, *, actor: str, tenant: str = DEFAULT_TENANT, **settings: Any) -> Bank:
        """Create a bank; BankExists, InvalidBank. `settings` as for `set_bank`."""
        if not (_BANK_NAME.match(name) and TENANT.match(tenant)):
            raise InvalidBank
        values = {"description": "", "enabled": True, "policy": "default", "signal_types": DEFAULT_SIGNAL_TYPES}
        values = _checked(values | settings)
        try:
            with self.store.change(actor) as change:
                _check_scope(change.connection, values)
                change.connection.execute(insert(bank).values(name=name, tenant=tenant, created_at=now(), **values))
                change.log("bank.create", name, **_told(values))
        except IntegrityError as error:
            raise BankExists from error
        return self.bank(name)

    def set_bank(self, name: str, *, actor: str, **settings: Any) -> Bank:
        """Change description, enabled, policy, signal_types, lawful, suppresses or two_persons of a bank.

        UnknownBank, InvalidBank. That a bank asks for two persons is not for one to end: NotApproved.
        """
        settings = _checked(settings)
        if settings:
            with self.store.change(actor) as change:
                ends = self.bank_within(change, name).two_persons and settings.get("two_persons") is False
                if ends and actor != OPERATOR:
                    raise NotApproved("that it asks for two persons is ended on the machine alone: staydown bank set")
                _check_scope(change.connection, settings)
                change.connection.execute(update(bank).where(bank.c.name == name).values(**settings))
                change.log("bank.set", name, fields=sorted(settings), **_told(settings))
        return self.bank(name)

    def delete_bank(self, name: str, *, actor: str) -> None:
        """Delete a bank with all its contents and hashes, for good; UnknownBank."""
        with self.store.change(actor) as change:
            found = self.bank_within(change, name, counted=True)
            delete_bank_within(change, found.bank_pk)
            change.log("bank.delete", name, contents=found.contents)
