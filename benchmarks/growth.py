"""`python -m benchmarks.growth`: how costs grow, as curves: with the size of the bank, and with HTTP connections.

The service is a real `staydown serve`; the load comes from one thread of this process,
which sends the next request of a connection when the answer to the last one is there.
"""

import json
import sys
from functools import partial

import numpy as np

from benchmarks import end_to_end
from benchmarks.load import Load, load, request_of
from benchmarks.measure import Action, command, in_turns
from benchmarks.report import Check, Curve, Point, Section, point
from benchmarks.search import FLAT, OURS, RADII_BITS, built, codes_with_copies, flat_index, our_index
from hashing.signals import HASH_BYTES
from service.auth import Role

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
CONNECTIONS = (1, 2, 4, 8, 16)
BATCH = 16  # what one picture asks
P99_OVER_P50 = 10.0
WEIGHED_FROM, BYTES_BAR = 100_000, 120.0
WEIGHT = "Memory of the index against the size of the bank"
LOOK_UPS, CHECKS = "Hash look-ups over HTTP", "Checks of 1 MP photos over HTTP"


def by_size(sizes: tuple[int, ...], rounds: int) -> tuple[tuple[Curve, ...], list[Point]]:
    """Time what one picture asks of banks of several sizes; FAISS's exhaustive index beside, in turns.

    Along with it come our bytes a hash, where an index is large enough for the process to grow by it.
    """
    points: dict[str, list[tuple[int, tuple[float, ...]]]] = {}
    weights = []
    for count in sizes:
        codes, queries = codes_with_copies(count)
        mine, bytes_each = built(partial(our_index, codes), count)
        weights += [point(count, [bytes_each])] if count >= WEIGHED_FROM else []
        flat = flat_index(codes)
        asked = np.ascontiguousarray(queries[:BATCH])
        actions: dict[str, Action] = {
            f"{OURS}, {bits} bits": partial(mine.search, asked, radius_bits=bits) for bits in RADII_BITS
        }
        actions[f"{FLAT}, {RADII_BITS[-1]} bits"] = partial(flat.range_search, asked, RADII_BITS[-1] + 1)
        for name, seconds in in_turns(actions, rounds).items():
            points.setdefault(name, []).append((count, seconds))
    title = f"Search of {BATCH} rows against the size of the bank"
    curves = (
        Curve(title, "hashes", "ms", name, tuple(point(x, [1000 * s for s in seconds]) for x, seconds in at))
        for name, at in points.items()
    )
    return tuple(curves), weights


def light(weights: list[Point]) -> Check:
    """Tell whether the largest index is small enough: all memory that it takes, the codes themselves included."""
    largest = weights[-1]
    return Check(f"memory of {largest.x:,.0f} hashes: at most {BYTES_BAR:g} bytes a hash", largest.value <= BYTES_BAR,
                 f"{largest.value:.1f} bytes", goal=True)  # fmt: skip


def curves_of_loads(title: str, loads: dict[int, list[Load]]) -> tuple[Curve, ...]:
    """Return throughput, and times to an answer, against the number of connections."""

    def curve(kind: str, unit: str, name: str, percent: float | None) -> Curve:
        values = {x: [one.per_s if percent is None else one.percentile_ms(percent) for one in runs]
                  for x, runs in loads.items()}  # fmt: skip
        return Curve(f"{title}, {kind}", "connections", unit, name, tuple(point(x, v) for x, v in values.items()))

    return (curve("throughput", "a second", "staydown", None), curve("time to an answer", "ms", "p50", 50),
            curve("time to an answer", "ms", "p99", 99))  # fmt: skip


def steady(title: str, loads: dict[int, list[Load]]) -> Check:
    """Tell whether the slow answers are near to the usual ones, at every number of connections."""
    worst = max(float(np.median([one.percentile_ms(99) / one.percentile_ms(50) for one in runs]))
                for runs in loads.values())  # fmt: skip
    return Check(
        f"{title}: p99 under {P99_OVER_P50:g} times p50", worst < P99_OVER_P50, f"{worst:.1f} times", goal=True
    )


def loaded(
    doors: end_to_end.Doors, photos: end_to_end.Media, count: int, rounds: int
) -> dict[str, dict[int, list[Load]]]:
    """Send look-ups and checks over several numbers of connections, in turns."""
    _, key = doors.engines[1].keys.create(Role.LOOKUP.value, name="growth", actor="bench")
    bearer = f"Bearer {key}"
    codes = np.random.default_rng(4).integers(0, 256, (64, HASH_BYTES), np.uint8)
    bodies = [json.dumps({"signals": [{"signal_type": "pdq", "hash": bytes(code).hex()}]}).encode() for code in codes]
    asked = {
        LOOK_UPS: [request_of("POST", "/v1/check/hashes", body, Authorization=bearer, Content_Type="application/json")
                   for body in bodies],
        CHECKS: [request_of("POST", "/v1/check", data, Authorization=bearer, Content_Type="application/octet-stream")
                 for data in photos.files],
    }  # fmt: skip
    found: dict[str, dict[int, list[Load]]] = {title: {x: [] for x in CONNECTIONS} for title in asked}
    for title, requests in asked.items():
        items = count if title == LOOK_UPS else max(count // 10, 2 * max(CONNECTIONS))
        load(doors.server.port, requests, 1, len(requests))
        for _ in range(rounds):
            for connections in CONNECTIONS:
                found[title][connections].append(load(doors.server.port, requests, connections, items))
    return found


def collect(short: bool) -> Section:
    """Measure everything."""
    curves, weights = by_size(SIZES[: 4 if short else 5], 7 if short else 15)
    curves += (Curve(WEIGHT, "hashes", "bytes a hash", OURS, tuple(weights)),)
    photos = end_to_end.photos(16)
    with end_to_end.opened([photos]) as doors:
        loads = loaded(doors, photos, 300 if short else 2000, 3)
    curves += tuple(curve for title, runs in loads.items() for curve in curves_of_loads(title, runs))
    note = f"Medians, and in brackets the middle half. HTTP: a bank of {end_to_end.KNOWN_HASHES:,} hashes, keep-alive."
    checks = (steady(LOOK_UPS, loads[LOOK_UPS]),) + (() if short else (light(weights),))
    return Section("Growth", note, (), (), checks, (), curves)


if __name__ == "__main__":
    sys.exit(command("growth", collect))
