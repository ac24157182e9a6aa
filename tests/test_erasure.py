"""What was withdrawn is in no byte of any file; and where it is not erased, the test that says so finds it."""

import json
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from serving import staydown

from benchmarks.crashes import content, digest, frames
from hashing.keypoints import pack_sketch
from indexer import engines
from indexer.enroll import Submission
from service import upkeep
from service.engine import Engine
from service.settings import Settings

COUNT = 600


def filled(home: Path, count: int = COUNT) -> list[str]:
    """Enroll contents with digests, frame hashes, and sketches; save the index cache. Returns their ids."""
    with Engine(Settings(home=home, workers=1)) as engine:
        engine.load_index()
        engine.record.create_bank("b", actor="t")
        done = []
        for start in range(0, count, 20):
            new = [Submission(content(seed)) for seed in range(start, start + 20)]
            done += [one.content_id for one in engine.enroller.enroll_many("b", new, actor="t")]
        engine.save_index()
    return done


def canaries(seed: int) -> list[bytes]:
    """Return what must be nowhere: hashes as bytes and hex, and the middle of the sketch."""
    found = [digest(seed), digest(seed).hex().encode(), frames(seed, 1)["hash"][0].tobytes()]
    sketches = content(seed).sketches
    return found + [pack_sketch(row)[2000:2064] for row in sketches]


