"""Frames -> rows: symmetries, trimmed views, still scenes; against the frame hashes of others."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import corpus
from hashing import video
from hashing.clips import Clip
from hashing.hasher import Plan, hash_media
from hashing.keypoints import ENROLL_KEYPOINTS, QUERY_KEYPOINTS, plane_of, sketch_both
from hashing.media import Frame, Limits, Sampling, sniff
from hashing.pdq import pdq
from hashing.signals import CLASSIC, PROFILE_OF_TYPE, TRANSFORMS, Frames, SignalType, distance, distances
from hashing.video import SKETCH_SPACING_S, _pdq, hash_frames

Picture = NDArray[np.uint8]
PDQ_ONLY = frozenset({SignalType.PDQ})


def rows_of(frames: list[Frame], sampling: Sampling = Sampling.DENSE) -> Frames:
    return hash_frames(frames, sampling, PDQ_ONLY).frames


def test_enrolment_keeps_one_form_and_a_query_asks_for_eight(photo: Picture) -> None:
    known, asked = rows_of([Frame(photo)]), rows_of([Frame(photo)], Sampling.SPARSE)
    assert known["transform"].tolist() == [0]
    assert asked["transform"].tolist() == list(range(len(TRANSFORMS)))
    assert np.array_equal(asked["hash"], pdq(photo).codes)
    assert np.array_equal(known["hash"][0], asked["hash"][0])
    assert set(asked["quality"]) == {pdq(photo).quality}


def test_a_bordered_frame_has_a_trimmed_view_too(photo: Picture) -> None:
    rows = rows_of([Frame(corpus.EDITS["letterbox"](photo))])
    assert rows["view"].tolist() == [0, 1]
    assert distance(bytes(rows["hash"][1]), bytes(pdq(photo).codes[0])) <= 16
    assert distance(bytes(rows["hash"][0]), bytes(pdq(photo).codes[0])) > 60


def test_classic_types_are_added_when_asked_for(photo: Picture) -> None:
    types = frozenset({SignalType.PDQ, *CLASSIC})
    found = hash_frames([Frame(photo)], Sampling.SPARSE, types)
    rows = found.frames
    assert found.count == 1
    assert sorted(rows["profile"].tolist()) == sorted([0] * 8 + [PROFILE_OF_TYPE[kind] for kind in CLASSIC])
    deep = Frame(photo[..., 1].astype(np.uint16) * 4, 0.0, 0.0, 0.25)
    shown = Frame(photo[..., 1])
    for a, b in zip(*(hash_frames([f], Sampling.DENSE, types).frames[1:] for f in (deep, shown)), strict=True):
        assert distance(bytes(a["hash"]), bytes(b["hash"])) <= 2


def test_a_still_scene_is_one_row_with_the_time_it_stood(photos: list[Picture]) -> None:
    shown = [0, 0, 0, 1, 1, 0]
    frames = [Frame(photos[number], time / 10) for time, number in enumerate(shown)]
    found = hash_frames(frames, Sampling.DENSE, PDQ_ONLY)
    rows = found.frames
    assert found.count == 6
    assert rows["timestamp_s"].tolist() == [0.0, 0.3, 0.5]
    assert rows["until_s"].tolist() == [0.2, 0.4, 0.5]


def test_slow_change_is_not_swallowed(photo: Picture) -> None:
    """Each frame is compared with the last row kept, not with the frame before."""
    a, b = photo[::2, ::2], corpus.picture(2)[::2, ::2]
    mixed = [(a * (1 - share) + b * share).astype(np.uint8) for share in np.linspace(0, 1, 60)]
    rows = rows_of([Frame(picture, time / 10) for time, picture in enumerate(mixed)])
    for picture in mixed:
        assert distances(rows["hash"], pdq(picture).codes[0]).min() <= 4


def test_no_frames_give_no_rows() -> None:
    for types in (PDQ_ONLY, PDQ_ONLY | {SignalType.KEYPOINTS}):
        found = hash_frames([], Sampling.SPARSE, types)
        assert (len(found.frames), found.count, len(found.sketches), found.planes) == (0, 0, 0, ())


def test_black_level_and_scale_do_not_change_the_hash(photo: Picture) -> None:
    grey = photo[..., 1]
    limited = Frame((grey * (219 / 255) + 16).round().astype(np.uint8), 0.0, 16.0, 255 / 219)
    assert distances(_pdq(limited, limited.pixels).codes, pdq(np.ascontiguousarray(grey)).codes[0])[0] <= 4
    assert abs(_pdq(limited, limited.pixels).quality - pdq(np.ascontiguousarray(grey)).quality) <= 2


# --- sketches ---------------------------------------------------------------------------


KEYPOINTS = frozenset({SignalType.PDQ, SignalType.KEYPOINTS})


def shown(photos: list[Picture], step_s: float, count: int) -> list[Frame]:
    """Return frames that all differ from the one before."""
    return [Frame(photos[number % len(photos)][::4, ::4], number * step_s) for number in range(count)]


def test_sketches_are_taken_only_where_they_are_asked_for(photos: list[Picture]) -> None:
    for sampling in Sampling:
        found = hash_frames(shown(photos, 2.0, 4), sampling, frozenset(SignalType) - {SignalType.KEYPOINTS})
        assert (len(found.sketches), found.planes) == (0, ())
        assert len(found.frames)


def test_what_is_enrolled_has_a_sketch_a_second_at_most(photos: list[Picture]) -> None:
    found = hash_frames(shown(photos, 0.3, 20), Sampling.DENSE, KEYPOINTS)
    times = found.sketches["timestamp_s"]
    assert times.tolist() == pytest.approx([0.0, 1.2, 2.4, 3.6, 4.8])
    assert (np.diff(times) >= SKETCH_SPACING_S).all()
    assert found.sketches["until_s"].tolist() == times.tolist()
    assert not found.sketches["mirrored"].any()
    assert found.sketches["count"].max() <= ENROLL_KEYPOINTS
    assert found.planes == ()
    assert found.count == len(found.frames) == 20


def test_a_still_scene_is_sketched_once(photo: Picture) -> None:
    assert len(hash_frames([Frame(photo, time) for time in range(9)], Sampling.DENSE, KEYPOINTS).sketches) == 1


def test_a_query_has_each_sketch_plain_and_mirrored_with_its_plane(photos: list[Picture]) -> None:
    frames = shown(photos, 1.5, 3)
    found = hash_frames(frames, Sampling.SPARSE, KEYPOINTS)
    assert found.sketches["mirrored"].tolist() == [0, 1] * 3
    assert found.sketches["timestamp_s"].tolist() == [0.0, 0.0, 1.5, 1.5, 3.0, 3.0]
    assert len(found.planes) == 6
    for number, frame in enumerate(frames):
        plain, over = found.planes[2 * number : 2 * number + 2]
        assert np.array_equal(plain, plane_of(frame))
        assert np.array_equal(over, plain[:, ::-1])
        for row, again in zip(found.sketches[2 * number :], sketch_both(plain, QUERY_KEYPOINTS), strict=False):
            assert (row["height"], row["width"]) == plain.shape
            for name in ("count", "grid", "keypoints"):
                assert row[name].tobytes() == again[name].tobytes()


def test_stills_are_all_sketched_though_they_have_no_time(photos: list[Picture]) -> None:
    found = hash_frames([Frame(picture) for picture in photos[:3]], Sampling.SPARSE, KEYPOINTS)
    assert len(found.sketches) == 6
    assert np.isnan(found.sketches["timestamp_s"]).all()


@pytest.mark.parametrize(
    ("sampling", "most", "name"),
    [(Sampling.SPARSE, 6, "MAX_QUERY_SKETCHES"), (Sampling.DENSE, 3, "MAX_SKETCHES")],
)
def test_there_are_never_more_sketches_than_the_limit(
    sampling: Sampling, most: int, name: str, photos: list[Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, name, 3)
    for count in range(1, 40):
        found = hash_frames(shown(photos, 1.0, count), sampling, KEYPOINTS)
        times_s = np.unique(found.sketches["timestamp_s"])
        assert len(found.sketches) <= most
        assert len(found.planes) == (len(found.sketches) if sampling is Sampling.SPARSE else 0)
        assert found.count == count
        assert len(set(np.diff(times_s))) <= 1, "they are spread evenly"
        assert times_s[0] == 0
        assert count - 1 - times_s[-1] < max(np.diff(times_s), default=1.0), "up to the end"


def test_planes_belong_to_the_sketches_that_are_kept(photos: list[Picture], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MAX_QUERY_SKETCHES", 3)
    frames = shown(photos, 1.0, 9)
    found = hash_frames(frames, Sampling.SPARSE, KEYPOINTS)
    for row, plane in zip(found.sketches, found.planes, strict=True):
        plain = plane_of(frames[int(row["timestamp_s"])])
        assert np.array_equal(plane, plain[:, ::-1] if row["mirrored"] else plain)


def test_a_scene_that_stands_is_sketched_in_its_turn_and_says_how_long_it_stood(photos: list[Picture]) -> None:
    """A cut half a second after a sketch, and then nothing moves: without its turn it would have none."""
    frames = [Frame(photos[0][::4, ::4], 0.0), *(Frame(photos[1][::4, ::4], 0.5 + n / 10) for n in range(20))]
    found = hash_frames(frames, Sampling.DENSE, KEYPOINTS)
    assert found.sketches["timestamp_s"].tolist() == [0.0, pytest.approx(1.0)]
    assert found.sketches["until_s"].tolist() == [0.0, pytest.approx(2.4)]


def test_a_query_keeps_no_more_planes_than_the_real_limit() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (60, 20, 24, 3), dtype=np.uint8)
    found = hash_frames([Frame(picture, float(time)) for time, picture in enumerate(noise)], Sampling.SPARSE, KEYPOINTS)
    assert video.MAX_QUERY_SKETCHES <= len(found.sketches) == len(found.planes) <= 2 * video.MAX_QUERY_SKETCHES
    assert found.count == 60


# --- edited clips -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def known() -> Frames:
    return hash_media(corpus.clip(21), Plan(Sampling.DENSE)).of_type(SignalType.PDQ)


@pytest.mark.parametrize("name", corpus.CLIP_EDITS)
def test_an_edited_clip_lies_near_the_original(name: str, known: Frames) -> None:
    """Nearly every frame of a query is within 31 bits of an enrolled frame, whatever was done to the clip."""
    asked = hash_media(corpus.edited_clip(21, name), Plan(Sampling.SPARSE)).of_type(SignalType.PDQ)
    nearest = {}
    for row in asked:
        apart = int(distances(known["hash"], row["hash"]).min())
        nearest[float(row["timestamp_s"])] = min(apart, nearest.get(float(row["timestamp_s"]), 256))
    assert np.mean([apart <= 31 for apart in nearest.values()]) >= 0.8


def test_another_clip_lies_far_away(known: Frames) -> None:
    asked = hash_media(corpus.clip(22), Plan(Sampling.SPARSE)).of_type(SignalType.PDQ)
    assert min(int(distances(known["hash"], row["hash"]).min()) for row in asked) > 60


# --- the frame hashes of others ---------------------------------------------------------

# Worst distance in bits over all frames. The doorknob's worst are blurred frames of quality 0.
VPDQ = {
    "chair-22-sd-grey-bar": 6, "chair-22-sd-sepia-bar": 4, "chair-orig-22-sd-bar": 6,
    "doorknob-hd-no-bar": 46, "pattern-hd-no-bar": 4, "pattern-sd-grey-bar": 4,
}  # fmt: skip


@pytest.mark.parametrize("name", VPDQ)
def test_every_frame_has_the_hash_that_vpdq_gives_it(name: str, shared_media: Path) -> None:
    data = (shared_media / "video" / f"{name}.mp4").read_bytes()
    clip = Clip(data, sniff(data), Limits())
    lines = (shared_media / "video-hashes" / f"{name}.txt").read_text().split()
    ours = [_pdq(frame, frame.pixels) for frame in clip._spaced(0.0, clip._decoded())]
    assert len(ours) == len(lines)
    for line in lines:
        number, quality, code, _ = line.split(",")
        found = ours[int(number)]
        apart = distance(bytes(found.codes[0]), bytes.fromhex(code))
        assert apart <= (12 if int(quality) >= 50 else VPDQ[name]), (number, quality)
        assert apart <= VPDQ[name], (number, quality)
        assert abs(found.quality - int(quality)) <= 2
