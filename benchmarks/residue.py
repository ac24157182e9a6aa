"""`python -m benchmarks.residue`: what is left of withdrawn hashes in a store's files, before and after an erasure.

SQLite overwrites what a withdrawal deletes (`secure_delete`), but leaves copies where it moved rows
between pages. Counted in the raw bytes of the files. Also how long erasing, backing up and restoring take.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import crashes
from benchmarks.measure import machine
from hashing.signals import Kind, Media, Signal
from indexer.enroll import Submission
from service import upkeep
from service.engine import Engine
from service.settings import read_settings

_BATCH = 500


def _signal(seed: int, frames: int) -> Signal:
    rows = crashes.frames(seed, frames)
    rows["timestamp_s"] = rows["until_s"] = np.arange(frames)
    media = Media(Kind.VIDEO, crashes.digest(seed).hex(), 640, 480, float(frames), frames)
    return Signal(media, rows, crashes.content(seed).exact)


def left(home: Path, seeds: list[int]) -> int:
    """Count the withdrawn contents of which a digest is in some file."""
    data = b"".join(path.read_bytes() for path in home.iterdir())
    return sum(crashes.digest(seed) in data or crashes.digest(seed).hex().encode() in data for seed in seeds)


def timed(work: Callable[[], Any]) -> float:
    """Return how many seconds it took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(home: Path, contents: int, frames: int) -> dict[str, Any]:
    """Fill a store, withdraw a tenth of it, and look."""
    folder = home.parent
    with Engine(read_settings({"STAYDOWN_HOME": str(home)})) as engine:
        engine.record.create_bank("b", actor="bench")
        ids: list[str] = []
        for start in range(0, contents, _BATCH):
            new = [Submission(_signal(seed, frames)) for seed in range(start, start + _BATCH)]
            ids += [done.content_id for done in engine.enroller.enroll_many("b", new, actor="bench")]
        gone = sorted(np.random.default_rng(1).choice(contents, contents // 10, replace=False).tolist())
        backup_s = timed(lambda: upkeep.back_up(engine, folder / "backup", actor="bench"))
        size = (folder / "backup").stat().st_size
        engine.withdraw([ids[seed] for seed in gone], reason="bench", actor="bench")
        before = left(home, gone)
        (folder / "backup").unlink()
        erase_s = timed(lambda: upkeep.erase(engine))
        after = left(home, gone)
        upkeep.back_up(engine, folder / "backup2", actor="bench")
    with Engine(read_settings({"STAYDOWN_HOME": str(folder / "new")})) as empty:
        lists = [home / "withdrawals.jsonl"]
        restore_s = timed(lambda: upkeep.restore(empty, folder / "backup2", lists))
    return {"hashes": contents * (frames + 1), "withdrawn": len(gone), "left before erasure": before,
            "left after": after, "backup MB": round(size / 1e6, 1), "backup s": round(backup_s, 2),
            "erase s": round(erase_s, 2), "restore s": round(restore_s, 2)}  # fmt: skip


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="benchmarks.residue")
    parser.add_argument("--contents", type=int, default=5000)
    parser.add_argument("--frames", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="staydown-residue-") as name:
        found = measure(Path(name) / "home", asked.contents, asked.frames)
    facts = machine()
    print(f"{facts['CPU']}, {facts['cores']} cores, SQLite\n")
    print("| " + " | ".join(found) + " |\n|" + " --: |" * len(found))
    print("| " + " | ".join(map(str, found.values())) + " |")


if __name__ == "__main__":
    main()
