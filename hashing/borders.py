"""Plain borders (letterbox, pillarbox, frames): where the picture inside them is.

Rules of this file: pure arithmetic. The 64×64 plane that PDQ makes anyway says cheaply
whether there can be a border; only then are the pixels looked at, one by one.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from hashing.media import Frame, Pixels

PLAIN_RANGE = 24  # a line whose values span no more than this is plain
SAME_LEVEL = 16  # and belongs to the border if its level is this near to the edge's
MIN_TRIM = 0.01  # of the side; less is not worth a second hash
MIN_LEFT = 0.1  # of the side; less than this left over is a blank picture, not a border
_LINES = 32  # read at a time

Box = tuple[slice, slice]


def may_have_border(plane: NDArray[np.float32]) -> bool:
    """Tell from the (64, 64) luma plane whether any edge of the picture is plain."""
    edges = (plane[0], plane[-1], plane[:, 0], plane[:, -1])
    return any(float(np.ptp(edge)) <= PLAIN_RANGE for edge in edges)


def _run(lines: NDArray[np.uint8]) -> int:
    """Count the plain lines of one level that a picture begins with; reads little more of it than those."""
    level: float | None = None
    for start in range(0, len(lines), _LINES):
        part = lines[start : start + _LINES]
        low, high = part.min(axis=1).astype(np.int64), part.max(axis=1).astype(np.int64)
        level = (low[0] + high[0]) / 2 if level is None else level
        same = ((high - low) <= PLAIN_RANGE) & (np.abs((low + high) / 2 - level) <= SAME_LEVEL)
        if not same.all():
            return start + int(np.argmin(same))
    return len(lines)


def _inside(lines: NDArray[np.uint8]) -> tuple[int, int]:
    """Return the [start, stop) of a picture's lines that are not border."""
    start = _run(lines)
    return start, len(lines) - _run(lines[::-1]) if start < len(lines) else start


def picture_inside(grey: NDArray[np.uint8]) -> Box | None:
    """Return the box of a uint8 (h, w) picture without its plain border, or None."""
    top, left, (bottom, right) = 0, 0, grey.shape
    for _ in range(2):  # a frame around a letterbox takes two rounds
        start, stop = _inside(grey[top:bottom, left:right])
        top, bottom = top + start, top + stop
        if bottom - top < MIN_LEFT * grey.shape[0]:
            return None
        start, stop = _inside(grey[top:bottom, left:right].T)
        left, right = left + start, left + stop
        if right - left < MIN_LEFT * grey.shape[1]:
            return None
    trimmed = max(1 - (bottom - top) / grey.shape[0], 1 - (right - left) / grey.shape[1])
    return (slice(top, bottom), slice(left, right)) if trimmed >= MIN_TRIM else None


def trimmed(frame: Frame, plane: NDArray[np.float32]) -> Pixels | None:
    """Return the pixels inside the frame's plain border, or None where there is none."""
    if not may_have_border(plane):
        return None
    pixels = frame.pixels
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if pixels.ndim == 3 else frame.grey8()
    box = picture_inside(np.asarray(grey, np.uint8))
    return None if box is None else pixels[box]
