"""Requests drawn from the service's own description (schemathesis), with keys that open nothing or too little.

`test_admission` asks every route with one body and more kinds of keys; here bodies, queries and paths are drawn.
"""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import Api, Local
from test_admission import NEEDED, OPEN

from service.auth import PERMISSIONS, Role

DRAWN = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Local, dict[str, str | None]]]:
    with Local(tmp_path_factory.mktemp("drawn")) as local:
        revoked, text = local.engine.keys.create("admin", actor="t")
        local.engine.keys.revoke(revoked.key_id, actor="t")
        yield local, {"none": None, "bad": "sd_0123456789ab_" + "x" * 43, "revoked": text,
                      "expired": local.engine.keys.create("admin", expires_s=0, actor="t")[1]}  # fmt: skip


@pytest.fixture(scope="module")
def described(house: tuple[Local, dict[str, str | None]]) -> dict[tuple[str, str], Any]:
    """Every operation that the service describes, but for those that are open."""
    schema = schemathesis.openapi.from_dict(house[0].api().get("/openapi.json").json)
    found = [operation.ok() for operation in schema.get_all_operations()]
    return {(one.method.upper(), one.path): one for one in found if one.path not in OPEN}


def send(api: Api, case: Any) -> Any:
    """Send a drawn case by our own client."""
    path = case.path
    for name, value in (case.path_parameters or {}).items():
        path = path.replace(f"{{{name}}}", quote(str(value), safe=""))
    query = urlencode(case.query or {}, doseq=True, errors="replace")
    body = case.body if isinstance(case.body, bytes) else None
    if body is None and isinstance(case.body, dict | list | str | int | float | bool):
        body = json.dumps(case.body, default=str).encode()
    return api.call(case.method.upper(), path + ("?" + query if query else ""), body,
                    {"Content-Type": case.media_type or "application/json"})  # fmt: skip


def test_everything_that_is_described_is_drawn(described: dict[tuple[str, str], Any]) -> None:
    undescribed = {("GET", "/openapi.json"), ("GET", "/docs")}
    assert set(described) | undescribed == set(NEEDED)


@pytest.mark.parametrize(("method", "route"), sorted(set(NEEDED) - {("GET", "/openapi.json"), ("GET", "/docs")}))
def test_no_drawn_request_is_answered_without_the_right_key(
    house: tuple[Local, dict[str, str | None]], described: dict[tuple[str, str], Any], method: str, route: str
) -> None:
    local, bad = house
    revision = local.engine.store.revision()
    lesser = [local.keys[role] for role in Role if NEEDED[method, route] not in PERMISSIONS[role]]
    wanted = [(key, 401, "unauthenticated") for key in bad.values()] + [(key, 403, "forbidden") for key in lesser]

    @DRAWN
    @given(described[method, route].as_strategy(), st.sampled_from(wanted))
    def refused(case: Any, asked: tuple[str | None, int, str]) -> None:
        key, status, code = asked
        assert send(Api(local.port, key), case).is_problem(status, code)

    refused()
    assert local.engine.store.revision() == revision


@pytest.mark.parametrize(("method", "route"), sorted(set(NEEDED) - {("GET", "/openapi.json"), ("GET", "/docs")}))
def test_no_drawn_request_of_another_tenant_is_an_error_of_ours(
    house: tuple[Local, dict[str, str | None]], described: dict[tuple[str, str], Any], method: str, route: str
) -> None:
    local = house[0]
    stranger = Api(local.port, local.engine.keys.create("admin", tenant="stranger", actor="t")[1])
    bank = local.api().bank()

    @DRAWN
    @given(described[method, route].as_strategy())
    def answered(case: Any) -> None:
        if "bank" in (case.path_parameters or {}):
            case.path_parameters["bank"] = bank
        answer = send(stranger, case)
        assert answer.status < 500
        if "{bank}" in route:
            assert answer.status in {404, 422}, answer.body
        assert bank.encode() not in answer.body

    answered()
