"""What is held of contents, and what reviewers say about it.

The record keeps two columns beside a hash: the reason why a guard holds it, and whether a
reviewer released it all the same. A hash that is released gets a new key, and its content
the change's revision: so every index takes it in as it takes in what is new.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Table, and_, delete, false, func, insert, not_, select, true, update

from hashing.signals import Frames
from indexer.banks import LIVE
from indexer.errors import UnknownContent
from indexer.guards import RELEASABLE, Hold
from indexer.hashes import FREE, FREE_SKETCH, frames_of
from indexer.store import Change, Store
from indexer.tables import content, contrast, signal, sketch

_BATCH = 5000


@dataclass(frozen=True, slots=True)
class FreeRows:
    """Hashes that are not held and never were, as columns of one length."""

    signal_pk: NDArray[np.int64]
    content_pk: NDArray[np.int64]
    rows: Frames


def _chosen(
    table: Table, content_pk: int, reasons: Sequence[Hold], *, released: bool
) -> tuple[ColumnElement[bool], ...]:
    state = true() if released else false()
    return (
        table.c.content_pk == content_pk,
        table.c.held.in_([reason.value for reason in reasons if reason in RELEASABLE]),
        table.c.released == state,
    )


def _touch(change: Change, content_pk: int) -> None:
    """Say that a content changed, to every index; UnknownContent if it was withdrawn."""
    live = update(content).where(content.c.content_pk == content_pk, LIVE)
    if not change.connection.execute(live.values(revision=change.revision)).rowcount:
        raise UnknownContent


class HoldBook:
    """The holds of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def counts(self, content_pk: int) -> dict[str, int]:
        """Return how many hashes and sketches of a content are held, by reason."""
        found: dict[str, int] = {}
        with self._store.read() as connection:
            for table, free in ((signal, FREE), (sketch, FREE_SKETCH)):
                query = select(table.c.held, func.count()).where(table.c.content_pk == content_pk, not_(free))
                for reason, count in connection.execute(query.group_by(table.c.held)):
                    found[reason] = found.get(reason, 0) + count
        return found

    def release(self, content_pk: int, content_id: str, reasons: Sequence[Hold], *, actor: str) -> int:
        """Let what is held for these reasons match; returns how many rows there were. UnknownContent."""
        with self._store.change(actor) as change:
            _touch(change, content_pk)
            count = self._release_frames(change, content_pk, reasons) + self._release_sketches(
                change, content_pk, reasons
            )
            change.log("content.release", content_id, reasons=sorted(reasons), rows=count)
        return count

    @staticmethod
    def _release_frames(change: Change, content_pk: int, reasons: Sequence[Hold]) -> int:
        chosen = _chosen(signal, content_pk, reasons, released=False)
        copied = [column for column in signal.c if column.name not in {"signal_pk", "released"}]
        again = select(*copied, true()).where(*chosen).order_by(signal.c.signal_pk)
        names = [column.name for column in copied] + ["released"]
        change.connection.execute(insert(signal).from_select(names, again))
        return change.connection.execute(delete(signal).where(*chosen)).rowcount

    @staticmethod
    def _release_sketches(change: Change, content_pk: int, reasons: Sequence[Hold]) -> int:
        """One by one: how companions look there (`contrast`) goes with the sketch."""
        chosen = select(sketch).where(*_chosen(sketch, content_pk, reasons, released=False))
        rows = change.connection.execute(chosen.order_by(sketch.c.sketch_pk)).all()
        for row in rows:
            values: dict[str, Any] = {**row._mapping, "released": True}
            old = values.pop("sketch_pk")
            made = insert(sketch).values(values).returning(sketch.c.sketch_pk)
            new = change.connection.execute(made).scalar_one()
            moved = update(contrast).where(contrast.c.sketch_pk == old)
            change.connection.execute(moved.values(sketch_pk=new))
            change.connection.execute(delete(sketch).where(sketch.c.sketch_pk == old))
        return len(rows)

    def restore(self, content_pk: int, content_id: str, reasons: Sequence[Hold], *, actor: str) -> int:
        """Hold again what was released; returns how many rows there were. UnknownContent."""
        with self._store.change(actor) as change:
            _touch(change, content_pk)
            count = 0
            for table in (signal, sketch):
                chosen = update(table).where(*_chosen(table, content_pk, reasons, released=True))
                count += change.connection.execute(chosen.values(released=False)).rowcount
            change.log("content.hold", content_id, reasons=sorted(reasons), rows=count)
        return count

    def unheld(self, content_pks: Sequence[int]) -> FreeRows:
        """Return the hashes of contents that no guard holds; those that a reviewer released are left out."""
        query = select(signal).where(signal.c.content_pk.in_(content_pks), signal.c.held.is_(None))
        with self._store.read() as connection:
            rows = connection.execute(query.order_by(signal.c.signal_pk)).all()
        keys, contents = ([getattr(row, name) for row in rows] for name in ("signal_pk", "content_pk"))
        return FreeRows(np.array(keys, np.int64), np.array(contents, np.int64), frames_of(rows))

    def hold(self, change: Change, content_pk: int, content_id: str, found: Sequence[tuple[int, Hold]]) -> None:
        """Hold hashes by their keys inside a change, and the sketches of the same frames."""
        _touch(change, content_pk)
        for reason in sorted({reason for _, reason in found}):
            keys = [key for key, why in found if why is reason]
            for start in range(0, len(keys), _BATCH):
                self._hold(change, content_pk, keys[start : start + _BATCH], reason)
            change.log("content.hold", content_id, reasons=[reason.value], rows=len(keys))

    @staticmethod
    def _hold(change: Change, content_pk: int, keys: Sequence[int], reason: Hold) -> None:
        execute, mine = change.connection.execute, and_(signal.c.signal_pk.in_(keys), signal.c.held.is_(None))
        times = set(execute(select(signal.c.timestamp_s).where(mine)).scalars())
        execute(update(signal).where(mine).values(held=reason.value))
        same: ColumnElement[bool] = sketch.c.timestamp_s.in_([time for time in times if time is not None])
        if None in times:
            same = same | sketch.c.timestamp_s.is_(None)
        bound = (sketch.c.content_pk == content_pk, sketch.c.held.is_(None), same)
        execute(update(sketch).where(*bound).values(held=reason.value))
