"""Frame matches -> segments: which seconds of the upload show which seconds of the reference.

A copied part plays at a constant speed: its matches lie on a line `r = speed · q + offset`.
Lines through pairs of matches are proposed, the one that explains most frames of the
query is taken (the nearest in bits if several do), and the search goes on with the frames
that are left: a sequential RANSAC (Fischler and Bolles 1981) over a bounded sample.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOLERANCE_S = 0.35  # enrolment keeps a frame each 0.1 s, a re-encoder may shift by a frame or two
MIN_SPEED, MAX_SPEED = 0.4, 2.5
MAX_MISSED = 3  # frames of the query in a row that may be missing inside one segment
MAX_SEGMENTS = 20
_MAX_MATCHES = 1200
_MAX_LINES = 200  # at speed 1, and twice as many through pairs
_BITS_A_SECOND, _BITS_A_SPEED = 20.0, 2.0  # what missing a line costs, and leaving the usual speed

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FrameMatches:
    """Matches of one content as columns of one length.

    `frame` numbers the query's frames (0 … n-1); each stood from `query_s` to
    `query_stop_s`, and the frame of the reference from `start_s` to `stop_s`. Times of
    stills are 0.
    """

    frame: Places
    query_s: Floats
    query_stop_s: Floats
    start_s: Floats
    stop_s: Floats
    distance_bits: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, chosen: NDArray[np.bool_] | Places) -> "FrameMatches":
        """Return some of the matches."""
        return FrameMatches(
            self.frame[chosen], self.query_s[chosen], self.query_stop_s[chosen], self.start_s[chosen],
            self.stop_s[chosen], self.distance_bits[chosen],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Segment:
    """Seconds of the query that show seconds of the reference, and how many frames say so."""

    query_s: tuple[float, float]
    reference_s: tuple[float, float]
    frames: int


@dataclass(frozen=True, slots=True)
class _Line:
    """Seconds of the reference as a function of seconds of the query."""

    speed: float
    offset_s: float

    def at(self, query_s: float) -> float:
        return self.speed * query_s + self.offset_s

    def cost(self, matches: FrameMatches) -> Floats:
        """Return what each match costs on this line, infinite if it does not lie on it."""
        costs: Floats = _costs(matches, np.array([self.speed]), np.array([self.offset_s]))[0]
        return costs


def _firsts(frame: Places) -> Places:
    """Return where each run of equal frames begins; `frame` is in order."""
    return np.flatnonzero(np.diff(frame, prepend=-1))


def _sample(matches: FrameMatches) -> FrameMatches:
    """Return a bounded number of matches in order of frames: the nearest of each frame first."""
    order = np.lexsort((matches.distance_bits, matches.frame))
    firsts = _firsts(matches.frame[order])
    rank = np.arange(len(order)) - np.repeat(firsts, np.diff(firsts, append=len(order)))
    return matches.take(order[np.sort(np.argsort(rank, kind="stable")[:_MAX_MATCHES])])


def _thinned(values: Floats, count: int) -> Floats:
    return values[:: max(1, -(-len(values) // count))]


def _lines(matches: FrameMatches) -> tuple[Floats, Floats]:
    """Propose (speed, offset): through each match at speed 1, and through pairs of them."""
    offsets = _thinned(matches.start_s - matches.query_s, _MAX_LINES)
    anchors = np.arange(0, len(matches), max(1, len(matches) // 40))
    run = matches.query_s - matches.query_s[anchors, None]
    rise = matches.start_s - matches.start_s[anchors, None]
    fits = (np.abs(run) > 1.0) & (rise * np.sign(run) >= MIN_SPEED * np.abs(run))
    fits &= rise * np.sign(run) <= MAX_SPEED * np.abs(run)
    speeds = rise[fits] / run[fits]
    anchor = anchors[np.nonzero(fits)[0]]
    through = matches.start_s[anchor] - speeds * matches.query_s[anchor]
    return (
        np.concatenate([np.ones(len(offsets)), _thinned(speeds, 2 * _MAX_LINES)]),
        np.concatenate([offsets, _thinned(through, 2 * _MAX_LINES)]),
    )


def _costs(matches: FrameMatches, speed: Floats, offset: Floats) -> Floats:
    """Return (lines, matches): bits, and seconds beside the line as bits; infinite beyond the tolerance.

    A frame of the reference that stood still lies on every line through its time.
    """
    at = speed[:, None] * matches.query_s + offset[:, None]
    away = np.maximum(np.maximum(matches.start_s - at, at - matches.stop_s), 0.0)
    costs: Floats = np.where(away <= TOLERANCE_S, matches.distance_bits + _BITS_A_SECOND * away, np.inf)
    return costs


def _best_line(matches: FrameMatches) -> _Line:
    """Return the line that explains most frames, the cheapest of several; the matches are in order of frames."""
    speed, offset = _lines(matches)
    of_frames = np.minimum.reduceat(_costs(matches, speed, offset), _firsts(matches.frame), axis=1)
    explained = np.isfinite(of_frames)
    frames = explained.sum(axis=1)
    mean = np.where(explained, of_frames, 0.0).sum(axis=1) / np.maximum(frames, 1)
    best = int(np.lexsort((mean + _BITS_A_SPEED * np.abs(speed - 1.0), -frames))[0])
    return _Line(float(speed[best]), float(offset[best]))


def _segment(matches: FrameMatches, line: _Line) -> Segment:
    """Describe matches in order of frames, one a frame."""
    query_s = float(matches.query_s[0]), float(matches.query_stop_s[-1])
    start_s, stop_s = float(matches.start_s[0]), float(matches.stop_s[-1])
    if len(matches) > 1:  # a frame of the reference that stood still was not shown all the time
        start_s = min(max(line.at(query_s[0]), start_s), float(matches.stop_s[0]))
        stop_s = max(min(line.at(query_s[1]), stop_s), float(matches.start_s[-1]), start_s)
    return Segment((round(query_s[0], 3), round(query_s[1], 3)), (round(start_s, 3), round(stop_s, 3)), len(matches))


def _segments(matches: FrameMatches, line: _Line) -> list[Segment]:
    """Cut a line's matches where more than MAX_MISSED frames in a row are missing."""
    ordered = matches.take(np.lexsort((line.cost(matches), matches.frame)))
    cheapest = ordered.take(_firsts(ordered.frame))
    cuts = np.flatnonzero(np.diff(cheapest.frame) > MAX_MISSED + 1) + 1
    return [_segment(cheapest.take(part), line) for part in np.split(np.arange(len(cheapest)), cuts)]


def align(matches: FrameMatches) -> tuple[Segment, ...]:
    """Return the segments of one content, the best supported first."""
    left = matches
    segments: list[Segment] = []
    while len(left) and len(segments) < MAX_SEGMENTS:
        line = _best_line(_sample(left))
        on_line = left.take(np.isfinite(line.cost(left)))
        segments += _segments(on_line, line)
        left = left.take(~np.isin(left.frame, on_line.frame))
    return tuple(sorted(segments, key=lambda segment: (-segment.frames, segment.query_s))[:MAX_SEGMENTS])
