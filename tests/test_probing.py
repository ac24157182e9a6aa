"""The watch over probing, against real attacks on the running service; `benchmarks.probing` does the same at length.

The controls are the same attacks on a service that does not watch: they recover the hash, every bit of it.
"""

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import Api, Local, staydown, wait_until
from shelf import codes

from benchmarks import corpus, probing
from benchmarks.probing import ATTACKS, BITS, balanced, copies, near, run, signal
from benchmarks.server import Client
from hashing.signals import SignalType
from indexer.policy import POLICIES, Verdict, false_match_probability, veiled
from service.probing import MOST_TOLD, distances_bits, told_bits

SECRETS = [balanced(random.Random(seed)) for seed in range(40)]


class House:
    """A running service with a bank of hashes."""

    def __init__(self, local: Local, hashes: int = len(SECRETS)) -> None:
        self.local = local
        self.bank = local.api().bank()
        self.contents = [self.enroll(code) for code in SECRETS[:hashes]]
        self._clients: list[Client] = []

    def __enter__(self) -> "House":
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()

    def enroll(self, code: int) -> str:
        body = {"signals": [signal(code)]}
        return str(self.local.api().post(f"/v1/banks/{self.bank}/contents", body).json["content_id"])

    def key(self, role: str, tenant: str = "default") -> tuple[str, Client, Api]:
        """Make a key that reaches the bank, and return its id and two ways to use it."""
        made, text = self.local.engine.keys.create(role, tenant=tenant, banks=[self.bank], actor="t")
        self._clients.append(Client(self.local.port, text))
        return made.key_id, self._clients[-1], Api(self.local.port, text)

    def entries(self, action: str) -> list[dict[str, Any]]:
        return [one for one in self.local.api().get("/v1/audit").json["entries"] if one["action"] == action]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with Local(tmp_path_factory.mktemp("watched"), {"probing_stops_media": True}) as local, House(local) as house:
        yield house


@pytest.fixture(scope="module")
def open_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with Local(tmp_path_factory.mktemp("open"), {"probing_bits": 0}) as local, House(local) as house:
        yield house


def attack(client: Client, name: str, secret: int, seed: int = 1) -> probing.Learned:
    return run(client, ATTACKS[name], near(random.Random(seed), secret, probing.START_BITS), seed)


def role_of(name: str) -> str:
    return "check" if name.endswith("check") else "lookup"


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_learns_a_hash_of_a_service_that_does_not_watch(open_house: House, name: str) -> None:
    learned = attack(open_house.key(role_of(name))[1], name, SECRETS[0])
    assert (learned.guess, learned.stopped) == (SECRETS[0], False)
    assert learned.requests < 300


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_does_not_learn_a_hash(watched: House, name: str) -> None:
    number = list(ATTACKS).index(name)
    key_id, client, _ = watched.key(role_of(name), f"t{number}")
    learned = attack(client, name, SECRETS[number])
    assert learned.wrong_bits(SECRETS[number]) > 15
    assert learned.stopped is (name != "exact distances"), "they are told no more, and nobody is stopped"
    if learned.stopped:
        (entry,) = [one for one in watched.entries("key.stop") if one["target"] == key_id]
        assert entry["detail"]["content"] == watched.contents[number]
        assert entry["detail"]["bits"] >= 64
        assert f"{SECRETS[number]:064x}" not in json.dumps(entry)


def edge_of(secret: int) -> int:
    """Return a hash at the edge of another: 31 bits away."""
    edge = near(random.Random(1), secret, 30)
    return edge ^ next(1 << n for n in range(BITS) if not (edge ^ secret) >> n & 1)


def test_several_keys_of_a_tenant_learn_no_more(watched: House) -> None:
    """Each goes on where the last was stopped."""
    edge, place, stopped = edge_of(SECRETS[10]), 0, 0
    for _ in range(8):
        _, client, _ = watched.key("lookup", "many")
        while client.check_hashes([signal(edge ^ 1 << place)])[0] == 200:
            place += 1
        stopped += 1
    assert stopped == 8
    assert place < BITS * 5 // 8


def test_who_is_stopped_is_refused_everywhere_until_a_person_lets_it_go(watched: House, photo_jpeg: bytes) -> None:
    key_id, client, api = watched.key("lookup", "stopped")
    alarms = "staydown_probing_alarms_total"
    before = watched.local.api().get("/metrics").body.decode()
    assert attack(client, "single bits at the edge", SECRETS[20]).stopped
    for answer in (
        api.post("/v1/check/hashes", {"signals": [signal(SECRETS[39])]}), api.post("/v1/check", photo_jpeg),
        api.post("/v1/rescans", {"items": [{"signals": [signal(SECRETS[39])]}]}), api.get("/v1/rescans/r_none"),
    ):  # fmt: skip
        assert answer.is_problem(429, "probing_suspected")
        assert 86_000 < int(answer.headers["retry-after"]) <= 86_400
        assert watched.contents[20] not in answer.body.decode()
    assert api.post("/v1/hash", photo_jpeg).status == 200, "that says nothing of a bank"
    assert (
        watched.key("lookup", "another")[2].post("/v1/check/hashes", {"signals": [signal(SECRETS[20])]}).status == 200
    )
    after = watched.local.api().get("/metrics").body.decode()
    assert _metric(after, alarms) == _metric(before, alarms) + 1
    assert watched.local.engine.keys.find(key_id).stopped_until is not None
    watched.local.engine.keys.let_go(key_id, actor="t")
    asked = {"signals": [signal(SECRETS[39])]}
    wait_until(lambda: api.post("/v1/check/hashes", asked).status == 200, 20)
    assert [one["target"] for one in watched.entries("key.let-go")] == [key_id]
    edge = near(random.Random(2), SECRETS[20], 30)
    assert [api.post("/v1/check/hashes", {"signals": [signal(edge ^ 1 << n)]}).status for n in range(20)] == [200] * 20


