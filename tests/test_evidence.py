"""The second look: a candidate laid straight has all its details, and a stranger is not looked at twice."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from hashing import evidence
from hashing.evidence import confirm
from hashing.keypoints import ENROLL_KEYPOINTS, QUERY_KEYPOINTS, plane_of, sketch
from hashing.media import Frame
from indexer.policy import keypoint_score

Picture = NDArray[np.uint8]


def inside(photo: Picture, other: Picture, share: float) -> Picture:
    """Return a picture in another one, so small a share of its width, a third from its top left."""
    height, width = other.shape[:2]
    size = round(width * share), round(width * share * photo.shape[0] / photo.shape[1])
    made = other.copy()
    small = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    made[height // 4 : height // 4 + size[1], width // 4 : width // 4 + size[0]] = small
    return made


def looked(picture: Picture, reference: np.void) -> tuple[NDArray[np.void], list[NDArray[np.float64]]]:
    """Return the evidence, and with how many maps the picture was laid straight for it."""
    plane, maps = plane_of(Frame(picture)), []
    straight = evidence._straight

    def counted(plane: Picture, matrix: NDArray[np.float64], width: int, height: int) -> tuple[Picture, Picture]:
        maps.append(matrix)
        return straight(plane, matrix, width, height)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "_straight", counted)
        return confirm(plane, sketch(plane, QUERY_KEYPOINTS)[0], reference), maps


def once(picture: Picture, reference: np.void) -> NDArray[np.void]:
    """Return the evidence of a first look alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "_SURE_INLIERS", -1)
        return looked(picture, reference)[0]


@pytest.mark.parametrize("share", [0.33, 0.5])
def test_a_small_picture_in_a_picture_is_surer_after_a_second_look(photos: list[Picture], share: float) -> None:
    gained = []
    for number in range(6):
        reference = sketch(plane_of(Frame(photos[number])), ENROLL_KEYPOINTS)[0]
        copy = inside(photos[number], photos[number + 6], share)
        first = once(copy, reference)
        second, maps = looked(copy, reference)
        if maps:
            gained.append((float(first["inliers"][0]), float(second["inliers"][0])))
            assert keypoint_score(second)[0] >= keypoint_score(first)[0] - 0.5
    before, after = np.array(gained).T
    assert len(gained) >= 3
    assert (after >= before).all()
    assert after.sum() > 1.3 * before.sum()


def test_the_map_of_a_second_look_is_that_of_the_whole_way(photos: list[Picture]) -> None:
    """Also where the copy is turned: what is covered, and by how much it is turned, come from both maps."""
    photo = photos[0]
    reference = sketch(plane_of(Frame(photo)), ENROLL_KEYPOINTS)[0]
    height, width = photo.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), -20, 0.45)
    copy = np.asarray(cv2.warpAffine(photo, turn, (width, height), borderValue=(90, 90, 90)), np.uint8)
    found, maps = looked(copy, reference)
    assert maps, "a sure first look needs no second"
    assert found["turn_deg"][0] == pytest.approx(20, abs=1)
    assert found["cover"][0] == pytest.approx(0.45**2, abs=0.02)
    assert found["area"][0] > 0.97


def test_laid_straight_a_picture_is_what_the_reference_shows(photos: list[Picture]) -> None:
    plane = plane_of(Frame(photos[1]))
    height, width = plane.shape
    copy = np.full_like(plane, 128)
    copy[: height // 2, : width // 2] = cv2.resize(plane, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    straight, shown = evidence._straight(copy, np.diag([2.0, 2.0, 1.0]), width, height)
    assert straight.shape == shown.shape == plane.shape
    assert (shown[8:-8, 8:-8] == 255).all()
    assert (shown[:3] == 0).all()
    assert (shown[:, :3] == 0).all()
    assert np.abs(straight.astype(int) - plane)[shown > 0].mean() < 6


def test_strangers_are_hardly_ever_looked_at_twice(photos: list[Picture]) -> None:
    twice = 0
    for number in range(6):
        reference = sketch(plane_of(Frame(photos[number])), ENROLL_KEYPOINTS)[0]
        for other in range(6, 12):
            found, maps = looked(photos[other], reference)
            twice += len(maps)
            assert keypoint_score(found)[0] < 0
    assert twice <= 4


def test_a_sure_copy_is_looked_at_once(photos: list[Picture]) -> None:
    reference = sketch(plane_of(Frame(photos[2])), ENROLL_KEYPOINTS)[0]
    found, maps = looked(photos[2], reference)
    assert (found["inliers"][0] > 100, maps) == (True, [])
