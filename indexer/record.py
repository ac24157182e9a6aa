"""What is known: banks, contents, their hashes, and what was withdrawn. The truth.

The index is a cache of this. Rows come back as frozen values or as arrays; nothing
above this file writes SQL (`sketches`, `companions`, `jobs` and `ledger` hold the other
tables). Companions of contents are rows like these, but are never found, listed or counted.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Row, String, and_, func, or_, select, type_coerce, update

from hashing.signals import (
    EXACT_BYTES,
    PROFILES,
    Frames,
    Kind,
    SignalType,
    no_frames,
)
from indexer.banks import ACTIVE, LIVE, Banks
from indexer.companions import CompanionBook
from indexer.contents import NewContent, insert_contents, new_hashes
from indexer.engines import values_of
from indexer.errors import NotApproved, UnknownContent
from indexer.hashes import FREE, add_hashes, frames_of, hashes_of, searched
from indexer.holds import HoldBook
from indexer.seals import among, forms_of
from indexer.sketches import SketchBook
from indexer.standing import StandingBook
from indexer.store import Change, Store
from indexer.tables import audit, bank, content, exact, signal, sketch
from indexer.withdrawals import withdraw_within

Digest = tuple[SignalType, bytes]
_BATCH = 5000
_SLICE = 512  # rows that are taken in at a time: so many that Python walks no garbage, which takes 50 ms, for them
_ERASING = ("content.withdraw", "content.hold", "content.replay", "bank.delete", "doctor.repair")


@dataclass(frozen=True, slots=True)
class Content:
    """One confirmed picture or video. Its hashes stay in the record."""

    content_pk: int
    content_id: str
    bank: str
    kind: Kind
    enabled: bool
    width: int | None
    height: int | None
    duration_s: float | None
    frames_hashed: int
    case: str | None
    labels: tuple[str, ...]
    created_at: str
    revision: int
    withdrawn_at: str | None
    withdrawn_reason: str | None
    lawful_of: int | None  # of a companion: whose it is
    proposed_by: str | None = None  # in a bank of two persons; it counts once it is approved
    approved_by: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """Which content it is."""

    content_pk: int
    content_id: str


@dataclass(frozen=True, slots=True)
class Located:
    """Where hashes stand, as columns of one length; only what is active in the banks asked for."""

    signal_pk: NDArray[np.int64]
    content_pk: NDArray[np.int64]
    rows: Frames


def _content(row: Row[Any]) -> Content:
    return Content(
        row.content_pk, row.content_id, row.name, Kind(row.kind), row.enabled, row.width, row.height,
        row.duration_s, row.frames_hashed, row.case_ref, tuple(row.labels), row.created_at, row.revision,
        row.withdrawn_at, row.withdrawn_reason, row.lawful_of, row.proposed_by,
        row.approved_by,
    )  # fmt: skip


_CONTENT = select(content, bank.c.name).join(bank, bank.c.bank_pk == content.c.bank_pk)


class Record(Banks):
    """Banks, contents and signals in one store."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.sketches = SketchBook(store)
        self.companions = CompanionBook(store)
        self.holds = HoldBook(store)
        self.standing = StandingBook(store)

    def find_fingerprints(self, change: Change, bank_pk: int, fingerprints: Sequence[str]) -> dict[str, Known]:
        """Return which of these contents a bank has, as a change sees it."""
        forms = forms_of(content.c.fingerprint, self.store.ring, fingerprints)
        wanted = values_of(change.connection, forms, String())
        same = and_(content.c.bank_pk == bank_pk, type_coerce(content.c.fingerprint, String) == wanted.c.value)
        query = select(content.c.fingerprint, content.c.content_pk, content.c.content_id)
        found = change.connection.execute(query.select_from(wanted.outerjoin(content, same)))
        return {mark: Known(content_pk, content_id) for mark, content_pk, content_id in found if mark is not None}

    def add_contents(self, change: Change, bank_pk: int, news: Sequence[NewContent]) -> dict[str, Known]:
        """Write contents of different fingerprints, with their hashes, inside a change."""
        keys = insert_contents(change, bank_pk, news)
        added = {new.fingerprint: Known(*key) for new, key in zip(news, keys, strict=True)}
        add_hashes(change, [new_hashes(added[new.fingerprint].content_pk, new) for new in news])
        for new in news:
            self.sketches.add(change, added[new.fingerprint].content_pk, new.sketches, new.holds)
        return added

    def complete(self, change: Change, content_pk: int, new: NewContent) -> None:
        """Add the hashes that a known content does not hold yet: an answered enrolment is found by each of them."""
        digests, frames = hashes_of(change.connection, content_pk)
        known = {(int(row["profile"]), int(row["view"]), bytes(row["hash"])) for row in frames}
        missing = [(int(row["profile"]), int(row["view"]), bytes(row["hash"])) not in known for row in new.frames]
        rest = new_hashes(content_pk, new, np.array(missing, bool), digests)
        self.sketches.add(change, content_pk, new.sketches, new.holds)
        if len(rest.frames) or rest.digests or len(new.sketches):
            add_hashes(change, [rest])
            changed = update(content).where(content.c.content_pk == content_pk)
            change.connection.execute(changed.values(revision=change.revision))

    def content(self, bank_name: str, content_id: str) -> Content:
        """Return one content of a bank, withdrawn or not; UnknownBank, UnknownContent."""
        self.settings_of(bank_name)
        with self.store.read() as connection:
            wanted = _CONTENT.where(bank.c.name == bank_name, content.c.content_id == content_id)
            row = connection.execute(wanted).first()
        if row is None:
            raise UnknownContent
        return _content(row)

    def contents_by_id(self, content_ids: Sequence[str]) -> tuple[Content, ...]:
        """Return the contents with these ids in any bank; unknown ids are left out."""
        with self.store.read() as connection:
            rows = connection.execute(_CONTENT.where(content.c.content_id.in_(content_ids))).all()
        return tuple(map(_content, rows))

    def contents_by_pk(self, content_pks: Sequence[int]) -> dict[int, Content]:
        """Return the contents with these keys."""
        found: dict[int, Content] = {}
        with self.store.read() as connection:
            for start in range(0, len(content_pks), _BATCH):
                wanted = _CONTENT.where(content.c.content_pk.in_(content_pks[start : start + _BATCH]))
                found |= {row.content_pk: _content(row) for row in connection.execute(wanted)}
        return found

    def contents(self, bank_name: str, *, after: int = 0, limit: int = 100) -> tuple[Content, ...]:
        """Return live contents of a bank in order of enrolment, from behind the key `after`; UnknownBank."""
        self.settings_of(bank_name)
        wanted = _CONTENT.where(bank.c.name == bank_name, content.c.content_pk > after, LIVE)
        with self.store.read() as connection:
            return tuple(map(_content, connection.execute(wanted.order_by(content.c.content_pk).limit(limit))))

    def signal_counts(self, content_pk: int) -> dict[str, int]:
        """Return how many hashes of each type a content has."""
        counts: dict[str, int] = {}
        with self.store.read() as connection:
            digests = select(exact.c.signal_type, func.count()).where(exact.c.content_pk == content_pk)
            for name, n in connection.execute(digests.group_by(exact.c.signal_type)):
                counts[name] = n
            frames = select(signal.c.profile, func.count()).where(signal.c.content_pk == content_pk)
            for profile, n in connection.execute(frames.group_by(signal.c.profile)):
                name = PROFILES[profile].signal_type.value
                counts[name] = counts.get(name, 0) + n
            sketches = select(func.count()).select_from(sketch).where(sketch.c.content_pk == content_pk)
            if n := connection.execute(sketches).scalar_one():
                counts[SignalType.KEYPOINTS.value] = n
        return counts

    def set_content(self, bank_name: str, content_id: str, *, actor: str, **fields: Any) -> Content:
        """Change case_ref, labels or enabled of a live content; UnknownBank, UnknownContent, NotApproved."""
        found = self.content(bank_name, content_id)
        if found.withdrawn_at is not None:
            raise UnknownContent
        if fields:
            with self.store.change(actor) as change:
                if fields.get("enabled") and found.proposed_by is not None and found.approved_by is None:
                    raise NotApproved
                live = update(content).where(content.c.content_pk == found.content_pk, LIVE)
                if not change.connection.execute(live.values(**fields)).rowcount:
                    raise UnknownContent
                change.log("content.set", content_id, fields=sorted(fields))
        return self.content(bank_name, content_id)

    def withdraw(self, found: Content, *, reason: str, actor: str) -> int:
        """Withdraw a content for good: its hashes are deleted with this change. Returns the revision.

        Its companions go with it. Withdrawing what is withdrawn already changes nothing.
        """
        with self.store.change(actor) as change:
            own = or_(content.c.content_pk == found.content_pk, content.c.lawful_of == found.content_pk)
            if withdraw_within(change, own, reason):
                change.log("content.withdraw", found.content_id, bank=found.bank, reason=reason)
            return change.revision

    def find_exact(self, digests: Iterable[Digest], bank_pks: Sequence[int]) -> dict[Digest, list[int]]:
        """Return the active contents with each of these digests, in order; digests of none are left out."""
        wanted = {(kind, digest) for kind, digest in digests if kind in EXACT_BYTES}
        asked, found = sorted({digest for _, digest in wanted}), dict[Digest, list[int]]()
        query = select(exact.c.content_pk, exact.c.signal_type, exact.c.digest).join(
            content, content.c.content_pk == exact.c.content_pk + 0
        )
        with self.store.read() as connection:
            for start in range(0, len(asked), _BATCH):
                same = among(exact.c.digest, self.store.ring, asked[start : start + _BATCH])
                mine = query.where(same, *_active(bank_pks))
                for row in connection.execute(mine.order_by(exact.c.content_pk)):
                    found.setdefault((SignalType(row.signal_type), bytes(row.digest)), []).append(row.content_pk)
        return {pair: pks for pair, pks in found.items() if pair in wanted}

    def locate(self, signal_pks: NDArray[np.int64], bank_pks: Sequence[int]) -> Located:
        """Return where hashes stand; those held, withdrawn, disabled or of other banks are left out.

        `+ 0`: for some dozens of keys SQLite would walk all contents of the banks, and look up the hashes of each.
        """
        rows: list[Any] = []
        with self.store.read() as connection:
            for start in range(0, len(signal_pks), _BATCH):
                wanted = [int(pk) for pk in signal_pks[start : start + _BATCH]]
                query = (
                    select(signal)
                    .join(content, content.c.content_pk == signal.c.content_pk + 0)
                    .where(signal.c.signal_pk.in_(wanted), FREE, *_active(bank_pks))
                )
                rows += connection.execute(query).all()
        if not rows:
            nothing = np.empty(0, np.int64)
            return Located(nothing, nothing, no_frames())
        rows.sort(key=lambda row: row.signal_pk)
        keys = np.array([row.signal_pk for row in rows], np.int64)
        return Located(keys, np.array([row.content_pk for row in rows], np.int64), frames_of(rows))

    def signals_since(
        self, revision: int, bank_pks: Sequence[int] | None = None
    ) -> Iterator[tuple[NDArray[np.int64], Frames]]:
        """Yield the keys and hashes of contents enrolled or completed after `revision`, in order of their keys.

        Of each, what an index needs: profile, quality, and the hash itself.
        What is held is left out; what is released comes with a key of its own.
        There is no upper bound: it would skip the older hashes of a content that is just
        being completed, behind which the reader then never looks again.
        Its form keeps both databases from walking all that is known to find what is new: for
        the key's own order PostgreSQL compares each hash with each new content, as long as it
        takes both for few; for `lawful_of IS NULL`, or a join, SQLite walks every content.
        """
        own = func.coalesce(content.c.lawful_of, 0) == 0
        order = signal.c.signal_pk + 0 if revision else signal.c.signal_pk
        changed = select(content.c.content_pk).where(content.c.revision > revision, own)
        changed = changed if bank_pks is None else changed.where(content.c.bank_pk.in_(bank_pks))
        wanted = select(signal.c.signal_pk, signal.c.profile, signal.c.quality, signal.c.hash)
        query = wanted.where(signal.c.content_pk.in_(changed), FREE).order_by(order)
        with self.store.stream() as connection:
            result = connection.execution_options(yield_per=_SLICE).execute(query)
            for rows in result.partitions():
                yield searched(rows)

    def hashes_of(self, content_pk: int) -> tuple[list[tuple[SignalType, bytes]], Frames]:
        """Return the hashes of one content that others may have too: for exports and close looks alone."""
        with self.store.read() as connection:
            return hashes_of(connection, content_pk, shared=True)

    def newest_signal(self) -> int:
        """Return the key of the newest hash; 0 if there is none."""
        with self.store.read() as connection:
            return int(connection.execute(select(func.coalesce(func.max(signal.c.signal_pk), 0))).scalar_one())

    def signal_keys(self) -> NDArray[np.int64]:
        """Return the keys of all hashes of frames that can be found."""
        with self.store.stream() as connection:
            query = select(signal.c.signal_pk).where(FREE)
            result = connection.execution_options(yield_per=50_000).execute(query)
            parts = [np.fromiter(part, np.int64, len(part)) for part in result.scalars().partitions()]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def erased_since(self, revision: int) -> bool:
        """Say whether hashes that could be found were withdrawn, deleted or held after a revision."""
        query = select(audit.c.seq).where(audit.c.revision > revision, audit.c.action.in_(_ERASING))
        with self.store.read() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def counts(self) -> tuple[int, int]:
        """Return how many live contents and how many hashes of frames there are."""
        with self.store.read() as connection:
            contents = connection.execute(select(func.count()).select_from(content).where(LIVE)).scalar_one()
            return contents, connection.execute(select(func.count()).select_from(signal)).scalar_one()


def _active(bank_pks: Sequence[int]) -> tuple[ColumnElement[bool], ...]:
    return content.c.bank_pk.in_(bank_pks), ACTIVE
