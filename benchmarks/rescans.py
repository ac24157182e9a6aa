"""`python -m benchmarks.rescans`: `staydown rescan` over thousands of mixed files: are both cores busy, is memory flat?

Photos of three sizes, pictures of other formats, animations, clips, and what is no media, in a folder in memory.
The command and all below it are looked at from outside, in /proc, while they work. What others take of the
cores meanwhile is told beside: on a machine that is shared, nobody has both.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import corpus
from benchmarks.end_to_end import KNOWN_HASHES, fill
from benchmarks.measure import TICKS_S, command, machine_s
from benchmarks.report import Check, Curve, Fact, Point, Section
from benchmarks.server import COMMAND, environment, family
from service.engine import Engine
from service.settings import read_settings

FILES, FEW = 10_000, 500
IN_MEMORY = Path("/dev/shm")
LOOK_S, BUCKETS = 0.25, 12
BUSY_BAR, FLAT_BAR = 0.9, 1.1
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


# --- what is rescanned ------------------------------------------------------------------


def kinds() -> Iterator[tuple[str, bytes]]:
    """Yield the names and bytes of 40 files, which stand for all."""
    for seed in range(24):
        width, height = ((512, 512), (1152, 864), (1920, 1080))[seed % 3]
        yield f"{seed}.jpg", corpus.jpeg(corpus.picture(seed, width, height), 85)
    for seed in range(8):
        name = ("PNG", "WEBP")[seed % 2]
        yield f"{seed}.{name.lower()}", corpus.encode(corpus.picture(100 + seed, 640, 480), name)
    yield from ((f"{seed}.gif", corpus.animation(seed)) for seed in range(2))
    yield from ((f"{seed}.mp4", corpus.clip(seed, duration_s=4.0, options={"g": "25"})) for seed in range(4))
    yield "cut.jpg", corpus.jpeg(corpus.picture(1, 640, 480), 85)[:9_000]
    yield "words.txt", b"no media\n" * 100


def spread(folder: Path, count: int) -> None:
    """Write the files, and links to them until there are `count`."""
    made = []
    for name, data in kinds():
        made.append(folder / name)
        made[-1].write_bytes(data)
    for number in range(len(made), count):
        like = made[number % len(made)]
        (folder / f"{number}-{like.name}").hardlink_to(like)


# --- looking on -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Look:
    """How a process and all below it stand at one moment."""

    at_s: float
    cpu_s: float  # theirs so far, of those that have ended too
    machine_s: float  # of all cores, idle time left out
    memory_mb: float  # of their own: pages that no file backs
    lines: int


def _of(pid: int) -> tuple[float, float]:
    """Return a process's seconds of CPU, with those of its children that have ended, and its own memory in MB."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        resident, shared = map(int, Path(f"/proc/{pid}/statm").read_text().split()[1:3])
    except OSError:
        return 0.0, 0.0
    return sum(map(int, stat[11:15])) * TICKS_S, (resident - shared) * _PAGE_MB


def _lines(out: Path) -> int:
    return out.read_bytes().count(b"\n") if out.exists() else 0


def look(pid: int, out: Path) -> Look:
    """Look at a process, and at what it has written."""
    found = np.array([_of(one) for one in family(pid)])
    cpu_s, memory_mb = found.sum(axis=0).tolist()
    return Look(time.monotonic(), cpu_s, machine_s(), memory_mb, _lines(out))


def watched(arguments: Sequence[str], home: Path, out: Path) -> list[Look]:
    """Run a command, and look at it now and then until it ends; RuntimeError if it fails."""
    looks = []
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(arguments, env=environment(home), stdout=told, stderr=told)
        try:
            while process.poll() is None:
                looks.append(look(process.pid, out))
                time.sleep(LOOK_S)
        finally:
            process.kill()
            process.wait()
        if process.returncode not in (0, 1, 3):
            told.seek(0)
            raise RuntimeError(f"the rescan failed: {told.read().decode(errors='replace')[-500:]}")
    return looks


# --- what it comes to -------------------------------------------------------------------


def at_work(looks: Sequence[Look], count: int) -> list[Look]:
    """Return the looks from the first twentieth of the results to the last: neither start nor end."""
    return [one for one in looks if 0.05 * count <= one.lines <= 0.95 * count]


