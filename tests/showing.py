"""What a picture or a clip shows, for the tests of all files that decode."""

import io
import struct
import zlib
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hashing.clips import Clip
from hashing.errors import Reason
from hashing.media import Frame, Limits, Pixels, Sampling, sniff
from hashing.pdq import pdq
from hashing.signals import distance
from hashing.stills import Still

Picture = NDArray[np.uint8]
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "HEIF")


def shown(data: bytes, limits: Limits = Limits()) -> tuple[list[Pixels], Reason | None]:  # noqa: B008  (frozen)
    still = Still(data, limits)
    return [frame.pixels for frame in still.frames(Sampling.DENSE)], still.reason


def only(data: bytes) -> Pixels:
    pictures, reason = shown(data)
    assert (len(pictures), reason) == (1, None)
    return pictures[0]


def bits(a: Pixels, b: Pixels) -> int:
    return distance(bytes(pdq(np.ascontiguousarray(a)).codes[0]), bytes(pdq(np.ascontiguousarray(b)).codes[0]))


def saved(image: Image.Image, format_: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def opened(data: bytes, limits: Limits = Limits()) -> Clip:  # noqa: B008  (frozen)
    return Clip(data, sniff(data), limits)


def looked_at(data: bytes, sampling: Sampling = Sampling.DENSE, limits: Limits = Limits()) -> tuple[Clip, list[Frame]]:  # noqa: B008
    clip = opened(data, limits)
    return clip, list(clip.frames(sampling))


def grey(frame: Frame) -> Picture:
    """Full-range 8-bit grey of what was looked at."""
    pixels = frame.pixels if frame.pixels.ndim == 2 else frame.pixels @ np.array([0.299, 0.587, 0.114])
    return np.asarray((pixels - frame.black) * frame.scale).clip(0, 255).round().astype(np.uint8)


def grey_of(picture: Picture) -> Picture:
    return (picture @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)


def audio_file(container: str = "mp4") -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        sound = output.add_stream("aac", rate=44100)
        for number in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 44100, number * 1024, Fraction(1, 44100)
            output.mux(sound.encode(frame))
        output.mux(sound.encode(None))
    return file.getvalue()


def png_chunk(body: bytes) -> bytes:
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
