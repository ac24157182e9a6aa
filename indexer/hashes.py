"""Hashes of contents as rows: what the tables `signal` and `exact` hold, to and from arrays.

A hash that is held (see `guards`) stays in the record with the reason, and is in no index
and no answer until a reviewer releases it.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BigInteger, Connection, or_, select

from hashing.signals import FRAME_DTYPE, HASH_BYTES, Frames, SignalType, joined
from indexer.engines import insert_rows, values_of
from indexer.guards import Held, Hold, words
from indexer.store import Change
from indexer.tables import exact, signal, sketch

FREE = or_(signal.c.held.is_(None), signal.c.released)
FREE_SKETCH = or_(sketch.c.held.is_(None), sketch.c.released)


_COLUMNS = ("profile", "view", "quality", "timestamp_s", "until_s")


def frames_of(rows: Sequence[Any]) -> Frames:
    """Return rows of the table `signal` as rows of FRAME_DTYPE."""
    frames = np.zeros(len(rows), FRAME_DTYPE)
    for name in ("profile", "view", "quality"):
        frames[name] = [getattr(row, name) for row in rows]
    for name in ("timestamp_s", "until_s"):
        frames[name] = np.array([getattr(row, name) for row in rows], np.float64)  # None becomes NaN
    frames["hash"] = np.frombuffer(b"".join([row.hash for row in rows]), np.uint8).reshape(-1, HASH_BYTES)
    return frames


def searched(rows: Sequence[Any]) -> tuple[NDArray[np.int64], Frames]:
    """Return rows of (signal_pk, profile, quality, hash) as keys and as frames, of which only these are set."""
    frames = np.zeros(len(rows), FRAME_DTYPE)
    keys, frames["profile"], frames["quality"], codes = zip(*rows, strict=True)
    frames["hash"] = np.frombuffer(b"".join(codes), np.uint8).reshape(-1, HASH_BYTES)
    return np.array(keys, np.int64), frames


@dataclass(frozen=True, slots=True)
class NewHashes:
    """What is to be written of one content's hashes; `held` has a number for each frame (see `guards`)."""

    content_pk: int
    frames: Frames
    held: Held
    digests: Sequence[tuple[SignalType, bytes]]


Digest = tuple[int, SignalType, bytes]  # whose, what, and which


def _codes(frames: Frames) -> list[bytes]:
    codes = frames["hash"].tobytes()
    return [codes[start : start + HASH_BYTES] for start in range(0, len(codes), HASH_BYTES)]


def _signal_rows(content_pks: Sequence[int], frames: Frames, held: Held) -> Iterator[tuple[Any, ...]]:
    """Yield rows of the table: content_pk, _COLUMNS, held, hash."""
    times = [[None if math.isnan(time) else time for time in frames[name].tolist()] for name in _COLUMNS[3:]]
    plain = (frames[name].tolist() for name in _COLUMNS[:3])
    return zip(content_pks, *plain, *times, words(held), _codes(frames), strict=True)


def add_rows(change: Change, content_pks: Sequence[int], frames: Frames, held: Held, digests: Iterable[Digest]) -> None:
    """Write hashes inside a change: columns of one length, and digests."""
    names = ("content_pk", *_COLUMNS, "held", "hash")
    insert_rows(change.connection, signal, names, list(_signal_rows(content_pks, frames, held)))
    exacts = [(content_pk, kind.value, digest) for content_pk, kind, digest in digests]
    insert_rows(change.connection, exact, ("content_pk", "signal_type", "digest"), exacts)


def add_hashes(change: Change, parts: Sequence[NewHashes]) -> None:
    """Write the hashes of several contents inside a change."""
    content_pks = [part.content_pk for part in parts for _ in range(len(part.frames))]
    held = np.concatenate([np.empty(0, np.uint8), *(part.held for part in parts)])
    digests = ((part.content_pk, kind, digest) for part in parts for kind, digest in part.digests)
    add_rows(change, content_pks, joined([part.frames for part in parts]), held, digests)


def lacking(connection: Connection, content_pks: Sequence[int], frames: Frames, digests: Sequence[Digest]) -> set[int]:
    """Return which contents do not have all of these hashes yet: columns of one length, and digests."""
    asked = sorted({*content_pks, *(pk for pk, _, _ in digests)})
    wanted = values_of(connection, asked, BigInteger())
    columns = (signal.c.content_pk, signal.c.profile, signal.c.view, signal.c.hash)
    query = select(*columns).select_from(wanted.outerjoin(signal, signal.c.content_pk == wanted.c.value))
    known = set(map(tuple, connection.execute(query)))
    mine = zip(content_pks, frames["profile"].tolist(), frames["view"].tolist(), _codes(frames), strict=True)
    found = {row[0] for row in mine if row not in known}
    if digests:
        query = select(exact.c.content_pk, exact.c.signal_type, exact.c.digest)
        found_by = wanted.outerjoin(exact, exact.c.content_pk == wanted.c.value)
        known = set(map(tuple, connection.execute(query.select_from(found_by))))
        found |= {pk for pk, kind, digest in digests if (pk, kind.value, digest) not in known}
    return found


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
