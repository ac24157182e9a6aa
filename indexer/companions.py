"""Companions: the lawful originals of contents, which tell a deepfake from its base footage.

A companion is a row of `content` with `lawful_of`, with hashes of its own. No search finds
it: it is asked about where its content was found. `contrast` holds how it looks where its
content was sketched (`hashing.contrast`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import insert, select

from hashing.contrast import Contrasts, Grid
from hashing.signals import Kind
from indexer.banks import KEPT, LIVE
from indexer.store import Change, Store
from indexer.tables import content, contrast


@dataclass(frozen=True, slots=True)
class Companion:
    """One lawful original: the key of the content it belongs to, and what it was made of."""

    content_pk: int
    content_id: str
    lawful_of: int
    kind: Kind


class CompanionBook:
    """The companions of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def of(self, content_pks: Sequence[int]) -> dict[int, tuple[Companion, ...]]:
        """Return the companions of contents, in order of their enrolment; contents without any are left out."""
        if not content_pks:  # most checks find nothing
            return {}
        query = select(content).where(content.c.lawful_of.in_(content_pks), content.c.enabled.is_(True), KEPT)
        with self._store.read() as connection:
            rows = connection.execute(query.order_by(content.c.content_pk)).all()
        found: dict[int, tuple[Companion, ...]] = {}
        for row in rows:
            one = Companion(row.content_pk, row.content_id, row.lawful_of, Kind(row.kind))
            found[row.lawful_of] = (*found.get(row.lawful_of, ()), one)
        return found

    @staticmethod
    def may_have(change: Change, content_pk: int) -> bool:
        """Say whether a content can be given companions: it is none itself, and not withdrawn, as a change sees it."""
        query = select(content.c.content_pk).where(content.c.content_pk == content_pk, LIVE)
        return change.connection.execute(query).first() is not None

    def grids(self, sketch_pks: Sequence[int], companion_pk: int) -> dict[int, Grid]:
        """Return how a companion looks where these sketches were taken; those that it does not show are left out."""
        query = select(contrast.c.sketch_pk, contrast.c.data).where(contrast.c.content_pk == companion_pk)
        with self._store.read() as connection:
            rows = connection.execute(query.where(contrast.c.sketch_pk.in_(sketch_pks))).all()
        return {row.sketch_pk: np.frombuffer(row.data, np.uint8) for row in rows}

    @staticmethod
    def add(change: Change, companion_pk: int, sketch_pks: Sequence[int], rows: Contrasts) -> int:
        """Write the contrasts that were found and are not kept yet, inside a change; returns how many are new."""
        held = select(contrast.c.sketch_pk).where(contrast.c.content_pk == companion_pk)
        known = set(change.connection.execute(held).scalars())
        values = [
            {"sketch_pk": pk, "content_pk": companion_pk, "data": row["grid"].tobytes()}
            for pk, row in zip(sketch_pks, rows, strict=True)
            if row["found"] and pk not in known
        ]
        if values:
            change.connection.execute(insert(contrast), values)
        return len(values)
