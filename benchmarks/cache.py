"""`python -m benchmarks.cache`: what a start costs, with the index cache and without, and whether memory stays flat.

`starts` fills a record with random hashes and sketches (once a folder), then starts in
processes of their own: from the record alone, after which tables are made and the cache
is written, from the cache, and from the cache with a withdrawal after it. Each answers
queries for known hashes, or the run fails.

`changes` enrolls and withdraws, compacts, saves, and tells the memory after each compaction.
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import ONE_THREAD, machine
from hashing.signals import (
    FRAME_DTYPE,
    HASH_BYTES,
    PROFILE_OF_TYPE,
    SKETCH_DTYPE,
    Frames,
    Kind,
    Media,
    SignalType,
    Sketches,
    no_sketches,
)
from indexer.contents import NewContent
from indexer.index import Index
from indexer.policy import MIN_QUALITY, POLICIES
from indexer.record import Record
from indexer.store import Store

PDQ = SignalType.PDQ
ROWS = 5_000  # hashes a content
MIB = 1 << 20


def frames_of(number: int, count: int) -> Frames:
    """Return the rows of one content, random but always the same."""
    rows = np.zeros(count, FRAME_DTYPE)
    rows["profile"], rows["quality"] = PROFILE_OF_TYPE[PDQ], 100
    rows["timestamp_s"] = rows["until_s"] = np.arange(count)
    rows["hash"] = np.random.default_rng(number).integers(0, 256, (count, HASH_BYTES), np.uint8)
    return rows


def sketches_of(number: int, count: int) -> Sketches:
    """Return random sketches of 300 descriptors each."""
    rows, chance = np.zeros(count, SKETCH_DTYPE), np.random.default_rng(number)
    rows["timestamp_s"] = rows["until_s"] = np.arange(count)
    rows["width"], rows["height"], rows["count"] = 512, 384, 300
    rows["keypoints"]["code"][:, :300] = chance.integers(0, 256, (count, 300, HASH_BYTES), np.uint8)
    return rows


def memory_mib() -> dict[str, int]:
    """Return what of this process is resident, and what of that is its own; the rest are pages of files."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    rollup = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return {name: int(rollup[name].split()[0]) // 1024 for name in ("Rss", "Anonymous")}


