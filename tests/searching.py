"""A Milvus server of the tests' own, and one bank that is searched in two ways: here, and in it."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lacking import lacking
from shelf import Shelf, opened

from benchmarks.milvus_server import MilvusServer, missing, running
from indexer.index import Index
from indexer.matcher import Answer, Matcher
from indexer.milvus import Milvus
from indexer.policy import MIN_QUALITY
from indexer.remote import Remote

TIMEOUT_S = 20.0


def needed() -> None:
    """Skip a test without the server; an error where CI=true."""
    if reason := missing():
        lacking(reason)


@pytest.fixture(scope="session")
def milvus() -> Iterator[MilvusServer]:
    """A server shared by all tests: each store has collections of its own."""
    needed()
    with (
        tempfile.TemporaryDirectory(prefix="sdmv", ignore_cleanup_errors=True) as folder,
        running(Path(folder)) as made,
    ):
        yield made


@dataclass
class Pair:
    """One record, its embedded index (`shelf`), and an index that rests on Milvus."""

    shelf: Shelf
    remote: Remote
    backend: Milvus
    index: Index

    def __post_init__(self) -> None:
        self.matcher = Matcher(self.shelf.record, self.index)

    def rest(self, waiting: int | None = None) -> None:
        """Look after Milvus, and let the index rest on what it has."""
        self.index.rest(self.remote.base(waiting), self.shelf.record)
        self.index.refresh(self.shelf.record)

    def answers(self, *asked: Any) -> tuple[Answer, Answer]:
        """Return both answers."""
        return self.shelf.matcher.match(*asked), self.matcher.match(*asked)

    @property
    def name(self) -> str:
        return self.shelf.store.store_id()

    @property
    def collection(self) -> str:
        return self.remote.base(0).point.collection


def paired(shelf: Shelf, url: str, **how: Any) -> Pair:
    """Return a pair on a record; what it has is in Milvus."""
    backend = Milvus(url, TIMEOUT_S)
    remote = Remote(shelf.record, backend, MIN_QUALITY, **{"hold_s": 0.0} | how)
    made = Pair(shelf, remote, backend, Index(MIN_QUALITY, remote=True))
    made.rest()
    return made


@pytest.fixture(scope="module")
def pair(milvus: MilvusServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A record in SQLite, shared by the tests of a file: making a collection takes Milvus seconds."""
    with opened(tmp_path_factory.mktemp("pair") / "staydown.db") as shelf:
        made = paired(shelf, milvus.url)
        yield made
        made.remote.close()
