"""The robustness benchmark: its edits are what they say, and its harness counts rightly."""

import io
import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks import corpus as made
from benchmarks.robustness import bank, clips, corpus, harness, images, peers, scores
from benchmarks.robustness.clips_base import read
from benchmarks.robustness.edits import EDITS, apply
from benchmarks.robustness.edits_base import resized
from benchmarks.robustness.systems import SYSTEMS, Staydown, usable

FAMILIES = {
    "codec": 9, "scale": 10, "crop": 12, "dihedral": 5, "rotation": 9, "frame": 7, "colour": 15, "blur_noise": 9,
    "overlay": 13, "ui": 4, "embedding": 7, "camera": 3, "combos": 6,
}  # fmt: skip


@pytest.fixture(scope="module")
def small() -> list[NDArray[np.uint8]]:
    return [resized(made.picture(seed), 200, 150) for seed in range(40, 45)]


def test_there_are_109_edits_in_their_families() -> None:
    counted = {name: sum(edit.family == name for edit in EDITS.values()) for name in FAMILIES}
    assert counted == FAMILIES
    assert sum(counted.values()) == len(EDITS) == 109


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_gives_the_same_picture_file_for_the_same_seed(name: str, small: list[NDArray[np.uint8]]) -> None:
    picture, *others = small
    before = picture.copy()
    data = apply(name, picture, 7, others)
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.format == ("WEBP" if name.startswith("webp") else "JPEG")
    assert data == apply(name, picture, 7, others)
    assert (picture == before).all()


def test_an_edit_with_other_pictures_says_so(small: list[NDArray[np.uint8]]) -> None:
    with pytest.raises(ValueError, match="needs other pictures"):
        apply("pip_50", small[0], 1)


def _write(folder: Path, count: int) -> None:
    folder.mkdir()
    for seed in range(count):
        (folder / f"{seed}.jpg").write_bytes(made.jpeg(resized(made.picture(100 + seed), 240, 180), 90))
    (folder / "again.jpg").write_bytes((folder / "0.jpg").read_bytes())
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "photos"
    _write(folder, 14)
    return folder


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["images", *map(str, arguments), "--processes", "1"])
    threads = cv2.getNumThreads()
    images.main()
    cv2.setNumThreads(threads)


