"""Lists of media or of ready-made hashes: folders, CSV, JSON Lines, plain lists of paths.

CSV has a header line. Columns, all but one of the first two optional:
`path` · `signal_type`, `hash`, `quality`, `timestamp_s`, `profile`, `view` · `content` (rows with
the same value are one content) · `case` · `labels` (separated by `;`).
JSON Lines has one object a line with `path`, or `signals` (a list of objects), or one
hash in place; `content`, `case`, and `labels` as a list. Anything else is a list of paths,
one a line.
Relative paths are relative to the manifest's folder; a path may be a link, too.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hashing.errors import InvalidHash
from hashing.signals import EXACT_BYTES, MAX_QUALITY, SignalType, View
from indexer.enroll import ReadyHash
from indexer.errors import InvalidManifest

_LINE_END = re.compile(r"\r\n|\n|\r")  # splitlines() would cut at U+2028 too, inside a string


@dataclass(frozen=True, slots=True)
class Item:
    """One input: `name` as it is listed, and the path of media or ready-made hashes; neither if the name is a link."""

    name: str
    path: Path | None = None
    hashes: tuple[ReadyHash, ...] = ()
    case: str | None = None
    labels: tuple[str, ...] = field(default=())


def is_link(name: str) -> bool:
    """Tell whether a name is a link to be fetched."""
    return name.startswith(("http://", "https://"))


def _place(base: Path, name: str) -> Path | None:
    return None if is_link(name) else base / name


def _number(value: Any, kind: type[int] | type[float]) -> Any:
    if value in (None, ""):
        return None
    try:
        number = kind(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidManifest(f"{value!r} is no number") from error
    if not 0 <= number < math.inf:
        raise InvalidManifest(f"{value!r} is out of range")
    return number


def word(value: Any) -> str | None:
    """Read a text; None if it is empty. InvalidManifest."""
    return None if value in (None, "") else _storable(str(value))


def _storable(text: str) -> str:
    if "\0" in text:
        raise InvalidManifest("no database keeps a NUL")
    return text


def described_hash(entry: dict[str, Any]) -> ReadyHash:
    """Read what a hash of a manifest says of itself; its digits are not looked at. InvalidManifest."""
    try:
        found = ReadyHash(
            SignalType(word(entry.get("signal_type")) or "pdq"),
            str(entry["hash"]).strip().lower(),
            _number(entry.get("quality"), int),
            _number(entry.get("timestamp_s"), float),
            word(entry.get("profile")),
            View(word(entry.get("view")) or View.FULL),
        )
        if found.signal_type not in {*EXACT_BYTES, SignalType.KEYPOINTS}:
            found.profile_number()
    except (KeyError, ValueError, InvalidHash) as error:
        raise InvalidManifest(f"not a hash: {error}") from error
    if found.quality is not None and found.quality > MAX_QUALITY:
        raise InvalidManifest(f"a quality is from 0 to {MAX_QUALITY}")
    return found


def ready_hash(entry: dict[str, Any]) -> ReadyHash:
    """Read one hash of a manifest; InvalidManifest."""
    found = described_hash(entry)
    try:
        found.code()
    except InvalidHash as error:
        raise InvalidManifest(f"not a hash: {error}") from error
    return found


def labels(value: Any) -> tuple[str, ...]:
    """Read labels: a list of them, or one text that `;` separates; InvalidManifest."""
    parts = value if isinstance(value, list) else str(value or "").split(";")
    return tuple(_storable(str(part).strip()) for part in parts if str(part).strip())


def _hashes(entry: dict[str, Any]) -> Iterator[ReadyHash]:
    listed = entry["signals"] if isinstance(entry.get("signals"), list) else [entry]
    for signal in listed:
        if not isinstance(signal, dict):
            raise InvalidManifest("a signal is an object")
        yield ready_hash(signal)


def _items(entries: Iterable[dict[str, Any]], base: Path) -> Iterator[Item]:
    """Yield media as they come, and then ready-made hashes, grouped by their content."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for number, entry in enumerate(entries, start=1):
        if name := word(entry.get("path")):
            yield Item(name, _place(base, name), (), word(entry.get("case")), labels(entry.get("labels")))
        else:
            grouped.setdefault(word(entry.get("content")) or f"#{number}", []).append(entry)
    for name, group in grouped.items():
        hashes = tuple(ready for entry in group for ready in _hashes(entry))
        if not hashes:
            raise InvalidManifest("an entry has neither a path nor a hash")
        yield Item(name, None, hashes, word(group[0].get("case")), labels(group[0].get("labels")))


def _object(number: int, line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
        json.dumps(entry, ensure_ascii=False).encode()  # half a surrogate pair can be written nowhere
    except (ValueError, RecursionError) as error:
        raise InvalidManifest(f"line {number} is not JSON") from error
    if not isinstance(entry, dict):
        raise InvalidManifest(f"line {number} is not an object")
    return entry


def columns_of(text: str) -> list[str]:
    """Return the names in the header line of a CSV text."""
    return [name.strip() for name in next(csv.reader(io.StringIO(text, newline="")), [])]


def _entries(text: str, lines: list[str]) -> Iterable[dict[str, Any]] | None:
    """Return the manifest's entries, or None if it is a plain list of paths."""
    if text.startswith("{"):
        return (_object(number, line) for number, line in enumerate(lines, start=1) if line)
    columns = columns_of(text)
    if not {"path", "hash"} & set(columns):
        return None
    table = csv.DictReader(io.StringIO(text, newline=""), columns)
    next(table, None)
    return table


def text_of(path: Path) -> str:
    """Return the text of a manifest file; InvalidManifest."""
    try:
        return path.read_bytes().decode("utf-8-sig").lstrip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidManifest(f"{path.name} cannot be read as text") from error


def read_manifest(path: Path) -> list[Item]:
    """Read a manifest file; InvalidManifest."""
    text = text_of(path)
    lines = [line.strip() for line in _LINE_END.split(text)]
    try:
        entries = _entries(text, lines)
        if entries is not None:
            return list(_items(entries, path.parent))
    except csv.Error as error:
        raise InvalidManifest(f"{path.name} is not CSV") from error
    return [Item(line, _place(path.parent, line)) for line in lines if line]


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
