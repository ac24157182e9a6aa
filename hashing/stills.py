"""Pictures and animations, decoded by Pillow from memory.

Rules of this file: pixel counts are judged from the header, before decoding; what
comes out is upright (EXIF applied), 8-bit grey or RGB, as a viewer shows it. A picture
with transparency comes out twice, on white and on black, since both can be seen.

Pillow's LOAD_TRUNCATED_IMAGES is one flag a process: one thread decodes at a time.
"""

import io
import struct
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, TypeVar

import numpy as np
import pillow_heif
from PIL import AvifImagePlugin, Image, ImageCms, ImageFile, ImageOps

from hashing import costs
from hashing.errors import CorruptMedia, Reason
from hashing.media import Frame, Limits, Pixels, Sampling, Spans
from hashing.signals import Kind

T = TypeVar("T")

ANIMATED = {"GIF", "WEBP", "PNG", "AVIF"}
_ORIENTATION = 0x0112  # the EXIF tag
_ON_ITS_SIDE = {5, 6, 7, 8}  # its values with which height and width change places
_SPARED_SIDE = 512  # a query's JPEG is not decoded smaller than this
_MPO = b"MPF\0"  # in files of several JPEGs
DEFAULT_FRAME_S = 0.1  # what browsers show for a missing or tiny duration
_PILLOW_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "HEIF")  # MPO is opened as JPEG

# Pillow raises many classes on hostile files; this is their list, caught in this file alone.
_PILLOW_ERRORS = (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError,
                  EOFError, OverflowError, RuntimeError, AttributeError, ZeroDivisionError,
                  MemoryError, NotImplementedError, ImageCms.PyCMSError, struct.error, AssertionError,
                  Image.DecompressionBombError)  # fmt: skip

pillow_heif.register_heif_opener(thumbnails=False)
pillow_heif.options.DECODE_THREADS = 1
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def warm() -> bytes:
    """Load all that Pillow loads when it is first needed, and return a picture of noise to go on with."""
    Image.init()
    noise, data = Image.effect_noise((96, 96), 64), b""
    for name in ("JPEG", "GIF", "WEBP", "TIFF", "PNG"):
        written = io.BytesIO()
        noise.save(written, name)
        data = written.getvalue()
        list(Still(data, Limits()).frames(Sampling.SPARSE))
    return data


@lru_cache(maxsize=1)
def _lab_to_rgb() -> ImageCms.ImageCmsTransform:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB")


def _from_wide(image: Image.Image) -> Pixels:
    """Scale 16-bit, 32-bit and float grey to 8 bits by the range that the values use."""
    values = np.asarray(image).astype(np.float64)
    peak = float(np.nanmax(values, initial=0.0))
    full = next((top for top in (1.0, 255.0, 65535.0) if peak <= top), peak)
    if not image.mode.startswith("F"):
        full = max(full, 65535.0 if image.mode.startswith("I;16") else 255.0)
    return (np.nan_to_num(values) * (255.0 / full)).clip(0, 255).round().astype(np.uint8)


def _on(background: int, rgba: Image.Image) -> Pixels:
    canvas = Image.new("RGBA", rgba.size, (background, background, background, 255))
    return np.asarray(Image.alpha_composite(canvas, rgba).convert("RGB"))


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info


def to_pictures(image: Image.Image) -> list[Pixels]:
    """Return what a viewer shows: one uint8 array, or two where pixels are transparent."""
    if image.mode[0] in "IF":  # before alpha: Pillow would clip such values, not scale them
        return [_from_wide(image)]
    if _has_alpha(image):
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema() != (255, 255):
            return [_on(255, rgba), _on(0, rgba)]
        return [np.asarray(rgba.convert("RGB"))]
    if image.mode in {"1", "L", "RGB"}:
        return [np.asarray(image.convert("L") if image.mode == "1" else image)]
    if image.mode == "LAB":
        converted = ImageCms.applyTransform(image, _lab_to_rgb())
        return [np.asarray(converted)]
    return [np.asarray(image.convert("RGB"))]


