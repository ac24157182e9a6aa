"""A hash list in CSV, read column by column: what a column says again and again is read once.

It reads what `manifest` reads line by line (the tests compare the two), many times as fast.
"""

import csv
import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hashing.errors import InvalidHash
from hashing.signals import EXACT_BYTES, HASH_BYTES, Frames, SignalType, joined
from indexer.enroll import ReadyHash, rows_of, signals_of
from indexer.errors import InvalidManifest
from indexer.exchange.manifest import Item, columns_of, described_hash, labels, read_manifest, text_of, word
from indexer.lists import HashList

T = TypeVar("T")
Column = Sequence[str | None]
_NO_FILES = "a hash list names no files; use enroll --manifest for those"
_DESCRIBED = ("signal_type", "quality", "timestamp_s", "profile", "view")
_ZEROS = "0" * 2 * HASH_BYTES


@dataclass(frozen=True, slots=True)
class _Table:
    """The columns of a CSV text by their names, all of one length."""

    columns: dict[str, Column]
    rows: int

    def __getitem__(self, name: str) -> Column:
        return self.columns.get(name, [None] * self.rows)


def read_list(path: Path) -> HashList:
    """Read a list of hashes of either format; InvalidManifest."""
    text = text_of(path)
    if text.startswith("{") or "hash" not in columns_of(text):
        return _of_items(read_manifest(path))
    try:
        return _of_table(_table(text))
    except csv.Error as error:
        raise InvalidManifest(f"{path.name} is not CSV") from error


def _of_items(items: Sequence[Item]) -> HashList:
    if not all(item.hashes for item in items):  # a path, or a link
        raise InvalidManifest(_NO_FILES)
    signals = signals_of([item.hashes for item in items])
    return HashList(
        joined([signal.frames for signal in signals]), np.array([len(each.frames) for each in signals], np.int64),
        [item.case for item in items], [item.labels for item in items],
        {number: signal.exact for number, signal in enumerate(signals) if signal.exact},
    )  # fmt: skip


def _table(text: str) -> _Table:
    names, rows = columns_of(text), [row for row in csv.reader(io.StringIO(text, newline="")) if row][1:]
    table = _Table(dict(zip(names, zip_longest(*rows), strict=False)), len(rows))
    if any(table["path"]):
        raise InvalidManifest(_NO_FILES)
    return table


def _of_table(table: _Table) -> HashList:
    owner, first = _grouped(table["content"])
    ready, which = _described(table)
    hashes = [str(text).strip().lower() for text in table["hash"]]
    framed = np.array([each.signal_type not in EXACT_BYTES for each in ready], np.bool_)[which]
    order = np.argsort(owner, kind="stable")
    rows, exact = order[framed[order]], dict[int, list[tuple[SignalType, bytes]]]()
    for row in order[~framed[order]].tolist():
        kind = ready[which[row]].signal_type
        exact.setdefault(int(owner[row]), []).append((kind, _code(kind, hashes[row])))
    cases, tags = _read(table["case"], word), _read(table["labels"], labels)
    return HashList(
        _frames(ready, which[rows], [hashes[row] for row in rows.tolist()]),
        np.bincount(owner[framed], minlength=len(first)),
        [cases[row] for row in first], [tags[row] for row in first], exact,
    )  # fmt: skip


def _grouped(names: Column) -> tuple[NDArray[np.int64], list[int]]:
    """Return which content each row belongs to, and the first row of each; a row without a name is its own."""
    contents: dict[str | int, int] = {}
    words = _read(names, word)
    owner = [contents.setdefault(name or row, len(contents)) for row, name in enumerate(words)]
    first: dict[int, int] = {}
    for row, content in enumerate(owner):
        first.setdefault(content, row)
    return np.array(owner, np.int64), list(first.values())


def _read(column: Column, read: Callable[[str | None], T]) -> list[T]:
    known = {text: read(text) for text in dict.fromkeys(column)}
    return [known[text] for text in column]


def _described(table: _Table) -> tuple[list[ReadyHash], NDArray[np.int64]]:
    """Return what rows say of their hashes, each once, and which of these each row says."""
    said: dict[tuple[str | None, ...], int] = {}
    which = [said.setdefault(row, len(said)) for row in zip(*map(table.__getitem__, _DESCRIBED), strict=True)]
    ready = [described_hash({"hash": ""} | dict(zip(_DESCRIBED, row, strict=True))) for row in said]
    return ready, np.array(which, np.int64)


def _code(kind: SignalType, text: str) -> bytes:
    try:
        return ReadyHash(kind, text).code()
    except InvalidHash as error:
        raise InvalidManifest(f"not a hash: {error}") from error


def _frames(ready: Sequence[ReadyHash], which: NDArray[np.int64], hashes: Sequence[str]) -> Frames:
    """Return the rows of hashes, each described by one of `ready`."""
    said = [replace(each, hash=_ZEROS) for each in ready]
    for each in said:
        if each.signal_type not in EXACT_BYTES:
            _code(each.signal_type, each.hash)  # there is no list of keypoints
    nothing = ReadyHash(SignalType.PDQ, _ZEROS)
    rows: Frames = rows_of([nothing if each.signal_type in EXACT_BYTES else each for each in said])[which]
    rows["hash"] = np.frombuffer(_codes(hashes), np.uint8).reshape(-1, HASH_BYTES)
    return rows


def _codes(hashes: Sequence[str]) -> bytes:
    """Return hashes of perceptual types as one string of bytes; InvalidManifest."""
    text = "".join(hashes)
    if text.isalnum() and set(map(len, hashes)) == {len(_ZEROS)}:
        with suppress(ValueError):
            return bytes.fromhex(text)
    return b"".join(_code(SignalType.PDQ, each) for each in hashes)
