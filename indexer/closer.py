"""The closer look: a video in which something was found is looked at again, to tell the times well.

The first look is sparse, so that the many videos in which nothing is found stay cheap:
its segments begin and end seconds away from where the copy does. The closer look takes
ten frames a second about those ends, compares them with the found content alone, and
aligns again. It changes segments, never a verdict.

Where a line through matching frames is known, frames on it need be less near: few
unrelated pictures are (docs/accuracy.md), and fewer at just that second.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hashing.evidence import PAIR_DTYPE
from hashing.media import MAX_SPANS, Spans
from hashing.signals import Frames, Kind, Signal, SignalType, Sketches
from hashing.video import SKETCH_SPACING_S
from indexer.alignment import FrameMatches, Looked, Segment, align, extended
from indexer.keypoint_matcher import Confirm, score_bits
from indexer.matches import Match, looked_at
from indexer.policy import LINE_BITS, POLICIES, keypoint_score, usable
from indexer.record import Content, Record

WHOLE_S = 20.0  # a video no longer than this is looked at from end to end
AROUND_S = 10.0  # seconds looked at before and after a segment, at most
INSIDE_S = 2.0  # and within it, at each end
MAX_MATCHES = 4  # contents whose times are told well
_MAX_PAIRS = 192
_NEAR_LINE_S = 0.35
_STRAY = 0.25  # the share of a segment's frames below which another within it is chance
_CHUNK = 2_000_000  # pairs of hashes compared at a time


def spans(matches: Sequence[Match], signal: Signal) -> Spans:
    """Return which seconds of a video deserve a closer look: none, if nothing with times was found."""
    end_s = signal.media.duration_s
    found = [match for match in matches[:MAX_MATCHES] if _worth(match)]
    if signal.media.kind is not Kind.VIDEO or not end_s or not found:
        return ()
    if end_s <= WHOLE_S:
        return ((0.0, end_s),)
    wanted = [
        span for match in found for segment in match.segments[:MAX_SPANS]
        for span in _about(segment, looked_at(signal, match.signal_type, None))
    ]  # fmt: skip
    return tuple(sorted(_joined(wanted[: 2 * MAX_SPANS]))[:MAX_SPANS])


def _worth(match: Match) -> bool:
    return bool(match.segments) and match.signal_type in (SignalType.PDQ, SignalType.KEYPOINTS)


def _about(segment: Segment, looked: Looked) -> list[tuple[float, float]]:
    """Return the seconds about both ends of a segment, from what was looked at before to after it."""
    start_s, stop_s = segment.query_s
    before, after = looked.seen_s[looked.seen_s < start_s], looked.seen_s[looked.seen_s > stop_s]
    first_s = max(float(before[-1]) if len(before) else 0.0, start_s - AROUND_S)
    last_s = min(float(after[0]) if len(after) else looked.end_s, stop_s + AROUND_S)
    return [(first_s, min(start_s + INSIDE_S, last_s)), (max(stop_s - INSIDE_S, first_s), last_s)]


def _joined(wanted: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return spans of which none overlaps another."""
    joined: list[tuple[float, float]] = []
    for start_s, stop_s in sorted(wanted):
        if joined and start_s <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(stop_s, joined[-1][1])
        else:
            joined.append((start_s, stop_s))
    return joined


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Frames of the query and the reference that may show the same.

    `times_s` (n, 4): the query's from and to, the reference's from and to. `bits` (n,): how far apart they are.
    """

    times_s: NDArray[np.float64]
    bits: NDArray[np.int32]

    def take(self, chosen: NDArray[np.bool_]) -> "_Pairs":
        return _Pairs(self.times_s[chosen], self.bits[chosen])

    def matches(self) -> FrameMatches:
        frame = np.unique(self.times_s[:, 0], return_inverse=True)[1].astype(np.int64)
        query_s, stood_s, start_s, stop_s = self.times_s.T
        longest_s = np.full(len(np.unique(frame)), -np.inf)
        np.maximum.at(longest_s, frame, stood_s)  # the first look did not see how long a frame stood
        query_stop_s = longest_s[frame]
        return FrameMatches(frame, query_s, query_stop_s, start_s, stop_s, self.bits)


def _times(query: NDArray[np.void], reference: NDArray[np.void]) -> NDArray[np.float64]:
    columns = [rows[name] for rows in (query, reference) for name in ("timestamp_s", "until_s")]
    times_s: NDArray[np.float64] = np.nan_to_num(np.stack(columns, axis=1).reshape(-1, 4))
    return times_s


def _both(first: _Pairs, second: _Pairs) -> _Pairs:
    return _Pairs(np.concatenate([first.times_s, second.times_s]), np.concatenate([first.bits, second.bits]))


def _hashed(query: Frames, reference: Frames, radius_bits: int) -> _Pairs:
    """Compare every row with every row."""
    theirs = np.ascontiguousarray(reference["hash"]).view(np.uint64)
    step = max(_CHUNK // max(len(reference), 1), 1)
    rows, bits = [np.empty((0, 2), np.int64)], [np.empty(0, np.int32)]
    for start in range(0, len(query), step):
        ours = np.ascontiguousarray(query["hash"][start : start + step]).view(np.uint64)
        apart = np.bitwise_count(ours[:, None] ^ theirs).sum(axis=2, dtype=np.int32)
        near = np.argwhere(apart <= radius_bits)
        bits.append(apart[near[:, 0], near[:, 1]])
        rows.append(near + np.array([start, 0]))
    places = np.concatenate(rows)
    return _Pairs(_times(query[places[:, 0]], reference[places[:, 1]]), np.concatenate(bits))


def _pdq(signal: Signal) -> Frames:
    return usable(signal.of_type(SignalType.PDQ))


def _nearest_form(query: Frames, reference: Frames) -> int:
    """Return in which symmetry the query comes nearest."""
    if not len(query) or not len(reference):
        return 0
    theirs = np.ascontiguousarray(reference["hash"]).view(np.uint64)
    best = [
        int(np.bitwise_count(row.view(np.uint64) ^ theirs).sum(axis=1, dtype=np.int32).min())
        for row in np.ascontiguousarray(query["hash"])
    ]
    return int(query["transform"][int(np.argmin(best))])


def _on_lines(pairs: _Pairs, segments: Sequence[Segment], end_s: float) -> NDArray[np.bool_]:
    """Say which pairs lie on the line of a segment, also beyond its ends."""
    on_line = np.zeros(len(pairs.bits), bool)
    for segment in segments:
        at = segment.at(pairs.times_s[:, 0], end_s)
        on_line |= (at >= pairs.times_s[:, 2] - _NEAR_LINE_S) & (at <= pairs.times_s[:, 3] + _NEAR_LINE_S)
    return on_line


def _told_before(match: Match, seen_s: NDArray[np.float64], end_s: float) -> _Pairs:
    """Return what the first look said of the frames that it saw."""
    rows = [np.empty((0, 4))]
    for segment in match.segments:
        inside_s = seen_s[(seen_s >= segment.query_s[0]) & (seen_s <= segment.query_s[1])]
        at = segment.at(inside_s, end_s)
        rows.append(np.stack([inside_s, inside_s, at, at], axis=1))
    times_s = np.concatenate(rows)
    return _Pairs(times_s, np.full(len(times_s), LINE_BITS, np.int32))


def _snapped(pairs: _Pairs, segments: Sequence[Segment], end_s: float) -> _Pairs:
    """Return pairs of sketches on the lines that they are nearer to than sketches are to one another."""
    times_s = pairs.times_s.copy()
    free = np.ones(len(times_s), bool)
    for segment in segments:
        at = segment.at(times_s[:, 0], end_s)
        near = free & (np.abs(at - times_s[:, 2]) < SKETCH_SPACING_S)
        times_s[near, 2:] = at[near, None]
        free &= ~near
    return _Pairs(times_s, pairs.bits)


def _overlap_s(one: Segment, other: Segment) -> float:
    return min(one.query_s[1], other.query_s[1]) - max(one.query_s[0], other.query_s[0])


def _sound(wider: Sequence[Segment], sure: Sequence[Segment]) -> tuple[Segment, ...]:
    """Return the segments that hold something surer than nearness to a line, and are no stray within a better one."""
    kept: list[Segment] = []
    for segment in wider:
        length_s = segment.query_s[1] - segment.query_s[0]
        stray = any(
            segment.frames < _STRAY * other.frames and _overlap_s(segment, other) >= length_s / 2 for other in kept
        )
        if not stray and any(_overlap_s(segment, other) >= 0 for other in sure):
            kept.append(segment)
    return tuple(kept)


def _sketch_pairs(match: Match, query: Sketches, reference: Sketches, end_s: float) -> NDArray[np.int64]:
    """Return (n, 2): which sketches to compare, each with the two that its segments' lines come nearest to."""
    turned = "mirror" in match.transform.split("+")
    chosen: list[tuple[int, int]] = []
    for number in np.flatnonzero(query["mirrored"] == turned).tolist():
        at = np.concatenate([segment.at(query["timestamp_s"][[number]], end_s) for segment in match.segments])
        away = np.abs(np.nan_to_num(reference["timestamp_s"])[:, None] - at).min(axis=1)
        chosen += [(number, place) for place in np.argsort(away, kind="stable")[:2].tolist()]
    return np.array(chosen[:_MAX_PAIRS], np.int64).reshape(-1, 2)


