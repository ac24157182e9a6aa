"""Batch rescan: one JSON line for every input, always; may be killed at any time and resumed.

The output file is the only state: a line is whole once its newline is there. Resuming
cuts off a torn last line, counts the inputs that are answered and does the others. Lines
stand in the order in which they were finished; `input` says whose they are.

Ready-made hashes are checked many at a time, since one search and one join do for all of them;
media is checked one by one.
"""

import fcntl
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from hashing.errors import StaydownError
from indexer.errors import NO_INPUTS_FAULT, InvalidManifest
from indexer.exchange.manifest import Item

Result = dict[str, Any]
Check = Callable[[Sequence[Item]], list[Result]]
T = TypeVar("T")
R = TypeVar("R")
TOGETHER = 250  # hashes at a time


@dataclass(slots=True)
class Tally:
    """How many inputs got which verdict."""

    counts: Counter[str]

    def add(self, result: Result) -> None:
        self.counts[str(result.get("verdict"))] += 1


def line_of(name: str, result: Result) -> bytes:
    """Return the line of an input: the one place that knows its shape."""
    return json.dumps({"input": name} | result).encode() + b"\n"


def answered(file: BufferedRandom) -> tuple[list[str], Tally]:
    """Return whose lines are in the file, in their order, having cut off a torn last line."""
    done: list[str] = []
    tally, whole = Tally(Counter()), 0
    file.seek(0)
    for number, line in enumerate(file, start=1):
        if not line.endswith(b"\n"):
            break
        try:
            result = json.loads(line)
            name = result["input"]
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidManifest(f"line {number} of the output is not a result") from error
        if not isinstance(name, str):
            raise InvalidManifest(f"line {number} of the output is not a result")
        done.append(name)
        tally.add(result)
        whole += len(line)
    file.truncate(whole)
    file.seek(whole)
    return done, tally


def left_of(items: Iterable[Item], done: Iterable[str]) -> list[Item]:
    """Return the items that have no line yet, in their order; InvalidManifest if the lines are of another list."""
    left, seen = [], Counter(done)
    for item in items:
        if seen[item.name] > 0:
            seen[item.name] -= 1
        else:
            left.append(item)
    if +seen:
        raise InvalidManifest("the output has results of other inputs; give a new --out or the same list")
    return left


def together(inputs: Iterable[T], hashes: Callable[[T], int]) -> Iterator[list[T]]:
    """Group inputs that are checked together, in their order; `hashes` says how many each has, none if it is media."""
    group, size = list[T](), 0
    for one in inputs:
        count = hashes(one)
        if group and (not count or size + count > TOGETHER):
            yield group
            group, size = [], 0
        if count:
            group.append(one)
            size += count
        else:
            yield [one]
    if group:
        yield group


def guarded(check: Callable[[Sequence[T]], list[Result]]) -> Callable[[Sequence[T]], list[Result]]:
    """Turn what a check raises into results: the batch-item boundary.

    Which of many inputs it is that fails is found by asking for one after the other. What is no
    input's fault, a broken store for one, ends the batch, which can be resumed.
    """

    def run(items: Sequence[T]) -> list[Result]:
        try:
            return check(items)
        except NO_INPUTS_FAULT:
            raise
        except StaydownError as error:
            word = error.word
        except OSError:
            word = "unreadable_file"
        except Exception:  # one input must never end a batch of a hundred thousand
            word = "internal_error"
        return [unhashable(word)] if len(items) == 1 else [result for one in items for result in run([one])]

    return run


def unhashable(word: str) -> Result:
    """Return the result of an input that could not be judged."""
    return {"verdict": "unhashable", "reason": word, "matches": []}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the next result is waited for, and what is done then: that must not return."""

    seconds: float
    over: Callable[[], NoReturn]


def in_parallel(inputs: Iterable[T], check: Callable[[T], R], workers: int,
                patience: Patience | None = None) -> Iterator[tuple[T, R]]:  # fmt: skip
    """Yield results as they come; never more than a few inputs a worker are under way."""
    waiting = iter(inputs)
    with ThreadPoolExecutor(workers) as threads:
        running: dict[Future[R], T] = {}
        while True:
            for item in waiting:
                running[threads.submit(check, item)] = item
                if len(running) >= 3 * workers:
                    break
            if not running:
                return
            done = wait(running, patience.seconds if patience else None, FIRST_COMPLETED).done
            if not done and patience:
                patience.over()
            for future in done:
                yield running.pop(future), future.result()


@contextmanager
def open_out(path: Path, resume: bool) -> Iterator[BufferedRandom]:
    """Open the output for one rescan at a time; InvalidManifest if it may not be written."""
    if not resume and path.exists() and path.stat().st_size:
        raise InvalidManifest(f"{path.name} exists; use --resume to go on, or another --out")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise InvalidManifest(f"{path.name} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidManifest(f"{path.name} is being written by another rescan") from error
        yield file


def rescan(items: Sequence[Item], check: Check, out: Path, *, resume: bool, workers: int,
           progress: Callable[[int], None] = lambda done: None) -> Tally:  # fmt: skip
    """Check every item and write its line to `out`; InvalidManifest if `out` is of another list.

    `progress` is told how many inputs were just answered. Returns the tally of the whole
    file, earlier runs included.
    """
    with open_out(out, resume) as file:
        done, tally = answered(file)
        groups = together(left_of(items, done), lambda item: len(item.hashes))
        progress(len(done))
        for group, results in in_parallel(groups, guarded(check), workers):
            for item, result in zip(group, results, strict=True):
                file.write(line_of(item.name, result))
                tally.add(result)
            file.flush()
            progress(len(group))
        os.fsync(file.fileno())
    return tally
