"""Ordinary media made by us, the same for the same seed: pictures, clips, animations, and edits of them.

A picture behaves as a photograph does for a perceptual hash: 1/f noise, soft light, hard
edges of objects, grain, no plain border; two seeds are about 128 PDQ bits apart. A clip is
a camera moving over such a picture, with something moving in it and a cut to another scene.
"""

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from typing import Any, cast

import av
import cv2
import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]  # (h, w, 3) RGB
Field = NDArray[np.float32]  # (h, w), or (h, w, 3) RGB in 0..255
Edit = Callable[[Picture], Picture]

_SHIFT = 3  # fractional bits of OpenCV's drawing coordinates

pillow_heif.register_heif_opener(thumbnails=False)


# --- pictures ---------------------------------------------------------------------------


def _fractal(rng: np.random.Generator, height: int, width: int, octaves: int) -> Field:
    """Return (h, w) noise with a 1/f spectrum, mean about 0, spread about 1."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        cells = 3 << octave
        grid = rng.standard_normal((max(cells * height // width, 2) + 1, cells + 1), np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / np.float32(1 << octave)
    return total


def _colour(rng: np.random.Generator, low: int = 20, high: int = 235) -> tuple[float, float, float]:
    vivid = rng.uniform(low, high, 3)
    red, green, blue = (0.5 * vivid + 0.5 * vivid.mean()).tolist()
    return red, green, blue


def _tone(rng: np.random.Generator, low: int = 20, high: int = 235) -> Field:
    return np.array(_colour(rng, low, high), np.float32)


def _sky(rng: np.random.Generator, height: int, width: int) -> Field:
    """Return (h, w, 3): a tilted gradient between two colours, with clouds."""
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    right = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :]
    share = np.clip(down + right * np.float32(rng.uniform(-1, 1)), 0, 1)[..., None]
    top, bottom = _tone(rng, 60), _tone(rng, 90, 250)
    clouds = np.clip(_fractal(rng, height, width, 6) * np.float32(0.5), 0, 1)[..., None]
    sky: Field = (top * (1 - share) + bottom * share) * (1 - clouds) + _tone(rng, 60, 250) * clouds
    return sky


def _hills(canvas: Field, rng: np.random.Generator, texture: Field) -> None:
    """Paint two to four ranges of hills over the canvas, the nearest last."""
    height, width = canvas.shape[:2]
    rows = np.arange(height, dtype=np.float32)[:, None]
    for level in np.sort(rng.uniform(0.25, 0.95, rng.integers(2, 5))):
        line = _fractal(rng, 2, width, 5)[0] * np.float32(height * 0.07) + np.float32(level * height)
        cover = np.clip(rows - line[None, :], 0, 1)[..., None]
        grain = texture[:: rng.choice((1, -1)), :: rng.choice((1, -1)), None]
        ground = _tone(rng, 20, 190) * (1 + np.float32(0.3) * grain)
        canvas += cover * (ground - canvas)


def _fixed(points: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.round(points * (1 << _SHIFT)).astype(np.int32)


def _house(canvas: Field, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    """Paint a wall, a roof and a grid of windows."""
    wide, tall = size, size * float(rng.uniform(0.6, 1.8))
    wall = np.array([[x, y], [x + wide, y], [x + wide, y + tall], [x, y + tall]])
    roof = np.array([[x - wide / 8, y], [x + wide * rng.uniform(0.2, 0.8), y - wide / 2], [x + wide * 1.12, y]])
    cv2.fillPoly(canvas, [_fixed(wall)], _colour(rng), cv2.LINE_AA, _SHIFT)
    cv2.fillPoly(canvas, [_fixed(roof)], _colour(rng), cv2.LINE_AA, _SHIFT)
    across, down, pane = int(rng.integers(2, 5)), int(rng.integers(1, 5)), _colour(rng)
    for column in range(across):
        for row in range(down):
            corner = np.array([x + wide * (column + 0.25) / across, y + tall * (row + 0.2) / down])
            far = corner + np.array([wide * 0.5 / across, tall * 0.55 / down])
            cv2.rectangle(canvas, _fixed(corner).tolist(), _fixed(far).tolist(), pane, -1, cv2.LINE_AA, _SHIFT)


def _tree(canvas: Field, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    """Paint a trunk and a crown of leaves."""
    trunk = np.array([[x - size / 12, y], [x + size / 12, y], [x + size / 16, y - size], [x - size / 16, y - size]])
    cv2.fillPoly(canvas, [_fixed(trunk)], _colour(rng, 20, 110), cv2.LINE_AA, _SHIFT)
    leaves = _tone(rng, 20, 200)
    for _ in range(14):
        middle = np.array([x, y - size]) + rng.normal(0, size / 4, 2)
        tone = leaves * np.float32(rng.uniform(0.6, 1.3))
        radius = int(size * rng.uniform(0.08, 0.2) * (1 << _SHIFT))
        cv2.circle(canvas, _fixed(middle).tolist(), radius, tone.tolist(), -1, cv2.LINE_AA, _SHIFT)


def _rock(canvas: Field, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    """Paint a polygon with facets."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    corners = np.stack([np.cos(angles), 0.7 * np.sin(angles)], 1) * size * rng.uniform(0.4, 0.8, (9, 1)) + (x, y)
    tone = _tone(rng)
    for first, second in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        facet = np.stack([first, second, np.array([x, y])])
        shade = tone * np.float32(rng.uniform(0.5, 1.2))
        cv2.fillPoly(canvas, [_fixed(facet)], shade.tolist(), cv2.LINE_AA, _SHIFT)


