"""Withdrawing, and what was withdrawn: the rows of the record that say what is gone for good.

A withdrawn content keeps its row, a tombstone without any hash; a deleted bank leaves none.
Both are told to the store's file of tombstones (see `tombstones`) by the change that does it.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Table, delete, func, select, text, update

from indexer.store import Change, Store, now
from indexer.tables import audit, bank, content, contrast, exact, idempotency, signal, sketch, state

_BATCH = 5000
_KEPT = content.c.withdrawn_at.is_(None)
_AGAIN = "withdrawn before; came back with an older store"
RECEIPT, BACKUP = "erasure.receipt", "store.backup"
_HASHES = (contrast, signal, exact, sketch)
_STORE_ID = select(state.c.store_id).scalar_subquery()
Born = tuple[str, int, str]  # a bank for good, whatever is called like it later: store, bank_pk, created_at


def _orphaned(table: Table) -> ColumnElement[bool]:
    return table.c.content_pk.not_in(select(content.c.content_pk).where(_KEPT))


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[start : start + _BATCH] for start in range(0, len(items), _BATCH))


def withdraw_within(change: Change, which: ColumnElement[bool], reason: str) -> list[str]:
    """Withdraw contents inside a change, unless they are: their hashes are deleted. Returns their ids."""
    marks = {"withdrawn_at": now(), "withdrawn_reason": reason, "revision": change.revision, "fingerprint": None}
    gone = update(content).where(which, _KEPT).values(**marks).returning(content.c.content_pk, content.c.content_id)
    rows = change.connection.execute(gone).all()
    for part in _batches([row.content_pk for row in rows]):
        for table in _HASHES:
            change.connection.execute(delete(table).where(table.c.content_pk.in_(part)))
    change.gone += [{"content": row.content_id} for row in rows]
    return [row.content_id for row in rows]


def delete_bank_within(change: Change, bank_pk: int) -> None:
    """Delete a bank with all its contents inside a change."""
    born = select(_STORE_ID, bank.c.created_at).where(bank.c.bank_pk == bank_pk)
    store_id, created_at = change.connection.execute(born).one()
    change.connection.execute(delete(bank).where(bank.c.bank_pk == bank_pk))
    change.gone.append({"store": store_id, "bank_pk": bank_pk, "born": created_at})


class Withdrawals:
    """What was withdrawn from one store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def ids(self, since: int = -1) -> list[str]:
        """Return the ids of withdrawn contents, of those withdrawn after a revision if one is given."""
        gone = (content.c.withdrawn_at.is_not(None), content.c.revision > since)
        with self.store.read() as connection:
            return list(connection.execute(select(content.c.content_id).where(*gone)).scalars())

    def replay(self, content_ids: Collection[str], banks: Collection[Born]) -> int:
        """Withdraw what of this is here all the same, in one change; returns how many contents and banks."""
        if not self._returned(content_ids) and not self._returned_banks(banks):
            return 0
        with self.store.change("replay") as change:
            done: list[str] = []
            for part in _batches(self._returned(content_ids)):
                done += withdraw_within(change, content.c.content_id.in_(part), _AGAIN)
            deleted = self._returned_banks(banks)
            for bank_pk in deleted:
                delete_bank_within(change, bank_pk)
            change.log("content.replay", "withdrawals", contents=done, banks=len(deleted))
        return len(done) + len(deleted)

    def _returned(self, content_ids: Collection[str]) -> list[str]:
        found: list[str] = []
        with self.store.read() as connection:
            for part in _batches(sorted(content_ids)):
                live = select(content.c.content_id).where(content.c.content_id.in_(part), _KEPT)
                found += connection.execute(live).scalars()
        return found

    def _returned_banks(self, banks: Collection[Born]) -> list[int]:
        if not banks:
            return []
        here = select(_STORE_ID, bank.c.bank_pk, bank.c.created_at)
        with self.store.read() as connection:
            return [row.bank_pk for row in connection.execute(here) if tuple(row) in banks]

    def forget_requests(self, change: Change) -> int:
        """Blank the digests of requests whose answers name what was withdrawn: they were made from media.

        The answer stays, so that a client that asks once more is refused and enrolls nothing anew.
        """
        named = idempotency.c.answer["content_id"].as_string()
        gone = select(content.c.content_id).where(content.c.withdrawn_at.is_not(None))
        stale = update(idempotency).where(named.in_(gone), func.length(idempotency.c.request_digest) > 0)
        return int(change.connection.execute(stale.values(request_digest=b"")).rowcount)

    def gone_since(self, revision: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return which contents were withdrawn, and which banks deleted, after a revision."""
        deleted = select(audit.c.target).where(audit.c.action == "bank.delete", audit.c.revision > revision)
        with self.store.read() as connection:
            return tuple(self.ids(revision)), tuple(connection.execute(deleted).scalars())

    def damage(self) -> list[str]:
        """Return what SQLite finds wrong with its own file; PostgreSQL looks after its own."""
        if self.store.engine.dialect.name != "sqlite":
            return []
        with self.store.read() as connection:
            found = [str(line) for line in connection.execute(text("PRAGMA integrity_check(10)")).scalars()]
            broken = connection.execute(text("PRAGMA foreign_key_check")).all()
        return [line for line in found if line != "ok"] + [f"{len(broken)} broken references"] * bool(broken)

    def schema(self) -> str:
        """Return the migration that the tables are at."""
        with self.store.read() as connection:
            return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())

    def backups(self) -> list[str]:
        """Return where backups were written to, as the audit log has it."""
        written = select(audit.c.target).where(audit.c.action == BACKUP).distinct()
        with self.store.read() as connection:
            return sorted(connection.execute(written).scalars())

    def orphans(self) -> int:
        """Return how many hashes and sketches belong to no content, or to one that was withdrawn."""
        with self.store.read() as connection:
            counted = (select(func.count()).select_from(table).where(_orphaned(table)) for table in _HASHES)
            return sum(int(connection.execute(each).scalar_one()) for each in counted)

    def delete_orphans(self) -> None:
        """Delete them; no withdrawal leaves any."""
        with self.store.change("doctor") as change:
            count = sum(change.connection.execute(delete(t).where(_orphaned(t))).rowcount for t in _HASHES)
            change.log("doctor.repair", "orphans", rows=count)

    def last_receipt(self) -> dict[str, Any] | None:
        """Return what the last receipt of an erasure says."""
        newest = select(audit.c.detail).where(audit.c.action == RECEIPT).order_by(audit.c.seq.desc()).limit(1)
        with self.store.read() as connection:
            found = connection.execute(newest).scalar()
        return None if found is None else dict(found)
