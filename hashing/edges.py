"""The edge grid: which way a picture gets brighter, at 32×32 places, and how far two of them agree.

A grid is three-valued (darker, brighter or neither, across and down); it holds no grey
level. A picture is laid over another one's frame by a map, and the directions of the edges
are compared block by block: two pictures of one room share the wall, but not what stands
before it. Rules of this file: pure arithmetic on arrays that we own.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hashing.signals import GRID_SIDE

GRID_PIXELS = 128  # side of the square over which edges are taken
BLOCK = 4  # a block is so many edge directions wide and high
BLOCKS_A_SIDE = GRID_SIDE // BLOCK
BLOCKS = BLOCKS_A_SIDE**2
NOT_SHOWN = -128  # of a block that the query does not show, or that has no edges in either picture
_FEWEST_EDGES = 6  # of the 32 edge directions of a block; of fewer, nothing can be said
_EDGE = 6.0  # a gradient below this, in grey levels over the blurred plane, is no edge
_FINE_PIXELS = 2 * GRID_PIXELS  # side of the square on which covers are looked for
_AROUND = np.ones((9, 9), np.uint8)
_FLAT_RANGE, _FLAT_DEVIATION = 4, 2.0  # grey levels: around a pixel, and over a whole cover; cloth and walls have more
_LEAST_FLAT = 512  # pixels of the square; less is a chance
_GAP = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))  # in cells; eyes and mouth of a sticker are narrower

Plane = NDArray[np.uint8]
Map = NDArray[Any]  # 3×3, from places in one picture to places in another
Floats = NDArray[np.float32]


def slopes(square: Floats) -> Floats:
    """Return (2, GRID_SIDE, GRID_SIDE), in grey levels: how a square of GRID_PIXELS gets brighter, across and down."""
    smooth = cv2.GaussianBlur(square, (0, 0), 1.5)
    every = slice(GRID_PIXELS // GRID_SIDE // 2, GRID_PIXELS, GRID_PIXELS // GRID_SIDE)
    across = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=3)[every, every]
    down = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=3)[every, every]
    return np.stack([across, down])


def sharp(values: Floats) -> NDArray[np.int8]:
    """Return slopes as -1, 0 or 1: 0 where there is no edge."""
    return (np.sign(values) * (np.abs(values) > _EDGE)).astype(np.int8)


def pack_edges(edges: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Return edge directions, (2, GRID_SIDE, GRID_SIDE) in -1, 0, 1, as GRID_BYTES bytes."""
    return np.packbits(np.stack([edges > 0, edges < 0]))


