"""One picture -> a sketch: local descriptors with their places, and a grid of edge directions.

A whole-frame hash loses a copy that was cropped, turned by a few degrees, framed by an
app or set into another picture; local descriptors find it. Rules of this file: pure
arithmetic on arrays that we own; what is kept of a picture is binary (descriptor bits,
three-valued edge directions), never a grey level.

Descriptors: ORB (Rublee, Rabaud, Konolige, Bradski: "ORB: an efficient alternative to
SIFT or SURF", ICCV 2011), 256 bits each, chosen evenly over the picture, since a caption
would otherwise take them all. Geometry: RANSAC (Fischler and Bolles 1981) for a
similarity or affine map, refined as a homography. Then the dense check: the query is laid
over the reference by that map and the direction of every edge is compared, block by
block. Two pictures of one room share the wall, but not what stands before it.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hashing.edges import BLOCKS, BLOCKS_A_SIDE, NOT_SHOWN, Floats, Map, Plane, compare, edges_of, pack_edges
from hashing.media import Frame
from hashing.signals import (
    GRID_BYTES,
    HASH_BITS,
    KEYPOINT_DTYPE,
    MAX_KEYPOINTS,
    OCTAVES,
    SKETCH_DTYPE,
    Sketches,
)

PLANE_SIDE = 512  # longest side of the plane that is described
ENROLL_KEYPOINTS, QUERY_KEYPOINTS = 300, MAX_KEYPOINTS

EVIDENCE_DTYPE = np.dtype(
    [
        ("inliers", "<u2"),  # one to one, counted once a place
        ("spread", "<u2"),  # of 64 parts of the reference, how many have an inlier
        ("ratio", "<f4"),  # inliers a keypoint in the overlap
        ("area", "<f4"),  # share of the reference that the query shows
        ("cover", "<f4"),  # share of the query that shows it
        ("turn_deg", "<f4"),  # by how much the copy is turned, clockwise (a mirrored one: once it is turned over)
        ("agreement", "i1", (BLOCKS,)),  # of the edges of each block of the reference, in hundredths, or NOT_SHOWN
    ]
)
EVIDENCE_RANGE = {
    "inliers": (0, MAX_KEYPOINTS), "spread": (0, BLOCKS), "ratio": (0, 1), "area": (0, 1), "cover": (0, 1),
    "turn_deg": (-180, 180), "agreement": (NOT_SHOWN, 100),
}  # fmt: skip
# A query's sketch, by its number, and a reference's that it may show.
PAIR_DTYPE = np.dtype([("query", "<u4"), ("reference", SKETCH_DTYPE)])
Pairs = NDArray[np.void]
Evidence = NDArray[np.void]
Places = NDArray[np.int64]

_PLACE_STEPS = 64
_BANDS, _OCTAVES_A_BAND = 3, 3  # of scale: a copy may be much smaller or larger
_CORNERS = 10_000  # to choose from; of few, a caption has the most
_MAX_MATCH_BITS = 64
_REPROJECTION_PX = 8.0
_MIN_SCALE, _MAX_SCALE, _MAX_SHEAR = 0.08, 12.0, 2.2
_MIN_PAIRS = 5
_MIN_PLACED = 6  # inliers at different places; fewer fit any two pictures


def plane_of(frame: Frame) -> Plane:
    """Return the grey plane (h, w) that is described: PLANE_SIDE at its longest side."""
    pixels = frame.pixels
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if pixels.ndim == 3 else frame.grey8()
    height, width = grey.shape
    scale = PLANE_SIDE / max(height, width)
    size = max(16, round(width * scale)), max(16, round(height * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(grey, size, interpolation=how), np.uint8)


def _evenly(places: Floats, band: Places, strength: Floats, shape: tuple[int, int], count: int) -> NDArray[np.int64]:
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
    rank = np.arange(len(order)) - start
    return order[np.lexsort((-strength[order], rank))][:count]


def _orb() -> Any:
    make: Any = cv2.ORB.create
    return make(nfeatures=_CORNERS, scaleFactor=1.2, nlevels=OCTAVES, edgeThreshold=15, patchSize=31, fastThreshold=7)


def _points(found: Sequence[Any]) -> Floats:
    places: Any = cv2.KeyPoint.convert(found)
    return np.asarray(places, np.float32).reshape(-1, 2)


def detect(plane: Plane, count: int) -> list[Any]:
    """Return up to `count` corners (cv2.KeyPoint) of a uint8 plane, spread over it; `class_id` is their rank."""
    found: Any = _orb().detect(plane, None)
    strength = np.array([point.response for point in found], np.float32)
    band = np.array([point.octave for point in found], np.int64) // _OCTAVES_A_BAND
    chosen = [found[number] for number in _evenly(_points(found), band, strength, plane.shape, count).tolist()]
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
    """Return one row of SKETCH_DTYPE for a plane."""
    return _sketch(plane, detect(plane, count))


def sketch_both(plane: Plane, count: int) -> Sketches:
    """Return two rows: of a plane, and of the plane turned over."""
    corners = detect(plane, count)
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


def _places(points: NDArray[np.void]) -> Floats:
    return np.stack([points["x"], points["y"]], axis=1).astype(np.float32) / np.float32(_PLACE_STEPS)


def _signs(points: NDArray[np.void]) -> Floats:
    """Return descriptors as -1 and 1, (n, 256): a product of two of them counts the bits that agree."""
    return np.unpackbits(np.ascontiguousarray(points["code"]), axis=1).astype(np.float32) * 2 - 1


def _pairs(query: NDArray[np.void], reference: NDArray[np.void]) -> tuple[Floats, Floats]:
    """Return places of descriptors that are each other's nearest, (n, 2) in the query and the reference.

    One matrix product is several times faster than OpenCV's brute-force matcher.
    """
    alike = _signs(query) @ _signs(reference).T
    ours, theirs = alike.argmax(axis=1), alike.argmax(axis=0)
    rows = np.flatnonzero(theirs[ours] == np.arange(len(query)))
    rows = rows[alike[rows, ours[rows]] >= HASH_BITS - 2 * _MAX_MATCH_BITS]
    return _places(query[rows]), _places(reference[ours[rows]])


def _plausible(affine: Any) -> bool:
    """Refuse what no copy looks like; a mirrored map too, since descriptors do not survive a mirror."""
    if affine is None or not np.isfinite(affine).all() or np.linalg.det(affine[:, :2]) <= 0:
        return False
    large, small = np.linalg.svd(affine[:, :2], compute_uv=False)
    return bool(small > _MIN_SCALE and large < _MAX_SCALE and large / small < _MAX_SHEAR)


def _map(source: Floats, target: Floats) -> tuple[Map, NDArray[np.bool_]] | None:
    """Return the 3×3 map from query to reference and which pairs agree with it; the simpler map if in doubt."""
    options: Any = {
        "method": cv2.RANSAC, "ransacReprojThreshold": _REPROJECTION_PX, "maxIters": 2000, "confidence": 0.995,
    }  # fmt: skip
    found: Any = cv2.estimateAffinePartial2D(source, target, **options)
    wider: Any = cv2.estimateAffine2D(source, target, **options)
    (best, inside), (wide, wide_inside) = found, wider
    if _plausible(wide) and int(wide_inside.sum()) >= (3 + int(inside.sum()) if inside is not None else 3):
        best, inside = wide, wide_inside
    if not _plausible(best):
        return None
    agree = inside.ravel().astype(bool)
    matrix = np.vstack([best, [0.0, 0.0, 1.0]])
    if agree.sum() >= 2 * _MIN_PAIRS:
        finer: Any = cv2.findHomography(source[agree], target[agree], cv2.RANSAC, 0.75 * _REPROJECTION_PX)[0]
        if finer is not None and np.isfinite(finer).all() and abs(np.linalg.det(finer)) > 1e-9:
            matrix = finer
    return matrix, agree


def _inside(places: Floats, matrix: Map, width: int, height: int) -> int:
    mapped = cv2.perspectiveTransform(places[None], matrix)[0]
    return int(((mapped > 0) & (mapped < [width, height])).all(axis=1).sum())


def _once(places: NDArray[Any], step: float) -> int:
    return len(np.unique((places // step).astype(np.int64), axis=0))


def place(query: np.void, reference: np.void) -> Map | None:
    """Return the map from places in one sketch's plane to places in another's; None if too few keypoints agree."""
    points, known = query["keypoints"][: query["count"]], reference["keypoints"][: reference["count"]]
    if min(len(points), len(known)) < _MIN_PAIRS:
        return None
    source, target = _pairs(points, known)
    found = _map(source, target) if len(source) >= _MIN_PAIRS else None
    if found is None or min(_once(target[found[1]], 12.0), _once(source[found[1]], 6.0)) < _MIN_PLACED:
        return None
    return found[0]


def no_evidence() -> NDArray[np.void]:
    """Return the row of EVIDENCE_DTYPE of a picture that shows nothing of a reference."""
    evidence = np.zeros(1, EVIDENCE_DTYPE)
    evidence["agreement"] = NOT_SHOWN
    return evidence


def confirm(plane: Plane, query: np.void, reference: np.void) -> NDArray[np.void]:
    """Return one row of EVIDENCE_DTYPE: how well a picture (its plane and sketch) shows a reference's sketch."""
    evidence = no_evidence()
    points, known = query["keypoints"][: query["count"]], reference["keypoints"][: reference["count"]]
    width, height = int(reference["width"]), int(reference["height"])
    if min(len(points), len(known)) < _MIN_PAIRS or not width or not height:
        return evidence
    source, target = _pairs(points, known)
    found = _map(source, target) if len(source) >= _MIN_PAIRS else None
    if found is None:
        return evidence
    matrix, agree = found
    inliers = min(_once(target[agree], 12.0), _once(source[agree], 6.0))
    ours = _inside(_places(points), matrix, width, height)
    theirs = _inside(_places(known), np.linalg.inv(matrix), int(query["width"]), int(query["height"]))
    evidence["inliers"] = inliers
    evidence["spread"] = min(_once(target[agree] * BLOCKS_A_SIDE / np.array([width, height], np.float32), 1.0), BLOCKS)
    evidence["ratio"] = min(inliers / max(min(ours, theirs), 1), 1.0)
    evidence["turn_deg"] = -np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))
    evidence["agreement"], area = compare(plane, matrix, reference)
    evidence["area"] = area
    corners = np.array([[[0, 0], [width, 0], [width, height], [0, height]]], np.float32)
    laid = float(cv2.contourArea(cv2.perspectiveTransform(corners, np.linalg.inv(matrix))[0]))
    evidence["cover"] = min(area * laid / plane.size, 1.0) if np.isfinite(laid) else 0.0
    return evidence


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
