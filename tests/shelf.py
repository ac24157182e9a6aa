"""An opened store with everything that stands on it, and hashes to put in: for the tests of `indexer`."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from postgres import Postgres

from hashing.errors import Reason
from hashing.signals import (
    FRAME_DTYPE,
    PROFILE_OF_TYPE,
    SKETCH_DTYPE,
    TRANSFORMS,
    VIEWS,
    Frames,
    Kind,
    Media,
    Signal,
    SignalType,
    Sketches,
    Transform,
    View,
    no_frames,
)
from indexer.enroll import Enrolled, Enroller, Submission
from indexer.exchange.manifest import Item
from indexer.index import Index
from indexer.jobs import Jobs
from indexer.keys import Keys
from indexer.ledger import Ledger
from indexer.lists import ListEnroller
from indexer.matcher import Answer, Matcher
from indexer.policy import MIN_QUALITY
from indexer.record import Content, Record
from indexer.rescan import Check, Result
from indexer.store import Store

Codes = NDArray[np.uint8]
ROOT = Path(__file__).parents[1]
NAN = float("nan")
PEPPER = b"pepper of the tests, 32 bytes ..."


@dataclass
class Shelf:
    """What an Engine holds, without HTTP and without workers. Its first bank is `b`."""

    path: Path  # of the database, if it is a file; its folder is the test's in any case
    url: str
    store: Store
    record: Record
    index: Index
    ledger: Ledger
    jobs: Jobs

    def __post_init__(self) -> None:
        self.keys = Keys(self.store, PEPPER)
        self.matcher = Matcher(self.record, self.index)
        self.enroller = Enroller(self.record, self.index)
        self.lists = ListEnroller(self.record, self.index, self.enroller.guard)

    def enroll(self, signal: Signal, bank: str = "b", **more: Any) -> Enrolled:
        return self.enroller.enroll(bank, Submission(signal, **more), actor="test")

    def enroll_all(self, signals: list[Signal], bank: str = "b") -> list[Enrolled]:
        return self.enroller.enroll_many(bank, [Submission(signal) for signal in signals], actor="test")

    def content(self, done: Enrolled) -> Content:
        return self.record.content(done.bank, done.content_id)

    def withdraw(self, done: Enrolled) -> int:
        return self.record.withdraw(self.content(done), reason="by mistake", actor="test")

    def match(self, signal: Signal, *banks: str) -> Answer:
        return self.matcher.match(signal, banks or None)

    def found(self, signal: Signal, *banks: str) -> list[str]:
        return [match.content_id for match in self.match(signal, *banks).matches]


def url(path: Path) -> str:
    return f"sqlite:///{path}"


@contextmanager
def opened(where: Path | str, path: Path = Path("nowhere")) -> Iterator[Shelf]:
    """Open or create the store in a file or at an address; bank `b` is made if there is none."""
    address, path = (where, path) if isinstance(where, str) else (url(where), where)
    store = Store(address)
    try:
        record, index = Record(store), Index(MIN_QUALITY)
        if not record.bank_names():
            record.create_bank("b", actor="test")
        index.refresh(record)
        yield Shelf(path, address, store, record, index, Ledger(store), Jobs(store))
    finally:
        store.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an empty store, on each kind of database in turn."""
    if request.param == "sqlite":
        yield url(tmp_path / "staydown.db")
        return
    server: Postgres = request.getfixturevalue("postgres")
    address = server.new_database()
    yield address
    server.drop(address)


@pytest.fixture(params=["sqlite", "postgresql"])
def blank(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An address at which there is no store yet."""
    if request.param == "sqlite":
        yield url(tmp_path / "new" / "staydown.db")
        return
    server: Postgres = request.getfixturevalue("postgres")
    address = server.empty_database()
    yield address
    server.drop(address)


@pytest.fixture
def shelf(database: str, tmp_path: Path) -> Iterator[Shelf]:
    with opened(database, tmp_path / "staydown.db") as made:
        yield made


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Shelf]:
    """A shelf on SQLite, for what only SQLite does or has."""
    with opened(tmp_path / "staydown.db") as made:
        yield made


def codes(seed: int, count: int) -> Codes:
    """Return random codes, uint8 (count, 32)."""
    return np.random.default_rng(seed).integers(0, 256, (count, 32), dtype=np.uint8)


def flipped(code: Codes, bits: int, seed: int = 0) -> Codes:
    """Return a code exactly so many bits away, uint8 (32,)."""
    places = np.random.default_rng(seed).choice(256, bits, replace=False)
    change = np.zeros(256, np.uint8)
    change[places] = 1
    return np.asarray(code ^ np.packbits(change), np.uint8)


def frames(
    hashes: Any, *, kind: SignalType = SignalType.PDQ, quality: int = 100, view: View = View.FULL,
    transform: Transform = Transform.NONE, times_s: Any = NAN, until_s: Any = None,
) -> Frames:  # fmt: skip
    """Return rows for codes (n, 32)."""
    rows = np.zeros(len(hashes), FRAME_DTYPE)
    rows["profile"] = PROFILE_OF_TYPE[kind]
    rows["view"], rows["transform"] = VIEWS.index(view), TRANSFORMS.index(transform)
    rows["quality"] = quality
    rows["timestamp_s"] = times_s
    rows["until_s"] = rows["timestamp_s"] if until_s is None else until_s
    rows["hash"] = hashes
    return rows


def still(code: Codes, **how: Any) -> Signal:
    """Return the signal of a picture with this one code, uint8 (32,)."""
    return Signal(Media(Kind.IMAGE, None, 640, 480, None, 1), frames(code[None], **how))


def sketched(seed: int, count: int = 1, points: int = 300) -> Sketches:
    """Return sketches with random descriptors."""
    rows, chance = np.zeros(count, SKETCH_DTYPE), np.random.default_rng(seed)
    rows["timestamp_s"] = rows["until_s"] = NAN
    rows["width"], rows["height"], rows["count"] = 512, 384, points
    rows["grid"] = chance.integers(0, 256, rows["grid"].shape, np.uint8)
    rows["keypoints"]["code"][:, :points] = chance.integers(0, 256, (count, points, 32), np.uint8)
    rows["keypoints"]["x"][:, :points] = chance.integers(0, 512 * 64, (count, points))
    rows["keypoints"]["y"][:, :points] = chance.integers(0, 384 * 64, (count, points))
    return rows


def film(hashes: Codes, times_s: Any, until_s: Any = None) -> Signal:
    """Return the signal of a video with these codes (n, 32) at these times."""
    duration_s = float(np.max(times_s)) if len(hashes) else 0.0
    return Signal(
        Media(Kind.VIDEO, None, 640, 360, duration_s, len(hashes)), frames(hashes, times_s=times_s, until_s=until_s)
    )


def bare(*exact: tuple[SignalType, bytes], rows: Frames | None = None, reason: Reason | None = None) -> Signal:
    """Return ready-made hashes as a signal."""
    known = dict(exact).get(SignalType.SHA256)
    media = Media(Kind.HASHES, None if known is None else known.hex())
    return Signal(media, no_frames() if rows is None else rows, exact, reason)


def each(check: Callable[[Item], Result]) -> Check:
    """Return the check of many inputs that asks for each alone."""
    return lambda items: [check(item) for item in items]


def run(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a Python script in a process of its own, with tests/ to import from."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], stdout=subprocess.PIPE, text=True,
        cwd=ROOT / "tests", env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> str:
    """Wait for a process that has to succeed; returns what it printed."""
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 0, text
    return text
