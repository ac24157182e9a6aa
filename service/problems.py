"""Errors as RFC 9457 problem details. The only file that knows status codes of errors."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from hashing.errors import StaydownError, UnhashableMedia
from service.errors import TooManyRequests
from service.schemas import where

STATUS = {
    "unsupported_media": 415,
    "corrupt_media": 422,
    "media_too_large": 413,
    "invalid_hash": 422,
    "unknown_bank": 404,
    "unknown_content": 404,
    "unknown_rescan": 404,
    "unknown_key": 404,
    "bank_exists": 409,
    "idempotency_conflict": 409,
    "invalid_bank": 422,
    "invalid_manifest": 422,
    "nothing_to_enroll": 422,
    "invalid_companion": 422,
    "invalid_source": 422,
    "not_approved": 409,
    "own_proposal": 403,
    "nothing_to_approve": 404,
    "index_not_ready": 503,
    "search_unavailable": 503,
    "too_many_hits": 503,
    "store_broken": 503,
    "sandbox_missing": 503,
    "key_file_broken": 503,
    "key_missing": 503,
    "invalid_request": 422,
    "unauthenticated": 401,
    "forbidden": 403,
    "too_many_requests": 429,
    "quota_used_up": 429,
    "probing_suspected": 429,
    "deadline_exceeded": 503,
    "invalid_key": 422,
    "upload_timed_out": 408,
    "client_gone": 400,
    "link_refused": 422,
    "link_failed": 502,
    "not_found": 404,
    "method_not_allowed": 405,
    "internal_error": 500,
}
_HEADERS: dict[int, dict[str, str]] = {
    401: {"WWW-Authenticate": 'Bearer, Basic realm="staydown"'},
    429: {"Retry-After": "1"},
    503: {"Retry-After": "2"},
}
MEDIA_TYPE = "application/problem+json"


def problem(
    request: Request, code: str, detail: str, status: int | None = None, headers: Mapping[str, str] | None = None,
    **more: Any,
) -> JSONResponse:  # fmt: skip
    """Return one error as its HTTP answer."""
    number = status or STATUS[code]
    request.state.code = code
    body = {
        "type": f"urn:staydown:error:{code}",
        "title": HTTPStatus(number).phrase,
        "status": number,
        "detail": detail,
        "code": code,
        "request_id": request.state.request_id,
    }
    return JSONResponse(body | more, number, _HEADERS.get(number, {}) | dict(headers or {}), MEDIA_TYPE)


def known(request: Request, error: StaydownError) -> JSONResponse:
    """Return the answer to an error of ours."""
    status = 422 if isinstance(error, UnhashableMedia) else None
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, TooManyRequests) else None
    return problem(request, error.word, str(error), status, headers)


async def _on_staydown(request: Request, error: Exception) -> JSONResponse:
    return known(request, error if isinstance(error, StaydownError) else StaydownError())


async def _on_validation(request: Request, error: Exception) -> JSONResponse:
    """Say where and why, but never repeat the input: it may hold a hash or media."""
    found = error.errors() if isinstance(error, RequestValidationError) else []
    errors = [{"where": where(e["loc"]), "what": e["msg"]} for e in found]
    return problem(request, "invalid_request", "the request is not of the form that this route takes", errors=errors)


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "invalid_request")
    return problem(request, code, HTTPStatus(status).phrase, status, headers)


def internal(request: Request) -> JSONResponse:
    """Return the answer to what nobody foresaw."""
    return problem(request, "internal_error", "something went wrong here; the log has it under the request id")


def install(app: FastAPI) -> None:
    """Make every error of the app a problem."""
    app.add_exception_handler(StaydownError, _on_staydown)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
