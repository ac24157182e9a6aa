"""The branch of the error tree that requests and links can cause.

StaydownError (hashing.errors)
└── ServiceError
    ├── InvalidRequest         invalid_request
    ├── Unauthenticated        unauthenticated
    ├── Forbidden              forbidden
    ├── TooManyRequests        too_many_requests
    │   ├── QuotaUsedUp        quota_used_up
    │   └── ProbingSuspected   probing_suspected
    ├── DeadlineExceeded       deadline_exceeded
    ├── UploadTimedOut         upload_timed_out
    ├── ClientGone             client_gone
    ├── IdempotencyConflict    idempotency_conflict
    ├── UnknownRescan          unknown_rescan
    ├── LinkRefused            link_refused
    ├── LinkFailed             link_failed
    └── InvalidSettings        invalid_settings
"""

from hashing.errors import StaydownError


class ServiceError(StaydownError):
    """The request cannot be answered."""

    code = "service_error"


class InvalidRequest(ServiceError):
    """The request is not of the form that this route takes."""

    code = "invalid_request"


class Unauthenticated(ServiceError):
    """A valid key is needed: Authorization: Bearer KEY."""

    code = "unauthenticated"


class Forbidden(ServiceError):
    """The role of this key does not allow this."""

    code = "forbidden"


class TooManyRequests(ServiceError):
    """More is under way than this server takes at a time; try again in a moment."""

    code = "too_many_requests"

    def __init__(self, message: str | None = None, *, retry_after_s: int = 1) -> None:
        super().__init__(*([message] if message is not None else []))
        self.retry_after_s = retry_after_s


class QuotaUsedUp(TooManyRequests):
    """This tenant's requests of the day are used up."""

    code = "quota_used_up"


class ProbingSuspected(TooManyRequests):
    """This key is stopped: so much was asked along the edge of known content that its hash could be learned."""

    code = "probing_suspected"


class DeadlineExceeded(ServiceError):
    """The answer took longer than this server waits for one."""

    code = "deadline_exceeded"


class UploadTimedOut(ServiceError):
    """The body did not arrive in time."""

    code = "upload_timed_out"


class ClientGone(ServiceError):
    """The client went away before its request was complete."""

    code = "client_gone"


class IdempotencyConflict(ServiceError):
    """This Idempotency-Key came with another request before."""

    code = "idempotency_conflict"


class UnknownRescan(ServiceError):
    """There is no rescan with this id."""

    code = "unknown_rescan"


class LinkRefused(ServiceError):
    """The link leads where staydown does not go: not public, not HTTP, or switched off."""

    code = "link_refused"


class LinkFailed(ServiceError):
    """The link could not be fetched."""

    code = "link_failed"


class InvalidSettings(ServiceError):
    """A setting cannot be used."""

    code = "invalid_settings"
