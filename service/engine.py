"""Everything that a front door needs, opened once: store, index, matcher, enroller, workers.

HTTP, command line, rescans and benchmarks call these very functions.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from hashing.errors import InvalidHash, MediaError, UnhashableMedia
from hashing.hasher import Plan
from hashing.media import Sampling
from hashing.sandbox import Opened, Pool
from hashing.signals import Signal, SignalType
from indexer import remote
from indexer.banks import EVERYTHING, Reach
from indexer.closer import CloserLook, spans
from indexer.enroll import Enrolled, Enroller, ReadyHash, Submission, signal_of
from indexer.errors import IndexNotReady, SearchUnavailable, StoreBroken, UnknownContent
from indexer.guards import Hold
from indexer.index import Index
from indexer.jobs import Jobs
from indexer.keys import Keys
from indexer.lawful import CompanionEnroller, Lawful, check_differs
from indexer.ledger import Ledger
from indexer.lists import ListEnroller
from indexer.matcher import Answer, Matcher, Query
from indexer.policy import MIN_QUALITY
from indexer.record import Content, Record
from indexer.remote import Remote
from indexer.signing import Signer
from indexer.store import Store
from indexer.tombstones import Tombstones
from indexer.watch import Watch
from indexer.withdrawals import Withdrawals
from service.fetch import Fetcher
from service.logs import log
from service.pepper import made_pepper, read_pepper
from service.settings import Settings, worker_environment


def _tell(error: StoreBroken | None) -> None:
    if error is None:
        log().info("store reached again")
    else:
        log().error("store not reached", code=error.word, error=str(error))


def _keys(store: Store, settings: Settings) -> Keys:
    """Return the keys, bound to their pepper; one made just now binds older keys. InvalidSettings.

    One that the operator gives does so when asked to: replicas without it know them until then.
    """
    if settings.pepper_path is None:
        return Keys(store)
    if settings.key_pepper_file is not None:
        return Keys(store, read_pepper(settings.key_pepper_file))
    pepper, made = made_pepper(settings.pepper_path)
    keys = Keys(store, pepper)
    if made:
        keys.bind(actor="pepper")
    return keys


def _keep_nothing(signal: Signal, answer: Answer) -> None:
    """Forget a check once it is answered."""


Keep = Callable[[Signal, Answer], None]
SAVED_AT_STOP, SKETCHES_AT_STOP = 2_000_000, 50_000  # half a million hashes are put in order and written in a second
Original = bytes | Sequence[ReadyHash]  # lawful media, or hashes of it


class Engine:
    """One opened staydown."""

    def __init__(self, settings: Settings) -> None:
        """Open or create the store; StoreBroken. The index is loaded by `load_index`."""
        self.settings = settings
        self.store = Store(settings.record_url, settings.database_connections, settings.key_path)
        self.store.revision()  # or its key is missing
        self.record = Record(self.store)
        self.tombstones = Tombstones(settings.withdrawals_path)
        self.withdrawals = Withdrawals(self.store)
        self.keys = _keys(self.store, settings)
        self.ledger = Ledger(self.store)
        self.signer = Signer(settings.signing_key_path)
        self.jobs = Jobs(self.store)
        self.index = Index(MIN_QUALITY, remote=bool(settings.search_url))
        self._remote: Remote | None = None
        self.search_answers = True  # as of the last look at the search back-end
        self.watch = Watch(self.record, self.index, _tell)
        self.matcher = Matcher(self.record, self.index)
        self.closer = CloserLook(self.record)
        self.enroller = Enroller(self.record, self.index)
        self.lists = ListEnroller(self.record, self.index, self.enroller.guard)
        self.companions = CompanionEnroller(self.record)
        self._replay_withdrawals()
        self._pool: Pool | None = None
        self.fetcher = Fetcher(settings.fetch_rules(), worker_environment(), enabled=settings.fetch_enabled)
        self._pool_lock, self._remote_lock = threading.Lock(), threading.Lock()

    def _replay_withdrawals(self) -> None:
        """Withdraw what an older store brought back, before anything is answered."""
        known = self.tombstones.known()
        self.withdrawals.replay(known.content_ids, known.banks)
        self.store.keep_tombstones = self.tombstones.append

    def load_index(self) -> None:
        """Load the index cache, or what of it agrees with the record, and take in the rest.

        With a search back-end SearchUnavailable, and IndexNotReady while another process fills it.
        """
        self.index.load(self.settings.index_path, self.record)
        self._rest()
        self.index.refresh(self.record)
        if not self.index.ready:
            raise IndexNotReady("more is new than is held here; it waits for the search back-end")

    def _rest(self, waiting: int | None = None) -> None:
        """Look after the search back-end, if there is one, and let the index rest on it."""
        if self.settings.search_url:
            with self._search_told():
                self.index.rest(self.remote.base(waiting), self.record)

    def probe_search(self) -> None:
        """See whether the search back-end answers, if there is one; SearchUnavailable."""
        if self.settings.search_url:
            with self._search_told():
                self.remote.probe()

    @contextmanager
    def _search_told(self) -> Iterator[None]:
        """Note whether the search back-end answers."""
        try:
            yield
        except SearchUnavailable:
            self.search_answers = False
            raise
        self.search_answers = True

    @property
    def remote(self) -> Remote:
        """The search back-end, connected at first use; SearchUnavailable."""
        with self._remote_lock:
            if self._remote is None:
                url, timeout_s = self.settings.search_url, self.settings.search_timeout_s
                self._remote = remote.opened(self.record, url, timeout_s, MIN_QUALITY)
            return self._remote

    def save_index(self) -> None:
        """Write the index cache, if there is an index yet; it may fail, since it is only a cache."""
        if not self.index.ready:
            return
        with suppress(OSError, StoreBroken):
            self.settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.index.save(self.settings.index_path, self.record)

    def leave_index(self) -> None:
        """Write the index cache at the end if it lacks anything, and if that is done within moments.

        What a large one lacks the next start reads from the record.
        """
        small = len(self.index) <= SAVED_AT_STOP and self.index.sizes()[SignalType.KEYPOINTS.value] <= SKETCHES_AT_STOP
        if small and self.index.lacks(self.settings.index_path):
            self.save_index()

    def tend_index(self) -> None:
        """Put the index in order, and write its cache where it lacks much. For a thread of its own.

        StoreBroken; with a search back-end SearchUnavailable, IndexNotReady.
        """
        self._rest(self.index.held)
        with suppress(OSError):
            self.index.tend(self.settings.index_path, self.record)

    @property
    def current(self) -> bool:
        """Whether the index is loaded, and was compared with the store recently enough to answer from."""
        return self.index.ready and self.watch.age_s <= self.settings.max_staleness_s

    @property
    def pool(self) -> Pool:
        """The worker processes, started at first use; SandboxMissing, UnhashableMedia."""
        with self._pool_lock:
            if self._pool is None:
                self._pool = Pool(self.settings.worker_count, worker_environment(), self.settings.sandbox)
            return self._pool

    @property
    def layers(self) -> frozenset[str]:
        """Which layers of the cage hold in the workers, once there are any."""
        return frozenset() if self._pool is None else self._pool.layers

    def _check_plan(self, banks: Sequence[str] | None, reach: Reach) -> Plan:
        """Return how a query of these banks is hashed.

        PDQ is always taken: its quality tells a picture without features from one that is unknown.
        """
        limits = self.settings.limits(self.settings.check_timeout_s)
        return Plan(Sampling.SPARSE, self.matcher.signal_types(banks, reach) | {SignalType.PDQ}, limits)

    def hash_for_bank(self, data: bytes, types: Iterable[SignalType]) -> Signal:
        """Hash media as closely as an enrolment does."""
        limits = self.settings.limits(self.settings.enroll_timeout_s)
        return self.pool.hash_media(data, Plan(Sampling.DENSE, frozenset(types), limits))

    def hash_for_show(self, data: bytes, types: Iterable[SignalType]) -> Signal:
        """Hash media for whoever wants the hashes themselves; InvalidHash for a type without a hex form."""
        if SignalType.KEYPOINTS in types:
            raise InvalidHash("keypoints have no hex form: check or enroll the media itself")
        return self.hash_for_bank(data, types)

    def check_media(
        self, data: bytes, banks: Sequence[str] | None, keep: Keep = _keep_nothing, reach: Reach = EVERYTHING
    ) -> Answer:
        """Judge media; a MediaError if it is none. `keep` is told the signal and its answer."""
        plan = self._check_plan(banks, reach)
        with self.pool.open(data, plan) as opened:
            answer = self.matcher.match(opened.signal, banks, opened.confirm, opened.tell, reach)
            keep(opened.signal, answer)
            wanted = spans(answer.matches, opened.signal)
            return self._look_closer(answer, opened, data, replace(plan, spans=wanted)) if wanted else answer

    def _look_closer(self, answer: Answer, opened: Opened, data: bytes, plan: Plan) -> Answer:
        """Tell the times of what was found well; they stay as they are where the worker cannot look again."""
        try:
            closer = opened.look(data, replace(plan, sampling=Sampling.CLOSE))
            matches = self.closer.retimed(answer.matches, opened.signal, closer, opened.confirm)
        except MediaError:
            return answer
        return replace(answer, matches=matches)

    def check_hashes(self, hashes: Sequence[ReadyHash], banks: Sequence[str] | None, keep: Keep = _keep_nothing,
                     reach: Reach = EVERYTHING) -> Answer:  # fmt: skip
        """Judge ready-made hashes as one piece of media."""
        signal = signal_of(hashes)
        answer = self.matcher.match(signal, banks, reach=reach)
        keep(signal, answer)
        return answer

    def check_lists(self, lists: Iterable[Sequence[ReadyHash]], banks: Sequence[str] | None) -> list[Answer]:
        """Judge ready-made hashes of many pieces of media, each by itself, by one search."""
        return self.matcher.match_all([Query(signal_of(hashes)) for hashes in lists], banks)

    def enroll_media(
        self, bank: str, data: bytes, case: str | None, labels: Sequence[str], lawful: Sequence[Original] = (), *,
        source: str | None = None, actor: str,
    ) -> Enrolled:  # fmt: skip
        """Enroll media in a bank, with its lawful originals; the originals are read before anything is written."""
        signal = self.hash_for_bank(data, self.record.settings_of(bank).signal_types)
        return self._enroll(bank, Submission(signal, case, tuple(labels), source), lawful, actor)

    def enroll_hashes(
        self, bank: str, hashes: Sequence[ReadyHash], case: str | None, labels: Sequence[str],
        lawful: Sequence[Original] = (), *, source: str | None = None, actor: str,
    ) -> Enrolled:  # fmt: skip
        """Enroll ready-made hashes as one content, with its lawful originals."""
        return self._enroll(bank, Submission(signal_of(hashes), case, tuple(labels), source), lawful, actor)

    def _enroll(self, bank: str, submission: Submission, lawful: Sequence[Original], actor: str) -> Enrolled:
        companions = [self._companion(bank, original) for original in lawful]
        for companion in companions:
            check_differs(submission.signal, companion.signal)
        done = self.enroller.enroll(bank, submission, actor=actor)
        added = [self.companions.add(bank, done.content_id, one, actor=actor) for one in companions]
        return replace(done, companions=tuple(added))

    def _companion(self, bank: str, original: Original) -> Lawful:
        if not isinstance(original, bytes):
            return Lawful(signal_of(original))
        types = self.record.settings_of(bank).signal_types
        limits = self.settings.limits(self.settings.enroll_timeout_s)
        plan = Plan(Sampling.DENSE, frozenset(types), limits)
        signal = self.pool.hash_media(original, replace(plan, types=plan.types - {SignalType.KEYPOINTS}))
        if not len(signal.frames) and signal.reason is not None:
            raise UnhashableMedia(signal.reason)
        return Lawful(signal, partial(self.pool.lay_over, original, plan))

    def contents(self, content_ids: Sequence[str]) -> tuple[Content, ...]:
        """Return contents of any bank; UnknownContent if one of the ids is unknown."""
        found = self.record.contents_by_id(content_ids)
        missing = set(content_ids) - {content.content_id for content in found}
        if missing:
            raise UnknownContent(f"there is no content {', '.join(sorted(missing))}")
        return found

    def release(self, bank: str, content_id: str, reasons: Sequence[Hold], *, actor: str) -> int:
        """Let what is held of a content match; returns how many rows. UnknownBank, UnknownContent."""
        found = self.record.content(bank, content_id)
        return self.record.holds.release(found.content_pk, content_id, reasons, actor=actor)

    def hold_again(self, bank: str, content_id: str, reasons: Sequence[Hold], *, actor: str) -> int:
        """Take a release back; returns how many hashes and sketches. UnknownBank, UnknownContent."""
        found = self.record.content(bank, content_id)
        return self.record.holds.restore(found.content_pk, content_id, reasons, actor=actor)

    def withdraw(self, content_ids: Sequence[str], *, reason: str, actor: str) -> list[tuple[str, int]]:
        """Withdraw contents of any bank; UnknownContent if one of the ids is unknown, then none is."""
        return [(c.content_id, self._withdraw(c, reason, actor)) for c in self.contents(content_ids)]

    def withdraw_from(self, bank: str, content_id: str, *, reason: str, actor: str) -> int:
        """Withdraw one content of a bank; UnknownBank, UnknownContent."""
        return self._withdraw(self.record.content(bank, content_id), reason, actor)

    def _withdraw(self, content: Content, reason: str, actor: str) -> int:
        revision = self.record.withdraw(content, reason=reason, actor=actor)
        self.drop_cache()
        return revision

    def delete_bank(self, name: str, *, actor: str) -> None:
        """Delete a bank with all its contents; UnknownBank."""
        self.record.delete_bank(name, actor=actor)
        self.drop_cache()

    def drop_cache(self) -> list[Path]:
        """Unlink the index cache, and what is being written of one: it has the hashes of what was just erased."""
        path = self.settings.index_path
        files = list(path.parent.glob(f"{path.name}*"))
        for file in files:
            file.unlink(missing_ok=True)
        return files

    def read_media(self, path: Path) -> bytes:
        """Read a file, but no more of it than is taken."""
        with path.open("rb") as file:
            return file.read(self.settings.max_body_bytes + 1)

    def close(self) -> None:
        """End the watch and the workers, and close the store."""
        self.watch.stop()
        self.fetcher.close()
        if self._pool is not None:
            self._pool.close()
        if self._remote is not None:
            self._remote.close()
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