def use_of_cores(looks: Sequence[Look], cores: int) -> tuple[float, float]:
    """Return the share of the cores that the process had, and that others had, from first to last look."""
    first, last = looks[0], looks[-1]
    all_s = (last.at_s - first.at_s) * cores
    ours = (last.cpu_s - first.cpu_s) / all_s
    return ours, max(0.0, (last.machine_s - first.machine_s) / all_s - ours)


def growth_of_memory(looks: Sequence[Look]) -> float:
    """Return how many times the memory of the second fifth of the looks the last fifth has."""
    fifth = max(1, len(looks) // 5)
    early = float(np.median([one.memory_mb for one in looks[fifth : 2 * fifth] or looks]))
    return float(np.median([one.memory_mb for one in looks[-fifth:]])) / early


def _curve(title: str, unit: str, name: str, places: Sequence[tuple[float, float]]) -> Curve:
    """Return values over the share of the results, in buckets."""
    parts = [part for part in np.array_split(np.array(places), min(BUCKETS, len(places))) if len(part)]
    points = (Point(round(float(part[:, 0].mean())), *np.quantile(part[:, 1], (0.25, 0.5, 0.75)).tolist())
              for part in parts)  # fmt: skip
    return Curve(title, "results so far", unit, name, tuple(points))


def curves_of(looks: Sequence[Look], cores: int) -> tuple[Curve, ...]:
    """Return memory, and the use of the cores, against the results so far."""
    busy = [(float(after.lines), 100 * use_of_cores((before, after), cores)[0])
            for before, after in zip(looks, looks[4:], strict=False)]  # fmt: skip
    memory = [(float(one.lines), one.memory_mb) for one in looks]
    return (_curve("Memory of a rescan", "MB", "the command and its workers", memory),
            _curve("Use of the cores by a rescan", "% of all", "the command and its workers", busy))  # fmt: skip


def summed(looks: Sequence[Look], count: int, cores: int) -> Section:
    """Sum up a rescan of `count` files; RuntimeError where it was over too soon to be looked at."""
    working = at_work(looks, count)
    if len(working) < BUCKETS // 2:
        raise RuntimeError(f"the rescan was looked at {len(working)} times while it worked: too few files")
    (ours, others), grown = use_of_cores(working, cores), growth_of_memory(working)
    left = ours / max(1e-9, 1.0 - others)
    rate = (working[-1].lines - working[0].lines) / (working[-1].at_s - working[0].at_s)
    title = f"rescan of {count:,} mixed files"
    facts = (
        Fact(title, "files a second", rate, ""),
        Fact(title, f"use of {cores} cores", 100 * ours, "%"),
        Fact(title, "that others had of them meanwhile", 100 * others, "%"),
        Fact(title, "use of what others left", 100 * left, "%"),
        Fact(title, "memory of its own at most, the command and its workers", max(x.memory_mb for x in looks), "MB"),
    )
    checks = (
        Check(f"{title}: {cores} cores busy for more than {BUSY_BAR:.0%}", ours > BUSY_BAR, f"{ours:.1%}", goal=True),
        Check(f"{title}: the same of what others left", left > BUSY_BAR, f"{left:.1%}", goal=True),
        Check(f"{title}: memory flat", grown < FLAT_BAR, f"at the end {grown:.2f} times that after a fifth", goal=True),
    )
    note = (f"`staydown rescan` with a worker a core, a bank of {KNOWN_HASHES:,} hashes and its usual types. Start and "
            "end, a twentieth of the files each, are left out.")  # fmt: skip
    return Section("Rescan", note, (), facts, checks, (), curves_of(working, cores))


def measured(count: int, hashes: int = KNOWN_HASHES) -> Section:
    """Rescan so many files."""
    within = IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="staydown-bench-", dir=within) as name:
        place, cores = Path(name), len(os.sched_getaffinity(0))
        (home := place / "home").mkdir()
        (folder := place / "media").mkdir()
        spread(folder, count)
        with Engine(read_settings({"STAYDOWN_HOME": str(home)})) as engine:
            fill(engine, [corpus.jpeg(corpus.picture(0, 512, 512), 85)], hashes)
        out = place / "out.jsonl"
        looks = watched([str(COMMAND), "rescan", str(folder), "--out", str(out), "--workers", str(cores)], home, out)
        if (lines := _lines(out)) != count:
            raise RuntimeError(f"the rescan wrote {lines} lines for {count} files")
    return summed(looks, count, cores)


def collect(short: bool) -> Section:
    """Measure."""
    return measured(FEW if short else FILES)


if __name__ == "__main__":
    sys.exit(command("rescans", collect))
