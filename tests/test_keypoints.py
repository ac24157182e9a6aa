"""Sketches and their confirmation: copies give the map that made them, other pictures give little, nothing raises."""

from collections.abc import Callable
from itertools import product
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks import corpus
from hashing.edges import NOT_SHOWN, Plane
from hashing.evidence import EVIDENCE_DTYPE, EVIDENCE_RANGE, confirm, no_evidence
from hashing.keypoints import (
    ENROLL_KEYPOINTS,
    PLANE_SIDE,
    QUERY_KEYPOINTS,
    describe,
    detect,
    pack_sketch,
    plane_of,
    sketch,
    sketch_both,
    turned_over,
    unpack_sketch,
)
from hashing.media import Frame
from hashing.signals import GRID_BYTES, GRID_SIDE, KEYPOINT_DTYPE, MAX_KEYPOINTS, OCTAVES, SKETCH_DTYPE, Sketches

Picture = NDArray[np.uint8]
SEEDS = range(1, 7)


@pytest.fixture(scope="module")
def known(photos: list[Picture]) -> list[Sketches]:
    return [sketch(plane_of(Frame(photo)), ENROLL_KEYPOINTS) for photo in photos]


def described(plane: Plane, count: int) -> NDArray[np.void]:
    return describe(plane, detect(plane, count))


def seen(copy: Picture, reference: Sketches, *, mirrored: bool = False) -> np.void:
    """Return the evidence that a query's picture gives; `mirrored`: of its plane turned over."""
    plane = plane_of(Frame(copy))
    row = sketch_both(plane, QUERY_KEYPOINTS)[int(mirrored)]
    evidence = confirm(turned_over(plane) if mirrored else plane, row, reference[0])
    assert (evidence.dtype, evidence.shape) == (EVIDENCE_DTYPE, (1,))
    row: np.void = evidence[0]
    return row


def shown(evidence: np.void) -> NDArray[np.float64]:
    """Return the agreement of the blocks that can be compared, -1 to 1."""
    agreement = evidence["agreement"]
    return agreement[agreement != NOT_SHOWN] / 100.0


def agreeing(evidence: np.void) -> float:
    """Return which share of the blocks agrees."""
    return float((shown(evidence) > 0.5).mean())


def in_range(evidence: Any) -> bool:
    return all(
        bool(((evidence[name] >= least) & (evidence[name] <= most)).all())
        for name, (least, most) in EVIDENCE_RANGE.items()
    )


# --- what a sketch is -------------------------------------------------------------------


def test_a_sketch_is_the_same_each_time(photos: list[Picture]) -> None:
    for photo in photos[:4]:
        plane = plane_of(Frame(photo))
        before = plane.copy()
        assert sketch(plane, 300).tobytes() == sketch(plane.copy(), 300).tobytes()
        assert np.array_equal(plane, before)


@pytest.mark.parametrize("shape", [(480, 640), (640, 480), (90, 120), (1000, 1000), (20, 2000), (1, 1), (3, 9000)])
def test_a_plane_has_one_longest_side_and_the_pictures_shape(shape: tuple[int, int]) -> None:
    plane = plane_of(Frame(np.zeros((*shape, 3), np.uint8)))
    assert (plane.dtype, max(plane.shape), min(plane.shape) >= 16) == (np.uint8, PLANE_SIDE, True)
    assert min(plane.shape) == max(16, round(PLANE_SIDE * min(shape) / max(shape)))
    assert (plane.shape[0] < plane.shape[1]) == (shape[0] < shape[1])


def test_a_sketch_says_of_what_it_is(photo: Picture) -> None:
    plane = plane_of(Frame(photo))
    row = sketch(plane, 250)[0]
    assert (int(row["width"]), int(row["height"]), int(row["count"]), int(row["mirrored"])) == (512, 384, 250, 0)
    assert np.isnan(row["timestamp_s"])
    assert np.isnan(row["until_s"])
    points = row["keypoints"][:250]
    assert points["x"].max() < 512 * 64
    assert points["y"].max() < 384 * 64
    assert not np.frombuffer(row["keypoints"][250:].tobytes(), np.uint8).any()
    assert sketch_both(plane, 10)["mirrored"].tolist() == [0, 1]


