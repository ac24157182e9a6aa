"""`staydown rescan --queue` and `staydown worker`: the real commands on a real PostgreSQL, killed and stopped."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from postgres import Postgres, name_of, running
from serving import COMMAND, environment, staydown, wait_until
from shelf import codes, each, flipped, opened, still

from benchmarks import corpus
from hashing.signals import SignalType, View
from indexer import queue_jobs
from indexer.enroll import ReadyHash
from indexer.errors import InvalidManifest
from indexer.exchange.manifest import Item
from indexer.queue import Queue
from indexer.queue_rescan import TRIES, QueueWork, packed, rescan_queued, ticket_path, unpacked
from indexer.rescan import rescan
from indexer.store import Store

LOST_S = "2"
COUNT = 12_000  # hashes of a list that takes workers some seconds
TABLES = ("queued_rescan", "queued_item", "queued_result", "procrastinate_jobs")


@dataclass
class Site:
    """One database with content in it, a home for the commands, and what was started."""

    server: Postgres
    url: str
    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, str]:
        return {"database_url": self.url, "worker_lost_s": LOST_S, "workers": "1"}

    def command(self, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
        return staydown(self.folder / "home", *arguments, timeout_s=200, **self.settings)

    def start(self, name: str, *arguments: str | Path, **settings: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            given = environment(self.folder / name, **(self.settings | settings))
            made = subprocess.Popen(
                [COMMAND, *arguments], env=given, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.started.append(made)
        return made

    def worker(self, name: str) -> subprocess.Popen[bytes]:
        made = self.start(name, "worker", "--concurrency", "1")
        wait_until(lambda: "worker ready" in self.log(name), what=self.log(name))
        return made

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def count(self, table: str, where: str = "true") -> int:
        database = name_of(self.url)
        there = self.server.sql("SELECT to_regclass(:table)", database, table=table)[0][0] is not None
        return int(self.server.sql(f"SELECT count(*) FROM {table} WHERE {where}", database)[0][0]) if there else 0

    def nothing_left(self) -> bool:
        return {table: self.count(table) for table in TABLES} == dict.fromkeys(TABLES, 0)


@pytest.fixture
def site(postgres: Postgres, tmp_path: Path) -> Iterator[Site]:
    made = Site(postgres, postgres.new_database(), tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    postgres.drop(made.url)


def results(out: Path) -> list[tuple[str, Any]]:
    """Return the lines in order, without what differs from run to run."""
    text = out.read_bytes()
    assert text.endswith(b"\n") or not text
    found = [json.loads(line) for line in text.splitlines()]
    return [(line["input"], {name: value for name, value in line.items() if name != "request_id"}) for line in found]


def filled(site: Site, known: int = 300) -> None:
    with opened(site.url) as shelf:
        shelf.enroll_all([still(code) for code in codes(1, known)])


def listed(site: Site, count: int, known: int = 300) -> Path:
    """Make a manifest: pictures of which one is none and one is missing, and hashes of which every third is known."""
    media = site.folder / "media"
    media.mkdir()
    (media / "good.jpg").write_bytes(corpus.jpeg(corpus.picture(3, 320, 240), 90))
    (media / "bad.jpg").write_bytes(b"no picture")
    stored, other = codes(1, known), codes(2, count)
    rows: list[dict[str, Any]] = [{"path": name} for name in ("good.jpg", "bad.jpg", "missing.jpg", "good.jpg")]
    for number in range(count):
        code = flipped(stored[number % known], number % 40, number) if number % 3 == 0 else other[number]
        rows.append({"signals": [{"signal_type": "pdq", "hash": code.tobytes().hex(), "quality": 90 + number % 10}]})
    path = media / "list.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines_in(out: Path) -> int:
    return out.read_bytes().count(b"\n") if out.exists() else 0


def test_workers_and_submitter_are_killed_and_the_results_are_those_of_one_machine(site: Site) -> None:
    filled(site)
    manifest, out, local = listed(site, COUNT), site.folder / "out.jsonl", site.folder / "local.jsonl"
    submitter = site.start("submitter", "rescan", manifest, "--out", out, "--queue", "--json")
    wait_until(lambda: ticket_path(out).exists(), what=site.log("submitter"))
    workers = [site.worker("one"), site.worker("two")]
    wait_until(lambda: lines_in(out) > 100 and site.count("procrastinate_jobs", "status = 'doing'") == 2)
    os.killpg(workers[0].pid, signal.SIGKILL)
    assert site.count("queued_item") > 500, "in the middle"
    submitter.kill()
    submitter.wait()
    before = lines_in(out)
    with out.open("ab") as file:
        file.write(b'{"input": "torn')
    assert site.command("rescan", manifest, "--out", out, "--resume").returncode == 2, "not beside the workers"
    done = site.command("rescan", manifest, "--out", out, "--queue", "--resume", "--json")
    assert done.returncode == 1, done.stderr
    assert before < COUNT + 4
    assert site.command("rescan", manifest, "--out", local, "--json").returncode == 1
    found, wanted = results(out), results(local)
    assert len(found) == COUNT + 4
    assert sorted(map(str, found)) == sorted(map(str, wanted))
    assert [name for name, _ in found[:4]] == ["good.jpg", "bad.jpg", "missing.jpg", "good.jpg"]
    assert [name for name, _ in found[4:]] == [f"#{n}" for n in range(5, COUNT + 5)], "in the order of the list"
    assert [line["reason"] for _, line in found[1:3]] == ["unsupported_media", "unreadable_file"]
    assert "job taken back" in site.log("two")
    wait_until(site.nothing_left)
    assert not ticket_path(out).exists()
    assert json.loads(done.stdout)["inputs"] == COUNT + 4


@pytest.mark.soak
def test_a_worker_that_is_taken_for_dead_and_is_not_changes_nothing(site: Site) -> None:
    filled(site)
    manifest, out, local = listed(site, COUNT), site.folder / "out.jsonl", site.folder / "local.jsonl"
    slow = site.worker("slow")
    submitter = site.start("submitter", "rescan", manifest, "--out", out, "--queue")
    wait_until(lambda: lines_in(out) > 100)
    os.killpg(slow.pid, signal.SIGSTOP)
    site.worker("other")
    wait_until(lambda: "job taken back" in site.log("other"))
    os.killpg(slow.pid, signal.SIGCONT)
    assert submitter.wait(120) == 1, site.log("submitter")
    assert site.command("rescan", manifest, "--out", local).returncode == 1
    assert sorted(map(str, results(out))) == sorted(map(str, results(local)))
    wait_until(site.nothing_left)


def test_a_worker_that_is_told_to_end_puts_its_job_back(site: Site) -> None:
    filled(site, 3)
    folder, out = site.folder / "pictures", site.folder / "out.jsonl"
    folder.mkdir()
    for number in range(120):
        (folder / f"{number:03}.jpg").write_bytes(corpus.jpeg(corpus.picture(number, 640, 480), 90))
    submitter = site.start("submitter", "rescan", folder, "--out", out, "--queue", "--json")
    worker = site.worker("first")
    wait_until(lambda: lines_in(out) > 5)
    began_s = time.monotonic()
    worker.terminate()
    assert worker.wait(30) == 0, site.log("first")
    assert time.monotonic() - began_s < 10
    assert "worker ended" in site.log("first")
    assert site.count("procrastinate_jobs", "status = 'doing'") == 0, "at once, and not when it is taken for dead"
    assert site.count("procrastinate_jobs", "attempts = 1") == 1
    assert 0 < site.count("queued_item") < 115
    site.worker("second")
    assert submitter.wait(60) == 0, site.log("submitter")
    assert [Path(name).name for name, _ in results(out)] == [f"{number:03}.jpg" for number in range(120)]
    assert {line["verdict"] for _, line in results(out)} == {"no_match"}
    wait_until(site.nothing_left)


def test_a_database_that_restarts_costs_no_line(site: Site, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The worker waits for it; the submitter says that the store is broken, and goes on from where it was."""
    with running(fsync=False) as own:
        mine = Site(own, own.new_database(), tmp_path_factory.mktemp("own"))
        try:
            filled(mine)
            manifest, out = listed(mine, COUNT), mine.folder / "out.jsonl"
            submitter = mine.start("submitter", "rescan", manifest, "--out", out, "--queue")
            worker = mine.worker("one")
            wait_until(lambda: lines_in(out) > 200)
            own.stop(signal.SIGQUIT)
            assert submitter.wait(60) == 2
            assert "store_broken" in mine.log("submitter")
            own.start()
            done = mine.command("rescan", manifest, "--out", out, "--queue", "--resume", "--json")
            assert done.returncode == 1, done.stderr
            assert len(results(out)) == COUNT + 4
            assert worker.poll() is None
            wait_until(mine.nothing_left)
        finally:
            for process in mine.started:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


