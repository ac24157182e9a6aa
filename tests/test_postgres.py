"""What differs on PostgreSQL: who is served by it, in which order, and what happens when it goes away."""

import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from postgres import Postgres, folder, name_of, needed, running
from serving import wait_until
from shelf import Shelf, codes, opened, still
from sqlalchemy import create_engine, text
from test_watch import watched

from indexer.errors import StoreBroken
from indexer.exchange.hashlist import import_hashes
from indexer.store import Store


@pytest.fixture
def address(postgres: Postgres) -> Iterator[str]:
    made = postgres.new_database()
    yield made
    postgres.drop(made)


@pytest.fixture(scope="module")
def own() -> Iterator[Postgres]:
    """A server that may be stopped and killed. It keeps what it wrote through both; a power cut is another matter."""
    with running(fsync=False) as server:
        yield server


def shown(shelf: Shelf, name: str) -> str:
    with shelf.store.read() as connection:
        return str(connection.exec_driver_sql(f"SHOW {name}").scalar())


def test_the_plain_address_is_psycopg_3s(address: str) -> None:
    for given in (address, address.replace("://", "+psycopg://")):
        with opened(given) as shelf:
            assert shelf.store.engine.dialect.driver == "psycopg"
            assert shown(shelf, "application_name") == "staydown"


def test_what_the_address_says_counts_more(address: str) -> None:
    with opened(f"{address}&application_name=mine&options=-c%20statement_timeout%3D7s") as shelf:
        assert shown(shelf, "application_name") == "mine"
        assert (shown(shelf, "statement_timeout"), shown(shelf, "lock_timeout")) == ("7s", "30s")


def test_without_its_driver_the_store_says_which_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)  # as if it were not installed
    with pytest.raises(StoreBroken, match=r"psycopg.*postgres"):
        Store("postgresql://staydown@/nowhere")


@pytest.mark.parametrize("wrong", ["nobody@/x?host=/nowhere", "staydown:pw@127.0.0.1:1/x?connect_timeout=2"])
def test_a_server_that_is_not_there_is_a_broken_store(wrong: str) -> None:
    with pytest.raises(StoreBroken) as caught:
        Store(f"postgresql://{wrong}")
    assert "pw" not in str(caught.value)


# --- in which order ---------------------------------------------------------------------


def test_a_row_that_commits_late_is_lost_to_who_polls_by_key(address: str) -> None:
    """The trap, on the very same server: without an order of writers the older key comes after the poll."""
    engine = create_engine(address.replace("://", "+psycopg://"))
    poll = text("SELECT key FROM trap WHERE key > :last ORDER BY key")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE trap (key bigserial PRIMARY KEY)"))
    with engine.connect() as late, engine.connect() as early, engine.connect() as reader:
        late.execute(text("INSERT INTO trap DEFAULT VALUES"))
        early.execute(text("INSERT INTO trap DEFAULT VALUES"))
        early.commit()
        seen = reader.execute(poll, {"last": 0}).scalars().all()
        late.commit()
        assert seen == [2]
        assert reader.execute(poll, {"last": seen[-1]}).scalars().all() == []
    engine.dispose()


