"""What is kept of checks whose sender agrees, and what is found of it when content is enrolled later."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Local, Server, make_key, wait_until
from shelf import ROOT, Shelf, bare, codes, film, flipped, opened, still
from sqlalchemy import text

from hashing.signals import Signal, SignalType
from indexer import backup
from indexer.errors import StoreBroken
from indexer.index import TAKEN_AT_ONCE
from indexer.matches import Match
from indexer.retro import Retro
from indexer.retro_sweep import sweep
from indexer.store import Store
from indexer.tombstones import joined

CODES = codes(7, 400)


@pytest.fixture
def retro(shelf: Shelf) -> Retro:
    return Retro(shelf.store)


def kept(shelf: Shelf, signal: Signal, reference: str | None = None, *banks: str) -> bool:
    answer = shelf.match(signal, *banks)
    return Retro(shelf.store).keep(signal, answer, list(banks) or None, key_id="k", reference=reference)


def told(match: Match) -> dict[str, Any]:
    return {"content_id": match.content_id, "verdict": match.verdict.value, "distance_bits": match.distance_bits}


def swept(shelf: Shelf, **how: Any) -> int:
    return sweep(shelf.record, shelf.matcher, Retro(shelf.store), told, **how)


def finds(shelf: Shelf) -> list[tuple[str | None, str]]:
    return [(find.reference, find.match["content_id"]) for find in Retro(shelf.store).finds(0, 1000)]


def count(shelf: Shelf, table: str) -> int:
    with shelf.store.read() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def test_what_is_enrolled_later_is_found_in_what_was_checked_before(shelf: Shelf) -> None:
    for number in range(5):
        assert kept(shelf, still(CODES[number]), f"upload {number}")
    done = shelf.enroll(still(flipped(CODES[2], 20)))
    assert swept(shelf) == 1
    assert finds(shelf) == [("upload 2", done.content_id)]
    (find,) = Retro(shelf.store).finds(0, 10)
    assert find.match == {"content_id": done.content_id, "verdict": "match", "distance_bits": 20}
    assert (find.key_id, find.checked_at <= find.found_at) == ("k", True)
    assert swept(shelf) == 0
    assert count(shelf, "retro_signal") == 4, "what matched is not kept any longer: its hashes are known content's"


def test_media_that_matches_is_not_kept(shelf: Shelf) -> None:
    shelf.enroll(still(CODES[0]))
    assert not kept(shelf, still(CODES[0]))
    assert not kept(shelf, bare())
    assert count(shelf, "retro_signal") == 0


def test_a_review_is_found_once_and_goes_on_being_kept(shelf: Shelf) -> None:
    known = shelf.enroll(still(flipped(CODES[0], 40)))
    assert kept(shelf, still(CODES[0]), "a")  # a review by then
    later = shelf.enroll(still(flipped(CODES[0], 41, seed=1)))
    assert known.content_id != later.content_id
    assert swept(shelf) == 1
    shelf.enroll(still(CODES[300]))
    assert swept(shelf) == 0
    assert finds(shelf) == [("a", later.content_id)], "neither what the check had said itself, nor twice"
    sure = shelf.enroll(still(CODES[0]))
    assert swept(shelf) == 1
    assert finds(shelf)[-1] == ("a", sure.content_id)
    assert count(shelf, "retro_signal") == 0


def test_exact_digests_and_negatives_and_videos_are_found(shelf: Shelf) -> None:
    digest = bytes(range(16))
    kept(shelf, bare((SignalType.MD5, digest)), "digest")
    kept(shelf, still(CODES[1] ^ 0xFF), "negative")
    kept(shelf, film(CODES[10:20], np.arange(10.0)), "video")
    shelf.record.set_bank("b", actor="t", signal_types=[SignalType.PDQ, SignalType.MD5])
    shelf.enroll(bare((SignalType.MD5, digest)))
    shelf.enroll(still(CODES[1]))
    shelf.enroll(still(CODES[15]))
    assert swept(shelf) == 3
    assert {name for name, _ in finds(shelf)} == {"digest", "negative", "video"}


def test_only_the_banks_that_were_asked(shelf: Shelf) -> None:
    shelf.record.create_bank("c", actor="t")
    kept(shelf, still(CODES[0]), "only b", "b")
    kept(shelf, still(CODES[0]), "all")
    shelf.enroll(still(CODES[0]), "c")
    assert swept(shelf) == 1
    assert [name for name, _ in finds(shelf)] == ["all"]
    shelf.record.delete_bank("b", actor="t")
    shelf.enroll(still(CODES[1]), "c")
    assert swept(shelf) == 0, "a bank that is gone is nobody's error"


def brute(shelf: Shelf, signals: dict[str, Signal]) -> set[tuple[str | None, str]]:
    """The slow truth: every check made again."""
    return {(name, match.content_id) for name, signal in signals.items() for match in shelf.match(signal).matches}


def test_the_sweep_finds_what_checking_everything_again_would(shelf: Shelf) -> None:
    chance = np.random.default_rng(5)
    signals = {f"s{n}": still(CODES[n]) for n in range(150)}
    signals |= {f"v{n}": film(CODES[n : n + 6], np.arange(6.0)) for n in range(150, 180, 6)}
    for name, signal in signals.items():
        assert kept(shelf, signal, name)
    for _ in range(3):
        picks = chance.integers(0, 200, 25)
        shelf.enroll_all(
            [still(flipped(CODES[n], int(chance.integers(0, 60)), int(chance.integers(99)))) for n in picks]
        )
        alive = {row.reference for row in Retro(shelf.store).page(0, 1000)}
        wanted = brute(shelf, {name: signal for name, signal in signals.items() if name in alive})
        before = set(finds(shelf))
        swept(shelf)
        assert set(finds(shelf)) == before | wanted
    assert len(finds(shelf)) > 20
    assert len(set(finds(shelf))) == len(finds(shelf))


def test_a_sweep_that_is_cut_short_is_done_again_and_loses_nothing(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(250):
        kept(shelf, still(CODES[number]), str(number))
    shelf.enroll_all([still(flipped(CODES[n], 40)) for n in range(0, 250, 25)])
    turns = iter([False, True])
    assert 0 < swept(shelf, stop=lambda: next(turns)) < 10
    settle, calls = Retro.settle, iter(range(100))

    def dies(*given: Any, **more: Any) -> int:
        if next(calls) >= 5:
            raise StoreBroken
        return settle(*given, **more)

    monkeypatch.setattr(Retro, "settle", dies)
    with pytest.raises(StoreBroken):
        swept(shelf)
    monkeypatch.undo()
    swept(shelf)
    assert sorted(int(name or 0) for name, _ in finds(shelf)) == list(range(0, 250, 25))
    assert swept(shelf) == 0


def test_what_is_enrolled_while_a_check_is_under_way_is_found(shelf: Shelf, retro: Retro) -> None:
    kept(shelf, still(CODES[9]), "older")
    answer = shelf.match(still(CODES[0]))
    done = shelf.enroll(still(CODES[0]))
    assert swept(shelf) == 0
    retro.keep(still(CODES[0]), answer, None, key_id="k", reference="late")  # its answer is of before
    assert swept(shelf) == 1
    assert finds(shelf) == [("late", done.content_id)]


def test_what_is_kept_during_a_sweep_is_asked_by_it(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(shelf, still(CODES[0]), "first")
    answer = shelf.match(still(CODES[1]))
    shelf.enroll_all([still(CODES[0]), still(CODES[1])])
    finish = Retro.finish

    def late(retro: Retro, *given: Any) -> bool:
        monkeypatch.undo()
        retro.keep(still(CODES[1]), answer, None, key_id="k", reference="late")
        return finish(retro, *given)

    monkeypatch.setattr(Retro, "finish", late)
    swept(shelf)
    swept(shelf)
    assert [name for name, _ in finds(shelf)] == ["first", "late"]


def test_what_was_kept_long_enough_is_gone(shelf: Shelf, retro: Retro) -> None:
    kept(shelf, still(CODES[0]), "old")
    kept(shelf, still(CODES[1]), "new")
    shelf.enroll(still(flipped(CODES[0], 40)))
    swept(shelf)
    with shelf.store.work() as connection:  # the clock moves on
        connection.execute(
            text("UPDATE retro_signal SET kept_at = '2026-01-01T00:00:00+00:00' WHERE reference = 'old'")
        )
        connection.execute(text("UPDATE retro_match SET found_at = '2026-01-01T00:00:00+00:00'"))
    assert retro.forget(3) == 1
    assert finds(shelf) == []
    assert [row.reference for row in retro.page(0, 9)] == ["new"]
    assert retro.forget(0) == 1, "switched off, nothing is kept"
    assert (retro.forget(0), retro.mark()) == (0, None)


def test_no_backup_has_what_is_kept(shelf: Shelf, tmp_path: Path) -> None:
    kept(shelf, still(CODES[0]), "a")
    shelf.enroll(still(flipped(CODES[0], 40)))
    swept(shelf)
    backup.write(shelf.store, tmp_path / "backup")
    assert CODES[0].tobytes() not in (tmp_path / "backup").read_bytes()
    store = Store(f"sqlite:///{tmp_path / 'fresh.db'}")
    backup.restore(tmp_path / "backup", store, joined([]))
    assert len(Retro(store).finds(0, 9)) == 1
    store.close()


# --- over HTTP --------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql"])
def days(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Local]:
    """The app with keeping switched on, on each kind of database."""
    settings = {"retro_days": 1}
    if request.param == "postgresql":
        settings["database_url"] = request.getfixturevalue("postgres").new_database()
    with Local(tmp_path / "home", settings) as running:
        yield running


def signals_of(code: Any) -> dict[str, Any]:
    return {"signals": [{"signal_type": "pdq", "hash": code.tobytes().hex(), "quality": 100}]}


def held(local: Local) -> int:
    with local.engine.store.read() as connection:
        return int(connection.execute(text("SELECT count(*) FROM retro_signal")).scalar_one())


def test_a_check_that_agrees_is_found_later(
    days: Local, photo_jpeg: bytes, copy_jpeg: bytes, other_jpeg: bytes
) -> None:
    api, bank = days.api("check"), days.api().bank()
    agreed = {"Staydown-Retain": "true", "Staydown-Reference": "upload 17"}
    assert api.call("POST", "/v1/check", copy_jpeg).json["verdict"] == "no_match"
    assert api.call("POST", "/v1/check", copy_jpeg, {"Staydown-Reference": "x"}).status == 200
    assert api.call("POST", "/v1/check", copy_jpeg, {"Staydown-Retain": "false"}).status == 200
    assert held(days) == 0, "only where the check agrees"
    assert api.call("POST", "/v1/check", copy_jpeg, agreed).json["verdict"] == "no_match"
    assert api.call("POST", "/v1/check", other_jpeg, agreed | {"Staydown-Reference": "upload 18"}).status == 200
    hashes = days.api("lookup").call("POST", "/v1/check/hashes", signals_of(CODES[0]), agreed)
    assert (hashes.status, held(days)) == (200, 3)
    made = days.api().call("POST", f"/v1/banks/{bank}/contents", photo_jpeg)
    review = days.api("review")
    wait_until(lambda: review.get("/v1/retro-matches").json["matches"])
    answer = review.get("/v1/retro-matches").json
    (found,) = answer["matches"]
    assert (found["reference"], found["match"]["content_id"]) == ("upload 17", made.json["content_id"])
    assert (found["match"]["bank"], found["match"]["verdict"]) == (bank, "match")
    assert review.get(f"/v1/retro-matches?since={answer['cursor']}").json == {"matches": [], "cursor": answer["cursor"]}
    assert held(days) == 2


def test_who_may_see_finds(days: Local) -> None:
    for role in ("check", "lookup", "enroll", "audit"):
        assert days.api(role).get("/v1/retro-matches").is_problem(403, "forbidden")
    assert days.api(None).get("/v1/retro-matches").is_problem(401, "unauthenticated")
    for role in ("review", "admin"):
        assert days.api(role).get("/v1/retro-matches").json == {"matches": [], "cursor": 0}
    for wrong in ("-1", "x", str(2**63)):
        assert days.api().get(f"/v1/retro-matches?since={wrong}").status == 422
    long = {"Staydown-Retain": "true", "Staydown-Reference": "x" * 201}
    assert days.api("lookup").call("POST", "/v1/check/hashes", signals_of(CODES[0]), long).status == 422
    assert held(days) == 0


def test_unless_it_is_switched_on_nothing_is_kept(local: Local) -> None:
    agreed = {"Staydown-Retain": "true"}
    assert local.api("lookup").call("POST", "/v1/check/hashes", signals_of(CODES[0]), agreed).status == 200
    assert held(local) == 0


def test_the_running_service_forgets_in_time_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    home, agreed = tmp_path / "home", {"Staydown-Retain": "true", "Staydown-Reference": "r"}
    keys = {role: make_key(home, role, workers="1") for role in ("admin", "lookup", "review")}
    with Server(home, retro_days="1", seal_new_store="false") as server:
        api = server.api(keys["admin"])
        bank = api.bank()
        for code in CODES[:2]:
            assert api.call("POST", "/v1/check/hashes", signals_of(code), agreed).status == 200
        assert api.call("POST", f"/v1/banks/{bank}/contents", signals_of(CODES[0])).status == 201
        server.kill()  # before or after it was found
    with Server(home, retro_days="1") as server:
        review = server.api(keys["review"])
        wait_until(lambda: review.get("/v1/retro-matches").json["matches"])
        time.sleep(3)
        assert len(review.get("/v1/retro-matches").json["matches"]) == 1
        assert server.stop() == 0
    assert any(CODES[1].tobytes() in file.read_bytes() for file in home.glob("staydown.db*"))
    with Server(home, retro_days="0.00001") as server:  # not a second
        wait_until(lambda: "kept signals forgotten" in server.log())
        assert server.api(keys["review"]).get("/v1/retro-matches").json["matches"] == []
        assert server.stop() == 0
    assert not any(CODES[1].tobytes() in file.read_bytes() for file in home.glob("staydown.db*"))


# --- several processes ------------------------------------------------------------------


def test_one_process_sweeps_at_a_time(shelf: Shelf) -> None:
    for number in range(3):
        kept(shelf, still(CODES[number]), str(number))
    shelf.enroll(still(CODES[1]))
    with opened(shelf.url) as other:
        with shelf.store.turn("retro") as ours:
            assert ours is not None
            assert swept(other) == 0
            assert finds(shelf) == []
        assert swept(other) == 1
        assert swept(shelf) == 0


SWEEPER = """
import sys
from shelf import opened
from indexer import retro_sweep
from indexer.retro import Retro
asked = []
with opened(sys.argv[1]) as shelf:
    shelf.index.refresh(shelf.record)
    match = shelf.matcher.match
    shelf.matcher.match = lambda *given, **more: asked.append(1) or match(*given, **more)
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(20):
        told = lambda match: {"content_id": match.content_id}
        retro_sweep.sweep(shelf.record, shelf.matcher, Retro(shelf.store), told)
    print(len(asked))
