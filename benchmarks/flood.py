"""One tenant floods; how long another one waits, and how soon the flood is told to come back.

    python -m benchmarks.flood [--seconds 20] [--connections 64] [--per-s 300]

A served process with two workers; one tenant checks a picture twice a second, alone and while
another tenant sends checks on many connections, from processes of their own. The control floods
with a key of the first tenant's own, which takes its places and its turns.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import numpy as np

from benchmarks import corpus, measure
from benchmarks.server import HOST, Server, serving, staydown

EVERY_S, FLOODED = 0.25, ("another tenant", "the same tenant")


@dataclass(frozen=True, slots=True)
class Waits:
    """Answers of one run: seconds to each, statuses, seconds to each refusal, refusals that say nothing of when."""

    took_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    refused_s: list[float] = field(default_factory=list)
    silent: list[int] = field(default_factory=list)


def _ask(port: int, key: str, media: bytes, waits: Waits, end_at: float, every_s: float) -> None:
    """Check on one connection, at a pace; what is late is not made up for."""
    connection = HTTPConnection(HOST, port, timeout=60)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "image/jpeg"}
    while time.monotonic() < end_at:
        began = time.monotonic()
        try:
            connection.request("POST", "/v1/check", media, headers)
            answer = connection.getresponse()
            answer.read()
        except (OSError, HTTPException):
            connection.close()
            waits.statuses[0] += 1
            continue
        took_s = time.monotonic() - began
        waits.statuses[answer.status] += 1
        refused = answer.status in {429, 503}
        (waits.refused_s if refused else waits.took_s).append(took_s)
        if refused and answer.getheader("Retry-After") is None:
            waits.silent.append(answer.status)
        time.sleep(max(0.0, every_s - took_s))


def flood(port: int, key: str, seconds: float, connections: int, per_s: float) -> Waits:
    """Check on many connections at once, from this process."""
    media, waits = corpus.jpeg(corpus.picture(7, 640, 480), 85), Waits()
    given = (port, key, media, waits, time.monotonic() + seconds, connections / per_s)
    threads = [threading.Thread(target=_ask, args=given) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return waits


def _quiet(server: Server, key: str, seconds: float) -> Waits:
    waits = Waits()
    _ask(server.port, key, corpus.jpeg(corpus.picture(8, 640, 480), 85), waits, time.monotonic() + seconds, EVERY_S)
    return waits


def flooded(server: Server, key: str, by: str, seconds: float, connections: int, per_s: float) -> tuple[Waits, Waits]:
    """Return what a key waits while another one floods, and what the flood was told."""
    arguments = ["--as-flood", str(server.port), by, str(seconds + 3), str(connections), str(per_s)]
    child = subprocess.Popen([sys.executable, "-m", "benchmarks.flood", *arguments], stdout=subprocess.PIPE, text=True)
    time.sleep(2)
    waits = _quiet(server, key, seconds)
    said = json.loads(child.communicate()[0])
    statuses = Counter({int(status): count for status, count in said["statuses"].items()})
    return waits, Waits([], statuses, said["refused_s"], said["silent"])


def _p(values: list[float], share: float) -> float:
    return float(np.percentile(values, share)) * 1000 if values else float("nan")


def _said(name: str, waits: Waits) -> str:
    numbers = "  ".join(f"p{share} {_p(waits.took_s, share):6.1f} ms" for share in (50, 90, 99))
    return f"{name:<28} {numbers}   n {len(waits.took_s)}   {dict(waits.statuses)}"


def _told(flood: Waits) -> str:
    late = sum(took > 0.1 for took in flood.refused_s)
    times = f"p50 {_p(flood.refused_s, 50):.1f} ms, p99 {_p(flood.refused_s, 99):.1f} ms, later than 100 ms: {late}"
    return f"  the flood: {dict(flood.statuses)}, refusals {times}, without Retry-After: {len(flood.silent)}"


def _key(home: Path, tenant: str) -> str:
    return str(staydown(home, "key", "create", "--role", "check", "--tenant", tenant)[0]["key"])


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=20.0)
    options.add_argument("--connections", type=int, default=64)
    options.add_argument("--per-s", type=float, default=300.0)
    options.add_argument("--as-flood", nargs=5)
    given = options.parse_args()
    if given.as_flood:
        port, key, seconds, connections, per_s = given.as_flood
        waits = flood(int(port), key, float(seconds), int(connections), float(per_s))
        print(json.dumps({"statuses": waits.statuses, "refused_s": waits.refused_s, "silent": waits.silent}))
        return
    print(json.dumps(measure.machine()))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with serving(home, workers="2", tenant_max_in_flight="16") as server:
            key, by = _key(home, "quiet"), dict(zip(FLOODED, (_key(home, "flood"), _key(home, "quiet")), strict=True))
            _quiet(server, key, 3)
            print(_said("quiet", _quiet(server, key, given.seconds)))
            for name, flooding in by.items():
                waits, told = flooded(server, key, flooding, given.seconds, given.connections, given.per_s)
                print(_said(f"while {name} floods", waits))
                print(_told(told))


if __name__ == "__main__":
    main()
