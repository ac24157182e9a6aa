"""Hostile files through the caged, running service: what becomes of it, and of the good ones between them.

    python -m benchmarks.hostile [--items 10000] [--seed 1] [--connections 2]

Small real files of every format that is read are bent, cut, doubled and spliced, by a seed, with a
bomb now and then; after every ten a good one, known or unknown. Every answer has to come in time,
none may be a 5xx, every good one has to be judged right, and the memory of the service's processes
must not grow. The exit status says whether all of that held.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import bombs, corpus, measure
from benchmarks.server import Client, Server, family, serving, staydown

TIMEOUT_S, GRACE_S, BANK = 20.0, 1.0, "known"
LOST = {"decoder_crashed", "decoder_timed_out"}
GOOD_EVERY, BOMB_EVERY = 10, 97
MEMORY_EVERY, STEADY = 100, 0.05
_GREAT = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0", b"\xff\xff", b"\0\x01", b"\xff", b"\0")
_CLIPS = (
    ("mp4", "libx264"), ("mov", "libx264"), ("mp4", "libx265"), ("matroska", "libx265"), ("webm", "libvpx"),
    ("webm", "libvpx-vp9"), ("mp4", "libsvtav1"), ("avi", "mpeg4"), ("mpegts", "libx264"), ("flv", "libx264"),
    ("ogg", "libvpx"), ("asf", "mpeg4"), ("mpeg", "mpeg2video"),
)  # fmt: skip


@lru_cache(maxsize=1)
def seeds() -> tuple[bytes, ...]:
    """Return small files of every format that is read."""
    picture = corpus.picture(41, 160, 120)
    stills = [corpus.encode(picture, name) for name in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "HEIF")]
    images = [Image.fromarray(corpus.picture(seed, 96, 64)) for seed in (42, 43, 44)]
    several = [bombs.several(images, name) for name in ("GIF", "PNG", "WEBP", "AVIF", "TIFF", "MPO", "HEIF")]
    clips = [
        corpus.clip(45, duration_s=0.6, width=96, height=64, container=container, codec=codec,
                    options={"b": "1M"} if codec == "mpeg2video" else None)
        for container, codec in _CLIPS
    ]  # fmt: skip
    transparent = corpus.encode(np.dstack([picture, picture[..., 0]]), "PNG")
    progressive = bombs.progressive(picture)
    return (*stills, *several, *clips, transparent, progressive, stills[0] + clips[0])


def _bent(data: bytes, rng: random.Random) -> bytes:
    """Change some bits, most of them near the beginning, where headers are."""
    found = bytearray(data)
    reach = min(len(found), rng.choice((64, 400, 4000, len(found))))
    for _ in range(rng.randint(1, 24)):
        found[rng.randrange(reach)] ^= 1 << rng.randrange(8)
    return bytes(found)


def _great(data: bytes, rng: random.Random) -> bytes:
    """Set numbers to what they are never."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        number = rng.choice(_GREAT)
        at = rng.randrange(min(len(found), rng.choice((100, 1000, len(found)))))
        found[at : at + len(number)] = number
    return bytes(found)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(8, len(data))]


def _holed(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(4, len(data))
    return data[:start] + data[start + rng.randint(1, 600) :]


def _doubled(data: bytes, rng: random.Random) -> bytes:
    start, size = rng.randrange(len(data)), rng.randint(4, 2000)
    part = data[start : start + size]
    return data[:start] + part * rng.choice((2, 3, 40)) + data[start + size :]


def _filled(data: bytes, rng: random.Random) -> bytes:
    start, size = rng.randrange(8, len(data)), rng.randint(8, 400)
    return data[:start] + rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size))) + data[start + size :]


def _spliced(data: bytes, rng: random.Random) -> bytes:
    other = rng.choice(seeds())
    return data[: rng.randrange(8, len(data))] + other[rng.randrange(len(other)) :]


_WAYS: tuple[Callable[[bytes, random.Random], bytes], ...] = (_bent, _great, _cut, _holed, _doubled, _filled, _spliced)


@lru_cache(maxsize=1)
def _bombs() -> tuple[bytes, ...]:
    return tuple(data for make, _ in bombs.BOMBS.values() if len(data := make()) < 1_000_000)