"""


def test_several_processes_ask_each_kept_signal_once(shelf: Shelf) -> None:
    """Reviews: they go on being kept, and each sweep of its own would ask them again."""
    for number in range(120):
        kept(shelf, still(CODES[number]), str(number))
    shelf.enroll_all([still(flipped(CODES[n], 40)) for n in range(120)])
    processes = [
        subprocess.Popen([sys.executable, "-c", SWEEPER, shelf.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         text=True, cwd=Path(__file__).parent, env=os.environ | {"PYTHONPATH": str(ROOT)})
        for _ in range(3)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    said = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        said.append(int(process.communicate(timeout=60)[0]))
    assert sum(said) == 120, said
    assert sorted(int(name or 0) for name, _ in finds(shelf)) == list(range(120))


def test_a_sweep_goes_no_further_than_its_index(shelf: Shelf) -> None:
    """A long list is taken in by the thread that watches, and not by a check: nothing is passed over meanwhile."""
    kept(shelf, still(CODES[0]), "a")
    shelf.index.watched = True
    with opened(shelf.url) as other:
        other.enroll_all([still(code) for code in codes(8, TAKEN_AT_ONCE + 100)])
        done = other.enroll(still(flipped(CODES[0], 3)))
    assert shelf.match(still(CODES[0])).matches == (), "it is behind"
    assert swept(shelf) == 0
    shelf.index.refresh(shelf.record)
    assert swept(shelf) == 1
    assert finds(shelf) == [("a", done.content_id)]
