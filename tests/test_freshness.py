"""How current answers are: at the revision that is asked for, everywhere within a second, or not given at all."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import Postgres, folder, name_of, running
from serving import Api, Local, Server, make_key, wait_until

CODE = "5a" * 32
SOON_S = 1.0


def ready(code: str = CODE) -> dict[str, object]:
    return {"signals": [{"signal_type": "pdq", "hash": code}]}


def code_of(number: int) -> str:
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}" * 4


def enrolled(api: Api, bank: str, code: str = CODE) -> tuple[str, int]:
    said = api.post(f"/v1/banks/{bank}/contents", ready(code))
    assert said.status == 201, said.body
    return said.json["content_id"], said.json["bank_revision"]


def check(api: Api, code: str = CODE, **headers: str):  # type: ignore[no-untyped-def]
    return api.post("/v1/check/hashes", ready(code), **headers)


@pytest.fixture(scope="module")
def own() -> Iterator[Postgres]:
    """A server that may be stopped."""
    with running(fsync=False) as server:
        yield server


# --- the revision that is asked for -----------------------------------------------------


def test_an_answer_is_at_the_revision_that_is_asked_for(local: Local) -> None:
    api = local.api()
    _, revision = enrolled(api, api.bank(), code_of(1))
    said = check(api, code_of(1), Staydown_Min_Revision=str(revision))
    assert (said.status, said.json["verdict"]) == (200, "match")
    assert said.json["bank_revision"] >= revision


def test_a_revision_that_does_not_come_is_not_ready(local: Local, photo_jpeg: bytes) -> None:
    api, later = local.api(), str(10**9)
    for ask in (lambda: check(api, Staydown_Min_Revision=later),
                lambda: api.post("/v1/check", photo_jpeg, Staydown_Min_Revision=later)):  # fmt: skip
        began = time.monotonic()
        said = ask()
        assert said.is_problem(503, "index_not_ready")
        assert said.headers["retry-after"]
        waited_s = local.engine.settings.min_revision_wait_s
        assert waited_s <= time.monotonic() - began < waited_s + 5


@pytest.mark.parametrize("wrong", ["x", "-1", "1.5", str(2**63), "", "0x1"])
def test_a_revision_is_a_number(local: Local, wrong: str) -> None:
    assert check(local.api(), Staydown_Min_Revision=wrong).is_problem(422, "invalid_request")


def test_whoever_waits_holds_up_nobody(local: Local) -> None:
    api = local.api()
    waiting = [threading.Thread(target=check, args=(api,), kwargs={"Staydown_Min_Revision": str(10**9)})
               for _ in range(40)]  # fmt: skip
    for thread in waiting:
        thread.start()
    time.sleep(0.3)
    began = time.monotonic()
    assert check(api).status == 200
    assert time.monotonic() - began < 1.5
    for thread in waiting:
        thread.join()


def test_a_replica_waits_for_what_its_standby_has_not_replayed(own: Postgres, tmp_path: Path) -> None:
    url = own.new_database()
    with Local(tmp_path / "a", {"database_url": url}) as primary, folder() as place:
        api = primary.api()
        bank = api.bank()
        standby = Postgres(place, fsync=False)
        standby.copy_of(own)
        standby.start()
        try:
            at = {"database_url": standby.url(name_of(url)), "min_revision_wait_s": 1.0}
            with Local(tmp_path / "b", at, keys=primary.keys) as replica:
                _, revision = enrolled(api, bank)
                wanted = {"Staydown_Min_Revision": str(revision)}
                assert check(replica.api(), **wanted).json["verdict"] == "match"
                standby.sql("SELECT pg_wal_replay_pause()")
                wait_until(lambda: standby.sql("SELECT pg_get_wal_replay_pause_state()")[0][0] == "paused")
                _, later = enrolled(api, bank, code_of(2))
                wanted = {"Staydown_Min_Revision": str(later)}
                assert check(replica.api(), code_of(2)).json["bank_revision"] == revision
                assert check(replica.api(), code_of(2), **wanted).is_problem(503, "index_not_ready")
                standby.sql("SELECT pg_wal_replay_resume()")
                said = check(replica.api(), code_of(2), **wanted)
                assert (said.json["verdict"], said.json["bank_revision"]) == ("match", later)
                refused = replica.api().call("PUT", f"/v1/banks/{bank}", {"description": "x"})
                assert refused.is_problem(503, "store_broken")
        finally:
            standby.stop(signal.SIGQUIT)


# --- what is too old --------------------------------------------------------------------


def test_an_index_that_is_compared_no_more_answers_no_more(tmp_path: Path) -> None:
    with Local(tmp_path / "home", {"max_staleness_s": 0.6}) as local:
        api = local.api()
        assert check(api).json["verdict"] == "no_match"
        local.engine.watch.stop()
        wait_until(lambda: local.engine.watch.age_s > 0.6)
        assert check(api).is_problem(503, "index_not_ready")
        said = api.get("/health/ready")
        assert (said.status, said.json["status"], said.json["code"]) == (503, "stale", "index_not_ready")
        assert api.get("/health/live").status == 200
        age = next(line for line in api.get("/metrics").body.decode().splitlines()
                   if line.startswith("staydown_index_age_seconds "))  # fmt: skip
        assert float(age.split()[1]) > 0.6


def test_a_database_that_restarts_is_503_and_then_all_is_well(own: Postgres, tmp_path: Path) -> None:
    """Asked all the time, the answers are the right verdict or a 503 that says why; never another."""
    settings = {"database_url": own.new_database(), "max_staleness_s": 1.0}
    with Local(tmp_path / "home", settings) as local:
        api = local.api("lookup")
        enrolled(local.api(), local.api().bank())
        seen: set[tuple[int, str]] = set()
        ended = threading.Event()

        def ask() -> None:
            while not ended.is_set():
                said = check(api)
                seen.add((said.status, said.json.get("verdict") or said.json["code"]))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for how in (signal.SIGINT, signal.SIGQUIT):
                own.stop(how)
                wait_until(lambda: api.get("/health/ready").status == 503)
                assert api.get("/health/ready").json["code"] == "index_not_ready"
                assert api.get("/health/live").status == 200
                own.start()
                wait_until(lambda: api.get("/health/ready").status == 200)
                wait_until(lambda: check(api).status == 200)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        assert seen <= {(200, "match"), (503, "store_broken"), (503, "index_not_ready")}
        assert {(200, "match"), (503, "store_broken")} <= seen
        enrolled(local.api(), local.api().bank(), code_of(3))


# --- two real processes -----------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgresql"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Api, Api, str]]:
    """Two served processes on one store: on one machine's folder, or on one server with a folder each."""
    given, homes = {}, (tmp_path / "home", tmp_path / "home")
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        given, homes = {"database_url": server.new_database()}, (tmp_path / "a", tmp_path / "b")
    with Server(homes[0], **given) as one, Server(homes[1], **given) as other:
        key = one.first_key()
        assert "sd_" not in other.log(), "one of them makes the first key"
        yield one.api(key), other.api(key), one.api(key).bank()


