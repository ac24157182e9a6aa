"""What the cage costs a picture: the processor time of the same worker, locked in and free, in turns.

    python -m benchmarks.cage [--rounds 300]

Two pools of one worker each, with the sandbox required and off. Each picture goes to both, the first
in turn being the other one in each round. What counts is the time that the kernel says each worker
computed (/proc/PID/schedstat). Also: how long a lost worker takes to be replaced. The exit status says
whether the cage costs less than a millisecond a picture.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks import corpus, measure
from hashing.cage import Sandbox
from hashing.hasher import DEFAULT_TYPES, Plan
from hashing.sandbox import Pool
from hashing.signals import SignalType

MOST_MS = 1.0
PLAN = Plan(types=DEFAULT_TYPES | {SignalType.KEYPOINTS})


def media() -> dict[str, bytes]:
    """Return pictures of usual sizes."""
    return {
        "JPEG 640×480": corpus.jpeg(corpus.picture(51, 640, 480), 85),
        "JPEG 1600×1200": corpus.jpeg(corpus.picture(52, 1600, 1200), 85),
        "PNG 640×480": corpus.encode(corpus.picture(53, 640, 480), "PNG"),
        "WebP 640×480": corpus.encode(corpus.picture(54, 640, 480), "WEBP"),
        "GIF of 16 frames": corpus.animation(55, "GIF"),
    }


def pid_of(pool: Pool) -> int:
    """Return the process of a pool's only worker, which has to be idle."""
    (worker,) = pool._idle.queue
    if worker is None:
        raise SystemExit("a worker was lost")
    return worker._process.pid


def _cpu_ms(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6


def _once(pool: Pool, data: bytes) -> float:
    """Return the milliseconds that the worker computed for a picture."""
    pid = pid_of(pool)
    before_ms = _cpu_ms(pid)
    pool.hash_media(data, PLAN)
    time.sleep(0.002)  # until it waits again, and its time is written down
    return _cpu_ms(pid) - before_ms


def costs(pools: Mapping[str, Pool], data: bytes, rounds: int) -> dict[str, list[float]]:
    """Return milliseconds a picture for each pool, one a round."""
    names = list(pools)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 5):
        for name in names if number % 2 else reversed(names):
            took_ms = _once(pools[name], data)
            if number >= 5:  # warm
                found[name].append(took_ms)
    return found


def replaced_ms(pool: Pool, data: bytes, rounds: int) -> list[float]:
    """Return how many milliseconds longer the answer takes whose worker was lost before."""
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        pool.hash_media(data, PLAN)
        usual_s = time.perf_counter() - began
        pid = pid_of(pool)
        os.kill(pid, signal.SIGKILL)
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.001)
        began = time.perf_counter()
        pool.hash_media(data, PLAN)
        took.append((time.perf_counter() - began - usual_s) * 1000)
    return took


def _median(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:8.3f} ms ({low:.3f} to {high:.3f})"


def main() -> int:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=300)
    given = options.parse_args()
    print(json.dumps(measure.machine()))
    worst_ms = 0.0
    with Pool(1, sandbox=Sandbox.REQUIRED) as caged, Pool(1, sandbox=Sandbox.OFF) as free:
        print(f"processor time a picture, median (quartiles) of {given.rounds}")
        for name, data in media().items():
            found = costs({"caged": caged, "free": free}, data, given.rounds)
            more_ms = statistics.median(found["caged"]) - statistics.median(found["free"])
            worst_ms = max(worst_ms, more_ms)
            print(f"{name:<18} caged {_median(found['caged'])}   free {_median(found['free'])}   {more_ms:+.3f} ms")
        data = media()["JPEG 640×480"]
        print(f"a lost worker is replaced in {_median(replaced_ms(caged, data, max(given.rounds // 15, 4)))}")
    return 0 if worst_ms < MOST_MS else 1


if __name__ == "__main__":
    sys.exit(main())
