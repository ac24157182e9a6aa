"""What was withdrawn, in a file beside the database: so that no backup, however old, brings it back.

One JSON line a withdrawn content or deleted bank, without any hash, each with a sum of its own.
A line is durable before the withdrawal is committed, and so before it is answered; a withdrawal
that failed in between is completed at the next start. Whoever opens the store replays the file
before anything is answered. It may lie on another disk than the database, and should.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from indexer.engines import make_folder, sync_folder
from indexer.errors import StoreBroken
from indexer.store import now
from indexer.withdrawals import Born, Withdrawals


@dataclass(frozen=True, slots=True)
class Known:
    """What a file tells: contents and banks that are gone, the time of its last line, lines that cannot be read."""

    content_ids: frozenset[str]
    banks: frozenset[Born]
    latest_at: str | None
    damaged_lines: int


def _sum(fields: dict[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _line(gone: dict[str, Any], at: str) -> str:
    fields = {"at": at} | gone
    return json.dumps(fields | {"sum": _sum(fields)}) + "\n"


def _fields(line: bytes) -> dict[str, Any] | None:
    """Return what a line says, or None if it is not as it was written."""
    try:
        fields: dict[str, Any] = json.loads(line)
        return fields if fields.pop("sum") == _sum(fields) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


class Tombstones:
    """The file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, gone: Sequence[dict[str, Any]]) -> None:
        """Write what is gone, durably; StoreBroken. A line that a crash tore was never answered, and is cut off."""
        text = "".join(_line(one, now()) for one in gone)
        try:
            make_folder(self.path.parent)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(handle, "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                whole = _whole_bytes(file.fileno())
                os.ftruncate(file.fileno(), whole)
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            if not whole:
                sync_folder(self.path.parent)
        except OSError as error:
            raise StoreBroken(f"the list of withdrawals cannot be written: {error.strerror}") from error

    def known(self) -> Known:
        """Read the file; one that is not there tells nothing. StoreBroken if it is there and cannot be read."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            data = b""
        except OSError as error:
            raise StoreBroken(f"the list of withdrawals cannot be read: {error.strerror}") from error
        lines = data.split(b"\n")[:-1]  # what has no end was never answered
        return _known([_fields(line) for line in lines])

    def missing(self, withdrawals: Withdrawals) -> list[str]:
        """Return which withdrawn contents of the record the file does not tell."""
        known = self.known().content_ids
        return [content_id for content_id in withdrawals.ids() if content_id not in known]

    def complete(self, withdrawals: Withdrawals) -> None:
        """Write what is missing; afterwards the file is there, if only to say that nothing was withdrawn."""
        missing = self.missing(withdrawals)
        if missing or not self.path.exists():
            self.append([{"content": content_id} for content_id in missing])

    def rewrite(self, withdrawals: Withdrawals) -> None:
        """Write the file anew, without damaged lines and with what was missing."""
        known = self.known()
        whole = replace(known, content_ids=known.content_ids.union(withdrawals.ids()))
        fresh = Tombstones(self.path.with_name(f"{self.path.name}.{os.getpid()}.part"))
        fresh.take_in(whole)
        if fresh.path.exists():
            fresh.path.replace(self.path)
            sync_folder(self.path.parent)

    def take_in(self, known: Known) -> None:
        """Write what another file tells and this one does not."""
        mine = self.known()
        new: list[dict[str, Any]] = [
            {"content": content_id} for content_id in sorted(known.content_ids - mine.content_ids)
        ]
        new += [{"store": s, "bank_pk": pk, "born": born} for s, pk, born in sorted(known.banks - mine.banks)]
        if new:
            self.append(new)


def _whole_bytes(handle: int) -> int:
    """Return up to where the file consists of whole lines."""
    end = os.fstat(handle).st_size
    while end and (block := os.pread(handle, min(end, 4096), end - min(end, 4096))):
        if (newline := block.rfind(b"\n")) >= 0:
            return end - len(block) + newline + 1
        end -= len(block)
    return 0


def _known(lines: Iterable[dict[str, Any] | None]) -> Known:
    rows = list(lines)
    read = [fields for fields in rows if fields is not None]
    return Known(
        frozenset(str(fields["content"]) for fields in read if "content" in fields),
        frozenset((fields["store"], fields["bank_pk"], fields["born"]) for fields in read if "bank_pk" in fields),
        max((fields["at"] for fields in read), default=None),
        len(rows) - len(read),
    )


def joined(files: Iterable[Known]) -> Known:
    """Return what several files tell together."""
    every = list(files)
    times = [each.latest_at for each in every if each.latest_at is not None]
    return Known(
        frozenset().union(*(each.content_ids for each in every)),
        frozenset().union(*(each.banks for each in every)),
        max(times, default=None),
        sum(each.damaged_lines for each in every),
    )