def revision_of(api: Api) -> int:
    return int(api.get("/health/ready").json["bank_revision"])


def test_what_one_process_enrolls_the_other_finds_and_forgets_within_a_second(pair: tuple[Api, Api, str]) -> None:
    one, other, bank = pair
    slowest_s = 0.0
    for number in range(10, 40):
        content, _ = enrolled(one, bank, code_of(number))
        began = time.monotonic()
        wait_until(lambda n=number: check(other, code_of(n)).json["verdict"] == "match")
        slowest_s = max(slowest_s, time.monotonic() - began)
        assert one.call("DELETE", f"/v1/banks/{bank}/contents/{content}").status == 204
        began = time.monotonic()
        wait_until(lambda n=number: check(other, code_of(n)).json["verdict"] == "no_match")
        slowest_s = max(slowest_s, time.monotonic() - began)
    assert slowest_s < SOON_S


def test_the_other_process_follows_before_anybody_asks_it(pair: tuple[Api, Api, str]) -> None:
    one, other, bank = pair
    for number in range(50, 60):
        _, revision = enrolled(one, bank, code_of(number))
        began = time.monotonic()
        wait_until(lambda wanted=revision: revision_of(other) >= wanted)
        assert time.monotonic() - began < SOON_S


def test_the_command_uses_the_same_database(postgres: Postgres, tmp_path: Path) -> None:
    given = {"database_url": postgres.new_database()}
    with Server(tmp_path / "a", **given) as server:
        api = server.api(server.first_key())
        enrolled(api, api.bank())
        assert list((tmp_path / "a").iterdir()) == [], "nothing is kept here but the index, at the end"
        key = make_key(tmp_path / "elsewhere", "lookup", **given)
        assert check(api.with_key(key)).json["verdict"] == "match"
        assert server.stop() == 0
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["index.cache"]
