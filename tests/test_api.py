"""The /v1 routes as the contract has them: roles, shapes, banks, contents, freshness."""

import hashlib
import json
import math
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import Answer, Api, Local

from benchmarks import corpus
from service.auth import Role

VERDICT = {"request_id", "verdict", "reason", "media", "matches", "suppressed", "bank_revision", "policy"}
MEDIA = {"kind", "sha256", "width", "height", "duration_s", "frames_hashed"}
MATCH = {"bank", "content_id", "verdict", "signal_type", "transform", "distance_bits", "inliers",
         "false_match_probability", "segments", "told_apart"}  # fmt: skip


def pdq(seed: int) -> str:
    return hashlib.sha256(f"{seed}".encode()).hexdigest()


def ready(seed: int, **more: Any) -> dict[str, Any]:
    return {"signals": [{"signal_type": "pdq", "hash": pdq(seed)} | more]}


def verdict(answer: Answer) -> Any:
    """Hold a verdict to the contract's shape."""
    assert answer.status == 200, answer.body
    said = answer.json
    assert set(said) == VERDICT
    assert set(said["media"]) == MEDIA
    assert said["request_id"] == answer.headers["x-request-id"]
    assert said["verdict"] in {"match", "review", "no_match", "unhashable"}
    assert bool(said["matches"]) == (said["verdict"] in {"match", "review"})
    assert (said["verdict"] != "unhashable") or said["reason"]
    for match in said["matches"]:
        assert set(match) == MATCH
        for segment in match["segments"]:
            assert set(segment) == {"query_s", "reference_s", "frames", "speed"}
    return said


# --- roles --------------------------------------------------------------------------------

ALLOWED = {
    "POST /v1/check": "check lookup enroll review admin",
    "POST /v1/check/hashes": "lookup review admin",
    "POST /v1/hash": "lookup enroll admin",
    "GET /v1/banks": "enroll review audit admin",
    "PUT /v1/banks/{bank}": "admin",
    "GET /v1/banks/{bank}": "enroll review audit admin",
    "PATCH /v1/banks/{bank}": "admin",
    "DELETE /v1/banks/{bank}": "admin",
    "POST /v1/banks/{bank}/contents": "enroll admin",
    "GET /v1/banks/{bank}/contents": "enroll review audit admin",
    "GET /v1/banks/{bank}/contents/{content_id}": "enroll review audit admin",
    "PATCH /v1/banks/{bank}/contents/{content_id}": "enroll review admin",
    "DELETE /v1/banks/{bank}/contents/{content_id}": "enroll review admin",
    "GET /v1/banks/{bank}/approvals": "enroll review audit admin",
    "POST /v1/banks/{bank}/approvals": "review admin",
    "GET /v1/sources": "enroll review audit admin",
    "PUT /v1/sources/{source}": "admin",
    "POST /v1/rescans": "check lookup enroll review admin",
    "GET /v1/rescans/{rescan_id}": "check lookup enroll review admin",
    "GET /v1/retro-matches": "review admin",
    "GET /v1/audit": "audit admin",
    "GET /v1/audit/head": "audit admin",
    "GET /metrics": "audit admin",
    "GET /openapi.json": "check lookup enroll review audit admin",
    "GET /docs": "check lookup enroll review audit admin",
    "GET /health/live": "check lookup enroll review audit admin nobody",
    "GET /health/ready": "check lookup enroll review audit admin nobody",
}


def test_the_table_of_roles_names_every_route(admin: Api) -> None:
    found = {
        f"{method.upper()} {path}" for path, item in admin.get("/openapi.json").json["paths"].items() for method in item
    }
    assert found | {"GET /openapi.json", "GET /docs"} == set(ALLOWED)


