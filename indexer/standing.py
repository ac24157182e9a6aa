"""Where contents come from and whether they count: proposed and approved by two persons, and switched by source.

In a bank of two persons what one enrolls is proposed: it is disabled until somebody else approves it, and
hashes are exported after somebody else approved that. A person is a key; who has the machine is `cli`.
A source is a name that contents come under, such as a partner's list; what comes from one that is switched
off is in no answer, from that moment on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, func, insert, select, update

from indexer.banks import KEPT, LIVE, TENANT, Bank
from indexer.errors import InvalidSource, NothingToApprove, OwnProposal
from indexer.store import Change, Store, new_id, now
from indexer.tables import api_key, content, export, source

PENDING = and_(content.c.proposed_by.is_not(None), content.c.approved_by.is_(None), KEPT)
EXPORT_S = 86_400.0  # within which an export has to be approved, and written
_BATCH = 5000


@dataclass(frozen=True, slots=True)
class Source:
    """A name that contents come under; `contents` and `proposed` count those that are live."""

    name: str
    tenant: str
    enabled: bool
    contents: int
    proposed: int


@dataclass(frozen=True, slots=True)
class Export:
    """A request to read all hashes of a bank."""

    export_id: str
    requested_by: str
    requested_at: str
    expires_at: str
    approved_by: str | None


class StandingBook:
    """Proposals, approvals and sources of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # Contents

    def mark(self, change: Change, of: Bank, content_pks: Sequence[int], name: str | None) -> None:
        """Write where new contents come from, and propose them if their bank asks for two persons; InvalidSource."""
        values: dict[str, Any] = {} if name is None else {"source_pk": self._source_pk(change, of.tenant, name)}
        if of.two_persons:
            values |= {"enabled": False, "proposed_by": change.actor}
        for start in range(0, len(content_pks) if values else 0, _BATCH):
            mine = content.c.content_pk.in_(content_pks[start : start + _BATCH])
            change.connection.execute(update(content).where(mine).values(**values))

    def approve(
        self, of: Bank, *, actor: str, content_ids: Sequence[str] | None = None, name: str | None = None
    ) -> int:
        """Let what others proposed count: contents by their ids, or all of a source; returns how many.

        OwnProposal if it is the asker's own, NothingToApprove if there is nothing of the kind; then nothing is done.
        """
        chosen = [content.c.bank_pk == of.bank_pk, PENDING]
        if content_ids is not None:
            chosen.append(content.c.content_id.in_(content_ids))
        if name is not None:
            chosen.append(content.c.source_pk.in_(select(source.c.source_pk).where(_named(of.tenant, name))))
        with self._store.change(actor) as change:
            found = select(content.c.proposed_by, content.c.content_id).where(*chosen)
            proposed = change.connection.execute(found).all()
            if not proposed or (content_ids is not None and len(proposed) < len(set(content_ids))):
                raise NothingToApprove
            if actor in {row.proposed_by for row in proposed}:
                raise OwnProposal
            values = {"enabled": True, "approved_by": actor, "revision": change.revision}
            change.connection.execute(update(content).where(*chosen).values(**values))
            change.log("content.approve", of.name, content_ids=sorted(row.content_id for row in proposed), source=name)
        return len(proposed)

    def proposed(self, of: Bank) -> dict[tuple[str, str | None], int]:
        """Return how many contents wait for approval, by who proposed them and from which source."""
        query = (
            select(content.c.proposed_by, source.c.name, func.count())
            .outerjoin(source, source.c.source_pk == content.c.source_pk)
            .where(content.c.bank_pk == of.bank_pk, PENDING)
            .group_by(content.c.proposed_by, source.c.name)
        )
        with self._store.read() as connection:
            return {(by, name): count for by, name, count in connection.execute(query)}

    # Sources

    def _source_pk(self, change: Change, tenant: str, name: str) -> int:
        if not TENANT.match(name):
            raise InvalidSource
        known = change.connection.execute(select(source.c.source_pk).where(_named(tenant, name))).scalar()
        if known is not None:
            return int(known)
        made = insert(source).values(tenant=tenant, name=name, enabled=True, created_at=now())
        change.log("source.create", name)
        return int(change.connection.execute(made.returning(source.c.source_pk)).scalar_one())

    def sources(self, tenant: str | None = None) -> tuple[Source, ...]:
        """Return the sources of a tenant, or of all, by name."""
        live = (
            select(
                content.c.source_pk, func.count().label("contents"),
                func.count(content.c.proposed_by).filter(PENDING).label("proposed"),
            ).where(LIVE, content.c.source_pk.is_not(None)).group_by(content.c.source_pk)
        ).subquery()  # fmt: skip
        query = select(source, live.c.contents, live.c.proposed).outerjoin(live, live.c.source_pk == source.c.source_pk)
        if tenant is not None:
            query = query.where(source.c.tenant == tenant)
        with self._store.read() as connection:
            rows = connection.execute(query.order_by(source.c.name, source.c.tenant)).all()
        return tuple(Source(row.name, row.tenant, row.enabled, row.contents or 0, row.proposed or 0) for row in rows)

    def set_source(self, tenant: str, name: str, *, enabled: bool, actor: str) -> None:
        """Switch a source off or on, which may have nothing yet; InvalidSource."""
        with self._store.change(actor) as change:
            mine = source.c.source_pk == self._source_pk(change, tenant, name)
            change.connection.execute(update(source).where(mine).values(enabled=enabled))
            change.log("source.set", name, tenant=tenant, enabled=enabled)

    def source_names(self, content_pks: Sequence[int]) -> dict[int, str]:
        """Return from which sources contents come; those of none are left out."""
        query = select(content.c.content_pk, source.c.name).join(source, source.c.source_pk == content.c.source_pk)
        with self._store.read() as connection:
            return dict(map(tuple, connection.execute(query.where(content.c.content_pk.in_(content_pks)))))

    # Exports

    def request_export(self, of: Bank, *, actor: str) -> Export:
        """Ask for an export; somebody else has to approve it within a day."""
        expires = (datetime.now(UTC) + timedelta(seconds=EXPORT_S)).isoformat(timespec="seconds")
        made = Export(new_id("e"), actor, now(), expires, None)
        with self._store.change(actor, counted=False) as change:
            values = {"requested_by": actor, "requested_at": made.requested_at, "expires_at": expires}
            change.connection.execute(insert(export).values(export_id=made.export_id, bank_pk=of.bank_pk, **values))
            change.log("export.request", made.export_id, bank=of.name, expires_at=expires)
        return made

    def exports(self, of: Bank) -> tuple[Export, ...]:
        """Return the requests that can still be approved or used."""
        columns = (export.c.export_id, export.c.requested_by, export.c.requested_at, export.c.expires_at)
        query = select(*columns, export.c.approved_by).where(*_open(of)).order_by(export.c.requested_at)
        with self._store.read() as connection:
            return tuple(Export(*row) for row in connection.execute(query))

    def approve_export(self, of: Bank, export_id: str, *, actor: str) -> None:
        """Let an export be written, once; OwnProposal, NothingToApprove.

        A key that was made after the request is taken for one that was made for it: it is the asker's own.
        """
        with self._store.change(actor, counted=False) as change:
            mine = (export.c.export_id == export_id, *_open(of), export.c.approved_by.is_(None))
            found = change.connection.execute(select(export).where(*mine)).first()
            if found is None:
                raise NothingToApprove
            made = select(api_key.c.created_at).where(api_key.c.key_id == actor)
            made_at = change.connection.execute(made).scalar()
            if actor == found.requested_by or made_at is None or made_at >= found.requested_at:
                raise OwnProposal
            change.connection.execute(update(export).where(*mine).values(approved_by=actor))
            change.log("export.approve", export_id, bank=of.name)

    def take_export(self, of: Bank, export_id: str, *, actor: str) -> Export:
        """Use an approved request up; NothingToApprove unless it is approved, in time and not used yet."""
        with self._store.change(actor, counted=False) as change:
            mine = (export.c.export_id == export_id, *_open(of), export.c.approved_by.is_not(None))
            found = change.connection.execute(select(export).where(*mine)).first()
            if found is None:
                raise NothingToApprove("this export is not approved, too old, or was written already")
            change.connection.execute(update(export).where(*mine).values(used_at=now()))
            change.log("export.use", export_id, bank=of.name)
        return Export(export_id, found.requested_by, found.requested_at, found.expires_at, found.approved_by)


def _named(tenant: str, name: str) -> ColumnElement[bool]:
    return and_(source.c.tenant == tenant, source.c.name == name)


def _open(of: Bank) -> tuple[ColumnElement[bool], ...]:
    return export.c.bank_pk == of.bank_pk, export.c.used_at.is_(None), export.c.expires_at > now()
