"""Writers that are stopped at any moment, and what has to hold afterwards.

A writer enrolls, withdraws, makes banks and saves snapshots through the real Enroller, Record and
Index, and writes one line to a pipe before a withdrawal and after each answered call. `check` opens
what is left, and holds it against the lines that arrived. Processes are forked, never started anew:
this file's importer has no threads.
"""

import json
import os
import random
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import text

from hashing.signals import (
    FRAME_DTYPE,
    PROFILE_OF_TYPE,
    SKETCH_DTYPE,
    Frames,
    Kind,
    Media,
    Signal,
    SignalType,
    Sketches,
    no_sketches,
)
from indexer.enroll import Enroller, Submission
from indexer.errors import BankExists
from indexer.index import Index
from indexer.ledger import Ledger
from indexer.matcher import Matcher
from indexer.policy import MIN_QUALITY
from indexer.record import Record
from indexer.store import Store
from indexer.tombstones import Tombstones
from indexer.withdrawals import Withdrawals

BANK, SNAPSHOT, WITHDRAWALS = "b", "index.cache", "withdrawals.jsonl"
_BULK, _SKETCHED, _START_S = 15, 5, 10.0
Acks = list[list[Any]]


def frames(seed: int, count: int) -> Frames:
    """Return frames with random PDQ hashes."""
    rows = np.zeros(count, FRAME_DTYPE)
    rows["profile"], rows["quality"] = PROFILE_OF_TYPE[SignalType.PDQ], 100
    rows["timestamp_s"] = rows["until_s"] = np.nan
    rows["hash"] = np.random.default_rng(seed).integers(0, 256, (count, 32), np.uint8)
    return rows


def digest(seed: int) -> bytes:
    """Return the SHA-256 that the content of this seed has."""
    return np.random.default_rng([seed, 1]).bytes(32)


def _sketches(seed: int) -> Sketches:
    if seed % _SKETCHED:
        return no_sketches()
    rows, chance = np.zeros(1, SKETCH_DTYPE), np.random.default_rng([seed, 2])
    rows["timestamp_s"] = rows["until_s"] = np.nan
    rows["width"], rows["height"], rows["count"] = 512, 384, 200
    rows["keypoints"]["code"][:, :200] = chance.integers(0, 256, (1, 200, 32), np.uint8)
    rows["keypoints"]["x"][:, :200] = chance.integers(0, 512 * 64, (1, 200))
    rows["keypoints"]["y"][:, :200] = chance.integers(0, 384 * 64, (1, 200))
    return rows


def content(seed: int) -> Signal:
    """Return the signal that the content of this seed has: the same one each time."""
    media = Media(Kind.IMAGE, digest(seed).hex(), 640, 480, None, 1)
    return Signal(media, frames(seed, 1), ((SignalType.SHA256, digest(seed)),), None, _sketches(seed))


class Bench:
    """An opened store with everything that stands on it, as a service has it."""

    def __init__(self, url: str, home: Path) -> None:
        self.home, self.store = home, Store(url)
        self.record, self.index = Record(self.store), Index(MIN_QUALITY)
        self.tombstones, self.withdrawals = Tombstones(home / WITHDRAWALS), Withdrawals(self.store)
        known = self.tombstones.known()
        self.withdrawals.replay(known.content_ids, known.banks)
        self.store.keep_tombstones = self.tombstones.append
        self.enroller, self.matcher = Enroller(self.record, self.index), Matcher(self.record, self.index)

    def load(self) -> bool:
        """Load the snapshot if it agrees, and the rest from the record."""
        loaded = self.index.load(self.home / SNAPSHOT, self.record)
        self.index.refresh(self.record)
        return loaded


def say(*words: Any) -> None:
    """Write one line to the pipe, whole."""
    os.write(1, (json.dumps(words) + "\n").encode())


class Writer:
    """One process that writes until it is stopped. Its seeds are its own."""

    def __init__(self, url: str, home: Path, start: int) -> None:
        self._bench, self._next = Bench(url, home), start
        with suppress(BankExists):
            self._bench.record.create_bank(BANK, actor="writer")
        self._bench.load()

    def run(self, *, saves: bool) -> None:
        """Write for ever; the one that saves writes snapshots in between."""
        while True:
            self._one()
            if saves:
                self._bench.index.refresh(self._bench.record)
                self._bench.index.save(self._bench.home / SNAPSHOT, self._bench.record)
                say("saved", self._bench.index.revision)
            self._many()
            name = f"bank-{self._next}"
            self._bench.record.create_bank(name, actor="writer")
            say("bank", name)

    def _seed(self) -> int:
        self._next += 1
        return self._next

    def _one(self) -> None:
        for turn in range(4):
            seed = self._seed()
            done = self._bench.enroller.enroll(BANK, Submission(content(seed)), actor="writer")
            say("enrolled", seed, done.content_id, done.bank_revision)
            if turn == 0:
                say("withdrawing", done.content_id)
                found = self._bench.record.content(BANK, done.content_id)
                revision = self._bench.record.withdraw(found, reason="test", actor="writer")
                say("withdrawn", done.content_id, revision)

    def _many(self) -> None:
        seeds = [self._seed() for _ in range(_BULK)]
        done = self._bench.enroller.enroll_many(BANK, [Submission(content(s)) for s in seeds], actor="writer")
        for seed, one in zip(seeds, done, strict=True):
            say("enrolled", seed, one.content_id, one.bank_revision)


