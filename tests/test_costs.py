"""Small files that ask for minutes of work: each is refused or salvaged within two seconds of a caged worker's CPU."""

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from showing import png_chunk, saved

from benchmarks import corpus
from hashing import cage, costs
from hashing.cage import Sandbox
from hashing.errors import MediaError
from hashing.hasher import DEFAULT_TYPES, Plan
from hashing.media import Limits
from hashing.sandbox import Pool
from hashing.signals import SignalType

MOST_CPU_S = 2.0
PLAN = Plan(types=DEFAULT_TYPES | {SignalType.KEYPOINTS}, limits=Limits(timeout_s=120))
MANY = 0x7FFFFFFF


# --- pictures ---------------------------------------------------------------------------


def jpeg_scans(data: bytes) -> list[bytes]:
    """Return the scans of a JPEG, each with its header."""
    segments = [*costs._segments(data), (0, data.rindex(b"\xff\xd9"))]
    return [data[at : segments[number + 1][1]] for number, (marker, at) in enumerate(segments) if marker == 0xDA]


def jpeg_of_many_scans(count: int = 1000) -> bytes:
    """A progressive JPEG that refines the whole picture over and over: its last scans, repeated."""
    data = saved(Image.fromarray(corpus.picture(31, 2400, 1800)), "JPEG", progressive=True, quality=30)
    refining = min(jpeg_scans(data)[1:], key=len)
    return data[:-2] + refining * count + b"\xff\xd9"


