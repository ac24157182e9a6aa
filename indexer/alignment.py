"""Frame matches -> segments: which seconds of the upload show which seconds of the reference.

A copied part plays at a constant speed, forwards or backwards: its matches lie on a line
`r = speed · q + offset`. Lines through pairs of matches are proposed, the one that explains
most frames of the query is taken (the nearest in bits if several do) and fitted to them by
least squares, and the search goes on with the frames that are left: a sequential RANSAC
(Fischler and Bolles 1981) over a bounded sample.

What was shown did not begin at the first frame that was looked at: an end is told to lie
half way to the next frame that was looked at and is no match (`extended`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

TOLERANCE_S = 0.35  # enrolment keeps a frame each 0.1 s, a re-encoder may shift by a frame or two
MIN_SPEED, MAX_SPEED = 0.4, 2.5
MAX_MISSED = 3  # frames of the query in a row that may be missing inside one segment,
BRIDGED_S = 1.0  # or as many as stand in so long
MAX_UNSEEN_S = 2.0  # an end is never told to lie further from what was seen
MIN_BACKWARDS = 5  # frames; of fewer, some run backwards by chance
MAX_SEGMENTS = 20
_MAX_MATCHES = 1200
_MAX_LINES = 200  # at speed 1, and twice as many through pairs
_BITS_A_SECOND, _BITS_A_SPEED = 20.0, 2.0  # what missing a line costs, and leaving the usual speed
_USUAL_S = 0.3  # a speed that is so little off, from one end of a segment to the other, is the usual one

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
    """Seconds of the query that show seconds of the reference, and how many frames say so.

    `speed` is how many seconds of the reference a second of the query shows, below 0 where
    it plays backwards; None where a still or too few frames tell none.
    """

    query_s: tuple[float, float]
    reference_s: tuple[float, float]
    frames: int
    speed: float | None = None

    def at(self, query_s: Floats, reference_end_s: float) -> Floats:
        """Return which seconds of the reference its line shows at those of the query, also beyond the ends.

        Where no speed was told it is 1; nothing lies outside of the reference, which of a still ends at 0.
        """
        backwards = self.speed is not None and self.speed < 0
        speed = 1.0 if self.speed is None else self.speed
        line: Floats = self.reference_s[1 if backwards else 0] + speed * (query_s - self.query_s[0])
        return np.clip(line, 0.0, reference_end_s)


@dataclass(frozen=True, slots=True)
class Looked:
    """When the query was looked at (`seen_s`, in order), and where query and reference end; 0 for a still."""

    seen_s: Floats
    end_s: float
    reference_end_s: float


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
    speeds, through = [np.ones(len(offsets))], [offsets]
    for way, most in ((1.0, 2 * _MAX_LINES), (-1.0, _MAX_LINES)):
        onwards = way * rise * np.sign(run)
        fits = (np.abs(run) > 1.0) & (onwards >= MIN_SPEED * np.abs(run)) & (onwards <= MAX_SPEED * np.abs(run))
        speed = rise[fits] / run[fits]
        anchor = anchors[np.nonzero(fits)[0]]
        speeds.append(_thinned(speed, most))
        through.append(_thinned(matches.start_s[anchor] - speed * matches.query_s[anchor], most))
    return np.concatenate(speeds), np.concatenate(through)


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
    frames = np.where(speed > 0, frames, np.where(frames >= MIN_BACKWARDS, frames - 1, 0))
    mean = np.where(explained, of_frames, 0.0).sum(axis=1) / np.maximum(frames, 1)
    best = int(np.lexsort((mean + _BITS_A_SPEED * np.abs(speed - 1.0), -frames))[0])
    return _Line(float(speed[best]), float(offset[best]))


def _shown(matches: FrameMatches, line: _Line) -> Floats:
    """Return the second of the reference's frame that each match shows on a line: it may have stood for a while."""
    at: Floats = np.clip(line.speed * matches.query_s + line.offset_s, matches.start_s, matches.stop_s)
    return at


def _cheapest(matches: FrameMatches, line: _Line) -> FrameMatches:
    """Return the matches on a line, the cheapest of each frame, in order of frames."""
    costs = line.cost(matches)
    on_line = np.flatnonzero(np.isfinite(costs))
    ordered = on_line[np.lexsort((costs[on_line], matches.frame[on_line]))]
    return matches.take(ordered[_firsts(matches.frame[ordered])])


def _fitted(matches: FrameMatches, line: _Line) -> _Line:
    """Return the line by least squares through the matches on a line, unless it explains fewer frames."""
    for _ in range(2):
        best = _cheapest(matches, line)
        length_s = float(best.query_s[-1] - best.query_s[0])
        if len(best) < 3 or length_s < 1.0:
            return line
        query_s, shown_s = best.query_s - best.query_s.mean(), _shown(best, line)
        speed = float(query_s @ shown_s / (query_s @ query_s))
        if abs(speed - 1.0) * length_s <= _USUAL_S:
            speed = 1.0
        finer = _Line(speed, float(np.mean(shown_s - speed * best.query_s)))
        if not MIN_SPEED <= abs(speed) <= MAX_SPEED or len(_cheapest(matches, finer)) < len(best):
            return line
        line = finer
    return line