@pytest.mark.parametrize("route", ALLOWED)
@pytest.mark.parametrize("role", [*Role, "nobody"])
def test_who_may_do_what(local: Local, photo_jpeg: bytes, route: str, role: str) -> None:
    method, _, path = route.partition(" ")
    admin = local.api()
    bank = admin.bank()
    content = admin.post(f"/v1/banks/{bank}/contents", ready(1)).json["content_id"]
    rescan = local.api(None if role == "nobody" else role)
    path = path.format(bank=bank, content_id=content, rescan_id="r_none", source="s")
    bodies: dict[str, Any] = {"/v1/check": photo_jpeg, "/v1/hash": photo_jpeg, "/v1/check/hashes": ready(1),
                              "/v1/rescans": {"items": [{"url": "http://127.0.0.1/"}]}}  # fmt: skip
    bodies[f"/v1/banks/{bank}/approvals"] = {"content_ids": [proposed(local, bank)]}
    bodies["/v1/sources/s"] = {"enabled": True}
    body = bodies.get(path, ready(2) if method == "POST" else {} if method in {"PUT", "PATCH"} else None)
    answer = rescan.call(method, path, body)
    if role in ALLOWED[route].split():
        assert answer.status in ({404} if "r_none" in path else {200, 201, 202, 204}), answer.body
    else:
        assert answer.is_problem(*((401, "unauthenticated") if role == "nobody" else (403, "forbidden")))


def proposed(local: Local, bank: str) -> str:
    """Have an enroller propose something in a bank, and return its id."""
    admin = local.api()
    assert admin.call("PATCH", f"/v1/banks/{bank}", {"two_persons": True}).status == 200
    return str(local.api("enroll").post(f"/v1/banks/{bank}/contents", ready(3)).json["content_id"])


def test_a_check_key_may_not_send_hashes_through_a_rescan(local: Local) -> None:
    body = {"items": [{"url": "http://127.0.0.1/"}, ready(1)]}
    assert local.api("check").post("/v1/rescans", body).is_problem(403, "forbidden")
    assert local.api("lookup").post("/v1/rescans", body).status == 202


@pytest.mark.parametrize("role", ["check", "lookup", "enroll", "review", "admin"])
def test_what_a_role_sees_of_a_match(local: Local, photo_jpeg: bytes, copy_jpeg: bytes, role: str) -> None:
    admin = local.api()
    bank = admin.bank()
    admin.post(f"/v1/banks/{bank}/contents", photo_jpeg)
    said = verdict(local.api(role).post(f"/v1/check?bank={bank}", copy_jpeg))
    assert said["verdict"] == "match"
    match = said["matches"][0]
    power = math.log10(match["false_match_probability"])
    if role == "check":
        assert match["distance_bits"] is None
        assert match["inliers"] is None
        assert power == pytest.approx(round(power))
        seen = verdict(local.api("review").post(f"/v1/check?bank={bank}", copy_jpeg))["matches"][0]
        assert seen["false_match_probability"] <= match["false_match_probability"]
    else:
        assert 0 <= match["distance_bits"] <= 31
        assert 0 < match["false_match_probability"] < 1e-4


def test_an_exact_copy_shows_a_check_key_no_distance_either(local: Local, photo_jpeg: bytes) -> None:
    bank = local.api().bank()
    local.api().post(f"/v1/banks/{bank}/contents", photo_jpeg)
    match = verdict(local.api("check").post(f"/v1/check?bank={bank}", photo_jpeg))["matches"][0]
    assert match["signal_type"] == "sha256"
    assert match["distance_bits"] is None


# --- verdicts -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bank(admin: Api, photo_jpeg: bytes, short_clip: bytes) -> str:
    """A bank that knows one picture and one clip."""
    name = admin.bank()
    assert admin.post(f"/v1/banks/{name}/contents", photo_jpeg).status == 201
    assert admin.post(f"/v1/banks/{name}/contents", short_clip).status == 201
    return name


def as_raw(api: Api, bank: str, data: bytes) -> Answer:
    return api.post(f"/v1/check?bank={bank}", data)


def as_form(api: Api, bank: str, data: bytes) -> Answer:
    return api.post_form(f"/v1/check?bank={bank}", ("media", data, "any.mp4"))


def as_chunks(api: Api, bank: str, data: bytes) -> Answer:
    return api.post(f"/v1/check?bank={bank}", iter([data[i : i + 7777] for i in range(0, len(data), 7777)]))


def as_undeclared(api: Api, bank: str, data: bytes) -> Answer:
    return api.call("POST", f"/v1/check?bank={bank}", data)


