"""Looking after a store: backup, restore, erasure; and the thread in which the service erases by itself."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from indexer import backup, sealing
from indexer.engines import is_server
from indexer.erasure import Eraser, Place, Receipt
from indexer.errors import IndexerError, WithdrawalsUnknown
from indexer.tombstones import Known, Tombstones, joined
from indexer.withdrawals import BACKUP
from service.engine import Engine
from service.logs import log

SEARCH = "search back-end"
EVERY_S, STOP_S = 300.0, 1.0
_SHARE = 0.01  # of the time, at most, in which others wait for an erasure to write


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored, and what is known of withdrawals since."""

    seal: backup.Seal
    known: Known


def eraser(engine: Engine) -> Eraser:
    """Return what erases this store's withdrawn content."""
    return Eraser(engine.store, engine.withdrawals, engine.drop_cache, lambda: _erase_search(engine))


def _erase_search(engine: Engine) -> list[Place]:
    """Erase in the search back-end, if there is one."""
    if not engine.settings.search_url:
        return []
    try:
        stored = engine.remote.erase()
    except IndexerError as error:
        return [Place(SEARCH, "left", f"left as it is: {error.word}")]
    return [
        Place(SEARCH, "gone", f"deleted, and its files written anew: {stored} hashes in them, as many as are live"),
        Place(f"{SEARCH}, older files", "unknown", "gone when its garbage collection and message log have let go"),
    ]


def erase(engine: Engine) -> Receipt:
    """Make sure that what was withdrawn is physically gone."""
    engine.tombstones.complete(engine.withdrawals)
    return eraser(engine).erase(engine.tombstones.known())


def seal_if_new(engine: Engine) -> None:
    """Seal a store in which there is nothing yet, unless told otherwise; KeyFileBroken.

    On a database that other machines use too, only where a key file was set: each machine would make its own.
    """
    settings, store = engine.settings, engine.store
    own_keys = settings.key_file is not None or not is_server(store.engine)
    if settings.seal_new_store and own_keys and sealing.sealed_with(store) is None and sealing.is_new(store):
        sealing.make_key_file(settings.key_path)
        sealing.write_with(store, settings.key_path, actor="serve")


def seal(engine: Engine, told: sealing.Progress, *, rotate: bool, actor: str) -> int:
    """Seal every row with the last key of the key file, a new one if asked; returns how many rows there were.

    KeyFileBroken, KeyMissing. What was interrupted goes on.
    """
    path = engine.settings.key_path
    if sealing.sealed_with(engine.store) is None:
        sealing.make_key_file(path)
    elif rotate:
        sealing.add_key(path)
    key_id = sealing.write_with(engine.store, path, actor=actor)
    rows = sealing.seal_rows(engine.store, told)
    if rows:
        engine.drop_cache()
        with engine.store.change(actor, counted=False) as change:
            change.log("store.sealed", key_id, rows=rows)
    return rows


def back_up(engine: Engine, path: Path, *, actor: str) -> backup.Seal:
    """Write a backup, and remember where; BackupExists."""
    path = path.absolute()
    engine.tombstones.complete(engine.withdrawals)
    seal = backup.write(engine.store, path)
    with engine.store.change(actor, counted=False) as change:
        change.log(BACKUP, str(path), revision=seal.revision, contents=seal.contents)
    return seal


def restore(engine: Engine, path: Path, lists: Sequence[Path], *, without: bool = False) -> Restored:
    """Put a backup into an empty store, without what is known to be withdrawn.

    InvalidBackup, StoreNotEmpty, and WithdrawalsUnknown if no list is there or one is damaged,
    unless that is accepted by `without`. What other lists tell is taken into our own first: a
    restore that is cut short forgets none of it.
    """
    files = [engine.tombstones.path, *lists]
    missing = [file for file in lists if not file.exists()]
    known = joined(Tombstones(file).known() for file in files)
    if not without and (missing or known.damaged_lines or not any(file.exists() for file in files)):
        raise WithdrawalsUnknown
    engine.tombstones.take_in(known)
    seal = backup.restore(path, engine.store, known)
    engine.drop_cache()
    return Restored(seal, known)


def paced(ended: threading.Event, action: Callable[[], object], every_s: float, share: float, failed: str) -> None:
    """Do something from time to time until the end, and for at most a share of the time; `failed` is logged."""
    wait_s = every_s
    while not ended.wait(wait_s):
        start = time.monotonic()
        try:
            action()
        except IndexerError as error:  # what it needs may come back
            log().error(failed, code=error.word)
        wait_s = max(every_s, (time.monotonic() - start) / share)


class Upkeep:
    """The thread that erases what was withdrawn, every few minutes if there is anything.

    Not on PostgreSQL: writing its tables anew locks them against checks too, on every machine.
    """

    def __init__(self, engine: Engine, every_s: float = EVERY_S) -> None:
        self._engine, self._every_s = engine, every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        """Begin."""
        if is_server(self._engine.store.engine):
            self._ended.set()
        self._thread.start()

    def stop(self) -> None:
        """End, without waiting for an erasure under way: it is whole or not done."""
        self._ended.set()
        self._thread.join(timeout=STOP_S)

    def _run(self) -> None:
        paced(self._ended, self._erase, self._every_s, _SHARE, "erasure waits")

    def _erase(self) -> None:
        if eraser(self._engine).pending():
            receipt = erase(self._engine)
            log().info("erased", receipt=receipt.receipt_id, contents=len(receipt.content_ids), left=receipt.left)
