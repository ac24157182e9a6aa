"""Who is refused, on every route that the program has: no key, a bad one, one that is over, another tenant's."""

import base64
import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from postgres import Postgres
from serving import Answer, Api, Local, Server, make_key, staydown
from test_api import ready
from test_house import permissions, routes

from service.admission import OPEN, comes_from, key_text
from service.auth import OPERATORS, PERMISSIONS, Role
from service.keyring import KNOWN_S

ROUTES = sorted(
    (method, route.path) for route in routes() for method in route.methods if route.path not in OPEN
)  # what the app itself answers
NEEDED = {(method, route.path): permissions(route)[0] for route in routes() if route.path not in OPEN
          for method in route.methods}  # fmt: skip


@dataclass(frozen=True)
class House:
    """A running app with a bank, a content and a rescan of one tenant, and keys of all kinds."""

    local: Local
    bank: str
    content: str
    rescan: str

    def path(self, route: str) -> str:
        return route.format(bank=self.bank, content_id=self.content, rescan_id=self.rescan, source="s")

    def key(self, role: str = "admin", **limits: Any) -> str:
        text: str = self.local.engine.keys.create(role, actor="test", **limits)[1]
        return text

    def ask(self, method: str, route: str, key: str | None, **headers: str) -> Answer:
        return Api(self.local.port, key).call(method, self.path(route), BODIES.get((method, route)), headers or None)


BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/v1/check"): b"GIF89a", ("POST", "/v1/hash"): b"GIF89a", ("POST", "/v1/check/hashes"): ready(1),
    ("POST", "/v1/banks/{bank}/contents"): ready(2), ("PUT", "/v1/banks/{bank}"): {"description": "taken"},
    ("PATCH", "/v1/banks/{bank}"): {"description": "taken"},
    ("PATCH", "/v1/banks/{bank}/contents/{content_id}"): {"labels": ["taken"]},
    ("POST", "/v1/rescans"): {"items": [ready(1)]}, ("PUT", "/v1/sources/{source}"): {"enabled": True},
    ("POST", "/v1/banks/{bank}/approvals"): {"source": "s"},
}  # fmt: skip


@pytest.fixture(scope="module")
def house(local: Local) -> House:
    admin = local.api()
    bank = admin.bank()
    content = admin.post(f"/v1/banks/{bank}/contents", ready(1)).json["content_id"]
    rescan = admin.post("/v1/rescans", {"items": [ready(1)], "banks": [bank]}).json["rescan_id"]
    return House(local, bank, content, rescan)


def state(house: House) -> tuple[Any, ...]:
    """Return what must not change by what is refused."""
    engine = house.local.engine
    return engine.store.revision(), engine.record.bank(house.bank), engine.record.content(house.bank, house.content)


# --- every route, every kind of key that opens nothing ----------------------------------------


def bad_keys(house: House) -> dict[str, str | None]:
    good = house.key()
    revoked, text = house.local.engine.keys.create("admin", actor="test")
    house.local.engine.keys.revoke(revoked.key_id, actor="test")
    rotated, old = house.local.engine.keys.create("admin", actor="test")
    house.local.engine.keys.rotate(rotated.key_id, actor="test")
    return {
        "none": None, "empty": "", "made up": f"sd_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}",
        "one bit off": good[:-1] + ("A" if good[-1] != "A" else "B"), "its id": good.split("_")[1], "revoked": text,
        "expired": house.key(expires_s=0), "rotated away": old, "of other letters": "ключ", "long": "sd_" + "x" * 9000,
    }  # fmt: skip


@pytest.fixture(scope="module")
def bad(house: House) -> dict[str, str | None]:
    return bad_keys(house)


@pytest.mark.parametrize(("method", "route"), ROUTES)
def test_no_route_answers_a_key_that_is_none(house: House, bad: dict[str, str | None], method: str, route: str) -> None:
    before = state(house)
    for what, key in bad.items():
        sent = {} if key is None else {"Authorization": f"Bearer {key}".encode().decode("latin-1")}
        answer = house.ask(method, route, None, **sent)
        assert answer.is_problem(401, "unauthenticated"), what
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert state(house) == before


@pytest.mark.parametrize(("method", "route"), ROUTES)
def test_no_route_answers_a_lesser_key(house: House, method: str, route: str) -> None:
    before = state(house)
    for role in Role:
        if NEEDED[method, route] not in PERMISSIONS[role]:
            assert house.ask(method, route, house.local.keys[role]).is_problem(403, "forbidden"), role
    assert state(house) == before