@pytest.mark.parametrize("send", [as_raw, as_form, as_chunks, as_undeclared])
def test_media_may_come_in_every_way(
    admin: Api, bank: str, copy_jpeg: bytes, other_jpeg: bytes, short_clip: bytes,
    send: Callable[[Api, str, bytes], Answer],
) -> None:  # fmt: skip
    copy = verdict(send(admin, bank, copy_jpeg))
    assert (copy["verdict"], copy["reason"], copy["policy"]) == ("match", None, "default")
    assert copy["media"] == {"kind": "image", "sha256": hashlib.sha256(copy_jpeg).hexdigest(), "width": 160,
                             "height": 120, "duration_s": None, "frames_hashed": 1}  # fmt: skip
    assert [match["bank"] for match in copy["matches"]] == [bank]
    assert copy["matches"][0]["segments"] == []
    other = verdict(send(admin, bank, other_jpeg))
    assert (other["verdict"], other["reason"], other["matches"]) == ("no_match", None, [])
    video = verdict(send(admin, bank, short_clip))
    assert (video["verdict"], video["media"]["kind"]) == ("match", "video")
    assert video["media"]["duration_s"] == pytest.approx(1.2, abs=0.1)
    assert video["matches"][0]["segments"]


def test_a_name_and_a_type_that_lie_do_not_matter(admin: Api, bank: str) -> None:
    png = corpus.encode(corpus.picture(503, 320, 240), "PNG")
    said = verdict(admin.post(f"/v1/check?bank={bank}", png, "video/mp4"))
    assert (said["verdict"], said["media"]["kind"]) == ("match", "image")
    said = verdict(as_form(admin, bank, png))
    assert (said["verdict"], said["media"]["kind"]) == ("match", "image")


def test_a_truncated_copy_is_never_no_match(admin: Api, bank: str, photo_jpeg: bytes, other_jpeg: bytes) -> None:
    for share in (0.9, 0.6, 0.3):
        copy = admin.post(f"/v1/check?bank={bank}", photo_jpeg[: int(len(photo_jpeg) * share)])
        other = admin.post(f"/v1/check?bank={bank}", other_jpeg[: int(len(other_jpeg) * share)])
        for answer in (copy, other):
            assert answer.status in {200, 422}
            assert answer.status == 200 or answer.is_problem(422, "corrupt_media")
            assert answer.json.get("verdict") != "no_match"
            if answer.status == 200:
                assert verdict(answer)["reason"] == "truncated"
    almost = verdict(admin.post(f"/v1/check?bank={bank}", photo_jpeg[: int(len(photo_jpeg) * 0.97)]))
    assert (almost["verdict"], almost["reason"]) == ("match", "truncated")


def test_a_picture_without_features_is_unhashable(admin: Api, bank: str) -> None:
    grey = corpus.encode(corpus.picture(1, 64, 64) * 0 + 127, "PNG")
    said = verdict(admin.post(f"/v1/check?bank={bank}", grey))
    assert (said["verdict"], said["reason"]) == ("unhashable", "featureless")


def test_hashes_are_judged_as_one_piece_of_media(admin: Api) -> None:
    bank = admin.bank()
    made = admin.post(f"/v1/banks/{bank}/contents", ready(7)).json["content_id"]
    near = f"{int(pdq(7), 16) ^ 0b10110:064x}"
    body = {"signals": [{"signal_type": "pdq", "hash": pdq(8)}, {"signal_type": "pdq", "hash": near.upper()}]}
    said = verdict(admin.post(f"/v1/check/hashes?bank={bank}", body))
    assert said["media"] == {"kind": "hashes", "sha256": None, "width": None, "height": None, "duration_s": None,
                             "frames_hashed": 2}  # fmt: skip
    assert [(m["content_id"], m["distance_bits"], m["verdict"]) for m in said["matches"]] == [(made, 3, "match")]
    assert verdict(admin.post(f"/v1/check/hashes?bank={bank}", ready(9)))["verdict"] == "no_match"
    low = verdict(admin.post(f"/v1/check/hashes?bank={bank}", ready(7, quality=10)))
    assert (low["verdict"], low["reason"]) == ("unhashable", "featureless")


def test_timed_hashes_at_the_edge_of_time_are_answered(admin: Api) -> None:
    bank = admin.bank()
    times = [0.0, 1e-308, 0.1, 9_999_999.0, 1e7]
    body = {"signals": [{"signal_type": "pdq", "hash": pdq(20 + n), "timestamp_s": t} for n, t in enumerate(times)]}
    assert admin.post(f"/v1/banks/{bank}/contents", body).status == 201
    assert verdict(admin.post(f"/v1/check/hashes?bank={bank}", body))["verdict"] == "match"