class Peak:
    """The most memory of its own that this process had meanwhile, and the most in all, sampled."""

    def __enter__(self) -> "Peak":
        self.own_mib, self.all_mib, self._ended = 0, 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._ended.wait(0.02):
            status = Path("/proc/self/status").read_text()
            own, all_ = (int(status.partition(name)[2].split()[0]) // 1024 for name in ("RssAnon:", "VmRSS:"))
            self.own_mib, self.all_mib = max(self.own_mib, own), max(self.all_mib, all_)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def new_content(number: int, rows: int, sketches: int = 0) -> NewContent:
    """Return a video with so many hashes and sketches."""
    drawn = sketches_of(number, sketches) if sketches else no_sketches()
    return NewContent(f"{number:x}", Media(Kind.VIDEO), frames_of(number, rows), (), None, (), drawn)


def add_contents(record: Record, bank_pk: int, hashes: int, sketches: int = 0) -> None:
    """Write contents with so many hashes and sketches in all."""
    contents = max(1, hashes // ROWS)
    for start in range(0, contents, 20):
        news = [new_content(n, min(ROWS, hashes), sketches // contents) for n in range(start, start + 20)]
        with record.store.change("bench") as change:
            record.add_contents(change, bank_pk, news[: contents - start])


def fill(home: Path, hashes: int, sketches: int) -> None:
    """Write contents with so many hashes and sketches in all, unless there are some."""
    store = Store(f"sqlite:///{home / 'staydown.db'}")
    record = Record(store)
    if not record.bank_names():
        add_contents(record, record.create_bank("b", actor="bench").bank_pk, hashes, sketches)
    store.close()


def asked_of(hashes: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return 64 known codes and the keys that they have, since keys are given out in order."""
    contents = max(1, hashes // ROWS)
    chosen = [(n * contents // 64, (n * 77) % min(ROWS, hashes)) for n in range(64)]
    codes = np.stack([frames_of(content, min(ROWS, hashes))["hash"][row] for content, row in chosen])
    return codes, np.array([content * ROWS + row + 1 for content, row in chosen])


def start(home: Path, hashes: int, *, tend: bool, withdraw: bool) -> dict[str, Any]:
    """Start once, here: load, refresh, answer; if asked for, withdraw something, and put the index in order."""
    with Peak() as peak:
        told = _start(home, hashes, tend=tend, withdraw=withdraw)
    return told | {"peak_own_mib": peak.own_mib, "peak_mib": peak.all_mib}


def _start(home: Path, hashes: int, *, tend: bool, withdraw: bool) -> dict[str, Any]:
    before, began = memory_mib(), time.perf_counter()
    store = Store(f"sqlite:///{home / 'staydown.db'}")
    record, index, path = Record(store), Index(MIN_QUALITY), home / "index.cache"
    loaded = index.load(path, record)
    index.refresh(record)
    told: dict[str, Any] = {"from": "cache" if loaded else "record", "start_s": time.perf_counter() - began}
    told["hashes"] = index.sizes()
    told |= answered(index, hashes)
    if withdraw:
        [last] = record.contents_by_pk([max(1, hashes // ROWS)]).values()
        record.withdraw(last, reason="bench", actor="bench")
        path.unlink()
    if tend:
        began = time.perf_counter()
        index.tend(path, record)
        told["tend_s"], told["cache_mib"] = time.perf_counter() - began, path.stat().st_size // MIB
        told |= {"hashes_left": len(index)} if withdraw else answered(index, hashes)
    told["memory_mib"] = {name: value - before[name] for name, value in memory_mib().items()}
    store.close()
    return told


def answered(index: Index, hashes: int) -> dict[str, float]:
    """Search at both radii of the default policy; return milliseconds a query of a batch of 16."""
    codes, keys = asked_of(hashes)
    threshold, told = POLICIES["default"].thresholds[PDQ], {}
    for radius_bits in (threshold.match_bits, threshold.review_bits):
        began = time.perf_counter()
        for first in range(0, 64, 16):
            hits = index.search(PDQ, codes[first : first + 16], radius_bits)
            if not set(keys[first : first + 16].tolist()) <= set(hits.signal_pk.tolist()):
                raise SystemExit("a known hash was not found")
        told[f"query_at_{radius_bits}_ms"] = (time.perf_counter() - began) / 64 * 1000
    return told


def starts(home: Path, hashes: int, sketches: int) -> Iterator[dict[str, Any]]:
    """Start without the cache and write it, then with it, twice."""
    fill(home, hashes, sketches)
    (home / "index.cache").unlink(missing_ok=True)
    for how in (["--tend"], [], [], ["--tend", "--withdraw"]):
        asked = [sys.executable, "-m", "benchmarks.cache", "start", "--home", str(home), "--hashes", str(hashes)]
        done = subprocess.run([*asked, *how], env=os.environ | ONE_THREAD, check=True,
                              capture_output=True, text=True)  # fmt: skip
        yield json.loads(done.stdout)


def changes(home: Path, bank_of: int, times: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Enroll and withdraw so many times, over a bank that stays; compact and save so many times in between."""
    fill(home, bank_of, 0)
    store = Store(f"sqlite:///{home / 'staydown.db'}")
    record, index, path = Record(store), Index(MIN_QUALITY), home / "index.cache"
    bank = record.settings_of("b")
    index.load(path, record)
    index.refresh(record)
    for number in range(rounds):
        for turn in range(times // rounds):
            name = 1_000_000 + number * times + turn
            with store.change("bench") as change:
                [known] = record.add_contents(change, bank.bank_pk, [new_content(name, 40, 1)]).values()
            index.refresh(record)
            [content] = record.contents_by_id([known.content_id])
            record.withdraw(content, reason="bench", actor="bench")
            index.refresh(record)
        index.save(path, record)
        yield {
            "compaction": number + 1,
            "changes": (number + 1) * (times // rounds) * 2,
            "hashes": len(index),
        } | memory_mib()
    if len(index) != record.counts()[1]:
        raise SystemExit("the index holds something else than the record")
    store.close()


def _flat(told: list[dict[str, Any]]) -> int:
    """Say how the memory of the last compactions stands to that of the first; 1 if it grew by more than 5 %."""
    settled, last = told[len(told) // 10 : len(told) // 5], told[-max(1, len(told) // 10) :]
    before, after = (sum(one["Anonymous"] for one in some) / len(some) for some in (settled, last))
    print(f"own memory at the end / after the first compactions: {after / before:.3f}")
    return int(after > 1.05 * before)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="benchmarks.cache")
    parser.add_argument("what", choices=("starts", "changes", "start"))
    parser.add_argument("--home", type=Path, help="a folder to keep; default: one that is deleted in the end")
    parser.add_argument("--hashes", type=int, default=1_000_000)
    parser.add_argument("--sketches", type=int, default=0)
    parser.add_argument("--changes", type=int, default=5_000, help="enrolments, each with its withdrawal")
    parser.add_argument("--compactions", type=int, default=100)
    parser.add_argument("--tend", action="store_true", help="of one start: put the index in order, write the cache")
    parser.add_argument("--withdraw", action="store_true", help="of one start: withdraw a content before that")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="staydown-bench-") as folder:
        home = asked.home or Path(folder)
        home.mkdir(parents=True, exist_ok=True)
        if asked.what == "start":
            print(json.dumps(start(home, asked.hashes, tend=asked.tend, withdraw=asked.withdraw)))
            return 0
        print(json.dumps(machine()))
        found = starts(home, asked.hashes, asked.sketches) if asked.what == "starts" else changes(
            home, asked.hashes, asked.changes, asked.compactions)  # fmt: skip
        told = []
        for one in found:
            told.append(one)
            print(json.dumps(one), flush=True)
        return _flat(told) if asked.what == "changes" else 0


if __name__ == "__main__":
    sys.exit(main())
