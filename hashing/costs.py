"""What decoding a file would cost, read from its headers before anything is decoded.

Small files can ask for minutes of work: a JPEG that draws itself a thousand times, a table that
says it has billions of rows, pictures of nothing that are as large as allowed. What is bounded:

- pixels, by `media.Limits`, and pixels in colour by the bytes that they are made of (`Budget`);
- the scans of a JPEG: it is read up to the last one that is allowed;
- the tables of an MP4: FFmpeg takes memory for each row that they announce.
"""

import re
import struct
from collections.abc import Iterator

import numpy as np

from hashing.media import Limits

# Pictures that are no bombs have fewer pixels to the byte than this; what is small needs no reason for its size.
FREE_PIXELS, PIXELS_A_BYTE = 25_000_000, 150
FREE_MOVING_PIXELS, MOVING_PIXELS_A_BYTE = 50_000_000, 500  # of an animation
LEAST_MOVING_PIXELS = 300_000  # what its frame costs, however small
FREE_GREAT_PIXELS, GREAT_PIXELS_A_BYTE = 100_000_000, 300  # of a video's frames that are larger than usual ones
USUAL_PIXELS = 9_000_000  # 4096×2160; videos of such frames may stand still for hours: their limit is time
MAX_SCANS = 24  # encoders make up to about ten
MAX_SCANNED_PIXELS = 400_000_000  # where there are more scans than 10
_USUAL_SCANS = 10
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_START_OF_SCAN, _END = 0xDA, 0xD9
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}


class Budget:
    """How many pixels may still be decoded of a file."""

    def __init__(self, pixels: float) -> None:
        self.left = pixels

    def takes(self, pixels: float) -> bool:
        """Take so many away; False if there are not as many."""
        self.left -= pixels
        return self.left >= 0


def still_budget(size_bytes: int) -> Budget:
    """Return what the pictures of a file may have, all together."""
    return Budget(FREE_PIXELS + PIXELS_A_BYTE * size_bytes)


def moving_budget(size_bytes: int) -> Budget:
    """Return what the frames of an animation may have, all together."""
    return Budget(FREE_MOVING_PIXELS + MOVING_PIXELS_A_BYTE * size_bytes)


class ClipBudget(Budget):
    """What the frames of a video may have, all together, as far as they are larger than usual."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(FREE_GREAT_PIXELS + GREAT_PIXELS_A_BYTE * size_bytes)

    def takes(self, pixels: float) -> bool:
        """Take a frame's pixels away, if they are many; False if there are not as many left."""
        return super().takes(pixels if pixels > USUAL_PIXELS else 0)


def few_scans(data: bytes) -> tuple[bytes, bool]:
    """Return a JPEG that ends before its scans are too many, and whether it had to be cut."""
    scans, pixels = 0, 1
    for marker, at in segments(data):
        if marker in _FRAMES and len(data) >= at + 9:
            pixels = max(int.from_bytes(data[at + 5 : at + 7]) * int.from_bytes(data[at + 7 : at + 9]), 1)
        elif marker == _START_OF_SCAN:
            scans += 1
            if scans > min(MAX_SCANS, max(_USUAL_SCANS, MAX_SCANNED_PIXELS // pixels)):
                return data[:at] + b"\xff\xd9", True
    return data, False


def segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the markers of the first picture of a JPEG, and where they stand."""
    at = 2
    while found := _MARKER.search(data, at):
        marker, at = found[1][0], found.start()
        if marker == _END:
            return
        yield marker, at
        at += 2 + int.from_bytes(data[at + 2 : at + 4])


# --- ISO boxes --------------------------------------------------------------------------

_HOLDING = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"mvex"}
_COMPRESSED = b"cmov"  # an index that has to be unpacked first, to any size; nobody has made such files in 20 years
_MAX_BOXES, _MAX_DEPTH = 200_000, 10
_COUNT_AT = {b"stsz": 8, b"stz2": 8, b"trun": 4, b"stts": 4, b"ctts": 4, b"elst": 4, b"stsc": 4, b"stco": 4, b"co64": 4}
_RUNS = {b"stts", b"ctts"}  # rows of (count, value): as many samples as the counts say
_MAX_EDITED = 20_000_000  # edits × samples: FFmpeg walks over the samples for each edit
_ROWS_A_FRAME = 8  # that tables may have for each frame of the longest video, for sound and other tracks
_PCM_PIECE = 1024  # samples of uncompressed sound to the row of FFmpeg's index


def boxes(data: bytes, start: int = 0, stop: int | None = None, depth: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """Yield the boxes of an ISO file, those inside others too: kind, and from where to where its content goes."""
    at, stop = start, len(data) if stop is None else stop
    while at + 8 <= stop:
        size, kind = struct.unpack_from(">I4s", data, at)
        inside = at + 8
        if size == 1 and at + 16 <= stop:
            (size,), inside = struct.unpack_from(">Q", data, at + 8), at + 16
        end = min(at + size, stop) if size else stop
        if end < inside:
            return
        yield kind, inside, end
        if kind in _HOLDING and depth < _MAX_DEPTH:
            yield from boxes(data, inside, end, depth + 1)
        at = end


class _Tables:
    """What the tables of a track announce, or those of all fragments."""

    def __init__(self) -> None:
        self.rows: dict[bytes, int] = {}
        self.handlers: set[bytes] = set()
        self.ticks = True  # each sample lasts one tick
        self.most_in_chunk = 0

    def samples(self) -> int:
        """Return how many rows FFmpeg's index will have; of uncompressed sound, which lies in chunks, far fewer."""
        chunks = self.rows.get(b"stco", 0) + self.rows.get(b"co64", 0)
        if self.handlers == {b"soun"} and self.ticks:
            return max(chunks * (self.most_in_chunk // _PCM_PIECE + 1), self.rows.get(b"ctts", 0))
        return max(self.rows.values(), default=0)


def has_great_tables(data: bytes, limits: Limits) -> bool:
    """Tell whether the tables of an ISO file announce more than any video within the limits has."""
    tracks, fragments = [_Tables()], _Tables()
    for number, (kind, start, stop) in enumerate(boxes(data)):
        if number > _MAX_BOXES or kind == _COMPRESSED:
            return True
        if kind == b"trak":
            tracks.append(_Tables())
        _take_in(fragments if kind == b"trun" else tracks[-1], data, kind, start, stop)
    most = limits.max_frames * _ROWS_A_FRAME
    total = sum(track.samples() for track in tracks) + fragments.samples()
    edited = sum(track.rows.get(b"elst", 0) * max(track.samples(), 1) for track in tracks)
    return total > most or edited > _MAX_EDITED


def _take_in(tables: _Tables, data: bytes, kind: bytes, start: int, stop: int) -> None:
    if kind == b"hdlr":
        tables.handlers.add(data[start + 8 : start + 12])
    if kind not in _COUNT_AT or start + _COUNT_AT[kind] + 4 > stop:
        return
    at = start + _COUNT_AT[kind]
    (count,) = struct.unpack_from(">I", data, at)
    if kind in _RUNS:
        runs = np.frombuffer(data, ">u4", min(2 * count, (stop - at - 4) // 4), at + 4)
        count = int(runs[::2].sum(dtype=np.uint64))
    if kind == b"stts":
        tables.ticks = tables.ticks and bool((runs[1::2] == 1).all())
    if kind == b"stsc":
        chunks = np.frombuffer(data, ">u4", min(3 * count, (stop - at - 4) // 4), at + 4)
        tables.most_in_chunk = max(tables.most_in_chunk, int(chunks[1::3].max(initial=0)))
    tables.rows[kind] = tables.rows.get(kind, 0) + count
