"""Hashes of checked media whose sender agreed: kept for some days, and asked about what is enrolled later.

The mark is the revision up to which all that is kept was asked about. It moves by a transaction
that sees nothing behind the last row which was asked; what is kept later lowers it to the
revision of its own answer. Both begin by locking `state`, like every change. So a sweep that is
cut short is done again, and nothing that is enrolled while a check is under way is overlooked.
Media that matches is not kept, nor is what has matched since: its find says all that is needed,
and hashes of known content stay in the record alone, where an erasure looks for them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import delete, func, insert, select, update

from hashing.signals import FRAME_DTYPE, Kind, Media, Signal, SignalType
from indexer.matcher import Answer
from indexer.policy import Verdict
from indexer.store import Store, new_id, now
from indexer.tables import api_key, content, exact, retro_mark, retro_match, retro_signal

MAX_REFERENCE = 200
_ACTOR = "retro"


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one check."""

    retro_pk: int
    retro_id: str
    key_id: str
    reference: str | None
    kept_at: str
    banks: list[str] | None
    known: frozenset[str]
    signal: Signal


@dataclass(frozen=True, slots=True)
class Find:
    """Content that was enrolled after media which shows it was checked. `match` is as verdicts have it."""

    number: int
    reference: str | None
    key_id: str
    checked_at: str
    found_at: str
    match: dict[str, Any]


def _row(signal: Signal) -> dict[str, Any]:
    digests = [[kind.value, digest.hex()] for kind, digest in signal.exact]
    return {"media": asdict(signal.media), "frames": signal.frames.tobytes(), "exact": digests}


def _signal(row: Any) -> Signal:
    digests = tuple((SignalType(kind), bytes.fromhex(digest)) for kind, digest in row.exact)
    media = Media(**(row.media | {"kind": Kind(row.media["kind"])}))
    return Signal(media, np.frombuffer(row.frames, FRAME_DTYPE), digests)


class Retro:
    """What is kept of checks in one store, and what it matched."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def keep(
        self, signal: Signal, answer: Answer, banks: Sequence[str] | None, *, key_id: str, reference: str | None
    ) -> bool:
        """Keep a signal with the answer it got, unless that is a match; says whether it was kept."""
        if answer.verdict is Verdict.MATCH or not (len(signal.frames) or signal.exact):
            return False
        known = sorted({match.content_id for match in answer.matches})
        row = {"retro_id": new_id("k"), "key_id": key_id, "reference": reference, "kept_at": now(),
               "banks": None if banks is None else list(banks), "known": known}  # fmt: skip
        with self._store.change(_ACTOR, counted=False) as change:
            mark = change.connection.execute(select(retro_mark.c.revision)).scalar()
            any_kept = change.connection.execute(select(retro_signal.c.retro_pk).limit(1)).first() is not None
            if mark is None:
                change.connection.execute(insert(retro_mark).values(mark_pk=1, revision=answer.bank_revision))
            elif answer.bank_revision < mark or not any_kept:
                change.connection.execute(update(retro_mark).values(revision=answer.bank_revision))
            change.connection.execute(insert(retro_signal).values(**row, **_row(signal)))
        return True

    def mark(self) -> int | None:
        """Return the revision up to which all that is kept was asked about; None if nothing is kept."""
        query = select(retro_mark.c.revision).where(select(retro_signal.c.retro_pk).exists())
        with self._store.read() as connection:
            found = connection.execute(query).scalar()
        return None if found is None else int(found)

    def page(self, after: int, limit: int) -> list[Kept]:
        """Return what is kept, in order."""
        query = select(retro_signal).where(retro_signal.c.retro_pk > after).order_by(retro_signal.c.retro_pk)
        with self._store.read() as connection:
            rows = connection.execute(query.limit(limit)).all()
        return [
            Kept(r.retro_pk, r.retro_id, r.key_id, r.reference, r.kept_at, r.banks, frozenset(r.known), _signal(r))
            for r in rows
        ]

    def new_digests(self, revision: int) -> set[tuple[str, bytes]]:
        """Return the exact digests of contents that are newer than a revision."""
        query = select(exact.c.signal_type, exact.c.digest).join(content, content.c.content_pk == exact.c.content_pk)
        with self._store.read() as connection:
            rows = connection.execute(query.where(content.c.revision > revision)).all()
        return {(row.signal_type, bytes(row.digest)) for row in rows}

    def settle(self, kept: Kept, matches: dict[str, dict[str, Any]], *, sure: bool) -> int:
        """Write what a kept signal matched, each content once; a sure match ends its keeping. Returns how many."""
        mine = retro_match.c.retro_id == kept.retro_id
        with self._store.change(_ACTOR, counted=False) as change:
            there = set(change.connection.execute(select(retro_match.c.content_id).where(mine)).scalars())
            about = {"retro_id": kept.retro_id, "key_id": kept.key_id, "reference": kept.reference,
                     "checked_at": kept.kept_at, "found_at": now()}  # fmt: skip
            rows = [
                about | {"content_id": name, "match": match} for name, match in matches.items() if name not in there
            ]
            if rows:
                change.connection.execute(insert(retro_match), rows)
            if sure:
                gone = delete(retro_signal).where(retro_signal.c.retro_pk == kept.retro_pk)
                change.connection.execute(gone)
        return len(rows)

    def finish(self, mark: int, revision: int, last_pk: int) -> bool:
        """Move the mark, unless something is kept behind the last row that was asked, or lowered the mark."""
        with self._store.change(_ACTOR, counted=False) as change:
            newest = change.connection.execute(select(func.max(retro_signal.c.retro_pk))).scalar() or 0
            if newest > last_pk:
                return False
            change.connection.execute(update(retro_mark).where(retro_mark.c.revision == mark).values(revision=revision))
        return True

    def forget(self, days: float) -> int:
        """Forget what was kept, and what was found, longer ago; returns how many kept signals went."""
        limit = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")
        old = retro_signal.c.kept_at <= limit
        old_find = retro_match.c.found_at <= limit
        with self._store.read() as connection:
            kept = connection.execute(select(select(retro_signal.c.retro_pk).where(old).exists())).scalar()
            found = connection.execute(select(select(retro_match.c.match_pk).where(old_find).exists())).scalar()
        if not (kept or found):
            return 0
        with self._store.change(_ACTOR, counted=False) as change:
            change.connection.execute(delete(retro_match).where(old_find))
            return change.connection.execute(delete(retro_signal).where(old)).rowcount

    def finds(self, after: int, limit: int, tenant: str | None = None) -> list[Find]:
        """Return what was found, for one tenant or all, in the order in which it was, from behind a number."""
        query = select(retro_match).where(retro_match.c.match_pk > after).order_by(retro_match.c.match_pk)
        if tenant is not None:
            query = query.where(retro_match.c.key_id.in_(select(api_key.c.key_id).where(api_key.c.tenant == tenant)))
        with self._store.read() as connection:
            rows = connection.execute(query.limit(limit)).all()
        return [Find(r.match_pk, r.reference, r.key_id, r.checked_at, r.found_at, r.match) for r in rows]
