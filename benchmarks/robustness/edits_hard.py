"""Edits beyond the list, reported apart: some leave less than a picture can be found by.

`augly_…` need the assets of AugLy (its wheel's folder `augly/assets`), whose place the
environment variable ROBUSTNESS_ASSETS tells; nothing of it is kept here.
"""

import json
import os
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.corpus import Picture
from benchmarks.robustness.edits_base import Edit, Make, Rng, chancy, covering, simple, through_jpeg
from benchmarks.robustness.edits_drawn import as_screenshot
from benchmarks.robustness.edits_shape import cropped

ASSETS = "ROBUSTNESS_ASSETS"


def screenshot_twice(picture: Picture, rng: Rng) -> Picture:
    """Show a screenshot of the picture in an app again."""
    return as_screenshot(False, through_jpeg(as_screenshot(True, picture, rng), 70), rng)


def crop_centre(area: float, picture: Picture) -> Picture:
    """Keep a part of the area in the middle."""
    edge = (1 - float(np.sqrt(area))) / 2
    return cropped(picture, edge, edge, edge, edge)


def crop_densest(area: float, picture: Picture) -> Picture:
    """Keep the part of the area with the most edges in it, where a face would be."""
    side = float(np.sqrt(area))
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    strength = np.abs(cv2.Sobel(grey, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    tall, wide = round(picture.shape[0] * side), round(picture.shape[1] * side)
    sums = _window_sums(np.asarray(strength, np.float64), tall, wide)
    top, left = np.unravel_index(int(np.argmax(sums)), sums.shape)
    return picture[top : top + tall, left : left + wide]


def _window_sums(values: NDArray[np.float64], tall: int, wide: int) -> NDArray[np.float64]:
    """Return the sum of each window by its upper left corner."""
    total = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums: NDArray[np.float64] = (
        total[tall:, wide:] - total[:-tall, wide:] - total[tall:, :-wide] + total[:-tall, :-wide]
    )
    return sums


def shuffled_tiles(count: int, picture: Picture, rng: Rng) -> Picture:
    """Cut into count × count tiles and lay them in another order."""
    height, width = (length // count * count for length in picture.shape[:2])
    bands = picture[:height, :width].reshape(count, height // count, count, width // count, 3)
    tiles = bands.swapaxes(1, 2).reshape(count * count, height // count, width // count, 3)
    order = rng.permutation(count * count)
    again = tiles[order].reshape(count, count, height // count, width // count, 3)
    return again.swapaxes(1, 2).reshape(height, width, 3)


def _assets() -> Path:
    place = os.environ.get(ASSETS)
    if place is None:
        raise ValueError(f"this edit needs AugLy's assets: {ASSETS} is not set")
    return Path(place)


@lru_cache(maxsize=256)
def _image(path: Path, mode: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert(mode)


def _augly_emoji(share: float, picture: Picture, rng: Rng) -> Picture:
    """Lay one of AugLy's smileys, a share of the longer side, at a random place."""
    faces = sorted((_assets() / "twemojis" / "smileys").glob("*.png"))
    image = Image.fromarray(picture)
    side = round(max(image.size) * share)
    face = _image(faces[int(rng.integers(len(faces)))], "RGBA").resize((side, side))
    left, top = (round(float(rng.uniform()) * (length - side)) for length in image.size)
    image.paste(face, (left, top), face)
    return np.array(image)


def _augly_screenshot(template: str, picture: Picture) -> Picture:
    """Fill the picture's place on AugLy's template of an app, the middle kept."""
    folder = _assets() / "screenshot_templates"
    left, top, right, bottom = json.loads((folder / "bboxes.json").read_text())[template]
    screen = np.array(_image(folder / template, "RGB"))
    screen[top:bottom, left:right] = covering(picture, right - left, bottom - top)
    return screen


def _named() -> dict[str, Make]:
    makes: dict[str, Make] = {"screenshot_twice": chancy(screenshot_twice)}
    makes["crop_centre_25"] = simple(partial(crop_centre, 0.25))
    makes["crop_densest_25"] = simple(partial(crop_densest, 0.25))
    makes["tiles_3x3"] = chancy(partial(shuffled_tiles, 3))
    makes |= {f"augly_emoji_{share}": chancy(partial(_augly_emoji, share / 100)) for share in (15, 40)}
    makes |= {f"augly_{name}": simple(partial(_augly_screenshot, f"{name}.png")) for name in ("mobile", "web")}
    return makes


HARDER: dict[str, Edit] = {name: Edit(name, "harder", make) for name, make in _named().items()}


def at_hand() -> list[str]:
    """Return the names of those that can be made here."""
    return [name for name in HARDER if ASSETS in os.environ or not name.startswith("augly_")]
