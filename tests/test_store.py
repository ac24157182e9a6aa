"""Durable, whole or not at all, one change after the other, whoever writes."""

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from shelf import ROOT, Shelf, codes, ended, opened, run, sketched, still, url
from sqlalchemy import insert, select, text

from hashing.keypoints import pack_sketch
from indexer.engines import alone, open_engine
from indexer.errors import StoreBroken, UnknownContent
from indexer.store import Store, now
from indexer.tables import audit, bank, metadata


def pragma(store: Store, name: str) -> object:
    with store.read() as connection:
        return connection.execute(text(f"PRAGMA {name}")).scalar()


def test_every_connection_is_durable_and_forgets(embedded: Shelf) -> None:
    found: list[dict[str, object]] = []

    def look() -> None:
        with embedded.store.read():  # holds one connection, so that the next is another
            found.append({name: pragma(embedded.store, name) for name in wanted})

    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1, "busy_timeout": 30000}
    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 4


def test_files_are_for_their_owner_alone(embedded: Shelf) -> None:
    embedded.enroll(still(codes(1, 1)[0]))
    for name in ("staydown.db", "staydown.db-wal", "staydown.db-shm"):
        assert embedded.path.with_name(name).stat().st_mode & 0o777 == 0o600, name


def test_a_new_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    Store(url(tmp_path / "home" / "staydown.db")).close()
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700


def test_the_migrations_make_what_the_tables_say(shelf: Shelf) -> None:
    with shelf.store.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_sqlite_gives_no_key_twice(embedded: Shelf) -> None:
    with embedded.store.read() as connection:
        kept = connection.execute(text("SELECT name FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%'"))
        assert set(kept.scalars()) == {
            "bank", "content", "signal", "sketch", "audit", "retro_signal", "retro_match",
        }  # fmt: skip


