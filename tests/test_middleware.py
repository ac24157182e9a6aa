"""What is around a request: its id, its log line, its place."""

import json
from pathlib import Path

import anyio
import pytest
from serving import Api, Server

from service.errors import TooManyRequests
from service.metrics import Metrics
from service.middleware import Gate


def test_every_answer_has_an_id_of_its_own(admin: Api) -> None:
    answers = [admin.get(path) for path in ("/health/live", "/v1/banks", "/none", "/metrics") for _ in range(3)]
    answers.append(admin.call("GET", "/health/live", headers={"X-Request-Id": "chosen-by-the-client"}))
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == len(answers)
    assert all(len(word) == 32 and int(word, 16) >= 0 for word in ids)


def test_a_gate_gives_its_places_back_whatever_happens() -> None:
    metrics = Metrics()
    gate = Gate(2, metrics)

    async def use() -> None:
        async with gate(), gate():
            with pytest.raises(TooManyRequests):
                async with gate():
                    raise AssertionError("there was no place")
        with pytest.raises(ZeroDivisionError):
            async with gate():
                raise ZeroDivisionError
        with anyio.move_on_after(0.01):
            async with gate():
                await anyio.sleep(10)
        async with gate(), gate():
            pass

    anyio.run(use)
    assert metrics.in_flight._value.get() == 0


def test_the_log_is_one_json_line_a_request_that_says_what_happened(tmp_path: Path, photo_jpeg: bytes) -> None:
    with Server(tmp_path / "home") as server:
        api = server.api(server.first_key())
        checked = api.post("/v1/check", photo_jpeg)
        refused = api.get("/v1/banks/secret-name")
        api.with_key(None).get("/v1/banks")
        api.call("TRACE", "/nowhere/secret-name?secret=1")
        assert server.stop() == 0
        lines = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    requests = [line for line in lines if line["event"] == "request" and "health" not in line["route"]]
    assert [(line["method"], line["route"], line["status"], line.get("code")) for line in requests] == [
        ("POST", "/v1/check", 200, None), ("GET", "/v1/banks/{bank}", 404, "unknown_bank"),
        ("GET", "/v1/banks", 401, "unauthenticated"), ("other", "unmatched", 404, "not_found"),
    ]  # fmt: skip
    assert requests[0]["verdict"] == "no_match"
    assert requests[0]["request_id"] == checked.json["request_id"]
    assert requests[1]["request_id"] == refused.json["request_id"]
    assert all(line["ms"] >= 0 for line in requests)
    assert requests[0]["key_id"].startswith("k_")
    assert [line["event"] for line in lines if line["event"] in {"started", "stopped"}] == ["started", "stopped"]
    assert "secret" not in server.log()


def test_the_log_level_is_a_setting(tmp_path: Path) -> None:
    with Server(tmp_path / "home", log_level="error") as server:
        assert server.api(None).get("/v1/banks").status == 401
        assert server.stop() == 0
        assert not [line for line in server.log().splitlines() if line.startswith("{")]
