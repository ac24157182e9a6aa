"""Held frames as they cross the wall: what the guards kept out of matching, and why."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from hashing.signals import View
from indexer.enroll import Enrolled
from indexer.guards import RELEASABLE, Hold

Releasable = Literal["generic", "featureless", "hub", "benign"]
assert set(Releasable.__args__) == {hold.value for hold in RELEASABLE}  # type: ignore[attr-defined]  # noqa: S101


class HeldOut(BaseModel):
    """Frames on end that are kept out of matching for one reason; stills and hashes without a time have none."""

    model_config = ConfigDict(extra="forbid")

    timestamp_s: float | None
    until_s: float | None
    view: View
    reason: Literal["generic", "featureless", "hub", "benign", "low_quality"]
    frames: int


def held_out(enrolled: Enrolled) -> list[HeldOut]:
    """Return which frames of an enrolment are held."""
    return [
        HeldOut(timestamp_s=run.timestamp_s, until_s=run.until_s, view=run.view, reason=run.reason.value,
                frames=run.frames)
        for run in enrolled.held
    ]  # fmt: skip


def holds(reasons: list[Releasable]) -> tuple[Hold, ...]:
    """Return reasons as the indexer knows them."""
    return tuple(map(Hold, reasons))