def test_no_change_can_commit_late_behind_a_reader(address: str) -> None:
    with opened(address) as first, opened(address) as second, opened(address) as reader:
        done = threading.Event()

        def enroll() -> None:
            second.enroll(still(codes(2, 1)[0]))
            done.set()

        writer = threading.Thread(target=enroll)
        with first.store.change("test") as change:
            bank = first.record.bank_within(change, "b")
            writer.start()
            assert not done.wait(0.5)  # it waits for the change before it, and takes no key meanwhile
            assert reader.index.refresh(reader.record) == change.revision - 1
            change.connection.execute(
                text(
                    "WITH made AS (INSERT INTO content (content_id, bank_pk, fingerprint, revision, enabled, kind,"
                    " frames_hashed, labels, created_at) VALUES ('c_late', :bank, 'f', :revision, true, 'image', 1,"
                    " '[]', 'now') RETURNING content_pk) INSERT INTO signal (content_pk, profile, view, quality, hash)"
                    " SELECT content_pk, 0, 0, 100, :hash FROM made"
                ),
                {"bank": bank.bank_pk, "revision": change.revision, "hash": codes(1, 1)[0].tobytes()},
            )
        writer.join()
        assert reader.found(still(codes(1, 1)[0])) == ["c_late"]
        assert len(reader.found(still(codes(2, 1)[0]))) == 1
        with reader.store.read() as connection:
            order = connection.execute(
                text("SELECT signal_pk, revision FROM signal JOIN content USING (content_pk) ORDER BY signal_pk")
            ).all()
        assert [row.revision for row in order] == [change.revision, change.revision + 1]


def test_whoever_polls_while_many_write_misses_nothing(address: str) -> None:
    with opened(address) as reader:
        shelves, ended = [], threading.Event()

        def write(seed: int) -> None:
            with opened(address) as shelf:
                shelves.append([shelf.enroll(still(code)).content_id for code in codes(seed, 25)])

        def poll() -> None:
            while not ended.is_set():
                reader.index.refresh(reader.record)

        writers = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
        poller = threading.Thread(target=poll)
        for thread in (*writers, poller):
            thread.start()
        for thread in writers:
            thread.join()
        ended.set()
        poller.join()
        reader.index.refresh(reader.record)
        assert len(reader.index) == sum(map(len, shelves)) == 100


def test_every_sequence_gives_one_key_at_a_time(address: str) -> None:
    """One that caches keys for each connection would give them out of order."""
    with opened(address) as shelf, shelf.store.read() as connection:
        found = connection.execute(text("SELECT seqcache, seqcycle FROM pg_sequence")).all()
        assert len(found) >= 6
        assert set(found) == {(1, False)}


def test_a_servers_own_defaults_change_nothing(address: str, postgres: Postgres) -> None:
    name = name_of(address)
    postgres.sql(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    postgres.sql(f"ALTER DATABASE {name} SET synchronous_commit = 'off'")
    with opened(address) as one, opened(address) as other:
        assert shown(one, "synchronous_commit") == "on"
        threads = [threading.Thread(target=shelf.enroll_all, args=([still(c) for c in codes(seed, 30)],))
                   for seed, shelf in enumerate((one, other, one, other))]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one.record.counts() == (120, 120)
    postgres.sql(f"ALTER DATABASE {name} SET synchronous_commit = 'remote_write'")  # stronger than off: it stays
    with opened(address) as shelf:
        assert shown(shelf, "synchronous_commit") == "remote_write"


# --- how much at once -------------------------------------------------------------------


def test_lists_longer_than_a_statement_takes(shelf: Shelf) -> None:
    done = shelf.enroll_all([still(code) for code in codes(3, 60)])
    keys = shelf.record.signal_keys()
    bank = shelf.record.bank("b")
    asked = np.concatenate([keys, np.arange(10**6, 10**6 + 70_000)])
    assert len(shelf.record.locate(asked, [bank.bank_pk]).signal_pk) == 60
    assert len(shelf.record.contents_by_pk([*range(1, 70_000)])) == 60
    with shelf.store.change("test") as change:
        marks = [f"{number:064x}" for number in range(70_000)]
        assert shelf.record.find_fingerprints(change, bank.bank_pk, marks) == {}
    assert len(done) == 60


def test_what_a_list_names_is_looked_up_and_not_walked(address: str, postgres: Postgres, tmp_path: Path) -> None:
    """A table that has just grown looks small to the planner, which then compares all rows with all values: 25 s."""
    path = tmp_path / "list.csv"
    path.write_text("hash\n" + "\n".join(bytes(code).hex() for code in codes(5, 45_000)))
    postgres.sql(f"ALTER DATABASE {name_of(address)} SET statement_timeout = '10s'")
    postgres.sql("ALTER TABLE content SET (autovacuum_enabled = off)", name_of(address))  # nothing is counted meanwhile
    with opened(address) as shelf:
        assert shown(shelf, "statement_timeout") == "10s"
        for new in (45_000, 0):
            assert sum(sum(part.created) for part in import_hashes(shelf.lists, "b", path, actor="t")) == new


# --- when it goes away ------------------------------------------------------------------


def test_connections_that_were_cut_off_are_replaced_without_an_error(address: str, postgres: Postgres) -> None:
    with opened(address) as shelf:
        for round_number in range(3):
            cut = postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name",
                               name=name_of(address))  # fmt: skip
            assert cut
            wait_until(lambda: not postgres.sql("SELECT 1 FROM pg_stat_activity WHERE datname = :name",
                                                name=name_of(address)))  # fmt: skip
            code = codes(20 + round_number, 1)[0]
            assert shelf.found(still(code)) == []
            done = shelf.enroll(still(code))
            assert shelf.found(still(code)) == [done.content_id]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["stopped", "crashed"])
