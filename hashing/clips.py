"""Video, decoded by PyAV (FFmpeg) from memory.

Rules of this file: the demuxer is the one the bytes were sniffed as, behind a format
whitelist and with every protocol refused (an SDP or playlist file must never open a
socket or another file); one thread; times are the stream's own, from its start; the
display matrix is applied. Frames are looked at on their luma plane where there is one,
since PDQ is a hash of luma.
"""

import io
import math
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.video.frame import PictureType

from hashing import costs
from hashing.errors import CorruptMedia, Reason
from hashing.media import Container, Frame, Limits, Pixels, Sampling, Spans
from hashing.signals import Kind

ENROLL_SPACING_S = 0.1
QUERY_SPACING_S = 0.5
MIN_KEY_FRAMES = 3  # fewer than this, or further apart than this, and the query looks between them
MAX_KEY_GAP_S = 10.0
SHORT_S, SHORT_KEY_GAP_S = 60.0, 3.0  # a short video is decoded whole sooner: encoders miss the cuts of parts set in
SEEK_BACK_S = (0.0, 3.0, 12.0, math.inf)
DEFAULT_STEP_S = 0.04  # between frames, where the file states neither times nor a rate
MAX_TRACKS = 8  # of one file that are looked at

_WHITELIST = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf"
_LIMITED_BLACK, _LIMITED_SCALE = 16.0, 255.0 / 219.0
_FULL_RANGE = 2
_FFMPEG_ERRORS = (av.FFmpegError, ValueError, OSError, RuntimeError)
_LUMA_FIRST = ("yuv", "nv12", "nv16", "nv21", "nv24", "gray", "p010", "p016", "p210", "p410")


