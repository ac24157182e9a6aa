"""One bank, searched here and in Milvus: the same queries get the same verdicts, and no process's death changes any."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from postgres import Postgres
from searching import TIMEOUT_S, Pair
from serving import COMMAND, Api, Server, environment, make_key, staydown, wait_until
from shelf import codes, film, flipped, frames, still

from benchmarks.milvus_server import MilvusServer
from benchmarks.search import clustered
from hashing.signals import Signal, SignalType
from indexer import remote
from indexer.milvus import Milvus
from indexer.store import Store

KINDS = (SignalType.PDQ, SignalType.PHASH)
_BANK, _LISTED = 6_000, 150_000
_SEEN_S = 7.0  # more than Milvus's `gracefulTime`: from then on searches do not wait


def _queries(bank: np.ndarray) -> Iterator[Signal]:
    """Random, planted up to 48 bits away, as a video, as a negative, featureless, of another type."""
    yield from map(still, codes(31, 60))
    yield from (still(flipped(bank[n * 61], n % 49, seed=n)) for n in range(98))
    yield from (still(np.asarray(~bank[n * 7], np.uint8)) for n in range(5))
    yield film(np.array([flipped(code, n % 32, seed=n) for n, code in enumerate(bank[100:160])]), np.arange(60) / 5)
    yield film(bank[2000:2300], np.arange(300) / 10)
    yield still(bank[0], quality=3)
    yield still(flipped(bank[11], 9), kind=SignalType.PHASH)
    both = [frames(bank[n][None], kind=kind) for n, kind in ((40, KINDS[0]), (41, KINDS[1]))]
    yield Signal(still(bank[0]).media, np.concatenate(both))


def test_the_verdicts_are_those_of_the_embedded_index(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of the bank in Milvus's files, one in its memory, one here; then some withdrawn, then all in Milvus."""
    bank, near = clustered(_BANK)
    pair.shelf.record.set_bank("b", actor="test", signal_types=frozenset(KINDS))
    done = []
    for third in range(3):
        part = slice(third * _BANK // 3, (third + 1) * _BANK // 3)
        done.append(pair.shelf.enroll(film(bank[part], np.arange(_BANK // 3) / 10)))
        done += [pair.shelf.enroll(still(code, kind=KINDS[1])) for code in bank[part][11 : 11 + 20]]
        done += [pair.shelf.enroll(still(code, quality=60 - third)) for code in bank[part][::200]]
        if third < 2:
            pair.rest()
        if third == 0:
            pair.backend.seal(pair.collection)
    asked = [*_queries(bank), *map(still, near)]
    monkeypatch.setattr(remote, "HOLD_S", _SEEN_S)
    verdicts: dict[str, int] = {}
    for step in ("new ones here", "some withdrawn", "all in Milvus"):
        if step == "some withdrawn":
            for gone in done[1::5]:
                pair.shelf.withdraw(gone)
        if step == "all in Milvus":
            pair.rest()
            assert pair.index.held == 0
            pair.shelf.index.compact(pair.shelf.record)  # what a match is worth depends on how many there are
            time.sleep(_SEEN_S)  # as long as a search would wait for what was written
        for query in asked if step == "all in Milvus" else asked[::3]:
            here, there = pair.answers(query)
            assert here == there, step
            verdicts[here.verdict] = verdicts.get(here.verdict, 0) + 1
    assert set(verdicts) == {"match", "review", "no_match", "unhashable"}
    assert min(verdicts.values()) >= 3, verdicts


@pytest.fixture
def address(postgres: Postgres) -> Iterator[str]:
    made = postgres.new_database()
    yield made
    postgres.drop(made)


def _signal(code: np.ndarray) -> dict[str, object]:
    return {"signals": [{"signal_type": "pdq", "hash": code.tobytes().hex()}]}


def _enrolling(api: Api, hashes: np.ndarray, acknowledged: list[tuple[int, str]]) -> threading.Thread:
    """Enroll hashes one by one until the server is gone; remember what it acknowledged."""

    def run() -> None:
        for number, code in enumerate(hashes):
            try:
                answer = api.post("/v1/banks/b/contents", _signal(code))
            except OSError:
                return
            if answer.status == 201:
                acknowledged.append((number, answer.json["content_id"]))

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def _contents(api: Api, code: np.ndarray) -> list[str]:
    """Return what a hash is said to match."""
    answer = api.post("/v1/check/hashes", _signal(code))
    assert answer.status == 200, answer.body
    return [match["content_id"] for match in answer.json["matches"]]


def _half_fed(backend: Milvus, store_id: str) -> bool:
    """Say whether somebody has begun to add hashes, and not said yet that they are there."""
    said = json.loads(backend.read(store_id) or "{}")
    return bool(said) and said["begun_pk"] > said["last_pk"]


@pytest.mark.soak
def test_a_process_killed_while_it_feeds_and_enrolls_loses_nothing(
    milvus: MilvusServer, address: str, tmp_path: Path
) -> None:
    """Two processes on one PostgreSQL and one Milvus: the other one takes over, and finds everything once."""
    listed, fresh = codes(41, _LISTED), codes(42, 400)
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(_signal(code)) + "\n" for code in listed))
    settings = {"database_url": address, "search_url": milvus.url, "search_timeout_s": str(TIMEOUT_S)}
    key = make_key(tmp_path / "cli", "admin", database_url=address)
    for command in (("bank", "create", "b"), ("import", "jsonl", tmp_path / "list.jsonl", "--bank", "b")):
        done = staydown(tmp_path / "cli", *command, database_url=address)
        assert done.returncode == 0, done.stderr
    with closing(Store(address)) as store:
        store_id = store.store_id()
    backend = Milvus(milvus.url, TIMEOUT_S)
    feeder = subprocess.Popen(
        [COMMAND, "serve", "--port", "0"], env=environment(tmp_path / "a", **settings), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        wait_until(lambda: _half_fed(backend, store_id), 120, "nobody feeds")
    finally:
        os.killpg(feeder.pid, signal.SIGKILL)
        feeder.wait()
    acknowledged: list[tuple[int, str]] = []
    with Server(tmp_path / "b", **settings) as survivor:
        said = json.loads(backend.read(store_id) or "{}")
        assert said["filled"] and backend.count(said["collection"]) == said["counts"]["pdq"] == _LISTED
        with Server(tmp_path / "c", **settings) as victim:
            thread = _enrolling(victim.api(key), fresh, acknowledged)
            wait_until(lambda: len(acknowledged) >= 50)
            victim.kill()
            thread.join()
        asked = survivor.api(key)
        for number, content_id in acknowledged:
            assert _contents(asked, flipped(fresh[number], 20)) == [content_id]
        known = [_contents(asked, flipped(code, n % 32, seed=n)) for n, code in enumerate(listed[:: _LISTED // 100])]
        assert [len(ids) for ids in known] == [1] * len(known)
        assert not any(_contents(asked, code) for code in codes(43, 20))
    backend.close()
