"""Every error of the contract, reached over HTTP: its status, its code, its shape."""

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Api, Local, form, wait_until

import hashing.errors
import indexer.errors
import indexer.keys
import indexer.ledger
import service.errors
from benchmarks import corpus
from hashing.errors import StaydownError, UnhashableMedia
from service.app import create_app
from service.keyring import KNOWN_S
from service.problems import STATUS
from service.settings import Settings

ROOT = Path(__file__).parent.parent
HASH = "f8f8f0cee0f4a84f06370a22038f63f0b36e2ed596621e1d33e6b39c4e9c9b22"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """A server that takes little: one request at a time, 100 kB, uploads of two seconds."""
    limits = {"max_in_flight": 1, "max_body_bytes": 100_000, "upload_timeout_s": 2.0}
    with Local(tmp_path_factory.mktemp("small"), limits) as running:
        yield running


def classes(root: type[StaydownError]) -> set[type[StaydownError]]:
    return {root}.union(*(classes(child) for child in root.__subclasses__()))


# --- the tables ---------------------------------------------------------------------------


BRANCHES = {"error", "media_error", "indexer_error", "service_error"}


def test_every_error_has_a_status_or_is_a_branch_of_the_tree() -> None:
    at_start = {
        "invalid_settings",
        "invalid_backup",
        "backup_exists",
        "store_not_empty",
        "withdrawals_unknown",
        "not_signed",
    }  # never while a request is answered
    by_reason = {UnhashableMedia.code}
    for error in classes(StaydownError):
        assert error.code in STATUS.keys() | BRANCHES | at_start | by_reason, error


def test_every_status_is_of_an_error_or_of_the_framework() -> None:
    framework = {"not_found", "method_not_allowed", "internal_error"}
    assert set(STATUS) == {error.code for error in classes(StaydownError)} & set(STATUS) | framework


@pytest.mark.parametrize("module", [hashing.errors, indexer.errors, service.errors])
def test_the_drawing_of_the_tree_shows_every_class(module: object) -> None:
    drawing = str(module.__doc__)
    for error in classes(StaydownError):
        if error.__module__ == module.__name__:  # type: ignore[attr-defined]
            assert re.search(rf"\b{error.__name__}\b", drawing), error
            assert error.code in drawing or error.code in BRANCHES or error is UnhashableMedia


def test_a_message_is_the_docstring_unless_another_is_given() -> None:
    assert str(service.errors.LinkRefused()).startswith("The link leads where staydown does not go")
    assert str(service.errors.LinkRefused("no")) == "no"


# --- media --------------------------------------------------------------------------------

NO_MEDIA = {
    "empty": b"",
    "garbage": bytes(range(256)) * 4,
    "text": b"hello, this is no picture",
    "sdp": b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video 5004 RTP/AVP 96\r\n",
    "m3u8": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n",
    "html": b"<!doctype html><img src=x>",
    "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "pdf": b"%PDF-1.7\n",
    "zip": b"PK\x03\x04" + bytes(100),
    "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
}


@pytest.mark.parametrize("name", NO_MEDIA)
@pytest.mark.parametrize("path", ["/v1/check", "/v1/hash"])
def test_what_is_no_media_is_unsupported(admin: Api, path: str, name: str) -> None:
    assert admin.post(path, NO_MEDIA[name]).is_problem(415, "unsupported_media")
    assert admin.post_form(path, ("media", NO_MEDIA[name], "a.mp4")).is_problem(415, "unsupported_media")


def test_what_is_no_media_is_not_enrolled(admin: Api) -> None:
    bank = admin.bank()
    assert admin.post(f"/v1/banks/{bank}/contents", NO_MEDIA["html"]).is_problem(415, "unsupported_media")
    assert admin.get(f"/v1/banks/{bank}").json["contents"] == 0


BROKEN = {
    "jpeg": b"\xff\xd8\xff\xe0" + b"\x00" * 64,
    "png": b"\x89PNG\r\n\x1a\n" + b"\x01" * 64,
    "mp4": b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" + b"\x00" * 64,
    "webm": b"\x1aE\xdf\xa3" + b"\xff" * 64,
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_only_begins_like_media_is_corrupt(admin: Api, name: str) -> None:
    assert admin.post("/v1/check", BROKEN[name]).is_problem(422, "corrupt_media")


def test_a_body_that_announces_too_much_is_refused_before_it_is_sent(small: Local) -> None:
    head = (
        f"POST /v1/check HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {small.keys['check']}\r\n"
        "Content-Length: 100001\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", small.port), timeout=10) as connection:
        connection.sendall(head.encode())
        answered = b"".join(iter(lambda: connection.recv(65536), b""))  # while not one byte of the body was sent
    assert answered.startswith(b"HTTP/1.1 413")
    assert b'"media_too_large"' in answered


