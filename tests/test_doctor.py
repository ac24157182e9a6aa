"""`staydown doctor` looks at everything, and repairs what can be made anew, when asked to."""

import json
import sqlite3
from pathlib import Path

import pytest
from serving import staydown

from benchmarks import corpus
from service.doctor import Finding, examine
from service.engine import Engine
from service.settings import Settings


def findings(home: Path, **settings: int) -> dict[str, Finding]:
    with Engine(Settings(home=home, workers=1, **settings)) as engine:
        return {finding.what: finding for finding in examine(engine)}


def filled(home: Path) -> None:
    with Engine(Settings(home=home, workers=1)) as engine:
        engine.load_index()
        engine.record.create_bank("b", actor="t")
        engine.enroll_media("b", corpus.jpeg(corpus.picture(1, 160, 120), 90), None, (), actor="t")
        engine.keys.create("admin", actor="t")
        engine.save_index()


def test_all_is_well(tmp_path: Path) -> None:
    filled(tmp_path)
    found = findings(tmp_path)
    assert set(found) == {
        "record", "pepper", "keys", "audit log", "withdrawn hashes", "index cache", "index", "list of withdrawals",
        "erasure", "leftovers", "backups", "workers", "sandbox", "hashes at rest",
    }  # fmt: skip
    assert all(finding.ok for finding in found.values()), found
    assert "1 contents" in found["record"].detail
    assert found["keys"].detail == "1 valid"


def test_a_cache_that_disagrees_is_found_and_left(tmp_path: Path) -> None:
    filled(tmp_path)
    cache = tmp_path / "index.cache"
    damaged = bytearray(cache.read_bytes())
    damaged[-1] ^= 1
    cache.write_bytes(damaged)
    assert not findings(tmp_path)["index cache"].ok
    assert cache.read_bytes() == damaged
    cache.unlink()
    assert findings(tmp_path)["index cache"].ok
    assert not cache.exists()


def test_a_changed_audit_log_is_found(tmp_path: Path) -> None:
    filled(tmp_path)
    with sqlite3.connect(tmp_path / "staydown.db") as database:
        database.execute("update audit set actor = 'somebody' where seq = 2")
    database.close()
    found = findings(tmp_path)["audit log"]
    assert (found.ok, found.detail) == (False, "broken at entry 2")


def test_workers_that_cannot_answer_are_found(tmp_path: Path) -> None:
    assert not findings(tmp_path, check_timeout_s=60, max_pixels=1)["audit log"].detail.startswith("broken")
    with Engine(Settings(home=tmp_path, workers=1)) as engine:
        engine.pool.close()
        engine._pool = type(
            "Gone", (), {"workers": 1, "layers": frozenset(), "hash_media": _fail, "close": lambda self: None}
        )()
        assert not {finding.what: finding for finding in examine(engine)}["workers"].ok


def _fail(*_: object) -> None:
    from hashing.errors import CorruptMedia

    raise CorruptMedia


def test_the_command_shows_settings_without_secrets(tmp_path: Path) -> None:
    done = staydown(tmp_path, "doctor", "--json", workers="1")
    said = json.loads(done.stdout)
    assert done.returncode == 0
    assert said["settings"]["home"] == str(tmp_path)
    assert {finding["what"] for finding in said["findings"]} >= {"record", "workers"}
    assert all(set(finding) == {"what", "ok", "code", "detail"} for finding in said["findings"])
    filled(tmp_path)
    with sqlite3.connect(tmp_path / "staydown.db") as database:
        database.execute("delete from audit where seq = 1")
    database.close()
    assert staydown(tmp_path, "doctor", workers="1").returncode == 2


def test_a_store_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "staydown.db").write_bytes(b"this is no database" * 100)
    done = staydown(tmp_path, "doctor")
    assert (done.returncode, done.stdout) == (2, b"")
    assert len(done.stderr.decode().splitlines()) == 1
    assert b"store_broken" in done.stderr
    url = "postgresql://u:hunter2@127.0.0.1:1/x"
    done = staydown(tmp_path, "doctor", database_url=url)
    assert done.returncode == 2
    assert b"hunter2" not in done.stderr + done.stdout
    assert b"Traceback" not in done.stderr


# --- what disagrees ---------------------------------------------------------------------


def run(home: Path, *arguments: str) -> tuple[int, dict[str, str | None], list[str]]:
    done = staydown(home, "doctor", "--json", *arguments, workers="1")
    said = json.loads(done.stdout)
    return done.returncode, {f["what"]: f["code"] for f in said["findings"] if f["code"]}, said["repaired"]


def broken(home: Path, how: str) -> None:
    """Break one thing."""
    if how == "leftovers":
        (home / "index.cache.99999999.part").write_bytes(b"x")
        (home / "restore.99999999.part-wal").write_bytes(b"x")
    elif how == "withdrawals_incomplete":
        with Engine(Settings(home=home, workers=1)) as engine:
            (content,) = engine.record.contents("b")
            engine.withdraw([content.content_id], reason="r", actor="t")
        (home / "withdrawals.jsonl").unlink()
    elif how == "index_cache_disagrees":
        (home / "index.cache").write_bytes(b"staydown-index\nrubbish")
    else:
        with sqlite3.connect(home / "staydown.db") as database:
            database.execute("update content set withdrawn_at = 'now', fingerprint = null")
        database.close()


@pytest.mark.parametrize(
    ("how", "others"),
    [("leftovers", set()), ("withdrawals_incomplete", set()), ("index_cache_disagrees", set()),
     ("withdrawn_hashes_kept", {"withdrawals_incomplete", "index_disagrees"})],
)  # fmt: skip
def test_what_is_broken_is_named_left_and_repaired_when_asked(how: str, others: set[str], tmp_path: Path) -> None:
    filled(tmp_path)
    broken(tmp_path, how)
    status, codes, repaired = run(tmp_path)
    assert (status, repaired) == (2, [])
    assert how in codes.values()
    assert set(codes.values()) <= {how, *others}
    assert run(tmp_path)[1] == codes  # nothing was changed
    status, codes, repaired = run(tmp_path, "--repair")
    assert (status, codes) == (0, {})
    assert how in repaired
    assert run(tmp_path) == (0, {}, [])


def test_an_index_that_lacks_or_has_too_much_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from indexer.record import Record

    filled(tmp_path)
    (tmp_path / "index.cache").unlink()
    whole = Record.signals_since

    def nothing_new(record: Record, revision: int) -> object:
        """Give the index nothing when it asks for all, and the doctor what there is."""
        return iter(()) if revision == 0 else whole(record, revision)

    monkeypatch.setattr(Record, "signals_since", nothing_new)
    assert findings(tmp_path)["index"].code == "index_disagrees"


def test_a_damaged_file_is_found(tmp_path: Path) -> None:
    from service import upkeep

    filled(tmp_path)
    with Engine(Settings(home=tmp_path, workers=1)) as engine:
        upkeep.back_up(engine, tmp_path / "b", actor="t")
    assert findings(tmp_path)["backups"].detail == "1 whole of 1 known"
    (tmp_path / "b").write_bytes(b"x" + (tmp_path / "b").read_bytes())
    assert findings(tmp_path)["backups"].code == "backup_damaged"
    with sqlite3.connect(tmp_path / "staydown.db") as database:
        database.execute("pragma foreign_keys=off")
        database.execute("delete from bank")
    database.close()
    assert findings(tmp_path)["record"].code == "record_damaged"
