"""Metrics: what is counted, and that labels cannot be made by those who ask."""

import re
from pathlib import Path

from serving import Api, Local


def value(text: str, line: str) -> float:
    found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_requests_verdicts_and_errors_are_counted(tmp_path: Path, photo_jpeg: bytes) -> None:
    with Local(tmp_path) as running:
        api = running.api()
        bank = api.bank()
        api.post(f"/v1/banks/{bank}/contents", photo_jpeg)
        api.post("/v1/check", photo_jpeg)
        api.post("/v1/check", b"")
        api.get("/v1/banks/none")
        text = api.get("/metrics").body.decode()
    assert value(text, 'staydown_requests_total{method="POST",route="/v1/check",status="200"}') == 1
    assert value(text, 'staydown_requests_total{method="POST",route="/v1/check",status="415"}') == 1
    assert value(text, 'staydown_requests_total{method="GET",route="/v1/banks/{bank}",status="404"}') == 1
    assert value(text, 'staydown_verdicts_total{reason="",verdict="match"}') == 1
    assert value(text, 'staydown_errors_total{code="unsupported_media"}') == 1
    assert value(text, 'staydown_request_seconds_count{route="/v1/check"}') == 2
    assert value(text, 'staydown_index_hashes{signal_type="pdq"}') >= 1
    assert value(text, "staydown_index_revision") == 2
    assert value(text, "staydown_media_in_flight") == 0


def test_whatever_is_asked_the_labels_stay_the_same(local: Local, admin: Api) -> None:
    def series() -> set[str]:
        return {line.rpartition(" ")[0] for line in admin.get("/metrics").body.decode().splitlines() if line[0] != "#"}

    def ask(word: str) -> None:
        for path in (f"/{word}", f"/v1/banks/{word}", f"/v1/check?bank={word}", f"/health/live?{word}"):
            admin.get(path)
            admin.with_key(word).get(path)
        for method in ("PROPFIND", "M-SEARCH", "LOCK", "TRACE"):
            admin.call(method, f"/{word}")

    ask("warm")
    series()
    before = series()
    for number in range(20):
        ask(f"word{number}")
    assert series() == before
    assert not any("word" in line or "PROPFIND" in line for line in before)


def test_it_is_the_exposition_format(admin: Api) -> None:
    answer = admin.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in answer.body.decode().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[a-z_]+(\{.*\})? [-+.e\d]+", line)
