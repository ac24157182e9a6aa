"""Content and its lawful companion: how they differ, and which of the two a picture shows.

A face swap leaves most of a frame as it was, so hashes and keypoints of the deepfake find
the original too. What tells them apart are the edges of the region that was replaced. At
enrolment the companion is laid over each sketch of the content, and the directions of its
edges there are kept (`contrasts`): a grid like the sketch's own. At a query the picture is
laid over the sketch in the same way, and its slopes are compared with both grids in the
cells where these differ, and nowhere else (`tell_apart`): a matched filter, which needs no
threshold on the query's side, so that blurred and pale copies count as well.
"""

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from hashing.edges import Map, Plane, edges_of, laid, pack_edges, scaled, sharp, unpack_edges
from hashing.evidence import place
from hashing.keypoints import sketch
from hashing.signals import GRID_BYTES, GRID_SIDE, MAX_KEYPOINTS, SKETCH_DTYPE, Sketches

MAX_CONTRASTS = 512  # sketches that a companion is laid over in one go: a plane is kept for each

# How a companion looks where a sketch was taken; `found` is 0 if it does not show that.
CONTRAST_DTYPE = np.dtype([("found", "u1"), ("grid", "u1", (GRID_BYTES,))])
# A sketch of the query, by its number, one of a content, and its companion's grid there.
TELL_DTYPE = np.dtype([("query", "<u4"), ("reference", SKETCH_DTYPE), ("lawful", "u1", (GRID_BYTES,))])
TOLD_DTYPE = np.dtype(
    [
        ("placed", "u1"),  # whether the query could be laid over the reference
        ("cells", "<u2"),  # of 1024, how many the query shows where content and companion differ
        ("like_reference", "<f4"),  # agreement there with the content, -1 to 1
        ("like_lawful", "<f4"),  # and with the companion
        ("common", "<f4"),  # agreement where the two are alike
        ("region", "u1", (4,)),  # left, top, right, bottom of these cells, 0 to 32
    ]
)
TOLD_RANGE = {
    "placed": (0, 1), "cells": (0, GRID_SIDE * GRID_SIDE), "like_reference": (-1, 1), "like_lawful": (-1, 1),
    "common": (-1, 1), "region": (0, GRID_SIDE),
}  # fmt: skip
Contrasts = NDArray[np.void]
Tells = NDArray[np.void]
Told = NDArray[np.void]
Grid = NDArray[np.uint8]
Edges = NDArray[np.int8]
Slopes = NDArray[np.float32]
Cells = NDArray[np.bool_]

_FINER = 4
_NEIGHBOURS = 4  # of nine cells, how many differ where another thing is to be seen; fewer do by chance
_UNTURNED_LIKE = 0.5  # frames so alike need no keypoints to be laid over one another
_SAME_SCENE = 0.15  # agreement below which a companion does not show what the sketch shows
_LEAST_SHOWN = 50  # of 1024 cells; fewer agree by chance
_STEEPEST = 2.0  # slopes are cut off at so many times their mean


def _agreement(values: Slopes, edges: Edges, cells: Cells) -> float:
    """Return the cosine of slopes and edge directions within some cells; 0 if there is nothing in them."""
    ours, theirs = values * cells, edges.astype(np.float32) * cells
    norm = float(np.sqrt((ours * ours).sum() * (theirs * theirs).sum()))
    return min(max(float((ours * theirs).sum()) / norm, -1.0), 1.0) if norm > 0 else 0.0


def _evened(values: Slopes, cells: Cells) -> Slopes:
    """Return slopes in units of their mean, cut off: one hard edge shall not outweigh all others."""
    usual = float(np.sqrt((values * values)[:, cells].mean())) if cells.any() else 0.0
    return np.asarray(np.clip(values / max(usual, 1e-6), -_STEEPEST, _STEEPEST), np.float32)


def _normed(edges: Edges) -> NDArray[np.float32]:
    flat = edges.astype(np.float32).ravel()
    return np.asarray(flat / max(float(np.sqrt(flat @ flat)), 1.0), np.float32)


def _stretched(plane: Plane, reference: np.void) -> Map:
    """Return the map of a whole frame onto a whole frame."""
    height, width = plane.shape
    return scaled(float(reference["width"]) / width, float(reference["height"]) / height)


