"""The one error tree of staydown: its root, and the branch that media can cause.

    StaydownError
    ├── MediaError                    the bytes cannot be taken at all
    │   ├── UnsupportedMedia          unsupported_media
    │   ├── CorruptMedia              corrupt_media
    │   ├── MediaTooLarge             media_too_large
    │   └── UnhashableMedia           its `reason` is the code: too_many_pixels, truncated, …
    ├── InvalidHash                   invalid_hash
    ├── SandboxMissing                sandbox_missing
    └── (indexer.errors and service.errors grow the other branches)

`code` is one stable word, the same in the HTTP body, the log, the metric and the
JSONL line. The docstring of a class is its default message.
"""

from enum import StrEnum
from typing import ClassVar


class Reason(StrEnum):
    """Why media could not be judged, or only in part: never the same as "no match"."""

    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_MANY_FRAMES = "too_many_frames"
    TOO_LONG = "too_long"
    TRUNCATED = "truncated"
    FEATURELESS = "featureless"
    NO_VIDEO = "no_video"
    UNSUPPORTED_CODEC = "unsupported_codec"
    DECODER_CRASHED = "decoder_crashed"
    DECODER_TIMED_OUT = "decoder_timed_out"
    TOO_COSTLY = "too_costly"


class StaydownError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])

    @property
    def word(self) -> str:
        """The stable word for this error."""
        return self.code


class MediaError(StaydownError):
    """The media cannot be taken."""

    code = "media_error"


class UnsupportedMedia(MediaError):
    """The bytes are no picture or video of a kind that staydown reads."""

    code = "unsupported_media"


class CorruptMedia(MediaError):
    """The bytes begin like a picture or video, but cannot be decoded."""

    code = "corrupt_media"


class MediaTooLarge(MediaError):
    """The media is larger than the limit in bytes."""

    code = "media_too_large"


class UnhashableMedia(MediaError):
    """The media is a picture or video, but no hash could be taken of it."""

    code = "unhashable"

    def __init__(self, reason: Reason) -> None:
        super().__init__(f"no hash could be taken of this media: {reason.value}")
        self.reason = reason

    @property
    def word(self) -> str:
        return self.reason.value


class InvalidHash(StaydownError):
    """The hash is not written as its signal type asks."""

    code = "invalid_hash"


class SandboxMissing(StaydownError):
    """This system cannot lock decoders in: STAYDOWN_SANDBOX=available does with what there is."""

    code = "sandbox_missing"
