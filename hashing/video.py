"""Frames -> rows of hashes: the views and symmetries of each, near-identical neighbours dropped.

Enrolment keeps one form of a frame, a query asks for all eight, so that each of them is
compared once. A still scene becomes one row with the span of time in which it stood.
"""

from collections.abc import Iterable

import numpy as np

from hashing.borders import trimmed
from hashing.classic import classic
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
    View,
    distance,
    no_frames,
)

NEAR_BITS = 4  # PDQ distances of unmoving, re-encoded frames; a copy still lies within reach


def _pdq(frame: Frame, pixels: Pixels) -> PdqHash:
    if frame.scale == 1.0 and frame.black == 0.0:
        return pdq(pixels)
    plane: Plane = (downsample(pixels) - np.float32(frame.black)) * np.float32(frame.scale)
    return pdq_of_plane(plane)


def _rows(view: View, frame: Frame, hashed: PdqHash, forms: int) -> Frames:
    rows = np.zeros(forms, FRAME_DTYPE)
    rows["profile"] = PROFILE_OF_TYPE[SignalType.PDQ]
    rows["view"] = VIEWS.index(view)
    rows["transform"] = np.arange(forms)
    rows["quality"] = hashed.quality
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
        views.append((View.TRIMMED, inside, _pdq(frame, inside)))
    found = []
    for view, pixels, hashed in views:
        rows = _rows(view, frame, hashed, forms)
        found.append(rows)
        shown = pixels if pixels.dtype == np.uint8 else Frame(pixels, scale=frame.scale).grey8()
        found += [_classic_row(kind, rows, shown) for kind in CLASSIC if kind in types]
    return np.concatenate(found)


def hash_frames(frames: Iterable[Frame], sampling: Sampling, types: frozenset[SignalType]) -> tuple[Frames, int]:
    """Hash frames one by one; a picture is dropped as soon as its rows are made.

    Returns the rows (FRAME_DTYPE, in order of time) and how many frames were looked at.
    """
    forms = len(TRANSFORMS) if sampling is Sampling.SPARSE else 1
    kept: list[Frames] = []
    count = 0
    for frame in frames:
        count += 1
        whole = _pdq(frame, frame.pixels)
        if kept and distance(bytes(kept[-1][0]["hash"]), bytes(whole.codes[0])) <= NEAR_BITS:
            kept[-1]["until_s"] = frame.timestamp_s
            continue
        kept.append(_views(frame, whole, forms, types))
    return (np.concatenate(kept) if kept else no_frames()), count
