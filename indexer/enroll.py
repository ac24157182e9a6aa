"""The enrolment walk: media's signal or ready-made hashes -> record and index.

An answer is given only after the database has made the change durable. The same content
twice in a bank is one content: it gets its first `content_id` again.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hashing.errors import InvalidHash, Reason, UnhashableMedia
from hashing.signals import (
    EXACT_BYTES,
    FRAME_DTYPE,
    HASH_BYTES,
    MAX_QUALITY,
    PROFILE_NAMES,
    PROFILE_OF_TYPE,
    PROFILES,
    VIEWS,
    Frames,
    Kind,
    Media,
    Signal,
    SignalType,
    View,
    from_hex,
    no_frames,
)
from indexer.banks import Bank
from indexer.errors import NothingToEnroll
from indexer.guarding import Guard
from indexer.guards import MAX_RUNS, NUMBERS, Hold, Holds, Run, runs, totals
from indexer.index import Index
from indexer.policy import MIN_QUALITY
from indexer.record import NewContent, Record
from indexer.store import Change

HELD_WARNING = "held"


@dataclass(frozen=True, slots=True)
class ReadyHash:
    """One hash made elsewhere, in hex."""

    signal_type: SignalType
    hash: str
    quality: int | None = None
    timestamp_s: float | None = None
    profile: str | None = None
    view: View = View.FULL

    def code(self) -> bytes:
        """Return the bytes; InvalidHash."""
        if self.signal_type is SignalType.KEYPOINTS:
            raise InvalidHash("keypoints are taken from media, not sent as a hash")
        return from_hex(self.signal_type, self.hash)

    def profile_number(self) -> int:
        """Return the profile that the hash states, or its type's usual one; InvalidHash."""
        number = PROFILE_NAMES.get(self.profile) if self.profile else PROFILE_OF_TYPE.get(self.signal_type)
        if number is None or PROFILES[number].signal_type is not self.signal_type:
            raise InvalidHash(f"there is no profile {self.profile!r} of {self.signal_type}")
        return number


def _row(ready: ReadyHash) -> Frames:
    row, code = np.zeros(1, FRAME_DTYPE), ready.code()
    row["profile"] = ready.profile_number()
    row["view"] = VIEWS.index(ready.view)
    row["quality"] = MAX_QUALITY if ready.quality is None else ready.quality
    row["timestamp_s"] = row["until_s"] = np.nan if ready.timestamp_s is None else ready.timestamp_s
    row["hash"] = np.frombuffer(code, np.uint8).reshape(1, HASH_BYTES)
    return row


def signal_of(hashes: Sequence[ReadyHash]) -> Signal:
    """Return ready-made hashes as a Signal; InvalidHash. A hash without a quality is trusted."""
    exact = tuple((h.signal_type, h.code()) for h in hashes if h.signal_type in EXACT_BYTES)
    rows = [_row(h) for h in hashes if h.signal_type not in EXACT_BYTES]
    frames = np.concatenate(rows) if rows else no_frames()
    sha256 = next((code.hex() for kind, code in exact if kind is SignalType.SHA256), None)
    return Signal(Media(Kind.HASHES, sha256, frames_hashed=len(rows)), frames, exact)


@dataclass(frozen=True, slots=True)
class Submission:
    """One content to enroll."""

    signal: Signal
    case: str | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What an enrolment came to.

    `warnings` say what will not be found: the word of a Reason, or `held` if the guards hold
    every frame; and `benign` if what will be found is, to a hash, the same as something lawful.
    `held` says which frames are, and why; at most MAX_RUNS, in order of time.
    `held_frames` counts all of them by reason.
    """

    content_id: str
    bank: str
    bank_revision: int
    created: bool
    media: Media
    signals: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()  # content_ids of its lawful originals, those of this enrolment
    held: tuple[Run, ...] = ()
    held_frames: dict[str, int] = field(default_factory=dict)


def fingerprint(signal: Signal) -> str:
    """Return what makes two submissions the same content: the file's SHA-256, or all their hashes."""
    if signal.media.sha256 is not None:
        return signal.media.sha256
    lines = sorted(f"{kind}:{code.hex()}" for kind, code in signal.exact)
    lines += sorted(f"{int(row['profile'])}:{bytes(row['hash']).hex()}" for row in signal.frames)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _kept(signal: Signal, bank: Bank) -> NDArray[np.bool_]:
    """Return which frames are of the types that the bank keeps, in the untransformed form."""
    types = np.array([profile.signal_type in bank.signal_types for profile in PROFILES])
    kept: NDArray[np.bool_] = (signal.frames["transform"] == 0) & types[signal.frames["profile"]]
    return kept


def wanted(signal: Signal, bank: Bank) -> tuple[Frames, list[tuple[SignalType, bytes]]]:
    """Return the rows and digests of the types that the bank keeps; only the untransformed form."""
    return signal.frames[_kept(signal, bank)], [pair for pair in signal.exact if pair[0] in bank.signal_types]