def _objects(canvas: Field, rng: np.random.Generator) -> None:
    height, width = canvas.shape[:2]
    makers = (_house, _tree, _rock)
    for _ in range(int(rng.integers(5, 11))):
        size = float(min(height, width) * rng.uniform(0.08, 0.35))
        x, y = float(width * rng.uniform(0.0, 0.95)), float(height * rng.uniform(0.2, 0.95))
        makers[int(rng.integers(len(makers)))](canvas, rng, x, y, size)


def picture(seed: int, width: int = 640, height: int = 480) -> Picture:
    """Return uint8 (height, width, 3) RGB: a scene that behaves like a photograph."""
    rng = np.random.default_rng(seed)
    canvas = np.ascontiguousarray(_sky(rng, height, width))
    texture = _fractal(rng, height, width, 8)
    _hills(canvas, rng, texture)
    _objects(canvas, rng)
    light = np.exp(np.float32(0.3) * _fractal(rng, height, width, 3) + np.float32(0.08) * texture)
    grain = rng.standard_normal((height, width), np.float32) * np.float32(2.5)
    canvas = canvas * light[..., None] + grain[..., None]
    return canvas.clip(0, 255).round().astype(np.uint8)


def encode(picture: NDArray[Any], format: str = "JPEG", **options: Any) -> bytes:  # noqa: A002  (Pillow's word)
    """Return the file's bytes, in any format of Pillow or pillow_heif; options are Pillow's."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format, **options)
    return file.getvalue()


def decode(data: bytes) -> Picture:
    """Return uint8 (h, w, 3) RGB of a picture file's bytes."""
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def jpeg(picture: Picture, quality: int) -> bytes:
    """Return the picture as a JPEG file of a quality from 1 to 95."""
    return encode(picture, "JPEG", quality=quality)


# --- clips ------------------------------------------------------------------------------


def _ball(frame: Picture, at_s: float, radius: float, colour: tuple[float, float, float]) -> None:
    """Paint the thing that moves: 4 s from side to side, bouncing."""
    height, width = frame.shape[:2]
    x = width * abs((at_s / 4.0) % 2.0 - 1.0)
    y = height * (0.8 - 0.5 * abs(np.sin(at_s * 2.2)))
    cv2.circle(frame, _fixed(np.array([x, y])).tolist(), int(radius * (1 << _SHIFT)), colour, -1, cv2.LINE_AA, _SHIFT)


