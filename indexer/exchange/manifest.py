"""Lists of media or of ready-made hashes: folders, CSV, JSON Lines, plain lists of paths.

CSV has a header line. Columns, all but one of the first two optional:
`path` · `signal_type`, `hash`, `quality`, `timestamp_s`, `profile`, `view` · `content` (rows with
the same value are one content) · `case` · `labels` (separated by `;`).
JSON Lines has one object a line with `path`, or `signals` (a list of objects), or one
hash in place; `case`, and `labels` as a list. Anything else is a list of paths, one a line.
Relative paths are relative to the manifest's folder.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hashing.errors import InvalidHash
from hashing.signals import MAX_QUALITY, SignalType, View
from indexer.enroll import ReadyHash
from indexer.errors import InvalidManifest


@dataclass(frozen=True, slots=True)
class Item:
    """One input: `name` as it is listed, and either the path of media or ready-made hashes."""

    name: str
    path: Path | None = None
    hashes: tuple[ReadyHash, ...] = ()
    case: str | None = None
    labels: tuple[str, ...] = field(default=())


def _number(value: Any, kind: type[int] | type[float]) -> Any:
    if value in (None, ""):
        return None
    try:
        return kind(value)
    except (TypeError, ValueError) as error:
        raise InvalidManifest(f"{value!r} is no number") from error


def ready_hash(entry: dict[str, Any]) -> ReadyHash:
    """Read one hash of a manifest; InvalidManifest."""
    try:
        found = ReadyHash(
            SignalType(str(entry.get("signal_type") or "pdq")),
            str(entry["hash"]).strip().lower(),
            _number(entry.get("quality"), int),
            _number(entry.get("timestamp_s"), float),
            entry.get("profile") or None,
            View(entry.get("view") or View.FULL),
        )
        found.code()
        _check_quality(found.quality)
    except (KeyError, ValueError, InvalidHash) as error:
        raise InvalidManifest(f"not a hash: {error}") from error
    return found


def _check_quality(quality: int | None) -> None:
    if quality is not None and not 0 <= quality <= MAX_QUALITY:
        raise InvalidManifest(f"a quality is from 0 to {MAX_QUALITY}")


def _labels(value: Any) -> tuple[str, ...]:
    parts = value if isinstance(value, list) else str(value or "").split(";")
    return tuple(str(part).strip() for part in parts if str(part).strip())


def _item(entry: dict[str, Any], base: Path, number: int) -> Item:
    case, labels = entry.get("case") or None, _labels(entry.get("labels"))
    if entry.get("path"):
        name = str(entry["path"])
        return Item(name, base / name, (), case, labels)
    listed = entry.get("signals") if isinstance(entry.get("signals"), list) else [entry]
    hashes = tuple(ready_hash(signal) for signal in listed or [] if isinstance(signal, dict))
    if not hashes:
        raise InvalidManifest("an entry has neither a path nor a hash")
    return Item(str(entry.get("content") or f"#{number}"), None, hashes, case, labels)


def _csv_items(text: str, base: Path) -> Iterator[Item]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for number, row in enumerate(csv.DictReader(io.StringIO(text)), start=1):
        if row.get("path"):
            yield _item(dict(row), base, number)
        else:
            grouped.setdefault(row.get("content") or f"#{number}", []).append(dict(row))
    for name, rows in grouped.items():
        first = rows[0]
        yield Item(name, None, tuple(map(ready_hash, rows)), first.get("case") or None, _labels(first.get("labels")))


def _jsonl_items(text: str, base: Path) -> Iterator[Item]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise InvalidManifest(f"line {number} is not JSON") from error
        if not isinstance(entry, dict):
            raise InvalidManifest(f"line {number} is not an object")
        yield _item(entry, base, number)


def _list_items(text: str, base: Path) -> Iterator[Item]:
    return (Item(line.strip(), base / line.strip()) for line in text.splitlines() if line.strip())


def read_manifest(path: Path) -> list[Item]:
    """Read a manifest file; InvalidManifest."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidManifest(f"{path.name} cannot be read as text") from error
    first = text.lstrip()[:1]
    columns = {name.strip() for name in text.partition("\n")[0].split(",")}
    try:
        if first == "{":
            return list(_jsonl_items(text, path.parent))
        if columns & {"path", "hash"}:
            return list(_csv_items(text, path.parent))
    except InvalidManifest:
        raise
    except csv.Error as error:
        raise InvalidManifest(f"{path.name} is not CSV") from error
    return list(_list_items(text, path.parent))


def walk(folder: Path) -> Iterator[Item]:
    """Yield every file below a folder, in the order of its names; hidden ones are left out."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            yield Item(str(path), path)


def expand(paths: Iterable[Path]) -> Iterator[Item]:
    """Yield the files that are named, and those below folders that are named."""
    for path in paths:
        if path.is_dir():
            yield from walk(path)
        else:
            yield Item(str(path), path)