@dataclass
class Child:
    """A forked process, and the pipe that it prints to."""

    pid: int
    pipe: int

    def killed(self) -> Acks:
        """Kill it, and return the whole lines that it wrote."""
        os.kill(self.pid, signal.SIGKILL)
        data = _drained(self.pipe)
        os.waitpid(self.pid, 0)
        return [json.loads(line) for line in data.split(b"\n")[:-1]]

    def answer(self) -> Any:
        """Wait for its end; returns the one line that it wrote, or None if it failed."""
        data = _drained(self.pipe)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return json.loads(data) if status == 0 else None


def _drained(pipe: int) -> bytes:
    data = b""
    while part := os.read(pipe, 65536):
        data += part
    os.close(pipe)
    return data


def fork(work: Callable[[], None], *, quiet: bool = False) -> Child:
    """Run `work` in a process of its own that prints to a pipe."""
    ours, theirs = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(theirs)
        return Child(pid, ours)
    status = 1
    try:
        os.close(ours)
        os.dup2(theirs, 1)
        work()
        status = 0
    except BaseException:  # whatever it is, it ends this process alone
        if not quiet:
            traceback.print_exc()
    os._exit(status)


def writers(url: str, home: Path, start: int, *, quiet: bool = False) -> list[Child]:
    """Start three of them on one store; the first also saves snapshots."""

    def work(number: int) -> Callable[[], None]:
        return lambda: Writer(url, home, start + 100_000 * number).run(saves=number == 0)

    return [fork(work(number), quiet=quiet) for number in range(3)]


def stopped(children: Sequence[Child], chance: random.Random, before: Callable[[], None] = lambda: None) -> Acks:
    """Let them write for a random time, then stop all of them; returns their lines.

    One time in five they are stopped while they start, else once something was acknowledged.
    """
    if chance.random() < 0.8:
        select.select([child.pipe for child in children], [], [], _START_S)
    time.sleep(chance.uniform(0.0, 0.7))
    before()
    for child in children:
        os.kill(child.pid, signal.SIGKILL)
    return [line for child in children for line in child.killed()]


@dataclass
class Left:
    """What was found after a stop. All is well where nothing is counted but `checked`."""

    checked: int = 0
    lost: int = 0  # acknowledged enrolments that do not answer
    back: int = 0  # acknowledged withdrawals that answer, or that still have a hash
    faults: list[str] = field(default_factory=list)
    snapshot_loaded: bool = False
    revision: int = 0

    @property
    def well(self) -> bool:
        """Tell whether nothing is wrong."""
        return not (self.lost or self.back or self.faults)


_LIVE = "SELECT content_pk FROM content WHERE withdrawn_at IS NULL"
_ORPHANS = f"SELECT count(*) FROM {{0}} WHERE content_pk NOT IN ({_LIVE})"


def _integrity(bench: Bench) -> list[str]:
    faults = []
    with bench.store.read() as connection:
        if bench.store.engine.dialect.name == "sqlite":
            if connection.execute(text("PRAGMA integrity_check")).scalars().all() != ["ok"]:
                faults.append("integrity_check")
            if connection.execute(text("PRAGMA foreign_key_check")).all():
                faults.append("foreign_key_check")
        for table in ("signal", "exact", "sketch"):
            if connection.execute(text(_ORPHANS.format(table))).scalar_one():
                faults.append(f"{table} without content")
    if Ledger(bench.store).verify()[1] is not None:
        faults.append("audit chain")
    return faults


def check(url: str, home: Path, lines: Acks, least_revision: int = 0) -> Left:
    """Open what is left and hold it against what was acknowledged."""
    bench = Bench(url, home)
    left = Left(faults=_integrity(bench), snapshot_loaded=bench.load(), revision=bench.store.revision())
    begun = {line[1] for line in lines if line[0] == "withdrawing"}
    gone = {line[1] for line in lines if line[0] == "withdrawn"}
    told = bench.tombstones.known().content_ids
    names = bench.record.bank_names()
    left.faults += [f"bank {line[1]}" for line in lines if line[0] == "bank" and line[1] not in names]
    left.faults += ["tombstone"] * len(gone - told)
    revisions = [line[-1] for line in lines if line[0] in {"enrolled", "withdrawn"}]
    if left.revision < max([least_revision, *revisions]):
        left.faults.append("revision went back")
    for _, seed, content_id, _ in (line for line in lines if line[0] == "enrolled"):
        _look(bench, left, seed, content_id, content_id in gone, content_id in begun)
    bench.store.close()
    return left


def _look(bench: Bench, left: Left, seed: int, content_id: str, gone: bool, begun: bool) -> None:
    """Ask for one content as a check does: by its PDQ alone, and by its SHA-256 alone."""
    left.checked += 1
    bare = Media(Kind.HASHES, None)
    asked = (Signal(bare, frames(seed, 1)), Signal(bare, frames(seed, 0), ((SignalType.SHA256, digest(seed)),)))
    found = [[match.content_id for match in bench.matcher.match(signal).matches] for signal in asked]
    (known,) = bench.record.contents_by_id([content_id]) or [None]
    withdrawn = known is not None and known.withdrawn_at is not None
    here = found == [[content_id], [content_id]]
    if gone:
        left.back += found != [[], []] or not withdrawn
    elif begun:  # not answered: either is right, half of it is not
        left.lost += not (here or (withdrawn and found == [[], []]))
    else:
        left.lost += not here
        sketched = known is not None and len(bench.record.sketches.of_content(known.content_pk))
        left.lost += here and bool(sketched) != (seed % _SKETCHED == 0)


def checked_apart(url: str, home: Path, lines: Acks, least_revision: int = 0) -> Left:
    """Check in a process of its own; a store that cannot even be opened is one fault."""
    answer = fork(lambda: say(asdict(check(url, home, lines, least_revision)))).answer()
    return Left(faults=["the check itself failed"]) if answer is None else Left(**answer[0])
