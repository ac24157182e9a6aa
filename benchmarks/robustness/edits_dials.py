"""Edits whose strength can be set: for sweeps, and for chains with strengths drawn by chance.

`crop~0.62` is the dial `crop` at 0.62: the name says all of it, so that an edit in a
report can be made again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.corpus import Picture
from benchmarks.robustness import edits_drawn as drawn
from benchmarks.robustness import edits_scene as scene
from benchmarks.robustness import edits_shape as shape
from benchmarks.robustness import edits_tone as tone
from benchmarks.robustness.edits_base import Edit, Make, Rng, chancy, scaled, simple

_SIGN = "~"


@dataclass(frozen=True, slots=True)
class Dial:
    """One kind of edit from weak to strong.

    Chains draw values between `weak` and `strong`, evenly in their logarithm; sweeps try those of `sweep`.
    """

    name: str
    family: str
    what: str  # the axis of a plot
    weak: float
    strong: float
    sweep: tuple[float, ...]
    build: Callable[[float], Make]
    format: str | None = None  # of a dial whose value is the file's quality

    def at(self, value: float) -> Edit:
        """Return the edit of this strength."""
        name = f"{self.name}{_SIGN}{value:g}"
        if self.format:
            return Edit(name, self.family, simple(shape.same), self.format, round(value))
        return Edit(name, self.family, self.build(value))

    def drawn(self, rng: Rng) -> str:
        """Return the name of an edit of a strength by chance, with three digits that count."""
        value = float(np.exp(rng.uniform(*np.sort(np.log([self.weak, self.strong])))))
        return f"{self.name}{_SIGN}{value:.3g}"


def _plain(edit: Callable[[float, Picture], Picture]) -> Callable[[float], Make]:
    return lambda value: simple(partial(edit, value))


def _chancy(edit: Callable[[float, Picture, Rng], Picture]) -> Callable[[float], Make]:
    return lambda value: chancy(partial(edit, value))


def _either_way(edit: Callable[[float, Picture], Picture]) -> Callable[[float], Make]:
    """Turn to the left or to the right."""

    def build(value: float) -> Make:
        def make(picture: Picture, rng: Rng) -> Picture:
            return edit(value if rng.integers(2) else -value, picture)

        return chancy(make)

    return build


def _shrunk(share: float, picture: Picture) -> Picture:
    return scaled(picture, share)


def _letterboxed(share: float, picture: Picture) -> Picture:
    return shape.padded(share, 0.0, 0, picture)


def _white_framed(share: float, picture: Picture) -> Picture:
    return shape.framed(share, 255, picture)


def _one_emoji(share: float, picture: Picture, rng: Rng) -> Picture:
    return drawn.with_emoji(share, 1, False, picture, rng)


def _pixelated(cell: float, picture: Picture) -> Picture:
    return tone.pixelated(round(cell), picture)


def _hue(degrees: float, picture: Picture) -> Picture:
    return tone.hue_turned(round(degrees), picture)


def _quality(value: float) -> Make:
    return simple(shape.same)


_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)

DIALS: dict[str, Dial] = {
    dial.name: dial
    for dial in (
        Dial("jpeg", "codec", "JPEG quality", 80, 25, (90, 75, 50, 30, 20, 10, 5), _quality, "JPEG"),
        Dial("webp", "codec", "WebP quality", 80, 15, (75, 50, 20, 10, 1), _quality, "WEBP"),
        Dial("resize", "scale", "sides, share", 0.9, 0.3, (0.75, 0.5, 0.35, 0.25, 0.15, 0.1), _plain(_shrunk)),
        Dial("stretch", "scale", "width, factor", 1.05, 1.4, (1.1, 1.25, 1.5, 2, 3), _plain(shape.stretched)),
        Dial("crop", "crop", "area kept, share", 0.95, 0.45, _SHARES, _chancy(shape.crop_area)),
        Dial("rotation", "rotation", "rotation, degrees", 2, 20, (1, 2, 5, 10, 20, 30, 45), _either_way(shape.rotated)),
        Dial("tilt", "rotation", "rotation without fill, degrees", 1, 10, (1, 2, 5, 10, 20),
             _either_way(shape.rotated_inside)),
        Dial("frame", "frame", "white frame, share of the shorter side", 0.03, 0.2, (0.02, 0.05, 0.1, 0.2, 0.4),
             _plain(_white_framed)),
        Dial("letterbox", "frame", "black bars, share of the height each", 0.05, 0.25, (0.05, 0.1, 0.25, 0.5, 1),
             _plain(_letterboxed)),
        Dial("brightness", "colour", "brightness, factor", 0.85, 0.6, (0.8, 0.6, 0.4, 0.2, 0.1), _plain(tone.bright)),
        Dial("contrast", "colour", "contrast, factor", 0.9, 0.5, (0.8, 0.6, 0.4, 0.2, 0.1), _plain(tone.contrasted)),
        Dial("gamma", "colour", "gamma", 1.2, 2, (1.5, 2, 3, 5), _plain(tone.gamma)),
        Dial("hue", "colour", "hue, degrees", 10, 90, (20, 60, 120, 180), _plain(_hue)),
        Dial("saturation", "colour", "saturation, factor", 1.2, 2.5, (1.5, 2, 3, 5), _plain(tone.saturated)),
        Dial("blur", "blur_noise", "Gaussian blur, sigma in pixels", 0.5, 3, (1, 2, 3, 4, 6, 8, 12),
             _plain(tone.blurred)),
        Dial("noise", "blur_noise", "noise, sigma in levels", 5, 25, (5, 10, 25, 40, 60), _chancy(tone.noisy)),
        Dial("pixelate", "blur_noise", "cell, pixels", 2, 6, (2, 4, 8, 12, 16), _plain(_pixelated)),
        Dial("logo", "overlay", "logo, share of the sides", 0.08, 0.3, (0.1, 0.25, 0.4, 0.6), _chancy(drawn.with_logo)),
        Dial("emoji", "overlay", "emoji, share of the longer side", 0.1, 0.4, (0.15, 0.3, 0.5, 0.7, 0.9),
             _chancy(_one_emoji)),
        Dial("text", "overlay", "text all over, alpha", 0.2, 0.7, (0.2, 0.4, 0.6, 0.8, 1),
             _chancy(drawn.with_tiled_text)),
        Dial("bar", "overlay", "bar, share of the height", 0.06, 0.25, (0.1, 0.2, 0.3, 0.4, 0.5),
             _chancy(drawn.with_bar)),
        Dial("caption", "ui", "caption, share of the height", 0.1, 0.4, (0.1, 0.2, 0.4, 0.8, 1.5),
             _chancy(drawn.captioned)),
        Dial("pip", "embedding", "picture in picture, share of the sides", 0.8, 0.45,
             (0.8, 0.7, 0.6, 0.5, 0.4, 0.33, 0.25, 0.2), lambda value: partial(scene.inset, value)),
        Dial("blend", "embedding", "weight of the picture", 0.9, 0.65, (0.9, 0.8, 0.7, 0.6, 0.5, 0.4),
             lambda value: partial(scene.blended, value)),
        Dial("perspective", "camera", "corners moved, share of the sides", 0.02, 0.1, (0.03, 0.05, 0.1, 0.15, 0.2),
             _chancy(scene.perspective)),
    )
}  # fmt: skip


def dialled(name: str) -> Edit:
    """Return the edit that a name such as `crop~0.62` stands for; KeyError, ValueError."""
    dial, _, value = name.partition(_SIGN)
    return DIALS[dial].at(float(value))


def swept() -> dict[str, Edit]:
    """Return the edits of all sweeps by name."""
    edits = [dial.at(value) for dial in DIALS.values() for value in dial.sweep]
    return {edit.name: edit for edit in edits}


def dial_of(name: str) -> tuple[Dial, float] | None:
    """Return the dial and its value of one edit's name, or None if it has none."""
    dial, sign, value = name.partition(_SIGN)
    return (DIALS[dial], float(value)) if sign and dial in DIALS and "+" not in name else None