def test_two_hundred_hashes_go_in_one_request(admin: Api) -> None:
    bank = admin.bank()
    body = {"signals": [{"signal_type": "pdq", "hash": pdq(1000 + n), "quality": 90, "timestamp_s": n / 2}
                        for n in range(200)]}  # fmt: skip
    made = admin.post(f"/v1/banks/{bank}/contents", body)
    assert (made.status, made.json["signals"]) == (201, {"pdq": 200})
    said = verdict(admin.post(f"/v1/check/hashes?bank={bank}", body))
    assert said["media"]["frames_hashed"] == 200
    assert said["matches"][0]["content_id"] == made.json["content_id"]
    assert sum(segment["frames"] for segment in said["matches"][0]["segments"]) == 200


def test_only_the_banks_that_are_asked_answer(admin: Api, bank: str, photo_jpeg: bytes) -> None:
    empty = admin.bank()
    assert verdict(admin.post(f"/v1/check?bank={empty}", photo_jpeg))["verdict"] == "no_match"
    both = verdict(admin.post(f"/v1/check?bank={empty}&bank={bank}", photo_jpeg))
    assert {match["bank"] for match in both["matches"]} == {bank}
    assert bank in {match["bank"] for match in verdict(admin.post("/v1/check", photo_jpeg))["matches"]}
    admin.call("PATCH", f"/v1/banks/{bank}", {"enabled": False})
    try:
        assert verdict(admin.post(f"/v1/check?bank={bank}", photo_jpeg))["verdict"] == "no_match"
    finally:
        admin.call("PATCH", f"/v1/banks/{bank}", {"enabled": True})


def test_a_bank_of_exact_hashes_alone_says_no_match_of_another_picture(admin: Api, photo_jpeg: bytes) -> None:
    bank = admin.bank()
    admin.call("PATCH", f"/v1/banks/{bank}", {"signal_types": ["sha256"]})
    assert verdict(admin.post(f"/v1/check?bank={bank}", photo_jpeg))["verdict"] == "no_match"
    assert admin.post(f"/v1/banks/{bank}/contents", photo_jpeg).json["signals"] == {"sha256": 1}
    assert verdict(admin.post(f"/v1/check?bank={bank}", photo_jpeg))["verdict"] == "match"


def test_without_any_bank_a_picture_is_no_match(tmp_path: Path, photo_jpeg: bytes) -> None:
    with Local(tmp_path) as running:
        assert verdict(running.api().post("/v1/check", photo_jpeg))["verdict"] == "no_match"


# --- hashes -------------------------------------------------------------------------------


def test_hash_answers_what_can_be_enrolled(admin: Api, photo_jpeg: bytes, copy_jpeg: bytes) -> None:
    said = admin.post("/v1/hash", photo_jpeg).json
    assert set(said) == {"media", "signals", "reason"}
    assert set(said["media"]) == MEDIA
    found = {signal["signal_type"]: signal for signal in said["signals"]}
    assert found["sha256"]["hash"] == hashlib.sha256(photo_jpeg).hexdigest()
    assert found["md5"]["hash"] == hashlib.md5(photo_jpeg).hexdigest()
    assert len(found["pdq"]["hash"]) == 64
    assert found["pdq"]["hash"] == found["pdq"]["hash"].lower()
    assert found["pdq"]["quality"] >= 50
    bank = admin.bank()
    signals = [{name: value for name, value in signal.items() if value is not None} for signal in said["signals"]]
    assert admin.post(f"/v1/banks/{bank}/contents", {"signals": signals}).status == 201
    assert verdict(admin.post(f"/v1/check?bank={bank}", copy_jpeg))["verdict"] == "match"


def test_hash_takes_the_types_that_are_asked_for(admin: Api, photo_jpeg: bytes) -> None:
    said = admin.post("/v1/hash?type=dhash&type=phash", photo_jpeg).json
    assert {"dhash", "phash"} <= {signal["signal_type"] for signal in said["signals"]}
    assert admin.post("/v1/hash?type=ssdeep", photo_jpeg).is_problem(422, "invalid_request")