def cells(points: NDArray[np.void], plane: Plane) -> int:
    """Count the cells, of 8 × 8, that have a keypoint."""
    height, width = plane.shape
    return len(set(zip(points["y"] // 64 * 8 // height, points["x"] // 64 * 8 // width, strict=True)))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_caption_does_not_take_all_keypoints(seed: int) -> None:
    plain = corpus.picture(seed)
    written = plain.copy()
    written[380:] = 255
    for line in range(3):
        cv2.putText(written, "Lorem ipsum dolor sit amet, consetetur", (4, 408 + 30 * line), 0, 0.9, (0, 0, 0), 2)
    before, after = plane_of(Frame(plain)), plane_of(Frame(written))
    points = described(after, ENROLL_KEYPOINTS)
    assert cells(points, after) >= 40
    kept = points[points["y"] < 6 * 48 * 64]  # above the caption: 6 of 8 rows of cells
    usual = described(before, ENROLL_KEYPOINTS)
    assert cells(kept, after) >= 0.9 * cells(usual[usual["y"] < 6 * 48 * 64], before)
    assert len(kept) >= 0.5 * ENROLL_KEYPOINTS
    strongest = cv2.ORB.create(nfeatures=ENROLL_KEYPOINTS).detect(after, None)
    assert np.mean([point.pt[1] < 6 * 48 for point in strongest]) < 0.3, "else the caption tests nothing"


def test_keypoints_are_taken_in_turns_from_all_parts() -> None:
    noise = np.random.default_rng(5).integers(0, 256, (384, 512), dtype=np.uint8)
    for count in (1, 40, 64, 65, 200):
        points = described(noise, count)
        assert (len(points), cells(points, noise)) == (count, min(count, 64))


def sharing(a: np.void, b: np.void) -> float:
    """Return the share of a's keypoints that b has too, within 2 pixels and 32 bits."""
    ours, theirs = a["keypoints"][: a["count"]], b["keypoints"][: b["count"]]
    near = [np.abs(ours[axis][:, None].astype(int) - theirs[axis].astype(int)) <= 128 for axis in "xy"]
    bits = np.bitwise_count(ours["code"][:, None] ^ theirs["code"]).sum(2, dtype=int)
    return float((near[0] & near[1] & (bits <= 32)).any(axis=1).mean())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_plane_turned_over_is_described_as_if_it_were_looked_at_anew(seed: int) -> None:
    plane = plane_of(Frame(corpus.picture(seed)))
    plain, over = sketch_both(plane, MAX_KEYPOINTS)
    anew = sketch_both(turned_over(plane), MAX_KEYPOINTS)[0]
    assert over["grid"].tobytes() == anew["grid"].tobytes()
    assert sharing(over, anew) > 0.6  # not all: which are chosen depends on where a part of the picture begins
    assert sharing(over, plain) < 0.1


def test_keypoints_say_how_they_are_turned_and_of_what_scale_they_are() -> None:
    plane = plane_of(Frame(corpus.picture(4, 512, 512)))
    upright, turned = described(plane, 300), described(np.ascontiguousarray(np.rot90(plane, -1)), 300)
    bits = np.bitwise_count(upright["code"][:, None] ^ turned["code"]).sum(2, dtype=int)
    rows = np.flatnonzero(bits.min(1) <= 16)
    mates = bits.argmin(1)[rows]
    assert len(rows) > 100
    apart = (turned["angle"][mates] - upright["angle"][rows]).astype(int)
    assert np.mean(np.abs(apart - 64) <= 3) > 0.9  # a quarter of 256, clockwise as rows go down
    assert np.mean(turned["octave"][mates] == upright["octave"][rows]) > 0.9
    assert upright["octave"].max() < OCTAVES


@pytest.mark.parametrize("seed", SEEDS)
def test_depth_and_colour_hardly_change_a_sketch(seed: int) -> None:
    photo = corpus.picture(seed)
    grey = np.asarray(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY))
    frames = [
        Frame(photo), Frame(grey), Frame(np.dstack([grey] * 3)), Frame(grey.astype(np.uint16) * 4, scale=0.25),
        Frame(grey.astype(np.uint16) * 256 + 99, scale=1 / 256),
    ]  # fmt: skip
    first, *others = (sketch(plane_of(frame), ENROLL_KEYPOINTS)[0] for frame in frames)
    for other in others:
        assert sharing(first, other) > 0.95
        assert np.bitwise_count(first["grid"] ^ other["grid"]).sum() < 0.01 * 8 * GRID_BYTES
    limited = Frame((grey * (219 / 255) + 16).round().astype(np.uint8), black=16.0, scale=255 / 219)
    assert sharing(first, sketch(plane_of(limited), ENROLL_KEYPOINTS)[0]) > 0.6


# --- a sketch as bytes ------------------------------------------------------------------


def test_a_packed_sketch_is_short_and_comes_back(known: list[Sketches]) -> None:
    empty = np.zeros(1, SKETCH_DTYPE)
    empty["width"] = empty["height"] = 1
    for row in [one.copy() for one in known] + [empty]:
        row["timestamp_s"], row["until_s"] = 1.5, 2.5
        packed = pack_sketch(row[0])
        assert len(packed) == 6 + GRID_BYTES + int(row["count"][0]) * KEYPOINT_DTYPE.itemsize
        assert unpack_sketch(packed, 1.5, 2.5).tobytes() == row.tobytes()


def test_a_sketch_of_all_keypoints_comes_back() -> None:
    noise = np.random.default_rng(3).integers(0, 256, (512, 512), dtype=np.uint8)
    row = sketch(noise, MAX_KEYPOINTS)
    assert int(row["count"][0]) == MAX_KEYPOINTS
    assert unpack_sketch(pack_sketch(row[0]), np.nan, np.nan).tobytes() == row.tobytes()


@given(st.data())
def test_a_cut_or_longer_sketch_is_refused(known: list[Sketches], data: st.DataObject) -> None:
    packed = pack_sketch(known[0][0])
    cut = packed[: data.draw(st.integers(0, len(packed) - 1))]
    longer = packed + data.draw(st.binary(min_size=1, max_size=80))
    for damaged in (cut, longer):
        with pytest.raises(ValueError):
            unpack_sketch(damaged, 0.0, 0.0)


@pytest.mark.parametrize("left", [0, 1, 5, 6, 7, 6 + GRID_BYTES - 1, 6 + GRID_BYTES, 6 + GRID_BYTES + 35])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_sketch_cut_at_a_seam_is_whole_or_refused(left: int, count: int) -> None:
    """One byte of a grid must not be taken for all of it."""
    packed = np.array([512, 384, count], "<u2").tobytes() + bytes(GRID_BYTES) + bytes(2 * KEYPOINT_DTYPE.itemsize)
    if left == 6 + GRID_BYTES and count == 0:
        assert int(unpack_sketch(packed[:left], 0.0, 0.0)["count"][0]) == 0
        return
    with pytest.raises(ValueError):
        unpack_sketch(packed[:left], 0.0, 0.0)


@pytest.mark.parametrize("head", [(0, 384, 1), (512, 0, 1), (513, 384, 1), (512, 65535, 1), (512, 384, 2)])
def test_a_head_out_of_range_is_refused(head: tuple[int, int, int]) -> None:
    rest = bytes(GRID_BYTES + KEYPOINT_DTYPE.itemsize)
    assert len(unpack_sketch(np.array([512, 384, 1], "<u2").tobytes() + rest, 0.0, 0.0)) == 1
    with pytest.raises(ValueError, match="not a"):
        unpack_sketch(np.array(head, "<u2").tobytes() + rest, 0.0, 0.0)


def test_more_keypoints_than_a_sketch_has_are_refused() -> None:
    many = MAX_KEYPOINTS + 1
    packed = np.array([9, 9, many], "<u2").tobytes() + bytes(GRID_BYTES + many * KEYPOINT_DTYPE.itemsize)
    with pytest.raises(ValueError, match="not a sketch"):
        unpack_sketch(packed, 0.0, 0.0)


@given(st.binary(max_size=2000))
def test_random_bytes_are_a_sketch_or_a_value_error(data: bytes) -> None:
    try:
        row = unpack_sketch(data, 0.0, 0.0)[0]
    except ValueError:
        return
    assert pack_sketch(row) == data


# --- copies -----------------------------------------------------------------------------


def crop(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    y, x = round(0.15 * height), round(0.15 * width)
    return np.ascontiguousarray(picture[y : height - y, x : width - x])


def turned(degrees: float) -> Callable[[Picture], Picture]:
    """Turn about the middle, clockwise, in a frame of the same size."""

    def edit(picture: Picture) -> Picture:
        height, width = picture.shape[:2]
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1.0)  # OpenCV's are anti-clockwise
        return np.asarray(cv2.warpAffine(picture, matrix, (width, height)), np.uint8)

    return edit


def test_turned_turns_clockwise() -> None:
    """The truth that `turn_deg` is held to: what was above is to the right after 90 degrees."""
    dot = np.zeros((101, 101, 3), np.uint8)
    dot[10, 50] = 255
    rows, columns = np.nonzero(turned(90)(dot)[..., 0] > 100)
    assert abs(rows.mean() - 50) <= 1
    assert abs(columns.mean() - 90) <= 1


def phone(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    canvas = np.full((round(2.16 * width), width, 3), 18, np.uint8)
    top = (len(canvas) - height) // 2
    canvas[top : top + height] = picture
    return canvas


def perspective(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    moved = np.array([[0.08, 0.05], [0.97, 0], [1, 1], [0, 0.93]], np.float32)
    side = np.array([width, height], np.float32)
    matrix = cv2.getPerspectiveTransform(corners * side, moved * side)
    return np.asarray(cv2.warpPerspective(picture, matrix, (width, height)), np.uint8)


def half(picture: Picture) -> Picture:
    return np.asarray(cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)


def reencoded(picture: Picture) -> Picture:
    return corpus.decode(corpus.jpeg(picture, 30))


def area_of_turned(degrees: float, size: int = 801) -> float:
    """Return the share of a 4:3 frame that a copy turned within it still shows."""
    full = np.full((size * 3 // 4, size, 3), 255, np.uint8)
    return float((turned(degrees)(full)[..., 0] > 127).mean())


# What was done, and the truth about it: area, cover, turn_deg.
COPIES: dict[str, tuple[Callable[[Picture], Picture], float, float, float]] = {
    "nothing": (lambda picture: picture, 1.0, 1.0, 0.0),
    "crop": (crop, 0.49, 1.0, 0.0),
    "turned": (turned(10), area_of_turned(10), area_of_turned(10), 10.0),
    "turned_back": (turned(-10), area_of_turned(10), area_of_turned(10), -10.0),
    "upside_down": (turned(180), 1.0, 1.0, 180.0),
    "phone": (phone, 1.0, 480 / 1382, 0.0),
    "half": (half, 1.0, 1.0, 0.0),
    "reencoded": (reencoded, 1.0, 1.0, 0.0),
    "perspective": (perspective, 1.0, 0.89, -2.2),
}


def apart(a: float, b: float) -> float:
    return abs((a - b + 180) % 360 - 180)


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_confirmed_with_the_map_that_made_it(name: str, photos: list[Picture], known: list[Sketches]) -> None:
    edit, area, cover, turn = COPIES[name]
    for seed in SEEDS:
        evidence = seen(edit(photos[seed]), known[seed])
        assert in_range(evidence)
        assert evidence["inliers"] >= 8
        assert len(shown(evidence)) >= 20
        assert agreeing(evidence) >= 0.8
        assert shown(evidence).mean() > 0.5
        assert float(evidence["area"]) == pytest.approx(area, abs=0.07)
        assert float(evidence["cover"]) == pytest.approx(cover, abs=0.07)
        assert apart(float(evidence["turn_deg"]), turn) < 1.5


def test_a_mirrored_copy_is_confirmed_on_the_plane_turned_over(photos: list[Picture], known: list[Sketches]) -> None:
    for seed in SEEDS:
        over = np.ascontiguousarray(photos[seed][:, ::-1])
        evidence, wrong = seen(over, known[seed], mirrored=True), seen(over, known[seed])
        assert evidence["inliers"] >= 8
        assert agreeing(evidence) >= 0.8
        assert shown(evidence).mean() > 0.5
        # Turned-over corners are others than a fresh look chooses: the map is found, not given.
        assert (float(evidence["area"]), float(evidence["cover"])) == pytest.approx((1.0, 1.0), abs=0.05)
        assert wrong["inliers"] < 0.2 * evidence["inliers"]


def test_the_turn_of_a_mirrored_copy_is_that_of_its_plane_turned_over(
    photos: list[Picture], known: list[Sketches]
) -> None:
    copy = np.ascontiguousarray(turned(10)(photos[2])[:, ::-1])
    assert float(seen(copy, known[2], mirrored=True)["turn_deg"]) == pytest.approx(10, abs=1.5)


def test_what_surrounds_a_copy_is_not_covered_by_it(photos: list[Picture], known: list[Sketches]) -> None:
    """A cropped copy in an app's frame: the map reaches beyond the query, which it cannot show."""
    height, width = photos[1].shape[:2]
    for seed in SEEDS:
        inside = np.asarray(cv2.resize(crop(photos[seed]), (width, height)), np.uint8)
        evidence = seen(phone(inside), known[seed])
        assert evidence["inliers"] >= 8
        assert evidence["area"] < 0.75
        assert evidence["cover"] < 0.6


# --- other pictures ---------------------------------------------------------------------


def test_other_pictures_have_few_inliers_or_other_edges(known: list[Sketches]) -> None:
    for seed, copy in product(range(12), range(51, 56)):
        evidence = seen(corpus.picture(copy), known[seed])
        assert in_range(evidence)
        agreement = shown(evidence)
        assert evidence["inliers"] < 5 or not len(agreement) or agreement.mean() < 0.3, (seed, copy, evidence)


MIDDLE = slice(GRID_SIDE // 4, -GRID_SIDE // 4)


@pytest.mark.parametrize("seed", SEEDS)
def test_another_subject_before_the_same_background_shows(
    seed: int, photos: list[Picture], known: list[Sketches]
) -> None:
    height, width = photos[seed].shape[:2]
    tall, wide = round(0.74 * height), round(0.74 * width)  # 55 % of the area
    y, x = (height - tall) // 2, (width - wide) // 2
    other = photos[seed].copy()
    other[y : y + tall, x : x + wide] = corpus.picture(seed + 100)[:tall, :wide]
    evidence, copy = seen(other, known[seed]), seen(reencoded(photos[seed]), known[seed])
    assert evidence["inliers"] >= 5, "else nothing is tested"
    assert agreeing(evidence) <= 0.6
    assert agreeing(copy) >= 0.95
    assert shown(evidence).mean() < shown(copy).mean() - 0.3
    alike = evidence["agreement"].reshape(8, 8) > 50
    inner = np.zeros((8, 8), bool)
    inner[1:7, 1:7] = True
    assert alike[inner].sum() <= 0.25 * inner.sum()
    assert alike[~inner].sum() >= 0.7 * (~inner).sum(), "blocks that the other subject does not touch"


def test_a_plain_subject_before_the_same_background_shows(photos: list[Picture], known: list[Sketches]) -> None:
    """Where only one of two pictures has edges, they disagree."""
    height, width = photos[3].shape[:2]
    middle = (slice(height // 4, height * 3 // 4), slice(width // 4, width * 3 // 4))
    plain, cut_out = photos[3].copy(), photos[3].copy()
    plain[middle] = 128 + np.random.default_rng(1).normal(0, 6, plain[middle].shape)
    cut_out[middle] = 128
    bare = sketch(plane_of(Frame(cut_out)), ENROLL_KEYPOINTS)
    for evidence in (seen(plain, known[3]), seen(photos[3], bare)):
        agreement = evidence["agreement"].reshape(8, 8)
        assert evidence["inliers"] >= 20
        assert (agreement[3:5, 3:5] <= 10).all()
        assert agreement[0].mean() > 60


@pytest.mark.parametrize("level", [0, 128, 255])
def test_what_is_covered_by_a_dead_flat_box_is_not_shown(
    level: int, photos: list[Picture], known: list[Sketches]
) -> None:
    """A censor's box is no other subject: it is neither for nor against a match, and less of the picture is shown."""
    height, width = photos[3].shape[:2]
    boxed = photos[3].copy()
    boxed[height // 4 : height * 3 // 4, width // 4 : width * 3 // 4] = level
    evidence, whole = seen(reencoded(boxed), known[3]), seen(photos[3], known[3])
    agreement = evidence["agreement"].reshape(8, 8)
    assert (agreement[3:5, 3:5] == NOT_SHOWN).all()
    assert agreement[0].mean() > 60
    assert evidence["area"] == pytest.approx(0.75 * whole["area"], abs=0.06)


# --- pictures of nothing ----------------------------------------------------------------

FLAT = [np.full((300, 400, 3), level, np.uint8) for level in (0, 128, 255)]
RAMP = [np.ascontiguousarray(np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 256, 3)))]
TINY = [corpus.picture(1, 64, 64)[:height, :width] for height, width in product((1, 2, 7, 16), repeat=2)]
THIN = [corpus.picture(1, 600, 600)[:3], corpus.picture(1, 600, 600)[:, :3], np.zeros((2, 65535, 3), np.uint8)]


@pytest.mark.parametrize("number", range(len(FLAT + RAMP)))
def test_a_picture_without_corners_has_no_keypoints_and_no_evidence(number: int, known: list[Sketches]) -> None:
    blank = (FLAT + RAMP)[number]
    row = sketch(plane_of(Frame(blank)), QUERY_KEYPOINTS)
    assert int(row["count"][0]) == 0
    empty = no_evidence()[0]
    for reference in (known[0], row):
        assert seen(blank, reference) == empty
    assert seen(corpus.picture(1), row) == empty
    assert unpack_sketch(pack_sketch(row[0]), np.nan, np.nan).tobytes() == row.tobytes()


@pytest.mark.parametrize("number", range(len(TINY + THIN)))
def test_a_tiny_or_thin_picture_raises_nothing(number: int, known: list[Sketches]) -> None:
    tiny = (TINY + THIN)[number]
    row = sketch(plane_of(Frame(tiny)), QUERY_KEYPOINTS)
    for evidence in (seen(tiny, known[0]), seen(tiny, row), seen(corpus.picture(0), row)):
        assert in_range(evidence)


# --- sketches that nobody made from a picture -------------------------------------------


@st.composite
def sketches(draw: st.DrawFn, codes: NDArray[np.uint8]) -> Sketches:
    """Draw a sketch of any size with codes from a common pool, at places that may lie beyond its sides."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    row = np.zeros(1, SKETCH_DTYPE)
    sides = st.sampled_from([0, 1, 2, 16, 512, 65535]) | st.integers(0, 65535)
    row["width"], row["height"] = draw(sides), draw(sides)
    count = draw(st.sampled_from([0, 4, 5, 30, MAX_KEYPOINTS]) | st.integers(0, MAX_KEYPOINTS))
    row["count"] = draw(st.just(count) | st.sampled_from([65535]))
    reach = draw(st.sampled_from([1, 2, 64, 1024, 65536]))
    for axis in "xy":
        row["keypoints"][axis] = rng.integers(0, reach, MAX_KEYPOINTS)
    row["keypoints"]["code"] = codes[: len(row["keypoints"])]
    if draw(st.booleans()):
        row["keypoints"]["y"] = row["keypoints"]["x"]  # all on a line
    row["grid"] = rng.integers(0, 256, GRID_BYTES)
    return row


CODES = np.random.default_rng(7).integers(0, 256, (MAX_KEYPOINTS, 32), dtype=np.uint8)


@given(sketches(CODES), sketches(CODES), st.booleans(), st.integers(16, 70), st.integers(16, 70))
@example(np.zeros(1, SKETCH_DTYPE), np.zeros(1, SKETCH_DTYPE), False, 16, 16)
def test_any_two_sketches_give_evidence_in_range(
    query: Sketches, reference: Sketches, alike: bool, height: int, width: int
) -> None:
    if alike:  # under some map, so that the geometry finds one
        shift = np.arange(MAX_KEYPOINTS) % 3
        for axis in "xy":
            reference["keypoints"][axis] = query["keypoints"][axis] // 2 + shift
    plane = np.random.default_rng(height * width).integers(0, 256, (height, width), dtype=np.uint8)
    evidence = confirm(plane, query[0], reference[0])
    assert in_range(evidence[0])
    assert ((evidence["agreement"] >= -100) | (evidence["agreement"] == NOT_SHOWN)).all()
    assert evidence.tobytes() == confirm(plane, query[0], reference[0]).tobytes()


@pytest.mark.parametrize("side", ["width", "height"])
def test_a_reference_without_a_side_shows_nothing(side: str, photos: list[Picture], known: list[Sketches]) -> None:
    broken = known[0].copy()
    broken[side] = 0
    assert seen(photos[0], broken) == no_evidence()[0]