def _metric(text: str, name: str) -> float:
    return float(next(line for line in text.splitlines() if line.startswith(name)).split()[1])


def test_who_sends_media_is_told_of_and_not_stopped(tmp_path: Path, photo_jpeg: bytes) -> None:
    """Or whoever uploads could take a platform's protection away."""
    name = next(name for name in ATTACKS if name.endswith("check"))
    with Local(tmp_path) as local, House(local, 6) as house:
        key_id, client, _ = house.key("check", "platform")
        assert attack(client, name, SECRETS[0]).guess == SECRETS[0]
        seen = [one for one in house.entries("probing.seen") if one["actor"] == key_id]
        assert [one["target"] for one in seen] == [house.contents[0]]
        looking_id, looking, api = house.key("lookup", "platform")
        assert looking.check_hashes([signal(near(random.Random(77), SECRETS[0], 30))])[0] == 200, "counted by itself"
        assert attack(looking, "single bits at the edge", SECRETS[1]).stopped
        assert [one["target"] for one in house.entries("key.stop")] == [looking_id]
        assert api.post("/v1/check/hashes", {"signals": [signal(SECRETS[5])]}).is_problem(429, "probing_suspected")
        assert api.post("/v1/check", photo_jpeg).json["verdict"] == "no_match"


def test_a_stop_outlives_the_process_and_ends_by_itself(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Local(home, {"probing_stop_s": 5}) as local, House(local, 6) as house:
        key_id, client, _ = house.key("lookup")
        text = client._headers["Authorization"].removeprefix("Bearer ")
        assert attack(client, "single bits at the edge", SECRETS[0]).stopped
        keys = local.keys
    (shown,) = [
        one for one in map(json.loads, staydown(home, "key", "list", "--json").stdout.splitlines())
        if one["key_id"] == key_id
    ]  # fmt: skip
    assert shown["stopped_until"] is not None
    asked = {"signals": [signal(SECRETS[5])]}
    with Local(home, {"probing_stop_s": 5}, keys) as local:
        api = Api(local.port, text)
        wait_until(lambda: api.post("/v1/check/hashes", asked).status == 200, 20)
    assert staydown(home, "key", "let-go", key_id).returncode == 0
    assert staydown(home, "key", "let-go", "k_none").returncode == 2


def test_after_its_time_the_next_step_stops_a_key_again(tmp_path: Path) -> None:
    with Local(tmp_path, {"probing_stop_s": 1}) as local, House(local, 6) as house:
        _, client, api = house.key("lookup")
        assert attack(client, "single bits at the edge", SECRETS[0]).stopped
        other, step = {"signals": [signal(SECRETS[5])]}, {"signals": [signal(near(random.Random(77), SECRETS[0], 30))]}
        wait_until(lambda: api.post("/v1/check/hashes", other).status == 200, 10)
        assert api.post("/v1/check/hashes", step).is_problem(429, "probing_suspected")


def test_who_is_shown_distances_is_told_of_once_and_not_stopped(watched: House) -> None:
    key_id, client, _ = watched.key("review")
    learned = attack(client, "single bits at the edge", SECRETS[25])
    assert learned.guess == SECRETS[25]
    seen = [one for one in watched.entries("probing.seen") if one["actor"] == key_id]
    assert [one["target"] for one in seen] == [watched.contents[25]]


def test_a_rescan_is_no_way_around(watched: House) -> None:
    _, _, api = watched.key("lookup", "rescans")
    edge = edge_of(SECRETS[30])
    items = [{"signals": [signal(edge ^ 1 << place)]} for place in range(BITS)]
    name = api.post("/v1/rescans", {"items": items}).json["rescan_id"]
    path = f"/v1/rescans/{name}"
    admin = watched.local.engine
    wait_until(lambda: admin.jobs.find(name).done == BITS, 60)
    assert api.get(path).is_problem(429, "probing_suspected")
    words = [result.result["reason"] for result in admin.jobs.results(name, after=-1, limit=1000)]
    assert words.count("probing_suspected") > BITS // 4
    assert words.count(None) < 200


def test_exact_distances_are_told_of_a_few_hashes_and_no_more(watched: House) -> None:
    _, _, api = watched.key("lookup", "distances")
    near_it = [near(random.Random(n), SECRETS[31], 2 * (n % 10)) for n in range(60)]
    said = [api.post("/v1/check/hashes", {"signals": [signal(code)]}).json["matches"][0] for code in near_it]
    told = [one for one in said if one["distance_bits"] is not None]
    assert MOST_TOLD <= len(told) <= MOST_TOLD + 10, "the same hash again tells nothing new"
    assert len({one["false_match_probability"] for one in said[len(told) + 10 :]}) == 1, (
        "nor does what stands beside it"
    )
    assert {one["verdict"] for one in said} == {"match"}
    assert api.post("/v1/check/hashes", {"signals": [signal(SECRETS[32])]}).json["matches"][0]["distance_bits"] == 0


def test_an_honest_platform_is_not_stopped(watched: House) -> None:
    """The same again and again, copies of one picture, and what is in no bank."""
    picture = corpus.picture(77_000, 320, 240)
    content = watched.enroll(probing.code_of(picture))
    _, client, _ = watched.key("lookup", "honest")
    said = probing.asks(client, copies(picture, 120, 1))
    assert said.get("match", 0) > 110
    assert set(said) <= {"match", "review", "no_match"}
    assert probing.asks(client, [near(random.Random(1), SECRETS[33], 30)] * 100) == {"match": 100}
    assert probing.asks(client, probing.different(80)) == {"no_match": 80}
    assert content not in json.dumps(watched.entries("key.stop"))


def test_one_content_withdrawn_is_forgotten(watched: House) -> None:
    """Its hashes are in the watch's memory for a minute at most."""
    watch = watched.local.app.state.probing
    _, client, _ = watched.key("lookup", "forgotten")
    code = balanced(random.Random(999))
    content = watched.enroll(code)
    probing.asks(client, [near(random.Random(n), code, 30) for n in range(5)])
    assert content in watch._codes
    now = watch._clock()
    try:
        watch._clock = lambda: now + 61
        watch.forget()
        assert watch._codes == {}
    finally:
        watch._clock = time.monotonic


def test_the_memory_of_walks_is_bounded(watched: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.probing._WALKS", 60)
    watch = watched.local.app.state.probing
    _, client, _ = watched.key("lookup", "bounded")
    probing.asks(client, [edge_of(SECRETS[34]) ^ 1 << n for n in range(30)])
    for tenant in ("bounded", "bounded2"):
        probing.asks(watched.key("lookup", tenant)[1], [near(random.Random(6), code, 30) for code in SECRETS])
    assert sum(map(len, watch._walks.values())) <= 60
    assert max(walk.hashes for walk in watch._walks["tenant/bounded"].values()) >= 30, "who got far is not forgotten"


# --- pure parts -----------------------------------------------------------------------------------


def test_what_answers_can_tell() -> None:
    assert told_bits(0, 0) == told_bits(500, 0) == told_bits(0, 500) == 0
    assert told_bits(32, 32) == 64
    assert told_bits(1, 1) == 2
    assert told_bits(225, 31) == pytest.approx(136, abs=2), "as many as there are ways to be 31 bits away"


@given(st.integers(0, 400), st.integers(0, 400))
def test_more_answers_tell_no_less(outside: int, inside: int) -> None:
    assert told_bits(outside, inside) == told_bits(inside, outside) <= outside + inside + 1e-9
    assert told_bits(outside + 1, inside) >= told_bits(outside, inside) - 1e-9


def test_distances_are_the_slow_truth() -> None:
    asked, bank = codes(1, 30), codes(2, 7)
    slow = [min(int(np.unpackbits(a ^ b).sum()) for b in bank) for a in asked]
    assert distances_bits(asked, bank.view(np.uint64)).tolist() == slow
    assert distances_bits(asked, bank[:0].view(np.uint64)).tolist() == [256] * 30
    assert distances_bits(asked[:0], bank.view(np.uint64)).tolist() == []


def test_edges_are_on_both_sides_of_each_threshold() -> None:
    near_edges: Callable[[int], list[int]] = lambda bits: POLICIES["default"].edges_near(SignalType.PDQ, bits)  # noqa: E731
    found = {bits: near_edges(bits) for bits in range(257) if near_edges(bits)}
    assert found == {bits: [31] for bits in range(26, 38)} | {bits: [46] for bits in range(41, 53)}
    assert POLICIES["review-only"].edges_near(SignalType.PDQ, 3) == []


@pytest.mark.parametrize("pairs", [1, 300, 10**6, 10**9, 10**12])
def test_a_veiled_probability_tells_the_verdict_alone(pairs: int) -> None:
    for verdict, first, last in ((Verdict.MATCH, 0, 31), (Verdict.REVIEW, 32, 46)):
        exact = [false_match_probability(SignalType.PDQ, bits, pairs) for bits in range(first, last + 1)]
        told = {veiled(SignalType.PDQ, first + n, verdict, chance) for n, chance in enumerate(exact)}
        assert len(told) == 1
        assert max(exact) <= told.pop() <= 1
