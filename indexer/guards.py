"""Guards: which frames of new content are kept out of matching, and why. Pure; `enroll` walks through them.

A hash that many lawful pictures share would take all of them down. So a frame is held if
it is `low_quality`, `featureless` (the hash is noise, or the picture nearly empty but for a
caption or a logo), `generic` (near to one of the frames in `generic.json`, drawn and hashed by
benchmarks/generic_frames.py), a `hub` (within review distance of several different contents of
the operator's lawful banks) or `benign` (the same as one of them).

A deepfake is the same as its lawful original to a hash. So `benign` holds only what a query could
not tell apart later, for want of sketches; of the rest the enroller is warned.

A frame is held whole: its other view and its sketch with it. Only low quality is each
view's own, since the picture inside a border may be fine. Hashes made elsewhere are frames of
their own, and what nobody saw of them (`unsure`, `bare`) is taken on trust.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from hashing.signals import HASH_BYTES, VIEWS, Codes, Frames, Kind, Signal, SignalType, View
from indexer.policy import HUB_CONTENTS, MAX_BARE_PARTS, MAX_UNSURE_BITS, MIN_QUALITY, Policy


class Hold(StrEnum):
    """Why a frame is held, the most telling first."""

    GENERIC = "generic"
    FEATURELESS = "featureless"
    HUB = "hub"
    BENIGN = "benign"
    LOW_QUALITY = "low_quality"


Held = NDArray[np.uint8]  # (n,): 0 is free, else the place in HOLDS and one
HOLDS = tuple(Hold)
NUMBERS = {hold: number for number, hold in enumerate(HOLDS, start=1)}
RELEASABLE = tuple(hold for hold in HOLDS if hold is not Hold.LOW_QUALITY)  # which no index would take
MAX_RUNS = 100


@dataclass(frozen=True, slots=True)
class Holds:
    """What is held of one signal: a number for each row of its frames, and of its sketches.

    `benign`: frames of it are the same as something lawful, and free, since a query can tell the two apart.
    """

    frames: Held
    sketches: Held
    benign: bool = False


@dataclass(frozen=True, slots=True)
class Near:
    """Benign contents near to rows, as columns of one length: row, signal type's distance, whose hash it is."""

    row: NDArray[np.int64]
    distance_bits: NDArray[np.int32]
    content_pk: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Run:
    """Frames on end that are held for one reason. Stills and hashes without a time have none."""

    timestamp_s: float | None
    until_s: float | None
    view: View
    reason: Hold
    frames: int


def words(held: Held) -> list[str | None]:
    """Return the reason of each row as the record keeps it."""
    return [HOLDS[number - 1].value if number else None for number in held.tolist()]


def none_held(signal: Signal) -> Holds:
    """Return that all of a signal is free: what is enrolled as lawful is not guarded."""
    return Holds(np.zeros(len(signal.frames), np.uint8), np.zeros(len(signal.sketches), np.uint8))


def generic_codes() -> Codes:
    """Return the listed hashes and those of their negatives, uint8 (n, 32)."""
    entries = json.loads(resources.files("indexer").joinpath("generic.json").read_text("utf-8"))
    text = "".join(code for forms in entries.values() for code in forms)
    codes = np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, HASH_BYTES)
    return np.concatenate([codes, ~codes])


def judge_rows(rows: Frames, generic: NDArray[np.bool_]) -> Held:
    """Hold rows by what they are, asking no bank; `generic` says which are near to a listed frame."""
    low = rows["quality"] < MIN_QUALITY
    held = np.where(low, NUMBERS[Hold.LOW_QUALITY], 0).astype(np.uint8)
    held[(rows["unsure"] > MAX_UNSURE_BITS) & ~low | (rows["bare"] > MAX_BARE_PARTS)] = NUMBERS[Hold.FEATURELESS]
    held[generic & ~low] = NUMBERS[Hold.GENERIC]
    return held


def judge_near(count: int, near: Near, signal_type: SignalType, policy: Policy) -> Held:
    """Hold those of `count` rows that benign contents are too near to."""
    held = np.zeros(count, np.uint8)
    held[near.row[near.distance_bits <= policy.same_bits(signal_type)]] = NUMBERS[Hold.BENIGN]
    inside = near.distance_bits <= policy.radius_bits(signal_type)
    pairs = np.unique(np.stack([near.row[inside], near.content_pk[inside]], axis=1), axis=0)
    rows, contents = np.unique(pairs[:, 0], return_counts=True)
    held[rows[contents >= HUB_CONTENTS]] = NUMBERS[Hold.HUB]
    return held


def _frame_numbers(signal: Signal) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which frame each row, and each sketch, was taken from."""
    rows, sketches = len(signal.frames), len(signal.sketches)
    if signal.media.kind is Kind.HASHES:
        return np.arange(rows), np.arange(rows, rows + sketches)
    times = np.concatenate([signal.frames["timestamp_s"], signal.sketches["timestamp_s"]])
    numbers = np.unique(np.nan_to_num(times, nan=-1.0), return_inverse=True)[1].ravel()
    return numbers[:rows], numbers[rows:]


def whole_frames(signal: Signal, held: Held) -> Holds:
    """Hold the frames whole of which a row is held for more than its quality; `held` has one number a row."""
    if not held.any():  # of ten thousand contents, nearly all
        return none_held(signal)
    of_rows, of_sketches = _frame_numbers(signal)
    free = NUMBERS[Hold.LOW_QUALITY]
    strongest = np.full(len(of_rows) + len(of_sketches), free, np.uint8)
    spreads = (held > 0) & (held < free)
    np.minimum.at(strongest, of_rows[spreads], held[spreads])
    sketches = np.where(strongest[of_sketches] < free, strongest[of_sketches], 0)
    rows = np.where(strongest[of_rows] < free, strongest[of_rows], held)
    return Holds(rows.astype(np.uint8), sketches.astype(np.uint8))


def runs(signal: Signal, holds: Holds) -> tuple[Run, ...]:
    """Return which frames are held and why, view by view, in order of time."""
    if not holds.frames.any():
        return ()
    numbers = _frame_numbers(signal)[0]
    found: list[Run] = []
    for place, view in enumerate(VIEWS):
        mine = np.flatnonzero(signal.frames["view"] == place)
        mine = mine[np.unique(numbers[mine], return_index=True)[1]]  # several types of one frame
        held = holds.frames[mine]
        for part in np.split(np.arange(len(mine)), np.flatnonzero(np.diff(held)) + 1):
            if len(part) and held[part[0]]:
                found.append(_run(signal.frames[mine[part]], view, HOLDS[held[part[0]] - 1]))
    return tuple(found)


def _run(rows: Frames, view: View, reason: Hold) -> Run:
    start, stop = float(rows["timestamp_s"][0]), float(rows["until_s"][-1])
    timed = not np.isnan(start)
    return Run(start if timed else None, stop if timed else None, view, reason, len(rows))


def totals(found: Sequence[Run]) -> dict[str, int]:
    """Return how many frames are held for each reason; one held in two views counts twice."""
    counts: dict[str, int] = {}
    for run in found:
        counts[run.reason.value] = counts.get(run.reason.value, 0) + run.frames
    return counts
