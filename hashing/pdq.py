"""PDQ: one picture -> 256 bits in each of eight symmetries, and a quality from 0 to 100.

Rules of this file: pure arithmetic on arrays; no decoding, no thresholds.

Source: "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm"
(facebook/ThreatExchange, hashing/hashing.pdf) and its C++ reference, pdq/cpp.

All of PDQ before its median is linear and separable: two box filters along each side,
sampling at 64 places, and 16 rows of a DCT. So the 64×64 plane is `S_h · luma · S_wᵀ`
with one small matrix a side, and the 16×16 block is `D · plane · Dᵀ`. Each row of S is
non-zero on about 1/32 of its side, and all rows but the outermost hold the same weights:
so the k-th rows of all bands are added up at once, from bytes to float32, which touches
each pixel once or twice; luma, linear too, is taken of the 64 rows that are left. The symmetries of
the picture are sign changes and a transpose of the same 16×16 block.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hashing.signals import HASH_BYTES, Codes

Picture = NDArray[np.uint8]  # (h, w) grey or (h, w, 3) RGB
Plane = NDArray[np.float32]
Size = tuple[int, int]  # height and width

PLANE_SIDE = 64
BLOCK_SIDE = 16
MIN_SIDE = 5  # the reference answers "quality 0" below this
PARTS = 8  # the picture is cut into so many parts a side, to tell which are bare
NOISE = 4.0  # of a coefficient, in grey levels of the orthonormal DCT: what strong JPEG and grain change
FLAT_LEVELS = 8.0  # a part of the plane that spans fewer grey levels is bare
_OUT_A_SLICE = 16
_LOWER_MEDIAN = BLOCK_SIDE * BLOCK_SIDE // 2 - 1  # the reference's Torben median of 256 values


@dataclass(frozen=True, slots=True)
class PdqHash:
    """`codes` is uint8 (8, 32): row i is the hash under TRANSFORMS[i]. `plane` is (64, 64) luma.

    `unsure` says how many bits of the hash hang on noise, 0 to 255 (see `unsure_bits`), and `bare`
    how many of 64 parts of the picture have nothing in them.
    """

    codes: Codes
    quality: int
    plane: Plane
    unsure: int
    bare: int


def _windows(at: NDArray[np.int64], side: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return [start, stop) of the box filter's window around each place, clipped to the side."""
    window = (side + 2 * PLANE_SIDE - 1) // (2 * PLANE_SIDE)
    ahead = (window + 2) // 2
    return np.maximum(at - (window - ahead), 0), np.minimum(at + ahead, side)


def _band(start: int, stop: int, side: int) -> tuple[int, NDArray[np.float64]]:
    """Return where one row of the filter begins, and its weights from there on."""
    inner_start, inner_stop = _windows(np.arange(start, stop), side)
    first, length = int(inner_start[0]), int(inner_stop[-1] - inner_start[0]) + 1
    share = 1.0 / (inner_stop - inner_start) / (stop - start)
    steps = np.bincount(inner_start - first, share, length) - np.bincount(inner_stop - first, share, length)
    weights: NDArray[np.float64] = np.cumsum(steps[:-1])
    return first, weights


def filter_matrix(side: int) -> NDArray[np.float64]:
    """Return (64, side): two box filters and the sampling of one side, as one matrix.

    Follows jaroszFilterFloat and decimateFloat of pdq/cpp/downscaling/downscaling.cpp.
    """
    centre = ((np.arange(PLANE_SIDE) + 0.5) * side / PLANE_SIDE).astype(np.int64)
    matrix = np.zeros((PLANE_SIDE, side))
    for row, (start, stop) in enumerate(zip(*_windows(centre, side), strict=True)):
        first, weights = _band(int(start), int(stop), side)
        matrix[row, first : first + len(weights)] = weights
    return matrix


@dataclass(frozen=True, slots=True)
class _Bands:
    """How the rows of a picture become the 64 of the plane.

    Row i of the plane is the weighted mean of the picture's rows from `first[i]` on. Those of `inner`
    have the same weights: `shares[k]` is that of their k-th row in the mean of the first k + 1. The
    others, at most three, are (row, weights).
    """

    first: NDArray[np.int64]
    inner: slice
    shares: tuple[float, ...]
    outer: tuple[tuple[int, Plane], ...]


