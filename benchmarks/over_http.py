"""`python -m benchmarks.over_http`: checks and hash look-ups over HTTP, beside the same in this process.

The bank compares sha256 and PDQ, so that what HTTP costs is not hidden behind keypoints. The service is a
real `staydown serve` with two workers; the load comes from one thread of this process over keep-alive
connections, and shares the two cores with it. In process, two threads have the same two workers.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from benchmarks.checks import TYPES
from benchmarks.end_to_end import CONNECTIONS, Doors, Media, by_pool, in_process, opened, photos
from benchmarks.load import Load, load, request_of
from benchmarks.measure import Action, command, timings
from benchmarks.report import Check, Floor, Section, Timing
from hashing.signals import HASH_BYTES, SignalType
from indexer.enroll import ReadyHash
from service.auth import Role

HASHES = 10_000
BAR, P99_OVER_P50 = 0.7, 10.0
HTTP = f"HTTP, {CONNECTIONS} connections"
ALONE, POOL, LISTED = "in process, one thread", "in process, 2 workers", "in process, all by one search"
CHECK, LOOK_UP = "check of a 1 MP photo", "hash look-up"


@dataclass(slots=True)
class Loads:
    """Sends the same requests again and again, and remembers how long each answer took."""

    port: int
    requests: Sequence[bytes]
    count: int
    done: list[Load] = field(default_factory=list)

    def __call__(self) -> None:
        """Send so many."""
        self.done.append(load(self.port, self.requests, CONNECTIONS, self.count))

    def tail(self) -> float:
        """Return how many times the median the 99th percentile is: the median over all times."""
        return float(np.median([one.percentile_ms(99) / one.percentile_ms(50) for one in self.done]))


def steady(title: str, loads: Loads) -> Check:
    """Tell whether the slow answers are near to the usual ones."""
    tail = loads.tail()
    detail = f"{tail:.1f} times, of {loads.count} answers a time"
    return Check(f"{title}, {CONNECTIONS} connections: p99 under {P99_OVER_P50:g} times p50", tail < P99_OVER_P50,
                 detail, goal=True)  # fmt: skip


def requests_of(doors: Doors, media: Media, codes: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Return the requests of checks, and of look-ups."""
    _, key = doors.engines[1].keys.create(Role.LOOKUP.value, name="http", actor="bench")
    named = {"Authorization": f"Bearer {key}"}
    bodies = [json.dumps({"signals": [{"signal_type": "pdq", "hash": code.hex()}]}).encode() for code in codes]
    checks = [request_of("POST", "/v1/check", data, Content_Type="application/octet-stream", **named)
              for data in media.files]  # fmt: skip
    return checks, [request_of("POST", "/v1/check/hashes", body, Content_Type="application/json", **named)
                    for body in bodies]  # fmt: skip


def checked(doors: Doors, media: Media, loads: Loads, rounds: int) -> tuple[Timing, ...]:
    """Time checks over HTTP beside checks in this process."""
    many = [media.files[number % len(media.files)] for number in range(loads.count)]
    theirs: dict[str, Action] = {
        ALONE: partial(in_process, doors.engines[1], many),
        POOL: partial(by_pool, doors.engines[2], many),
    }
    return timings(CHECK, {HTTP: loads}, theirs, rounds, items=loads.count)


def looked_up(doors: Doors, codes: Sequence[bytes], loads: Loads, rounds: int) -> tuple[Timing, ...]:
    """Time look-ups over HTTP beside look-ups in this process, one by one and all at once."""
    engine, asked = doors.engines[1], [[ReadyHash(SignalType.PDQ, code.hex())] for code in codes]
    theirs: dict[str, Action] = {
        ALONE: lambda: [engine.check_hashes(hashes, None) for hashes in asked],
        LISTED: lambda: engine.check_lists(asked, None),
    }
    items = {HTTP: float(loads.count)} | dict.fromkeys(theirs, float(len(asked)))
    return timings(LOOK_UP, {HTTP: loads}, theirs, rounds, items)


def measured(count: int, rounds: int, hashes: int = HASHES) -> Section:
    """Measure `count` checks a time, and eight times as many look-ups."""
    media = photos(16)
    codes = [bytes(code) for code in np.random.default_rng(4).integers(0, 256, (64, HASH_BYTES), np.uint8)]
    with opened([media], hashes, TYPES) as doors:
        asked = requests_of(doors, media, codes)
        checks, look_ups = (Loads(doors.server.port, each, size) for each, size in zip(asked, (count, 8 * count),
                                                                                         strict=True))  # fmt: skip
        times = checked(doors, media, checks, rounds) + looked_up(doors, codes, look_ups, rounds)
    note = (f"{CONNECTIONS} keep-alive connections, a bank of {hashes:,} hashes that compares sha256 and PDQ; the load "
            "shares the cores with the service. Times are for one item, with all connections together.")  # fmt: skip
    found = (steady(CHECK, checks), steady(LOOK_UP, look_ups))
    return Section("HTTP", note, times, (), found, (Floor(CHECK, POOL, BAR, goal=True),))


def collect(short: bool) -> Section:
    """Measure everything."""
    return measured(100, 5) if short else measured(800, 15)


if __name__ == "__main__":
    sys.exit(command("over_http", collect))
