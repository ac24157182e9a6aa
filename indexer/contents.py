"""How contents are written: one by one with all they have, or thousands of ready-made hashes as columns.

SQLAlchemy's own ways to insert take longer than the databases; see `engines.insert_rows`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select

from hashing.signals import Frames, Kind, Media, SignalType, Sketches, no_sketches
from indexer.engines import insert_rows
from indexer.guards import Held, Holds
from indexer.hashes import Digest, NewHashes, add_rows
from indexer.store import Change, new_ids, now
from indexer.tables import content


@dataclass(frozen=True, slots=True)
class NewContent:
    """What is to be written of one content. `fingerprint` says which submissions are the same content."""

    fingerprint: str
    media: Media
    frames: Frames
    digests: Sequence[tuple[SignalType, bytes]]
    case: str | None
    labels: Sequence[str]
    sketches: Sketches = field(default_factory=no_sketches)
    lawful_of: int | None = None
    holds: Holds | None = None  # None: nothing is held


@dataclass(frozen=True, slots=True)
class NewList:
    """What is to be written of contents of ready-made hashes, as columns; `owner` is the place of a frame's content."""

    fingerprints: Sequence[str]
    frames_hashed: Sequence[int]
    cases: Sequence[str | None]
    labels: Sequence[Sequence[str]]
    owner: NDArray[np.int64]
    frames: Frames
    held: Held
    digests: Sequence[Digest]  # whose: the place too


def new_hashes(content_pk: int, new: NewContent, chosen: NDArray[np.bool_] | slice = slice(None),
                known: Sequence[tuple[SignalType, bytes]] = ()) -> NewHashes:  # fmt: skip
    """Return the chosen frames, and the digests that are not known, as they are to be written."""
    held = np.zeros(len(new.frames), np.uint8) if new.holds is None else new.holds.frames
    return NewHashes(content_pk, new.frames[chosen], held[chosen], [pair for pair in new.digests if pair not in known])


_NEW = ("content_id", "bank_pk", "fingerprint", "kind", "revision", "width", "height", "enabled", "duration_s",
        "frames_hashed", "case_ref", "labels", "created_at", "lawful_of")  # fmt: skip


def _json(words: Sequence[str]) -> str:
    return json.dumps(list(words)) if words else "[]"


def _insert(change: Change, rows: Sequence[tuple[Any, ...]]) -> list[int]:
    """Write rows of the values of _NEW; returns their keys, which the databases give out in the rows' order."""
    known = select(func.coalesce(func.max(content.c.content_pk), 0))
    before = int(change.connection.execute(known).scalar_one())
    insert_rows(change.connection, content, _NEW, rows)
    mine = select(content.c.content_pk).where(content.c.content_pk > before).order_by(content.c.content_pk)
    return list(change.connection.execute(mine).scalars())


def _row(change: Change, bank_pk: int, new: NewContent, content_id: str, at: str) -> tuple[Any, ...]:
    """Return a content's row: the values of _NEW."""
    media = new.media
    return (
        content_id, bank_pk, new.fingerprint, media.kind.value, change.revision, media.width, media.height, True,
        media.duration_s, media.frames_hashed, new.case, _json(new.labels), at, new.lawful_of,
    )  # fmt: skip


def insert_contents(change: Change, bank_pk: int, news: Sequence[NewContent]) -> list[tuple[int, str]]:
    """Write the rows of contents inside a change; returns their keys and ids."""
    at, ids = now(), new_ids("c", len(news))
    pks = _insert(change, [_row(change, bank_pk, new, name, at) for new, name in zip(news, ids, strict=True)])
    return list(zip(pks, ids, strict=True))


def insert_list(change: Change, bank_pk: int, new: NewList) -> list[tuple[int, str]]:
    """Write contents of a list, with their hashes, inside a change; returns their keys and ids."""
    at, kind = now(), Kind.HASHES.value
    rows = [
        (content_id, bank_pk, mark, kind, change.revision, None, None, True, None, frames, case, labels, at, None)
        for content_id, mark, frames, case, labels in zip(
            new_ids("c", len(new.fingerprints)), new.fingerprints, new.frames_hashed, new.cases,
            map(_json, new.labels), strict=True,
        )
    ]  # fmt: skip
    pks = _insert(change, rows)
    digests = [(pks[number], kind, digest) for number, kind, digest in new.digests]
    add_rows(change, [pks[number] for number in new.owner.tolist()], new.frames, new.held, digests)
    return list(zip(pks, (row[0] for row in rows), strict=True))