def _told_speed(matches: FrameMatches, line: _Line, length_s: float) -> float | None:
    """Return the speed as it is told; None of a still, and where less than a second was seen."""
    if len(matches) < 2 or length_s < 1.0 or not line.speed:
        return None
    return round(line.speed, 2)


def _segment(matches: FrameMatches, line: _Line) -> Segment:
    """Describe matches in order of frames, one a frame."""
    query_s = float(matches.query_s[0]), float(matches.query_stop_s[-1])
    ordered = matches if line.speed >= 0 else matches.take(np.arange(len(matches))[::-1])
    start_s, stop_s = float(ordered.start_s[0]), float(ordered.stop_s[-1])
    if len(matches) > 1:  # a frame of the reference that stood still was not shown all the time
        first_s, last_s = query_s if line.speed >= 0 else query_s[::-1]
        start_s = min(max(line.at(first_s), start_s), float(ordered.stop_s[0]))
        stop_s = max(min(line.at(last_s), stop_s), float(ordered.start_s[-1]), start_s)
    return Segment(
        (round(query_s[0], 3), round(query_s[1], 3)), (round(start_s, 3), round(stop_s, 3)), len(matches),
        _told_speed(matches, line, query_s[1] - query_s[0]),
    )  # fmt: skip


def _segments(matches: FrameMatches, line: _Line) -> list[Segment]:
    """Cut a line's matches where more than MAX_MISSED frames in a row are missing, and a second or more."""
    cheapest = _cheapest(matches, line)
    missed = np.diff(cheapest.frame) > MAX_MISSED + 1
    unseen_s = cheapest.query_s[1:] - cheapest.query_stop_s[:-1]
    cuts = np.flatnonzero(missed & (unseen_s > BRIDGED_S)) + 1
    return [_segment(cheapest.take(part), line) for part in np.split(np.arange(len(cheapest)), cuts)]


def align(matches: FrameMatches) -> tuple[Segment, ...]:
    """Return the segments of one content, the best supported first, from first to last matching frame."""
    left = matches
    segments: list[Segment] = []
    still = not matches.stop_s.any()  # a still is shown for as long as it is seen
    while len(left) and len(segments) < MAX_SEGMENTS:
        line = _Line(0.0, 0.0) if still else _fitted(left, _best_line(_sample(left)))
        on_line = np.isfinite(line.cost(left))
        segments += _segments(left, line)
        left = left.take(~np.isin(left.frame, left.frame[on_line]))
    return tuple(sorted(segments, key=lambda segment: (-segment.frames, segment.query_s))[:MAX_SEGMENTS])


def _reach(segment: Segment, looked: Looked) -> tuple[float, float]:
    """Return by how much a segment of the query began before and ended after what was seen of it."""
    (start_s, stop_s), seen_s = segment.query_s, looked.seen_s
    step_s = float(np.median(np.diff(seen_s))) if len(seen_s) > 1 else 0.0
    before, after = seen_s[seen_s < start_s - 1e-3], seen_s[seen_s > stop_s + 1e-3]
    lead_s = (start_s - float(before[-1])) / 2 if len(before) else 0.0
    rest_s = max(looked.end_s - stop_s, 0.0)  # a copy that was seen up to the last frame goes on to the end
    tail_s = (float(after[0]) - stop_s) / 2 if len(after) else rest_s if rest_s <= 1.5 * step_s else step_s / 2
    return min(lead_s, MAX_UNSEEN_S), min(tail_s, MAX_UNSEEN_S)


def _extended(segment: Segment, looked: Looked) -> Segment:
    lead_s, tail_s = _reach(segment, looked)
    (start_s, stop_s), (since_s, until_s) = segment.query_s, segment.reference_s
    if looked.reference_end_s:
        speed = 1.0 if segment.speed is None else segment.speed
        left_s = max(since_s, 0.0), max(looked.reference_end_s - until_s, 0.0)
        first_s, last_s = left_s if speed > 0 else left_s[::-1]
        lead_s, tail_s = min(lead_s, first_s / abs(speed)), min(tail_s, last_s / abs(speed))
        down_s, up_s = (lead_s, tail_s) if speed > 0 else (tail_s, lead_s)
        since_s, until_s = since_s - abs(speed) * down_s, until_s + abs(speed) * up_s
        since_s, until_s = max(since_s, 0.0), min(until_s, max(looked.reference_end_s, since_s))
    query_s, reference_s = (start_s - lead_s, stop_s + tail_s), (since_s, until_s)
    return replace(
        segment, query_s=(round(query_s[0], 3), round(query_s[1], 3)),
        reference_s=(round(reference_s[0], 3), round(reference_s[1], 3)),
    )  # fmt: skip


def extended(segments: Iterable[Segment], looked: Looked) -> tuple[Segment, ...]:
    """Return segments up to half way to the next frames that were looked at, and at most to the reference's ends."""
    return tuple(_extended(segment, looked) for segment in segments)
