"""What PostgreSQL keeps when writers, its backends or all of it are killed by SIGKILL at any moment.

The server is the tests' own (`tests/postgres.py`), with fsync on: a folder of its own, a Unix socket.
Every third round kills the clients, one backend (on which PostgreSQL restarts all of them and recovers
its log), or the postmaster, which is then started again.
"""

import os
import random
import signal
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import crashes
from benchmarks.rounds import ROUNDS_A_STORE, SEEDS_A_ROUND, Total

_TESTS = Path(__file__).parent.parent / "tests"
_WAIT_S = 60.0
VICTIMS = ("clients", "backend", "postmaster")


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def _kill_backend(server: Any, chance: random.Random) -> None:
    """Kill one process that serves a client."""
    rows = server.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
                      " AND pid <> pg_backend_pid()")  # fmt: skip
    if rows:
        os.kill(chance.choice(rows)[0], signal.SIGKILL)


def _kill_postmaster(server: Any) -> None:
    """Kill the server's first process; the others notice and end, before which it cannot be started again."""
    orphans = _children(server.process.pid)
    server.stop(signal.SIGKILL)
    deadline = time.monotonic() + _WAIT_S
    while any(Path(f"/proc/{pid}").exists() for pid in orphans) and time.monotonic() < deadline:
        time.sleep(0.02)


def _strike(server: Any, victim: str, chance: random.Random) -> None:
    if victim == "backend":
        _kill_backend(server, chance)
        time.sleep(chance.uniform(0.0, 0.1))
    elif victim == "postmaster":
        _kill_postmaster(server)


def _back(server: Any) -> None:
    """Wait until the server takes connections again, starting it if it is not there."""
    if server.process is None:
        server.start()
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            server.sql("SELECT 1")
            return
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def kills(count: int, server: Any, folder: Path, seed: int) -> Total:
    """Kill on a running server, round by round."""
    chance, total = random.Random(seed), Total("SIGKILL, PostgreSQL")
    home, url, revision = folder, "", 0
    lines: crashes.Acks = []
    for number in range(count):
        if number % ROUNDS_A_STORE == 0:
            home, lines, revision = folder / f"server-{number}", [], 0
            home.mkdir()
            url = server.empty_database()
        victim = VICTIMS[number % len(VICTIMS)]
        children = crashes.writers(url, home, number * SEEDS_A_ROUND, quiet=True)
        new = crashes.stopped(children, chance, lambda victim=victim: _strike(server, victim, chance))  # type: ignore[misc]
        _back(server)
        lines += new
        left = crashes.checked_apart(url, home, lines, revision)
        revision = left.revision
        total.add(new, left)
    return total


def own_server(count: int, folder: Path, seed: int) -> Total:
    """Start a server, kill on it, and stop it."""
    sys.path.insert(0, str(_TESTS))
    with import_module("postgres").running(fsync=True) as server:
        return kills(count, server, folder, seed)