def test_the_logs_and_the_jobs_hold_no_hash(site: Site) -> None:
    filled(site)
    manifest, out = listed(site, 300), site.folder / "out.jsonl"
    with manifest.open("a") as file:
        file.write('{"path": "http://127.0.0.1:9/good.jpg"}\n')
    submitter = site.start("submitter", "rescan", manifest, "--out", out, "--queue")
    wait_until(lambda: site.count("procrastinate_jobs") == 1)
    kept = str(site.server.sql("SELECT * FROM procrastinate_jobs", name_of(site.url)))
    assert not re.search("[0-9a-f]{32}", kept)
    site.worker("one")
    assert submitter.wait(60) == 1
    for name in ("one", "submitter"):
        assert not re.search("[0-9a-f]{32}", site.log(name)), site.log(name)
        assert "good.jpg" not in site.log(name)
    assert [line["reason"] for name, line in results(out) if name.startswith("http")] == ["link_refused"]


@pytest.mark.soak
def test_an_item_on_which_every_worker_hangs_gets_a_line(site: Site) -> None:
    """A pipe that nobody writes to. Workers end by themselves, or are killed; whoever supervises them starts others."""
    filled(site)
    manifest, out = listed(site, 700), site.folder / "out.jsonl"
    os.mkfifo(site.folder / "media" / "good-2.jpg")
    with manifest.open("a") as file:
        file.write('{"path": "good-2.jpg"}\n{"path": "good.jpg"}\n')
    quick = {"check_timeout_s": "3", "fetch_timeout_s": "1"}
    submitter = site.start("submitter", "rescan", manifest, "--out", out, "--queue")
    for number in range(20):
        if submitter.poll() is not None:
            break
        worker = site.start(f"w{number}", "worker", "--concurrency", "1", **quick)
        if number == 1:
            wait_until(lambda: site.count("queued_item", "request LIKE '%tries%'") == 1)
            time.sleep(0.5)
            os.killpg(worker.pid, signal.SIGKILL)
        wait_until(lambda: worker.poll() is not None or submitter.poll() is not None)  # noqa: B023
        assert worker.poll() in {None, 2, -signal.SIGKILL}, site.log(f"w{number}")
    assert submitter.wait(60) == 1, site.log("submitter")
    assert number >= 2 + TRIES, "one worker with many in hand, then one a try, and the one that gives up"
    assert "an item hangs" in site.log("w0")
    found = dict(results(out))
    assert len(results(out)) == 706
    assert (found["good-2.jpg"]["verdict"], found["good-2.jpg"]["reason"]) == ("unhashable", "worker_lost")
    assert found["good.jpg"]["verdict"] == "no_match"
    assert [line["reason"] for name, line in results(out) if line["verdict"] == "unhashable"] == [
        "unsupported_media", "unreadable_file", "worker_lost"
    ]  # fmt: skip


