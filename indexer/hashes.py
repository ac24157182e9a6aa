"""Hashes of contents as rows: what the tables `signal` and `exact` hold, to and from arrays.

A hash that is held (see `guards`) stays in the record with the reason, and is in no index
and no answer until a reviewer releases it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, insert, or_, select

from hashing.signals import FRAME_DTYPE, HASH_BYTES, Frames, SignalType
from indexer.guards import Held, Hold, words
from indexer.store import Change
from indexer.tables import exact, signal, sketch

FREE = or_(signal.c.held.is_(None), signal.c.released)
FREE_SKETCH = or_(sketch.c.held.is_(None), sketch.c.released)


def frames_of(rows: Sequence[Any]) -> Frames:
    """Return rows of the table `signal` as rows of FRAME_DTYPE."""
    frames = np.zeros(len(rows), FRAME_DTYPE)
    for name in ("profile", "view", "quality"):
        frames[name] = [getattr(row, name) for row in rows]
    for name in ("timestamp_s", "until_s"):
        frames[name] = [np.nan if getattr(row, name) is None else getattr(row, name) for row in rows]
    joined = b"".join(row.hash for row in rows)
    frames["hash"] = np.frombuffer(joined, np.uint8).reshape(-1, HASH_BYTES)
    return frames


def _signal_values(content_pk: int, frames: Frames, held: Held) -> Iterator[dict[str, Any]]:
    columns = {name: frames[name].tolist() for name in ("profile", "view", "quality", "timestamp_s", "until_s")}
    columns["held"] = words(held)
    codes = np.ascontiguousarray(frames["hash"]).tobytes()
    for place, values in enumerate(zip(*columns.values(), strict=True)):
        row = dict(zip(columns, values, strict=True))
        for name in ("timestamp_s", "until_s"):
            row[name] = None if math.isnan(row[name]) else row[name]
        yield row | {"content_pk": content_pk, "hash": codes[place * HASH_BYTES : (place + 1) * HASH_BYTES]}


@dataclass(frozen=True, slots=True)
class NewHashes:
    """What is to be written of one content's hashes; `held` has a number for each frame (see `guards`)."""

    content_pk: int
    frames: Frames
    held: Held
    digests: Sequence[tuple[SignalType, bytes]]


def add_hashes(change: Change, parts: Sequence[NewHashes]) -> None:
    """Write hashes inside a change."""
    rows = [row for part in parts for row in _signal_values(part.content_pk, part.frames, part.held)]
    if rows:
        change.connection.execute(insert(signal), rows)
    exacts = [
        {"content_pk": part.content_pk, "signal_type": kind.value, "digest": digest}
        for part in parts
        for kind, digest in part.digests
    ]
    if exacts:
        change.connection.execute(insert(exact), exacts)


def hashes_of(
    connection: Connection, content_pk: int, *, shared: bool = False
) -> tuple[list[tuple[SignalType, bytes]], Frames]:
    """Return the digests and the frames of one content.

    `shared` leaves out what would match others' lawful pictures as well; of low quality the rows tell.
    """
    digests = select(exact).where(exact.c.content_pk == content_pk).order_by(exact.c.exact_pk)
    frames = select(signal).where(signal.c.content_pk == content_pk).order_by(signal.c.signal_pk)
    low = signal.c.held == Hold.LOW_QUALITY.value
    found = [(SignalType(row.signal_type), bytes(row.digest)) for row in connection.execute(digests)]
    return found, frames_of(connection.execute(frames.where(or_(FREE, low)) if shared else frames).all())
