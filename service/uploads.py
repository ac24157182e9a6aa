"""Request bodies, counted as they arrive and kept in memory only.

The framework's own multipart parser spools files above 1 MiB to a temporary file, so it
is never used: python-multipart's push parser is fed here, and a part becomes bytes.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from hashing.errors import MediaTooLarge
from service.errors import ClientGone, InvalidRequest, UploadTimedOut

MEDIA_FIELD, LAWFUL_FIELD, URL_FIELD = "media", "lawful", "url"
MAX_JSON_BYTES = 32 * 1024 * 1024
_MAX_FIELDS, _MAX_FIELD_BYTES, _MAX_HEADER_BYTES = 64, 64 * 1024, 8 * 1024


@dataclass(slots=True)
class Upload:
    """What a request carries: media's bytes, or a JSON object, and what stands beside: lawful media, text fields."""

    media: bytes | None = None
    document: dict[str, Any] | None = None
    fields: dict[str, list[str]] = field(default_factory=dict)
    lawful: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class _Part:
    name: str = ""
    data: bytearray = field(default_factory=bytearray)


class _Form:
    """Collects the parts of a multipart body."""

    def __init__(self, boundary: bytes) -> None:
        self.parts: list[_Part] = []
        self.ended = False
        self._header, self._value = bytearray(), bytearray()
        self.parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._grow(self._header, data[start:end]),
                "on_header_value": lambda data, start, end: self._grow(self._value, data[start:end]),
                "on_header_end": self._header_done,
                "on_part_data": self._data,
                "on_end": self._end,
            },
        )

    def _begin(self) -> None:
        if len(self.parts) >= _MAX_FIELDS:
            raise InvalidRequest("the form has too many fields")
        self.parts.append(_Part())

    def _grow(self, buffer: bytearray, data: bytes) -> None:
        buffer += data
        if len(buffer) > _MAX_HEADER_BYTES:
            raise InvalidRequest("a header of the form is too long")

    def _header_done(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self.parts[-1].name = options.get(b"name", b"").decode("utf-8", "replace")
        self._header, self._value = bytearray(), bytearray()

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = self.parts[-1]
        part.data += data[start:end]
        if part.name not in {MEDIA_FIELD, LAWFUL_FIELD} and len(part.data) > _MAX_FIELD_BYTES:
            raise InvalidRequest(f"the field {MEDIA_FIELD!r} carries the media; another one is too long")

    def _end(self) -> None:
        self.ended = True

    def upload(self) -> Upload:
        """Return what the form carries; InvalidRequest unless it is whole and carries media or a link, once."""
        if not self.ended:
            raise InvalidRequest("the form has no end")
        sources = [part.name for part in self.parts if part.name in {MEDIA_FIELD, URL_FIELD}]
        if len(sources) != 1:
            raise InvalidRequest(f"the form has to have one field {MEDIA_FIELD!r}, or one field {URL_FIELD!r}")
        found = Upload()
        for part in self.parts:
            if part.name == MEDIA_FIELD:
                found.media = bytes(part.data)
            elif part.name == LAWFUL_FIELD:
                found.lawful.append(bytes(part.data))
            else:
                found.fields.setdefault(part.name, []).append(part.data.decode("utf-8", "replace"))
        return found


async def _feed(request: Request, max_bytes: int, take: Callable[[bytes], object]) -> None:
    """Hand over the body as it arrives; MediaTooLarge, UploadTimedOut, ClientGone."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise MediaTooLarge
    count = 0
    try:
        with anyio.fail_after(request.app.state.settings.upload_timeout_s):
            async for chunk in request.stream():
                count += len(chunk)
                if count > max_bytes:
                    raise MediaTooLarge
                take(chunk)
    except TimeoutError as error:
        raise UploadTimedOut from error
    except ClientDisconnect as error:
        raise ClientGone from error


async def _read_form(request: Request, boundary: bytes | None, max_bytes: int) -> Upload:
    if not boundary:
        raise InvalidRequest("the form has no boundary")
    try:
        form = _Form(boundary)
        await _feed(request, max_bytes, form.parser.write)
        form.parser.finalize()
    except FormParserError as error:
        raise InvalidRequest("the form cannot be read") from error
    return form.upload()


def _read_json(body: bytes) -> Upload:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("the body is not JSON") from error
    if not isinstance(document, dict):
        raise InvalidRequest("the body is not a JSON object")
    return Upload(document=document)


async def read_upload(request: Request, max_bytes: int) -> Upload:
    """Read a request's body; MediaTooLarge, InvalidRequest.

    multipart/form-data and application/json are what they say; any other type, or none,
    is the media itself: what it is, its bytes tell.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind == b"multipart/form-data":
        return await _read_form(request, options.get(b"boundary"), max_bytes)
    is_json, body = kind == b"application/json", bytearray()
    await _feed(request, min(max_bytes, MAX_JSON_BYTES) if is_json else max_bytes, body.extend)
    return _read_json(bytes(body)) if is_json else Upload(media=bytes(body))