def _own(match: Match, segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """Leave out what was found to show something lawful instead: segments that are about none of the match's own."""
    if match.told_apart is None:
        return segments

    def about(one: Segment, other: Segment) -> bool:
        return one.query_s[0] <= sum(other.query_s) / 2 <= one.query_s[1]

    return tuple(new for new in segments if any(about(new, own) or about(own, new) for own in match.segments))


class CloserLook:
    """Tells the times of matches by the record's own rows."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def retimed(self, matches: Sequence[Match], first: Signal, closer: Signal, confirm: Confirm) -> tuple[Match, ...]:
        """Return the matches with their segments taken again from both looks; UnhashableMedia if the worker is gone."""
        worth = {match.content_id for match in matches[:MAX_MATCHES] if _worth(match)}
        found = self._record.contents_by_id(sorted(worth))
        contents = {(content.bank, content.content_id): content for content in found}
        return tuple(
            self._one(match, contents[match.bank, match.content_id], first, closer, confirm)
            if (match.bank, match.content_id) in contents else match
            for match in matches
        )  # fmt: skip

    def _one(self, match: Match, content: Content, first: Signal, closer: Signal, confirm: Confirm) -> Match:
        end_s = 0.0 if content.kind is Kind.IMAGE else content.duration_s or math.inf
        sure, loose = self._hashed(content, first, closer)
        if match.signal_type is SignalType.KEYPOINTS:
            sketched = self._sketched(match, content, closer.sketches, confirm, end_s)
            before = _told_before(match, looked_at(first, match.signal_type, None).seen_s, end_s)
            sure = _both(_both(sure, _snapped(sketched, align(sketched.matches()), end_s)), before)
        segments = align(sure.matches())
        wider = _sound(align(_both(sure, loose.take(_on_lines(loose, segments, end_s))).matches()), segments)
        seen_s = np.union1d(*(looked_at(look, match.signal_type, None).seen_s for look in (first, closer)))
        looked = Looked(seen_s, first.media.duration_s or 0.0, content.duration_s or 0.0)
        told = _own(match, extended(wider, looked))
        return replace(match, segments=told) if told else match

    def _hashed(self, content: Content, first: Signal, closer: Signal) -> tuple[_Pairs, _Pairs]:
        """Return the pairs of frames within the radius of a review, and those that are near enough on a line."""
        known = _pdq(Signal(first.media, self._record.hashes_of(content.content_pk)[1]))
        form = _nearest_form(_pdq(first), known)
        rows = np.concatenate([_pdq(first), _pdq(closer)])
        loose = _hashed(rows[rows["transform"] == form], known, LINE_BITS)
        return loose.take(loose.bits <= POLICIES["default"].radius_bits(SignalType.PDQ)), loose

    def _sketched(self, match: Match, content: Content, sketches: Sketches, confirm: Confirm, end_s: float) -> _Pairs:
        """Confirm the closer look's sketches against those of the content."""
        known = self._record.sketches.of_content(content.content_pk)
        chosen = _sketch_pairs(match, sketches, known, end_s) if len(known) else np.empty((0, 2), np.int64)
        pairs = np.zeros(len(chosen), PAIR_DTYPE)
        pairs["query"], pairs["reference"] = chosen[:, 0], known[chosen[:, 1]]
        score = keypoint_score(confirm(pairs))
        found = _Pairs(_times(sketches[chosen[:, 0]], known[chosen[:, 1]]), score_bits(score))
        return found.take(score >= POLICIES["default"].review.least_score)
