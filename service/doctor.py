"""`staydown doctor`: holds record, index, snapshots and lists against each other, and says what disagrees.

Repairs nothing unless asked to, and then only what can be made anew from the record: the index cache,
the list of withdrawals, what killed processes left behind, hashes of what was withdrawn.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hashing.cage import LAYERS
from hashing.errors import StaydownError
from hashing.hasher import Plan
from hashing.signals import PERCEPTUAL, Frames, SignalType, profiles_of
from indexer.backup import verified
from indexer.errors import InvalidBackup
from indexer.index import Index
from indexer.policy import MIN_QUALITY
from indexer.sealing import sealed_with
from indexer.segments import Keys
from service.engine import Engine
from service.pepper import is_open

# A 1×1 GIF: small enough to write down, and enough to see a worker answer.
_PIXEL = bytes.fromhex("47494638376101000100800000000000ffffff2c00000000010001000002024401003b")
_LOOKED_UP = 2000  # hashes that are searched one by one; more cost minutes in a large bank, and counts tell of the rest


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `code` is a stable word for what is wrong, None if nothing is."""

    what: str
    code: str | None
    detail: str

    @property
    def ok(self) -> bool:
        """Whether it is as it should be."""
        return self.code is None


def _finding(what: str, code: str, bad: bool, detail: str) -> Finding:
    return Finding(what, code if bad else None, detail)


def _record(engine: Engine) -> Finding:
    contents, hashes = engine.record.counts()
    damage = engine.withdrawals.damage()
    said = f"revision {engine.store.revision()}, {contents} contents, {hashes} frame hashes"
    said += f", schema {engine.withdrawals.schema()}"
    return _finding("record", "record_damaged", bool(damage), "; ".join(damage) or said)


def _sealed(engine: Engine) -> Finding:
    key_id = sealed_with(engine.store)
    said = "plain: staydown seal" if key_id is None else f"written with key {key_id}"
    return Finding("hashes at rest", None, said)


def _keys(engine: Engine) -> Finding:
    unbound, foreign = engine.keys.unbound(), engine.keys.foreign()
    said = f"{engine.keys.count()} valid"
    if unbound:
        return Finding("keys", "keys_unbound", f"{said}; {unbound} open nothing until they are bound to the pepper")
    if foreign:
        return Finding("keys", "pepper_missing", f"{said}; {foreign} are bound to a pepper that is not here")
    return Finding("keys", None, said)


def _pepper(engine: Engine) -> Finding:
    path = engine.settings.pepper_path
    absent = "none: set STAYDOWN_KEY_PEPPER_FILE to a secret that all replicas share, then `staydown key bind`"
    if path is None:
        return Finding("pepper", "pepper_absent", absent)
    return _finding(
        "pepper", "pepper_open", is_open(path), "others may read it; chmod 600 it" if is_open(path) else "own"
    )


def _audit(engine: Engine) -> Finding:
    count, broken = engine.ledger.verify()
    said = f"{count} entries" if broken is None else f"broken at entry {broken}"
    return _finding("audit log", "audit_broken", broken is not None, said)


def _orphans(engine: Engine) -> Finding:
    count = engine.withdrawals.orphans()
    return _finding("withdrawn hashes", "withdrawn_hashes_kept", count > 0, f"{count} kept")


def _index_cache(engine: Engine) -> Finding:
    path = engine.settings.index_path
    if not path.exists():
        return Finding("index cache", None, "none; it is made when the service stops")
    cache = Index(MIN_QUALITY)
    loaded = cache.load(path, engine.record)
    detail = f"revision {cache.revision}" if loaded else "disagrees with the record; it will be rebuilt"
    return _finding("index cache", "index_cache_disagrees", not loaded, detail)


def _searchable(engine: Engine) -> Iterator[tuple[SignalType, Keys, Frames]]:
    for keys, frames in engine.record.signals_since(-1):
        for kind in PERCEPTUAL:
            chosen = (frames["quality"] >= MIN_QUALITY) & np.isin(frames["profile"], profiles_of(kind))
            yield kind, keys[chosen], frames[chosen]