def test_hash_of_a_clip_has_times(admin: Api, short_clip: bytes) -> None:
    said = admin.post("/v1/hash", short_clip).json
    times = [signal["timestamp_s"] for signal in said["signals"] if signal["signal_type"] == "pdq"]
    assert times == sorted(times)
    assert len(set(times)) > 3


# --- banks --------------------------------------------------------------------------------


def test_a_bank_from_its_making_to_its_end(admin: Api) -> None:
    path = f"/v1/banks/b-{secrets.token_hex(4)}"
    made = admin.call("PUT", path, {"description": "für Fälle", "policy": "strict"})
    assert made.status == 201
    assert set(made.json) == {"bank", "description", "enabled", "policy", "signal_types", "lawful", "suppresses",
                              "two_persons", "contents", "created_at"}  # fmt: skip
    assert (made.json["policy"], made.json["enabled"], made.json["contents"]) == ("strict", True, 0)
    again = admin.call("PUT", path, {"enabled": False})
    assert (again.status, again.json["policy"], again.json["enabled"]) == (200, "strict", False)
    changed = admin.call("PATCH", path, {"policy": "review-only", "enabled": True})
    assert (changed.status, changed.json["policy"], changed.json["description"]) == (200, "review-only", "für Fälle")
    assert admin.get(path).json == changed.json
    assert changed.json in admin.get("/v1/banks").json["banks"]
    content = admin.post(f"{path}/contents", ready(31)).json["content_id"]
    gone = admin.call("DELETE", path)
    assert (gone.status, gone.body) == (204, b"")
    assert admin.get(path).is_problem(404, "unknown_bank")
    assert admin.get(f"{path}/contents/{content}").is_problem(404, "unknown_bank")
    assert content not in admin.post("/v1/check/hashes", ready(31)).body.decode()


def test_a_bank_can_be_lawful(admin: Api) -> None:
    bad, path = admin.bank(), f"/v1/banks/b-{secrets.token_hex(4)}"
    made = admin.call("PUT", path, {"lawful": True, "suppresses": [bad]})
    assert (made.status, made.json["lawful"], made.json["suppresses"]) == (201, True, [bad])
    assert admin.call("PATCH", path, {"description": "d"}).json["suppresses"] == [bad]
    assert admin.call("PATCH", path, {"suppresses": None}).json["suppresses"] is None
    assert admin.call("PATCH", path, {"suppresses": ["unheard-of"]}).is_problem(422, "invalid_bank")
    assert admin.call("PATCH", path, {"suppresses": []}).is_problem(422, "invalid_request")
    assert admin.call("PUT", path, {"lawful": False}).json["lawful"] is False


def test_a_bank_for_review_never_says_match(admin: Api, photo_jpeg: bytes) -> None:
    bank = admin.bank()
    admin.call("PATCH", f"/v1/banks/{bank}", {"policy": "review-only"})
    admin.post(f"/v1/banks/{bank}/contents", photo_jpeg)
    said = verdict(admin.post(f"/v1/check?bank={bank}", photo_jpeg))
    assert (said["verdict"], said["policy"]) == ("review", "review-only")
    assert {match["verdict"] for match in said["matches"]} == {"review"}


# --- contents -----------------------------------------------------------------------------


def test_an_enrolment_answers_as_the_contract_has_it(admin: Api, photo_jpeg: bytes) -> None:
    bank = admin.bank()
    made = admin.post_form(f"/v1/banks/{bank}/contents", ("media", photo_jpeg, "x.jpg"), ("case", "C-1", None),
                           ("labels", "a", None), ("labels", "b", None))  # fmt: skip
    assert made.status == 201
    assert {"content_id", "bank", "bank_revision", "signals", "media"} <= set(made.json)
    assert set(made.json["media"]) == MEDIA
    assert made.json["signals"]["sha256"] == 1
    assert made.json["signals"]["pdq"] >= 1
    assert made.json["created"] is True
    shown = admin.get(f"/v1/banks/{bank}/contents/{made.json['content_id']}").json
    assert (shown["case"], shown["labels"], shown["enabled"]) == ("C-1", ["a", "b"], True)
    assert (shown["withdrawn_at"], shown["revision"]) == (None, made.json["bank_revision"])
    again = admin.post(f"/v1/banks/{bank}/contents", photo_jpeg).json
    assert (again["content_id"], again["created"]) == (made.json["content_id"], False)
    assert admin.get(f"/v1/banks/{bank}").json["contents"] == 1


