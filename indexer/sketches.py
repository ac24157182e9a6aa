"""The sketches of contents: the rows that keypoints are searched and confirmed with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Row, func, insert, not_, select

from hashing.keypoints import pack_sketch, unpack_sketch
from hashing.signals import Sketches, no_sketches
from indexer.banks import ACTIVE
from indexer.guards import Holds, words
from indexer.hashes import FREE_SKETCH
from indexer.store import Change, Store
from indexer.tables import content, sketch

_BATCH = 500


@dataclass(frozen=True, slots=True)
class LocatedSketches:
    """Where sketches stand, as columns of one length; only what is active in the banks asked for."""

    sketch_pk: NDArray[np.int64]
    content_pk: NDArray[np.int64]
    rows: Sketches


@dataclass(frozen=True, slots=True)
class NewSketches:
    """Sketches and the banks that have them, as columns of one length."""

    sketch_pk: NDArray[np.int64]
    bank_pk: NDArray[np.int64]
    rows: Sketches


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _row(row: Row[Any]) -> Sketches:
    times = [float("nan") if value is None else value for value in (row.timestamp_s, row.until_s)]
    return unpack_sketch(row.data, *times)


class SketchBook:
    """The sketches of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @staticmethod
    def add(change: Change, content_pk: int, sketches: Sketches, holds: Holds | None = None) -> None:
        """Write a content's sketches inside a change, unless it has some already. `holds`: see NewContent."""
        if not len(sketches):
            return
        known = select(func.count()).select_from(sketch).where(sketch.c.content_pk == content_pk)
        if change.connection.execute(known).scalar_one():
            return
        reasons = [None] * len(sketches) if holds is None else words(holds.sketches)
        values = [
            {"content_pk": content_pk, "timestamp_s": _or_none(row["timestamp_s"]),
             "until_s": _or_none(row["until_s"]), "data": pack_sketch(row), "held": reason}
            for row, reason in zip(sketches, reasons, strict=True)
        ]  # fmt: skip
        change.connection.execute(insert(sketch), values)

    def of_content(self, content_pk: int) -> Sketches:
        """Return all sketches of one content."""
        query = select(sketch).where(sketch.c.content_pk == content_pk).order_by(sketch.c.sketch_pk)
        with self._store.read() as connection:
            return np.concatenate([no_sketches(), *(_row(row) for row in connection.execute(query))])

    def since(self, sketch_pk: int) -> Iterator[NewSketches]:
        """Yield the sketches behind a key, in order of their keys, some at a time."""
        query = (
            select(sketch, content.c.bank_pk)
            .join(content, content.c.content_pk == sketch.c.content_pk)
            .where(sketch.c.sketch_pk > sketch_pk, FREE_SKETCH)
            .order_by(sketch.c.sketch_pk)
        )
        with self._store.stream() as connection:
            for rows in connection.execution_options(yield_per=_BATCH).execute(query).partitions():
                yield NewSketches(
                    np.array([row.sketch_pk for row in rows], np.int64),
                    np.array([row.bank_pk for row in rows], np.int64),
                    np.concatenate([_row(row) for row in rows]),
                )

    def keys(self) -> NDArray[np.int64]:
        """Return the keys of all sketches that can be found."""
        with self._store.read() as connection:
            query = select(sketch.c.sketch_pk).where(FREE_SKETCH)
            return np.array(connection.execute(query).scalars().all(), np.int64)

    def held_since(self, revision: int, sketch_pk: int) -> bool:
        """Say whether a sketch up to a key belongs to a content changed after `revision` and is held: it may be new."""
        query = (
            select(sketch.c.sketch_pk)
            .join(content, content.c.content_pk == sketch.c.content_pk)
            .where(content.c.revision > revision, sketch.c.sketch_pk <= sketch_pk, not_(FREE_SKETCH))
        )
        with self._store.read() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def times(self, content_pk: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the keys of a content's sketches, and their times in seconds (NaN: a still)."""
        query = select(sketch.c.sketch_pk, sketch.c.timestamp_s).where(sketch.c.content_pk == content_pk)
        with self._store.read() as connection:
            found = connection.execute(query.order_by(sketch.c.sketch_pk)).all()
        times = [np.nan if row.timestamp_s is None else row.timestamp_s for row in found]
        return np.array([row.sketch_pk for row in found], np.int64), np.array(times, np.float64)

    def rows(self, sketch_pks: Sequence[int]) -> dict[int, np.void]:
        """Return sketches by their keys."""
        with self._store.read() as connection:
            found = connection.execute(select(sketch).where(sketch.c.sketch_pk.in_(sketch_pks))).all()
        return {row.sketch_pk: _row(row)[0] for row in found}

    def withdrawn_since(self, revision: int) -> bool:
        """Say whether a content was withdrawn after `revision`."""
        query = select(content.c.content_pk).where(content.c.revision > revision, content.c.withdrawn_at.is_not(None))
        with self._store.read() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def locate(self, sketch_pks: Sequence[int], bank_pks: Sequence[int]) -> LocatedSketches:
        """Return where sketches stand; those held, withdrawn, disabled or of other banks are left out."""
        query = (
            select(sketch)
            .join(content, content.c.content_pk == sketch.c.content_pk)
            .where(sketch.c.sketch_pk.in_(sketch_pks), content.c.bank_pk.in_(bank_pks))
            .where(ACTIVE, FREE_SKETCH)
            .order_by(sketch.c.sketch_pk)
        )
        with self._store.read() as connection:
            found = connection.execute(query).all()
        return LocatedSketches(
            np.array([row.sketch_pk for row in found], np.int64),
            np.array([row.content_pk for row in found], np.int64),
            np.concatenate([no_sketches(), *(_row(row) for row in found)]),
        )
