"""Films are cut into clips that stay in one half, and times are scored by their overlap."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import corpus as made
from benchmarks.robustness import corpus, cutting
from benchmarks.robustness.clips_base import read
from benchmarks.robustness.scores import iou, overlaps


def test_a_film_becomes_pieces_of_one_half_and_a_clip_is_copied(tmp_path: Path) -> None:
    films, out = tmp_path / "films", tmp_path / "out"
    films.mkdir()
    film = made.clip(1, duration_s=17.0, width=96, height=64, fps=10)
    (films / "film.mp4").write_bytes(film)
    (films / "clip.webm").write_bytes(clip := made.clip(2, duration_s=5.0, width=96, height=64, container="webm",
                                                        codec="libvpx"))  # fmt: skip
    (films / "short.mp4").write_bytes(made.clip(3, duration_s=2.0, width=96, height=64))
    (films / "broken.mp4").write_bytes(film[:200])
    assert cutting.cut([films], out, seconds=5.0) == 4
    written = sorted(out.iterdir())
    assert [path.read_bytes() for path in written if path.suffix == ".webm"] == [clip]
    pieces = [path for path in written if path.suffix == ".mp4"]
    assert [round(read(path.read_bytes()).seconds) for path in pieces] == [5, 5, 5], "what is left is too short"
    items = [corpus._played(path) for path in pieces]
    assert len({item.split for item in items if item}) == 1
    assert len({item.key for item in items if item}) == 3


def test_nobodys_films_are_written_into_the_repository() -> None:
    with pytest.raises(ValueError, match="inside of the repository"):
        cutting.cut([], Path(__file__).parent / "films")


seconds = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: tuple(sorted(pair))), max_size=6)


@given(seconds, seconds)
def test_the_overlap_is_that_of_whole_seconds_counted_one_by_one(
    told: list[tuple[int, int]], truth: list[tuple[int, int]]
) -> None:
    ours, theirs = ({second for start, stop in spans for second in range(start, stop)} for spans in (told, truth))
    found = iou([(float(a), float(b)) for a, b in told], [(float(a), float(b)) for a, b in truth])
    assert found == (pytest.approx(len(ours & theirs) / len(ours | theirs)) if theirs else None)


def test_backwards_counts_as_the_same_seconds() -> None:
    assert list(overlaps([(0.0, 4.0, 2.0, 6.0)], [(0.0, 5.0, 7.0, 2.0)])) == pytest.approx([0.8, 0.8])
    assert overlaps([(0.0, 0.0, 2.0, 2.0)], [(0.0, 0.0, 2.0, 2.0)]) == (None, None)
