"""Plain borders are found and cut off, and nothing else is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks import corpus
from hashing.borders import Box, may_have_border, picture_inside, trimmed
from hashing.media import Frame
from hashing.pdq import pdq
from hashing.signals import distances

Picture = NDArray[np.uint8]


def slow_inside(grey: Picture) -> Box | None:
    """The truth, line by line: peel plain lines of the edge's level off each side, twice."""

    def run(lines: list[Picture]) -> int:
        count, level = 0, 0.0
        for line in lines:
            low, high = int(line.min()), int(line.max())
            level = level if count else (low + high) / 2
            if high - low > 24 or abs((low + high) / 2 - level) > 16:
                break
            count += 1
        return count

    top, left, (bottom, right) = 0, 0, grey.shape
    for _ in range(2):
        rows = list(grey[top:bottom, left:right])
        start = run(rows)
        top, bottom = top + start, bottom - (run(rows[::-1]) if start < len(rows) else 0)
        if bottom - top < 0.1 * grey.shape[0]:
            return None
        columns = list(grey[top:bottom, left:right].T)
        start = run(columns)
        left, right = left + start, right - (run(columns[::-1]) if start < len(columns) else 0)
        if right - left < 0.1 * grey.shape[1]:
            return None
    cut = max(1 - (bottom - top) / grey.shape[0], 1 - (right - left) / grey.shape[1])
    return (slice(top, bottom), slice(left, right)) if cut >= 0.01 else None


@given(st.integers(0, 2**32), st.tuples(*[st.integers(0, 30)] * 4), st.sampled_from([0, 16, 200, 255]))
def test_matches_the_slow_truth(seed: int, sides: tuple[int, int, int, int], level: int) -> None:
    rng = np.random.default_rng(seed)
    inner = rng.integers(0, 256, (rng.integers(1, 60), rng.integers(1, 60)), dtype=np.uint8)
    top, bottom, left, right = sides
    picture = np.pad(inner, ((top, bottom), (left, right)), constant_values=level)
    assert picture_inside(picture) == slow_inside(picture)


@pytest.mark.parametrize("name", ["letterbox", "pillarbox", "white_frame"])
def test_the_picture_inside_a_border_is_found(name: str, photos: list[Picture]) -> None:
    for picture in photos:
        shown = corpus.EDITS[name](picture)
        inside = trimmed(Frame(shown), pdq(shown).plane)
        assert inside is not None
        assert np.abs(np.subtract(inside.shape[:2], picture.shape[:2])).max() <= 8
        assert distances(pdq(np.ascontiguousarray(inside)).codes, pdq(picture).codes[0])[0] <= 31


def test_a_frame_around_a_letterbox_takes_two_rounds(photo: Picture) -> None:
    boxed = corpus.EDITS["white_frame"](corpus.EDITS["letterbox"](photo))
    box = picture_inside(np.ascontiguousarray(boxed[..., 1]))
    assert box is not None
    assert boxed[box].shape[0] == pytest.approx(photo.shape[0], abs=8)


def test_a_jpeg_border_is_found_though_it_is_not_quite_plain(photo: Picture) -> None:
    shown = corpus.decode(corpus.jpeg(corpus.EDITS["letterbox"](photo), 40))
    inside = trimmed(Frame(shown), pdq(shown).plane)
    assert inside is not None
    assert inside.shape[0] == pytest.approx(photo.shape[0], abs=16)


def test_a_scene_has_no_border(photos: list[Picture]) -> None:
    for picture in photos:
        assert trimmed(Frame(picture), pdq(picture).plane) is None


def test_a_blank_picture_has_nothing_inside() -> None:
    blank = np.full((100, 200), 128, np.uint8)
    assert may_have_border(pdq(blank).plane)
    assert picture_inside(blank) is None
    almost = blank.copy()
    almost[48:52, 98:102] = 255  # less than a tenth of the side
    assert picture_inside(almost) is None
    tall = blank.copy()
    tall[10:90, 98:102] = np.arange(80, dtype=np.uint8)[:, None] * 3
    assert picture_inside(tall) is None


def test_less_than_a_hundredth_is_not_worth_a_hash() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (300, 300), dtype=np.uint8)
    noise[:2] = 0
    assert picture_inside(noise) is None
    noise[:3] = 0
    assert picture_inside(noise) == (slice(3, 300), slice(0, 300))


def test_a_deep_luma_frame_is_looked_at_in_eight_bits(photo: Picture) -> None:
    boxed = corpus.EDITS["letterbox"](photo)[..., 1].astype(np.uint16) * 4
    frame = Frame(boxed, scale=0.25)
    inside = trimmed(frame, pdq(frame.grey8()).plane)
    assert inside is not None
    assert (inside.dtype, inside.shape) == (np.uint16, photo.shape[:2])
