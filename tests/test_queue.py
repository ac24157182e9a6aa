"""Queued rescans in the database: nothing is lost and nothing is there twice, whoever does what at once."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres import Postgres
from shelf import each
from sqlalchemy import text

from indexer import backup, queue_jobs
from indexer.errors import StoreBroken, StoreNotEmpty
from indexer.queue import JobsSchema, Queue, Range
from indexer.queue_rescan import TRIES, QueueWork
from indexer.store import Store
from indexer.tombstones import joined


@pytest.fixture
def address(postgres: Postgres) -> Iterator[str]:
    made = postgres.new_database()
    yield made
    postgres.drop(made)


@pytest.fixture
def store(address: str) -> Iterator[Store]:
    made = Store(address)
    yield made
    made.close()


@pytest.fixture
def queue(store: Store) -> Queue:
    made = Queue(store)
    made.prepare(queue_jobs.jobs_schema())
    return made


def rows(store: Store, table: str) -> list[Any]:
    with store.read() as connection:
        return list(connection.execute(text(f"SELECT * FROM {table}")).all())


def filled(queue: Queue, count: int, rescan_id: str = "r_1") -> str:
    queue.begin(rescan_id, None, count, actor="test")
    jobs = [(first, min(first + 4, count)) for first in range(0, count, 4)]
    queue.submit(rescan_id, 0, [f"ask {n}" for n in range(count)], jobs, queue_jobs.defer)
    return rescan_id


# --- procrastinate's tables -------------------------------------------------------------


def test_many_processes_make_the_tables_at_once(address: str) -> None:
    stores = [Store(address) for _ in range(4)]
    failed: list[Exception] = []

    def prepare(store: Store) -> None:
        try:
            Queue(store).prepare(queue_jobs.jobs_schema())
        except StoreBroken as error:
            failed.append(error)

    threads = [threading.Thread(target=prepare, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert {name for (name,) in rows(stores[0], "queue_schema")} == {n for n, _ in queue_jobs.jobs_schema().migrations}
    assert rows(stores[0], "procrastinate_jobs") == []
    for store in stores:
        store.close()


def test_a_newer_procrastinate_migrates_its_tables_once(queue: Queue, store: Store) -> None:
    ours = queue_jobs.jobs_schema()
    newer = JobsSchema(ours.sql, (*ours.migrations, ("99.sql", "CREATE TABLE procrastinate_new (x int)")))
    queue.prepare(newer)
    queue.prepare(newer)
    assert rows(store, "procrastinate_new") == []
    assert ("99.sql",) in rows(store, "queue_schema")


def test_a_migration_that_fails_leaves_nothing_half_done(queue: Queue, store: Store) -> None:
    ours = queue_jobs.jobs_schema()
    wrong = ("98.sql", "CREATE TABLE procrastinate_new (x int)"), ("99.sql", "SELECT nonsense")
    with pytest.raises(StoreBroken):
        queue.prepare(JobsSchema(ours.sql, (*ours.migrations, *wrong)))
    assert rows(store, "queue_schema WHERE name >= '98'") == []
    with pytest.raises(StoreBroken):
        rows(store, "procrastinate_new")


def test_tables_of_another_program_in_the_same_database_are_used_as_they_are(store: Store) -> None:
    with store.work() as connection:
        connection.connection.driver_connection.execute(queue_jobs.jobs_schema().sql)  # type: ignore[union-attr]
    queue = Queue(store)
    queue.prepare(queue_jobs.jobs_schema())
    filled(queue, 2)
    assert len(rows(store, "procrastinate_jobs")) == 1


def test_a_store_in_a_file_has_no_queue() -> None:
    store = Store("sqlite://")
    assert not Queue(store).possible
    store.close()


# --- items and results ------------------------------------------------------------------


def test_a_job_says_which_items_and_nothing_of_what_they_are(queue: Queue, store: Store) -> None:
    filled(queue, 10)
    assert [row.args for row in rows(store, "procrastinate_jobs ORDER BY id")] == [
        {"rescan_id": "r_1", "first": first, "behind": behind} for first, behind in ((0, 4), (4, 8), (8, 10))
    ]
    assert "ask" not in str(rows(store, "procrastinate_jobs")) + str(rows(store, "procrastinate_events"))


def test_items_and_their_jobs_are_there_together_or_not_at_all(queue: Queue, store: Store) -> None:
    queue.begin("r_1", ["b"], 2, actor="test")

    def fails(*_: object) -> None:
        raise StoreBroken

    with pytest.raises(StoreBroken):
        queue.submit("r_1", 0, ["a", "b"], [(0, 2)], fails)
    found = queue.find("r_1")
    assert found is not None
    assert (found.submitted, found.total, found.banks) == (0, 2, ["b"])
    assert rows(store, "queued_item") == rows(store, "procrastinate_jobs") == []


def test_a_result_takes_its_item_s_place_once(queue: Queue, store: Store) -> None:
    filled(queue, 6)
    assert queue.settle("r_1", [(2, "first"), (0, "first")]) == 2
    assert queue.settle("r_1", [(0, "second"), (1, "second")]) == 1
    assert queue.items("r_1", (0, 5)) == [(3, "ask 3"), (4, "ask 4")]
    assert queue.results("r_1", 0, 10) == ["first", "second", "first"]
    queue.hand_over("r_1", 2)
    assert queue.settle("r_1", [(0, "late"), (1, "late")]) == 0, "what was handed over does not come back"
    assert queue.results("r_1", 2, 10) == ["first"]
    assert len(rows(store, "queued_result")) == 1


def test_results_are_given_up_to_the_first_that_lacks(queue: Queue) -> None:
    filled(queue, 10)
    queue.settle("r_1", [(n, str(n)) for n in (0, 1, 3, 4, 9)])
    assert queue.results("r_1", 0, 10) == ["0", "1"]
    assert queue.results("r_1", 0, 1) == ["0"]
    assert queue.results("r_1", 2, 10) == []
    queue.settle("r_1", [(2, "2")])
    assert queue.results("r_1", 2, 10) == ["2", "3", "4"]


def test_two_workers_on_the_same_items_at_once(queue: Queue, store: Store) -> None:
    """As when one was taken for dead, and was only slow."""
    filled(queue, 200)
    together = threading.Barrier(2)
    written = []

    def work(name: str) -> None:
        together.wait()
        for first in range(0, 200, 10):
            written.append(queue.settle("r_1", [(n, f'"{name}"') for n in range(first, first + 10)]))

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(written) == 200
    assert len(queue.results("r_1", 0, 1000)) == 200
    assert rows(store, "queued_item") == []


def test_what_has_ended_leaves_nothing_and_its_jobs_do_nothing(queue: Queue, store: Store) -> None:
    filled(queue, 8)
    queue.settle("r_1", [(0, "{}")])
    queue.end("r_1")
    assert queue.find("r_1") is None
    assert rows(store, "queued_item") == rows(store, "queued_result") == []

    def never(*_: object) -> Any:
        raise AssertionError

    assert QueueWork(queue, never, 1)("r_1", (0, 4), lambda: False)


def test_a_rescan_that_nobody_comes_back_to_is_forgotten(queue: Queue, store: Store) -> None:
    filled(queue, 4, "r_old")
    filled(queue, 4, "r_new")
    with store.work() as connection:
        connection.execute(
            text("UPDATE queued_rescan SET seen_at = '2026-01-01T00:00:00+00:00' WHERE rescan_id = 'r_old'")
        )
    assert queue.forget(7) == 1
    assert (queue.find("r_old"), len(queue.items("r_new", (0, 9)))) == (None, 4)
    assert {row.rescan_id for row in rows(store, "queued_item")} == {"r_new"}


def test_no_backup_has_what_is_queued(queue: Queue, store: Store, tmp_path: Path) -> None:
    filled(queue, 4)
    queue.settle("r_1", [(0, "{}")])
    backup.write(store, tmp_path / "b")
    assert b"ask 1" not in (tmp_path / "b").read_bytes()
    with pytest.raises(StoreNotEmpty):
        backup.restore(tmp_path / "b", store, joined([]))
    new = Store(f"sqlite:///{tmp_path / 'new.db'}")
    backup.restore(tmp_path / "b", new, joined([]))
    assert new.store_id() == store.store_id()
    assert rows(new, "queued_rescan") == rows(new, "queued_result") == []
    new.close()


# --- a worker's job ---------------------------------------------------------------------


class Killed(BaseException):
    """The end of a worker, as far as this process can have it."""


def run(
    queue: Queue, numbers: Range, stop: Any = lambda: False, workers: int = 2, again: bool = False
) -> tuple[bool, list[str]]:
    """Do a job whose items are their own names; returns whether it was all, and what was asked."""
    asked: list[str] = []

    def check(item: Any) -> dict[str, Any]:
        asked.append(item.name)
        if item.name == "broken":
            raise StoreBroken
        if item.name == "deadly":
            raise Killed
        return {"verdict": item.name}

    return QueueWork(queue, lambda banks: each(check), workers)("r_1", numbers, stop, again), asked


def named(queue: Queue, *names: str) -> None:
    queue.begin("r_1", None, len(names), actor="test")
    asks = [f'{{"name": "{name}", "path": null, "hashes": []}}' for name in names]
    queue.submit("r_1", 0, asks, [(0, len(names))], queue_jobs.defer)


def test_a_job_that_is_told_to_stop_keeps_what_it_has(queue: Queue) -> None:
    names = [f"i{n}" for n in range(50)]
    named(queue, *names)
    calls = iter(range(1000))
    whole, asked = run(queue, (0, 50), lambda: next(calls) >= 20)
    assert not whole
    assert sorted(asked) == sorted(names[:20])
    assert [number for number, _ in queue.items("r_1", (0, 50))] == list(range(20, 50))
    whole, again = run(queue, (0, 50))
    assert whole
    assert sorted(asked + again) == sorted(names), "each once"
    assert len(queue.results("r_1", 0, 100)) == 50


def test_an_item_that_nobody_can_read_is_a_result_and_a_broken_store_is_none(queue: Queue, store: Store) -> None:
    named(queue, "a", "b")
    with store.work() as connection:
        connection.execute(text("UPDATE queued_item SET request = 'no JSON' WHERE number = 0"))
    assert run(queue, (0, 2)) == (True, ["b"])
    assert "invalid_manifest" in queue.results("r_1", 0, 2)[0]
    queue.end("r_1")
    named(queue, "a", "broken", "c")
    with pytest.raises(StoreBroken):
        run(queue, (0, 3), workers=1)
    assert (1, '{"name": "broken", "path": null, "hashes": []}') in queue.items("r_1", (0, 3))


def test_an_item_that_kills_its_worker_each_time_is_given_up_and_the_others_are_not(queue: Queue) -> None:
    names = ["a", "b", "deadly", "c", "d"]
    named(queue, *names)
    with pytest.raises(Killed):
        run(queue, (0, 5), workers=1)
    for tries in range(1, TRIES + 1):
        with pytest.raises(Killed):
            run(queue, (0, 5), again=True)
        left = dict(queue.items("r_1", (0, 5)))
        assert sorted(left) == [2, 3, 4], "what is done is written at once: nobody's end is laid at its door"
        assert f'"tries": {tries}' in left[2]
        assert "tries" not in left[3] + left[4]
    assert run(queue, (0, 5), again=True) == (True, ["c", "d"])
    found = [json.loads(text) for text in queue.results("r_1", 0, 9)]
    assert [result["verdict"] for result in found] == ["a", "b", "unhashable", "c", "d"]
    assert found[2]["reason"] == "worker_lost"


def test_a_store_that_is_away_for_long_is_no_items_death(queue: Queue) -> None:
    named(queue, "a", "broken", "c")
    for _ in range(2 * TRIES):
        with pytest.raises(StoreBroken):
            run(queue, (0, 3), again=True)
    assert dict(queue.items("r_1", (0, 3)))[1] == '{"name": "broken", "path": null, "hashes": []}'


def test_what_nobody_can_read_kills_nobody(queue: Queue, store: Store) -> None:
    named(queue, "a", "b")
    with store.work() as connection:
        connection.execute(text("UPDATE queued_item SET request = 'no JSON' WHERE number = 0"))
    assert run(queue, (0, 2), again=True) == (True, ["b"])
    assert "invalid_manifest" in queue.results("r_1", 0, 2)[0]


def test_a_job_begun_anew_that_is_told_to_stop(queue: Queue) -> None:
    named(queue, *"abcdef")
    calls = iter(range(100))
    assert run(queue, (0, 6), lambda: next(calls) >= 3, again=True) == (False, ["a", "b", "c"])
    assert run(queue, (0, 6), again=True) == (True, ["d", "e", "f"])