def _scene(seed: int, count: int, fps: float, width: int, height: int) -> Iterator[Picture]:
    """Yield the frames between two cuts: a camera that pans and zooms over a picture of twice the size."""
    rng = np.random.default_rng(seed + 1_000_003)
    still = picture(seed, 2 * width, 2 * height)
    zooms, centres, ball = rng.uniform(0.55, 0.95, 2), rng.uniform(-0.8, 0.8, (2, 2)), _colour(rng)
    for number in range(count):
        share = number / max(count - 1, 1)
        zoom = zooms[0] + (zooms[1] - zooms[0]) * share
        view = np.array([width, height]) * 2 * zoom
        room = np.array([width, height]) * 2 - view
        corner = room / 2 * (1 + centres[0] + (centres[1] - centres[0]) * share)
        camera = np.array([[2 * zoom, 0, corner[0]], [0, 2 * zoom, corner[1]]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        frame = np.asarray(cv2.warpAffine(still, camera, (width, height), flags=flags), np.uint8)
        _ball(frame, number / fps, height / 9, ball)
        yield frame


def clip_frames(
    seed: int, *, duration_s: float = 6.0, fps: int = 25, width: int = 480, height: int = 270, scenes: int = 2
) -> Iterator[Picture]:
    """Yield the raw frames of a clip, uint8 (height, width, 3) RGB, with cuts between its `scenes`."""
    total = round(duration_s * fps)
    cuts = [total * number // scenes for number in range(scenes + 1)]
    for number in range(scenes):
        yield from _scene(seed * 64 + number, cuts[number + 1] - cuts[number], fps, width, height)


_FAST: dict[str, dict[str, str]] = {
    "libx264": {"preset": "veryfast"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=1:frame-threads=1"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "b": "1M"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "b": "0"},
    "libsvtav1": {"preset": "12", "svtav1-params": "lp=1"},
    "mpeg4": {"b": "2M"},
}
_CRF = {"libx264": 23, "libx265": 26, "libvpx": 20, "libvpx-vp9": 34, "libsvtav1": 38}


def _options(codec: str, crf: int | None, options: Mapping[str, str] | None) -> dict[str, str]:
    quality = {"crf": str(_CRF[codec] if crf is None else crf)} if codec in _CRF else {}
    return _FAST.get(codec, {}) | quality | dict(options or {})


@contextmanager
def _as_before() -> Iterator[None]:
    """Keep this thread's scheduling: run by root, SVT-AV1 gives whoever encodes the highest real-time priority."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


@_as_before()
def write_clip(
    frames: Iterable[Picture], fps: float = 25, *, container: str = "mp4", codec: str = "libx264",
    crf: int | None = None, pixel_format: str = "yuv420p", options: Mapping[str, str] | None = None,
) -> bytes:  # fmt: skip
    """Encode frames of one size (an odd last row or column is cut off) and return the file's bytes.

    `container` is FFmpeg's muxer: mp4, mov, matroska, webm, avi, mpegts. `codec` is its
    encoder: libx264, libx265, libvpx, libvpx-vp9, libsvtav1, mpeg4.
    """
    file = io.BytesIO()
    rate = Fraction(fps).limit_denominator(1000)
    with av.open(file, "w", format=container) as output:
        stream = cast(Any, output.add_stream(codec, rate=rate, options=_options(codec, crf, options)))
        stream.pix_fmt, stream.thread_count = pixel_format, 1
        for number, pixels in enumerate(frames):
            height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
            if not number:
                stream.width, stream.height = width, height
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:height, :width]), format="rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def clip(
    seed: int, *, duration_s: float = 6.0, fps: int = 25, width: int = 480, height: int = 270,
    container: str = "mp4", codec: str = "libx264", crf: int | None = None, pixel_format: str = "yuv420p",
    options: Mapping[str, str] | None = None, frames: Iterable[Picture] | None = None,
) -> bytes:  # fmt: skip
    """Return the bytes of a clip: of `frames` if given, else of `clip_frames` of the seed."""
    shown = clip_frames(seed, duration_s=duration_s, fps=fps, width=width, height=height) if frames is None else frames
    return write_clip(shown, fps, container=container, codec=codec, crf=crf, pixel_format=pixel_format, options=options)


def clip_pictures(data: bytes) -> Iterator[Picture]:
    """Yield the decoded frames, uint8 (h, w, 3) RGB, of a video file's bytes."""
    with av.open(io.BytesIO(data), "r") as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)


def animation(seed: int, format: str = "GIF", duration_s: float = 2.0, fps: int = 8) -> bytes:  # noqa: A002
    """Return an animated GIF, WEBP or PNG (APNG) file of 240×180 pixels."""
    first, *rest = map(Image.fromarray, clip_frames(seed, duration_s=duration_s, fps=fps, width=240, height=180))
    file = io.BytesIO()
    first.save(file, format, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
    return file.getvalue()


# --- edits ------------------------------------------------------------------------------


def _bordered(picture: Picture, rows: float, columns: float, level: int) -> Picture:
    down, across = int(picture.shape[0] * rows), int(picture.shape[1] * columns)
    return np.pad(picture, ((down, down), (across, across), (0, 0)), constant_values=level)


def _levels(picture: Picture, curve: Callable[[Field], Field]) -> Picture:
    table = curve(np.arange(256, dtype=np.float32)).clip(0, 255).round().astype(np.uint8)
    toned: Picture = table[picture]
    return toned


def _half(picture: Picture) -> Picture:
    size = (picture.shape[1] // 2, picture.shape[0] // 2)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _grey(picture: Picture) -> Picture:
    return np.asarray(cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8)


def _noise(picture: Picture) -> Picture:
    added = np.random.default_rng(7).standard_normal(picture.shape, np.float32) * 8
    return (picture + added).clip(0, 255).round().astype(np.uint8)


# Edits of a picture that a hash of the whole frame can survive. Rotations are clockwise.
EDITS: dict[str, Edit] = {
    "mirror": lambda picture: np.ascontiguousarray(picture[:, ::-1]),
    "flip": lambda picture: np.ascontiguousarray(picture[::-1]),
    "rotate90": lambda picture: np.ascontiguousarray(np.rot90(picture, -1)),
    "rotate180": lambda picture: np.ascontiguousarray(np.rot90(picture, 2)),
    "rotate270": lambda picture: np.ascontiguousarray(np.rot90(picture, 1)),
    "letterbox": lambda picture: _bordered(picture, 0.15, 0.0, 0),
    "pillarbox": lambda picture: _bordered(picture, 0.0, 0.2, 0),
    "white_frame": lambda picture: _bordered(picture, 0.08, 0.08, 255),
    "half_size": _half,
    "brightness": lambda picture: _levels(picture, lambda level: level + 30),
    "contrast": lambda picture: _levels(picture, lambda level: (level - 128) * 1.3 + 128),
    "gamma": lambda picture: _levels(
        picture, lambda level: np.float32(255) * (level / np.float32(255)) ** np.float32(0.7)
    ),
    "grey": _grey,
    "blur": lambda picture: np.asarray(cv2.GaussianBlur(picture, (0, 0), 1.2), np.uint8),
    "noise": _noise,
}
TRIM_START_S, SPEED = 1.37, 1.25
_CLIP_PICTURE_EDITS = ("half_size", "mirror", "letterbox", "grey")
CLIP_EDITS = ("reencode", "trimmed", "faster", "webm", *_CLIP_PICTURE_EDITS)


def edited_clip(seed: int, edit_name: str, *, duration_s: float = 6.0, fps: int = 25,
                width: int = 480, height: int = 270) -> bytes:  # fmt: skip
    """Decode `clip(seed, …)`, edit it by one of CLIP_EDITS, encode it again; return the file's bytes."""
    frames = clip_pictures(clip(seed, duration_s=duration_s, fps=fps, width=width, height=height))
    if edit_name in _CLIP_PICTURE_EDITS:
        return write_clip(map(EDITS[edit_name], frames), fps)
    if edit_name == "webm":
        return write_clip(frames, fps, container="webm", codec="libvpx-vp9")
    if edit_name == "trimmed":
        return write_clip(islice(frames, round(TRIM_START_S * fps), None), fps)
    if edit_name == "faster":
        wanted = {int(number * SPEED) for number in range(round(duration_s * fps))}
        return write_clip((frame for number, frame in enumerate(frames) if number in wanted), fps)
    if edit_name == "reencode":
        return write_clip(frames, fps, crf=35)
    raise ValueError(f"{edit_name} is none of {CLIP_EDITS}")
