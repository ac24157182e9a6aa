"""The index follows the store by itself: by a nudge at once, without one soon, and again after whatever broke."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from postgres import Postgres, name_of
from serving import wait_until
from shelf import Shelf, codes, opened, still

from indexer import watch
from indexer.engines import CHANNEL
from indexer.errors import StoreBroken
from indexer.watch import Watch

SOON_S = 1.0
NEVER_S = 60.0


@contextmanager
def watched(address: str) -> Iterator[tuple[Shelf, Watch, list[StoreBroken | None]]]:
    """Open the store as another process would, and watch it."""
    said: list[StoreBroken | None] = []
    with opened(address) as other:
        running = Watch(other.record, other.index, said.append)
        running.start()
        try:
            yield other, running, said
        finally:
            running.stop()


def followed(other: Shelf, revision: int, within_s: float = SOON_S) -> None:
    wait_until(lambda: other.index.revision >= revision, within_s, f"{other.index.revision} < {revision}")


def listeners(postgres: Postgres, address: str) -> list[int]:
    rows = postgres.sql("SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = :name",
                        name=name_of(address))  # fmt: skip
    return [row.pid for row in rows]


def test_nobody_has_to_ask(shelf: Shelf) -> None:
    with watched(shelf.url) as (other, _, said):
        for number, code in enumerate(codes(1, 10), start=1):
            done = shelf.enroll(still(code))
            followed(other, done.bank_revision)
            assert len(other.index) == number
        followed(other, shelf.withdraw(done))
        assert other.found(still(code)) == []
        assert said == []


def test_what_came_before_the_watch_and_during_its_look_is_not_lost(shelf: Shelf) -> None:
    shelf.enroll(still(codes(99, 1)[0]))
    with watched(shelf.url) as (other, _, _):
        writers = [
            threading.Thread(target=shelf.enroll_all, args=([still(c) for c in codes(n, 20)],)) for n in range(8)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        followed(other, shelf.store.revision())
        assert len(other.index) == 161


def test_it_ends_at_once(shelf: Shelf) -> None:
    with watched(shelf.url) as (_, running, _):
        began = time.monotonic()
        running.stop()
        assert time.monotonic() - began < 2.5
        assert not any(thread.is_alive() for thread in running._threads)


# --- PostgreSQL's nudges ----------------------------------------------------------------


@pytest.fixture
def address(postgres: Postgres) -> Iterator[str]:
    made = postgres.new_database()
    yield made
    postgres.drop(made)


def test_a_nudge_is_enough(address: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "POLL_S", NEVER_S)
    with opened(address) as shelf, watched(address) as (other, _, _):
        wait_until(lambda: listeners(postgres, address))
        for code in codes(3, 20):
            followed(other, shelf.enroll(still(code)).bank_revision)


def test_the_connection_that_listens_is_asked_nothing_else(address: str, postgres: Postgres) -> None:
    """A query on it would swallow nudges (psycopg issue 962): the server's own word for what it was asked last."""
    with opened(address) as shelf, watched(address) as (other, _, _):
        wait_until(lambda: listeners(postgres, address))
        first = listeners(postgres, address)
        for code in codes(8, 10):
            done = shelf.enroll(still(code))
            followed(other, done.bank_revision)
            assert other.found(still(code)) == [done.content_id]
            assert listeners(postgres, address) == first
        followed(other, shelf.withdraw(done))
        assert listeners(postgres, address) == first
        asked = postgres.sql("SELECT DISTINCT query FROM pg_stat_activity WHERE pid = :pid", pid=first[0])
        assert [row.query for row in asked] == [f"LISTEN {CHANNEL}"]


def test_a_nudge_that_never_comes_costs_nothing(address: str) -> None:
    with opened(address) as shelf, watched(address) as (other, _, _):
        shelf.store._nudge = ()
        for code in codes(4, 5):
            followed(other, shelf.enroll(still(code)).bank_revision)


def test_a_listener_that_is_cut_off_listens_again(
    address: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "POLL_S", NEVER_S)
    with opened(address) as shelf, watched(address) as (other, _, said):
        wait_until(lambda: listeners(postgres, address))
        before = listeners(postgres, address)
        postgres.sql("SELECT pg_terminate_backend(:pid)", pid=before[0])
        missed = shelf.enroll(still(codes(5, 1)[0])).bank_revision
        wait_until(lambda: set(listeners(postgres, address)) - set(before))
        followed(other, missed)  # it looks as soon as it listens
        followed(other, shelf.enroll(still(codes(6, 1)[0])).bank_revision)
        assert said == []


def test_what_no_verdict_depends_on_nudges_nobody(address: str) -> None:
    with opened(address) as shelf, opened(address) as other, other.store.listening() as nudged:
        shelf.keys.create("check", actor="test")
        assert not nudged(0.3)
        shelf.enroll(still(codes(7, 1)[0]))
        assert nudged(NEVER_S)


def test_a_store_that_breaks_is_told_once_and_so_is_its_return(address: str, postgres: Postgres) -> None:
    """Nobody may connect, and who is connected is cut off; the age grows until the store is back."""
    name = name_of(address)
    with opened(address) as shelf, watched(address) as (other, running, said):
        wait_until(lambda: listeners(postgres, address))
        assert running.age_s < SOON_S
        postgres.sql(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
        postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name", name=name)
        wait_until(lambda: running.age_s > 1.5)
        assert [type(each) for each in said] == [StoreBroken]
        with pytest.raises(StoreBroken):
            other.found(still(codes(8, 1)[0]))
        postgres.sql(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
        wait_until(lambda: said[-1] is None)
        assert len(said) == 2
        assert running.age_s < SOON_S
        followed(other, shelf.enroll(still(codes(8, 1)[0])).bank_revision)
