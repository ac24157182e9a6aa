"""A backup is whole or refused, is taken while others write, and never brings back what was withdrawn."""

import json
import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from postgres import Postgres
from serving import staydown
from sqlalchemy import select
from test_erasure import canaries, filled, present, withdraw

from benchmarks.crashes import content, frames
from hashing.signals import Kind, Media, Signal
from indexer import backup
from indexer.enroll import Submission
from indexer.errors import BackupExists, InvalidBackup, StoreBroken, StoreNotEmpty, WithdrawalsUnknown
from indexer.tables import metadata
from indexer.tombstones import Known, Tombstones, joined
from service import upkeep
from service.engine import Engine
from service.settings import Settings


@contextmanager
def opened(home: Path, url: str = "") -> Iterator[Engine]:
    with Engine(Settings(home=home, workers=1, database_url=url)) as engine:
        engine.load_index()
        yield engine


def found(engine: Engine, seed: int) -> list[str]:
    asked = Signal(Media(Kind.HASHES, None), frames(seed, 1))
    return [match.content_id for match in engine.matcher.match(asked).matches]


def rows(engine: Engine) -> dict[str, list[tuple[object, ...]]]:
    """Return every row of every table but the state and the audit log, which a restore adds to."""
    with engine.store.read() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))]
            for table in metadata.sorted_tables
            if table.name not in {"state", "audit"}
        }


def made(home: Path, target: Path, count: int = 40) -> list[str]:
    ids = filled(home, count)
    with opened(home) as engine:
        upkeep.back_up(engine, target, actor="t")
    return ids


def test_a_restored_store_is_the_same(tmp_path: Path) -> None:
    ids = made(tmp_path / "home", tmp_path / "b")
    with opened(tmp_path / "home") as old, opened(tmp_path / "new") as new:
        old.keys.create("admin", actor="t")
        old.jobs.submit([{"id": "x"}], None, key_id="k")
        upkeep.back_up(old, tmp_path / "b2", actor="t")
        done = upkeep.restore(new, tmp_path / "b2", [tmp_path / "home" / "withdrawals.jsonl"])
        assert (done.seal.contents, done.seal.revision) == (40, old.store.revision())
        assert rows(new) == rows(old)
        assert new.store.store_id() == old.store.store_id()
        assert new.store.revision() > old.store.revision()
        assert new.ledger.verify()[1] is None
        new.load_index()
        assert all(found(new, seed) == [ids[seed]] for seed in range(40))
        again = new.enroller.enroll("b", Submission(content(1000)), actor="t")
        assert found(new, 1000) == [again.content_id]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "b2", "home", "new"]
    assert not [path for path in (tmp_path / "new").iterdir() if ".part" in path.name]


def test_what_was_withdrawn_since_does_not_come_back(tmp_path: Path) -> None:
    home = tmp_path / "home"
    ids = made(home, tmp_path / "b")
    with opened(home) as engine:
        engine.record.create_bank("later", actor="t")
        engine.enroller.enroll("later", Submission(content(500)), actor="t")
        upkeep.back_up(engine, tmp_path / "b2", actor="t")
        engine.withdraw(ids[:5], reason="r", actor="t")
        engine.delete_bank("later", actor="t")
    shutil.copy(home / "withdrawals.jsonl", tmp_path / "list")
    for number, old in enumerate(("b", "b2")):
        with opened(tmp_path / f"new{number}") as new:
            with pytest.raises(WithdrawalsUnknown):
                upkeep.restore(new, tmp_path / old, [])
            with pytest.raises(WithdrawalsUnknown):
                upkeep.restore(new, tmp_path / old, [tmp_path / "not-there"])
            upkeep.restore(new, tmp_path / old, [tmp_path / "list"])
            new.load_index()
            assert [found(new, seed) for seed in range(7)] == [[]] * 5 + [[ids[5]], [ids[6]]]
            assert new.record.bank_names() == {"b"}
            assert new.tombstones.known().content_ids == set(ids[:5])
        assert present(tmp_path / f"new{number}", range(5)) == set()


