"""Edits beyond the list of 109: dials, chains by chance, harder ones; and the table of them in the docs."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks import corpus as made
from benchmarks.robustness import edits_hard
from benchmarks.robustness.edits import CHAINS, EDITS, apply, chains, chosen, edit_of, family
from benchmarks.robustness.edits_base import decode, resized
from benchmarks.robustness.edits_dials import DIALS, dial_of, dialled, swept

Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def small() -> list[Picture]:
    return [resized(made.picture(seed), 200, 150) for seed in range(40, 45)]


def difference(picture: Picture, other: Picture) -> float:
    return float(np.abs(picture.astype(np.int32) - resized(other, picture.shape[1], picture.shape[0])).mean())


# --- dials ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", swept())
def test_a_dial_at_a_value_is_an_edit_that_its_name_makes_again(name: str, small: list[Picture]) -> None:
    picture, *others = small
    data = apply(name, picture, 3, others)
    assert data == apply(name, picture, 3, others)
    assert edit_of(name).name == name
    assert min(Image.open(io.BytesIO(data)).size) >= 8


@pytest.mark.parametrize(
    "dial", [name for name in DIALS if name not in ("hue", "rotation", "tilt", "crop", "pip", "frame", "letterbox",
                                                    "caption", "stretch", "bar", "perspective", "blend")]
)  # fmt: skip
def test_more_of_a_dial_changes_the_picture_more(dial: str, small: list[Picture]) -> None:
    """Of dials that keep the outline, the first value of a sweep is the weakest and the last the strongest."""
    picture, *others = small
    ends = [decode(DIALS[dial].at(value).apply(picture, 5, others)) for value in (DIALS[dial].sweep[0],
                                                                                  DIALS[dial].sweep[-1])]  # fmt: skip
    assert difference(picture, ends[0]) < difference(picture, ends[1])


def test_a_crop_keeps_the_share_of_the_area_that_it_says(small: list[Picture]) -> None:
    for share in DIALS["crop"].sweep:
        kept = decode(apply(f"crop~{share:g}", small[0], 1)).shape
        assert kept[0] * kept[1] / (150 * 200) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("name", DIALS)
def test_values_are_drawn_within_their_bounds(name: str) -> None:
    dial = DIALS[name]
    drawn = [dial_of(dial.drawn(np.random.default_rng(seed))) for seed in range(50)]
    values = [place[1] for place in drawn if place]
    low, high = sorted((dial.weak, dial.strong))
    assert len(values) == 50
    assert low * 0.99 <= min(values) < max(values) <= high * 1.01
    assert len(set(values)) > 5


def test_a_name_that_means_nothing_is_refused() -> None:
    for name in ("nonsense", "nonsense~3", "crop~much", "crop_edge_10~2"):
        with pytest.raises(ValueError, match="there is no edit or family"):
            chosen(name, 1, 1)
    assert dial_of("crop_edge_10") is None
    assert dialled("jpeg~30").quality == 30


# --- chains -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CHAINS)
def test_chains_are_of_different_families_in_the_order_of_uploads(kind: str) -> None:
    names = chains(kind, 3, 120)
    assert names == chains(kind, 3, 120)
    assert names != chains(kind, 4, 120)
    assert len(set(names)) == 120
    order = ("dihedral", "rotation", "crop", "colour", "overlay", "blur_noise", "embedding", "frame", "ui", "scale",
             "camera", "codec")  # fmt: skip
    seen: set[str] = set()
    for name in names:
        assert family(name) == kind
        places = [order.index(edit_of(step).family) for step in name.partition(":")[2].split("+")]
        assert places == sorted(set(places))
        assert len(places) in CHAINS[kind]
        seen |= {order[place] for place in places}
    assert seen == set(order)


def test_chains_are_applied_in_a_row(small: list[Picture]) -> None:
    picture, *others = small
    once = decode(apply("crop~0.5", picture, 1))
    assert apply("pairs:crop~0.5+resize~0.5", picture, 1) == apply("resize~0.5", once, 1)
    for name in (*chains("pairs", 1, 12), *chains("triples", 1, 12), *chains("chains", 1, 12)):
        assert min(decode(apply(name, picture, 2, others)).shape[:2]) >= 8


def test_words_choose_edits_chains_and_sweeps() -> None:
    assert chosen("all", 1, 5) == list(EDITS)
    assert chosen("dihedral,jpeg_q50,crop~0.3", 1, 5) == [
        "mirror", "flip_v", "rot90_90", "rot90_180", "rot90_270", "jpeg_q50", "crop~0.3"]  # fmt: skip
    assert [family(name) for name in chosen("pairs,triples", 1, 5)] == ["pairs"] * 5 + ["triples"] * 5
    assert {family(name) for name in chosen("sweeps", 1, 5)} == {"sweeps"}
    assert len(chosen("sweeps", 1, 5)) == len(swept())


# --- harder ones ------------------------------------------------------------------------


def test_tiles_are_the_same_pixels_elsewhere(small: list[Picture]) -> None:
    picture = small[0]
    again = edits_hard.shuffled_tiles(3, picture, np.random.default_rng(1))
    assert again.shape == (150, 198, 3)
    assert (np.sort(again.ravel()) == np.sort(picture[:, :198].ravel())).all()
    assert (again != picture[:, :198]).any()


def test_the_densest_part_is_the_one_with_the_edges() -> None:
    flat = np.full((200, 400, 3), 128, np.uint8)
    flat[20:80, 300:380] = np.random.default_rng(1).integers(0, 256, (60, 80, 3))
    part = edits_hard.crop_densest(0.25, flat)
    assert part.shape == (100, 200, 3)
    assert (part != 128).sum() == (flat != 128).sum()


def test_a_screenshot_of_a_screenshot_holds_the_picture_twice_as_small(small: list[Picture]) -> None:
    once = decode(apply("screenshot_dark", small[0], 1))
    twice = decode(apply("screenshot_twice", small[0], 1))
    assert once.shape == twice.shape == (1480, 720, 3)
    assert difference(once, twice) > 10


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder laid out as AugLy's."""
    for folder in ("twemojis/smileys", "screenshot_templates"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGBA", (72, 72), (255, 0, 0, 255)).save(tmp_path / "twemojis/smileys/red.png")
    for name in ("mobile", "web"):
        Image.new("RGB", (300, 400), (250, 250, 250)).save(tmp_path / f"screenshot_templates/{name}.png")
    boxes = {"mobile.png": [10, 20, 210, 170], "web.png": [50, 20, 150, 120]}
    (tmp_path / "screenshot_templates/bboxes.json").write_text(json.dumps(boxes))
    monkeypatch.setenv(edits_hard.ASSETS, str(tmp_path))
    return tmp_path


def test_templates_and_emoji_of_augly_are_used_where_they_are(assets: Path, small: list[Picture]) -> None:
    assert set(edits_hard.at_hand()) == set(edits_hard.HARDER) == set(chosen("harder", 1, 1))
    screen = decode(apply("augly_mobile", small[0], 1))
    assert screen.shape == (400, 300, 3)
    assert difference(small[0], screen[20:170, 10:210]) < 8
    covered = decode(apply("augly_emoji_40", small[0], 1))
    red = (covered[..., 0] > 200) & (covered[..., 1] < 60)
    assert red.sum() == pytest.approx(80 * 80, rel=0.1)


def test_without_the_assets_their_edits_are_left_out(monkeypatch: pytest.MonkeyPatch, small: list[Picture]) -> None:
    monkeypatch.delenv(edits_hard.ASSETS, raising=False)
    assert not [name for name in chosen("harder", 1, 1) if name.startswith("augly")]
    with pytest.raises(ValueError, match="assets"):
        apply("augly_web", small[0], 1)


# --- the docs ---------------------------------------------------------------------------


def test_the_docs_name_every_edit_and_every_dial() -> None:
    page = (Path(__file__).parent.parent / "docs" / "robustness.md").read_text()
    for name in (*EDITS, *edits_hard.HARDER):
        assert f"`{name}`" in page, name
    for dial in DIALS.values():
        sweep = ", ".join(f"{value:g}" for value in dial.sweep)
        line = f"| `{dial.name}` | {dial.family} | {dial.what} | {dial.weak:g} to {dial.strong:g} | {sweep} |"
        assert line in page, line
