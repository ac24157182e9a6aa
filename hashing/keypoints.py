"""One picture -> a sketch: local descriptors with their places, and a grid of edge directions.

A whole-frame hash loses a copy that was cropped, turned by a few degrees, framed by an
app or set into another picture; local descriptors find it. Rules of this file: pure
arithmetic on arrays that we own; what is kept of a picture is binary (descriptor bits,
three-valued edge directions), never a grey level.

Descriptors: ORB (Rublee, Rabaud, Konolige, Bradski: "ORB: an efficient alternative to
SIFT or SURF", ICCV 2011), 256 bits each, chosen evenly over the picture, since a caption
would otherwise take them all. `evidence` tells from two sketches
whether one picture shows the other.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hashing.edges import BLOCKS_A_SIDE, Floats, Plane, edges_of, pack_edges
from hashing.media import Frame
from hashing.signals import (
    GRID_BYTES,
    KEYPOINT_DTYPE,
    MAX_KEYPOINTS,
    OCTAVES,
    SCALE_STEP,
    SKETCH_DTYPE,
    Sketches,
)

PLANE_SIDE = 512  # longest side of the plane that is described
ENROLL_KEYPOINTS, QUERY_KEYPOINTS = 300, MAX_KEYPOINTS

Places = NDArray[np.int64]

_PLACE_STEPS = 64
_BANDS, _OCTAVES_A_BAND = 3, 3  # of scale: a copy may be much smaller or larger
# How many corners each band gets, the finest first. Copies are made smaller more than larger: what is coarse in the
# reference is fine in a small picture within a picture.
Shares = tuple[int, int, int]
_ALIKE: Shares = (1, 1, 1)
_REFERENCE: Shares = (1, 1, 2)
_QUERY: Shares = (3, 1, 1)
_CORNERS = 10_000  # to choose from; of few, a caption has the most


def plane_of(frame: Frame) -> Plane:
    """Return the grey plane (h, w) that is described: PLANE_SIDE at its longest side.

    By means of whole squares of pixels, then between those: ten times faster than the mean of parts of pixels.
    """
    pixels = frame.pixels
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if pixels.ndim == 3 else frame.grey8()
    height, width = grey.shape
    scale = PLANE_SIDE / max(height, width)
    size = max(16, round(width * scale)), max(16, round(height * scale))
    if (square := min(int(1 / scale), height, width)) > 1:
        down, across = height // square, width // square
        whole = grey[: down * square, : across * square]
        grey = cv2.resize(whole, (across, down), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def _evenly(
    places: Floats, band: Places, strength: Floats, shape: tuple[int, int], count: int, shares: Shares
) -> NDArray[np.int64]:
    """Choose up to `count`: the strongest of each part and scale of the picture, then the second strongest, …"""
    height, width = shape
    down, across = (
        (places[:, 1] * BLOCKS_A_SIDE).astype(np.int64) // height,
        (places[:, 0] * BLOCKS_A_SIDE).astype(np.int64) // width,
    )
    part = (down * BLOCKS_A_SIDE + across) * _BANDS + band
    order = np.lexsort((-strength, part))
    first = np.r_[True, part[order][1:] != part[order][:-1]]
    start = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    rank = (np.arange(len(order)) - start + 0.5) / np.array(shares)[band[order]]
    return order[np.lexsort((-strength[order], rank))][:count]


def _orb() -> Any:
    make: Any = cv2.ORB.create
    return make(
        nfeatures=_CORNERS, scaleFactor=SCALE_STEP, nlevels=OCTAVES, edgeThreshold=15, patchSize=31, fastThreshold=7
    )


def _points(found: Sequence[Any]) -> Floats:
    places: Any = cv2.KeyPoint.convert(found)
    return np.asarray(places, np.float32).reshape(-1, 2)


def detect(plane: Plane, count: int, shown: Plane | None = None, shares: Shares = _ALIKE) -> list[Any]:
    """Return up to `count` corners (cv2.KeyPoint) of a uint8 plane, spread over it; `class_id` is their rank.

    Where `shown` (h, w) is 0 none is looked for.
    """
    found: Any = _orb().detect(plane, shown)
    strength = np.array([point.response for point in found], np.float32)
    band = np.array([point.octave for point in found], np.int64) // _OCTAVES_A_BAND
    chosen = [found[number] for number in _evenly(_points(found), band, strength, plane.shape, count, shares).tolist()]
    for rank, corner in enumerate(chosen):
        corner.class_id = rank
    return chosen


def _over(corner: Any, width: int) -> Any:
    """Return a corner where it lies once a plane of this width is turned over: no second look is needed."""
    x, y = corner.pt
    angle = (180.0 - corner.angle) % 360.0
    return cv2.KeyPoint(width - 1 - x, y, corner.size, angle, corner.response, corner.octave, corner.class_id)


def describe(plane: Plane, corners: Sequence[Any]) -> NDArray[np.void]:
    """Return the keypoints (KEYPOINT_DTYPE) of a uint8 plane at these corners, in order of their ranks."""
    kept, codes = _orb().compute(plane, corners)
    keypoints = np.zeros(len(kept), KEYPOINT_DTYPE)
    if not len(kept):
        return keypoints
    keypoints["x"], keypoints["y"] = _points(kept).T * _PLACE_STEPS
    keypoints["angle"] = np.array([corner.angle for corner in kept]) * (256 / 360) % 256
    keypoints["octave"] = [corner.octave for corner in kept]
    keypoints["code"] = codes
    return keypoints[np.argsort([corner.class_id for corner in kept])]


def turned_over(plane: Plane) -> Plane:
    """Return a plane as a mirror shows it."""
    return np.ascontiguousarray(plane[:, ::-1])


def sketch(plane: Plane, count: int) -> Sketches:
    """Return one row of SKETCH_DTYPE for a plane, as a reference has it."""
    return _sketch(plane, detect(plane, count, shares=_REFERENCE))


def sketch_both(plane: Plane, count: int) -> Sketches:
    """Return two rows for a query: of a plane, and of the plane turned over."""
    corners = detect(plane, count, shares=_QUERY)
    over = [_over(corner, plane.shape[1]) for corner in corners]
    return np.concatenate([_sketch(plane, corners), _sketch(turned_over(plane), over, mirrored=True)])


def _sketch(plane: Plane, corners: Sequence[Any], *, mirrored: bool = False) -> Sketches:
    row = np.zeros(1, SKETCH_DTYPE)
    points = describe(plane, corners)
    row["timestamp_s"] = row["until_s"] = np.nan
    row["height"], row["width"] = plane.shape
    row["count"], row["mirrored"] = len(points), mirrored
    row["keypoints"][0, : len(points)] = points
    row["grid"] = pack_edges(edges_of(plane))
    return row


def places(points: NDArray[np.void]) -> Floats:
    """Return where keypoints lie in their plane, (n, 2), in its pixels."""
    return np.stack([points["x"], points["y"]], axis=1).astype(np.float32) / np.float32(_PLACE_STEPS)


def pack_sketch(row: np.void) -> bytes:
    """Return a sketch as it is kept: no longer than its keypoints need."""
    head = np.array([row["width"], row["height"], row["count"]], "<u2")
    parts: list[bytes] = [head.tobytes(), row["grid"].tobytes(), row["keypoints"][: row["count"]].tobytes()]
    return b"".join(parts)


def unpack_sketch(data: bytes, timestamp_s: float, until_s: float) -> Sketches:
    """Return one row of SKETCH_DTYPE from what `pack_sketch` made; ValueError if it is not that."""
    row = np.zeros(1, SKETCH_DTYPE)
    width, height, count = (int(n) for n in np.frombuffer(data[:6], "<u2"))
    if not 0 < width <= PLANE_SIDE or not 0 < height <= PLANE_SIDE or count > MAX_KEYPOINTS:
        raise ValueError("not a sketch")
    if len(data) != 6 + GRID_BYTES + count * KEYPOINT_DTYPE.itemsize:
        raise ValueError("not a whole sketch")
    row["width"], row["height"], row["count"] = width, height, count
    points = np.frombuffer(data[6 + GRID_BYTES :], KEYPOINT_DTYPE)
    row["timestamp_s"], row["until_s"] = timestamp_s, until_s
    row["grid"] = np.frombuffer(data[6 : 6 + GRID_BYTES], np.uint8)
    row["keypoints"][0, :count] = points
    return row