@pytest.mark.parametrize(("method", "route"), ROUTES)
def test_no_route_answers_a_key_from_another_address(house: House, method: str, route: str) -> None:
    before = state(house)
    elsewhere = house.key(networks=["10.0.0.0/8", "2001:db8::/32"])
    assert house.ask(method, route, elsewhere).is_problem(403, "forbidden")
    assert state(house) == before


@pytest.mark.parametrize(("method", "route"), ROUTES)
def test_no_route_gives_another_tenant_anything_of_this_one(house: House, method: str, route: str) -> None:
    """Where a route names something of ours there is nothing of that name; else the answer knows nothing of it."""
    before = state(house)
    tenant = f"t{secrets.token_hex(4)}"
    for key in (house.key(tenant=tenant), house.key(banks=["none"]), house.key(banks=[]),
                house.key(tenant=tenant, banks=["none"])):  # fmt: skip
        answer = house.ask(method, route, key)
        if "{rescan_id}" in route:
            assert answer.is_problem(404, "unknown_rescan")
            continue
        if "{bank}" in route:
            assert answer.is_problem(404, "unknown_bank")
        elif NEEDED[method, route] in OPERATORS or "{source}" in route:  # a source is its tenant's; all of its banks'
            assert answer.status in {200, 403}
        else:
            assert answer.status in {200, 202, 415, 422}, answer.body
        assert house.bank.encode() not in answer.body
        assert house.content.encode() not in answer.body
    assert state(house)[1:] == before[1:]


def test_metrics_are_the_operators(house: House) -> None:
    for role in ("admin", "audit"):
        assert house.ask("GET", "/metrics", house.key(role, tenant="t1")).is_problem(403, "forbidden")
        assert house.ask("GET", "/metrics", house.key(role)).status == 200


def test_the_open_routes_need_no_key_and_mind_none(house: House, bad: dict[str, str | None]) -> None:
    for route in OPEN:
        for key in bad.values():
            sent = {"Authorization": f"Bearer {key}".encode().decode("latin-1")}
            assert house.ask("GET", route, None, **sent).status == 200


# --- tenants ------------------------------------------------------------------------------


def test_a_check_asks_the_banks_of_its_tenant_and_no_others(house: House) -> None:
    tenant = f"t{secrets.token_hex(4)}"
    theirs = Api(house.local.port, house.key(tenant=tenant))
    bank = theirs.bank()
    seed = secrets.randbits(60)
    mine = theirs.post(f"/v1/banks/{bank}/contents", ready(seed)).json["content_id"]
    found = theirs.post("/v1/check/hashes", ready(seed)).json
    assert [match["content_id"] for match in found["matches"]] == [mine]
    ours = house.local.api()
    assert ours.post("/v1/check/hashes", ready(seed)).json["verdict"] == "no_match"
    assert ours.post(f"/v1/check/hashes?bank={bank}", ready(seed)).is_problem(404, "unknown_bank")
    assert theirs.post(f"/v1/check/hashes?bank={house.bank}", ready(1)).is_problem(404, "unknown_bank")
    assert theirs.post(f"/v1/check/hashes?bank={bank}&bank={house.bank}", ready(1)).is_problem(404, "unknown_bank")
    assert [one["bank"] for one in theirs.get("/v1/banks").json["banks"]] == [bank]
    shared = Api(house.local.port, house.key("lookup", tenant="third", banks=[bank]))
    assert shared.post("/v1/check/hashes", ready(seed)).json["verdict"] == "match"
    assert shared.post(f"/v1/check/hashes?bank={house.bank}", ready(1)).is_problem(404, "unknown_bank")


def test_a_lawful_bank_of_another_tenant_suppresses_nothing(house: House) -> None:
    """Else whoever has a tenant could let what others enrolled slip through."""
    seed = secrets.randbits(60)
    ours = house.local.api()
    ours.post(f"/v1/banks/{house.bank}/contents", ready(seed))
    theirs = Api(house.local.port, house.key(tenant=f"t{secrets.token_hex(4)}"))
    bank = theirs.bank()
    assert theirs.call("PATCH", f"/v1/banks/{bank}", {"lawful": True}).status == 200
    assert theirs.post(f"/v1/banks/{bank}/contents", ready(seed)).status == 201
    found = ours.post(f"/v1/check/hashes?bank={house.bank}", ready(seed)).json
    assert (found["verdict"], found["suppressed"]) == ("match", [])
    naming = theirs.call("PATCH", f"/v1/banks/{bank}", {"suppresses": [house.bank]})
    assert naming.is_problem(404, "unknown_bank")
    control = ours.bank()
    assert ours.call("PATCH", f"/v1/banks/{control}", {"lawful": True}).status == 200
    assert ours.post(f"/v1/banks/{control}/contents", ready(seed)).status == 201
    found = ours.post(f"/v1/check/hashes?bank={house.bank}", ready(seed)).json
    assert found["verdict"] != "match", "one of the same tenant does"
    assert ours.call("DELETE", f"/v1/banks/{control}").status == 204