def test_a_database_copied_back_by_hand_is_replayed_before_it_answers(tmp_path: Path) -> None:
    home = tmp_path / "home"
    ids = filled(home, 20)
    shutil.copy(home / "staydown.db", tmp_path / "old.db")
    withdraw(home, ids[:3])
    for name in ("staydown.db", "staydown.db-wal", "staydown.db-shm"):
        (home / name).unlink(missing_ok=True)
    shutil.copy(tmp_path / "old.db", home / "staydown.db")
    with opened(home) as engine:
        assert [found(engine, seed) for seed in range(4)] == [[], [], [], [ids[3]]]
        assert engine.ledger.verify()[1] is None


def test_a_bank_of_a_deleted_banks_name_stays(tmp_path: Path) -> None:
    with opened(tmp_path) as engine:
        engine.record.create_bank("b", actor="t")
        engine.delete_bank("b", actor="t")
        engine.record.create_bank("b", actor="t")  # within the same second
        engine.enroller.enroll("b", Submission(content(1)), actor="t")
    with opened(tmp_path) as engine:
        assert len(found(engine, 1)) == 1


def test_a_backup_is_taken_while_others_write(tmp_path: Path) -> None:
    home = tmp_path / "home"
    filled(home, 200)
    ended = threading.Event()
    with opened(home) as engine:

        def write() -> None:
            seed = 1000
            while not ended.is_set():
                seed += 1
                engine.enroller.enroll("b", Submission(content(seed)), actor="t")

        thread = threading.Thread(target=write)
        thread.start()
        before = engine.store.revision()
        seals = [upkeep.back_up(engine, tmp_path / f"b{number}", actor="t") for number in range(3)]
        after = engine.store.revision()
        ended.set()
        thread.join()
        assert after > before + 3
    for number, seal in enumerate(seals):
        with opened(tmp_path / f"new{number}") as new:
            upkeep.restore(new, tmp_path / f"b{number}", [], without=True)
            assert new.record.counts()[0] == seal.contents
            assert new.ledger.verify()[1] is None  # of one moment, or the chain would not end where the state says
    assert [seal.revision for seal in seals] == sorted({seal.revision for seal in seals})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    made(folder / "home", folder / "b", 20)
    return folder / "b"


