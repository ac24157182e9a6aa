"""The JSON that crosses the wall: what requests may say, and what answers look like.

An answer has one shape, whatever the question and the role; what a role may not see is
null or rounded, never absent.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from hashing.signals import PROFILE_NAMES, PROFILES, SignalType, View
from indexer.enroll import ReadyHash
from indexer.policy import POLICIES
from service.errors import InvalidRequest
from service.held import HeldOut, Releasable


def _known_profile(name: str) -> str:
    if name not in PROFILE_NAMES:
        raise ValueError(f"has to be one of {', '.join(PROFILE_NAMES)}")
    return name


_FIELD_NAME = re.compile(r"[a-z_]{1,32}\Z")
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]  # no database keeps a NUL
PolicyName = Literal["default", "strict", "review-only"]
ProfileName = Annotated[str, AfterValidator(_known_profile)]
assert set(PolicyName.__args__) == set(POLICIES)  # type: ignore[attr-defined]  # noqa: S101 - held at import
MAX_SIGNALS, MAX_LAWFUL = 100_000, 16
MAX_TIME_S = 1e7


Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """What has no other fields."""

    model_config = ConfigDict(extra="forbid")


# Requests


def where(loc: Sequence[int | str]) -> str:
    """Say where a document is wrong. A word that is no field's name is not repeated: it is input."""
    words = [str(part) if isinstance(part, int) or _FIELD_NAME.match(part) else "?" for part in loc]
    return ".".join(words) or "body"


def parsed(model: type[Model], document: Any) -> Model:
    """Validate a JSON document; InvalidRequest says where it is wrong, never what it held."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        found = "; ".join(f"{where(e['loc'])}: {e['msg']}" for e in error.errors()[:5])
        raise InvalidRequest(found) from error


class SignalIn(Strict):
    """One hash made elsewhere."""

    signal_type: SignalType
    hash: Annotated[str, Field(min_length=32, max_length=64, pattern=r"^[0-9a-fA-F]+$", examples=["f8f8f0ce" * 8])]
    quality: Annotated[int | None, Field(ge=0, le=100)] = None
    timestamp_s: Annotated[float | None, Field(ge=0, le=MAX_TIME_S, allow_inf_nan=False)] = None
    profile: Annotated[ProfileName | None, Field(examples=[str(PROFILES[0])])] = None
    view: View = View.FULL

    def ready(self) -> ReadyHash:
        """Return it as the indexer takes it."""
        return ReadyHash(
            self.signal_type, self.hash.lower(), self.quality, self.timestamp_s, self.profile, self.view
        )  # fmt: skip


class SignalsIn(Strict):
    """Hashes to be judged as one piece of media."""

    signals: Annotated[list[SignalIn], Field(min_length=1, max_length=MAX_SIGNALS)]


class LinkIn(Strict):
    """Media that the server is to fetch."""

    url: Annotated[Text, Field(min_length=1, max_length=8192, examples=["https://media.example.org/upload.jpg"])]


class LawfulIn(Strict):
    """A lawful original of a content: a link, or ready-made hashes."""

    url: Annotated[Text | None, Field(min_length=1, max_length=8192)] = None
    signals: Annotated[list[SignalIn] | None, Field(min_length=1, max_length=MAX_SIGNALS)] = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.url is None) is (self.signals is None):
            raise ValueError("either url or signals")
        return self


class ContentIn(Strict):
    """Content to enroll: a link, or ready-made hashes; `lawful` are its originals, which are no content."""

    url: Annotated[Text | None, Field(max_length=8192)] = None
    signals: Annotated[list[SignalIn] | None, Field(min_length=1, max_length=MAX_SIGNALS)] = None
    case: Annotated[Text | None, Field(max_length=1024)] = None
    labels: Annotated[list[Annotated[Text, Field(max_length=256)]], Field(max_length=64)] = []
    lawful: Annotated[list[LawfulIn], Field(max_length=MAX_LAWFUL)] = []
    source: Annotated[Text | None, Field(max_length=64, description="where it comes from, such as a list's name")] = (
        None
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.url is not None and self.signals is not None:
            raise ValueError("either url or signals, not both")
        return self


class ContentChange(Strict):
    """What of a content can be changed."""

    case: Annotated[Text | None, Field(max_length=1024)] = None
    labels: Annotated[list[Annotated[Text, Field(max_length=256)]] | None, Field(max_length=64)] = None
    enabled: bool | None = None
    release: list[Releasable] = []  # let what is held for these reasons match
    hold: list[Releasable] = []  # and take such a release back


class BankIn(Strict):
    """The settings of a bank; those left out keep their value, or get their default."""

    description: Annotated[Text | None, Field(max_length=4096)] = None
    enabled: bool | None = None
    policy: PolicyName | None = None
    signal_types: Annotated[list[SignalType] | None, Field(min_length=1)] = None
    lawful: bool | None = None
    suppresses: Annotated[list[Text] | None, Field(min_length=1, max_length=1000)] = None
    two_persons: bool | None = None

    def given(self) -> dict[str, Any]:
        """Return the settings that were given; `suppresses` may be given as null, which means all banks."""
        scope = {"suppresses": self.suppresses} if "suppresses" in self.model_fields_set else {}
        return self.model_dump(exclude_none=True) | scope


# Answers


class MediaOut(Strict):
    """What was judged."""

    kind: Literal["image", "video", "hashes"]
    sha256: str | None
    width: int | None
    height: int | None
    duration_s: float | None
    frames_hashed: int


class SegmentOut(Strict):
    """Seconds of the upload that show seconds of the reference."""

    query_s: tuple[float, float]
    reference_s: tuple[float, float]
    frames: int
    speed: float | None = Field(
        description="seconds of the reference a second of the upload, below 0 if it plays backwards; null of stills"
    )


class ToldApartOut(Strict):
    """How the media compares with a content and its lawful original.

    `region` is where the two differ, and the media shows it: left, top, right and bottom as
    shares of the reference's frame.
    """

    nearer: Literal["content", "companion", "undecided"]
    cells: int
    region: tuple[float, float, float, float] | None
    frames: int


class MatchOut(Strict):
    """One content that the media shows; `told_apart` is null where nothing lawful is like it."""

    bank: str
    content_id: str
    verdict: Literal["match", "review"]
    signal_type: SignalType
    transform: str
    distance_bits: int | None
    inliers: int | None
    false_match_probability: float
    segments: list[SegmentOut]
    told_apart: ToldApartOut | None


class SuppressedOut(MatchOut):
    """What would be a match, were the media not nearer to something lawful."""

    by: Literal["companion", "lawful_bank"]
    lawful_content_id: str


class VerdictOut(Strict):
    """The answer to a check."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "request_id": "0f3e9a52c1d84b7f9a60a1f2f4c8d3b1",
                "verdict": "match",
                "reason": None,
                "media": {"kind": "video", "sha256": "9f86d081…", "width": 1280, "height": 720, "duration_s": 22.4,
                          "frames_hashed": 12},
                "matches": [{"bank": "confirmed", "content_id": "c_673d8def5cb9fe6e8d24eee3", "verdict": "match",
                             "signal_type": "pdq", "transform": "mirror", "distance_bits": 4, "inliers": None,
                             "false_match_probability": 1e-9,
                             "segments": [{"query_s": [0.0, 4.2], "reference_s": [12.0, 16.2], "frames": 9,
                                           "speed": 1.0}],
                             "told_apart": None}],
                "suppressed": [],
                "bank_revision": 17,
                "policy": "default",
            }
        },
    )  # fmt: skip

    request_id: str
    verdict: Literal["match", "review", "no_match", "unhashable"]
    reason: str | None
    media: MediaOut
    matches: list[MatchOut]
    suppressed: list[SuppressedOut]
    bank_revision: int
    policy: str


