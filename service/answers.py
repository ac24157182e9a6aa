"""What the indexer found, as the JSON that is answered: one shape, whatever the question and the role.

What a role may not see is null or rounded, never absent.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hashing.signals import EXACT_BYTES, PROFILES, VIEWS, Media, Signal, SignalType, View, to_hex
from indexer.banks import Bank
from indexer.enroll import Enrolled
from indexer.matcher import Answer
from indexer.matches import Match, Suppressed, ToldApart
from indexer.policy import Verdict, veiled
from indexer.record import Content
from service.held import held_out
from service.schemas import (
    BankOut,
    ContentOut,
    EnrolledOut,
    HashOut,
    MatchOut,
    MediaOut,
    SegmentOut,
    SignalOut,
    SuppressedOut,
    ToldApartOut,
    VerdictOut,
)


def media_out(media: Media) -> MediaOut:
    """Return what is said of media."""
    return MediaOut(
        kind=media.kind.value, sha256=media.sha256, width=media.width, height=media.height,
        duration_s=media.duration_s, frames_hashed=media.frames_hashed,
    )  # fmt: skip


def _told_out(told: ToldApart | None) -> ToldApartOut | None:
    if told is None:
        return None
    return ToldApartOut(nearer=told.nearer.value, cells=told.cells, region=told.region, frames=told.frames)


def _match_fields(match: Match, evidence: bool) -> dict[str, Any]:
    probability = match.false_match_probability
    return {
        "bank": match.bank, "content_id": match.content_id, "verdict": match.verdict.value,
        "signal_type": match.signal_type, "transform": match.transform,
        "distance_bits": match.distance_bits if evidence else None, "inliers": match.inliers if evidence else None,
        "false_match_probability": probability if evidence else _veiled(match),
        "segments": [
            SegmentOut(query_s=part.query_s, reference_s=part.reference_s, frames=part.frames, speed=part.speed)
            for part in match.segments
        ],
        "told_apart": _told_out(match.told_apart) if evidence else None,
    }  # fmt: skip


def _veiled(match: Match) -> float:
    return veiled(match.signal_type, match.distance_bits, match.verdict, match.false_match_probability)


def match_out(match: Match) -> MatchOut:
    """Return one match with all its evidence."""
    return MatchOut(**_match_fields(match, evidence=True))


def _suppressed_out(found: Suppressed) -> SuppressedOut:
    return SuppressedOut(
        **_match_fields(found.match, evidence=True), by=found.by, lawful_content_id=found.lawful_content_id  # type: ignore[arg-type]
    )  # fmt: skip


def verdict_out(answer: Answer, request_id: str, *, evidence: bool) -> VerdictOut:
    """Return the answer to a check; without `evidence` as the role `check` sees it."""
    return VerdictOut(
        request_id=request_id, verdict=answer.verdict.value, reason=answer.reason, media=media_out(answer.media),
        matches=[MatchOut(**_match_fields(match, evidence)) for match in answer.matches],
        suppressed=[_suppressed_out(found) for found in answer.suppressed] if evidence else [],
        bank_revision=answer.bank_revision, policy=answer.policy,
    )  # fmt: skip


def unjudged(request_id: str, word: str, bank_revision: int) -> dict[str, Any]:
    """Return the result of an item that could not be read: a verdict's shape, with nothing known."""
    nothing = dict.fromkeys(MediaOut.model_fields)
    return {
        "request_id": request_id, "verdict": "unhashable", "reason": word, "media": nothing | {"frames_hashed": 0},
        "matches": [], "suppressed": [], "bank_revision": bank_revision, "policy": "default",
    }  # fmt: skip


def without_evidence(verdict: dict[str, Any]) -> dict[str, Any]:
    """Return a stored verdict as a role without evidence sees it."""
    hidden = [
        match
        | {"distance_bits": None, "inliers": None, "told_apart": None}
        | {"false_match_probability": _veiled_stored(match)}
        for match in verdict.get("matches", [])
    ]
    return verdict | {"matches": hidden, "suppressed": []}


def _veiled_stored(match: dict[str, Any]) -> float:
    kind, verdict = SignalType(match["signal_type"]), Verdict(match["verdict"])
    return veiled(kind, match["distance_bits"], verdict, match["false_match_probability"])


def signals_out(signal: Signal) -> list[SignalOut]:
    """Return all hashes of media: exact ones first, then frames in order of time."""
    exact = [
        SignalOut(signal_type=kind, hash=code.hex(), quality=None, timestamp_s=None, profile=None, view=View.FULL)
        for kind, code in signal.exact
        if kind in EXACT_BYTES
    ]
    return exact + [
        SignalOut(
            signal_type=PROFILES[int(row["profile"])].signal_type, hash=to_hex(row["hash"]),
            quality=int(row["quality"]), timestamp_s=_or_none(row["timestamp_s"]),
            profile=str(PROFILES[int(row["profile"])]), view=VIEWS[int(row["view"])],
        )
        for row in signal.frames
    ]  # fmt: skip


def _or_none(value: np.float64) -> float | None:
    return None if np.isnan(value) else round(float(value), 3)


def hash_out(signal: Signal) -> HashOut:
    """Return the hashes of media."""
    return HashOut(media=media_out(signal.media), signals=signals_out(signal), reason=signal.reason)


def enrolled_out(enrolled: Enrolled) -> EnrolledOut:
    """Return the answer to an enrolment."""
    return EnrolledOut(
        content_id=enrolled.content_id, bank=enrolled.bank, bank_revision=enrolled.bank_revision,
        created=enrolled.created, signals=enrolled.signals, warnings=list(enrolled.warnings),
        companions=list(enrolled.companions), held=held_out(enrolled), held_frames=enrolled.held_frames,
        proposed=enrolled.proposed, media=media_out(enrolled.media),
    )  # fmt: skip


def bank_out(bank: Bank) -> BankOut:
    """Return a bank."""
    return BankOut(
        bank=bank.name, description=bank.description, enabled=bank.enabled, policy=bank.policy,
        signal_types=list(bank.signal_types), lawful=bank.lawful,
        suppresses=None if bank.suppresses is None else list(bank.suppresses),
        two_persons=bank.two_persons, contents=bank.contents, created_at=bank.created_at,
    )  # fmt: skip


def content_out(
    content: Content, signals: dict[str, int], held: dict[str, int], companions: Sequence[str] = (),
    lawful_of: str | None = None, source: str | None = None,
) -> ContentOut:  # fmt: skip
    """Return a content; `companions` and `lawful_of` are content_ids, `held` counts rows by reason."""
    media = Media(content.kind, None, content.width, content.height, content.duration_s, content.frames_hashed)
    return ContentOut(
        content_id=content.content_id, bank=content.bank, media=media_out(media), case=content.case,
        labels=list(content.labels), enabled=content.enabled, signals=signals, held=held, created_at=content.created_at,
        revision=content.revision, withdrawn_at=content.withdrawn_at, withdrawn_reason=content.withdrawn_reason,
        companions=list(companions), lawful_of=lawful_of, source=source, proposed_by=content.proposed_by,
        approved_by=content.approved_by,
    )  # fmt: skip
