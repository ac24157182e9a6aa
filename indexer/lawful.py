"""The enrolment of companions: a content's lawful originals, and how they look where it was sketched.

A companion can be added at any time, since it is laid over the sketches that the record
keeps of its content. The same original twice is one companion; the same original of two
contents is two, one each.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hashing.contrast import CONTRAST_DTYPE, Contrasts
from hashing.signals import Signal, Sketches, no_sketches
from indexer.contents import NewContent
from indexer.enroll import fingerprint, wanted
from indexer.errors import InvalidCompanion, NotApproved, NothingToEnroll, UnknownContent
from indexer.record import Content, Record
from indexer.store import Change

Lay = Callable[[Sketches], Contrasts]

_BATCH = 512  # sketches laid over at a time


@dataclass(frozen=True, slots=True)
class Lawful:
    """One companion to enroll: its hashes, and what lays its media over sketches (None: there is no media)."""

    signal: Signal
    lay: Lay | None = None


def _mark(content: Content, lawful: Lawful) -> str:
    """Return the companion's fingerprint: one original may belong to many contents of a bank."""
    return hashlib.sha256(f"{content.content_id}:{fingerprint(lawful.signal)}".encode()).hexdigest()


def check_differs(content: Signal, lawful: Signal) -> None:
    """Refuse a content as its own companion: nothing would ever match it again. InvalidCompanion."""
    if fingerprint(content) == fingerprint(lawful) or set(content.exact) & set(lawful.exact):
        raise InvalidCompanion("the lawful media is the content itself")


class CompanionEnroller:
    """Writes companions to the record."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def add(self, bank_name: str, content_id: str, lawful: Lawful, *, actor: str) -> str:
        """Enroll one companion of a content; returns its own content_id.

        UnknownBank, UnknownContent, InvalidCompanion, NothingToEnroll, UnhashableMedia.
        """
        content = self._record.content(bank_name, content_id)
        if content.lawful_of is not None:
            raise InvalidCompanion
        if self._is_settled(content, actor):
            raise NotApproved("lawful originals of this bank's contents are given with them, before they are approved")
        pks, rows = self._contrasts(content, lawful)
        with self._record.store.change(actor) as change:
            if not self._record.companions.may_have(change, content.content_pk):
                raise UnknownContent
            companion_pk, companion_id, created = self._write(change, content, lawful)
            laid = self._record.companions.add(change, companion_pk, pks, rows)
            change.log("content.companion", content_id, bank=bank_name, companion=companion_id, created=created,
                       contrasts=laid)  # fmt: skip
        return companion_id

    def _is_settled(self, content: Content, actor: str) -> bool:
        """Tell whether a content is as two persons wanted it: a companion by one hand would hide it from answers."""
        if not self._record.settings_of(content.bank).two_persons:
            return False
        return content.approved_by is not None or content.proposed_by != actor

    def _contrasts(self, content: Content, lawful: Lawful) -> tuple[list[int], Contrasts]:
        keys: list[int] = []
        parts = [np.empty(0, CONTRAST_DTYPE)]
        lay, pks = lawful.lay, self._record.sketches.times(content.content_pk)[0].tolist()
        for start in range(0, len(pks), _BATCH):
            held = self._record.sketches.rows(pks[start : start + _BATCH])
            if lay is not None and held:
                keys += held
                parts.append(lay(np.array(list(held.values()))))
        return keys, np.concatenate(parts)

    def _write(self, change: Change, content: Content, lawful: Lawful) -> tuple[int, str, bool]:
        bank, mark = self._record.bank_within(change, content.bank), _mark(content, lawful)
        known = self._record.find_fingerprints(change, bank.bank_pk, [mark])
        created = not known
        if created:
            frames, digests = wanted(lawful.signal, bank)
            if not len(frames) and not digests:
                raise NothingToEnroll
            new = NewContent(mark, lawful.signal.media, frames, digests, None, (), no_sketches(), content.content_pk)
            known = self._record.add_contents(change, bank.bank_pk, [new])
        return known[mark].content_pk, known[mark].content_id, created
