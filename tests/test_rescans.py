"""Rescans over HTTP: every item gets its result, once, whatever happens to the server."""

import hashlib
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from serving import Api, Local, Server, wait_until

from service import rescans

KEYS = {"number", "id", "request_id", "verdict", "reason", "media", "matches", "suppressed", "bank_revision",
        "policy"}  # fmt: skip


def pdq(seed: int) -> str:
    return hashlib.sha256(f"rescan {seed}".encode()).hexdigest()


def item(seed: int, **more: Any) -> dict[str, Any]:
    return {"signals": [{"signal_type": "pdq", "hash": pdq(seed)}]} | more


def progress(api: Api, rescan_id: str) -> Any:
    """Return the answer without results: a page behind the last one."""
    return api.get(f"/v1/rescans/{rescan_id}?cursor=10000").json


def finished(api: Api, rescan_id: str, timeout_s: float = 60) -> Any:
    """Wait for the end and return the answer with all its pages' results."""
    wait_until(lambda: progress(api, rescan_id)["status"] == "done", timeout_s)
    said = api.get(f"/v1/rescans/{rescan_id}").json
    cursor = said["cursor"]
    while cursor is not None:
        page = api.get(f"/v1/rescans/{rescan_id}?cursor={cursor}").json
        said["results"] += page["results"]
        cursor = page["cursor"]
    return said


def test_a_rescan_from_asking_to_its_results(admin: Api) -> None:
    bank = admin.bank()
    known = admin.post(f"/v1/banks/{bank}/contents", item(1)).json["content_id"]
    asked = admin.post("/v1/rescans", {"banks": [bank], "items": [
        item(1, id="a"), item(2), {"url": "http://127.0.0.1/x.jpg", "id": "c"}, item(1, id="a")]})  # fmt: skip
    assert asked.status == 202
    said = asked.json
    assert set(said) == {"rescan_id", "status", "total", "done", "verdicts", "results", "cursor"}
    assert (said["total"], said["results"]) == (4, [])
    assert asked.headers["location"] == f"/v1/rescans/{said['rescan_id']}"
    done = finished(admin, said["rescan_id"])
    assert (done["done"], done["verdicts"]) == (4, {"match": 2, "no_match": 1, "unhashable": 1})
    assert [(r["number"], r["id"], r["verdict"], r["reason"]) for r in done["results"]] == [
        (0, "a", "match", None), (1, None, "no_match", None), (2, "c", "unhashable", "link_refused"),
        (3, "a", "match", None),
    ]  # fmt: skip
    assert {frozenset(result) for result in done["results"]} == {frozenset(KEYS)}
    assert done["results"][0]["matches"][0]["content_id"] == known


def test_what_cannot_be_asked(admin: Api) -> None:
    wrong: list[dict[str, Any]] = [
        {}, {"items": []}, {"items": [{}]}, {"items": [item(1, url="http://x/")]}, {"items": [{"id": "x"}]},
        {"items": [item(1)] * 10_001}, {"items": [item(1, id=7)]}, {"items": [item(1)], "bank": "x"},
        {"items": [item(1)], "banks": "x"}, {"items": [item(1)], "banks": ["\ud800"]},
        {"items": [item(1)], "banks": ["x"] * 1001}, {"items": [item(1, id="\x00")]},
    ]  # fmt: skip
    for body in wrong:
        assert admin.post("/v1/rescans", body).is_problem(422, "invalid_request")
    assert admin.post("/v1/rescans", {"items": [item(1)], "banks": ["none"]}).is_problem(404, "unknown_bank")


def test_results_are_for_the_key_that_asked_and_for_admins(local: Local) -> None:
    admin = local.api()
    bank = admin.bank()
    admin.post(f"/v1/banks/{bank}/contents", item(11))
    for role, sees in (("lookup", True), ("review", True)):
        mine = local.api(role)
        rescan_id = mine.post("/v1/rescans", {"items": [item(11)], "banks": [bank]}).json["rescan_id"]
        match = finished(mine, rescan_id)["results"][0]["matches"][0]
        assert (match["distance_bits"] == 0) is sees
        assert finished(admin, rescan_id)["done"] == 1
        assert local.api("check").get(f"/v1/rescans/{rescan_id}").is_problem(404, "unknown_rescan")


def test_a_check_key_sees_no_evidence_of_a_rescan(local: Local, tmp_path: Path) -> None:
    rescan_id = local.api("check").post("/v1/rescans", {"items": [{"url": "http://10.0.0.1/"}]}).json["rescan_id"]
    assert finished(local.api("check"), rescan_id)["results"][0]["reason"] == "link_refused"


def test_a_page_of_results_that_there_is_not(admin: Api) -> None:
    rescan_id = admin.post("/v1/rescans", {"items": [item(1)]}).json["rescan_id"]
    for cursor in ("x", "-2", "9" * 30, "１", ""):
        quoted = "".join(f"%{byte:02X}" for byte in cursor.encode())
        assert admin.get(f"/v1/rescans/{rescan_id}?cursor={quoted}").is_problem(422, "invalid_request")
    assert admin.get(f"/v1/rescans/{rescan_id}?cursor=5").json["results"] == []


def test_a_rescan_with_a_name_that_no_database_keeps(admin: Api) -> None:
    assert admin.get("/v1/rescans/a%00b").is_problem(422, "invalid_request")


def test_many_results_come_in_pages(admin: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescans, "PAGE", 50)
    rescan_id = admin.post("/v1/rescans", {"items": [item(seed, id=str(seed)) for seed in range(203)]}).json[
        "rescan_id"
    ]
    done = finished(admin, rescan_id)
    assert [result["id"] for result in done["results"]] == [str(seed) for seed in range(203)]


def test_a_server_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Server(home) as first:
        api = first.api(first.first_key())
        bank = api.bank()
        for seed in range(0, 400, 3):
            api.post(f"/v1/banks/{bank}/contents", item(seed))
        asked = api.post("/v1/rescans", {"items": [item(seed, id=str(seed)) for seed in range(400)]})
        rescan_id = asked.json["rescan_id"]
        wait_until(lambda: progress(api, rescan_id)["done"] >= 20)
        before = api.get(f"/v1/rescans/{rescan_id}").json
        first.kill()
    assert before["status"] == "running"
    with Server(home) as second:
        api = second.api(api.key)
        began = time.monotonic()
        done = finished(api, rescan_id)
        assert [result["number"] for result in done["results"]] == list(range(400))
        for result in done["results"]:
            assert result["verdict"] == ("match" if result["number"] % 3 == 0 else "no_match")
        assert done["results"][: len(before["results"])] == before["results"]  # not done again
        assert time.monotonic() - began < 60
        assert second.stop() == 0
    rows = sqlite3.connect(home / "staydown.db").execute("select request from rescan_item").fetchall()
    assert len(rows) == 400
    assert not any("hash" in request for (request,) in rows)  # what was asked is forgotten