def contrasts(planes: Iterable[Plane], references: Sketches) -> Contrasts:
    """Lay a companion over sketches of a content; a row of CONTRAST_DTYPE each.

    `planes` are the companion's frames. Of a video the frame that is most like the sketch
    is taken, by the edges of the whole frame.
    """
    wanted = np.stack([_normed(unpack_edges(row["grid"])) for row in references])
    best, chosen = np.full(len(references), -2.0, np.float32), dict[int, Plane]()
    for plane in planes:
        like = wanted @ _normed(edges_of(plane))
        for number in np.flatnonzero(like > best).tolist():
            chosen[number] = plane
        best = np.maximum(best, like)
    rows, sketches = np.zeros(len(references), CONTRAST_DTYPE), dict[int, Sketches]()
    for number, plane in chosen.items():
        if id(plane) not in sketches:
            sketches[id(plane)] = sketch(plane, MAX_KEYPOINTS)
        rows[number : number + 1] = _contrast(plane, sketches[id(plane)][0], references[number], float(best[number]))
    return rows


def _contrast(plane: Plane, companion: np.void, reference: np.void, like: float) -> Contrasts:
    row = np.zeros(1, CONTRAST_DTYPE)
    matrix = place(companion, reference)
    if matrix is None and like >= _UNTURNED_LIKE:
        matrix = _stretched(plane, reference)
    if matrix is None:
        return row
    values, shown, _ = laid(plane, matrix, reference, _FINER)
    edges = unpack_edges(reference["grid"])
    if _agreement(values, edges, shown) >= _SAME_SCENE:
        row["found"], row["grid"] = 1, pack_edges(np.where(shown, sharp(values), edges).astype(np.int8))
    return row


def relaid(lawful: np.void, reference: np.void) -> Grid | None:
    """Return how one sketch looks where another was taken, from the sketches alone; None if it does not show that.

    Coarser than `contrasts`, which has the pixels: for lawful content that was enrolled by itself.
    """
    matrix = place(lawful, reference)
    if matrix is None:
        return None
    cell = (np.arange(GRID_SIDE) + 0.5) / GRID_SIDE
    x, y = np.meshgrid(cell * reference["width"], cell * reference["height"])
    there = np.stack([x, y], axis=-1).reshape(1, -1, 2).astype(np.float64)
    back = cv2.perspectiveTransform(there, np.linalg.inv(matrix))[0] / [float(lawful["width"]), float(lawful["height"])]
    shown = ((back >= 0) & (back < 1)).all(axis=1).reshape(GRID_SIDE, GRID_SIDE)
    column, row = (np.clip(back, 0, 1 - 1e-6) * GRID_SIDE).astype(np.int64).T
    across, down = unpack_edges(lawful["grid"])[:, row, column].reshape(2, GRID_SIDE, GRID_SIDE).astype(np.float32)
    turn = np.arctan2(matrix[1, 0], matrix[0, 0])
    turned = np.stack([across * np.cos(turn) - down * np.sin(turn), across * np.sin(turn) + down * np.cos(turn)])
    edges = unpack_edges(reference["grid"])
    if _agreement(turned.astype(np.float32), edges, shown) < _SAME_SCENE:
        return None
    found = np.where(np.abs(turned) > 0.5, np.sign(turned), 0.0)
    return pack_edges(np.where(shown, found, edges).astype(np.int8))


def differing(reference: np.void, lawful: Grid) -> Cells:
    """Return in which cells (32, 32) a content's sketch and its companion's grid differ."""
    different = (unpack_edges(reference["grid"]) != unpack_edges(lawful)).any(axis=0)
    around = cv2.boxFilter(different.astype(np.float32), -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(different & (around >= _NEIGHBOURS))


def tell_apart(plane: Plane, query: np.void, reference: np.void, lawful: Grid) -> Told:
    """Return one row of TOLD_DTYPE: which of a content and its companion a picture (plane and sketch) is like."""
    told = np.zeros(1, TOLD_DTYPE)
    matrix = place(query, reference)
    if matrix is None:
        return told
    values, shown, _ = laid(plane, matrix, reference, _FINER)
    if shown.sum() < _LEAST_SHOWN:
        return told
    ours, theirs = unpack_edges(reference["grid"]), unpack_edges(lawful)
    apart = differing(reference, lawful) & shown
    values = _evened(values, shown)
    common = _agreement(values, ours, shown & ~apart)
    sign = -1.0 if common < 0 else 1.0  # a negative has all its slopes turned round
    told["placed"], told["cells"], told["common"] = 1, int(apart.sum()), common
    told["like_reference"] = sign * _agreement(values, ours, apart)
    told["like_lawful"] = sign * _agreement(values, theirs, apart)
    if apart.any():
        rows, columns = np.nonzero(apart)
        told["region"] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return told