def test_case_and_labels_beside_a_raw_body(admin: Api, photo_jpeg: bytes) -> None:
    bank = admin.bank()
    made = admin.post(f"/v1/banks/{bank}/contents?case=C%2F2&label=x&label=y", photo_jpeg).json
    shown = admin.get(f"/v1/banks/{bank}/contents/{made['content_id']}").json
    assert (shown["case"], shown["labels"]) == ("C/2", ["x", "y"])


def test_what_can_be_changed_of_a_content(admin: Api) -> None:
    bank = admin.bank()
    path = f"/v1/banks/{bank}/contents/" + admin.post(f"/v1/banks/{bank}/contents", ready(41)).json["content_id"]
    assert admin.call("PATCH", path, {"case": "C-3", "labels": ["z"]}).json["labels"] == ["z"]
    assert admin.call("PATCH", path, {"enabled": False}).json["enabled"] is False
    assert verdict(admin.post(f"/v1/check/hashes?bank={bank}", ready(41)))["verdict"] == "no_match"
    assert admin.call("PATCH", path, {"enabled": True}).json["case"] == "C-3"
    assert verdict(admin.post(f"/v1/check/hashes?bank={bank}", ready(41)))["verdict"] == "match"
    assert admin.call("PATCH", path, {"case": None}).json["case"] is None
    assert admin.call("PATCH", path, {}).json["labels"] == ["z"]
    assert admin.call("PATCH", path, {"content_id": "c_1"}).is_problem(422, "invalid_request")


def test_a_withdrawal_is_at_once_and_for_good(admin: Api, photo_jpeg: bytes, copy_jpeg: bytes) -> None:
    bank = admin.bank()
    content = admin.post(f"/v1/banks/{bank}/contents", photo_jpeg).json["content_id"]
    path = f"/v1/banks/{bank}/contents/{content}"
    gone = admin.call("DELETE", f"{path}?reason=mistake")
    assert (gone.status, gone.body) == (204, b"")
    for data in (photo_jpeg, copy_jpeg):
        assert verdict(admin.post(f"/v1/check?bank={bank}", data))["verdict"] == "no_match"
    shown = admin.get(path).json
    assert shown["withdrawn_at"]
    assert (shown["withdrawn_reason"], shown["signals"]) == ("mistake", {})
    assert admin.get(f"/v1/banks/{bank}/contents").json["contents"] == []
    assert admin.call("DELETE", path).status == 204  # a repetition is harmless
    assert admin.call("PATCH", path, {"enabled": True}).is_problem(404, "unknown_content")
    anew = admin.post(f"/v1/banks/{bank}/contents", photo_jpeg).json
    assert anew["content_id"] != content
    assert verdict(admin.post(f"/v1/check?bank={bank}", copy_jpeg))["matches"][0]["content_id"] == anew["content_id"]


def test_a_content_is_reached_through_its_own_bank_only(admin: Api) -> None:
    mine, other = admin.bank(), admin.bank()
    content = admin.post(f"/v1/banks/{mine}/contents", ready(51)).json["content_id"]
    for method in ("GET", "DELETE"):
        assert admin.call(method, f"/v1/banks/{other}/contents/{content}").is_problem(404, "unknown_content")
    assert verdict(admin.post(f"/v1/check/hashes?bank={mine}", ready(51)))["verdict"] == "match"


def test_pages_show_each_content_once(admin: Api) -> None:
    bank = admin.bank()
    made = [admin.post(f"/v1/banks/{bank}/contents", ready(60 + n)).json["content_id"] for n in range(7)]
    admin.call("DELETE", f"/v1/banks/{bank}/contents/{made.pop(2)}")
    seen, cursor, pages = [], "", 0
    while cursor is not None:
        page = admin.get(f"/v1/banks/{bank}/contents?limit=2&cursor={cursor}").json
        seen += [content["content_id"] for content in page["contents"]]
        cursor, pages = page["cursor"], pages + 1
    assert seen == made
    assert pages == 4  # a full last page is followed by an empty one


