"""Batch rescan: one JSON line for every input, always; may be killed at any time and resumed.

The output file is the only state: a line is whole once its newline is there. Resuming
cuts off a torn last line, counts the inputs that are answered and does the others. Lines
stand in the order in which they were finished; `input` says whose they are.
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
from typing import Any, TypeVar

from hashing.errors import StaydownError
from indexer.errors import InvalidManifest, StoreBroken
from indexer.exchange.manifest import Item

Result = dict[str, Any]
Check = Callable[[Item], Result]
T = TypeVar("T")
R = TypeVar("R")


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


def guarded(check: Callable[[T], Result]) -> Callable[[T], Result]:
    """Turn what a check raises into a result: the batch-item boundary.

    A broken store is no input's fault: it ends the batch, which can be resumed.
    """

    def run(item: T) -> Result:
        try:
            return check(item)
        except StoreBroken:
            raise
        except StaydownError as error:
            word = error.word
        except OSError:
            word = "unreadable_file"
        except Exception:  # one input must never end a batch of a hundred thousand
            word = "internal_error"
        return {"verdict": "unhashable", "reason": word, "matches": []}

    return run


def in_parallel(inputs: Iterable[T], check: Callable[[T], R], workers: int) -> Iterator[tuple[T, R]]:
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
            for future in wait(running, return_when=FIRST_COMPLETED).done:
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
        left = left_of(items, done)
        progress(len(done))
        for item, result in in_parallel(left, guarded(check), workers):
            file.write(line_of(item.name, result))
            file.flush()
            tally.add(result)
            progress(1)
        os.fsync(file.fileno())
    return tally