def unpack_edges(grid: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Return what `pack_edges` packed."""
    brighter, darker = np.unpackbits(grid).reshape(2, 2, GRID_SIDE, GRID_SIDE).astype(np.int8)
    edges: NDArray[np.int8] = brighter - darker
    return edges


def edges_of(plane: Plane) -> NDArray[np.int8]:
    """Return the edge directions of a whole plane, (2, GRID_SIDE, GRID_SIDE) in -1, 0, 1."""
    square = cv2.resize(plane, (GRID_PIXELS, GRID_PIXELS), interpolation=cv2.INTER_AREA)
    return sharp(slopes(square.astype(np.float32)))


def scaled(across: float, down: float) -> Map:
    """Return the map that makes a picture larger: places count from the middle of the first pixel."""
    return np.array([[across, 0.0, across / 2 - 0.5], [0.0, down, down / 2 - 0.5], [0.0, 0.0, 1.0]])


def warped(plane: Plane, matrix: Map, size: tuple[int, int], finer: int) -> Plane:
    """Return a plane as a map lays it over a picture `finer` times `size` (width, height), scaled down to that size.

    A warp alone takes single pixels of a larger picture; the mean of finer ones does not flicker.
    """
    fine = cv2.warpPerspective(plane, matrix, (finer * size[0], finer * size[1]))
    return np.asarray(cv2.resize(fine, size, interpolation=cv2.INTER_AREA), np.uint8)


def _through(matrix: Map, reference: np.void, side: int) -> Map:
    """Return the map that lays a plane over a reference drawn as a square of so many pixels."""
    return scaled(side / float(reference["width"]), side / float(reference["height"])) @ matrix


def laid(plane: Plane, matrix: Map, reference: np.void, finer: int = 2) -> tuple[Floats, NDArray[np.bool_], float]:
    """Lay a plane over a reference; return its slopes (2, 32, 32), which of those the plane shows whole (32, 32), and
    which share of the reference it shows.
    """
    square = (GRID_PIXELS, GRID_PIXELS)
    through = _through(matrix, reference, finer * GRID_PIXELS)
    over = warped(plane, through, square, finer)
    shown = warped(np.full(plane.shape, 255, np.uint8), through, square, finer) >= 253
    whole = cv2.erode(shown.astype(np.uint8), np.ones((5, 5), np.uint8))[2::4, 2::4].astype(bool)
    return slopes(np.where(shown, over, 0).astype(np.float32)), whole, float(shown.mean())


def _blocks(values: NDArray[Any]) -> Floats:
    """Return the sums over each block, (8, 8), of values (…, 32, 32)."""
    summed: Floats = values.reshape(-1, BLOCKS_A_SIDE, BLOCK, BLOCKS_A_SIDE, BLOCK).sum((0, 2, 4), dtype=np.float32)
    return summed


def _flat_areas(fine: Plane) -> Plane:
    """Return where a square of _FINE_PIXELS has large areas of one dead flat level: 1 there, else 0."""
    flat = cv2.dilate(fine, _AROUND) - cv2.erode(fine, _AROUND) <= _FLAT_RANGE
    count, labels, facts, _ = cv2.connectedComponentsWithStats(flat.astype(np.uint8), connectivity=4)
    some = (slice(None, None, 4), slice(None, None, 4))
    label, level, chosen = labels[some], fine[some], np.zeros(count, np.uint8)
    for number in np.flatnonzero(facts[1:, cv2.CC_STAT_AREA] >= _LEAST_FLAT) + 1:
        levels = level[label == number]
        chosen[number] = len(levels) > 0 and levels.std() <= _FLAT_DEVIATION
    return np.asarray(cv2.dilate(chosen[labels], _AROUND), np.uint8)


def covered(plane: Plane, matrix: Map, reference: np.void) -> NDArray[np.bool_]:
    """Return which cells (32, 32) of a reference something drawn hides in a plane: a bar, a box, a sticker.

    What is drawn is dead flat, but for narrow parts; what a camera sees has noise and shade. A cover says nothing
    of what is under it, so that it is neither for nor against a match.
    """
    through = _through(matrix, reference, _FINE_PIXELS)
    fine = cv2.warpPerspective(plane, through, (_FINE_PIXELS, _FINE_PIXELS))
    middles = slice(_FINE_PIXELS // GRID_SIDE // 2, None, _FINE_PIXELS // GRID_SIDE)
    flat = np.pad(_flat_areas(np.asarray(fine, np.uint8))[middles, middles], len(_GAP))
    inside = slice(len(_GAP), -len(_GAP))
    return np.asarray(cv2.morphologyEx(flat, cv2.MORPH_CLOSE, _GAP)[inside, inside], bool)


def compare(plane: Plane, matrix: Map, reference: np.void) -> tuple[NDArray[np.int8], float, float]:
    """Lay the plane over the reference; return the agreement of each block, which share of the reference the plane
    shows, and which share of the edges there is hidden by covers.

    Where only one of the two has edges, they disagree: another subject may be plain. What is `covered` is not shown.
    """
    values, whole, share_shown = laid(plane, matrix, reference)
    known, hidden = unpack_edges(reference["grid"]), covered(plane, matrix, reference)
    edged = whole & known.any(axis=0)
    share_hidden = float((edged & hidden).sum() / max(edged.sum(), 1))
    whole &= ~hidden
    ours, theirs = (sharp(values) * whole).astype(np.int8), (known * whole).astype(np.int8)
    here, there = _blocks(np.abs(ours)), _blocks(np.abs(theirs))
    most = np.maximum(here, there)
    share = _blocks(ours * theirs) / np.maximum(np.maximum(np.sqrt(here * there), most / 2), 1.0)
    used = (most >= _FEWEST_EDGES) & (_blocks(whole) >= BLOCK * BLOCK / 2)
    return np.where(used, np.round(100 * share), NOT_SHOWN).astype(np.int8).ravel(), share_shown, share_hidden