def test_no_answer_holds_a_hash_of_a_bank(admin: Api) -> None:
    bank = admin.bank()
    content = admin.post(f"/v1/banks/{bank}/contents", ready(71))
    answers = [content, admin.get(f"/v1/banks/{bank}"), admin.get(f"/v1/banks/{bank}/contents"),
               admin.get(f"/v1/banks/{bank}/contents/{content.json['content_id']}"), admin.get("/metrics"),
               admin.post(f"/v1/check/hashes?bank={bank}", ready(71))]  # fmt: skip
    for answer in answers:
        assert pdq(71)[:16].encode() not in answer.body.lower()


# --- idempotency --------------------------------------------------------------------------


def test_a_repeated_request_gets_its_first_answer(admin: Api, photo_jpeg: bytes) -> None:
    bank, key = admin.bank(), secrets.token_hex(8)
    path = f"/v1/banks/{bank}/contents"
    first = admin.post(path, photo_jpeg, Idempotency_Key=key)
    admin.call("DELETE", f"{path}/{first.json['content_id']}")
    again = admin.post(path, photo_jpeg, Idempotency_Key=key)
    assert (again.status, again.json) == (201, first.json)
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert admin.get(f"/v1/banks/{bank}").json["contents"] == 0  # nothing was done


def test_another_request_under_the_same_key_is_a_conflict(local: Local, photo_jpeg: bytes, other_jpeg: bytes) -> None:
    admin, key = local.api(), secrets.token_hex(8)
    bank, second = admin.bank(), admin.bank()
    path = f"/v1/banks/{bank}/contents"
    assert admin.post(path, photo_jpeg, Idempotency_Key=key).status == 201
    others: list[tuple[str, Any]] = [(path, other_jpeg), (f"/v1/banks/{second}/contents", photo_jpeg),
                                     (f"{path}?case=1", photo_jpeg), (path, ready(1))]  # fmt: skip
    for where, body in others:
        assert admin.post(where, body, Idempotency_Key=key).is_problem(409, "idempotency_conflict")
    assert local.api("enroll").post(path, other_jpeg, Idempotency_Key=key).status == 201  # each key has its own
    assert admin.post(path, photo_jpeg, Idempotency_Key="x" * 256).is_problem(422, "invalid_request")


def test_a_failed_request_may_be_repeated(admin: Api, photo_jpeg: bytes) -> None:
    bank, key = admin.bank(), secrets.token_hex(8)
    path = f"/v1/banks/{bank}/contents"
    assert admin.post(path, b"no media", Idempotency_Key=key).status == 415
    assert admin.post(path, photo_jpeg, Idempotency_Key=key).status == 201


def test_the_same_request_many_times_at_once_is_one_content(admin: Api) -> None:
    bank, key = admin.bank(), secrets.token_hex(8)
    answers: list[Answer] = []
    post = lambda: answers.append(admin.post(f"/v1/banks/{bank}/contents", ready(81), Idempotency_Key=key))  # noqa: E731
    threads = [threading.Thread(target=post) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status for answer in answers} == {201}
    assert len({answer.json["content_id"] for answer in answers}) == 1
    assert admin.get(f"/v1/banks/{bank}").json["contents"] == 1


def test_an_enrolment_is_found_by_the_very_next_check(admin: Api) -> None:
    bank = admin.bank()
    for seed in range(100, 140):
        made = admin.post(f"/v1/banks/{bank}/contents", ready(seed)).json
        said = verdict(admin.post(f"/v1/check/hashes?bank={bank}", ready(seed)))
        assert [match["content_id"] for match in said["matches"]] == [made["content_id"]]
        assert said["bank_revision"] >= made["bank_revision"]


# --- health and docs ----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_health_is_open_and_answers_head(local: Local, path: str) -> None:
    api = local.api(None)
    assert api.get(path).status == 200
    head = api.call("HEAD", path)
    assert (head.status, head.body) == (200, b"")


def test_the_description_has_every_body_and_resolves(admin: Api) -> None:
    document = admin.get("/openapi.json").json
    text = json.dumps(document)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in document["components"]["schemas"]
    for path in ("/v1/check", "/v1/check/hashes", "/v1/hash", "/v1/rescans", "/v1/banks/{bank}/contents"):
        assert document["paths"][path]["post"]["requestBody"]["content"]


