"""Frames -> rows of hashes: the views and symmetries of each, near-identical neighbours dropped.

Enrolment keeps one form of a frame, a query asks for all eight, so that each of them is
compared once. A still scene becomes one row with the span of time in which it stood.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from hashing.borders import trimmed
from hashing.classic import classic
from hashing.edges import Plane as GreyPlane
from hashing.keypoints import ENROLL_KEYPOINTS, QUERY_KEYPOINTS, plane_of, sketch, sketch_both, turned_over
from hashing.media import Frame, Pixels, Sampling
from hashing.pdq import PdqHash, Plane, downsample, pdq, pdq_of_plane
from hashing.signals import (
    CLASSIC,
    FRAME_DTYPE,
    PROFILE_OF_TYPE,
    TRANSFORMS,
    VIEWS,
    Frames,
    SignalType,
    Sketches,
    View,
    distance,
    no_frames,
    no_sketches,
)

SKETCH_SPACING_S = 1.0  # sketches are thinner than hashes: each weighs as much as three hundred
CLOSE_SKETCH_SPACING_S = 0.3
MAX_SKETCHES = 4000
MAX_QUERY_SKETCHES = 48
NEAR_BITS = 4  # PDQ distances of unmoving, re-encoded frames; a copy still lies within reach


def _pdq(frame: Frame, pixels: Pixels, full: tuple[int, int] | None = None) -> PdqHash:
    if frame.scale == 1.0 and frame.black == 0.0:
        return pdq(pixels, full)
    plane: Plane = (downsample(pixels, full) - np.float32(frame.black)) * np.float32(frame.scale)
    return pdq_of_plane(plane)


def _rows(view: View, frame: Frame, hashed: PdqHash, forms: int) -> Frames:
    rows = np.zeros(forms, FRAME_DTYPE)
    rows["profile"] = PROFILE_OF_TYPE[SignalType.PDQ]
    rows["view"] = VIEWS.index(view)
    rows["transform"] = np.arange(forms)
    rows["quality"], rows["unsure"], rows["bare"] = hashed.quality, hashed.unsure, hashed.bare
    rows["timestamp_s"] = rows["until_s"] = frame.timestamp_s
    rows["hash"] = hashed.codes[:forms]
    return rows


def _classic_row(signal_type: SignalType, like: Frames, pixels: Pixels) -> Frames:
    row = like[:1].copy()
    row["profile"] = PROFILE_OF_TYPE[signal_type]
    row["hash"] = classic(signal_type, pixels)
    return row


def _views(frame: Frame, whole: PdqHash, forms: int, types: frozenset[SignalType]) -> Frames:
    inside = trimmed(frame, whole.plane)
    views = [(View.FULL, frame.pixels, whole)]
    if inside is not None:
        shrunk = 1 if frame.full is None else -(-frame.full[0] // len(frame.pixels))
        full = None if frame.full is None else (shrunk * inside.shape[0], shrunk * inside.shape[1])
        views.append((View.TRIMMED, inside, _pdq(frame, inside, full)))
    found = []
    for view, pixels, hashed in views:
        rows = _rows(view, frame, hashed, forms)
        found.append(rows)
        shown = pixels if pixels.dtype == np.uint8 else Frame(pixels, scale=frame.scale).grey8()
        found += [_classic_row(kind, rows, shown) for kind in CLASSIC if kind in types]
    return np.concatenate(found)


class _Sketcher:
    """Sketches frames that are far enough apart; at a query mirrored as well, and keeping their planes."""

    def __init__(self, sampling: Sampling) -> None:
        self._query = sampling is not Sampling.DENSE
        self._spacing_s = CLOSE_SKETCH_SPACING_S if sampling is Sampling.CLOSE else SKETCH_SPACING_S
        self._due_s = self._seen_s = -math.inf
        self.rows: list[Sketches] = []
        self.planes: list[GreyPlane] = []

    def add(self, frame: Frame) -> None:
        again = frame.timestamp_s < self._seen_s  # another track, or times that jump back: nothing may hide behind it
        self._seen_s = frame.timestamp_s
        if frame.timestamp_s < self._due_s and not again:
            return
        if len(self.rows) >= (2 * MAX_QUERY_SKETCHES if self._query else MAX_SKETCHES):
            self._thin()
            if not again and not frame.timestamp_s >= self.rows[-1]["timestamp_s"][0] + self._spacing_s:
                return
        self._due_s = frame.timestamp_s + self._spacing_s
        plane = plane_of(frame)
        rows = sketch_both(plane, QUERY_KEYPOINTS) if self._query else sketch(plane, ENROLL_KEYPOINTS)
        rows["timestamp_s"] = rows["until_s"] = frame.timestamp_s
        self.rows += [rows[number : number + 1] for number in range(len(rows))]
        if self._query:
            self.planes += [plane, turned_over(plane)]

    def _thin(self) -> None:
        """Keep every other one, so that what is kept is spread over all that is seen."""
        self._spacing_s *= 2
        if self._query:  # each stands twice: as it is, and mirrored
            kept = [place for place in range(len(self.rows)) if place % 4 < 2]
            self.planes = [self.planes[place] for place in kept]
        else:
            kept = list(range(0, len(self.rows), 2))
        self.rows = [self.rows[place] for place in kept]
        self._due_s = float(self.rows[-1]["timestamp_s"][0]) + self._spacing_s

    def hold(self, since_s: float, frame: Frame) -> None:
        """Take note that what was seen first at `since_s` still stands: it is sketched, or will be in its turn."""
        if self.rows and not self.rows[-1]["timestamp_s"][0] < since_s:  # stills have no time
            for row in self.rows[-2 if self._query else -1 :]:
                row["until_s"] = frame.timestamp_s
        else:
            self.add(frame)


@dataclass(frozen=True, slots=True)
class Hashed:
    """What frames gave: rows, sketches, and at a query the planes of the sketches, which stay in the worker."""

    frames: Frames
    count: int
    sketches: Sketches = field(default_factory=no_sketches)
    planes: tuple[GreyPlane, ...] = ()


def hash_frames(frames: Iterable[Frame], sampling: Sampling, types: frozenset[SignalType]) -> Hashed:
    """Hash frames one by one, in order of time; a picture is dropped as soon as its rows are made."""
    forms = 1 if sampling is Sampling.DENSE else len(TRANSFORMS)
    sketcher = _Sketcher(sampling) if SignalType.KEYPOINTS in types else None
    kept: list[Frames] = []
    count = 0
    for frame in frames:
        count += 1
        whole = _pdq(frame, frame.pixels, frame.full)
        if kept and distance(bytes(kept[-1][0]["hash"]), bytes(whole.codes[0])) <= NEAR_BITS:
            kept[-1]["until_s"] = frame.timestamp_s
            if sketcher is not None:
                sketcher.hold(float(kept[-1]["timestamp_s"][0]), frame)
            continue
        kept.append(_views(frame, whole, forms, types))
        if sketcher is not None:
            sketcher.add(frame)
    rows = np.concatenate(kept) if kept else no_frames()
    if sketcher is None or not sketcher.rows:
        return Hashed(rows, count)
    return Hashed(rows, count, np.concatenate(sketcher.rows), tuple(sketcher.planes))