def _index(engine: Engine) -> Finding:
    """Load the index as a service does, and compare it with the record: counts of all, and hashes one by one."""
    engine.load_index()
    engine.index.compact(engine.record)  # what was withdrawn since the cache was written goes later, and is never found
    expected = {kind.value: 0 for kind in PERCEPTUAL} | {SignalType.KEYPOINTS.value: len(engine.record.sketches.keys())}
    missing, left = 0, _LOOKED_UP
    for kind, keys, frames in _searchable(engine):
        expected[kind.value] += len(keys)
        some = slice(None, None, max(1, len(keys) // max(1, left)))
        for key, frame in zip(keys[some][:left], frames[some][:left], strict=True):
            missing += int(key) not in engine.index.search(kind, frame["hash"][None], 0).signal_pk
        left -= min(left, len(keys[some]))
    sizes = engine.index.sizes()
    wrong = {name: sizes[name] - count for name, count in expected.items() if sizes[name] != count}
    said = f"{sum(expected.values())} searchable, {missing} of {_LOOKED_UP - left} looked up are missing"
    said += "".join(f"; {name}: {count:+d}" for name, count in wrong.items())
    return _finding("index", "index_disagrees", bool(missing or wrong), said)


def _withdrawals(engine: Engine) -> Finding:
    known, missing = engine.tombstones.known(), engine.tombstones.missing(engine.withdrawals)
    said = f"{len(known.content_ids)} contents, {len(missing)} missing, {known.damaged_lines} damaged lines"
    return _finding("list of withdrawals", "withdrawals_incomplete", bool(missing or known.damaged_lines), said)


def _erasure(engine: Engine) -> Finding:
    last = engine.withdrawals.last_receipt()
    since = engine.withdrawals.gone_since(last["revision"] if last else -1)
    waiting = f"{len(since[0])} contents and {len(since[1])} banks wait"
    return Finding("erasure", None, f"last {last['at']}; {waiting}" if last else f"never; {waiting}")


def _parts(engine: Engine) -> list[Path]:
    """Return what killed processes left half written: `NAME.PID.part` and what SQLite puts beside it."""
    found = []
    for path in engine.settings.home.glob("*.part*"):
        pid = path.name.partition(".part")[0].rpartition(".")[2]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            found.append(path)
    return sorted(found)


def _leftovers(engine: Engine) -> Finding:
    found = _parts(engine)
    return _finding("leftovers", "leftovers", bool(found), ", ".join(path.name for path in found) or "none")


def _backups(engine: Engine) -> Finding:
    damaged, paths = [], [Path(path) for path in engine.withdrawals.backups()]
    there = [path for path in paths if path.exists()]
    for path in there:
        try:
            verified(path)
        except InvalidBackup:
            damaged.append(path.name)
    said = f"{len(there)} whole of {len(paths)} known" if not damaged else f"damaged: {', '.join(damaged)}"
    return _finding("backups", "backup_damaged", bool(damaged), said)


def _workers(engine: Engine) -> Finding:
    try:
        signal = engine.pool.hash_media(_PIXEL, Plan())
    except StaydownError as error:
        return Finding("workers", "workers_fail", error.word)
    answered = signal.reason is None and signal.media.frames_hashed == 1
    said = f"{engine.pool.workers} processes" if answered else str(signal.reason)
    return _finding("workers", "workers_fail", not answered, said)


def _sandbox(engine: Engine) -> Finding:
    wanted = engine.settings.sandbox
    try:
        held = engine.pool.layers
    except StaydownError as error:
        return Finding("sandbox", error.word, str(error))
    missing = [layer for layer in LAYERS if layer not in held]
    said = f"{wanted.value}: {', '.join(layer for layer in LAYERS if layer in held) or 'nothing'} holds"
    return _finding("sandbox", "sandbox_missing", bool(missing), said)


LOOKS: tuple[Callable[[Engine], Finding], ...] = (
    _record, _sealed, _pepper, _keys, _audit, _orphans, _index_cache, _index, _withdrawals, _erasure, _leftovers,
    _backups, _workers, _sandbox,
)  # fmt: skip


def examine(engine: Engine) -> list[Finding]:
    """Look at everything."""
    return [look(engine) for look in LOOKS]


def _remove_parts(engine: Engine) -> None:
    for path in _parts(engine):
        path.unlink(missing_ok=True)


REPAIRS: dict[str, Callable[[Engine], object]] = {
    "keys_unbound": lambda engine: engine.keys.bind(actor="doctor"),
    "withdrawn_hashes_kept": lambda engine: engine.withdrawals.delete_orphans(),
    "index_cache_disagrees": lambda engine: engine.drop_cache(),
    "withdrawals_incomplete": lambda engine: engine.tombstones.rewrite(engine.withdrawals),
    "leftovers": _remove_parts,
}


def repair(engine: Engine, findings: list[Finding]) -> list[str]:
    """Make anew what can be; returns the words of what was repaired."""
    words = [finding.code for finding in findings if finding.code is not None and finding.code in REPAIRS]
    for word in words:
        REPAIRS[word](engine)
    return words