def hostile(seed: int, number: int) -> bytes:
    """Return one hostile file of a series, always the same."""
    if number % BOMB_EVERY == BOMB_EVERY - 1:
        return _bombs()[number // BOMB_EVERY % len(_bombs())]
    rng = random.Random(f"{seed} {number}")
    data = rng.choice(seeds())
    for _ in range(rng.choice((1, 1, 2, 3))):
        if len(data) > 64:
            data = rng.choice(_WAYS)(data, rng)
    return data


# --- good ones --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Good:
    """Media of which the verdict is known."""

    data: bytes
    verdict: str


@lru_cache(maxsize=1)
def good() -> tuple[Good, ...]:
    """Return copies of what the bank knows, and media that it does not."""
    known, unknown = corpus.picture(501, 320, 240), corpus.picture(502, 320, 240)
    copies = [Good(corpus.jpeg(corpus.EDITS[edit](known), 75), "match") for edit in ("half_size", "mirror", "grey")]
    others = [Good(corpus.encode(unknown, name), "no_match") for name in ("JPEG", "PNG", "WEBP")]
    clips = [
        Good(corpus.edited_clip(503, "reencode", duration_s=2.0, width=192, height=108), "match"),
        Good(corpus.clip(504, duration_s=1.0, width=192, height=108), "no_match"),
    ]
    return tuple(one for pair in zip([*copies, clips[0]], [*others, clips[1]], strict=True) for one in pair)


def enroll(client: Client) -> None:
    """Teach the bank what the good ones are copies of."""
    client.request("PUT", f"/v1/banks/{BANK}")
    for data in (corpus.encode(corpus.picture(501, 320, 240), "PNG"),
                 corpus.clip(503, duration_s=2.0, width=192, height=108)):  # fmt: skip
        if client.request("POST", f"/v1/banks/{BANK}/contents", data)[0] != 201:
            raise SystemExit("what should be known cannot be enrolled")


# --- the run ----------------------------------------------------------------------------


def memory_mb(pid: int) -> float:
    """Return what a process and all below it have of the machine's memory, shared pages counted once."""
    total_kb = 0
    for one in family(pid):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total_kb += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total_kb / 1024


class Report:
    """What came of a run so far."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.good = self.server_errors = self.unanswered = self.late = 0
        self.slowest_s, self.slowest = 0.0, -1
        self.lost_over: list[int] = []
        self.memory_mb: list[float] = []
        self._lock = threading.Lock()

    def take(self, status: int, said: dict[str, Any], took_s: float, expected: str | None, number: int = -1) -> None:
        """Note the answer to an item; `expected` is the verdict of a good one."""
        word = str(said.get("code") or f"{said.get('verdict')} {said.get('reason') or ''}".strip())
        with self._lock:
            self.answers[f"{status} {word}" if expected is None else f"good: {status} {word}"] += 1
            if took_s > self.slowest_s:
                self.slowest_s, self.slowest = took_s, number
            if said.get("reason") in LOST:
                self.lost_over.append(number)
            self.late += took_s > TIMEOUT_S + GRACE_S
            self.unanswered += status == 0
            self.server_errors += status >= 500
            self.good += expected is not None
            if expected is not None and said.get("verdict") != expected:
                self.wrong.append(f"{expected} was {status} {word}")

    def drift(self) -> float:
        """Return by how much memory is more in the last fifth than in the second one, as a share of medians."""
        fifth = max(len(self.memory_mb) // 5, 1)
        before, after = self.memory_mb[fifth : 2 * fifth], self.memory_mb[-fifth:]
        return float(np.median(after) / np.median(before) - 1) if before else 0.0

    def _fifths(self) -> list[int]:
        return [round(float(np.median(part))) for part in np.array_split(self.memory_mb, 5)]

    def holds(self, *, steady: bool) -> bool:
        """Say whether all is as it should be."""
        failed = self.wrong or self.server_errors or self.unanswered or self.late or not self.good
        return not failed and (not steady or self.drift() <= STEADY)

    def text(self) -> str:
        """Return it for people."""
        lines = [
            f"good ones {self.good}, judged wrong {len(self.wrong)} {self.wrong[:5]}",
            f"5xx {self.server_errors}, without an answer {self.unanswered}, later than {TIMEOUT_S + GRACE_S:g} s"
            f" {self.late}, slowest {self.slowest_s:.2f} s (item {self.slowest})",
            f"workers lost {len(self.lost_over)} {self.lost_over[:10]}",
        ]
        if len(self.memory_mb) >= 10:
            lines.append(
                f"memory of all processes: {self.memory_mb[0]:.0f} MB at the start, from {min(self.memory_mb):.0f} to"
                f" {max(self.memory_mb):.0f} MB, medians of fifths {self._fifths()},"
                f" the last against the second {self.drift():+.1%}"
            )
        return "\n".join([*lines, *(f"  {count:6} × {word}" for word, count in self.answers.most_common())])


def _ask(client: Client, data: bytes, expected: str | None, report: Report, number: int) -> None:
    began = time.monotonic()
    try:
        status, said = client.request("POST", f"/v1/check?bank={BANK}", data)
    except (OSError, HTTPException, ValueError):
        status, said = 0, {"code": "no answer"}
        client.close()
    report.take(status, said, time.monotonic() - began, expected, number)


def _lane(server: Server, key: str, numbers: range, seed: int, report: Report) -> None:
    with server.client(key) as client:
        for number in numbers:
            _ask(client, hostile(seed, number), None, report, number)
            if number % GOOD_EVERY == GOOD_EVERY - 1:
                one = good()[number // GOOD_EVERY % len(good())]
                _ask(client, one.data, one.verdict, report, number)


def run(server: Server, key: str, items: int, seed: int, connections: int) -> Report:
    """Send the files, on some connections, in rounds; between rounds memory is measured."""
    report = Report()
    seeds(), _bombs(), good()  # before there are lanes: some encoders do not bear each other in one process
    with ThreadPoolExecutor(connections) as lanes:
        for start in range(0, items, MEMORY_EVERY):
            part = range(start, min(start + MEMORY_EVERY, items))
            step = -(-len(part) // connections)
            sent = [
                lanes.submit(_lane, server, key, part[at : at + step], seed, report)
                for at in range(0, len(part), step)
            ]  # fmt: skip
            for one in sent:
                one.result()
            report.memory_mb.append(memory_mb(server.pid))
    return report


def main() -> int:
    """Run, and print the report."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--items", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--connections", type=int, default=2)
    options.add_argument("--sandbox", default="required")
    given = options.parse_args()
    print(json.dumps(measure.machine()))
    with tempfile.TemporaryDirectory() as folder:
        settings = {"workers": "2", "sandbox": given.sandbox, "check_timeout_s": str(TIMEOUT_S)}
        with serving(Path(folder), **settings) as server:
            key = str(staydown(Path(folder), "key", "create", "--role", "admin")[0]["key"])
            with server.client(key) as client:
                enroll(client)
            report = run(server, key, given.items, given.seed, given.connections)
    print(f"{given.items} hostile files of seed {given.seed}, {given.connections} connections, 2 workers")
    print(report.text())
    return 0 if report.holds(steady=True) else 1


if __name__ == "__main__":
    sys.exit(main())