def png(width: int, height: int, colour: int, channels: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    rows = zlib.compress(bytes((width * channels + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(header) + png_chunk(b"IDAT" + rows) + png_chunk(b"IEND")


def zeros(bits: int) -> bytes:
    return zlib.compress(bytes(1 << bits), 9)


def png_with(*chunks: bytes) -> bytes:
    data = corpus.encode(corpus.picture(32, 320, 240), "PNG")
    return data[:33] + b"".join(map(png_chunk, chunks)) + data[33:]


def apng_of_a_billion_frames() -> bytes:
    still = png(8000, 6000, 0, 1)
    first = png_chunk(b"fcTL" + struct.pack(">IIIIIHHBB", 0, 8000, 6000, 0, 0, 1, 10, 0, 0))
    small = b"".join(
        png_chunk(b"fcTL" + struct.pack(">IIIIIHHBB", 2 * n - 1, 1, 1, 0, 0, 1, 10, 0, 0))
        + png_chunk(b"fdAT" + struct.pack(">I", 2 * n) + zlib.compress(b"\0\0"))
        for n in range(1, 1000)
    )
    moving = png_chunk(b"acTL" + struct.pack(">II", MANY, 0))
    return still[:33] + moving + first + still[33:-12] + small + still[-12:]


def gif(width: int, height: int, frames: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x21\xf9\x04\x04\x05\0\0\0\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return head + frame * frames + b";"


def webp(width: int, height: int, frames: int) -> bytes:
    """A canvas of any size, and frames of 16×16 pixels."""
    small = [Image.new("RGB", (16, 16), level) for level in ("red", "blue")]
    data = saved(small[0], "WEBP", save_all=True, append_images=small[1:], lossless=True)
    at = data.index(b"ANMF")
    one = data[at : at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")]
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = data[12:24] + sides + data[30:at] + one * frames
    return b"RIFF" + (len(body) + 4).to_bytes(4, "little") + b"WEBP" + body


def tiff(*entries: tuple[int, int, int, int], following: int = 0, after: bytes = b"") -> bytes:
    rows = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + rows + struct.pack("<I", following) + after


_SMALL = (
    (256, 3, 1, 8),
    (257, 3, 1, 8),
    (258, 3, 1, 8),
    (259, 3, 1, 1),
    (262, 3, 1, 1),
    (273, 4, 1, 0),
    (279, 4, 1, 64),
)


def tiff_of_many_pages(count: int = 200_000) -> bytes:
    """Pages without an entry, each of which leads to the next."""
    start = 8 + 2 + 12 * len(_SMALL) + 4
    pages = b"".join(struct.pack("<HI", 0, start + 6 * (n + 1)) for n in range(count))
    return tiff(*_SMALL, following=start, after=pages)


def tiff_of_overlapping_entries() -> bytes:
    many = [(tag, 1, 4_000_000, 8) for tag in range(700, 60_000)]
    return tiff(*_SMALL, *many, after=bytes(4_000_000))


def exif_of_overlapping_entries() -> bytes:
    """A megabyte of EXIF in segments, each entry of which is all of it."""
    many = [(tag, 1, 900_000, 8) for tag in range(700, 60_000)]
    block = tiff(*many, after=bytes(200_000))
    parts = [b"Exif\0\0" + block[at : at + 65_000] for at in range(0, len(block), 65_000)]
    data = corpus.jpeg(corpus.picture(33, 320, 240), 90)
    return data[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in parts) + data[2:]


def bmp_of_runs() -> bytes:
    runs = (b"\xff\x01" * 39 + b"\x37\x01\0\0") * 10_000 + b"\0\1"
    head = struct.pack("<IIIHHIIIIII", 40, 10_000, 10_000, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 14 + 40 + 1024 + len(runs), 0, 0, 14 + 40 + 1024) + head + bytes(1024) + runs


# --- videos -----------------------------------------------------------------------------

CLIP = corpus.clip(34, duration_s=0.4, width=64, height=48)


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def with_table(kind: bytes, body: bytes) -> bytes:
    """Return the clip with one of its tables in place of its own; the index stands at the end of the file."""
    data = CLIP
    at = data.index(kind) - 4
    old = int.from_bytes(data[at : at + 4])
    new = box(kind, body)
    out = bytearray(data[:at] + new + data[at + old :])
    for holder in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        start = data.index(holder) - 4
        out[start : start + 4] = (int.from_bytes(data[start : start + 4]) + len(new) - old).to_bytes(4)
    return bytes(out)


def with_edits(count: int = 20_000) -> bytes:
    """Return the clip with as many edits, each of which goes through many samples."""
    sized = with_table(b"stsz", struct.pack(">III", 0, 1, 1_000_000))
    at = sized.index(b"elst") + 4
    return sized[:at] + struct.pack(">II", 0, count) + sized[at + 8 :]


def fragmented() -> bytes:
    """Two billion samples in a fragment of 100 bytes: each is as the track says, so none has a row."""
    run = box(b"trun", struct.pack(">II", 0, MANY))
    part = box(b"moof", box(b"mfhd", bytes(8)) + box(b"traf", box(b"tfhd", struct.pack(">II", 0, 1)) + run))
    return CLIP + part * 3


def deep(count: int = 300_000) -> bytes:
    return box(b"ftyp", b"isom" + bytes(4)) + box(b"moov", box(b"trak", b"") * count)


def packed() -> bytes:
    return box(b"ftyp", b"qt  " + bytes(4)) + box(b"moov", box(b"cmov", bytes(99)))


def great_still_video(frames: int = 400) -> bytes:
    """A hundred megapixels that do not change: a few bytes a frame."""
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as output:
        stream = output.add_stream("qtrle", rate=10)
        stream.width, stream.height, stream.pix_fmt = 16_000, 6_000, "rgb24"
        frame = av.VideoFrame(16_000, 6_000, "rgb24")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.pts = 0
        (first,) = stream.encode(frame)
        output.mux(first)
        for number in range(1, frames):
            still = av.Packet(struct.pack(">IH", 8, 0) + b"\0\0")
            still.stream, still.pts, still.dts, still.time_base = stream, number, number, stream.time_base
            output.mux(still)
    return file.getvalue()


REFUSED: dict[str, tuple[Callable[[], bytes], set[str | None]]] = {
    "a JPEG of 1,000 scans": (jpeg_of_many_scans, {"too_costly"}),
    "a PNG of 100 megapixels": (lambda: png(10_000, 10_000, 2, 3), {"too_many_pixels"}),
    "a transparent PNG of 100 megapixels": (lambda: png(10_000, 10_000, 6, 4), {"too_many_pixels"}),
    "a WebP of 100 megapixels": (
        lambda: saved(Image.new("RGB", (10_000, 9_990)), "WEBP", lossless=True, method=0), {"too_many_pixels"}
    ),
    "a TIFF of 100 megapixels": (
        lambda: saved(Image.new("RGB", (10_000, 9_990)), "TIFF", compression="tiff_adobe_deflate"), {"too_many_pixels"}
    ),
    "a BMP of runs": (bmp_of_runs, {None}),
    "a PNG with a text of a gigabyte": (lambda: png_with(*[b"zTXtk\0\0" + zeros(28)] * 4), {"truncated"}),
    "a PNG with 2,000 long texts": (lambda: png_with(*[b"zTXtk\0\0" + zeros(20)] * 2000), {"corrupt_media"}),
    "a PNG with a great profile": (lambda: png_with(b"iCCPk\0\0" + zeros(28)), {"truncated"}),
    "a PNG with a great international text": (
        lambda: png_with(b"iTXtk\0\1\0\0\0" + zeros(28)), {"truncated"}
    ),
    "a PNG of 200,000 chunks": (lambda: png_with(*[b"tEXtk\0v"] * 200_000), {None, "truncated"}),
    "an APNG of a billion frames": (apng_of_a_billion_frames, {"too_many_frames"}),
    "a GIF of 48 megapixels, 1,000 times": (lambda: gif(8000, 6000, 1000), {"too_many_frames"}),
    "a GIF of 500,000 frames": (lambda: gif(1, 1, 500_000), {"too_many_frames"}),
    "a WebP of 90 megapixels, 1,000 times": (lambda: webp(15_000, 6_000, 1000), {"too_many_frames"}),
    "a WebP of 100,000 frames": (lambda: webp(16, 16, 100_000), {"too_many_frames"}),
    "a TIFF that leads back to itself": (lambda: tiff(*_SMALL, following=8), {None, "truncated"}),
    "a TIFF of 200,000 pages": (tiff_of_many_pages, {"truncated", "too_many_frames"}),
    "a TIFF of overlapping entries": (tiff_of_overlapping_entries, {None, "truncated"}),
    "EXIF of overlapping entries": (exif_of_overlapping_entries, {None, "truncated"}),
    "an MP4 of two billion samples": (lambda: with_table(b"stsz", struct.pack(">III", 0, 1, MANY)), {"too_costly"}),
    "an MP4 of two billion sizes": (lambda: with_table(b"stsz", struct.pack(">III", 0, 0, MANY)), {"too_costly"}),
    "an MP4 of two billion times": (lambda: with_table(b"stts", struct.pack(">IIII", 0, 1, MANY, 1)), {"too_costly"}),
    "an MP4 of two billion shifts": (lambda: with_table(b"ctts", struct.pack(">IIII", 0, 1, MANY, 1)), {"too_costly"}),
    "an MP4 of two billion chunks": (lambda: with_table(b"stco", struct.pack(">II", 0, MANY)), {"too_costly"}),
    "an MP4 of two billion runs": (lambda: with_table(b"stsc", struct.pack(">II", 0, MANY)), {"too_costly"}),
    "an MP4 of two billion samples in a fragment": (fragmented, {"too_costly"}),
    "an MP4 of many edits": (with_edits, {"too_costly"}),
    "an MP4 whose index is packed": (packed, {"too_costly"}),
    "an MP4 of 300,000 tracks": (deep, {"too_costly"}),
    "a video of 96 megapixels that stands still": (great_still_video, {"too_many_frames"}),
}  # fmt: skip


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


@pytest.mark.parametrize("name", REFUSED)
def test_a_bomb_costs_little(name: str, pool: Pool) -> None:
    make, reasons = REFUSED[name]
    data = make()
    pid, before_s = cpu_s(pool)
    try:
        word: str | None = pool.hash_media(data, PLAN).reason
    except MediaError as error:
        word = error.word
    after, after_s = cpu_s(pool)
    assert after == pid, "the worker was lost"
    assert word in reasons
    assert after_s - before_s < MOST_CPU_S, f"{after_s - before_s:.1f} s"


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