def test_a_client_that_waits_for_100_continue_is_refused_without_its_body(small: Local) -> None:
    head = (
        f"POST /v1/check HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {small.keys['check']}\r\n"
        "Content-Length: 100001\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    answered = small.api().send_raw(head.encode())
    assert answered.startswith(b"HTTP/1.1 413")


def test_a_client_that_waits_for_100_continue_is_told_to_go_on(small: Local, photo_jpeg: bytes) -> None:
    head = (
        f"POST /v1/check HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {small.keys['check']}\r\n"
        f"Content-Length: {len(photo_jpeg)}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", small.port), timeout=30) as connection:
        connection.sendall(head.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 100")
        connection.sendall(photo_jpeg)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_chunked_body_is_counted_as_it_arrives(small: Local) -> None:
    answer = small.api("check").post("/v1/check", iter([b"x" * 50_000, b"x" * 50_000, b"x"]))
    assert answer.is_problem(413, "media_too_large")


@pytest.mark.parametrize("field", ["media", "other"])
def test_a_field_of_a_form_is_counted_too(small: Local, field: str) -> None:
    answer = small.api("check").post_form("/v1/check", (field, b"x" * 100_001, "a.png"))
    assert answer.is_problem(413, "media_too_large")


def test_a_body_of_just_the_limit_is_read(small: Local) -> None:
    assert small.api("check").post("/v1/check", b"x" * 100_000).is_problem(415, "unsupported_media")


def test_json_has_a_smaller_limit_than_media(admin: Api) -> None:
    head = (
        f"POST /v1/check HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {admin.key}\r\n"
        "Content-Type: application/json\r\nContent-Length: 33554433\r\nConnection: close\r\n\r\n"
    )
    assert b'"media_too_large"' in admin.send_raw(head.encode())


# --- keys ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        None, "", "Bearer", "Bearer ", "Bearer x", "Bearer sd_", "Bearer sd__", "Bearer sd_1_2", "Basic", "Basic !!!",
        "Basic c2Q=", "Basic Og==", "Token x", "Bearer \xe9", "Basic //8=", "Basic AAA=", "bearer  ", "Bearer a b c",
        "Bearer " + "x" * 7000,
    ],
)  # fmt: skip
def test_without_a_valid_key_nothing_is_answered(admin: Api, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = admin.with_key(None).call("POST", "/v1/check", b"x", headers)
    assert answer.is_problem(401, "unauthenticated")
    assert "Bearer" in answer.headers["www-authenticate"]


def test_a_key_with_one_character_changed_is_none(local: Local, admin: Api) -> None:
    key = local.keys["admin"]
    for wrong in (key[:-1] + ("A" if key[-1] != "A" else "B"), key + "A", key[:-1], key.upper(), key[3:]):
        assert admin.with_key(wrong).get("/v1/banks").is_problem(401, "unauthenticated")


def test_a_revoked_key_is_none_within_seconds(local: Local, admin: Api) -> None:
    key, text = local.engine.keys.create("admin", actor="test")
    assert admin.with_key(text).get("/v1/banks").status == 200
    local.engine.keys.revoke(key.key_id, actor="test")
    time.sleep(KNOWN_S)
    assert admin.with_key(text).get("/v1/banks").is_problem(401, "unauthenticated")


def test_a_key_of_a_lesser_role_is_forbidden(local: Local) -> None:
    assert local.api("check").get("/v1/banks").is_problem(403, "forbidden")


# --- routes and names ---------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/", "/v2/check", "/v1/check/", "/v1/banks/", "/v1/banks/a/b", "/%00",
                                  "/v1/banks/a%2Fb/c", "/..%2f..%2fetc/passwd", "/%C3%BC"])  # fmt: skip