# --- wrong usage ------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["rescan", "list", "--out", "out", "--queue"], ["worker"]])
def test_without_postgresql_it_says_what_to_set(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "list").write_text("a.jpg\n")
    given = [str(tmp_path / word) if word in {"list", "out"} else word for word in words]
    done = staydown(tmp_path / "home", *given, workers="1")
    assert done.returncode == 2
    assert b"STAYDOWN_DATABASE_URL" in done.stderr
    assert b"--queue" in done.stderr
    assert not (tmp_path / "out").exists()
    if "--queue" in given:
        assert staydown(tmp_path / "home", *given[:-1], workers="1").returncode == 3, "on the cores of this machine"


# --- the submitter, at every moment -----------------------------------------------------


@pytest.fixture
def queue(site: Site) -> Iterator[Queue]:
    store = Store(site.url)
    made = Queue(store)
    made.prepare(queue_jobs.jobs_schema())
    yield made
    store.close()


class Stopped(Exception):
    """Where a test lets the submitter die."""


class Failing(Queue):
    """A queue whose submitter dies at its n-th call."""

    def __init__(self, queue: Queue, calls: int) -> None:
        super().__init__(queue._store)
        self.left = calls

    def _step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Stopped

    def begin(self, *given: Any, **more: Any) -> Any:
        self._step()
        return super().begin(*given, **more)

    def submit(self, *given: Any) -> None:
        self._step()
        super().submit(*given)
        self._step()

    def results(self, *given: Any) -> list[str]:
        self._step()
        self.work_all()
        return super().results(*given)

    def hand_over(self, *given: Any) -> None:
        self._step()
        super().hand_over(*given)
        self._step()

    def end(self, *given: Any) -> None:
        self._step()
        super().end(*given)
        self._step()

    def work_all(self) -> None:
        """Do all there is to do, as a worker would."""
        for (rescan_id,) in {(row[0],) for row in rescans(self)}:
            QueueWork(self, lambda _: each(judge), 2)(rescan_id, (0, 10**6), lambda: False)


