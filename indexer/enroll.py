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
    joined,
)
from indexer.banks import Bank
from indexer.contents import NewContent
from indexer.errors import NothingToEnroll
from indexer.guarding import Guard
from indexer.guards import MAX_RUNS, NUMBERS, Hold, Holds, Run, runs, totals
from indexer.index import Index
from indexer.policy import MIN_QUALITY
from indexer.record import Record
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


def rows_of(ready: Sequence[ReadyHash]) -> Frames:
    """Return hashes of perceptual types as rows; InvalidHash."""
    rows = np.zeros(len(ready), FRAME_DTYPE)
    rows["profile"] = [each.profile_number() for each in ready]
    rows["view"] = [VIEWS.index(each.view) for each in ready]
    rows["quality"] = [MAX_QUALITY if each.quality is None else each.quality for each in ready]
    rows["timestamp_s"] = rows["until_s"] = np.array([each.timestamp_s for each in ready], np.float64)  # None: NaN
    rows["hash"] = np.frombuffer(b"".join([each.code() for each in ready]), np.uint8).reshape(-1, HASH_BYTES)
    return rows


def signals_of(groups: Sequence[Sequence[ReadyHash]]) -> list[Signal]:
    """Return groups of ready-made hashes, each as a Signal; InvalidHash. A hash without a quality is trusted."""
    perceptual = [[each for each in group if each.signal_type not in EXACT_BYTES] for group in groups]
    rows, stop, signals = rows_of([each for group in perceptual for each in group]), 0, []
    for group, framed in zip(groups, perceptual, strict=True):
        start, stop = stop, stop + len(framed)
        exact = tuple((each.signal_type, each.code()) for each in group if each.signal_type in EXACT_BYTES)
        sha256 = next((code.hex() for kind, code in exact if kind is SignalType.SHA256), None)
        signals.append(Signal(Media(Kind.HASHES, sha256, frames_hashed=len(framed)), rows[start:stop], exact))
    return signals


def signal_of(hashes: Sequence[ReadyHash]) -> Signal:
    """Return ready-made hashes as one Signal; InvalidHash."""
    return signals_of([hashes])[0]


@dataclass(frozen=True, slots=True)
class Submission:
    """One content to enroll."""

    signal: Signal
    case: str | None = None
    labels: tuple[str, ...] = ()
    source: str | None = None


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
    proposed: bool = False  # it counts once somebody else approved it


def fingerprint(signal: Signal) -> str:
    """Return what makes two submissions the same content: the file's SHA-256, or all their hashes."""
    if signal.media.sha256 is not None:
        return signal.media.sha256
    lines = sorted(f"{kind}:{code.hex()}" for kind, code in signal.exact) + sorted(_lines(signal.frames))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _lines(frames: Frames) -> list[str]:
    codes, width = frames["hash"].tobytes().hex(), 2 * HASH_BYTES
    return [f"{profile}:{codes[width * n : width * n + width]}" for n, profile in enumerate(frames["profile"].tolist())]


def fingerprints(frames: Frames) -> list[str]:
    """Return the fingerprint of each row, as of a content of its own that has nothing else."""
    return [hashlib.sha256(line.encode()).hexdigest() for line in _lines(frames)]


def kept_rows(frames: Frames, bank: Bank) -> NDArray[np.bool_]:
    """Return which rows are of the types that the bank keeps, in the untransformed form."""
    types = np.array([profile.signal_type in bank.signal_types for profile in PROFILES])
    kept: NDArray[np.bool_] = (frames["transform"] == 0) & types[frames["profile"]]
    return kept


def wanted(signal: Signal, bank: Bank) -> tuple[Frames, list[tuple[SignalType, bytes]]]:
    """Return the rows and digests of the types that the bank keeps; only the untransformed form."""
    return signal.frames[kept_rows(signal.frames, bank)], _digests(signal, bank)


def _digests(signal: Signal, bank: Bank) -> list[tuple[SignalType, bytes]]:
    return [pair for pair in signal.exact if pair[0] in bank.signal_types]


def _new_content(submission: Submission, bank: Bank, holds: Holds, kept: NDArray[np.bool_]) -> NewContent:
    """Return what of a submission is to be written; NothingToEnroll."""
    signal = submission.signal
    rows, digests, sketches, of_sketches = signal.frames[kept], _digests(signal, bank), signal.sketches, holds.sketches
    if len(sketches):
        sketched = (sketches["mirrored"] == 0) & (SignalType.KEYPOINTS in bank.signal_types)
        sketches, of_sketches = sketches[sketched], of_sketches[sketched]
    if not len(rows) and not digests and not len(sketches):
        raise NothingToEnroll
    return NewContent(
        fingerprint(signal), signal.media, rows, digests, submission.case, submission.labels, sketches,
        holds=Holds(holds.frames[kept], of_sketches, holds.benign),
    )  # fmt: skip


_TYPE_NAMES = [profile.signal_type.value for profile in PROFILES]
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
    names += [_TYPE_NAMES[number] for number in new.frames["profile"].tolist()]
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts | ({SignalType.KEYPOINTS.value: len(new.sketches)} if len(new.sketches) else {})


@dataclass(frozen=True, slots=True)
class _Part:
    """One content of an enrolment: the signal, what of it is to be written, and what of it is held."""

    signal: Signal
    new: NewContent
    holds: Holds
    source: str | None = None


def _parts(bank: Bank, submissions: Sequence[Submission], holds: Sequence[Holds]) -> list[_Part]:
    """Return the contents of an enrolment; what is kept is asked for all of them at once. NothingToEnroll."""
    frames = [submission.signal.frames for submission in submissions]
    kept = np.split(kept_rows(joined(frames), bank), np.cumsum([len(rows) for rows in frames])[:-1])
    return [
        _Part(submission.signal, _new_content(submission, bank, each, chosen), each, submission.source)
        for submission, each, chosen in zip(submissions, holds, kept, strict=True)
    ]


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
            done = self._write(change, bank, _parts(bank, submissions, holds))
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
            if is_new:
                self._record.standing.mark(change, bank, [content.content_pk], part.source)
            elif not bank.two_persons:  # there what was approved stays as it is
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
        held_frames=held, proposed=created and bank.two_persons,
    )  # fmt: skip


def _judge(signal: Signal) -> None:
    """Refuse media of which nothing was seen: an enrolment that can find nothing is no enrolment."""
    if signal.media.kind is not Kind.HASHES and not len(signal.frames) and signal.reason is not None:
        raise UnhashableMedia(signal.reason)
