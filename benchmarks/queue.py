"""Items a second of a rescan: on this machine alone, and queued for one and for two workers, on one PostgreSQL.

`python -m benchmarks.queue [--hashes 100000] [--items 10000] [--pictures 400]`: first hashes, of which
every tenth is near a known one, then pictures. The server is the tests' own (`tests/postgres.py`), with fsync
on. Each run is the real commands; its time is the submitter's, from its start to its end, starting included.
The lines have to be the same each time. All of it shares this machine's cores, so that two workers show
what the queue costs and that they share the work, and not what a second machine would bring.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import corpus
from hashing.signals import FRAME_DTYPE, PROFILE_OF_TYPE, Kind, Media, Signal, SignalType
from indexer.enroll import Submission
from service.engine import Engine
from service.settings import read_settings

_TESTS = Path(__file__).parent.parent / "tests"
_COMMAND = Path(sys.executable).with_name("staydown")
_WAIT_S = 120.0


def _codes(seed: int, count: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, 32), dtype=np.uint8)


def _fill(url: str, home: Path, count: int) -> None:
    """Enroll random hashes, a hundred a content."""
    settings = read_settings({"STAYDOWN_HOME": str(home), "STAYDOWN_DATABASE_URL": url})
    with Engine(settings) as engine:
        engine.record.create_bank("b", actor="benchmark")
        codes = _codes(1, count).reshape(-1, 100, 32)
        for part in np.array_split(codes, max(1, len(codes) // 100)):
            engine.enroller.enroll_many("b", [Submission(_signal(rows)) for rows in part], actor="benchmark")


def _signal(codes: Any) -> Signal:
    rows = np.zeros(len(codes), FRAME_DTYPE)
    rows["profile"], rows["quality"] = PROFILE_OF_TYPE[SignalType.PDQ], 100
    rows["timestamp_s"] = rows["until_s"] = np.arange(len(codes)) / 10
    rows["hash"] = codes
    return Signal(Media(Kind.VIDEO, None, 640, 360, len(codes) / 10, len(codes)), rows)


def _hash_list(path: Path, count: int, known: int) -> None:
    codes = _codes(2, count)
    codes[::10] = _codes(1, known)[: len(codes[::10])]
    with path.open("w") as file:
        for code in codes:
            signal_ = {"signal_type": "pdq", "hash": code.tobytes().hex(), "quality": 100}
            file.write(json.dumps({"signals": [signal_]}) + "\n")


def _pictures(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:05}.jpg").write_bytes(corpus.jpeg(corpus.picture(number, 512, 512), 90))


def _environment(url: str, home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STAYDOWN_")}
    return kept | {"STAYDOWN_DATABASE_URL": url, "STAYDOWN_HOME": str(home)}


@contextmanager
def _worker(url: str, home: Path) -> Iterator[None]:
    """Run a worker with one process to decode, ready when the block begins."""
    home.mkdir(exist_ok=True)
    log = home / "log"
    with log.open("wb") as told:
        process = subprocess.Popen([_COMMAND, "worker", "--concurrency", "1"], env=_environment(url, home), stderr=told)
    try:
        deadline = time.monotonic() + _WAIT_S
        while "worker ready" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text())
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_WAIT_S)


def _rescan(url: str, folder: Path, source: Path, *more: str) -> tuple[float, list[str]]:
    """Rescan; returns the seconds it took, and its lines without what differs from run to run, sorted."""
    out = folder / "out.jsonl"
    out.unlink(missing_ok=True)
    start = time.monotonic()
    done = subprocess.run([_COMMAND, "rescan", source, "--out", out, *more], env=_environment(url, folder / "home"),
                          capture_output=True, text=True, check=False)  # fmt: skip
    seconds = time.monotonic() - start
    if done.returncode == 2:
        raise RuntimeError(done.stderr)
    lines = [json.loads(line) | {"request_id": ""} for line in out.read_text().splitlines()]
    return seconds, sorted(map(json.dumps, lines))


def _compare(url: str, folder: Path, source: Path, what: str) -> None:
    """Print one row a way of doing it."""
    seconds, wanted = _rescan(url, folder, source, "--workers", "1")
    print(f"{what}: here, one process   {len(wanted) / seconds:8.0f} items/s  (n = {len(wanted)}, {seconds:.1f} s)")
    seconds, lines = _rescan(url, folder, source, "--workers", "2")
    print(f"{what}: here, two processes {len(lines) / seconds:8.0f} items/s  ({seconds:.1f} s)")
    for count in (1, 2):
        with ExitStack() as workers:
            for number in range(count):
                workers.enter_context(_worker(url, folder / f"worker-{number}"))
            seconds, lines = _rescan(url, folder, source, "--queue")
        same = "the same lines" if lines == wanted else "OTHER LINES"
        print(f"{what}: queued, {count} worker(s) {len(lines) / seconds:8.0f} items/s  ({seconds:.1f} s), {same}")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hashes", type=int, default=100_000, help="known")
    parser.add_argument("--items", type=int, default=10_000, help="hashes asked about")
    parser.add_argument("--pictures", type=int, default=400)
    asked = parser.parse_args()
    sys.path.insert(0, str(_TESTS))
    with import_module("postgres").running(fsync=True) as server, tempfile.TemporaryDirectory() as name:
        folder, url = Path(name), server.new_database()
        _fill(url, folder / "home", asked.hashes)
        _hash_list(folder / "hashes.jsonl", asked.items, asked.hashes)
        _pictures(folder / "pictures", asked.pictures)
        print(f"{asked.hashes} hashes known; load {os.getloadavg()[0]:.1f}")
        _compare(url, folder, folder / "hashes.jsonl", "hashes")
        _compare(url, folder, folder / "pictures", "pictures")
        print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