def rescans(queue: Queue) -> list[Any]:
    with queue._store.read() as connection:
        return list(connection.exec_driver_sql("SELECT rescan_id FROM queued_rescan"))


def judge(item: Item) -> dict[str, Any]:
    return {"verdict": item.name.partition("-")[0], "reason": None, "matches": []}


LISTED = [Item(name, Path(name)) for name in ("match-1", "no_match-1", "match-ü", "match-1", "unhashable-\udcff")]


def test_a_submitter_that_dies_anywhere_goes_on(site: Site, queue: Queue) -> None:
    wanted = [item.name for item in LISTED]
    for calls in range(12):
        out, alive = site.folder / f"out-{calls}", Failing(queue, calls)
        try:
            rescan_queued(LISTED, alive, queue_jobs.defer, out, banks=None, resume=False)
        except Stopped:
            with out.open("ab") as file:
                file.write(b'{"input": "match-1", "ver')
            if ticket_path(out).exists():
                with pytest.raises(InvalidManifest, match="--resume"):
                    rescan_queued(LISTED, queue, queue_jobs.defer, out, banks=None, resume=False)
            tally = rescan_queued(LISTED, Failing(queue, 1000), queue_jobs.defer, out, banks=None, resume=True)
            assert tally.counts == {"match": 3, "no_match": 1, "unhashable": 1}
        else:
            assert calls >= 8, "every step was one to die at"
        assert [name for name, _ in results(out)] == wanted, calls
        assert not ticket_path(out).exists()
    assert [row for row in rescans(queue) if queue.items(row[0], (0, 9)) or queue.results(row[0], 0, 9)] == []


def test_a_result_goes_from_the_store_when_its_line_is_in_the_file(site: Site, queue: Queue) -> None:
    out = site.folder / "out"

    class Watched(Failing):
        def hand_over(self, rescan_id: str, before: int) -> None:
            assert lines_in(out) >= before
            super().hand_over(rescan_id, before)

    rescan_queued(LISTED, Watched(queue, 1000), queue_jobs.defer, out, banks=None, resume=False)
    assert len(results(out)) == 5


