"""Does a picture show what a sketch was taken of? The check of one candidate, twice: by descriptors, then by edges.

Geometry: descriptors that are each other's nearest, and RANSAC (Fischler and Bolles 1981)
for a similarity or affine map under which they agree, refined as a homography. Two
sketches of one picture at different scales, or turned against each other, share few
descriptors. So the picture is laid straight by the first map, as the reference would show
it, and looked at again at one scale: a small picture in a picture has all of its details
then, and a stranger gains nothing.

Then the dense check: the direction of every edge is compared, block by block. Two pictures
of one room share the wall, but not what stands before it. Rules of this file: pure
arithmetic on arrays that we own.
"""

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hashing.edges import BLOCKS, BLOCKS_A_SIDE, NOT_SHOWN, Floats, Map, Plane, compare, scaled, warped
from hashing.keypoints import describe, detect, places
from hashing.signals import HASH_BITS, MAX_KEYPOINTS, SKETCH_DTYPE

EVIDENCE_DTYPE = np.dtype(
    [
        ("inliers", "<u2"),  # one to one, counted once a place
        ("spread", "<u2"),  # of 64 parts of the reference, how many have an inlier
        ("area", "<f4"),  # share of the reference that the query shows, less what is covered there
        ("cover", "<f4"),  # share of the query that shows it
        ("turn_deg", "<f4"),  # by how much the copy is turned, clockwise (a mirrored one: once it is turned over)
        ("agreement", "i1", (BLOCKS,)),  # of the edges of each block of the reference, in hundredths, or NOT_SHOWN
    ]
)
EVIDENCE_RANGE = {
    "inliers": (0, MAX_KEYPOINTS), "spread": (0, BLOCKS), "area": (0, 1), "cover": (0, 1),
    "turn_deg": (-180, 180), "agreement": (NOT_SHOWN, 100),
}  # fmt: skip
# A query's sketch, by its number, and a reference's that it may show.
PAIR_DTYPE = np.dtype([("query", "<u4"), ("reference", SKETCH_DTYPE)])
Pairs = NDArray[np.void]
Evidence = NDArray[np.void]

_MAX_MATCH_BITS = 64
_REPROJECTION_PX = 8.0
_MIN_SCALE, _MAX_SCALE, _MAX_SHEAR = 0.08, 12.0, 2.2
_MIN_PAIRS = 5
_MIN_PLACED = 6  # inliers at different places; fewer fit any two pictures
_SURE_INLIERS = 40  # of more, a second look finds nothing new
_HOPEFUL = 0.2  # mean agreement of edges under the first map; of less, a second look is wasted on a stranger
_FINER, _MARGIN_PX = (
    2,
    7,
)  # the mean of finer pixels does not flicker; no corners are taken at the edge of what is shown


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
    return places(query[rows]), places(reference[ours[rows]])


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


def _once(places: NDArray[Any], step: float) -> int:
    return len(np.unique((places // step).astype(np.int64), axis=0))


@dataclass(frozen=True, slots=True)
class _Fit:
    """A map from places in a picture to places in a reference, and how descriptors agree under it."""

    matrix: Map
    inliers: int
    spread: int


def _fit(points: NDArray[np.void], reference: np.void) -> _Fit | None:
    """Fit keypoints of a picture to a reference's; None where too few agree."""
    known = reference["keypoints"][: reference["count"]]
    if min(len(points), len(known)) < _MIN_PAIRS or not reference["width"] or not reference["height"]:
        return None
    source, target = _pairs(points, known)
    found = _map(source, target) if len(source) >= _MIN_PAIRS else None
    if found is None:
        return None
    matrix, agree = found
    side = np.array([reference["width"], reference["height"]], np.float32) / BLOCKS_A_SIDE
    spread = min(_once(target[agree] / side, 1.0), BLOCKS)
    return _Fit(matrix, min(_once(target[agree], 12.0), _once(source[agree], 6.0)), spread)


def _first(query: np.void, reference: np.void) -> _Fit | None:
    return _fit(query["keypoints"][: query["count"]], reference)


def _straight(plane: Plane, matrix: Map, width: int, height: int) -> tuple[Plane, Plane]:
    """Return a picture as the reference would show it, and where it shows anything (0 or 255), each (height, width)."""
    straight = warped(plane, scaled(_FINER, _FINER) @ matrix, (width, height), _FINER)
    shown = cv2.warpPerspective(np.full(plane.shape, 255, np.uint8), matrix, (width, height))
    shown = cv2.erode(shown, np.ones((_MARGIN_PX, _MARGIN_PX), np.uint8), borderValue=0)
    return straight, np.asarray(shown)


def _again(plane: Plane, first: _Fit, reference: np.void) -> _Fit | None:
    """Look again at a picture that was laid straight by a first map; None if that is no better."""
    size = int(reference["width"]), int(reference["height"])
    straight, shown = _straight(plane, first.matrix, *size)
    second = _fit(describe(straight, detect(straight, MAX_KEYPOINTS, shown)), reference)
    if second is None or second.inliers < first.inliers:
        return None
    return replace(second, matrix=second.matrix @ first.matrix)


def place(query: np.void, reference: np.void) -> Map | None:
    """Return the map from places in one sketch's plane to places in another's; None if too few keypoints agree."""
    found = _first(query, reference)
    return None if found is None or found.inliers < _MIN_PLACED else found.matrix


def no_evidence() -> Evidence:
    """Return the row of EVIDENCE_DTYPE of a picture that shows nothing of a reference."""
    evidence = np.zeros(1, EVIDENCE_DTYPE)
    evidence["agreement"] = NOT_SHOWN
    return evidence


def confirm(plane: Plane, query: np.void, reference: np.void) -> Evidence:
    """Return one row of EVIDENCE_DTYPE: how well a picture (its plane and sketch) shows a reference's sketch."""
    first = _first(query, reference)
    if first is None:
        return no_evidence()
    evidence = _evidence(plane, first, reference)
    if not _MIN_PAIRS <= first.inliers <= _SURE_INLIERS or _mean_agreement(evidence) < _HOPEFUL:
        return evidence
    second = _again(plane, first, reference)
    return evidence if second is None else _evidence(plane, second, reference)


def _mean_agreement(evidence: Evidence) -> float:
    shown = evidence["agreement"] != NOT_SHOWN
    return float(evidence["agreement"][shown].mean()) / 100 if shown.any() else -1.0


def _evidence(plane: Plane, fit: _Fit, reference: np.void) -> Evidence:
    evidence = no_evidence()
    evidence["inliers"], evidence["spread"] = fit.inliers, fit.spread
    evidence["turn_deg"] = -np.degrees(np.arctan2(fit.matrix[1, 0], fit.matrix[0, 0]))
    evidence["agreement"], area, hidden = compare(plane, fit.matrix, reference)
    evidence["area"] = area * (1.0 - hidden)
    evidence["cover"] = _cover(plane, fit.matrix, reference, area)
    return evidence


def _cover(plane: Plane, matrix: Map, reference: np.void, area: float) -> float:
    """Return which share of the picture shows the reference, of which it shows `area`."""
    width, height = int(reference["width"]), int(reference["height"])
    corners = np.array([[[0, 0], [width, 0], [width, height], [0, height]]], np.float32)
    laid = float(cv2.contourArea(cv2.perspectiveTransform(corners, np.linalg.inv(matrix))[0]))
    return min(area * laid / plane.size, 1.0) if np.isfinite(laid) else 0.0