def present(home: Path, seeds: range | list[int]) -> set[tuple[int, str]]:
    """Look for canaries in the raw bytes of every file: which seed is in which."""
    files = {path.name: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    return {
        (seed, name) for seed in seeds for name, data in files.items() if any(word in data for word in canaries(seed))
    }


def withdraw(home: Path, ids: list[str]) -> None:
    with Engine(Settings(home=home, workers=1)) as engine:
        engine.withdraw(ids, reason="by mistake", actor="t")


def test_the_canaries_are_there_before(tmp_path: Path) -> None:
    filled(tmp_path, 40)
    assert present(tmp_path, range(40)) >= {(seed, "staydown.db") for seed in range(40)}
    assert {name for _, name in present(tmp_path, range(40))} >= {"index.cache"}


def test_erased_content_is_in_no_file(tmp_path: Path) -> None:
    home = tmp_path / "home"
    ids = filled(home)
    gone = random.Random(1).sample(range(COUNT), 60)
    with Engine(Settings(home=home, workers=1)) as engine:
        upkeep.back_up(engine, home / "before.backup", actor="t")
        engine.withdraw([ids[seed] for seed in gone[1:]], reason="r", actor="t")
        engine.load_index()
        engine.save_index()  # a snapshot made after the withdrawal
    assert present(home, gone[1:]) >= {(gone[1], "before.backup")}
    withdraw(home, [ids[gone[0]]])
    with Engine(Settings(home=home, workers=1)) as engine:
        receipt = upkeep.erase(engine)
        assert present(home, gone) == set()  # while the store is open
        assert not receipt.left
    assert set(receipt.content_ids) == {ids[seed] for seed in gone}
    assert {place.place: place.state for place in receipt.places} == {
        "index snapshots": "gone", "kept answers": "gone", "database": "gone", "write-ahead log": "gone",
        f"backup {home / 'before.backup'}": "gone",
    }  # fmt: skip
    assert present(home, gone) == set()
    kept = sorted(set(range(COUNT)) - set(gone))
    assert present(home, kept) >= {(seed, name) for seed in kept for name in ("staydown.db", "before.backup")}


@pytest.mark.parametrize("weaker", ["PRAGMA secure_delete=OFF"])
def test_the_search_finds_what_is_not_erased(weaker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_PRAGMAS", (*engines._PRAGMAS, weaker))
    ids = filled(tmp_path, 100)
    withdraw(tmp_path, ids[:30])
    assert present(tmp_path, range(30))
    with Engine(Settings(home=tmp_path, workers=1)) as engine:
        upkeep.erase(engine)
    assert present(tmp_path, range(30)) == set()


def test_a_receipt_stands_in_the_audit_log_without_a_hash(tmp_path: Path) -> None:
    ids = filled(tmp_path, 20)
    withdraw(tmp_path, ids[:2])
    done = staydown(tmp_path, "erase", "--json", workers="1")
    said = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert set(said["content_ids"]) == set(ids[:2])
    with closing(sqlite3.connect(tmp_path / "staydown.db")) as database:
        ((target, detail),) = database.execute(
            "SELECT target, detail FROM audit WHERE action = 'erasure.receipt'"
        ).fetchall()
    assert target == said["receipt_id"]
    assert json.loads(detail)["content_ids"] == said["content_ids"]
    for seed in range(20):
        assert digest(seed).hex() not in detail
    again = json.loads(staydown(tmp_path, "erase", "--json", workers="1").stdout)
    assert again["content_ids"] == []
    with Engine(Settings(home=tmp_path, workers=1)) as engine:
        assert engine.ledger.verify()[1] is None
        assert not upkeep.eraser(engine).pending()
        engine.record.delete_bank("b", actor="t")
        assert upkeep.eraser(engine).pending()
        assert upkeep.erase(engine).banks == ("b",)
    assert present(tmp_path, range(20)) == set()


def test_a_reader_in_the_way_is_named_and_done_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from indexer import erasure

    monkeypatch.setattr(erasure, "_PATIENCE_MS", 50)
    ids = filled(tmp_path, 20)
    with Engine(Settings(home=tmp_path, workers=1)) as engine:
        with closing(sqlite3.connect(tmp_path / "staydown.db", isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM content").fetchone()
            engine.withdraw(ids[:3], reason="r", actor="t")
            receipt = upkeep.erase(engine)
            assert receipt.left
            assert {p.place for p in receipt.places if p.state == "left"} >= {"write-ahead log"}
            assert upkeep.eraser(engine).pending()
        assert not upkeep.erase(engine).left
    assert present(tmp_path, range(3)) == set()


def test_a_backup_that_cannot_be_rewritten_is_named(tmp_path: Path) -> None:
    ids = filled(tmp_path, 20)
    with Engine(Settings(home=tmp_path, workers=1)) as engine:
        for name in ("one", "two"):
            upkeep.back_up(engine, tmp_path / name, actor="t")
        (tmp_path / "one").write_bytes((tmp_path / "one").read_bytes()[:-50])
        (tmp_path / "two").unlink()
        engine.withdraw(ids[:1], reason="r", actor="t")
        places = {Path(p.place.removeprefix("backup ")).name: p.state for p in upkeep.erase(engine).places}
    assert (places["one"], places["two"]) == ("left", "unknown")


def test_the_service_erases_by_itself(tmp_path: Path) -> None:
    import time

    ids = filled(tmp_path, 20)
    with Engine(Settings(home=tmp_path, workers=1)) as engine:
        thread = upkeep.Upkeep(engine, every_s=0.05)
        thread.start()
        engine.withdraw(ids[:1], reason="r", actor="t")
        ends = time.monotonic() + 20
        while engine.withdrawals.last_receipt() is None:
            assert time.monotonic() < ends
            time.sleep(0.02)
        thread.stop()
        receipt = engine.withdrawals.last_receipt()
    assert receipt is not None
    assert receipt["content_ids"] == ids[:1]


def test_a_request_kept_for_a_withdrawn_content_is_blank(tmp_path: Path) -> None:
    with Engine(Settings(home=tmp_path, workers=1)) as engine:
        engine.record.create_bank("b", actor="t")
        done = [engine.enroller.enroll("b", Submission(content(seed)), actor="t").content_id for seed in (1, 2)]
        for number, content_id in enumerate(done):
            engine.ledger.remember("k", str(number), b"digest", {"content_id": content_id})
        engine.withdraw(done[:1], reason="r", actor="t")
        upkeep.erase(engine)
        assert engine.ledger.remembered("k", "0") == (b"", {"content_id": done[0]})
        assert engine.ledger.remembered("k", "1") == (b"digest", {"content_id": done[1]})
