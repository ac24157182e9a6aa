"""`python -m benchmarks.checks`: a picture's bytes to its verdict, in this process, beside decoding and nothing else.

The bank compares sha256 and PDQ, and holds a million hashes; the pictures are unknown to it, as nearly
every upload is. The yardstick decodes the same bytes to the same size by the same library: a check
cannot be had for less. Parts of a check are timed by themselves, and the whole against the size of the bank.
"""

import io
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
from PIL import Image

from benchmarks import cache, corpus
from benchmarks.measure import Action, command, in_turns, timings
from benchmarks.report import Check, Curve, Fact, Floor, Section, Timing, point
from hashing.hasher import Plan, digests, hash_media, hash_pictures
from hashing.media import Limits, Sampling
from hashing.signals import SignalType
from hashing.stills import Still
from indexer.frame_matcher import asked_rows
from indexer.matcher import Query
from indexer.policy import POLICIES
from service.engine import Engine
from service.settings import read_settings

BANK, TYPES = "known", frozenset({SignalType.SHA256, SignalType.PDQ})
SIZES, HASHES, BATCH = ((512, 512), (1920, 1080), (4000, 3000)), 1_000_000, 16
GROWING = (1_000, 10_000, 100_000, HASHES)
GROWING_SIZE = (1920, 1080)
BAR = 0.8  # of the throughput of bare decoding
RADIUS_BITS = POLICIES["default"].radius_bits(SignalType.PDQ)
ALONE, TOGETHER = "one by one", f"{BATCH} judged together"
SAME, WHOLE = "bare decoding to the same size, Pillow", "bare decoding of the whole in colour, Pillow"
PLAN = Plan(types=TYPES)

Files = Sequence[bytes]


# --- the yardsticks ---------------------------------------------------------------------


def size_asked(data: bytes) -> tuple[int, int]:
    """Return the width and height that a check has a JPEG decoded to."""
    frame = next(iter(Still(data, Limits()).frames(Sampling.SPARSE)))
    height, width = frame.pixels.shape[:2]
    return width, height


def decode_to(size: tuple[int, int], files: Files) -> None:
    """Decode JPEGs to luma of a size."""
    for data in files:
        opened = Image.open(io.BytesIO(data))
        opened.draft("L", size)
        np.asarray(opened)


def decode_whole(files: Files) -> None:
    """Decode JPEGs to RGB."""
    for data in files:
        np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


# --- the check --------------------------------------------------------------------------


def one_by_one(engine: Engine, files: Files) -> list[str]:
    """Judge pictures one after the other."""
    return [engine.matcher.match(hash_media(data, PLAN)).verdict.value for data in files]


def together(engine: Engine, files: Files) -> list[str]:
    """Hash pictures one after the other, and judge them by one search."""
    queries = [Query(hash_media(data, PLAN)) for data in files]
    return [answer.verdict.value for answer in engine.matcher.match_all(queries)]


@contextmanager
def filled(hashes: int, known: Files = (), workers: int = 1) -> Iterator[Engine]:
    """Open an engine in a temporary home, on a bank of random hashes and some pictures."""
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="staydown-bench-"))
        engine = stack.enter_context(Engine(read_settings({"STAYDOWN_HOME": home, "STAYDOWN_WORKERS": str(workers)})))
        bank = engine.record.create_bank(BANK, signal_types=TYPES, actor="bench")
        cache.add_contents(engine.record, bank.bank_pk, hashes)
        for data in known:
            engine.enroll_media(BANK, data, None, (), actor="bench")
        engine.load_index()
        engine.index.compact(engine.record)
        yield engine


def pictures(size: tuple[int, int], count: int, first: int = 1) -> list[bytes]:
    """Return JPEGs of pictures that we make."""
    return [corpus.jpeg(corpus.picture(first + number, *size), 85) for number in range(count)]


def name_of(size: tuple[int, int]) -> str:
    """Return the name of a case."""
    return f"JPEG of {size[0]}×{size[1]}"


def timed(engine: Engine, size: tuple[int, int], files: Files, rounds: int) -> tuple[Timing, ...]:
    """Time checks beside decoding to the same size, and beside decoding the whole."""
    asked, many = size_asked(files[0]), [files[number % len(files)] for number in range(BATCH)]
    alone: dict[str, Action] = {ALONE: partial(one_by_one, engine, files)}
    ours = alone | {TOGETHER: partial(together, engine, many)}
    items = {name: float(len(files)) for name in (ALONE, SAME, WHOLE)} | {TOGETHER: float(BATCH)}
    title = name_of(size)
    same = timings(title, ours, {SAME: partial(decode_to, asked, files)}, rounds, items)
    whole = timings(f"{title}, whole", alone, {WHOLE: partial(decode_whole, files)}, rounds, items)
    return same + whole


