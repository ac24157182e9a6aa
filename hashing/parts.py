"""All that viewers could show of one file: more than one picture, track or clip may be in it.

A query looks at all of it, since content may hide in what is not shown first: in a second video
track, a cover, the tracks of a HEIF or AVIF file, the clip behind a motion photo's picture.
An enrolment takes what a viewer shows first, so that nothing unseen comes into a bank.

Not looked at: the thumbnail in EXIF, which viewers do not show, and auxiliary images (depth, masks).
"""

import struct
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Protocol

from hashing.clips import MAX_TRACKS, Clip
from hashing.errors import CorruptMedia, MediaError, Reason
from hashing.media import Container, Frame, Limits, Sampling, Source, Spans
from hashing.stills import Still, jpegs_behind

_CLIP = Container("mp4", "mov")
_ISO_STILLS = ("avif", "heif")
_MAX_BOXES = 10_000  # of a file, looked at one behind the other
_MAX_FTYP_BYTES = 256
_AFTER_FTYP = {b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid", b"moof", b"sidx", b"styp", b"pdin", b"meta"}


class _Opener(Protocol):
    def __call__(self) -> Source: ...


def top_boxes(data: bytes) -> Iterator[bytes]:
    """Yield the kinds of the boxes that an ISO file consists of, as far as they can be followed."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        yield kind
        if size == 1 and at + 16 <= len(data):
            (size,) = struct.unpack_from(">Q", data, at + 8)
        if size < 8:  # 0: to the end
            return
        at += size


def clips_behind(data: bytes) -> Iterator[bytes]:
    """Yield the ISO files that lie behind a picture or in a box of its file, as motion photos have them."""
    at = data.find(b"ftyp", 8)
    while at >= 4:
        start, size = at - 4, int.from_bytes(data[at - 4 : at])
        if 16 <= size <= _MAX_FTYP_BYTES and data[start + size + 4 : start + size + 8] in _AFTER_FTYP:
            yield data[start:]
        at = data.find(b"ftyp", at + 4)


def _other(avif: bytes) -> bytes:
    """Return an AVIF of a picture as one of a sequence, and the other way round: one brand is what decides."""
    return avif[:8] + (b"avif" if avif[8:12] == b"avis" else b"avis") + avif[12:]


def _ways(data: bytes, container: Container, limits: Limits) -> Iterator[_Opener]:
    """Yield how to open the file, one way after the other: first as what it says it is."""
    if container.demuxer:
        yield partial(Clip, data, container, limits)
        return
    yield partial(Still, data, limits)
    if container.name == "jpeg":
        yield from (partial(Still, jpeg, limits) for jpeg in islice(jpegs_behind(data), limits.max_stills))
    if container.name in _ISO_STILLS and b"moov" in set(islice(top_boxes(data), _MAX_BOXES)):
        yield partial(Clip, data, _CLIP, limits) if container.name == "heif" else partial(Still, _other(data), limits)
    yield from (partial(Clip, clip, _CLIP, limits) for clip in islice(clips_behind(data), MAX_TRACKS))


class Parts:
    """All that one file holds, one part after the other: a Source. Size, kind and duration are the first part's."""

    def __init__(self, data: bytes, container: Container, limits: Limits) -> None:
        """Open the first part that can be opened; CorruptMedia if there is none."""
        self._most = 2 * max(limits.max_frames, limits.max_stills)
        self._ways = _ways(data, container, limits)
        self._first = self._open_first()
        self.kind = self._first.kind
        self.reason: Reason | None = None

    def _open_first(self) -> Source:
        broken: MediaError = CorruptMedia()
        for way in self._ways:
            try:
                return way()
            except CorruptMedia as error:
                broken = error
        raise broken

    @property
    def width(self) -> int:
        """The first part's width in pixels."""
        return self._first.width

    @property
    def height(self) -> int:
        """The first part's height in pixels."""
        return self._first.height

    @property
    def duration_s(self) -> float | None:
        """The first part's duration."""
        return self._first.duration_s

    def frames(self, sampling: Sampling, spans: Spans = ()) -> Iterator[Frame]:
        """Yield the frames of the first part; of a query those of all other parts, too."""
        count, broken = 0, None
        for part in self._parts(alone=sampling is Sampling.DENSE):
            try:
                for frame in part.frames(sampling, spans):
                    count += 1
                    if count > self._most:
                        self.reason = Reason.TOO_MANY_FRAMES
                        return
                    yield frame
            except CorruptMedia as error:
                broken = broken or error
            self._note(part)
        if broken is not None and not count:
            raise broken
        if broken is not None:
            self.reason = self.reason or Reason.TRUNCATED

    def _parts(self, *, alone: bool) -> Iterator[Source]:
        yield self._first
        if alone:
            return
        yield from self._tracks(self._first)
        for way in self._ways:
            try:
                part = way()
            except CorruptMedia:
                continue  # looked like a clip, and is none
            yield part
            yield from self._tracks(part)

    def _tracks(self, part: Source) -> Iterator[Source]:
        """Yield the other video tracks of a clip, each opened anew."""
        if isinstance(part, Clip):
            yield from (part.other(number) for number in range(1, min(part.tracks, MAX_TRACKS)))
            if part.tracks > MAX_TRACKS:
                self.reason = self.reason or Reason.TOO_MANY_FRAMES

    def _note(self, part: Source) -> None:
        """Take over why a part could not be judged; that a clip behind a picture has no picture is no reason."""
        if part is self._first or part.reason is not Reason.NO_VIDEO:
            self.reason = self.reason or part.reason
