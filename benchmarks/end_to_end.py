"""`python -m benchmarks.end_to_end`: from bytes to a verdict, by every door of staydown.

The bank holds 10,000 hashes. What a door adds is told by the same media through the door
before it; the yardstick is decoding the same bytes and nothing else, in one process. The
service is a real `staydown serve`, its clients are threads of this process, so on a small
machine they take cores from it.
"""

import io
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from benchmarks import corpus
from benchmarks.measure import Action, command, timings
from benchmarks.report import Check, Section, Timing
from benchmarks.server import Client, Server, serving
from hashing.hasher import Plan, hash_media
from hashing.signals import HASH_BYTES, SignalType
from indexer.enroll import ReadyHash, Submission, signal_of
from service.auth import Role
from service.engine import Engine
from service.settings import read_settings

BANK = "known"
KNOWN_HASHES = 10_000
CONNECTIONS = 8
PHOTO_SIZE = (1152, 864)  # 1 MP
PILLOW, PYAV = "bare decoding, Pillow", "bare decoding of all frames, PyAV"

Verdicts = list[str]


@dataclass(frozen=True, slots=True)
class Media:
    """Some media of one kind, and the verdict that each has to get."""

    name: str
    files: tuple[bytes, ...]
    expected: tuple[str, ...]


def photos(count: int) -> Media:
    """Return JPEG photographs; every other one is a copy of what `fill` enrolls."""
    files = tuple(corpus.jpeg(corpus.picture(seed, *PHOTO_SIZE), 85) for seed in range(count))
    return Media("1 MP photo, JPEG", files, tuple("no_match" if seed % 2 else "match" for seed in range(count)))


def clip(name: str, duration_s: float, **options: str) -> Media:
    """Return one 720p clip, a copy of what is enrolled; `options` are the encoder's."""
    shown = corpus.clip_frames(5, duration_s=duration_s, width=1280, height=720)
    return Media(name, (corpus.write_clip(shown, crf=30, options=options),), ("match",))


def clips() -> tuple[Media, ...]:
    """Return a clip as media platforms encode it, and one whose key frames are too few to judge it by."""
    return (
        clip("720p clip, 8 s, a key frame each 2 s", 8.0, g="50"),
        clip("720p clip, 4 s, few key frames", 4.0),
    )


def fill(engine: Engine, known: Sequence[bytes], hashes: int, types: Iterable[SignalType] | None = None) -> None:
    """Make the bank, which compares these types (None: the usual ones): media, and random hashes beside."""
    settings: dict[str, Any] = {} if types is None else {"signal_types": frozenset(types)}
    engine.record.create_bank(BANK, actor="bench", **settings)
    codes = np.random.default_rng(3).integers(0, 256, (hashes, HASH_BYTES), np.uint8)
    ready = [signal_of([ReadyHash(SignalType.PDQ, bytes(code).hex())]) for code in codes]
    engine.enroller.enroll_many(BANK, [Submission(signal) for signal in ready], actor="bench")
    for data in known:
        engine.enroll_media(BANK, data, None, (), actor="bench")


# --- doors ------------------------------------------------------------------------------


def in_process(engine: Engine, files: Sequence[bytes]) -> Verdicts:
    """Check one after the other in this process, which decodes as well."""
    plan = Plan(types=engine.matcher.signal_types(None))
    return [engine.matcher.match(hash_media(data, plan)).verdict.value for data in files]


def by_pool(engine: Engine, files: Sequence[bytes]) -> Verdicts:
    """Check with as many callers as there are workers."""
    with ThreadPoolExecutor(engine.pool.workers) as threads:
        return [answer.verdict.value for answer in threads.map(lambda data: engine.check_media(data, None), files)]


class Crowd:
    """Keep-alive connections that ask at the same time."""

    def __init__(self, server: Server, key: str, connections: int) -> None:
        self._clients = [server.client(key) for _ in range(connections)]
        self._threads = ThreadPoolExecutor(connections)

    def ask(self, ask: Callable[[Client, bytes], str], items: Sequence[bytes]) -> Verdicts:
        """Share items out and return the answers in their order."""
        step = len(self._clients)

        def share(number: int) -> Verdicts:
            return [ask(self._clients[number], item) for item in items[number::step]]

        answers = [""] * len(items)
        for number, part in enumerate(self._threads.map(share, range(step))):
            answers[number::step] = part
        return answers

    def close(self) -> None:
        """Close the connections."""
        self._threads.shutdown()
        for client in self._clients:
            client.close()


