"""`staydown doctor`: looks at settings, store, index and workers, and says what disagrees. Repairs nothing."""

from dataclasses import dataclass

from hashing.errors import StaydownError
from hashing.hasher import Plan
from indexer.index import Index
from indexer.policy import MIN_QUALITY
from service.engine import Engine

# A 1×1 GIF: small enough to write down, and enough to see a worker answer.
_PIXEL = bytes.fromhex("47494638376101000100800000000000ffffff2c00000000010001000002024401003b")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    ok: bool
    detail: str


def _audit(engine: Engine) -> Finding:
    count, broken = engine.ledger.verify()
    return Finding("audit log", broken is None, f"{count} entries" if broken is None else f"broken at entry {broken}")


def _index_cache(engine: Engine) -> Finding:
    path = engine.settings.index_path
    if not path.exists():
        return Finding("index cache", True, "none; it is made when the service stops")
    cache = Index(MIN_QUALITY)
    loaded = cache.load(path, engine.record)
    detail = f"revision {cache.revision}" if loaded else "disagrees with the record; it will be rebuilt"
    return Finding("index cache", loaded, detail)


def _workers(engine: Engine) -> Finding:
    try:
        signal = engine.pool.hash_media(_PIXEL, Plan())
    except StaydownError as error:
        return Finding("workers", False, error.word)
    answered = signal.reason is None and signal.media.frames_hashed == 1
    return Finding("workers", answered, f"{engine.pool.workers} processes" if answered else str(signal.reason))


def examine(engine: Engine) -> list[Finding]:
    """Look at everything."""
    contents, hashes = engine.record.counts()
    store = Finding("record", True, f"revision {engine.store.revision()}, {contents} contents, {hashes} frame hashes")
    keys = Finding("keys", True, f"{engine.ledger.count_keys()} valid")
    return [store, keys, _audit(engine), _index_cache(engine), _workers(engine)]