def test_the_docs_page_is_one(admin: Api) -> None:
    answer = admin.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert b"/openapi.json" in answer.body


def test_a_browser_may_show_its_key_as_a_password(local: Local) -> None:
    import base64

    for user in ("", "anyone"):
        basic = base64.b64encode(f"{user}:{local.keys['audit']}".encode()).decode()
        assert local.api(None).call("GET", "/metrics", headers={"Authorization": f"Basic {basic}"}).status == 200


# --- hostile ------------------------------------------------------------------------------

FUZZED = ["/v1/check", "/v1/check/hashes", "/v1/hash", "/v1/rescans", "/v1/banks/fuzz/contents"]
KINDS = ["application/json", "application/octet-stream", "multipart/form-data; boundary=b", "multipart/form-data",
         "", "image/png", "application/json; charset=utf-16", "multipart/mixed; boundary=b", ";;;", "\xff"]  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
WORDS = st.sampled_from(["signals", "signal_type", "hash", "quality", "timestamp_s", "url", "items", "banks", "case",
                         "labels", "pdq", "md5", "0" * 64, "0" * 32, "http://127.0.0.1:1/", "enabled"])  # fmt: skip
DOCUMENTS = st.recursive(
    SCALARS | WORDS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(), inner, max_size=5),
    max_leaves=12,
)  # fmt: skip


def never_500(answer: Answer) -> None:
    assert answer.status < 500 or answer.status == 502, answer.body
    if answer.status >= 400:
        assert answer.is_problem(answer.status, answer.json["code"])


@given(path=st.sampled_from(FUZZED), kind=st.sampled_from(KINDS), body=st.binary(max_size=600))
def test_random_bytes_are_answered(admin: Api, path: str, kind: str, body: bytes) -> None:
    never_500(admin.post(path, body, kind))


@given(path=st.sampled_from(FUZZED), document=st.dictionaries(WORDS, DOCUMENTS, max_size=5))
@settings(max_examples=120)
def test_random_documents_are_answered(admin: Api, path: str, document: dict[str, Any]) -> None:
    never_500(admin.post(path, json.dumps(document).encode(), "application/json"))


@given(method=st.sampled_from(["PUT", "PATCH"]), document=st.dictionaries(
    st.sampled_from(["description", "enabled", "policy", "signal_types"]), DOCUMENTS | st.text()))  # fmt: skip
def test_random_settings_of_a_bank_are_answered(admin: Api, method: str, document: dict[str, Any]) -> None:
    never_500(admin.call(method, "/v1/banks/fuzzed", json.dumps(document).encode(),
                         {"Content-Type": "application/json"}))  # fmt: skip


@given(pieces=st.lists(st.sampled_from([
    b"--b", b"--b--", b"\r\n", b"\n", b'Content-Disposition: form-data; name="media"', b": ", b"x" * 50, b"\x00",
    b'Content-Disposition: form-data; name="url"', b"http://127.0.0.1/", b'; filename*=utf-8\'\'%ff', b"-", b"\xff",
]), max_size=30))  # fmt: skip
def test_random_forms_are_answered(admin: Api, pieces: list[bytes]) -> None:
    never_500(admin.post("/v1/check", b"".join(pieces), "multipart/form-data; boundary=b"))


@given(name=st.text(min_size=1, max_size=40), tail=st.sampled_from(["", "/contents", "/contents/c_1"]),
       query=st.text(max_size=30))  # fmt: skip
def test_random_names_are_answered(admin: Api, name: str, tail: str, query: str) -> None:
    from urllib.parse import quote

    raw, asked = quote(name.encode("utf-8", "surrogatepass"), safe=""), quote(query.encode("utf-8", "surrogatepass"))
    never_500(admin.get(f"/v1/banks/{raw}{tail}?cursor={asked}&limit={asked}&{asked}"))


@given(data=st.data())
@settings(max_examples=40)
def test_damaged_pictures_are_answered(admin: Api, photo_jpeg: bytes, short_clip: bytes, data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([photo_jpeg, short_clip]))
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    answer = admin.post("/v1/check", bytes(damaged[: data.draw(st.integers(1, len(whole)))]))
    never_500(answer)
    if answer.status == 200:
        verdict(answer)