def _check(client: Client, data: bytes) -> str:
    return str(client.check(data)[1].get("verdict"))


# --- yardsticks -------------------------------------------------------------------------


def _decode_pictures(files: Sequence[bytes]) -> None:
    for data in files:
        np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def decode_clips(files: Sequence[bytes]) -> None:
    """Decode every frame, and convert none."""
    for data in files:
        with av.open(io.BytesIO(data), "r") as container:
            container.streams.video[0].thread_type = "NONE"
            for _ in container.decode(video=0):
                pass


# --- measuring --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Doors:
    """Everything opened on one bank."""

    engines: dict[int, Engine]  # by their number of workers
    server: Server
    crowds: dict[int, Crowd]  # by their number of connections


def _engine(home: Path, workers: int) -> Engine:
    return Engine(read_settings({"STAYDOWN_HOME": str(home), "STAYDOWN_WORKERS": str(workers)}))


@contextmanager
def opened(media: Sequence[Media], hashes: int = KNOWN_HASHES,
           types: Iterable[SignalType] | None = None) -> Iterator[Doors]:  # fmt: skip
    """Fill a bank in a temporary home and open all doors to it."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="staydown-bench-")))
        engines = {count: stack.enter_context(_engine(home, count)) for count in (1, 2)}
        known = [
            data for some in media for data, word in zip(some.files, some.expected, strict=True) if word == "match"
        ]
        fill(engines[1], known, hashes, types)
        for engine in engines.values():
            engine.load_index()
        _, key = engines[1].keys.create(Role.LOOKUP.value, name="bench", actor="bench")
        server = stack.enter_context(serving(home))
        crowds = {count: Crowd(server, key, count) for count in (1, CONNECTIONS)}
        for crowd in crowds.values():
            stack.callback(crowd.close)
        yield Doors(engines, server, crowds)


def _doors_to(doors: Doors) -> dict[str, tuple[int, Callable[[Sequence[bytes]], Verdicts]]]:
    """Return the doors by name: how many items they take at a time, and what takes them."""
    one, two = doors.engines[1], doors.engines[2]
    return {
        "in process": (1, partial(in_process, one)),
        "pool of 1 worker": (1, partial(by_pool, one)),
        "pool of 2 workers": (2, partial(by_pool, two)),
        "HTTP, 1 connection": (1, partial(doors.crowds[1].ask, _check)),
        f"HTTP, {CONNECTIONS} connections": (CONNECTIONS, partial(doors.crowds[CONNECTIONS].ask, _check)),
    }


def checked(doors: Doors, media: Media, peer: str, decode: Callable[[Sequence[bytes]], None],
            rounds: int) -> tuple[tuple[Timing, ...], Check]:  # fmt: skip
    """Time one kind of media through all doors."""
    ours: dict[str, Action] = {}
    sizes, wrong = {peer: len(media.files)}, []
    for name, (at_a_time, door) in _doors_to(doors).items():
        again = -(-at_a_time // len(media.files))
        files, sizes[name] = media.files * again, len(media.files) * again
        ours[name] = partial(door, files)
        wrong += [name] if door(files) != list(media.expected * again) else []
    found = timings(media.name, ours, {peer: lambda: decode(media.files)}, rounds, sizes)
    detail = f"not as expected: {', '.join(wrong)}" if wrong else f"as expected by {len(ours)} doors"
    return found, Check(f"verdicts on {media.name}", not wrong, detail)


def collect(short: bool) -> Section:
    """Measure everything."""
    some_photos, some_clips, rounds = photos(16), clips()[: 1 if short else 2], 3 if short else 15
    with opened([some_photos, *some_clips]) as doors:
        parts = [checked(doors, some_photos, PILLOW, _decode_pictures, rounds)]
        parts += [checked(doors, some, PYAV, decode_clips, rounds) for some in some_clips]
        times = [timing for found, _ in parts for timing in found]
    note = (f"Bytes to a verdict, a bank of {KNOWN_HASHES:,} hashes; decoding alone, in one process, is the yardstick. "
            "Times are for one item, with all connections or workers together.")  # fmt: skip
    return Section("End to end", note, tuple(times), (), tuple(check for _, check in parts))


if __name__ == "__main__":
    sys.exit(command("end_to_end", collect))