class SignalOut(Strict):
    """One hash of media."""

    signal_type: SignalType
    hash: str
    quality: int | None
    timestamp_s: float | None
    profile: str | None
    view: View


class HashOut(Strict):
    """The hashes of media; `reason` says what could not be hashed."""

    media: MediaOut
    signals: list[SignalOut]
    reason: str | None


class EnrolledOut(Strict):
    """A new content, or the same one again (`created` false)."""

    content_id: str
    bank: str
    bank_revision: int
    created: bool
    signals: dict[str, int]
    warnings: list[str]
    companions: list[str]
    held: list[HeldOut]
    held_frames: dict[str, int]
    proposed: bool = Field(description="in a bank of two persons: it matches once somebody else approved it")
    media: MediaOut


class BankOut(Strict):
    """A bank."""

    bank: str
    description: str
    enabled: bool
    policy: str
    signal_types: list[SignalType]
    lawful: bool
    suppresses: list[str] | None
    two_persons: bool
    contents: int
    created_at: str


class ContentOut(Strict):
    """A content, without its hashes."""

    content_id: str
    bank: str
    media: MediaOut
    case: str | None
    labels: list[str]
    enabled: bool
    signals: dict[str, int]
    held: dict[str, int]
    created_at: str
    revision: int
    withdrawn_at: str | None
    withdrawn_reason: str | None
    companions: list[str]
    lawful_of: str | None
    source: str | None
    proposed_by: str | None
    approved_by: str | None


class BanksOut(Strict):
    """All banks."""

    banks: list[BankOut]


class ContentsOut(Strict):
    """One page of a bank's contents; `cursor` fetches the next, null at the end."""

    contents: list[ContentOut]
    cursor: str | None


def ready_hashes(signals: Sequence[SignalIn]) -> list[ReadyHash]:
    """Return hashes as the indexer takes them."""
    return [signal.ready() for signal in signals]