def _array(plane: Any, height: int, width: int, deep: bool) -> Pixels:
    dtype = np.dtype("<u2") if deep else np.dtype(np.uint8)
    rows = np.frombuffer(plane, dtype).reshape(-1, plane.line_size // dtype.itemsize)
    return rows[:height, :width]


def _upright(pixels: Pixels, rotation: int) -> Pixels:
    """Undo the display matrix: FFmpeg's angle is counter-clockwise, as np.rot90's."""
    turns = round(rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _to_frame(frame: Any, timestamp_s: float) -> Frame:
    name, bits = frame.format.name, frame.format.components[0].bits
    little = not name.endswith("be")
    if name.startswith(_LUMA_FIRST) and little and bits <= 16 and not name.startswith("yuyv"):
        pixels = _array(frame.planes[0], frame.height, frame.width, bits > 8)
        shift = 6 if name.startswith(("p010", "p210", "p410")) else 0
        step = float(1 << (bits - 8 + shift))
        full = name.startswith(("yuvj", "gray")) or frame.color_range == _FULL_RANGE
        black, scale = (0.0, 1.0) if full else (_LIMITED_BLACK, _LIMITED_SCALE)
        return Frame(_upright(pixels, frame.rotation), timestamp_s, black * step, scale / step, bool(frame.key_frame))
    rgb = frame.to_ndarray(format="rgb24")
    return Frame(_upright(rgb, frame.rotation), timestamp_s, is_key=bool(frame.key_frame))


def _on(background: int, rgba: Pixels) -> Pixels:
    alpha = rgba[..., 3:].astype(np.uint16)
    blended: Pixels = ((rgba[..., :3] * alpha + background * (255 - alpha)) // 255).astype(np.uint8)
    return blended


def _shown(frame: Any, timestamp_s: float) -> list[Frame]:
    """Return what a viewer shows of a frame: one picture, or two where it lets through what is behind it."""
    if not any(component.is_alpha for component in frame.format.components):
        return [_to_frame(frame, timestamp_s)]
    rgba = frame.to_ndarray(format="rgba")
    grounds = (255,) if (rgba[..., 3] == 255).all() else (255, 0)
    return [
        Frame(_upright(_on(ground, rgba), frame.rotation), timestamp_s, is_key=bool(frame.key_frame))
        for ground in grounds
    ]  # fmt: skip


class Clip:
    """One opened video, or one more track of it: a Source."""

    kind = Kind.VIDEO

    def __init__(self, data: bytes, container: Container, limits: Limits, track: int = 0) -> None:
        """Open the container and read its header. CorruptMedia if FFmpeg cannot."""
        self._limits = limits
        self._opened_from = data, container
        self.reason: Reason | None = None
        self._leaning = False
        self._start_s: float | None = None  # what the file says of its first frame
        self._budget = costs.ClipBudget(len(data))
        self.tracks = 0
        stream: Any = None
        if container.demuxer == "mov" and costs.has_great_tables(data, limits):
            self.reason = Reason.TOO_COSTLY
        else:
            self._av = self._open(data, container)
            stream = self._choose(track)
        self._stream = stream
        context = stream.codec_context if stream is not None else None
        self.width = int(context.width) if context is not None else 0
        self.height = int(context.height) if context is not None else 0
        self.duration_s = self._stated_duration_s()

    @staticmethod
    def _open(data: bytes, container: Container) -> Any:
        try:
            return av.open(
                io.BytesIO(data),
                format=container.demuxer,
                container_options={"format_whitelist": _WHITELIST, "protocol_whitelist": "none"},
                metadata_errors="replace",
            )
        except _FFMPEG_ERRORS as error:
            raise CorruptMedia from error

    def other(self, track: int) -> "Clip":
        """Open the same file anew at another of its `tracks`."""
        return Clip(*self._opened_from, self._limits, track)

    def _choose(self, track: int) -> Any:
        """A video track that can be decoded; cover pictures come last."""
        covers = av.stream.Disposition.attached_pic
        tracks = sorted(self._av.streams.video, key=lambda stream: bool(stream.disposition & covers))
        playable = [stream for stream in tracks if stream.codec_context is not None]
        self.tracks = len(playable)
        if len(playable) < len(tracks):
            self.reason = Reason.UNSUPPORTED_CODEC
        if not playable:
            self.reason = Reason.UNSUPPORTED_CODEC if tracks else Reason.NO_VIDEO
            return None
        playable[track].thread_type = "NONE"
        return playable[track]

    def _stated_duration_s(self) -> float | None:
        return float(self._av.duration) / av.time_base if self.tracks and self._av.duration else None

    def frames(self, sampling: Sampling, spans: Spans = ()) -> Iterator[Frame]:
        """Yield frames: each 0.1 s when dense, of the spans too when close; key frames, or more if few, when sparse."""
        if self._stream is None:
            return
        if not self._limits.allow(self.width, self.height):
            self.reason = Reason.TOO_MANY_PIXELS
            return
        if sampling is Sampling.DENSE:
            yield from self._spaced(ENROLL_SPACING_S, self._decoded())
        elif sampling is Sampling.CLOSE:
            yield from self._within(spans)
        elif self._key_frames_suffice():
            yield from self._key_frames()
        else:
            yield from self._spaced(QUERY_SPACING_S, self._decoded())

    def _within(self, spans: Spans) -> Iterator[Frame]:
        """Decode from the key frame before each span; nothing where the file does not say when its frames stand."""
        next(self._spaced(ENROLL_SPACING_S, self._decoded()), None)  # its time is where the others count from
        for start_s, stop_s in spans or ((0.0, math.inf),):
            for frame in self._spaced(ENROLL_SPACING_S, self._from(start_s)):
                if frame.timestamp_s > stop_s:
                    break
                if frame.timestamp_s >= start_s:
                    yield frame

    def _from(self, start_s: float) -> Iterator[Any]:
        """Yield decoded frames from a moment or before it; some containers seek too far, then from further back."""
        if self._start_s is None:
            return
        for back_s in SEEK_BACK_S:
            if not self._seek(start_s - back_s):
                return
            frames = self._decoded()
            first = next(frames, None)
            if first is None or first.time is None:
                continue
            if first.time - self._start_s <= start_s + 1e-3 or back_s == SEEK_BACK_S[-1]:
                yield first
                yield from frames
                return

    def _seek(self, time_s: float) -> bool:
        try:
            self._av.seek(int((time_s + (self._start_s or 0.0)) * av.time_base) if time_s > 0 else 0)
        except _FFMPEG_ERRORS:
            return False
        return True

    def _key_frames_suffice(self) -> bool:
        """Read the packets without decoding them, and rewind."""
        times, end = [], 0.0
        for packet in self._packets():
            if packet.size and packet.pts is not None:
                end = max(end, float(packet.pts * self._stream.time_base))
                if packet.is_keyframe:
                    times.append(float(packet.pts * self._stream.time_base))
        self._rewind()
        gaps = np.diff([*sorted(times), end])
        widest_s = MAX_KEY_GAP_S if end > SHORT_S else SHORT_KEY_GAP_S
        return len(times) >= MIN_KEY_FRAMES and bool((gaps <= widest_s).all())

    def _rewind(self) -> None:
        try:
            self._av.seek(0)
        except _FFMPEG_ERRORS:
            self.reason = Reason.TRUNCATED

    def _key_frames(self) -> Iterator[Frame]:
        """Decode each key frame by itself; where one leans on others, look between them after all."""
        seen_s = -math.inf
        for frame in self._spaced(ENROLL_SPACING_S, self._alone()):
            seen_s = frame.timestamp_s
            yield frame
        if self._leaning:
            self._rewind()
            between = self._spaced(QUERY_SPACING_S, self._decoded())
            yield from (frame for frame in between if frame.timestamp_s > seen_s)

    def _alone(self) -> Iterator[Any]:
        """Yield decoded key frames; stop, and say so, at one that is not whole without its neighbours."""
        context = self._stream.codec_context
        for packet in self._packets():
            if not packet.size or not packet.is_keyframe:
                continue
            try:
                decoded = [*packet.decode(), *context.decode(None)]
                context.flush_buffers()
            except _FFMPEG_ERRORS:
                decoded = []
            whole = [frame for frame in decoded if frame.pict_type == PictureType.I and not frame.is_corrupt]
            if not whole:
                self._leaning = True
                return
            whole[0].time_base = packet.time_base  # which PyAV leaves out of drained frames
            yield whole[0]

    def _spaced(self, spacing_s: float, frames: Iterator[Any]) -> Iterator[Frame]:
        """Yield the first frame of each step of a grid of `spacing_s`; all of them if it is zero."""
        due_s, shown_s = -math.inf, math.inf
        for frame, time_s in self._timed(frames):
            if self._too_much(frame, time_s):
                return
            if time_s + 1e-6 < due_s and time_s >= shown_s:
                continue  # unless the times have jumped back: nothing may hide behind a jump
            shown = _shown(frame, time_s)
            if due_s == -math.inf:
                self.height, self.width = shown[0].pixels.shape[:2]  # upright
            yield from shown
            shown_s = time_s
            due_s = (time_s + 1e-6) // spacing_s * spacing_s + spacing_s if spacing_s else time_s

    def _timed(self, frames: Iterator[Any]) -> Iterator[tuple[Any, float]]:
        """Yield frames with their seconds from the first one; a frame without a time follows the one before."""
        rate = self._stream.average_rate
        step_s = float(1 / rate) if rate else DEFAULT_STEP_S
        time_s = -step_s
        for frame in frames:
            time_s += step_s
            if frame.time is not None:
                self._start_s = frame.time if self._start_s is None else self._start_s
                time_s = frame.time - self._start_s
            yield frame, time_s
        self.duration_s = self.duration_s or max(time_s, 0.0)

    def _too_much(self, frame: Any, time_s: float) -> bool:
        if not self._limits.allow(frame.width, frame.height):
            self.reason = Reason.TOO_MANY_PIXELS
        elif time_s > self._limits.max_duration_s:
            self.reason = Reason.TOO_LONG
        elif not self._budget.takes(frame.width * frame.height):
            self.reason = Reason.TOO_MANY_FRAMES
        else:
            return False
        return True

    def _decoded(self) -> Iterator[Any]:
        """Yield decoded frames; a broken packet is skipped, and the answer says so."""
        count = 0
        for packet in self._packets():
            try:
                decoded = packet.decode()
            except _FFMPEG_ERRORS:
                self.reason = Reason.TRUNCATED
                continue
            for frame in decoded:
                count += 1
                if count > self._limits.max_frames:
                    self.reason = Reason.TOO_MANY_FRAMES
                    return
                yield frame
        if not count:
            self._none_decoded()

    def _packets(self) -> Iterator[Any]:
        try:
            yield from self._av.demux(self._stream)
        except IndexError:  # at the very end PyAV stumbles over tracks that appeared on the way
            return
        except _FFMPEG_ERRORS:
            self.reason = Reason.TRUNCATED

    def _none_decoded(self) -> None:
        if self.reason is None:
            raise CorruptMedia
