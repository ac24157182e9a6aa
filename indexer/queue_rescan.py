"""A rescan whose items are worked off by workers: the submitter's side, and a worker's.

The lines are those of a rescan in this process (`rescan`), in the order of the list. The place
of a line is all that is kept of how far it is: result number n of a rescan that began with b
lines in the file is line b + n. A ticket beside the file says which rescan is under way for it,
and goes with the last line. Killed at any moment, the submitter goes on from file and ticket.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BufferedRandom
from pathlib import Path

from indexer.engines import sync_folder
from indexer.errors import NO_INPUTS_FAULT, InvalidManifest
from indexer.exchange.manifest import Item, ready_hash
from indexer.queue import Defer, Queue, QueuedRescan, Range
from indexer.rescan import (
    Check,
    Patience,
    Result,
    Tally,
    answered,
    guarded,
    in_parallel,
    left_of,
    line_of,
    open_out,
    together,
    unhashable,
)
from indexer.store import new_id

JOB_COST, _MEDIA_COST = 500, 20  # of a job, and of media, where ready-made hashes cost one: a job takes seconds
_CHUNK_ITEMS = 10_000
_RESULTS = 1000  # read at a time
_SETTLED, _SETTLED_S = 100, 1.0  # a worker writes results when it has so many, or after so long
_POLL_S, _SEEN_S = 0.2, 60.0


@dataclass(frozen=True, slots=True)
class Ticket:
    """Which rescan is under way for an output, how many lines that had before, and of which list it is."""

    rescan_id: str
    lines: int
    digest: str


def ticket_path(out: Path) -> Path:
    """Return where the ticket of an output lies."""
    return out.with_name(f"{out.name}.queue")


def read_ticket(out: Path) -> Ticket | None:
    """Return the ticket of an output, if there is one; InvalidManifest."""
    path = ticket_path(out)
    try:
        return Ticket(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise InvalidManifest(f"{path.name} cannot be read; remove it to begin anew") from error


def _write_ticket(out: Path, ticket: Ticket) -> None:
    part = ticket_path(out).with_suffix(".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(asdict(ticket), file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(ticket_path(out))
    sync_folder(part.parent)


def _digest(left: Iterable[Item], banks: list[str] | None) -> str:
    digest = hashlib.sha256(json.dumps(banks).encode())
    for item in left:
        digest.update(json.dumps(item.name).encode())
    return digest.hexdigest()


def packed(item: Item) -> str:
    """Return an item as text that another machine can read."""
    hashes = [asdict(ready) for ready in item.hashes]
    return json.dumps({"name": item.name, "path": item.path and str(item.path.absolute()), "hashes": hashes})


def unpacked(text: str) -> Item:
    """Return the item; InvalidManifest."""
    found = json.loads(text)
    path = None if found["path"] is None else Path(found["path"])
    return Item(found["name"], path, tuple(map(ready_hash, found["hashes"])))


# --- the submitter's side ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Order:
    """What is asked: the items without a line before it began, and the rescan that has them."""

    left: list[Item]
    found: QueuedRescan
    lines: int


def rescan_queued(
    items: Sequence[Item], queue: Queue, defer: Defer, out: Path, *, banks: list[str] | None, resume: bool,
    progress: Callable[[int], None] = lambda done: None,
) -> Tally:  # fmt: skip
    """Have every item checked by workers and write its line to `out`; InvalidManifest if `out` is of another list.

    Waits for workers as long as it takes. `progress` is told how many lines were just written.
    """
    with open_out(out, resume) as file:
        lines, tally = answered(file)
        ticket = read_ticket(out)
        if ticket is not None and not resume:
            raise InvalidManifest(f"{out.name} is being worked off; use --resume to go on")
        order = _ordered(items, queue, out, lines, banks, ticket)
        progress(len(lines))
        _submit(order, queue, defer)
        _fetch(order, queue, file, len(lines) - order.lines, tally, progress)
    queue.end(order.found.rescan_id)
    ticket_path(out).unlink()
    return tally


def _ordered(items: Sequence[Item], queue: Queue, out: Path, lines: list[str], banks: list[str] | None,
             ticket: Ticket | None) -> _Order:  # fmt: skip
    """Return the order under way for the output, or begin one for what has no line yet."""
    if ticket is not None:
        left = left_of(items, lines[: ticket.lines])
        fetched = lines[ticket.lines :]
        if ticket.digest != _digest(left, banks) or fetched != [item.name for item in left[: len(fetched)]]:
            raise InvalidManifest("the output has results of other inputs; give a new --out or the same list and banks")
        if (found := queue.find(ticket.rescan_id)) is not None:
            return _Order(left, found, ticket.lines)
    left = left_of(items, lines)
    new = Ticket(new_id("r"), len(lines), _digest(left, banks))
    _write_ticket(out, new)
    return _Order(left, queue.begin(new.rescan_id, banks, len(left), actor="cli"), new.lines)


def _submit(order: _Order, queue: Queue, defer: Defer) -> None:
    """Write the items that are not in the store yet, and jobs for them."""
    for first in range(order.found.submitted, len(order.left), _CHUNK_ITEMS):
        part = order.left[first : first + _CHUNK_ITEMS]
        jobs = list(_jobs(part, first))
        queue.submit(order.found.rescan_id, first, [packed(item) for item in part], jobs, defer)


def _jobs(items: Sequence[Item], first: int) -> Iterator[Range]:
    """Divide items among jobs of about the same cost."""
    start, cost, end = first, 0, first + len(items)
    for behind, item in enumerate(items, start=first + 1):
        cost += 1 if item.hashes else _MEDIA_COST
        if cost >= JOB_COST or behind == end:
            yield start, behind
            start, cost = behind, 0


def _fetch(order: _Order, queue: Queue, file: BufferedRandom, done: int, tally: Tally,
           progress: Callable[[int], None]) -> None:  # fmt: skip
    """Write lines as results come, in order. A result goes from the store when its line is durable."""
    rescan_id, seen_s = order.found.rescan_id, time.monotonic()
    while done < len(order.left):
        results = queue.results(rescan_id, done, _RESULTS)
        for item, text in zip(order.left[done:], results, strict=False):
            result = json.loads(text)
            file.write(line_of(item.name, result))
            tally.add(result)
        if results or time.monotonic() - seen_s > _SEEN_S:
            file.flush()
            os.fsync(file.fileno())
            done += len(results)
            queue.hand_over(rescan_id, done)
            progress(len(results))
            seen_s = time.monotonic()
        if len(results) < _RESULTS:
            time.sleep(_POLL_S)


# --- a worker's side --------------------------------------------------------------------

_Row = tuple[int, str]
TRIES = 3  # of an item alone
LOST = "worker_lost"  # why it has no verdict


@dataclass(frozen=True, slots=True)
class _Task:
    """An item in hand: its number, its text, and what that says; None if nobody can read it."""

    number: int
    text: str
    item: Item | None

    @classmethod
    def of(cls, row: _Row) -> "_Task":
        try:
            return cls(*row, unpacked(row[1]))
        except (ValueError, TypeError, KeyError, InvalidManifest):
            return cls(*row, None)

    @property
    def hashes(self) -> int:
        return len(self.item.hashes) if self.item is not None else 0

    def readable(self) -> Item:
        if self.item is None:
            raise InvalidManifest("the item cannot be read")
        return self.item

    def tried(self) -> tuple[int, str]:
        """Return how often it was in hand alone before, and its text for this time."""
        said = json.loads(self.text) if self.item is not None else {}
        tries = int(said.get("tries", 0))
        return tries, json.dumps(said | {"tries": tries + 1})


_GroupCheck = Callable[[Sequence[_Task]], list[Result]]


@dataclass(frozen=True, slots=True)
class QueueWork:
    """What a worker does with a job. `check` gives the check of some banks.

    A job that comes back may have an item that kills or stops whoever takes it. So its items are
    then taken in hand one by one, and that is written down before: what was in hand TRIES times
    and has no result gets one that says so.
    """

    queue: Queue
    check: Callable[[list[str] | None], Check]
    workers: int
    patience: Patience | None = None

    def __call__(self, rescan_id: str, numbers: Range, stop: Callable[[], bool], again: bool = False) -> bool:
        """Check what is left of a job; says whether that was all, which it is not when told to stop."""
        found = self.queue.find(rescan_id)
        if found is None:  # it has ended, or was forgotten
            return True
        banks_check = self.check(found.banks)

        def judge(tasks: Sequence[_Task]) -> list[Result]:
            return banks_check([task.readable() for task in tasks])

        check = guarded(judge)
        left = list(map(_Task.of, self.queue.items(rescan_id, numbers)))
        if again:
            return all(self._alone(rescan_id, task, check, stop) for task in left)
        groups = together(left, lambda task: task.hashes)
        results = in_parallel(groups, lambda tasks: None if stop() else check(tasks), self.workers, self.patience)
        done = 0
        for part in _parts(results):
            self.queue.settle(rescan_id, part)
            done += len(part)
        return done == len(left)

    def _alone(self, rescan_id: str, task: _Task, check: _GroupCheck, stop: Callable[[], bool]) -> bool:
        """Check an item that a worker may have died of, and settle it; says whether it was not told to stop."""
        if stop():
            return False
        tries, text = task.tried()
        if tries < TRIES:
            self.queue.rewrite(rescan_id, task.number, text)
            try:
                ((_, (result,)),) = in_parallel([[task]], check, 1, self.patience)
            except NO_INPUTS_FAULT:
                self.queue.rewrite(rescan_id, task.number, task.text)  # this time does not count
                raise
        else:
            result = unhashable(LOST)
        self.queue.settle(rescan_id, [(task.number, json.dumps(result))])
        return True


def _parts(results: Iterable[tuple[list[_Task], list[Result] | None]]) -> Iterator[list[_Row]]:
    """Gather results to be written together."""
    part: list[_Row] = []
    began_s = time.monotonic()
    for tasks, found in results:
        part += [(task.number, json.dumps(result)) for task, result in zip(tasks, found or (), strict=False)]
        if len(part) >= _SETTLED or (part and time.monotonic() - began_s > _SETTLED_S):
            yield part
            part, began_s = [], time.monotonic()
    if part:
        yield part
