"""`python -m benchmarks.videos`: a clip's bytes to its verdict, beside decoding every frame of it.

Clips that we make: two scenes, a camera that moves, a key frame every two seconds as platforms have it, and
one with the encoder's own key frames, which are too few to be judged by in so short a clip, so that it is
decoded whole. As curves: against the length of a clip, against the size of its pictures, and against cores.
"""

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import av

from benchmarks import corpus
from benchmarks.checks import filled, one_by_one
from benchmarks.end_to_end import PYAV, by_pool, decode_clips, photos
from benchmarks.measure import Action, command, in_turns, timings
from benchmarks.report import Check, Curve, Floor, Section, Timing, point
from hashing.hasher import Plan, hash_media
from hashing.signals import SignalType
from service.engine import Engine

HASHES, BAR = 100_000, 15.0
HD, LENGTHS_S = (1280, 720), (5.0, 10.0, 20.0, 40.0, 60.0)
SIZES, SIZES_S = ((480, 270), (640, 360), HD, (1920, 1080)), 10.0
VERDICT, HASHED, SKETCHED = "bytes to verdict, PDQ and sha256", "bytes to PDQ", "bytes to PDQ and keypoints"
KEYS = "bare decoding of its key frames, PyAV"
PLATFORM, OWN = {"g": "50"}, dict[str, str]()
PDQ = Plan(types=frozenset({SignalType.PDQ}))
WITH_KEYPOINTS = Plan(types=frozenset({SignalType.PDQ, SignalType.KEYPOINTS}))

Curves = dict[str, list[tuple[float, tuple[float, ...]]]]


def made(size: tuple[int, int], duration_s: float, options: dict[str, str]) -> bytes:
    """Make a clip; `options` are the encoder's."""
    return corpus.clip(5, duration_s=duration_s, width=size[0], height=size[1], crf=28, options=options)


def first(data: bytes, duration_s: float) -> bytes:
    """Return the first seconds of a clip, not encoded anew."""
    out = io.BytesIO()
    source: Any = av.open(io.BytesIO(data), "r")
    with source, av.open(out, "w", format="mp4") as target:
        copied: Any = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None and packet.pts * packet.time_base < duration_s:
                packet.stream = copied
                target.mux(packet)
    return out.getvalue()


def named(duration_s: float, options: dict[str, str]) -> str:
    """Return the name of a case."""
    return f"720p clip of {duration_s:g} s, {'a key frame each 2 s' if options else 'the key frames of x264 itself'}"


def timed(engine: Engine, title: str, data: bytes, rounds: int) -> tuple[Timing, ...]:
    """Time a clip's bytes to its hashes, and to its verdict."""
    ours: dict[str, Action] = {
        VERDICT: partial(one_by_one, engine, [data]),
        HASHED: partial(hash_media, data, PDQ),
        SKETCHED: partial(hash_media, data, WITH_KEYPOINTS),
    }
    return timings(title, ours, {PYAV: partial(decode_clips, [data])}, rounds)


def limited(title: str, data: bytes, rounds: int) -> tuple[Timing, ...]:
    """Time a clip that is judged by its key frames beside decoding these and nothing else."""
    ours: dict[str, Action] = {HASHED: partial(hash_media, data, PDQ)}
    return timings(f"{title}, the limit", ours, {KEYS: partial(decode_key_frames, data)}, rounds)


def decode_key_frames(data: bytes) -> None:
    """Decode the key frames of a clip alone, and convert none."""
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.skip_frame = "NONE", "NONKEY"
        for _ in container.decode(video=0):
            pass


def _grow(curves: Curves, engine: Engine, x: float, data: bytes, rounds: int) -> None:
    actions: dict[str, Action] = {VERDICT: partial(one_by_one, engine, [data]), PYAV: partial(decode_clips, [data])}
    for name, seconds in in_turns(actions, rounds).items():
        curves.setdefault(name, []).append((x, seconds))


def drawn(title: str, x: str, curves: Curves) -> tuple[Curve, ...]:
    """Return curves of milliseconds."""
    return tuple(
        Curve(title, x, "ms", name, tuple(point(place, [1000 * s for s in seconds]) for place, seconds in at))
        for name, at in curves.items()
    )


def by_length(engine: Engine, longest: bytes, lengths_s: Sequence[float], rounds: int) -> tuple[Curve, ...]:
    """Time clips of several lengths, the beginnings of one."""
    found: Curves = {}
    for length_s in lengths_s:
        _grow(found, engine, length_s, first(longest, length_s), rounds)
    return drawn("A 720p clip against its length", "seconds of the clip", found)


def by_size(engine: Engine, duration_s: float, rounds: int) -> tuple[Curve, ...]:
    """Time clips of several picture sizes."""
    found: Curves = {}
    for width, height in SIZES:
        _grow(found, engine, width * height / 1e6, made((width, height), duration_s, PLATFORM), rounds)
    return drawn(f"A clip of {duration_s:g} s against the size of its pictures", "megapixels", found)


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Run the block, and all that it starts, on so many cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(before)[:count]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def by_cores(items: dict[str, Sequence[bytes]], rounds: int, hashes: int = HASHES) -> tuple[Curve, ...]:
    """Count checks a second by as many workers as there are cores."""
    counts = range(1, len(os.sched_getaffinity(0)) + 1)
    found: dict[str, list[tuple[int, list[float]]]] = {name: [] for name in items}
    for count in counts:
        with on_cores(count), filled(hashes, workers=count) as engine:
            for name, files in items.items():
                taken = in_turns({name: partial(by_pool, engine, files)}, rounds)[name]
                found[name].append((count, [len(files) / seconds for seconds in taken]))
    return tuple(
        Curve("Checks against cores", "cores, and workers", "a second", name, tuple(point(x, each) for x, each in at))
        for name, at in found.items()
    )


def collect(short: bool) -> Section:
    """Measure everything."""
    rounds, lengths_s = (3, LENGTHS_S[:3]) if short else (9, LENGTHS_S)
    own_s = LENGTHS_S[0 if short else 1]
    longest, own = made(HD, lengths_s[-1], PLATFORM), made(HD, own_s, OWN)
    cases = {named(length_s, PLATFORM): first(longest, length_s) for length_s in lengths_s if length_s >= 20}
    with ExitStack() as stack:
        engine = stack.enter_context(filled(HASHES, [longest]))
        verdicts = one_by_one(engine, list(cases.values()))
        times = [timing for title, data in (cases | {named(own_s, OWN): own}).items()
                 for timing in timed(engine, title, data, rounds)]  # fmt: skip
        times += [timing for title, data in cases.items() for timing in limited(title, data, rounds)]
        curves = by_length(engine, longest, lengths_s, rounds)
        curves += by_size(engine, lengths_s[0] if short else SIZES_S, rounds)
    many = {"1 MP photos": photos(16).files, "720p clips of 10 s": [first(longest, 10.0)] * 4}
    curves += by_cores(many, rounds, 10_000 if short else HASHES)
    found = Check("clips match what they are the beginning of", set(verdicts) == {"match"}, ", ".join(verdicts))
    note = (f"One thread, but for the curve of cores; a bank of {HASHES:,} hashes in which the clip is enrolled. The "
            "yardstick decodes every frame, converts none, and looks at none.")  # fmt: skip
    floors = tuple(Floor(title, PYAV, BAR, goal=True, ours=VERDICT) for title in cases)
    return Section("Videos", note, tuple(times), (), (found,), floors, curves)


if __name__ == "__main__":
    sys.exit(command("videos", collect))
