"""Small files that ask for minutes of work: each is refused or salvaged within two seconds of a caged worker's CPU."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from showing import saved

from benchmarks import bombs, corpus
from benchmarks.bombs import CLIP, MANY, box, jpeg_of_many_scans, jpeg_scans
from hashing import cage, costs
from hashing.cage import Sandbox
from hashing.errors import MediaError
from hashing.hasher import DEFAULT_TYPES, Plan
from hashing.media import Limits
from hashing.sandbox import Pool
from hashing.signals import SignalType

MOST_CPU_S = 2.0
PLAN = Plan(types=DEFAULT_TYPES | {SignalType.KEYPOINTS}, limits=Limits(timeout_s=120))


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(1, sandbox=Sandbox.REQUIRED if cage.landlock_abi() else Sandbox.AVAILABLE) as shared:
        yield shared


def cpu_s(pool: Pool) -> tuple[int, float]:
    """Return which process the worker is, and how long it has computed."""
    (worker,) = pool._idle.queue
    if worker is None:  # the last bomb's fault
        pool.hash_media(CLIP, PLAN)
        return cpu_s(pool)
    fields = Path(f"/proc/{worker._process.pid}/stat").read_text().rpartition(")")[2].split()
    return worker._process.pid, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def allowed_s(pool: Pool) -> float:
    """Return what a bomb may cost where a busy machine makes everything slow: as much as eight good great pictures."""
    picture = saved(Image.fromarray(np.zeros((5000, 5000, 3), np.uint8)), "BMP")
    before_s = cpu_s(pool)[1]
    pool.hash_media(picture, PLAN)
    return max(MOST_CPU_S, 8 * (cpu_s(pool)[1] - before_s))


@pytest.mark.parametrize("name", bombs.BOMBS)
def test_a_bomb_costs_little(name: str, pool: Pool) -> None:
    make, reasons = bombs.BOMBS[name]
    data = make()
    pid, before_s = cpu_s(pool)
    try:
        word: str | None = pool.hash_media(data, PLAN).reason
    except MediaError as error:
        word = error.word
    after, after_s = cpu_s(pool)
    assert after == pid, "the worker was lost"
    assert word in reasons
    took_s = after_s - before_s
    assert took_s < MOST_CPU_S or took_s < allowed_s(pool), f"{took_s:.1f} s"


# --- what is no bomb --------------------------------------------------------------------


def test_a_jpeg_of_usual_scans_is_left_as_it_is() -> None:
    data = saved(Image.fromarray(corpus.picture(35, 640, 480)), "JPEG", progressive=True)
    assert len(jpeg_scans(data)) == 10
    assert costs.few_scans(data) == (data, False)


def test_a_jpeg_of_too_many_scans_still_shows_its_picture(pool: Pool) -> None:
    whole = saved(Image.fromarray(corpus.picture(31, 2400, 1800)), "JPEG", progressive=True, quality=30)
    found, wanted = (pool.hash_media(data, PLAN).frames for data in (jpeg_of_many_scans(40), whole))
    assert found["hash"].tobytes() == wanted["hash"].tobytes()


def test_the_scans_of_a_great_jpeg_are_fewer() -> None:
    few = jpeg_of_many_scans(12)
    great = few.replace(struct.pack(">HH", 1800, 2400), struct.pack(">HH", 18_000, 5_000))
    assert costs.few_scans(few) == (few, False)
    cut, was = costs.few_scans(great)
    assert (was, len(jpeg_scans(cut))) == (True, 10)


def test_bytes_that_look_like_scans_are_none() -> None:
    data = corpus.jpeg(corpus.picture(36, 64, 64), 90)
    behind = data[:2] + b"\xff\xe1" + struct.pack(">H", 402) + b"\xff\xda\0\2" * 100 + data[2:] + b"\xff\xda\0\2" * 100
    assert costs.few_scans(behind) == (behind, False)
    assert costs.few_scans(b"\xff\xd8") == (b"\xff\xd8", False)


def test_real_tables_are_not_great() -> None:
    """Clips, and sound that is not compressed: its samples are counted one by one, and lie in chunks."""
    limits = Limits()
    assert not costs.has_great_tables(CLIP, limits)
    assert not costs.has_great_tables(corpus.clip(34, duration_s=1.0, container="mov"), limits)
    assert not costs.has_great_tables(hours_of_sound(), limits)
    assert not costs.has_great_tables(b"", limits)
    assert costs.has_great_tables(CLIP, Limits(max_frames=1))


def hours_of_sound(handler: bytes = b"soun", samples_in_chunk: int = 48_000) -> bytes:
    """Four hours of stereo at 48 kHz as QuickTime has it, but for the sound."""
    count = 48_000 * 3600 * 4
    tables = (
        box(b"stts", struct.pack(">IIII", 0, 1, count, 1)) + box(b"stsz", struct.pack(">III", 0, 4, count))
        + box(b"stsc", struct.pack(">IIIII", 0, 1, 1, samples_in_chunk, 1))
        + box(b"stco", struct.pack(">II", 0, 14_400) + bytes(4 * 14_400))
    )  # fmt: skip
    named = box(b"hdlr", bytes(8) + handler + bytes(12))
    return box(b"moov", box(b"trak", box(b"mdia", named + box(b"minf", box(b"stbl", tables)))))


def test_sound_hides_no_table() -> None:
    assert costs.has_great_tables(hours_of_sound(b"vide"), Limits())
    assert costs.has_great_tables(hours_of_sound(samples_in_chunk=MANY), Limits())


def test_boxes_are_followed_into_one_another_and_no_further_than_they_go() -> None:
    inner = box(b"trak", box(b"mdia", b""))
    data = (
        box(b"ftyp", b"isom")
        + struct.pack(">I4sQ", 1, b"moov", 16 + len(inner))
        + inner
        + struct.pack(">I4s", 0, b"mdat")
    )
    assert [kind for kind, *_ in costs.boxes(data)] == [b"ftyp", b"moov", b"trak", b"mdia", b"mdat"]
    assert [kind for kind, *_ in costs.boxes(struct.pack(">I4s", 4, b"moov"))] == []
    deep = b""
    for _ in range(2000):
        deep = box(b"moov", deep)
    assert len(list(costs.boxes(deep))) == 11


def test_a_page_of_text_is_no_bomb(pool: Pool) -> None:
    """Sixty megapixels of black on white are a page, and cost little."""
    page = np.full((9_000, 6_600), 255, np.uint8)
    page[1000:8000:100, 500:6000] = 0
    data = saved(Image.fromarray(page).convert("1"), "TIFF", compression="group4")
    assert len(data) < 100_000
    found = pool.hash_media(data, PLAN)
    assert (found.reason, found.media.width) == (None, 6_600)