def test_a_file_that_was_begun_here_is_gone_on_with_by_workers(site: Site, queue: Queue) -> None:
    out = site.folder / "out"
    rescan([LISTED[3], LISTED[1]], each(judge), out, resume=False, workers=1)
    alive = Failing(queue, 1000)
    rescan_queued(LISTED, alive, queue_jobs.defer, out, banks=None, resume=True)
    assert sorted(name for name, _ in results(out)) == sorted(item.name for item in LISTED)
    rescan_queued(LISTED, alive, queue_jobs.defer, out, banks=None, resume=True)  # there is nothing left to do
    assert len(results(out)) == 5


def test_a_rescan_that_was_forgotten_meanwhile_is_asked_for_again(site: Site, queue: Queue) -> None:
    out = site.folder / "out"
    with pytest.raises(Stopped):
        rescan_queued(LISTED, Failing(queue, 4), queue_jobs.defer, out, banks=None, resume=False)
    for (rescan_id,) in rescans(queue):
        queue.end(rescan_id)
    rescan_queued(LISTED, Failing(queue, 1000), queue_jobs.defer, out, banks=None, resume=True)
    assert [name for name, _ in results(out)] == [item.name for item in LISTED]


def test_another_list_or_other_banks_are_refused(site: Site, queue: Queue) -> None:
    out = site.folder / "out"
    with pytest.raises(Stopped):
        rescan_queued(LISTED, Failing(queue, 4), queue_jobs.defer, out, banks=None, resume=False)
    data = out.read_bytes()
    for items, banks in ((LISTED[:3], None), (LISTED[::-1], None), (LISTED, ["b"])):
        with pytest.raises(InvalidManifest, match="other inputs"):
            rescan_queued(items, queue, queue_jobs.defer, out, banks=banks, resume=True)
    assert out.read_bytes() == data
    ticket_path(out).write_text("nonsense")
    with pytest.raises(InvalidManifest, match=r"out\.queue"):
        rescan_queued(LISTED, queue, queue_jobs.defer, out, banks=None, resume=True)


def test_one_rescan_at_a_time_writes_a_file(site: Site, queue: Queue) -> None:
    out = site.folder / "out"

    class Second(Failing):
        def results(self, *given: Any) -> list[str]:
            with pytest.raises(InvalidManifest, match="another rescan"):
                rescan(LISTED, each(judge), out, resume=True, workers=1)
            return super().results(*given)

    rescan_queued(LISTED, Second(queue, 1000), queue_jobs.defer, out, banks=None, resume=False)
    assert len(results(out)) == 5


def test_jobs_are_of_about_the_same_cost_and_leave_nothing_out(site: Site, queue: Queue) -> None:
    ready = (ReadyHash(SignalType.PDQ, "0" * 64),)
    items = [Item(str(n), None, ready) if n % 100 < 90 else Item(str(n), Path(str(n))) for n in range(1234)]
    with pytest.raises(Stopped):
        rescan_queued(items, Failing(queue, 3), queue_jobs.defer, site.folder / "out", banks=None, resume=False)
    made = [row[0] for row in site.server.sql("SELECT args FROM procrastinate_jobs ORDER BY id", name_of(site.url))]
    ranges = [range(job["first"], job["behind"]) for job in made]
    assert [number for each in ranges for number in each] == list(range(1234))
    costs = [sum(1 if items[number].hashes else 20 for number in each) for each in ranges]
    assert all(500 <= cost < 520 for cost in costs[:-1])
    assert 0 < costs[-1] < 520


def test_an_item_comes_out_as_it_went_in() -> None:
    odd = b"caf\xe9\n".decode(errors="surrogateescape")
    code = np.packbits(np.arange(256) % 2).tobytes().hex()
    hashes = (
        ReadyHash(SignalType.PDQ, code, 93, 1.1, None, View.FULL), ReadyHash(SignalType.MD5, "0" * 32, None, None, None)
    )  # fmt: skip
    for item in (Item(odd, Path("/a") / odd), Item("#1", None, hashes), Item("https://example.org/a\0b", None)):
        assert unpacked(packed(item)) == item
    assert unpacked(packed(Item("a", Path("a")))).path == Path.cwd() / "a", "the worker stands elsewhere"
