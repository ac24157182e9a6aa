"""What sealing hashes at rest costs: an import, a start from the record, a start from the index cache, and memory.

    python -m benchmarks.sealed [--hashes N]

The same random hashes in a plain and in a sealed store on SQLite, in a folder that is removed again, each in a process
of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from hashing.signals import FRAME_DTYPE, PROFILE_OF_TYPE, SignalType
from indexer import sealing
from indexer.enroll import Enroller
from indexer.index import Index
from indexer.lists import HashList, ListEnroller
from indexer.policy import MIN_QUALITY
from indexer.record import Record
from indexer.store import Store

_AT_ONCE = 5000


def _timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _fill(record: Record, count: int) -> None:
    lists = ListEnroller(record, Index(MIN_QUALITY), Enroller(record, Index(MIN_QUALITY)).guard)
    chance = np.random.default_rng(1)
    for _ in range(count // _AT_ONCE):
        rows = np.zeros(_AT_ONCE, FRAME_DTYPE)
        rows["profile"], rows["quality"] = PROFILE_OF_TYPE[SignalType.PDQ], 100
        rows["timestamp_s"] = rows["until_s"] = np.nan
        rows["hash"] = chance.integers(0, 256, (_AT_ONCE, 32), np.uint8)
        ones = np.ones(_AT_ONCE, np.int64)
        lists.enroll("b", HashList(rows, ones, [None] * _AT_ONCE, [()] * _AT_ONCE), actor="bench")


def measure(folder: Path, count: int, sealed: bool) -> dict[str, float]:
    """Return the figures of one kind of store."""
    store, keys = Store(f"sqlite:///{folder / 's.db'}", key_file=folder / "keys"), folder / "keys"
    if sealed:
        sealing.make_key_file(keys)
        sealing.write_with(store, keys, actor="bench")
    record = Record(store)
    record.create_bank("b", actor="bench")
    figures = {"import_s": _timed(lambda: _fill(record, count))}
    figures["database_mb"] = (folder / "s.db").stat().st_size / 1e6
    index = Index(MIN_QUALITY)
    figures["start_from_record_s"] = _timed(lambda: index.refresh(record))
    figures["write_cache_s"] = _timed(lambda: index.save(folder / "cache", record))
    return figures


def start(folder: Path) -> dict[str, float]:
    """Return the figures of a start from the index cache, in a process that did nothing before."""
    record, index = Record(Store(f"sqlite:///{folder / 's.db'}", key_file=folder / "keys")), Index(MIN_QUALITY)
    record.store.revision()
    before = _own_mb()
    took = _timed(lambda: index.load(folder / "cache", record))
    return {"start_from_cache_s": took, "cache_own_mb": _own_mb() - before, "hashes": len(index)}


def _own_mb() -> float:
    """Return the memory of this process that the system cannot take back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon"))


def _in_process(*arguments: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-m", "benchmarks.sealed", *arguments], capture_output=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Measure both, and print a table; the parts run this file again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hashes", type=int, default=1_000_000)
    parser.add_argument("--part", nargs=2, metavar=("PART", "FOLDER"))
    asked = parser.parse_args()
    if asked.part:
        part, folder = asked.part[0], Path(asked.part[1])
        print(json.dumps(start(folder) if part == "start" else measure(folder, asked.hashes, part == "sealed")))
        return
    print(f"{asked.hashes} hashes")
    for kind in ("plain", "sealed"):
        with TemporaryDirectory() as made:
            figures = _in_process("--part", kind, made, "--hashes", str(asked.hashes))
            figures |= _in_process("--part", "start", made)
        print(kind, {name: round(value, 2) for name, value in figures.items()}, flush=True)
    print(f"largest child {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3:.0f} MB")


if __name__ == "__main__":
    main()
