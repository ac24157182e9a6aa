"""What an edit is: a name with its exact parameters, a family, a picture to a picture, a codec."""

import io
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from benchmarks.corpus import Field, Picture

Rng = np.random.Generator
Plain = Callable[[Picture], Picture]
Chancy = Callable[[Picture, Rng], Picture]
Make = Callable[[Picture, Rng, Sequence[Picture]], Picture]  # picture, chance, other pictures

USUAL_QUALITY = 90  # of the JPEG file that an edit gives unless it says otherwise


def encode(picture: Picture, format: str = "JPEG", quality: int = USUAL_QUALITY) -> bytes:  # noqa: A002
    """Return the file's bytes."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format, quality=quality)
    return file.getvalue()


def decode(data: bytes) -> Picture:
    """Return uint8 (h, w, 3) RGB of a picture file's bytes."""
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def through_jpeg(picture: Picture, quality: int) -> Picture:
    """Return the picture as it looks after having been a JPEG file."""
    return decode(encode(picture, "JPEG", quality))


def resized(picture: Picture, width: float, height: float) -> Picture:
    """Return the picture with another size in pixels, at least 8×8."""
    size = (max(round(width), 8), max(round(height), 8))
    smaller = size[0] * size[1] < picture.shape[0] * picture.shape[1]
    kernel = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size, interpolation=kernel), np.uint8)


def resized_field(field: Field, width: int, height: int) -> Field:
    """Return float32 values of another size, smoothly."""
    return np.asarray(cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def scaled(picture: Picture, factor: float) -> Picture:
    """Return the picture with both sides times `factor`."""
    return resized(picture, picture.shape[1] * factor, picture.shape[0] * factor)


def covering(picture: Picture, width: int, height: int) -> Picture:
    """Return the picture scaled to fill the size, its middle kept."""
    big = scaled(picture, max(width / picture.shape[1], height / picture.shape[0]) * 1.001)
    top, left = (big.shape[0] - height) // 2, (big.shape[1] - width) // 2
    return fitted_exactly(big[max(top, 0) :, max(left, 0) :], width, height)


def fitted_exactly(picture: Picture, width: int, height: int) -> Picture:
    """Cut off what is too much; stretch if a pixel is missing."""
    cut = picture[:height, :width]
    return cut if cut.shape[:2] == (height, width) else resized(cut, width, height)


def clipped(values: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> Picture:
    """Return the values as 8 bits."""
    return values.clip(0, 255).round().astype(np.uint8)


def paste(canvas: Picture, picture: Picture, left: int, top: int) -> Picture:
    """Return the canvas with the picture on it; what lies outside is cut off."""
    result = canvas.copy()
    height = min(picture.shape[0], canvas.shape[0] - top)
    width = min(picture.shape[1], canvas.shape[1] - left)
    result[top : top + height, left : left + width] = picture[:height, :width]
    return result


def simple(edit: Plain) -> Make:
    """Return an edit without chance and without other pictures as a Make."""
    return lambda picture, rng, others: edit(picture)


def chancy(edit: Chancy) -> Make:
    """Return an edit without other pictures as a Make."""
    return lambda picture, rng, others: edit(picture, rng)


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit. The name holds its parameters; the same seed gives the same bytes."""

    name: str
    family: str
    make: Make
    format: str = "JPEG"
    quality: int = USUAL_QUALITY

    def apply(self, picture: Picture, seed: int, others: Sequence[Picture] = ()) -> bytes:
        """Return the edited picture's file."""
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        return encode(np.ascontiguousarray(self.make(picture, rng, others)), self.format, self.quality)
