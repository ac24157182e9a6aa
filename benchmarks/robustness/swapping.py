"""Simulated swaps: an ellipse of a picture replaced, at its most distinct place, by one of another.

What a face swap leaves behind: the frame as it was, and one region with other details in
about the same colours, blended at its border.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.corpus import Picture
from benchmarks.robustness.edits_base import clipped, resized

SHARES = (0.03, 0.06, 0.12, 0.25)  # of the picture's area
_HEIGHT_A_WIDTH = 1.3  # of a face
_CORNERS = 2000
_MARGIN = 0.05  # of each side: faces are seldom cut by the frame
Box = tuple[int, int, int, int]  # left, top, width, height in pixels


def _density(picture: Picture) -> NDArray[np.float32]:
    """Return how many corners each pixel has, as an integral (h + 1, w + 1)."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    found = cv2.goodFeaturesToTrack(grey, _CORNERS, 0.01, 3)
    counts = np.zeros(grey.shape, np.float32)
    if found is not None:
        x, y = found.reshape(-1, 2).astype(int).T
        counts[y, x] = 1
    return np.asarray(cv2.integral(counts), np.float32)


def region(picture: Picture, share: float) -> Box:
    """Return the box, of an ellipse with `share` of the area, that has the most corners."""
    height, width = picture.shape[:2]
    area = share * height * width * 4 / np.pi
    across, down = round(width * _MARGIN), round(height * _MARGIN)
    wide = min(round(float(np.sqrt(area / _HEIGHT_A_WIDTH))), width - 2 * across)
    high = min(round(area / wide), height - 2 * down)
    wide = min(round(area / high), width - 2 * across)
    sums = _density(picture)[down : height - down + 1, across : width - across + 1]
    inside = sums[high:, wide:] - sums[: len(sums) - high, wide:]
    inside = inside - sums[high:, : sums.shape[1] - wide] + sums[: len(sums) - high, : sums.shape[1] - wide]
    top, left = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(left) + across, int(top) + down, wide, high


def _cut(picture: Picture, box: Box) -> Picture:
    left, top, width, height = box
    return picture[top : top + height, left : left + width]


def _in_colours_of(patch: Picture, model: Picture) -> NDArray[np.float32]:
    """Return the patch with the mean and the spread of the model's colours."""
    ours, theirs = patch.astype(np.float32), model.astype(np.float32)
    spread = theirs.std((0, 1)) / np.maximum(ours.std((0, 1)), 1.0)
    return np.asarray((ours - ours.mean((0, 1))) * spread.clip(0.5, 2.0) + theirs.mean((0, 1)), np.float32)


def _mask(box: Box) -> NDArray[np.float32]:
    width, height = box[2:]
    mask = np.zeros((height, width), np.float32)
    axes = (max(round(width * 0.47), 1), max(round(height * 0.47), 1))
    cv2.ellipse(mask, (width // 2, height // 2), axes, 0, 0, 360, 1.0, -1)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), max(0.02 * min(width, height), 0.5)), np.float32)[..., None]


def swapped(picture: Picture, donor: Picture, share: float, at: Box | None = None) -> Picture:
    """Return the picture with `share` of its area from the donor; at the box, or at its most distinct place."""
    box = region(picture, share) if at is None else at
    left, top, width, height = box
    there = _cut(picture, box)
    patch = resized(_cut(donor, region(donor, share)), width, height)[:height, :width]
    mask = _mask(box)
    result = picture.copy()
    result[top : top + height, left : left + width] = clipped(_in_colours_of(patch, there) * mask + there * (1 - mask))
    return result
