"""`python -m benchmarks.durability`: kills and power cuts, and what was lost by them; nothing must be.

    --kills N          writers on a local disk, killed by SIGKILL at random moments
    --cuts N           writers on a file system that forgets what was not fsynced, half of them torn
    --server-kills N   clients, backends and postmaster of a PostgreSQL server of its own
    --control OFF|NORMAL   the same cuts with SQLite's weaker settings, which must lose rows

A new store every few rounds; within them each round goes on with what the last one left. Prints a
Markdown table, or JSON. Exit status 1 if anything was lost, or if a control lost nothing.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks import crashes, server_kills
from benchmarks.forgetful import Forgetful, absent
from benchmarks.measure import machine
from benchmarks.rounds import ROUNDS_A_STORE, SEEDS_A_ROUND, Total
from indexer import engines


def _url(home: Path) -> str:
    return f"sqlite:///{home / 'staydown.db'}"


def kills(count: int, folder: Path, seed: int) -> Total:
    """Kill writers on a local disk."""
    chance, total = random.Random(seed), Total("SIGKILL, SQLite")
    home, revision = folder, 0
    lines: crashes.Acks = []
    for number in range(count):
        if number % ROUNDS_A_STORE == 0:
            home, lines, revision = folder / f"kill-{number}", [], 0
            home.mkdir()
        new = crashes.stopped(crashes.writers(_url(home), home, number * SEEDS_A_ROUND), chance)
        lines += new
        left = crashes.checked_apart(_url(home), home, lines, revision)
        revision = left.revision
        total.add(new, left)
    return total


def _copied(source: Path, target: Path) -> None:
    """Copy a folder onto the forgetful file system, durably."""
    target.mkdir()
    for file in source.iterdir():
        shutil.copyfile(file, target / file.name)
        _sync(target / file.name)
    _sync(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def cuts(count: int, folder: Path, seed: int, synchronous: str = "FULL") -> Total:
    """Cut the power under writers; every second time what was not synced is torn."""
    if synchronous != "FULL":
        weaker = (*engines._PRAGMAS, f"PRAGMA synchronous={synchronous}")
        setattr(engines, "_PRAGMAS", weaker)  # noqa: B010  of this process and what it forks
    chance, total = random.Random(seed), Total(f"power cut, SQLite synchronous={synchronous}")
    before, revision = folder / "nothing", 0
    lines: crashes.Acks = []
    before.mkdir()
    with Forgetful(folder / f"disk-{synchronous}") as disk:
        for number in range(count):
            if number % ROUNDS_A_STORE == 0 or not total.well:
                before, lines, revision = folder / "nothing", [], 0
            home, after = disk.path / str(number), folder / f"{synchronous}-{number}"
            disk.ask("restart")
            _copied(before, home)
            if number % 2:
                disk.ask("tearing", True, seed + number)
            cut = partial(disk.ask, "cut", str(number), str(after))
            new = crashes.stopped(crashes.writers(_url(home), home, number * SEEDS_A_ROUND, quiet=True), chance, cut)
            lines += new
            left = _after(after, lines, revision)
            before, revision = after, left.revision
            total.add(new, left)
    return total


def _after(left: Path, lines: crashes.Acks, revision: int) -> crashes.Left:
    """Check a copy of what a cut left, so that the next round starts from the very disk, not from its repair."""
    copy = left.with_name(f"{left.name}-checked")
    shutil.copytree(left, copy)
    found = crashes.checked_apart(_url(copy), copy, lines, revision)
    shutil.rmtree(copy)
    return found


def timed(work: Callable[[], Total]) -> Total:
    """Do it, and say how long it took."""
    start = time.monotonic()
    total = work()
    total.wall_s = round(time.monotonic() - start, 1)
    return total


def _page(totals: list[Total]) -> str:
    facts = machine()
    head = [f"{facts['CPU']}, {facts['cores']} cores, {facts['system']}, Python {facts['Python']}", ""]
    names = list(asdict(totals[0]))
    rows = [[str(value) for value in asdict(total).values()] for total in totals]
    lines = [names, ["---"] + ["--:"] * (len(names) - 1), *rows]
    return "\n".join([*head, *("| " + " | ".join(row) + " |" for row in lines), ""])


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="benchmarks.durability")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--cuts", type=int, default=0)
    parser.add_argument("--server-kills", type=int, default=0)
    parser.add_argument("--control", choices=("OFF", "NORMAL"), default=None)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    totals = []
    with tempfile.TemporaryDirectory(prefix="staydown-crash-") as name:
        folder = Path(name)
        if asked.kills:
            totals.append(timed(lambda: kills(asked.kills, folder, asked.seed)))
        if asked.server_kills:
            totals.append(timed(lambda: server_kills.own_server(asked.server_kills, folder, asked.seed)))
        if asked.cuts and (why := absent()) is not None:
            raise SystemExit(f"no power cuts here: {why}")
        if asked.cuts:
            level = asked.control or "FULL"
            totals.append(timed(lambda: cuts(asked.cuts, folder, asked.seed, level)))
    print(json.dumps([asdict(total) for total in totals]) if asked.json else _page(totals))
    return 1 if any(total.well is bool(asked.control) for total in totals) else 0


if __name__ == "__main__":
    sys.exit(main())