def test_an_unknown_route_is_not_found(admin: Api, path: str) -> None:
    assert admin.get(path).is_problem(404, "not_found")
    assert admin.with_key(None).get(path).is_problem(404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/check"), ("PUT", "/v1/check"), ("POST", "/v1/banks"), ("DELETE", "/v1/banks"), ("TRACE", "/v1/hash"),
     ("POST", "/health/live"), ("OPTIONS", "/v1/check"), ("PUT", "/v1/banks/a/contents")],
)  # fmt: skip
def test_a_method_that_a_route_does_not_have(admin: Api, method: str, path: str) -> None:
    answer = admin.call(method, path)
    assert answer.is_problem(405, "method_not_allowed")
    assert answer.headers["allow"]


def test_an_error_to_head_has_no_body(admin: Api) -> None:
    answer = admin.call("HEAD", "/v1/banks")
    assert (answer.status, answer.body) == (405, b"")


@pytest.mark.parametrize("bank", ["none", "%20", "..", "x" * 3000, "a%2e", "%F0%9F%92%A9", "%ff", "'%20OR%201=1--"])
def test_a_bank_that_there_is_not(admin: Api, bank: str) -> None:
    for method, path in [("GET", ""), ("DELETE", ""), ("GET", "/contents"), ("GET", "/contents/c"),
                         ("DELETE", "/contents/c")]:  # fmt: skip
        assert admin.call(method, f"/v1/banks/{bank}{path}").is_problem(404, "unknown_bank")
    assert admin.call("PATCH", f"/v1/banks/{bank}", {}).is_problem(404, "unknown_bank")
    assert admin.post(f"/v1/banks/{bank}/contents", b"x").is_problem(404, "unknown_bank")


@pytest.mark.parametrize("bank", ["none", "", "%00", "%ff"])
def test_a_check_against_a_bank_that_there_is_not(admin: Api, photo_jpeg: bytes, bank: str) -> None:
    assert admin.post(f"/v1/check?bank={bank}", photo_jpeg).is_problem(404, "unknown_bank")
    known = admin.bank()
    body = {"signals": [{"signal_type": "pdq", "hash": HASH}]}
    assert admin.post(f"/v1/check/hashes?bank={known}&bank={bank}", body).is_problem(404, "unknown_bank")


def test_a_content_that_there_is_not(admin: Api) -> None:
    bank = admin.bank()
    for content in ("c_0", "%20", "x" * 2000, "%ff"):
        path = f"/v1/banks/{bank}/contents/{content}"
        assert admin.get(path).is_problem(404, "unknown_content")
        assert admin.call("PATCH", path, {"enabled": False}).is_problem(404, "unknown_content")
        assert admin.call("DELETE", path).is_problem(404, "unknown_content")


def test_a_rescan_that_there_is_not(admin: Api) -> None:
    assert admin.get("/v1/rescans/r_0").is_problem(404, "unknown_rescan")


# --- what is asked ------------------------------------------------------------------------

NO_JSON = [b"", b"{", b"[]", b'"x"', b"null", b"1", b"\xff\xfe", b'{"signals": NaN}x', b"[" * 200_000,
           b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b'{"a": 1' + b"0" * 5000 + b"}", b"\x00"]  # fmt: skip


@pytest.mark.parametrize("body", NO_JSON, ids=lambda body: repr(body[:12]))
@pytest.mark.parametrize("path", ["/v1/check", "/v1/check/hashes", "/v1/rescans"])
def test_a_body_that_is_no_json_object(admin: Api, path: str, body: bytes) -> None:
    assert admin.post(path, body, "application/json").is_problem(422, "invalid_request")


def signals(**change: object) -> dict[str, object]:
    return {"signals": [{"signal_type": "pdq", "hash": HASH} | change]}


WRONG_SIGNALS = {
    "no signals": {},
    "none": {"signals": []},
    "no list": {"signals": {}},
    "null": {"signals": None},
    "extra": signals() | {"banks": ["x"]},
    "extra inside": signals(distance=31),
    "no type": {"signals": [{"hash": HASH}]},
    "other type": signals(signal_type="ssdeep"),
    "upper type": signals(signal_type="PDQ"),
    "short": signals(hash=HASH[:-2]),
    "long": signals(hash=HASH + "00"),
    "no hex": signals(hash="g" * 64),
    "unicode digits": signals(hash="１" * 64),
    "0x": signals(hash="0x" + HASH[:62]),
    "number": signals(hash=1),
    "md5 of 64": signals(signal_type="md5"),
    "quality 101": signals(quality=101),
    "quality -1": signals(quality=-1),
    "quality 1e3": signals(quality=10**30),
    "quality half": signals(quality=0.5),
    "time -1": signals(timestamp_s=-1),
    "time nan": signals(timestamp_s=float("nan")),
    "time inf": signals(timestamp_s=float("inf")),
    "time 1e308": signals(timestamp_s=1e308),
    "time huge": signals(timestamp_s=10**400),
    "profile": signals(profile="other/1"),
    "profile of another type": signals(profile="imagehash-phash16/1"),
    "profile of an exact type": {"signals": [{"signal_type": "sha256", "hash": HASH, "profile": HASH}]},
    "view": signals(view="left"),
    "surrogate": signals(profile="\ud800"),
}