@lru_cache(maxsize=256)
def _bands(side: int) -> _Bands:
    matrix = filter_matrix(side)
    first, lengths = (matrix != 0).argmax(axis=1), np.count_nonzero(matrix, axis=1)
    rows = [matrix[row, start : start + length] for row, (start, length) in enumerate(zip(first, lengths, strict=True))]
    usual = rows[PLANE_SIDE // 2]
    alike = [len(row) == len(usual) and np.allclose(row, usual, rtol=1e-9) for row in rows]
    inner = slice(alike.index(True), PLANE_SIDE - alike[::-1].index(True))
    outer = [(row, rows[row]) for row in range(PLANE_SIDE) if not inner.start <= row < inner.stop]
    shares = tuple(float(share) for share in usual / np.cumsum(usual))
    return _Bands(first, inner, shares, tuple((row, weights.astype(np.float32)) for row, weights in outer))


@lru_cache(maxsize=256)
def _slices(side: int, shrunk: int) -> tuple[tuple[slice, slice, Plane], ...]:
    """Return parts of the plane's side, the part of the picture's that each comes from, and the weights, (out, source).

    One pixel of a `shrunk` picture is the mean of so many, and has their weights together.
    """
    matrix = np.pad(filter_matrix(side), ((0, 0), (0, -side % shrunk)))
    matrix = matrix.reshape(PLANE_SIDE, -1, shrunk).sum(axis=2)
    found = []
    for start in range(0, PLANE_SIDE, _OUT_A_SLICE):
        out = slice(start, start + _OUT_A_SLICE)
        used = np.flatnonzero(matrix[out].any(axis=0))
        source = slice(int(used[0]), int(used[-1]) + 1)
        found.append((out, source, np.ascontiguousarray(matrix[out, source], np.float32)))
    return tuple(found)


def _dct_matrix() -> NDArray[np.float64]:
    order = np.arange(1, BLOCK_SIDE + 1)[:, None]
    place = 2 * np.arange(PLANE_SIDE)[None, :] + 1
    matrix: NDArray[np.float64] = np.cos(np.pi / 2 / PLANE_SIDE * order * place)
    matrix *= np.sqrt(2.0 / PLANE_SIDE)
    return matrix


_DCT = _dct_matrix()
_ODD = np.where(np.arange(BLOCK_SIDE) % 2 == 0, -1.0, 1.0)  # order k is mirrored to (-1)^k
_ROWS, _COLUMNS = _ODD[:, None], _ODD[None, :]


def _tall(rows: NDArray[Any]) -> Plane:
    """Return rows (h, n) filtered down to 64, (64, n)."""
    bands, tall = _bands(len(rows)), np.empty((PLANE_SIDE, rows[0].size), np.float32)
    first, means = bands.first[bands.inner], tall[bands.inner]
    taken = np.empty(means.shape, rows.dtype)
    for step, share in enumerate(bands.shares):
        np.take(rows, first + step, axis=0, out=taken, mode="clip")  # all lie inside; "raise" would copy them again
        if step:
            cv2.accumulateWeighted(taken, means, share)
        else:
            means[:] = taken
    for row, weights in bands.outer:
        start = bands.first[row]
        tall[row] = weights @ rows[start : start + len(weights)].astype(np.float32)
    return tall


def _tall_of_shrunk(rows: NDArray[Any], height: int, shrunk: int) -> Plane:
    """Return the same of rows that each stand for `shrunk` of a picture of this height; weights are not alike there."""
    tall = np.empty((PLANE_SIDE, rows.shape[1]), np.float32)
    for out, source, weights in _slices(height, shrunk):
        tall[out] = weights @ rows[source].astype(np.float32)
    return tall


def downsample(picture: Picture, full: Size | None = None) -> Plane:
    """Return the filtered (64, 64) float32 luma plane (Rec. 601) of a picture, as the reference does.

    `full` is the size of the picture that this one was shrunk from by a whole number, if it was.
    """
    height, width = picture.shape[:2] if full is None else full
    shrunk = -(-height // len(picture))
    rows = picture.reshape(len(picture), -1)
    tall = _tall(rows) if shrunk == 1 else _tall_of_shrunk(rows, height, shrunk)
    if picture.ndim == 3:
        tall = np.asarray(cv2.cvtColor(tall.reshape(PLANE_SIDE, -1, 3), cv2.COLOR_RGB2GRAY), np.float32)
    plane = np.empty((PLANE_SIDE, PLANE_SIDE), np.float32)
    for out, source, weights in _slices(width, shrunk):
        plane[:, out] = tall[:, source] @ weights.T
    return plane


def quality_of(plane: Plane) -> int:
    """Return the reference's quality, 0 to 100: the sum of the plane's gradients that are not small."""
    down = ((plane[:-1] - plane[1:]) * np.float32(100) / np.float32(255)).astype(np.int64)
    right = ((plane[:, :-1] - plane[:, 1:]) * np.float32(100) / np.float32(255)).astype(np.int64)
    return min(int(np.abs(down).sum() + np.abs(right).sum()) // 90, 100)


def unsure_bits(block: NDArray[np.float64]) -> int:
    """Return how many of the 256 bits would turn by noise: coefficients next to the median. At most 255.

    A picture that varies in one direction only has nothing in any of the block; one of few
    repeating shapes, in half of it: bars, ramps, checkerboards, grids, rings.
    """
    flat = block.ravel()
    median = np.partition(flat, _LOWER_MEDIAN)[_LOWER_MEDIAN]
    return min(int((np.abs(flat - median) <= NOISE).sum()), 255)


def bare_parts(plane: Plane) -> int:
    """Return how many of the plane's 64 parts are flat: nearly all, where there is only a caption or a logo."""
    rows = plane.reshape(PARTS, PLANE_SIDE // PARTS, PLANE_SIDE)  # two steps: numpy is slow over two axes at once
    most = rows.max(axis=1).reshape(PARTS, PARTS, -1).max(axis=2)
    least = rows.min(axis=1).reshape(PARTS, PARTS, -1).min(axis=2)
    return int((most - least < FLAT_LEVELS).sum())


def symmetries(block: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (8, 16, 16): the DCT block of the picture under each of TRANSFORMS, in that order."""
    turned = block.T
    return np.stack(
        [
            block,
            block * _COLUMNS,
            block * _ROWS,
            turned * _COLUMNS,
            block * _ROWS * _COLUMNS,
            turned * _ROWS,
            turned,
            turned * _ROWS * _COLUMNS,
        ]
    )


def bits_of(blocks: NDArray[np.float64]) -> Codes:
    """Return uint8 (n, 32) from blocks (n, 16, 16): above the median or not, last coefficient first."""
    flat = blocks.reshape(len(blocks), -1)
    median = np.partition(flat, _LOWER_MEDIAN, axis=1)[:, _LOWER_MEDIAN, None]
    return np.packbits((flat > median)[:, ::-1], axis=1)


def pdq(picture: Picture, full: Size | None = None) -> PdqHash:
    """Hash one picture, uint8 (h, w) or (h, w, 3) RGB, on all of its pixels; `full` as for `downsample`."""
    if min(picture.shape[:2]) < MIN_SIDE:
        blank = np.zeros((PLANE_SIDE, PLANE_SIDE), np.float32)
        return PdqHash(np.zeros((8, HASH_BYTES), np.uint8), 0, blank, 255, PARTS * PARTS)
    return pdq_of_plane(downsample(picture, full))


def pdq_of_plane(plane: Plane) -> PdqHash:
    """Hash an already filtered (64, 64) luma plane."""
    block = _DCT @ plane @ _DCT.T
    return PdqHash(bits_of(symmetries(block)), quality_of(plane), plane, unsure_bits(block), bare_parts(plane))


def pdq_512(picture: Picture) -> PdqHash:
    """Hash as the C++ and WebAssembly tools do: first scale to 512×512 if a side is longer.

    They use the nearest pixel (CImg::resize's default), at floor(i · side / 512).
    """
    height, width = picture.shape[:2]
    if max(height, width) > 512:
        rows, columns = np.arange(512) * height // 512, np.arange(512) * width // 512
        picture = np.ascontiguousarray(picture[rows[:, None], columns[None, :]])
    return pdq(picture)
