"""Bytes -> pictures, under Limits. The kind is told from the bytes, never from a name.

`stills` (Pillow) and `clips` (PyAV) are the only files that decode, and this one is
their only door: `sniff` says what the bytes are, `Frame` is what comes out. OpenCV
never sees bytes from outside, only arrays that we own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hashing.errors import Reason, UnsupportedMedia
from hashing.signals import Kind

MAX_SIDE = 65_535  # JPEG's; a line of a million pixels is no picture, but costs as much as one

Pixels = NDArray[Any]  # uint8 or uint16 (h, w) luma, or uint8 (h, w, 3) RGB


@dataclass(frozen=True, slots=True)
class Limits:
    """What decoding may cost. One value for every door of staydown."""

    max_body_bytes: int = 256 * 1024 * 1024
    max_pixels: int = 100_000_000
    max_duration_s: float = 4 * 3600.0
    max_frames: int = 500_000
    max_stills: int = 16
    timeout_s: float = 120.0

    def allow(self, width: int, height: int) -> bool:
        """Tell whether a picture of this size may be decoded."""
        return width * height <= self.max_pixels and max(width, height) <= MAX_SIDE


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded picture, upright. Full-range luma is `(value - black) * scale`.

    `full` is the size (h, w) of the file's picture, where it was decoded smaller by a whole number.
    """

    pixels: Pixels
    timestamp_s: float = float("nan")
    black: float = 0.0
    scale: float = 1.0
    is_key: bool = True
    full: tuple[int, int] | None = None

    def grey8(self) -> NDArray[np.uint8]:
        """Return a uint8 (h, w) luma array; RGB is not accepted."""
        if self.pixels.dtype == np.uint8:
            return self.pixels
        return (self.pixels * self.scale).clip(0, 255).astype(np.uint8)


class Sampling(StrEnum):
    """How closely a video is looked at: by side, since only one side can be dense cheaply."""

    DENSE = "dense"  # enrolment
    SPARSE = "sparse"  # query
    CLOSE = "close"  # of a query in which something was found, some seconds, as closely as an enrolment


Spans = tuple[tuple[float, float], ...]  # seconds, from and to, in order; at most
MAX_SPANS = 8


class Source(Protocol):
    """Opened media. `reason` and `duration_s` are complete once `frames` is exhausted."""

    kind: Kind
    width: int
    height: int
    duration_s: float | None
    reason: Reason | None

    def frames(self, sampling: Sampling, spans: Spans = ()) -> Iterator[Frame]:
        """Yield the pictures to hash, in order of time; when close, those of some seconds, or more."""
        ...


@dataclass(frozen=True, slots=True)
class Container:
    """What a file says it is. `demuxer` is set for video, FFmpeg's name."""

    name: str
    demuxer: str | None = None


_STILL_MAGIC = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"II+\x00", "tiff"),
    (b"MM\x00+", "tiff"),
)
_CLIP_MAGIC = (
    (b"\x1aE\xdf\xa3", Container("matroska", "matroska")),
    (b"FLV\x01", Container("flv", "flv")),
    (b"OggS", Container("ogg", "ogg")),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Container("asf", "asf")),
    (b"\x00\x00\x01\xba", Container("mpeg-ps", "mpeg")),
)
_ISO_STILL_BRANDS = {
    b"avif": "avif", b"avis": "avif",
    b"heic": "heif", b"heix": "heif", b"heim": "heif", b"heis": "heif", b"mif1": "heif", b"msf1": "heif",
    b"hevc": "heif", b"hevx": "heif",
}  # fmt: skip
_QUICKTIME_BOXES = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_TS_SYNC, _TS_PACKETS = 0x47, (188, 192, 204)


def _iso(data: bytes) -> Container | None:
    box = data[4:8]
    if box in _QUICKTIME_BOXES:
        return Container("mov", "mov")
    if box != b"ftyp":
        return None
    size = min(int.from_bytes(data[:4]), len(data), 256)
    brands = [data[8:12], *(data[i : i + 4] for i in range(16, size, 4))]
    if brands[0] in (b"mif1", b"msf1") and b"avif" in brands:
        return Container("avif")
    still = _ISO_STILL_BRANDS.get(brands[0])
    return Container(still) if still else Container("mp4", "mov")


def _riff(data: bytes) -> Container | None:
    if data[:4] != b"RIFF":
        return None
    return {b"WEBP": Container("webp"), b"AVI ": Container("avi", "avi")}.get(data[8:12])


def _transport_stream(data: bytes) -> Container | None:
    for packet in _TS_PACKETS:
        start = 4 if packet == 192 else 0
        syncs = data[start : start + 4 * packet + 1 : packet]
        if len(syncs) >= 3 and all(byte == _TS_SYNC for byte in syncs):
            return Container("mpeg-ts", "mpegts")
    return None


def sniff(data: bytes) -> Container:
    """Tell what the bytes are; UnsupportedMedia if nothing that staydown reads."""
    for magic, name in _STILL_MAGIC:
        if data.startswith(magic):
            return Container(name)
    for magic, container in _CLIP_MAGIC:
        if data.startswith(magic):
            return container
    found = _iso(data) or _riff(data) or _transport_stream(data)
    if found is None:
        raise UnsupportedMedia
    return found