def test_a_server_that_comes_back_is_used_again(own: Postgres, how: signal.Signals) -> None:
    with opened(own.new_database()) as shelf, watched(shelf.url) as (other, _, said):
        known, lost, later = codes(30, 3)
        done = shelf.enroll(still(known))
        own.stop(how)
        try:
            for action in (lambda: shelf.found(still(known)), lambda: shelf.enroll(still(lost)), shelf.store.revision):
                with pytest.raises(StoreBroken):
                    action()
            wait_until(lambda: said)
        finally:
            own.start()
        assert shelf.found(still(known)) == [done.content_id]
        assert shelf.found(still(lost)) == []
        after = shelf.enroll(still(later))
        wait_until(lambda: other.index.revision == after.bank_revision)
        assert shelf.ledger.verify()[1] is None


def test_a_change_that_is_cut_off_is_not_done_at_all(address: str, postgres: Postgres) -> None:
    with opened(address) as shelf:
        before = (shelf.store.revision(), shelf.record.counts())
        with pytest.raises(StoreBroken), shelf.store.change("test") as change:
            pid = change.connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
            postgres.sql("SELECT pg_terminate_backend(:pid)", pid=pid)
            change.connection.exec_driver_sql("SELECT 1")
        assert (shelf.store.revision(), shelf.record.counts()) == before
        assert shelf.enroll(still(codes(40, 1)[0])).created


def test_copy_that_fails_is_a_broken_store_and_changes_nothing(address: str, postgres: Postgres) -> None:
    with opened(address) as shelf:
        postgres.sql("ALTER TABLE signal ADD CONSTRAINT no CHECK (quality < 50)", name_of(address))
        with pytest.raises(StoreBroken):
            shelf.enroll(still(codes(41, 1)[0]))
        assert shelf.record.counts() == (0, 0)
        postgres.sql("ALTER TABLE signal DROP CONSTRAINT no", name_of(address))
        assert shelf.enroll(still(codes(41, 1)[0])).created


def test_a_hot_standby_answers_and_refuses_to_write(own: Postgres) -> None:
    needed()
    with opened(own.new_database()) as shelf, folder() as place:
        done = shelf.enroll(still(codes(50, 1)[0]))
        standby = Postgres(place, fsync=False)
        standby.copy_of(own)
        standby.start()
        try:
            with watched(standby.url(name_of(shelf.url))) as (replica, _, _):
                assert replica.found(still(codes(50, 1)[0])) == [done.content_id]
                with pytest.raises(StoreBroken):
                    replica.enroll(still(codes(51, 1)[0]))
                later = shelf.enroll(still(codes(52, 1)[0]))
                wait_until(lambda: replica.index.revision == later.bank_revision)  # by looking: it cannot listen
                assert replica.found(still(codes(52, 1)[0])) == [later.content_id]
        finally:
            standby.stop(signal.SIGQUIT)