@given(st.data())
def test_a_damaged_backup_is_refused(whole: Path, data: st.DataObject) -> None:
    raw = bytearray(whole.read_bytes())
    how = data.draw(st.sampled_from(["flip", "flip in the seal", "cut", "add", "sector"]))
    if how.startswith("flip"):
        low = 0 if how == "flip" else len(raw) - 250
        raw[data.draw(st.integers(low, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    elif how == "cut":
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    elif how == "add":
        raw += data.draw(st.binary(min_size=1, max_size=9))
    else:
        start = data.draw(st.integers(0, len(raw) - 600))
        raw[start : start + 512] = random.Random(start).randbytes(512)
    path = whole.with_name("damaged")
    path.write_bytes(raw)
    with pytest.raises(InvalidBackup):
        backup.verified(path)


def test_a_refused_backup_changes_nothing(whole: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_bytes(whole.read_bytes()[:-100])
    home = tmp_path / "home"
    done = staydown(home, "restore", damaged, "--without-withdrawals", workers="1")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"invalid_backup" in done.stderr
    with opened(home) as engine:
        assert engine.record.counts() == (0, 0)
        upkeep.restore(engine, whole, [], without=True)  # it is still empty, and takes a whole one
        with pytest.raises(StoreNotEmpty):
            upkeep.restore(engine, whole, [], without=True)
        with pytest.raises(BackupExists):
            upkeep.back_up(engine, whole, actor="t")
        with pytest.raises(StoreBroken):
            upkeep.back_up(engine, damaged / "no-folder", actor="t")


def test_a_backup_of_an_older_schema_is_migrated(tmp_path: Path) -> None:
    from test_store import at_revision

    from indexer.store import Store

    at_revision(f"sqlite:///{tmp_path / 'old.db'}", "0002")
    size = (tmp_path / "old.db").stat().st_size
    seal = backup.Seal("staydown-backup/1", "id", 0, "0002", 0, "then", size)
    from dataclasses import asdict

    line = json.dumps(asdict(seal) | {"sha256": backup._sum(tmp_path / "old.db", size, seal)})
    (tmp_path / "b").write_bytes((tmp_path / "old.db").read_bytes() + f"\n{line}\n".encode())
    store = Store(f"sqlite:///{tmp_path / 'new.db'}")
    backup.restore(tmp_path / "b", store, joined([]))
    assert (store.revision(), store.store_id()) == (8, "id")  # of then, and the restore
    store.close()


def test_the_commands(tmp_path: Path) -> None:
    home, new = tmp_path / "home", tmp_path / "new"
    ids = filled(home, 20)
    done = staydown(home, "backup", tmp_path / "b", "--json", workers="1")
    assert (done.returncode, json.loads(done.stdout)["contents"]) == (0, 20), done.stderr
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600
    assert staydown(home, "withdraw", ids[0], "--reason", "r", workers="1").returncode == 0
    done = staydown(new, "restore", tmp_path / "b", "--json", workers="1")
    assert done.returncode == 2
    assert b"withdrawals_unknown" in done.stderr
    listed = ("--withdrawals", home / "withdrawals.jsonl")
    done = staydown(new, "restore", tmp_path / "b", *listed, "--json", workers="1")
    said = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert (said["contents_in_backup"], said["contents"], said["withdrawals_known"]) == (20, 19, 1)
    assert b"Unknown: what was enrolled after" in done.stderr
    for word in (word for seed in range(20) for word in canaries(seed)):
        assert word not in done.stderr + done.stdout


def test_from_sqlite_to_postgresql_and_back(tmp_path: Path, postgres: Postgres) -> None:
    ids = made(tmp_path / "home", tmp_path / "b")
    url = postgres.empty_database()
    with opened(tmp_path / "home") as old:
        expected = rows(old)
    with opened(tmp_path / "server", url) as server, opened(tmp_path / "back") as back:
        upkeep.restore(server, tmp_path / "b", [], without=True)
        assert rows(server) == expected
        server.load_index()
        new = server.enroller.enroll("b", Submission(content(777)), actor="t")  # keys go on behind those restored
        server.withdraw(ids[:2], reason="r", actor="t")
        receipt = upkeep.erase(server)
        assert {p.place: p.state for p in receipt.places}["database"] == "gone"
        upkeep.back_up(server, tmp_path / "b2", actor="t")
        upkeep.restore(back, tmp_path / "b2", [tmp_path / "server" / "withdrawals.jsonl"])
        back.load_index()
        assert [found(back, seed) for seed in (0, 1, 2, 777)] == [[], [], [ids[2]], [new.content_id]]
        assert back.ledger.verify()[1] is None
        tables = [path.read_bytes() for path in postgres.data.glob("base/*/*") if path.is_file()]
        assert not any(word in data for data in tables for seed in (0, 1) for word in canaries(seed))
        assert any(word in data for data in tables for word in canaries(3))


# --- the list of withdrawals ------------------------------------------------------------


def test_a_torn_line_is_cut_off_and_damage_is_seen(tmp_path: Path) -> None:
    stones = Tombstones(tmp_path / "list")
    assert stones.known() == Known(frozenset(), frozenset(), None, 0)
    stones.append([{"content": "c_1"}, {"content": "c_2"}])
    with stones.path.open("ab") as file:
        file.write(b'{"at": "2026-01-01", "content": "c_')
    assert stones.known().content_ids == {"c_1", "c_2"}
    stones.append([{"content": "c_3"}])
    assert stones.known().content_ids == {"c_1", "c_2", "c_3"}
    assert stones.known().damaged_lines == 0
    stones.path.write_bytes(stones.path.read_bytes().replace(b"c_2", b"c_9"))
    assert (stones.known().content_ids, stones.known().damaged_lines) == ({"c_1", "c_3"}, 1)


def test_many_processes_append_whole_lines(tmp_path: Path) -> None:
    from shelf import ended, run

    script = """
import sys
from pathlib import Path
from indexer.tombstones import Tombstones
for number in range(50):
    Tombstones(Path(sys.argv[1])).append([{"content": f"{sys.argv[2]}-{number}"}])
"""
    for process in [run(script, tmp_path / "list", name) for name in "abc"]:
        ended(process)
    known = Tombstones(tmp_path / "list").known()
    assert (len(known.content_ids), known.damaged_lines) == (150, 0)
