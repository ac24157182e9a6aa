"""Bodies, read piece by piece: whatever the pieces, the same upload."""

import itertools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st
from serving import form

from hashing.errors import MediaTooLarge
from service.errors import ClientGone, InvalidRequest, UploadTimedOut
from service.uploads import Upload, read_upload


def request(pieces: Sequence[bytes], kind: str, *, gone: bool = False, pause_s: float = 0, **headers: str) -> Request:
    """Return a request whose body arrives in these pieces; one that pauses has a fifth of a second."""
    timeout_s = 0.2 if pause_s else 60.0  # a busy machine is no slow client
    app = SimpleNamespace(state=SimpleNamespace(settings=SimpleNamespace(upload_timeout_s=timeout_s)))
    given = [(b"content-type", kind.encode("latin-1"))]
    given += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    left = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    left.append({"type": "http.disconnect"} if gone else {"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Any:
        await anyio.sleep(pause_s)
        return left.pop(0)

    return Request({"type": "http", "method": "POST", "headers": given, "app": app, "query_string": b""}, receive)


def read(pieces: Sequence[bytes], kind: str = "", max_bytes: int = 10_000, **more: Any) -> Upload:
    return anyio.run(read_upload, request(pieces, kind, **more), max_bytes)


def split(data: bytes, at: Sequence[int]) -> list[bytes]:
    cuts = [0, *sorted(cut % (len(data) + 1) for cut in at), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(cuts)]


@given(media=st.binary(max_size=300), case=st.text(max_size=20), at=st.lists(st.integers(0, 2000), max_size=12))
def test_a_form_is_the_same_however_it_is_cut(media: bytes, case: str, at: list[int]) -> None:
    value = case.encode("utf-8", "replace").decode()
    body, kind = form([("case", value, None), ("media", media, "x.jpg"), ("labels", "a", None), ("labels", "b", None)],
                      boundary="0123456789abcdef0123456789abcdef")  # fmt: skip
    found = read(split(body, at), kind)
    assert found.media == media
    assert found.fields == {"case": [value], "labels": ["a", "b"]}
    assert found.document is None


@given(media=st.binary(max_size=200), at=st.lists(st.integers(0, 2000), max_size=6))
def test_a_raw_body_is_the_same_however_it_is_cut(media: bytes, at: list[int]) -> None:
    for kind in ("", "image/jpeg", "application/x-www-form-urlencoded", "text/plain", "application/octet-stream; x"):
        assert read(split(media, at), kind) == Upload(media=media)


@pytest.mark.parametrize("kind", ["application/json", "APPLICATION/JSON", "application/json; charset=utf-8",
                                  " application/json "])  # fmt: skip
def test_json_is_an_object(kind: str) -> None:
    assert read([b'{"url"', b': "x"}'], kind) == Upload(document={"url": "x"})
    assert read(['{"url": "ü"}'.encode("utf-16")], kind) == Upload(document={"url": "ü"})


@pytest.mark.parametrize("kind", ["", "application/json", "multipart/form-data; boundary=b"])
def test_the_limit_is_counted_and_announced(kind: str) -> None:
    with pytest.raises(MediaTooLarge):
        read([b"--b\r\n\r\n" + b"x" * 6_000, b"x" * 4_001], kind)
    with pytest.raises(MediaTooLarge):
        read([], kind, content_length="10001")
    for odd in ("", "x", "-1", "²"):
        assert read([b"x"], "", content_length=odd).media == b"x"


@pytest.mark.parametrize("kind", ["", "application/json", "multipart/form-data; boundary=b"])
def test_a_client_that_goes_away_is_no_error_of_ours(kind: str) -> None:
    with pytest.raises(ClientGone):
        read([b"--b"], kind, gone=True)


@pytest.mark.parametrize("kind", ["", "application/json", "multipart/form-data; boundary=b"])
def test_a_body_has_to_arrive_in_time(kind: str) -> None:
    with pytest.raises(UploadTimedOut):
        read([b"-", b"-", b"b", b"\r", b"\n", b"x"], kind, pause_s=0.05)


def test_the_part_of_media_may_be_as_long_as_it_likes_and_others_not() -> None:
    body, kind = form([("media", b"x" * 200_000, None)])
    assert len(read([body], kind, max_bytes=300_000).media or b"") == 200_000
    for name in ("Media", "case", ""):
        body, kind = form([(name, b"x" * 200_000, None)])
        with pytest.raises(InvalidRequest):
            read([body], kind, max_bytes=300_000)


def test_a_header_in_any_case_and_a_quoted_boundary() -> None:
    head = b'CONTENT-DISPOSITION: form-data; NAME="media"; filename="\xff\\".jpg"'
    body = b"--a b\r\n" + head + b"\r\n\r\nxyz\r\n--a b--\r\n"
    assert read([body], 'multipart/form-data; boundary="a b"').media == b"xyz"