@pytest.mark.parametrize("name", WRONG_SIGNALS)
def test_hashes_that_are_not_of_the_form(admin: Api, name: str) -> None:
    answer = admin.post("/v1/check/hashes", WRONG_SIGNALS[name])
    assert answer.is_problem(422, answer.json["code"])
    assert answer.json["code"] in {"invalid_request", "invalid_hash"}


def test_what_is_wrong_is_never_repeated(admin: Api) -> None:
    secret = "deadbeef" * 8
    wrong = [
        signals(hash=secret + "zz"), signals(profile=secret), signals(signal_type=secret), signals(view=secret),
        signals(**{secret: 1}), {secret: []}, signals(hash=secret[:30]), signals(hash=secret + secret),
        {"signals": [secret]}, {"signals": secret}, signals(quality=secret), signals(timestamp_s=secret),
        {"signals": [{"signal_type": "md5", "hash": secret}]},
    ]  # fmt: skip
    for body in wrong:
        answer = admin.post("/v1/check/hashes", body)
        assert answer.status == 422
        assert b"deadbeef" not in answer.body
    for path in (f"/v1/banks?limit={secret}", f"/v1/banks/x/contents?limit={secret}", f"/v1/hash?type={secret}",
                 f"/v1/banks/{secret}", f"/v1/rescans/{secret}?cursor={secret}", f"/{secret}"):  # fmt: skip
        assert b"deadbeef" not in admin.get(path).body
    assert b"deadbeef" not in admin.post("/v1/check", {"url": f"ftp://{secret}/"}).body
    assert b"deadbeef" not in admin.post("/v1/check", {"url": f"http://[{secret}]/"}).body


WRONG_FORMS = {
    "no boundary": (b"x", "multipart/form-data"),
    "empty boundary": (b"x", "multipart/form-data; boundary="),
    "another boundary": (form([("media", b"x", "a")])[0], "multipart/form-data; boundary=other"),
    "no form at all": (b"\x00" * 100, "multipart/form-data; boundary=bound"),
    "nothing": (b"", "multipart/form-data; boundary=bound"),
    "no media": form([("file", b"x", "a.png")]),
    "two media": form([("media", b"x", "a.png"), ("media", b"y", "b.png")]),
    "media and url": form([("media", b"x", "a.png"), ("url", "http://example.org/", None)]),
    "cut off": (form([("media", b"x" * 500, "a.png")])[0][:300], "multipart/form-data; boundary=bound"),
    "no end": (form([("media", b"x" * 500, "a.png")])[0][:-6], "multipart/form-data; boundary=bound"),
    "many fields": form([("a", "b", None)] * 65),
    "long field": form([("case", "x" * 70_000, None), ("media", b"x", "a.png")]),
    "long header": form([("media", b"x", "a" * 9000)]),
    "no name": (b"--bound\r\n\r\nx\r\n--bound--\r\n", "multipart/form-data; boundary=bound"),
}


@pytest.mark.parametrize("name", WRONG_FORMS)
def test_forms_that_are_not_of_the_form(admin: Api, name: str) -> None:
    body, kind = WRONG_FORMS[name]
    assert admin.post("/v1/check", body, kind).is_problem(422, "invalid_request")


def test_what_a_bank_and_a_content_cannot_be(admin: Api, photo_jpeg: bytes) -> None:
    bank = admin.bank()
    wrong = [
        {"policy": "lax"}, {"enabled": 7}, {"enabled_ratio": 7.0}, {"signal_types": []}, {"signal_types": ["x"]},
        {"description": "\x00"}, {"description": "\ud800"}, {"description": "x" * 4097}, {"name": "y"},
        {"enabled": "2"},
    ]  # fmt: skip
    for body in wrong:
        assert admin.call("PATCH", f"/v1/banks/{bank}", body).is_problem(422, "invalid_request")
        assert admin.call("PUT", f"/v1/banks/{bank}", body).is_problem(422, "invalid_request")
    for body in ({"labels": ["\x00"]}, {"labels": "x"}, {"labels": ["x"] * 65}, {"case": "\x00"}, {"case": 1},
                 {"url": "http://example.org/", **signals()}, {}, {"url": None}, {"url": ""}):  # fmt: skip
        assert admin.post(f"/v1/banks/{bank}/contents", body).is_problem(422, "invalid_request")
    for path in ("?labels=%00", "?case=%00", f"?case={'x' * 1025}", f"?label={'x' * 257}"):
        answer = admin.post(f"/v1/banks/{bank}/contents{path}", photo_jpeg)
        assert answer.is_problem(422, "invalid_request")
    assert admin.get(f"/v1/banks/{bank}").json["contents"] == 0


