"""A clip in memory with the truth about its times, and how it is read and written."""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import av
import numpy as np
from PIL import Image

from benchmarks.corpus import Picture, write_clip
from benchmarks.robustness.edits_base import Plain, Rng, encode, scaled

Span = tuple[float, float, float, float]  # query's start and end, reference's start and end (end < start: backwards)

LONGEST_SIDE = 480
MAX_FPS = 30.0


@dataclass(frozen=True, slots=True)
class Take:
    """Frames at a constant rate, and which of their seconds show which of the reference's."""

    frames: tuple[Picture, ...]
    fps: float
    spans: tuple[Span, ...]

    @property
    def seconds(self) -> float:
        """How long it plays."""
        return len(self.frames) / self.fps

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.frames[0].shape[1], self.frames[0].shape[0]

    def each(self, edit: Plain) -> "Take":
        """Edit every frame by itself."""
        return replace(self, frames=tuple(np.ascontiguousarray(edit(frame)) for frame in self.frames))

    def part(self, start_s: float, end_s: float) -> "Take":
        """Cut a part out; for a clip whose times are still those of the reference."""
        first, last = round(start_s * self.fps), max(round(end_s * self.fps), round(start_s * self.fps) + 1)
        frames = self.frames[first:last]
        start, length = first / self.fps, len(frames) / self.fps
        return Take(frames, self.fps, ((0.0, length, start, start + length),))


def decoded(container: "av.container.InputContainer", seconds: float = math.inf) -> Iterator[tuple[float, Picture]]:
    """Yield (time from the first frame, upright picture of 480 pixels at most) of at most so many seconds."""
    first: float | None = None
    for frame in container.decode(video=0):
        if frame.pts is None:
            continue
        first = frame.time if first is None else first
        if frame.time - first >= seconds:
            return
        upright = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
        pixels = np.ascontiguousarray(upright, np.uint8)
        yield frame.time - first, scaled(pixels, min(1.0, LONGEST_SIDE / max(pixels.shape[:2])))


def steady(timed: Sequence[tuple[float, Picture]], rate: float) -> Take:
    """Return decoded frames at a constant rate of 30 a second at most; ValueError if there are none."""
    if not timed:
        raise ValueError("the clip has no frames")
    fps = min(rate, MAX_FPS)
    times = np.array([at for at, _ in timed])
    times -= times[0]
    count = max(round((times[-1] + 1 / rate) * fps), 1)
    order = np.searchsorted(times, np.arange(count) / fps + 0.5 / rate, side="right") - 1
    frames = tuple(timed[max(place, 0)][1] for place in order.tolist())
    return Take(frames, fps, ((0.0, count / fps, 0.0, count / fps),))


def read(data: bytes, seconds: float = 12.0) -> Take:
    """Decode the first seconds of any clip: at most 480 pixels and 30 frames a second, at a constant rate."""
    with av.open(io.BytesIO(data), "r") as container:
        rate = float(container.streams.video[0].average_rate or 25)
        return steady(list(decoded(container, seconds)), rate)


Write = Callable[[Take], bytes]


def as_mp4(take: Take, crf: int = 23) -> bytes:
    """Write H.264 in MP4."""
    rate = float(Fraction(take.fps).limit_denominator(1000))
    return write_clip(take.frames, rate, crf=crf)


def as_gif(take: Take, colours: int = 64) -> bytes:
    """Write an animated GIF."""
    first, *rest = (Image.fromarray(frame).quantize(colours) for frame in take.frames)
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=rest, duration=round(1000 / take.fps), loop=0)
    return file.getvalue()


def as_jpeg(take: Take) -> bytes:
    """Write the first frame as a picture."""
    return encode(take.frames[0])


def at_rate(take: Take, fps: float) -> Take:
    """Show the nearest earlier frame at another rate; the times stay."""
    count = max(round(take.seconds * fps), 1)
    places = np.minimum((np.arange(count) / fps * take.fps + 1e-6).astype(int), len(take.frames) - 1)
    return replace(take, frames=tuple(take.frames[place] for place in places.tolist()), fps=fps)


def host(others: Sequence[Take], rng: Rng, take: Take, seconds: float) -> list[Picture]:
    """Return so many seconds of another clip, repeated if it is shorter, in the size and rate of `take`."""
    if not others:
        raise ValueError("this edit needs other clips")
    other = at_rate(others[int(rng.integers(len(others)))], take.fps)
    count = round(seconds * take.fps)
    return [other.frames[number % len(other.frames)] for number in range(count)]
