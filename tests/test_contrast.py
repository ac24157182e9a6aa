"""Which of a content and its lawful original a picture shows, and what crosses the wall for it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import corpus
from benchmarks.corpus import Picture
from benchmarks.robustness.edits import apply
from benchmarks.robustness.edits_base import decode, encode
from benchmarks.robustness.swapping import SHARES, region, swapped
from hashing import wire
from hashing.contrast import (
    CONTRAST_DTYPE,
    MAX_CONTRASTS,
    TELL_DTYPE,
    TOLD_DTYPE,
    TOLD_RANGE,
    Contrasts,
    Told,
    contrasts,
    differing,
    relaid,
    tell_apart,
)
from hashing.edges import Plane, unpack_edges
from hashing.hasher import DEFAULT_TYPES, Plan
from hashing.keypoints import QUERY_KEYPOINTS, plane_of, sketch, sketch_both
from hashing.media import Frame
from hashing.sandbox import Pool
from hashing.signals import GRID_SIDE, SKETCH_DTYPE, SignalType, Sketches

ORIGINAL, DONOR = corpus.picture(501), corpus.picture(502)


def plane(picture: Picture) -> Plane:
    return plane_of(Frame(picture))


def sketched(picture: Picture, count: int = 300) -> Sketches:
    return sketch(plane(picture), count)


def margin(picture: Picture, reference: Sketches, found: Contrasts) -> Told:
    view = plane(picture)
    return tell_apart(view, sketch(view, 600)[0], reference[0], found[0]["grid"])[0]


@pytest.mark.parametrize("share", SHARES)
def test_a_swap_and_its_original_are_told_apart(share: float) -> None:
    swap = swapped(ORIGINAL, DONOR, share)
    reference = sketched(decode(encode(swap)))
    found = contrasts([plane(ORIGINAL)], reference)
    assert found[0]["found"] == 1
    for edit in ("jpeg_q30", "resize_50", "crop_edge_5", "rot_2_crop", "caption_20", "blur_2"):
        like_swap = margin(decode(apply(edit, swap, 1)), reference, found)
        like_original = margin(decode(apply(edit, ORIGINAL, 1)), reference, found)
        assert like_swap["like_reference"] > like_swap["like_lawful"] + 0.2, edit
        assert like_original["like_lawful"] > like_original["like_reference"] + 0.2, edit


def test_the_region_that_told_them_apart_is_the_one_that_was_replaced() -> None:
    swap = swapped(ORIGINAL, DONOR, 0.12)
    reference = sketched(swap)
    told = margin(swap, reference, contrasts([plane(ORIGINAL)], reference))
    left, top, wide, high = region(ORIGINAL, 0.12)
    height, width = ORIGINAL.shape[:2]
    box = np.array([left / width, top / height, (left + wide) / width, (top + high) / height]) * GRID_SIDE
    assert np.abs(told["region"] - box).max() <= 3
    assert told["cells"] < 0.3 * GRID_SIDE * GRID_SIDE


def test_a_negative_is_told_apart_as_well() -> None:
    swap = swapped(ORIGINAL, DONOR, 0.12)
    reference = sketched(swap)
    grid = contrasts([plane(ORIGINAL)], reference)[0]["grid"]
    for picture, sign in ((swap, 1), (ORIGINAL, -1)):
        upright = plane(picture)
        told = tell_apart(255 - upright, sketch(upright, 600)[0], reference[0], grid)[0]
        assert sign * (told["like_reference"] - told["like_lawful"]) > 0.2


def test_what_the_picture_leaves_out_tells_nothing() -> None:
    swap = swapped(ORIGINAL, DONOR, 0.03)
    reference = sketched(swap)
    found = contrasts([plane(ORIGINAL)], reference)
    left, _, wide, _ = region(ORIGINAL, 0.03)
    width = ORIGINAL.shape[1]
    rest = ORIGINAL[:, left + wide + 20 :] if left + wide / 2 < width / 2 else ORIGINAL[:, : left - 20]
    told = margin(np.ascontiguousarray(rest), reference, found)
    assert told["placed"] == 1
    assert told["cells"] <= 2


def test_a_companion_that_shows_something_else_is_not_found() -> None:
    reference = sketched(ORIGINAL)
    assert contrasts([plane(DONOR)], reference)[0]["found"] == 0
    assert relaid(sketched(DONOR)[0], reference[0]) is None


def test_a_cropped_companion_differs_only_where_it_shows_something() -> None:
    swap = swapped(ORIGINAL, DONOR, 0.12)
    reference = sketched(swap)
    half = np.ascontiguousarray(ORIGINAL[:, : ORIGINAL.shape[1] * 6 // 10])
    found = contrasts([plane(half)], reference)[0]
    assert found["found"] == 1
    beyond = differing(reference[0], found["grid"])[:, GRID_SIDE * 6 // 10 + 1 :]
    assert not beyond.any()


def test_of_a_video_the_frame_of_the_same_moment_is_taken() -> None:
    frames = list(corpus.clip_frames(5, duration_s=2.0, fps=5, scenes=1))
    reference = sketched(swapped(frames[6], DONOR, 0.12))
    whole = contrasts(map(plane, frames), reference)
    assert whole[0]["grid"].tobytes() == contrasts([plane(frames[6])], reference)[0]["grid"].tobytes()


def test_sketches_alone_say_nearly_the_same_as_pixels() -> None:
    swap = swapped(ORIGINAL, DONOR, 0.12)
    reference, lawful = sketched(swap), sketched(ORIGINAL)
    by_pixels = differing(reference[0], contrasts([plane(ORIGINAL)], reference)[0]["grid"])
    grid = relaid(lawful[0], reference[0])
    assert grid is not None
    by_sketches = differing(reference[0], grid)
    assert (by_pixels & by_sketches).sum() >= 0.8 * by_pixels.sum()


def test_a_worker_says_what_this_process_says() -> None:
    swap = swapped(ORIGINAL, DONOR, 0.06)
    reference = sketched(decode(encode(swap)))
    original = encode(ORIGINAL, "PNG")  # of a JPEG a query sees luma alone
    plan = Plan(types=DEFAULT_TYPES | {SignalType.KEYPOINTS})
    with Pool(1) as pool:
        laid = pool.lay_over(original, plan, np.concatenate([reference] * 3))
        assert laid.tobytes() == np.concatenate([contrasts([plane(decode(original))], reference)] * 3).tobytes()
        assert not pool.lay_over(b"\xff\xd8\xff nothing", plan, reference)["found"].any()
        with pool.open(original, plan) as opened:
            tells = np.zeros(2, TELL_DTYPE)
            for number in range(2):
                tells[number] = (number, reference[0], laid[0]["grid"])
            told = opened.tell(tells)
            assert opened.tell(tells[:0]).shape == (0,)
    view = plane(decode(original))
    assert told[0] == tell_apart(view, sketch_both(view, QUERY_KEYPOINTS)[0], reference[0], laid[0]["grid"])[0]
    assert told["common"][0] > max(told["common"][1], 0.5), "the mirrored picture lies worse on the upright one"


# --- the wall -----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, wire.MAX_PAIRS])
def test_tells_are_announced_and_are_no_other_request(count: int) -> None:
    tells = np.zeros(count, TELL_DTYPE)
    packed = wire.pack_tells(tells)
    header, body = packed[: wire.REQUEST.size], packed[wire.REQUEST.size :]
    assert wire.tells_announced(header) == len(body) == count * TELL_DTYPE.itemsize
    assert wire.pairs_announced(header) == wire.lay_announced(header) == 0


def test_more_than_is_allowed_is_no_request() -> None:
    assert wire.tells_announced(wire.pack_tells(np.zeros(wire.MAX_PAIRS + 1, TELL_DTYPE))[: wire.REQUEST.size]) == 0
    many = wire.pack_lay(Plan(), b"", np.zeros(MAX_CONTRASTS + 1, SKETCH_DTYPE))
    assert wire.lay_announced(many[: wire.REQUEST.size]) == 0


def test_a_request_to_lay_goes_there_and_back() -> None:
    references, data = sketched(ORIGINAL), b"media bytes"
    packed = wire.pack_lay(Plan(), data, references) + data
    header, body = packed[: wire.REQUEST.size], packed[wire.REQUEST.size :]
    assert wire.lay_announced(header) == len(body)
    plan, sketches, media = wire.unpack_lay(header, body)
    assert (plan.sampling, plan.types, media) == (Plan().sampling, Plan().types, data)
    assert sketches.tobytes() == references.tobytes()


@pytest.mark.parametrize(("name", "least", "most"), [(name, *bounds) for name, bounds in TOLD_RANGE.items()])
def test_what_was_told_is_in_range_or_refused(name: str, least: int, most: int) -> None:
    good = np.zeros(2, TOLD_DTYPE)
    good[name][0] = most
    assert wire.unpack_told(good.tobytes()).tobytes() == good.tobytes()
    for value in [most + 1] + ([float("nan"), least - 1] if good[name].dtype.kind == "f" else []):
        bad = good.copy()
        bad[name][1] = value
        with pytest.raises(ValueError, match="out of range"):
            wire.unpack_told(bad.tobytes())


@given(st.binary(max_size=4 * CONTRAST_DTYPE.itemsize))
def test_random_contrasts_are_in_range_or_refused(body: bytes) -> None:
    try:
        rows = wire.unpack_contrasts(body)
    except ValueError:
        return
    assert set(rows["found"].tolist()) <= {0, 1}
    assert all(set(np.unique(unpack_edges(row["grid"]))) <= {-1, 0, 1} for row in rows)