@pytest.mark.parametrize("name", [".hidden", "a%20b", "%C3%A9", "x" * 129, "%2e%2e", "a%0a", "a'"])
def test_a_bank_is_not_called_so(admin: Api, name: str) -> None:
    assert admin.call("PUT", f"/v1/banks/{name}").is_problem(422, "invalid_bank")


@pytest.mark.parametrize("path", ["/v1/banks/%00", "/v1/banks/a%00b/contents"])
def test_no_name_holds_a_nul(admin: Api, path: str) -> None:
    assert admin.get(path).is_problem(422, "invalid_request")


def test_settings_in_another_form_than_json_are_not_overheard(admin: Api) -> None:
    answer = admin.call("PUT", "/v1/banks/form", b'{"policy": "strict"}', {"Content-Type": "text/plain"})
    assert answer.is_problem(422, "invalid_request")
    assert admin.get("/v1/banks/form").status == 404


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "limit=1e2", "cursor=x", "cursor=-1",
                                   "cursor=１", "cursor=²", "cursor=" + "9" * 30, "cursor=%00",
                                   "cursor=1%20"])  # fmt: skip
def test_a_page_that_there_is_not(admin: Api, query: str) -> None:
    bank = admin.bank()
    quoted = "".join(c if ord(c) < 128 else "".join(f"%{b:02X}" for b in c.encode()) for c in query)
    assert admin.get(f"/v1/banks/{bank}/contents?{quoted}").is_problem(422, "invalid_request")


def test_a_very_long_query_is_answered(admin: Api, photo_jpeg: bytes) -> None:
    assert admin.get("/v1/banks?x=" + "y" * 60_000).status in {200, 414, 400}
    many = "&".join(["bank=none"] * 5000)
    assert admin.post(f"/v1/check?{many}", photo_jpeg).is_problem(404, "unknown_bank")


def test_ready_hashes_that_a_bank_does_not_keep(admin: Api) -> None:
    bank = admin.bank()
    admin.call("PATCH", f"/v1/banks/{bank}", {"signal_types": ["md5"]})
    answer = admin.post(f"/v1/banks/{bank}/contents", signals())
    assert answer.is_problem(422, "nothing_to_enroll")


# --- too much at a time -------------------------------------------------------------------


class _Slow:
    """An upload that has begun and does not go on, until it is told to."""

    def __init__(self, api: Api, body: bytes) -> None:
        head = (
            f"POST /v1/check HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self._rest = body[1:]
        self.connection = socket.create_connection(("127.0.0.1", api.port), timeout=30)
        self.connection.sendall(head.encode() + body[:1])

    def go_on(self) -> bytes:
        self.connection.sendall(self._rest)
        return self.answer()

    def answer(self) -> bytes:
        with self.connection:
            return b"".join(iter(lambda: self.connection.recv(65536), b""))


def in_flight(local: Local) -> float:
    return float(local.app.state.metrics.in_flight._value.get())


def test_more_than_is_taken_at_a_time_is_told_to_come_back(small: Local, photo_jpeg: bytes) -> None:
    api = small.api("check")
    slow = _Slow(api, photo_jpeg)
    wait_until(lambda: in_flight(small) == 1)
    answers = [api.post("/v1/check", photo_jpeg) for _ in range(8)]
    for answer in answers:
        assert answer.is_problem(429, "too_many_requests")
        assert int(answer.headers["retry-after"]) >= 1
    hashes = small.api("lookup").post("/v1/check/hashes", signals())
    assert hashes.status == 200  # hashes do not queue behind media
    assert slow.go_on().startswith(b"HTTP/1.1 200")
    assert api.post("/v1/check", photo_jpeg).status == 200


def test_a_crowd_gets_answers_or_429_and_nothing_else(small: Local, photo_jpeg: bytes) -> None:
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(small.api("check").post("/v1/check", photo_jpeg).status))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {200, 429}
    assert statuses.count(200) >= 1
    assert len(statuses) == 16
    assert in_flight(small) == 0