def test_a_tiny_run_finds_every_recompressed_picture(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = "--edits jpeg_q90,mirror --systems pdq_31,pdq8_31,perception --bank 4 --queries 3"
    _run(monkeypatch, photos, *asked.split(), "--out", tmp_path)
    report = json.loads((tmp_path / "images-tune.json").read_text())
    assert report["families"]["pdq_31"] == {"codec": 1.0, "dihedral": 0.0, "all": 0.5}
    assert report["families"]["pdq8_31"]["all"] == 1.0
    assert report["facts"]["duplicates removed"] == "1"
    turned = [row for row in report["rows"] if row["edit"] == "mirror" and row["group"] == "recall"]
    assert all(row["found_score"] < -31 for row in turned if row["system"] == "pdq_31")  # told, though not found
    assert not [row for row in report["rows"] if "wrong" in row]
    assert str(photos) not in json.dumps(report)
    assert "jpeg_q90" in (tmp_path / "images-tune.md").read_text()


def test_a_bank_that_was_enrolled_is_opened_again(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other half fills it; nothing is enrolled twice, and the answers stay the same."""
    enrolled: list[str] = []
    enroll = Staydown.enroll
    monkeypatch.setattr(Staydown, "enroll", lambda self, key, data: enrolled.append(key) or enroll(self, key, data))
    asked = (
        "--edits crop_edge_10 --systems pdq_31,staydown --queries 2 --edited-distractors 2 --split held_out --bank 12"
    )
    reports = []
    for out in (tmp_path / "first", tmp_path / "second"):
        _run(monkeypatch, photos, "--fill", photos, "--home", tmp_path / "home", *asked.split(), "--out", out)
        reports.append(json.loads((out / "images-held_out.json").read_text()))
    first = reports[0]
    assert len(enrolled) == len(set(enrolled)) == first["enrolled"]
    assert first["families"]["staydown"]["all"] == 1.0
    answers = [[{key: value for key, value in row.items() if key != "seconds"} for row in each["rows"]]
               for each in reports]  # fmt: skip
    assert answers[0] == answers[1]
    split = corpus.pictures([photos], "held_out", 1, [photos], tmp_path / "home")
    assert {item.split for item in split.fill} == {"tune"}
    assert len(split.fill) + len(split.bank) == first["enrolled"]


def test_another_bank_has_another_folder(photos: Path) -> None:
    split = corpus.pictures([photos], "tune", 1)
    items = [*split.bank, *split.distractors]
    assert bank.fingerprint(items) == bank.fingerprint(items[::-1])
    assert bank.fingerprint(items) != bank.fingerprint(items[1:])


def test_what_was_looked_at_is_kept_until_the_file_changes(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(photos, copy)
    (copy / "broken.jpg").unlink()
    look, looked = corpus._looked_at, []
    monkeypatch.setattr(corpus, "_looked_at", lambda path: looked.append(path) or look(path))
    first = corpus.pictures([copy], "tune", 1, home=tmp_path / "home")
    assert len(looked) == 15
    again = corpus.pictures([copy], "tune", 1, home=tmp_path / "home")
    assert [item.sha256 for item in again.bank] == [item.sha256 for item in first.bank]
    assert len(looked) == 15
    (copy / "3.jpg").write_bytes(made.jpeg(resized(made.picture(999), 240, 180), 90))
    corpus.pictures([copy], "tune", 1, home=tmp_path / "home")
    assert looked[15:] == [copy / "3.jpg"]


def test_pictures_like_those_beside_are_left_out() -> None:
    code = np.zeros((1, 32), np.uint8)
    near, far = code.copy(), code + np.uint8(255)
    near[0, 0] = 1
    mine = corpus.Item(Path("a"), "aa", "x", code)
    others = [corpus.Item(Path("b"), "bb", "x", near), corpus.Item(Path("c"), "cc", "x", far)]
    assert [item.path.name for item in corpus.distinct(others, [mine])] == ["c"]
    assert [item.path.name for item in corpus.distinct(others)] == ["b", "c"]


def test_each_edit_has_pictures_of_its_own_while_they_last() -> None:
    items = [corpus.Item(Path(str(number)), f"{number:064}", "x") for number in range(5)]
    taken = [[item.path.name for item in images._slices(items, 2, number)] for number in range(3)]
    assert taken == [["0", "1"], ["2", "3"], ["4", "0"]]


def test_rates_have_wilson_intervals_and_the_rule_of_three() -> None:
    low, high = scores.Rate(9, 10).interval
    assert (round(low, 4), round(high, 4)) == (0.5958, 0.9821)
    assert scores.Rate(0, 300).bound == pytest.approx(0.01)


def test_times_are_right_if_they_fit_the_truth() -> None:
    truth = [(10.0, 13.0, 4.0, 7.0)]
    assert scores.placed([(10.2, 12.8, 4.2, 6.8)], truth)
    assert not scores.placed([(10.2, 12.8, 1.2, 3.8)], truth)
    assert not scores.placed([(0.0, 3.0, 4.0, 7.0)], truth)
    assert not scores.placed([], truth)
    assert scores.placed([(0.0, 0.0, 2.0, 2.0)], [(0.0, 0.0, 2.4, 2.4)])
    assert scores.covered([(10.2, 11.7, 4.2, 5.7)], truth) == pytest.approx(0.5)
    assert scores.covered([(0.0, 0.0, 2.0, 2.0)], [(0.0, 0.0, 2.4, 2.4)]) == 1.0


def test_names_of_edits_and_families_choose() -> None:
    families = {name: edit.family for name, edit in EDITS.items()}
    assert harness.chosen("dihedral,jpeg_q50", families) == [
        "jpeg_q50", "mirror", "flip_v", "rot90_90", "rot90_180", "rot90_270"]  # fmt: skip
    with pytest.raises(ValueError, match="nonsense"):
        harness.chosen("nonsense", families)


def test_clips_tell_the_truth_about_their_times(short_clip: bytes) -> None:
    take = read(short_clip)
    other = read(made.clip(9, duration_s=0.8, width=160, height=120))
    assert len(clips.CLIP_EDITS) == 38
    for name in ("trim_0.37", "speed_2", "reverse", "black_2s_both", "splice_3s", "screen_recording", "gif"):
        data, spans = clips.apply(name, take, 1, [other])
        made_twice = [clips.CLIP_EDITS[name].make(take, np.random.default_rng(1), [other]) for _ in range(2)]
        assert all((a == b).all() for a, b in zip(*(each.frames for each in made_twice), strict=True))
        edited = read(data, 60)
        for start, end, since, until in spans:
            assert 0 <= start < end <= edited.seconds + 0.2
            assert 0 <= min(since, until) < max(since, until) <= take.seconds + 0.01
    data, ((start, _, since, _),) = clips.apply("still", take, 1)
    assert Image.open(io.BytesIO(data)).format == "JPEG"
    assert (start, since) == (0.0, pytest.approx(take.seconds * 0.4))


# --- peers ------------------------------------------------------------------------------

_FAKE = """
import numpy
print("libraries print")
class PHash:
    def __init__(self, **settings): self.settings = settings
    def compute(self, picture, hash_format):
        if picture.shape[0] < 20: raise ValueError
        return numpy.resize(picture[..., 0] > 100, 256) if self.settings["hash_size"] == 16 else None
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library called perception, for the other environment's Python."""
    (tmp_path / "perception").mkdir()
    (tmp_path / "perception" / "__init__.py").touch()
    (tmp_path / "perception" / "hashers.py").write_text(_FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv(peers.PYTHON, sys.executable)


@pytest.mark.usefixtures("library")
def test_a_peer_hashes_in_its_own_process(tmp_path: Path) -> None:
    system = SYSTEMS["perception"](tmp_path)
    picture = made.jpeg(resized(made.picture(3), 160, 120), 90)
    system.enroll("known", picture)
    system.enroll("tiny", made.jpeg(resized(made.picture(3), 16, 12), 90))
    system.keep()
    assert [(answer.key, answer.score, answer.verdict) for answer in system.query(picture)] == [("known", 0, "match")]
    assert system.query(b"no picture") == []
    system.close()
    again = SYSTEMS["perception"](tmp_path)
    assert again.knows("known")
    assert again.knows("tiny")  # though it has no hash
    again.close()


@pytest.mark.usefixtures("library")
def test_a_peer_that_has_ended_is_not_one_that_found_nothing() -> None:
    peer = peers.Peer("perception")
    peer._process.kill()
    peer._process.wait()
    with pytest.raises(RuntimeError, match="has ended"):
        peer.hash(b"anything")
    peer.close()


def test_a_peer_that_is_not_installed_is_skipped_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    assert usable(["pdq_31", "imagededup"]) == ["pdq_31"]
    assert "imagededup is skipped" in capsys.readouterr().out


def test_a_hash_tells_the_nearest_beyond_its_radius(tmp_path: Path) -> None:
    system = SYSTEMS["pdq_31"](tmp_path)
    pictures = {str(seed): made.jpeg(resized(made.picture(seed), 160, 120), 90) for seed in range(60, 68)}
    for key, data in pictures.items():
        system.enroll(key, data)
    told = {answer.key: answer for answer in system.query(pictures["60"])}
    assert len(told) >= 5
    assert {key for key, answer in told.items() if answer.verdict == "match"} == {"60"}
    assert all(answer.score < -31 for key, answer in told.items() if key != "60")