def test_a_key_may_make_only_the_banks_it_is_limited_to(house: House) -> None:
    name = f"b{secrets.token_hex(4)}"
    limited = Api(house.local.port, house.key(banks=[name]))
    assert limited.call("PUT", f"/v1/banks/x{name}").is_problem(404, "unknown_bank")
    assert limited.call("PUT", f"/v1/banks/{name}").status == 201


def test_a_rescan_asks_the_banks_of_its_key(house: House) -> None:
    theirs = Api(house.local.port, house.key("lookup", tenant="t2"))
    rescan = theirs.post("/v1/rescans", {"items": [ready(1)]}).json["rescan_id"]
    assert theirs.post("/v1/rescans", {"items": [ready(1)], "banks": [house.bank]}).is_problem(404, "unknown_bank")
    deadline = time.monotonic() + 20
    while (done := theirs.get(f"/v1/rescans/{rescan}").json)["status"] != "done" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [result["verdict"] for result in done["results"]] == ["no_match"], "though the house knows it"
    assert house.local.api().get(f"/v1/rescans/{rescan}").is_problem(404, "unknown_rescan"), "not our admin's"
    assert Api(house.local.port, house.key(tenant="t2")).get(f"/v1/rescans/{rescan}").status == 200, "their admin's"


# --- revocation, expiry, rotation in other processes --------------------------------------------