def at_revision(address: str, revision: str) -> None:
    """Make the store that a version of then had, with a content in it."""
    engine = open_engine(address)
    with alone(engine) as connection:
        config = Config()
        config.set_main_option("script_location", str(ROOT / "indexer" / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        code, digest, sketch = bytes(32), bytes(16), pack_sketch(sketched(1)[0])
        given = {"code": code, "digest": digest, "sketch": sketch, "yes": True, "link": b""}
        for row in (
            "INSERT INTO state (state_pk, revision, store_id, audit_digest) VALUES (1, 7, 'id', :link)",
            "INSERT INTO bank (bank_pk, name, description, enabled, policy, signal_types, created_at)"
            " VALUES (1, 'b', '', :yes, 'default', '[\"pdq\"]', 'then')",
            "INSERT INTO content (content_pk, content_id, bank_pk, fingerprint, revision, enabled, kind,"
            " frames_hashed, labels, created_at) VALUES (5, 'c_5', 1, 'f', 7, :yes, 'image', 1, '[]', 'then')",
            "INSERT INTO signal (signal_pk, content_pk, profile, view, quality, hash) VALUES (3, 5, 0, 0, 100, :code)",
            "INSERT INTO exact (exact_pk, content_pk, signal_type, digest) VALUES (2, 5, 'md5', :digest)",
            *(["INSERT INTO sketch (sketch_pk, content_pk, data) VALUES (4, 5, :sketch)"] if revision > "0001" else []),
        ):
            connection.execute(text(row), given)
    engine.dispose()


@pytest.mark.parametrize("revision", ["0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008"])
def test_an_older_store_keeps_all_its_rows(blank: str, revision: str) -> None:
    at_revision(blank, revision)
    with opened(blank) as shelf:
        with shelf.store.read() as reading:
            for name in ("signal", "exact", "content", "bank"):
                assert reading.execute(text(f"SELECT count(*) FROM {name}")).scalar() == 1, name
            assert reading.execute(text("SELECT count(*) FROM sketch")).scalar() == (revision > "0001")
            assert reading.execute(text("SELECT lawful_of FROM content")).all() == [(None,)]
            migrations = MigrationContext.configure(reading, opts={"compare_type": True})
            assert compare_metadata(migrations, metadata) == []
        bank_of_then = shelf.record.bank("b")
        assert (bank_of_then.lawful, bank_of_then.suppresses, bank_of_then.contents) == (False, None, 1)
        assert shelf.found(still(np.zeros(32, np.uint8))) == ["c_5"]


def test_opening_again_changes_nothing(shelf: Shelf) -> None:
    shelf.enroll(still(codes(1, 1)[0]))
    before = (shelf.store.store_id(), shelf.store.revision(), shelf.record.counts())
    with opened(shelf.url) as again:
        assert (again.store.store_id(), again.store.revision(), again.record.counts()) == before


def test_two_stores_are_not_the_same(shelf: Shelf, tmp_path: Path) -> None:
    with opened(tmp_path / "other.db") as other:
        assert other.store.store_id() != shelf.store.store_id()


@pytest.mark.parametrize("address", ["sqlite://", "sqlite:///:memory:"])
def test_a_store_in_memory_needs_no_file(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(address)
    with store.change("test") as change:
        change.log("test", "here")
    assert store.revision() == 1
    store.close()
    assert list(tmp_path.iterdir()) == []


# --- what cannot be opened --------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["", "nonsense", "nosuch://x", "nosuch+driver:///x", "mssql+pyodbc://x/y", "sqlite:////proc/none/x.db"]
)
def test_an_address_that_means_nothing_is_a_broken_store(address: str) -> None:
    with pytest.raises(StoreBroken) as caught:
        Store(address)
    assert caught.value.word == "store_broken"


@pytest.mark.parametrize("data", [b"no database at all" * 100, b"SQLite format 3\x00" + bytes(4000)])
def test_a_file_that_is_no_database_is_a_broken_store(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(data)
    with pytest.raises(StoreBroken):
        Store(url(tmp_path / "x.db"))
    assert (tmp_path / "x.db").read_bytes() == data


def test_a_folder_is_a_broken_store(tmp_path: Path) -> None:
    with pytest.raises(StoreBroken):
        Store(url(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_a_broken_store(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreBroken):
            Store(url(tmp_path / "x.db"))
    finally:
        tmp_path.chmod(0o700)


def test_a_store_of_a_later_staydown_is_a_broken_store(shelf: Shelf) -> None:
    with shelf.store.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreBroken, match="CommandError"):
        Store(shelf.url)


def test_a_table_that_is_gone_is_a_broken_store(shelf: Shelf) -> None:
    with shelf.store.engine.begin() as connection:
        connection.execute(text("DROP TABLE state"))
    with pytest.raises(StoreBroken):
        shelf.store.revision()
    with pytest.raises(StoreBroken), shelf.store.change("test"):
        pass


# --- changes ----------------------------------------------------------------------------


def rows(store: Store) -> tuple[int, int, int]:
    with store.read() as connection:
        return (
            store.revision(),
            len(connection.execute(select(bank)).all()),
            len(connection.execute(select(audit)).all()),
        )


@pytest.mark.parametrize("error", [ValueError, UnknownContent, KeyboardInterrupt])
def test_nothing_is_half_applied(shelf: Shelf, error: type[BaseException]) -> None:
    before = rows(shelf.store)
    values = {"name": "new", "signal_types": ["pdq"], "created_at": now()}
    with pytest.raises(error), shelf.store.change("test") as change:
        change.connection.execute(insert(bank).values(values))
        change.log("bank.create", "new")
        raise error
    assert rows(shelf.store) == before
    with shelf.store.change("test") as change:
        change.connection.execute(insert(bank).values(values))
        change.log("bank.create", "new")
    assert rows(shelf.store) == tuple(count + 1 for count in before)


def test_what_no_verdict_depends_on_is_not_counted(shelf: Shelf) -> None:
    before = shelf.store.revision()
    with shelf.store.change("test", counted=False) as change:
        change.log("key.create", "k")
        assert change.revision == before
    assert shelf.store.revision() == before
    assert shelf.ledger.verify() == (2, None)


BUMPER = """
import sys
from forks import fork
from indexer.store import Store

def bump():
    store = Store(sys.argv[1])
    for _ in range(40):
        with store.change("process") as change:
            change.log("test", "x", revision=change.revision)
            print(change.revision, flush=True)
    store.close()

for child in [fork(bump), fork(bump)]:
    print(child.ended().replace("\\n", " "))
"""


def test_revisions_of_threads_and_processes_are_each_given_once(shelf: Shelf) -> None:
    before = shelf.store.revision()
    seen: list[int] = []

    def bump() -> None:
        for _ in range(25):
            with shelf.store.change("thread") as change:
                change.log("test", "x")
            seen.append(change.revision)

    processes = run(BUMPER, shelf.url)
    threads = [threading.Thread(target=bump) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    theirs = [[int(word) for word in line.split()] for line in ended(processes).splitlines()]
    assert [len(each) for each in theirs] == [40, 40]
    assert all(each == sorted(each) for each in theirs)
    assert sorted(sum(theirs, seen)) == list(range(before + 1, before + 181))
    assert shelf.ledger.verify() == (181, None)


def test_many_more_threads_than_connections_only_wait(shelf: Shelf) -> None:
    failed: list[Exception] = []

    def work(number: int) -> None:
        try:
            shelf.enroll(still(codes(number, 1)[0]))
            shelf.store.revision()
        except StoreBroken as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(80)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert shelf.record.counts() == (80, 80)


# --- other processes --------------------------------------------------------------------

OPENERS = """
import sys
from forks import fork
from indexer.store import Store

def create():
    store = Store(sys.argv[1])
    print(store.store_id())
    store.close()

for child in [fork(create) for _ in range(8)]:
    print(child.ended(), end="")
"""


def test_processes_that_create_the_same_store_at_once_all_succeed(blank: str) -> None:
    ids = ended(run(OPENERS, blank)).split()
    assert len(ids) == 8
    assert len(set(ids)) == 1


DYING = """
import os, sys
from forks import fork
from sqlalchemy import Engine, event
from indexer.store import Store

def create(left):
    address = f"sqlite:///{sys.argv[1]}/{left}.db"
    @event.listens_for(Engine, "before_cursor_execute")
    def count(*ignored):
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
    Store(address).close()

print(*[fork(lambda: create(left)).waited() for left in range(20)])
"""


def test_a_process_that_dies_while_it_creates_the_store_leaves_one_that_opens(tmp_path: Path) -> None:
    ends = [int(word) for word in ended(run(DYING, tmp_path)).split()]
    assert ends[:15] == [-signal.SIGKILL] * 15
    for left in range(20):
        if (tmp_path / f"{left}.db").exists():  # else it was killed even before
            with opened(tmp_path / f"{left}.db") as shelf:
                assert shelf.store.revision() == 1


KILLED = """
import random, sys, time
from pathlib import Path
from forks import fork
from shelf import codes, opened, still

def enroll(start):
    with opened(Path(sys.argv[1])) as shelf:
        for number in range(start, start + 100000):
            done = shelf.enroll(still(codes(number, 1)[0]))
            print("enrolled", number, done.content_id, flush=True)
            if number % 3 == 0:
                shelf.withdraw(done)
                print("withdrawn", number, done.content_id, flush=True)

chance = random.Random(1)
for round_number in range(12):
    child = fork(lambda: enroll(1000 * round_number))
    lines = [child.stdout.readline() for _ in range(chance.randrange(1, 40))]
    time.sleep(chance.uniform(0.0, 0.02))
    lines += child.killed()
    print(*[line for line in lines if line.endswith("\\n")], sep="", end="")
"""


def test_what_was_answered_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "staydown.db"
    enrolled: dict[str, int] = {}
    withdrawn: dict[str, int] = {}
    for line in ended(run(KILLED, path)).splitlines():
        word, number, content_id = line.split()
        (enrolled if word == "enrolled" else withdrawn)[content_id] = int(number)
    assert len(enrolled) > 100
    assert len(withdrawn) > 30
    with opened(path) as shelf:
        for content_id, number in enrolled.items():
            known = shelf.record.content("b", content_id)
            unanswered = number % 3 == 0 and known.withdrawn_at is not None
            gone = content_id in withdrawn or unanswered
            assert (known.withdrawn_at is not None) is gone
            assert shelf.found(still(codes(number, 1)[0])) == ([] if gone else [content_id])
        assert shelf.ledger.verify()[1] is None
        with shelf.store.read() as connection:
            assert connection.execute(text("PRAGMA integrity_check")).scalars().all() == ["ok"]
