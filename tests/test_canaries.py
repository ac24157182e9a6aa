"""No byte of what is sent is on the raw device afterwards, in short; long: `python -m benchmarks.canaries`."""

from pathlib import Path

import pytest
from lacking import lacking

from benchmarks import canaries
from benchmarks.canaries import WAYS, Marks, control, found, trial


@pytest.fixture
def _mountable() -> None:
    if (missing := canaries.lacking()) is not None:
        lacking(missing)


@pytest.mark.usefixtures("_mountable")
def test_the_search_finds_what_a_server_spools(tmp_path: Path) -> None:
    assert control(tmp_path, Marks("ca0123456789abcdef"), 17) > 0


@pytest.mark.usefixtures("_mountable")
def test_no_canary_is_on_the_device(tmp_path: Path) -> None:
    done = trial(tmp_path, Marks("cafedcba9876543210"), 5 * len(WAYS), 3)
    assert (done.hits, done.places, done.swapped_kb, done.left) == (0, set(), 0, [])
    assert done.log_bytes > 1000, "it was said what was done"
    wanted = {"raw: 200", "multipart: 200", "a link: 200", "enrolled: 201", "too large: 413", "broken off: cut"}
    assert wanted <= set(done.answers)
    assert sum(done.answers.values()) == 5 * len(WAYS)
    assert not any(": 5" in word for word in done.answers if not word.startswith("a link to nothing"))


def test_marks_are_found_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the seam of two pieces, too, and each once."""
    monkeypatch.setattr(canaries, "_PIECE", 1000)
    marks, image = Marks("ca" + "7" * 16), tmp_path / "image"
    for at in (0, 500, 985, 990, 999, 1000, 2990):
        data = bytearray(3100)
        data[at : at + 26] = marks.canary(5).encode()
        image.write_bytes(data)
        assert found(image, marks)[0] == 1, at
    image.write_bytes(bytes(900) + marks.canary(5).encode().hex().encode() + bytes(900))
    assert found(image, marks)[0] == 1
    image.write_bytes(bytes(3000))
    assert found(image, marks) == (0, set())