def _new_content(submission: Submission, bank: Bank, holds: Holds) -> NewContent:
    """Return what of a submission is to be written; NothingToEnroll."""
    signal = submission.signal
    rows, digests = wanted(signal, bank)
    sketched = (signal.sketches["mirrored"] == 0) & (SignalType.KEYPOINTS in bank.signal_types)
    if not len(rows) and not digests and not sketched.any():
        raise NothingToEnroll
    return NewContent(
        fingerprint(signal), signal.media, rows, digests, submission.case, submission.labels,
        signal.sketches[sketched],
        holds=Holds(holds.frames[_kept(signal, bank)], holds.sketches[sketched], holds.benign),
    )  # fmt: skip


_UNSEEN = [NUMBERS[hold] for hold in (Hold.LOW_QUALITY, Hold.FEATURELESS)]


def _warnings(signal: Signal, new: NewContent, holds: Holds) -> tuple[str, ...]:
    found = [signal.reason.value] if signal.reason else []
    found += [Hold.BENIGN.value] if holds.benign else []
    usable, held = new.frames["quality"] >= MIN_QUALITY, holds.frames
    if not len(new.frames):  # nothing but sketches
        usable, held = new.sketches["count"] > 0, holds.sketches
    if not len(held) and signal.media.kind is Kind.HASHES:
        return tuple(found)
    if not bool((usable & (held == 0)).any()):
        telling = bool((~np.isin(held, _UNSEEN) & (held > 0)).any())
        found.append(HELD_WARNING if telling else Reason.FEATURELESS.value)
    return tuple(found)


def _counts(new: NewContent) -> dict[str, int]:
    counts: dict[str, int] = {}
    names = [kind.value for kind, _ in new.digests]
    names += [PROFILES[int(n)].signal_type.value for n in new.frames["profile"]]
    names += [SignalType.KEYPOINTS.value] * len(new.sketches)
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts


@dataclass(frozen=True, slots=True)
class _Part:
    """One content of an enrolment: the signal, what of it is to be written, and what of it is held."""

    signal: Signal
    new: NewContent
    holds: Holds


class Enroller:
    """Writes content to the record and the index."""

    def __init__(self, record: Record, index: Index) -> None:
        self._record, self._index = record, index
        self.guard = Guard(record)

    def enroll(self, bank_name: str, submission: Submission, *, actor: str) -> Enrolled:
        """Enroll one content; UnknownBank, NothingToEnroll, UnhashableMedia."""
        return self.enroll_many(bank_name, [submission], actor=actor)[0]

    def enroll_many(self, bank_name: str, submissions: Sequence[Submission], *, actor: str) -> list[Enrolled]:
        """Enroll contents in one transaction: all of them or none."""
        bank = self._record.settings_of(bank_name)
        for submission in submissions:
            _judge(submission.signal)
        holds = self.guard.holds(bank, [submission.signal for submission in submissions])
        with self._record.store.change(actor) as change:
            bank = self._record.bank_within(change, bank_name)
            parts = [
                _Part(submission.signal, _new_content(submission, bank, each), each)
                for submission, each in zip(submissions, holds, strict=True)
            ]
            done = self._write(change, bank, parts)
        if self._index.ready:
            self._index.refresh(self._record)
        return done

    def _write(self, change: Change, bank: Bank, parts: Sequence[_Part]) -> list[Enrolled]:
        first: dict[str, NewContent] = {}
        for part in parts:
            first.setdefault(part.new.fingerprint, part.new)
        before = self._record.find_fingerprints(change, bank.bank_pk, list(first))
        created = {mark: new for mark, new in first.items() if mark not in before}
        known = before | self._record.add_contents(change, bank.bank_pk, list(created.values()))
        done = []
        for part in parts:
            content, is_new = known[part.new.fingerprint], created.get(part.new.fingerprint) is part.new
            if not is_new:
                self._record.complete(change, content.content_pk, part.new)
            done.append(_enrolled(change, bank, part, content.content_id, is_new))
        return done


def _enrolled(change: Change, bank: Bank, part: _Part, content_id: str, created: bool) -> Enrolled:
    """Log an enrolment, and return what it came to."""
    counts, found = _counts(part.new), runs(part.signal, part.holds)
    held = totals(found)
    detail: dict[str, Any] = {"bank": bank.name, "created": created, "signals": counts}
    change.log("content.enroll", content_id, **detail, **({"held": held} if held else {}))
    return Enrolled(
        content_id, bank.name, change.revision, created, part.signal.media, counts,
        _warnings(part.signal, part.new, part.new.holds or part.holds), held=found[:MAX_RUNS],
        held_frames=held,
    )  # fmt: skip


def _judge(signal: Signal) -> None:
    """Refuse media of which nothing was seen: an enrolment that can find nothing is no enrolment."""
    if signal.media.kind is not Kind.HASHES and not len(signal.frames) and signal.reason is not None:
        raise UnhashableMedia(signal.reason)
