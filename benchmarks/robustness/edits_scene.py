"""Edits that put a picture into another scene, and several edits in a row: embedding, camera, combos."""

from collections.abc import Sequence
from functools import partial

import cv2
import numpy as np

from benchmarks.corpus import Picture
from benchmarks.robustness.edits_base import (
    Edit,
    Make,
    Rng,
    chancy,
    clipped,
    covering,
    paste,
    scaled,
    simple,
    through_jpeg,
)
from benchmarks.robustness.edits_drawn import as_screenshot, captioned, with_logo
from benchmarks.robustness.edits_shape import crop_edges, mirrored, rotated_inside
from benchmarks.robustness.edits_tone import gamma, noisy, saturated


def _drawn(others: Sequence[Picture], rng: Rng, count: int) -> list[Picture]:
    """Draw other pictures, each once while they last; ValueError if there are none."""
    if not others:
        raise ValueError("this edit needs other pictures")
    order = rng.permutation(len(others)).tolist()
    return [others[order[number % len(order)]] for number in range(count)]


def inset(share: float, picture: Picture, rng: Rng, others: Sequence[Picture]) -> Picture:
    """Lay the picture, scaled to a share of its sides, at a random place of another photo of its size."""
    height, width = picture.shape[:2]
    ground = covering(_drawn(others, rng, 1)[0], width, height)
    small = scaled(picture, share)
    left = round(rng.uniform(0.02, 0.98 - share) * width)
    return paste(ground, small, left, round(rng.uniform(0.02, 0.98 - share) * height))


def collage(rows: int, columns: int, picture: Picture, rng: Rng, others: Sequence[Picture]) -> Picture:
    """Lay pictures side by side in cells of the picture's size, the picture in a random one."""
    height, width = picture.shape[:2]
    cells = [covering(other, width, height) for other in _drawn(others, rng, rows * columns - 1)]
    cells.insert(int(rng.integers(rows * columns)), picture)
    bands = [np.concatenate(cells[row * columns : (row + 1) * columns], axis=1) for row in range(rows)]
    whole = np.concatenate(bands)
    return scaled(whole, min(1.0, 1280 / max(whole.shape[:2])))


def blended(weight: float, picture: Picture, rng: Rng, others: Sequence[Picture]) -> Picture:
    """Mix the picture with another one; `weight` is the picture's."""
    ground = covering(_drawn(others, rng, 1)[0], picture.shape[1], picture.shape[0])
    return np.asarray(cv2.addWeighted(picture, weight, ground, 1 - weight, 0), np.uint8)


def perspective(share: float, picture: Picture, rng: Rng, level: int = 0) -> Picture:
    """Move each corner inwards by half to all of a share of the sides."""
    height, width = picture.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    inward = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], np.float32)
    moved = rng.uniform(share / 2, share, (4, 2)).astype(np.float32) * np.array([width, height], np.float32)
    matrix = cv2.getPerspectiveTransform(corners, corners + inward * moved)
    fill = (level, level, level)
    warped = cv2.warpPerspective(picture, matrix, (width, height), flags=cv2.INTER_CUBIC, borderValue=fill)
    return np.asarray(warped, np.uint8)


def photo_of_screen(picture: Picture, rng: Rng) -> Picture:
    """Photograph a screen: slanted, with moiré, lighter tones and noise."""
    seen = perspective(0.06, picture, rng, 25)
    rows = np.arange(seen.shape[0], dtype=np.float32)[:, None]
    columns = np.arange(seen.shape[1], dtype=np.float32)[None, :]
    pitch, slant = rng.uniform(2.3, 3.7), rng.uniform(-0.25, 0.25)
    waves = np.sin((columns + rows * slant) * (2 * np.pi / pitch)) + np.sin((rows - columns * slant) * (2 * np.pi / 5))
    striped = seen * (1 + 0.06 * waves.astype(np.float32))[..., None]
    return noisy(6, gamma(0.85, clipped(striped)), rng)


def _embedding() -> list[Edit]:
    makes: dict[str, Make] = {f"pip_{share}": partial(inset, share / 100) for share in (70, 50, 33)}
    makes |= {"collage_1x2": partial(collage, 1, 2), "collage_2x2": partial(collage, 2, 2)}
    makes |= {f"blend_{weight}": partial(blended, weight / 100) for weight in (80, 60)}
    return [Edit(name, "embedding", make) for name, make in makes.items()]


def _camera() -> list[Edit]:
    slants = [Edit(f"perspective_{share}", "camera", chancy(partial(perspective, share / 100))) for share in (5, 10)]
    return [*slants, Edit("photo_of_screen", "camera", chancy(photo_of_screen), quality=70)]


def _social(picture: Picture) -> Picture:
    """Go through two services: resize, JPEG 70, crop of 3 % at each edge, resize; the last JPEG is the file's."""
    return scaled(crop_edges(0.03, through_jpeg(scaled(picture, 0.75), 70)), 0.8)


def _mirror_crop(picture: Picture) -> Picture:
    return crop_edges(0.10, mirrored(picture))


def _crop_logo(picture: Picture, rng: Rng) -> Picture:
    return with_logo(0.15, crop_edges(0.05, picture), rng)


def _caption_half(picture: Picture, rng: Rng) -> Picture:
    return scaled(captioned(0.2, picture, rng), 0.5)


def _rotation_saturation(picture: Picture) -> Picture:
    return saturated(1.6, rotated_inside(3, picture))


def _screenshot_mirror(picture: Picture, rng: Rng) -> Picture:
    return mirrored(as_screenshot(False, picture, rng))


def _combos() -> list[Edit]:
    return [
        Edit("combo_mirror_crop10_q50", "combos", simple(_mirror_crop), quality=50),
        Edit("combo_crop5_logo_q40", "combos", chancy(_crop_logo), quality=40),
        Edit("combo_caption_half_q40", "combos", chancy(_caption_half), quality=40),
        Edit("combo_rot3_saturation_q60", "combos", simple(_rotation_saturation), quality=60),
        Edit("combo_screenshot_mirror_q60", "combos", chancy(_screenshot_mirror), quality=60),
        Edit("combo_social", "combos", simple(_social), quality=60),
    ]


SCENE: list[Edit] = [*_embedding(), *_camera(), *_combos()]