def test_a_client_that_goes_away_gives_its_place_back(small: Local, photo_jpeg: bytes) -> None:
    for _ in range(3):
        slow = _Slow(small.api("check"), photo_jpeg)
        wait_until(lambda: in_flight(small) == 1)
        slow.connection.close()
        wait_until(lambda: in_flight(small) == 0)
    assert small.api("check").post("/v1/check", photo_jpeg).status == 200
    text = small.api("admin").get("/metrics").body.decode()
    assert 'staydown_errors_total{code="client_gone"} 3.0' in text
    assert 'status="500"' not in text


def test_a_client_that_never_goes_on_does_not_keep_its_place(small: Local, photo_jpeg: bytes) -> None:
    began = time.monotonic()
    answered = _Slow(small.api("check"), photo_jpeg).answer()
    assert answered.startswith(b"HTTP/1.1 408")
    assert b'"upload_timed_out"' in answered
    assert 1.5 < time.monotonic() - began < 10
    assert in_flight(small) == 0


# --- the server's own -----------------------------------------------------------------------


def test_while_the_index_is_loading_nothing_is_judged(
    local: Local, admin: Api, photo_jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local.engine.index, "refresh", lambda _: 0)  # else the watch says that it is ready
    time.sleep(0.1)  # for a look that began before
    local.engine.index.ready = False
    try:
        answers = [admin.post("/v1/check", photo_jpeg), admin.post("/v1/check/hashes", signals())]
        ready = admin.get("/health/ready")
        assert admin.get("/health/live").status == 200
    finally:
        local.engine.index.ready = True
    for answer in answers:
        assert answer.is_problem(503, "index_not_ready")
        assert int(answer.headers["retry-after"]) >= 1
    assert (ready.status, ready.json["status"]) == (503, "loading")


def test_what_nobody_foresaw_is_a_500_that_tells_nothing(tmp_path: Path) -> None:
    """Its message may hold what was asked: neither the answer nor the log has it."""
    script = """
import sys
from serving import Local
from pathlib import Path
with Local(Path(sys.argv[1])) as local:
    def fail(*_): raise RuntimeError("canary-4711")
    local.engine.matcher.match_all = fail
    answer = local.api().post("/v1/check/hashes", {"signals": [{"signal_type": "pdq", "hash": "0" * 64}]})
    assert answer.is_problem(500, "internal_error")
    sys.stdout.write(answer.body.decode())
    assert 'code="internal_error"' in local.api().get("/metrics").body.decode()
"""
    given = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=given, check=False)
    assert done.returncode == 0, done.stderr
    assert "internal_error" in done.stdout
    assert "RuntimeError" in done.stderr
    assert "Traceback" not in done.stderr
    assert "canary-4711" not in done.stdout + done.stderr


def test_a_store_that_is_gone_is_a_503(tmp_path: Path) -> None:
    with Local(tmp_path / "home") as running:
        api = running.api()
        running.engine.store.engine.dispose()
        (tmp_path / "home" / "staydown.db").rename(tmp_path / "gone")
        (tmp_path / "home" / "staydown.db").mkdir()
        answer = api.get("/v1/banks")
        assert answer.is_problem(503, "store_broken")
        (tmp_path / "home" / "staydown.db").rmdir()
        (tmp_path / "gone").rename(tmp_path / "home" / "staydown.db")
        assert api.get("/v1/banks").status == 200


def test_the_app_is_a_function_of_its_settings(tmp_path: Path) -> None:
    create_app(Settings(home=tmp_path / "untouched"))
    assert not (tmp_path / "untouched").exists()


def test_a_picture_with_no_hash_is_not_enrolled_and_says_why(tmp_path: Path) -> None:
    with Local(tmp_path, {"max_pixels": 10_000}) as running:
        bank = running.api().bank()
        picture = corpus.jpeg(corpus.picture(3, 320, 240), 80)
        answer = running.api().post(f"/v1/banks/{bank}/contents", picture)
        assert answer.is_problem(422, "too_many_pixels")
        checked = running.api().post("/v1/check", picture)
        assert (checked.status, checked.json["verdict"], checked.json["reason"]) == (
            200,
            "unhashable",
            "too_many_pixels",
        )
