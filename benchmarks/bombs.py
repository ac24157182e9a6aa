"""Small files that ask for minutes of work, each made here, and the words that are fit to answer them.

For the tests of cost bounds and for `benchmarks.hostile`. None is kept as a file.
"""

import io
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
from PIL import Image

from benchmarks import corpus
from hashing import costs

MANY = 0x7FFFFFFF


def _saved(image: Image.Image, format_: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def _png_chunk(body: bytes) -> bytes:
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def several(images: list[Image.Image], format_: str) -> bytes:
    """Return a file of several pictures, or an animation of them."""
    return _saved(images[0], format_, save_all=True, append_images=images[1:])


def progressive(picture: corpus.Picture) -> bytes:
    """Return a progressive JPEG."""
    return _saved(Image.fromarray(picture), "JPEG", progressive=True, quality=80)


# --- pictures ---------------------------------------------------------------------------


def jpeg_scans(data: bytes) -> list[bytes]:
    """Return the scans of a JPEG, each with its header."""
    segments = [*costs.segments(data), (0, data.rindex(b"\xff\xd9"))]
    return [data[at : segments[number + 1][1]] for number, (marker, at) in enumerate(segments) if marker == 0xDA]


def jpeg_of_many_scans(count: int = 1000) -> bytes:
    """A progressive JPEG that refines the whole picture over and over: its last scans, repeated."""
    data = _saved(Image.fromarray(corpus.picture(31, 2400, 1800)), "JPEG", progressive=True, quality=30)
    refining = min(jpeg_scans(data)[1:], key=len)
    return data[:-2] + refining * count + b"\xff\xd9"


def png(width: int, height: int, colour: int, channels: int) -> bytes:
    """Return a PNG of zeros."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    rows = zlib.compress(bytes((width * channels + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + _png_chunk(header) + _png_chunk(b"IDAT" + rows) + _png_chunk(b"IEND")


def zeros(bits: int) -> bytes:
    """Return 2**bits zeros, deflated."""
    return zlib.compress(bytes(1 << bits), 9)


def png_with(*chunks: bytes) -> bytes:
    """Return a small PNG with more chunks."""
    data = corpus.encode(corpus.picture(32, 320, 240), "PNG")
    return data[:33] + b"".join(map(_png_chunk, chunks)) + data[33:]


def apng_of_a_billion_frames() -> bytes:
    still = png(8000, 6000, 0, 1)
    first = _png_chunk(b"fcTL" + struct.pack(">IIIIIHHBB", 0, 8000, 6000, 0, 0, 1, 10, 0, 0))
    small = b"".join(
        _png_chunk(b"fcTL" + struct.pack(">IIIIIHHBB", 2 * n - 1, 1, 1, 0, 0, 1, 10, 0, 0))
        + _png_chunk(b"fdAT" + struct.pack(">I", 2 * n) + zlib.compress(b"\0\0"))
        for n in range(1, 1000)
    )
    moving = _png_chunk(b"acTL" + struct.pack(">II", MANY, 0))
    return still[:33] + moving + first + still[33:-12] + small + still[-12:]


def gif(width: int, height: int, frames: int) -> bytes:
    """Return a GIF whose frames change one pixel."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x21\xf9\x04\x04\x05\0\0\0\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return head + frame * frames + b";"


def webp(width: int, height: int, frames: int) -> bytes:
    """A canvas of any size, and frames of 16×16 pixels."""
    small = [Image.new("RGB", (16, 16), level) for level in ("red", "blue")]
    data = _saved(small[0], "WEBP", save_all=True, append_images=small[1:], lossless=True)
    at = data.index(b"ANMF")
    one = data[at : at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")]
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = data[12:24] + sides + data[30:at] + one * frames
    return b"RIFF" + (len(body) + 4).to_bytes(4, "little") + b"WEBP" + body


def tiff(*entries: tuple[int, int, int, int], following: int = 0, after: bytes = b"") -> bytes:
    """Return a TIFF of one page with these entries, and what follows."""
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
    """Return a BMP of a hundred megapixels in runs of 255."""
    runs = (b"\xff\x01" * 39 + b"\x37\x01\0\0") * 10_000 + b"\0\1"
    head = struct.pack("<IIIHHIIIIII", 40, 10_000, 10_000, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 14 + 40 + 1024 + len(runs), 0, 0, 14 + 40 + 1024) + head + bytes(1024) + runs


# --- videos -----------------------------------------------------------------------------

CLIP = corpus.clip(34, duration_s=0.4, width=64, height=48)


def box(kind: bytes, body: bytes) -> bytes:
    """Return an ISO box."""
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
    """Return an MP4 of many empty tracks."""
    return box(b"ftyp", b"isom" + bytes(4)) + box(b"moov", box(b"trak", b"") * count)


def packed() -> bytes:
    """Return an MP4 whose index would have to be unpacked."""
    return box(b"ftyp", b"qt  " + bytes(4)) + box(b"moov", box(b"cmov", bytes(99)))


def great_still_video(frames: int = 400) -> bytes:
    """Thirty megapixels that do not change: a few bytes a frame."""
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as output:
        stream = output.add_stream("qtrle", rate=10)
        stream.width, stream.height, stream.pix_fmt = 8_000, 4_000, "rgb24"
        frame = av.VideoFrame(8_000, 4_000, "rgb24")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.pts = 0
        (first,) = stream.encode(frame)
        output.mux(first)
        for number in range(1, frames):
            still = av.Packet(struct.pack(">IH", 8, 0) + b"\0\0")
            still.stream, still.pts, still.dts, still.time_base = stream, number, number, Fraction(1, 10)
            output.mux(still)
    return file.getvalue()


BOMBS: dict[str, tuple[Callable[[], bytes], set[str | None]]] = {
    "a JPEG of 1,000 scans": (jpeg_of_many_scans, {"too_costly"}),
    "a PNG of 100 megapixels": (lambda: png(10_000, 10_000, 2, 3), {"too_many_pixels"}),
    "a transparent PNG of 100 megapixels": (lambda: png(10_000, 10_000, 6, 4), {"too_many_pixels"}),
    "a WebP of 100 megapixels": (
        lambda: _saved(Image.new("RGB", (10_000, 9_990)), "WEBP", lossless=True, method=0), {"too_many_pixels"}
    ),
    "a TIFF of 100 megapixels": (
        lambda: _saved(Image.new("RGB", (10_000, 9_990)), "TIFF", compression="tiff_adobe_deflate"), {"too_many_pixels"}
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
    "a video of 32 megapixels that stands still": (great_still_video, {"too_many_frames"}),
}  # fmt: skip
