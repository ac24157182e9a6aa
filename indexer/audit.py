"""The audit log: read, held against itself, and held against heads of it that were taken earlier.

Each entry's link is the SHA-256 of the link before and of the entry; the last stands in `state` too.
So no entry can be changed, left out, put in or moved without the chain breaking there. Whoever can
write every table could still make the whole chain anew from some entry on, or cut its end and set
`state` back: a signed head that was kept elsewhere shows that.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, LargeBinary, Text, cast, select, type_coerce
from sqlalchemy.types import NullType

from indexer.errors import NotSigned
from indexer.signing import Signer, check_signed
from indexer.store import Store, entry_digest, now
from indexer.tables import audit, state

HEAD = "staydown-audit-head/1"
_ROWS = 5000


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


@dataclass(frozen=True, slots=True)
class Head:
    """The place and the link of what was the last entry, as somebody signed it."""

    store_id: str
    seq: int
    link: bytes


def read_head(document: Any, public_key: str | None = None) -> Head:
    """Return a head that was exported; NotSigned unless it is as it was signed, and by this key if one is named."""
    said = check_signed(document, public_key)
    try:
        if said["format"] != HEAD:
            raise NotSigned("this is no head of an audit log")
        return Head(str(said["store_id"]), int(said["seq"]), bytes.fromhex(said["link"]))
    except (KeyError, ValueError, TypeError) as error:
        raise NotSigned("this is no head of an audit log") from error


def _detail(text: str) -> dict[str, Any]:
    """Read an entry's detail; what is no JSON any more was tampered with, and breaks the chain."""
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError:
        return {"unreadable": text}
    return found if json.dumps(found) == text else {"unreadable": text}  # a name twice reads alike, and is not ours


def _columns(connection: Connection) -> list[ColumnElement[Any]]:
    """Return the columns as they lie there: SQLite gives bytes that are no text only where bytes are asked for."""
    kind = LargeBinary() if connection.dialect.name == "sqlite" else Text()
    words = [cast(audit.c[name], kind).label(name) for name in ("at", "actor", "action", "target", "detail")]
    return [audit.c.seq, *words, audit.c.revision, type_coerce(audit.c.digest, NullType()).label("digest")]


def _word(value: Any) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _entries(connection: Connection, after: int = 0, upto: int | None = None) -> Iterator[tuple[Entry, bytes]]:
    query = select(*_columns(connection)).order_by(audit.c.seq)
    query = query.where(audit.c.seq > after) if after else query
    query = query if upto is None else query.limit(upto)
    for row in connection.execution_options(yield_per=_ROWS).execute(query):
        at, actor, action, target, detail = map(_word, row[1:6])
        yield Entry(row.seq, at, actor, action, target, _detail(detail), row.revision), row.digest


class AuditLog:
    """The audit log of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def entries(self) -> Iterator[tuple[Entry, bytes]]:
        """Yield the audit log in order, each entry with its link."""
        with self._store.stream() as connection:
            yield from _entries(connection)

    def page(self, after: int, limit: int) -> list[Entry]:
        """Return some entries from behind a place."""
        with self._store.stream() as connection:
            return [entry for entry, _ in _entries(connection, after, limit)]

    def verify(self, heads: Sequence[Head] = ()) -> tuple[int, int | None]:
        """Check the chain; returns the number of entries, and the first broken or missing one or None.

        Where the chain is whole and a head disagrees, something up to that head's entry is not what was signed.
        """
        with self._store.moment() as connection:
            said = connection.execute(select(state.c.store_id, state.c.audit_digest)).one()
            if strange := [head for head in heads if head.store_id != said.store_id]:
                raise NotSigned(f"this head is of another store, {strange[0].store_id}")
            count, broken, link = _walk(_entries(connection), {head.seq: head.link for head in heads})
        if broken is None and (link != bytes(said.audit_digest) or any(head.seq > count for head in heads)):
            broken = count + 1
        return count, broken

    def signed_head(self, signer: Signer) -> dict[str, Any]:
        """Return the last entry's place and link, signed: to be kept where this database's owner cannot write."""
        with self._store.moment() as connection:
            store_id = connection.execute(select(state.c.store_id)).scalar_one()
            last = connection.execute(select(audit.c.seq, audit.c.digest).order_by(audit.c.seq.desc()).limit(1)).first()
        seq, link = (0, b"") if last is None else (int(last.seq), bytes(last.digest))
        return signer.signed({"format": HEAD, "store_id": store_id, "seq": seq, "link": link.hex(), "at": now()})

    def log_read(self, actor: str, action: str, target: str, **detail: Any) -> None:
        """Write that somebody reads what not everybody may, before it is shown; StoreBroken."""
        with self._store.change(actor, counted=False) as change:
            change.log(action, target, **detail)


def _walk(entries: Iterator[tuple[Entry, bytes]], heads: Mapping[int, bytes]) -> tuple[int, int | None, bytes]:
    """Return how many entries there are up to the first that is broken, which that is, and the last link."""
    link, count = b"", 0
    for entry, digest in entries:
        fields = {"at": entry.at, "actor": entry.actor, "action": entry.action, "target": entry.target,
                  "detail": entry.detail, "revision": entry.revision}  # fmt: skip
        count += 1
        if entry.seq != count or entry_digest(link, fields) != digest or heads.get(count, digest) != digest:
            return count, entry.seq, link
        link = digest
    return count, None, link
