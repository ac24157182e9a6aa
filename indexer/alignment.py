"""Frame matches -> segments: which seconds of the upload show which seconds of the reference.

A copied part plays at a constant speed: its matches lie on a line `r = speed · q + offset`.
Lines through pairs of matches are proposed, the one that explains most frames of the
query is taken, and the search goes on with the frames that are left (a sequential
RANSAC over all pairs: Fischler and Bolles 1981, exhaustively since the sets are small).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOLERANCE_S = 0.35  # enrolment keeps a frame each 0.1 s, a re-encoder may shift by a frame or two
MIN_SPEED, MAX_SPEED = 0.4, 2.5
MAX_MISSED = 3  # frames of the query in a row that may be missing inside one segment
MAX_SEGMENTS = 20
_MAX_MATCHES = 1500
_MAX_LINES = 600

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FrameMatches:
    """Matches of one content as columns of one length.

    `frame` numbers the query's frames (0 … n-1), `query_s` is its time, and the frame of
    the reference stood from `start_s` to `stop_s`. Times of stills are 0.
    """

    frame: Places
    query_s: Floats
    start_s: Floats
    stop_s: Floats
    distance_bits: NDArray[np.int32]

    def take(self, chosen: NDArray[np.bool_] | Places) -> "FrameMatches":
        """Return some of the matches."""
        return FrameMatches(
            self.frame[chosen], self.query_s[chosen], self.start_s[chosen], self.stop_s[chosen],
            self.distance_bits[chosen],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Segment:
    """Seconds of the query that show seconds of the reference, and how many frames say so."""

    query_s: tuple[float, float]
    reference_s: tuple[float, float]
    frames: int


def _lines(matches: FrameMatches) -> tuple[Floats, Floats]:
    """Propose (speed, offset): through each match at speed 1, and through pairs of them."""
    speeds, offsets = [np.ones(len(matches.frame))], [matches.start_s - matches.query_s]
    step = max(1, len(matches.frame) // 40)
    for anchor in range(0, len(matches.frame), step):
        run = matches.query_s - matches.query_s[anchor]
        rise = matches.start_s - matches.start_s[anchor]
        with np.errstate(divide="ignore", invalid="ignore"):
            speed = rise / run
        fits = (np.abs(run) > 1.0) & (speed >= MIN_SPEED) & (speed <= MAX_SPEED)
        speeds.append(speed[fits])
        offsets.append(matches.start_s[anchor] - speed[fits] * matches.query_s[anchor])
    speed, offset = np.concatenate(speeds), np.concatenate(offsets)
    thin = max(1, len(speed) // _MAX_LINES)
    return speed[::thin], offset[::thin]


def _off(matches: FrameMatches, speed: float, offset: float) -> Floats:
    """Return by how many seconds each match misses a line (0 while the reference stood still)."""
    at = speed * matches.query_s + offset
    away: Floats = np.maximum(np.maximum(matches.start_s - at, at - matches.stop_s), 0.0)
    return away


def _best_line(matches: FrameMatches) -> NDArray[np.bool_]:
    """Return which matches lie on the line that explains most frames; nearest to it if equal."""
    best, best_score = np.zeros(len(matches.frame), bool), (0, 0.0)
    for speed, offset in zip(*_lines(matches), strict=True):
        away = _off(matches, float(speed), float(offset))
        fits = away <= TOLERANCE_S
        frames = len(np.unique(matches.frame[fits]))
        score = (frames, -float(away[fits].mean() if frames else 0.0) - 0.1 * abs(float(speed) - 1.0))
        if score > best_score:
            best, best_score = fits, score
    return best


def _segment(matches: FrameMatches) -> Segment:
    first, last = int(np.argmin(matches.query_s)), int(np.argmax(matches.query_s))
    frames = len(np.unique(matches.frame))
    stop = matches.start_s[last] if frames > 1 else matches.stop_s[last]
    start = float(matches.start_s[first])
    return Segment(
        (round(float(matches.query_s[first]), 3), round(float(matches.query_s[last]), 3)),
        (round(start, 3), round(max(start, float(stop)), 3)),
        frames,
    )


def _split(matches: FrameMatches) -> list[FrameMatches]:
    """Cut a line's matches where more than MAX_MISSED frames in a row are missing."""
    ordered = matches.take(np.lexsort((matches.distance_bits, matches.frame)))
    cuts = np.flatnonzero(np.diff(ordered.frame) > MAX_MISSED + 1) + 1
    return [ordered.take(part) for part in np.split(np.arange(len(ordered.frame)), cuts)]


def align(matches: FrameMatches) -> tuple[Segment, ...]:
    """Return the segments of one content, the best supported first."""
    nearest = np.argsort(matches.distance_bits, kind="stable")[:_MAX_MATCHES]
    left = matches.take(nearest)
    segments: list[Segment] = []
    while len(left.frame) and len(segments) < MAX_SEGMENTS:
        on_line = _best_line(left)
        segments += map(_segment, _split(left.take(on_line)))
        left = left.take(~np.isin(left.frame, left.frame[on_line]))
    return tuple(sorted(segments, key=lambda segment: (-segment.frames, segment.query_s))[:MAX_SEGMENTS])