def _parts(engine: Engine, data: bytes) -> dict[str, Action]:
    """Return what a check is made of, some parts with those before them."""
    signal = hash_media(data, PLAN)
    codes = np.ascontiguousarray(asked_rows(SignalType.PDQ, [signal])[0]["hash"])
    return {
        "decoding": lambda: list(Still(data, Limits()).frames(Sampling.SPARSE)),
        "decoding and hashing": lambda: hash_pictures(data, PLAN),
        "sha256 and md5": lambda: digests(data),
        f"search of {len(codes)} rows within {RADIUS_BITS} bits": lambda: engine.index.search(
            SignalType.PDQ, codes, RADIUS_BITS
        ),
        "search and judging": lambda: engine.matcher.match(signal),
    }


def told_apart(engine: Engine, size: tuple[int, int], data: bytes, rounds: int) -> list[Fact]:
    """Tell where the time of one check goes."""
    found = {name: 1000 * float(np.median(each)) for name, each in in_turns(_parts(engine, data), rounds).items()}
    decoding, hashing, digest, search, judging = found.values()
    names = list(found)
    told = {
        names[0]: decoding,
        "PDQ in eight symmetries, and looking for borders": hashing - decoding,
        names[2]: digest,
        names[3]: search,
        "asking the record, and the verdict": judging - search,
    }
    return [Fact(f"{name_of(size)}, where the time goes", name, value, "ms") for name, value in told.items()]


def as_expected(engine: Engine, files: Files, known: Files) -> Check:
    """Tell whether pictures get their verdicts, alone and together."""
    asked, wanted = [*files, *known], ["no_match"] * len(files) + ["match"] * len(known)
    wrong = [door.__name__ for door in (one_by_one, together) if door(engine, asked) != wanted]
    return Check(
        "verdicts on unknown and known pictures", not wrong, f"{len(asked)} pictures, wrong: {wrong or 'none'}"
    )


def grown(rounds: int, sizes: Sequence[int] = GROWING, last: Engine | None = None) -> tuple[Curve, ...]:
    """Time a check against the size of the bank; `last` is an engine on the last of the sizes."""
    files = pictures(GROWING_SIZE, 1)
    asked, found = size_asked(files[0]), dict[str, list[tuple[int, tuple[float, ...]]]]()
    for hashes in sizes:
        with ExitStack() as stack:
            mine = last is not None and hashes == sizes[-1]
            engine = last if mine and last is not None else stack.enter_context(filled(hashes))
            actions: dict[str, Action] = {
                "staydown, bytes to verdict": partial(one_by_one, engine, files),
                SAME: partial(decode_to, asked, files),
            }
            for name, seconds in in_turns(actions, rounds).items():
                found.setdefault(name, []).append((hashes, seconds))
    title = f"A check of a {name_of(GROWING_SIZE)} against the size of the bank"
    return tuple(
        Curve(title, "hashes", "ms", name, tuple(point(x, [1000 * s for s in seconds]) for x, seconds in at))
        for name, at in found.items()
    )


def collect(short: bool) -> Section:
    """Measure everything."""
    rounds = 7 if short else 15
    files = {size: pictures(size, 2 if size[0] > 2000 else 4) for size in SIZES}
    known = pictures((640, 480), 2, first=900)
    with filled(HASHES, known) as engine:
        times = [timing for size in SIZES for timing in timed(engine, size, files[size], rounds)]
        facts = [fact for size in SIZES for fact in told_apart(engine, size, files[size][0], rounds)]
        check = as_expected(engine, [*files[SIZES[0]], *files[SIZES[1]]], known)
        curves = grown(rounds, last=engine)
    floors = tuple(Floor(name_of(size), SAME, BAR, goal=True, ours=how) for size in SIZES for how in (ALONE, TOGETHER))
    note = (f"One thread, a bank of {HASHES:,} hashes that compares sha256 and PDQ; the pictures timed are unknown to "
            "it. A check has a JPEG decoded to luma, a large one smaller as well: so does the yardstick.")  # fmt: skip
    return Section("Checks", note, tuple(times), tuple(facts), (check,), floors, curves)


if __name__ == "__main__":
    sys.exit(command("checks", collect))