class Still:
    """One opened picture or animation: a Source."""

    def __init__(self, data: bytes, limits: Limits) -> None:
        """Read the header only. CorruptMedia if Pillow cannot."""
        self._limits = limits
        self._data, cut = costs.few_scans(data) if data.startswith(b"\xff\xd8") else (data, False)
        self._whole = True
        self._full: tuple[int, int] | None = None  # of the picture decoded last, upright, if it was decoded smaller
        self.reason: Reason | None = Reason.TOO_COSTLY if cut else None
        self.duration_s: float | None = None
        self._image, moves = self._opened()
        self.width, self.height = self._image.size  # upright once the first picture is decoded
        self.kind = Kind.VIDEO if moves else Kind.IMAGE

    def _opened(self) -> tuple[Image.Image, bool]:
        opened = partial(_open, self._data)
        try:
            image = self._salvage(opened, opened)
            return image, self._act(partial(_moves, image))
        except Image.DecompressionBombError:
            self.reason = Reason.TOO_MANY_PIXELS
            return Image.new("L", (0, 0)), False
        except _PILLOW_ERRORS:  # a later picture is broken; a viewer still shows the first
            self.reason = Reason.TRUNCATED
            return self._salvage(opened, opened), False

    def _act(self, action: Callable[[], T]) -> T:
        """Call Pillow: its warnings are silent, and its own guard holds where a file grows inside."""
        Image.MAX_IMAGE_PIXELS = self._limits.max_pixels
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return action()

    def _salvage(self, strictly: Callable[[], T], leniently: Callable[[], T]) -> T:
        """Decode strictly; if that fails, take what a viewer would show, and say so."""
        try:
            return self._act(strictly)
        except Image.DecompressionBombError:
            raise
        except _PILLOW_ERRORS:
            self.reason = Reason.TRUNCATED
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            return self._act(leniently)
        except _PILLOW_ERRORS as error:
            raise CorruptMedia from error
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False

    def frames(self, sampling: Sampling, spans: Spans = ()) -> Iterator[Frame]:
        """Yield the pictures, all of them at any sampling; a query's JPEG is decoded no further than is looked at."""
        self._whole = sampling is Sampling.DENSE
        if not self.width or not self._limits.allow(self.width, self.height):  # 0: its header was not even read
            self.reason = Reason.TOO_MANY_PIXELS
            return
        if self.kind is Kind.VIDEO:
            yield from self._animation()
        else:
            yield from self._stills()

    def _stills(self) -> Iterator[Frame]:
        budget = costs.still_budget(len(self._data))
        for number in range(self._limits.max_stills + 1):
            try:
                if number and (self._image.format == "MPO" or not self._reaches(number)):
                    return
                if number == self._limits.max_stills:
                    self.reason = Reason.TOO_MANY_FRAMES
                    return
                if not budget.takes(_pixels(self._image)):
                    raise Image.DecompressionBombError
                pictures = self._salvage(partial(self._picture, number), partial(self._reopened, number))
            except (CorruptMedia, *_PILLOW_ERRORS) as error:
                if not number and isinstance(error, CorruptMedia):
                    raise
                self.reason = _reason_of(error)
                return
            if not number:
                self.height, self.width = self._full or pictures[0].shape[:2]
            yield from (Frame(picture, full=self._full) for picture in pictures)

    def _reaches(self, number: int) -> bool:
        """Go to a picture; False if there is none. Nothing is counted before: that alone can take minutes."""
        try:
            self._act(partial(self._image.seek, number))
        except EOFError:
            return False
        return True

    def _picture(self, number: int) -> list[Pixels]:
        self._image.seek(number)
        if not self._limits.allow(*self._image.size):
            raise Image.DecompressionBombError
        full = None if self._whole else _spare(self._image)
        self._image.load()
        turn = self._image.getexif().get(_ORIENTATION, 1)
        self._full = full[::-1] if full and turn in _ON_ITS_SIDE else full
        return to_pictures(ImageOps.exif_transpose(self._image) if turn != 1 else self._image)

    def _reopened(self, number: int) -> list[Pixels]:
        self._image = _open(self._data)
        return self._picture(number)

    def _animation(self) -> Iterator[Frame]:
        clock_s, budget = 0.0, costs.moving_budget(len(self._data))
        try:
            for number in range(self._limits.max_frames + 1):
                if not self._reaches(number):
                    break
                if number == self._limits.max_frames or not budget.takes(_moving_pixels(self._image)):
                    self.reason = Reason.TOO_MANY_FRAMES
                    break
                yield from (Frame(picture, clock_s) for picture in self._act(partial(self._shown, number)))
                clock_s += _duration_s(self._image)
        except _PILLOW_ERRORS as error:
            self.reason = _reason_of(error)
        self.duration_s = clock_s

    def _shown(self, number: int) -> list[Pixels]:
        self._image.seek(number)
        return to_pictures(self._image)


def _spare(image: Image.Image) -> tuple[int, int] | None:
    """Have a JPEG decoded to luma alone, and a large one to a smaller picture; return its full size (h, w) then.

    libjpeg leaves out what is not used, and is 3 times as fast so. PDQ differs by less than a bit in the mean, if it
    is told the full size (`benchmarks/jpeg.py`).
    """
    if image.format != "JPEG":
        return None
    width, height = image.size
    times = next((times for times in (8, 4, 2) if min(image.size) >= times * _SPARED_SIDE), 1)
    image.draft("L", (width // times, height // times))
    return None if times == 1 else (height, width)


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS)


def _moves(image: Image.Image) -> bool:
    return image.format in ANIMATED and bool(getattr(image, "is_animated", False))


def _pixels(image: Image.Image) -> int:
    """Return how many pixels in colour are to be decoded: twice those of a picture that is shown twice."""
    if _has_alpha(image):
        return 2 * image.width * image.height
    return 0 if image.mode in {"1", "L", "P"} else image.width * image.height


def _moving_pixels(image: Image.Image) -> int:
    return max(image.width * image.height * (1 + _has_alpha(image)), costs.LEAST_MOVING_PIXELS)


def jpegs_behind(data: bytes) -> Iterator[bytes]:
    """Yield the other pictures of an MPO file, as far as it says where they are."""
    if _MPO not in data:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        starts = list(_starts(data))
    yield from (data[start:] for start in starts)


def _starts(data: bytes) -> Iterator[int]:
    try:
        image: Any = _open(data)
        for number in range(1, int(image.n_frames) if image.format == "MPO" else 0):
            image.seek(number)
            yield int(image.offset)
    except _PILLOW_ERRORS:
        return


def _reason_of(error: Exception) -> Reason:
    return Reason.TOO_MANY_PIXELS if isinstance(error, Image.DecompressionBombError) else Reason.TRUNCATED


def _duration_s(image: Image.Image) -> float:
    stated_ms = image.info.get("duration", 0)
    return float(stated_ms) / 1000 if stated_ms and stated_ms > 10 else DEFAULT_FRAME_S
