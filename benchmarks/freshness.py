"""How soon a change is in force in another process: two served processes on one store, asked all the time.

    python -m benchmarks.freshness [--hashes 1000000] [--checks 50] [--rounds 300] [--database-url postgresql://…]

First a list of random hashes is imported by the command while one process serves and is
asked `--checks` times a second; then contents are enrolled and withdrawn over HTTP on the
other process, and it is measured from the answer to the change until the first process
answers by it. Without a database URL the store is SQLite; a database has to be empty.
"""

import argparse
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks import measure
from benchmarks.server import Client, Server, serving, staydown

BANK, THREADS, QUIET_S, GIVE_UP_S = "bench", 4, 10.0, 60.0


@dataclass(frozen=True, slots=True)
class Load:
    """How long checks took, in milliseconds, and how many were refused or wrong."""

    took_ms: list[float] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)


def _hash(chance: random.Random) -> str:
    return chance.randbytes(32).hex()


def _signals(code: str) -> list[dict[str, object]]:
    return [{"signal_type": "pdq", "hash": code}]


def _ask(client: Client, pace_s: float, load: Load, ended: threading.Event, seed: int) -> None:
    """Check a random hash each `pace_s`; what is late is not made up for."""
    chance = random.Random(seed)
    while not ended.is_set():
        began = time.perf_counter()
        status, said = client.check_hashes(_signals(_hash(chance)))
        took_s = time.perf_counter() - began
        load.took_ms.append(took_s * 1000)
        if status != 200 or said["verdict"] != "no_match":
            load.failed.append(status)
        ended.wait(max(0.0, pace_s - took_s))
    client.close()


@contextmanager
def asked(server: Server, key: str, checks_per_s: float) -> Iterator[Load]:
    """Ask a server all the time while the block runs."""
    load, ended = Load(), threading.Event()
    threads = [
        threading.Thread(target=_ask, args=(server.client(key), THREADS / checks_per_s, load, ended, seed))
        for seed in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _until(client: Client, code: str, verdict: str) -> float:
    """Return the milliseconds until a check says so."""
    began = time.perf_counter()
    while client.check_hashes(_signals(code))[1].get("verdict") != verdict:
        if time.perf_counter() - began > GIVE_UP_S:
            raise TimeoutError(f"no {verdict} within {GIVE_UP_S:g} s")
    return (time.perf_counter() - began) * 1000


def changes(here: Client, there: Client, rounds: int) -> dict[str, list[float]]:
    """Enroll and withdraw on one process; return how long the other took to answer by it, in milliseconds."""
    chance = random.Random("changes")
    found: dict[str, list[float]] = {"enrolled → found": [], "withdrawn → gone": []}
    for _ in range(rounds):
        code = _hash(chance)
        body = f'{{"signals": [{{"signal_type": "pdq", "hash": "{code}"}}]}}'.encode()
        _, made = here.request("POST", f"/v1/banks/{BANK}/contents", body, "application/json")
        found["enrolled → found"].append(_until(there, code, "match"))
        here.delete(f"/v1/banks/{BANK}/contents/{made['content_id']}")
        found["withdrawn → gone"].append(_until(there, code, "no_match"))
    return found


def _list(path: Path, count: int) -> None:
    codes = np.random.default_rng(1).integers(0, 256, (count, 32), dtype=np.uint8)
    path.write_text("hash\n" + "\n".join(bytes(code).hex() for code in codes) + "\n")


def _timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _row(name: str, values: list[float]) -> str:
    p50, p99 = np.percentile(values, [50, 99])
    return f"| {name} | {len(values):,} | {p50:.1f} | {p99:.1f} | {max(values):.1f} |"


def run(folder: Path, hashes: int, checks_per_s: float, rounds: int, settings: dict[str, str]) -> Iterator[str]:
    """Yield the lines of the report."""
    homes = [folder / name for name in ("a", "b" if settings else "a")]
    for home in homes:
        home.mkdir(exist_ok=True)
    key = str(staydown(homes[0], "key", "create", "--role", "admin", **settings)[0]["key"])
    staydown(homes[0], "bank", "create", BANK, **settings)
    _list(folder / "list.csv", hashes)
    with serving(homes[1], **settings) as there:
        with asked(there, key, checks_per_s) as quiet:
            time.sleep(QUIET_S)
        with asked(there, key, checks_per_s) as busy:
            arguments = ("import", "csv", str(folder / "list.csv"), "--bank", BANK)
            import_s = _timed(lambda: staydown(homes[0], *arguments, **settings))
        yield f"{hashes:,} hashes imported in {import_s:.1f} s, {hashes / import_s:,.0f} a second"
        with (
            serving(homes[0], **settings) as here, asked(there, key, checks_per_s) as full,
            here.client(key) as one, there.client(key) as other,
        ):  # fmt: skip
            found = changes(one, other, rounds)
    yield "\n| ms | n | p50 | p99 | max |\n|---|--:|--:|--:|--:|"
    loads = {"empty bank": quiet, "during the import": busy, "full bank, during changes": full}
    yield from (_row(name, values) for name, values in found.items())
    yield from (_row(f"checks, {name}", load.took_ms) for name, load in loads.items())
    yield f"\nrefused or wrong: {sum(len(load.failed) for load in loads.values())}"


def main() -> None:
    """Run it and print the report."""
    parser = argparse.ArgumentParser(prog="benchmarks.freshness")
    parser.add_argument("--hashes", type=int, default=1_000_000)
    parser.add_argument("--checks", type=float, default=50.0, help="checks a second")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--database-url", default="", help="an empty PostgreSQL database; SQLite if left out")
    given = parser.parse_args()
    print(", ".join(f"{name} {value}" for name, value in measure.machine().items()))
    settings = {"database_url": given.database_url} if given.database_url else {}
    print(f"{'PostgreSQL' if settings else 'SQLite'}, {given.checks:g} checks a second\n")
    with tempfile.TemporaryDirectory() as folder:
        for line in run(Path(folder), given.hashes, given.checks, given.rounds, settings):
            print(line, flush=True)


if __name__ == "__main__":
    main()