def until_refused(api: Api) -> float:
    """Return how long it takes until a key is refused."""
    began = time.monotonic()
    while api.get("/v1/banks").status == 200:
        assert time.monotonic() - began < 30
        time.sleep(0.02)
    assert api.get("/v1/banks").is_problem(401, "unauthenticated")
    return time.monotonic() - began


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_revoking_and_rotating_work_on_other_processes_within_five_seconds(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    settings = {}
    if kind == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        settings["database_url"] = server.new_database()
    home = tmp_path / "home"
    with Server(home, **settings) as running:
        made = json.loads(staydown(home, "key", "create", "--role", "admin", "--json", **settings).stdout)
        api = running.api(made["key"])
        for _ in range(3):
            assert api.get("/v1/banks").status == 200
        rotated = json.loads(
            staydown(home, "key", "rotate", made["key_id"], "--overlap", "2s", "--json", **settings).stdout
        )
        assert (rotated["key_id"], rotated["role"]) == (made["key_id"], "admin")
        assert running.api(rotated["key"]).get("/v1/banks").status == 200, "known at once"
        assert until_refused(api) < 5 + 2
        assert running.api(rotated["key"]).get("/v1/banks").status == 200
        assert staydown(home, "key", "revoke", made["key_id"], **settings).returncode == 0
        assert until_refused(running.api(rotated["key"])) < 5
        short = make_key(home, "admin", **settings)
        assert running.api(short).get("/v1/banks").status == 200
        assert KNOWN_S < 5


def test_what_the_command_makes_of_limits_and_what_it_refuses(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert staydown(home, "bank", "create", "b", "--tenant", "t").returncode == 0
    given = ["--tenant", "t", "--bank", "b", "--network", "10.0.0.0/8", "--network", "::1", "--expires", "30d"]
    made = json.loads(staydown(home, "key", "create", "--role", "check", *given, "--json").stdout)
    assert set(made) == {"key_id", "key", "role"}
    listed = json.loads(staydown(home, "key", "list", "--json").stdout)
    assert (listed["tenant"], listed["banks"], listed["networks"]) == ("t", ["b"], ["10.0.0.0/8", "::1/128"])
    assert listed["expires_at"] > listed["created_at"]
    assert made["key"] not in json.dumps(listed)
    for wrong in (["--tenant", "a b"], ["--network", "10.0.0.1/8"], ["--network", "home"], ["--expires", "1y"],
                  ["--expires", "-1d"], ["--expires", "999999999d"], ["--bank", "none"]):  # fmt: skip
        done = staydown(home, "key", "create", "--role", "check", *wrong)
        assert (done.returncode, done.stdout) == (2, b""), wrong
    assert staydown(home, "key", "rotate", "k_none").returncode == 2
    assert len(staydown(home, "key", "list", "--json").stdout.splitlines()) == 1


# --- limits over HTTP ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """A server that takes five requests a second and forty a day of each tenant."""
    limits = {"tenant_requests_per_s": 5, "tenant_requests_per_day": 40, "request_timeout_s": 1.0}
    with Local(tmp_path_factory.mktemp("narrow"), limits) as running:
        yield running


def test_what_is_too_much_is_refused_at_once_and_others_are_not(narrow: Local) -> None:
    keys = [narrow.engine.keys.create("audit", tenant=name, actor="t")[1] for name in ("a", "a", "b")]
    first, same, other = (Api(narrow.port, key) for key in keys)
    answers, times = [], []
    start = time.monotonic()
    for number in range(60):
        began = time.monotonic()
        answers.append((first, same)[number % 2].get("/v1/banks"))
        times.append(time.monotonic() - began)
    refused = [(answer, took) for answer, took in zip(answers, times, strict=True) if answer.status != 200]
    assert refused
    assert 5 <= 60 - len(refused) <= 6 + 5 * (time.monotonic() - start)
    assert sorted(took for _, took in refused)[len(refused) * 9 // 10] < 0.1
    for answer, _ in refused:
        assert answer.is_problem(429, "too_many_requests")
        assert int(answer.headers["retry-after"]) >= 1
    assert other.get("/v1/banks").status == 200
    assert Api(narrow.port, None).get("/health/live").status == 200


def test_a_day_that_is_used_up_says_until_when(narrow: Local) -> None:
    api = Api(narrow.port, narrow.engine.keys.create("lookup", tenant="c", actor="t")[1])
    assert api.post("/v1/rescans", {"items": [ready(1)] * 38}).status == 202
    assert api.post("/v1/rescans", {"items": [ready(1)] * 3}).is_problem(429, "quota_used_up")
    answer = api.post("/v1/rescans", {"items": [ready(1)] * 2})
    assert answer.is_problem(429, "quota_used_up")
    assert 0 < int(answer.headers["retry-after"]) <= 86_400
    assert narrow.engine.keys.create("check", tenant="d", actor="t")


def test_an_answer_that_takes_too_long_is_given_up(narrow: Local) -> None:
    """The body stays away, and the request's own time for that is longer than its deadline."""
    key = narrow.engine.keys.create("check", tenant="slow", actor="t")[1]
    head = f"POST /v1/check HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 10\r\n"
    began = time.monotonic()
    answered = Api(narrow.port).send_raw(head.encode() + b"Connection: close\r\n\r\n12345")
    assert time.monotonic() - began < 2
    assert answered.startswith(b"HTTP/1.1 503")
    assert b"deadline_exceeded" in answered
    assert b"retry-after: 2" in answered


# --- pure parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "networks", "right"),
    [
        ("10.1.2.3", ("10.0.0.0/8",), True), ("11.0.0.0", ("10.0.0.0/8",), False),
        ("9.255.255.255", ("10.0.0.0/8",), False), ("::ffff:10.0.0.1", ("10.0.0.0/8",), True),
        ("::ffff:11.0.0.1", ("10.0.0.0/8",), False), ("::1", ("::1/128",), True), ("::2", ("::1/128",), False),
        ("10.0.0.1", ("::/0",), False), ("::1", ("0.0.0.0/0",), False), ("10.0.0.1", (), False),
        ("10.0.0.1", None, True), ("", ("0.0.0.0/0",), False), ("/run/socket", ("0.0.0.0/0", "::/0"), False),
    ],
)  # fmt: skip
def test_from_where_a_key_may_be_used(client: str, networks: tuple[str, ...] | None, right: bool) -> None:
    assert comes_from((client, 1), networks) is right
    assert comes_from(None, networks) is (networks is None)


def test_a_key_comes_as_bearer_or_as_a_password() -> None:
    basic = base64.b64encode(b"anybody:sd_x_y").decode()
    said = {"Bearer sd_x_y": "sd_x_y", "bearer  sd_x_y ": "sd_x_y", f"Basic {basic}": "sd_x_y", "": None,
            "Basic !": None, "Basic /w==": None, "Digest x": None, "Bearer": "", "sd_x_y": None}  # fmt: skip
    assert {header: key_text(header) for header in said} == said


@given(st.text(max_size=60))
def test_no_header_is_an_error(header: str) -> None:
    assert key_text(header) is None or isinstance(key_text(header), str)
