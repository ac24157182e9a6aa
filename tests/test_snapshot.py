"""A snapshot comes back byte for byte or not at all, whoever writes, unlinks or damages it meanwhile."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shelf import ended, run

from indexer import snapshot
from indexer.snapshot import MAGIC, Arrays

KINDS = ("<i8", "<u4", "<i4", "|u1")


def drawn(seed: int, shapes: list[tuple[int, ...]]) -> Arrays:
    chance = np.random.default_rng(seed)
    return {
        f"a/{number}": chance.integers(0, 100, shape).astype(KINDS[number % len(KINDS)])
        for number, shape in enumerate(shapes)
    }


def same(found: Arrays, wanted: Arrays) -> bool:
    return list(found) == list(wanted) and all(
        found[name].dtype == array.dtype and found[name].shape == array.shape and np.array_equal(found[name], array)
        for name, array in wanted.items()
    )


@settings(deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(st.one_of(st.tuples(st.integers(0, 70)), st.tuples(st.integers(0, 9), st.integers(0, 40))), max_size=6),
)
def test_arrays_come_back(tmp_path_factory: pytest.TempPathFactory, seed: int, shapes: list[tuple[int, ...]]) -> None:
    path, arrays = tmp_path_factory.getbasetemp() / "arrays", drawn(seed, shapes)
    snapshot.write(path, {"seed": seed, "ü\n": [1, None]}, arrays)
    found = snapshot.read(path)
    assert found is not None
    assert found.about == {"seed": seed, "ü\n": [1, None]}
    assert same(found.arrays, arrays)
    assert all(array.ctypes.data % 64 == 0 for array in found.arrays.values() if array.size)
    assert not any(array.flags.writeable for array in found.arrays.values())


def test_strided_arrays_are_written_as_they_look(tmp_path: Path) -> None:
    whole = np.arange(60, dtype="<i8").reshape(6, 10)
    snapshot.write(tmp_path / "x", {}, {"t": whole.T, "s": whole[::2, 1::3]})
    found = snapshot.read(tmp_path / "x")
    assert found is not None
    assert same(found.arrays, {"t": whole.T, "s": whole[::2, 1::3]})


def resident(path: Path) -> int:
    """How much of a mapped file is in this process's memory, in KiB."""
    kib = 0
    for part in Path("/proc/self/smaps").read_text().split(str(path))[1:]:
        kib += int(part.partition("Rss:")[2].split()[0])
    return kib


def test_memory_that_is_let_go_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "x"
    arrays = {"a": np.arange(1_000_000), "b": np.arange(2_000_000), "c": np.arange(1_000_000)}
    snapshot.write(path, {}, arrays)
    found = snapshot.read(path)
    assert found is not None
    assert same(found.arrays, arrays)
    before = resident(path)
    assert before > 31_000
    snapshot.let_go(found.arrays["b"])
    assert before - 16_500 < resident(path) < before - 15_500
    assert same(found.arrays, arrays)
    assert resident(path) == before
    for array in (np.arange(5), np.arange(9)[3:], np.frombuffer(b"abc", np.uint8), found.arrays["a"][:0]):
        snapshot.let_go(array)
    assert resident(path) == before


def test_every_single_byte_counts(tmp_path: Path) -> None:
    path = tmp_path / "x"
    snapshot.write(path, {"of": "this store"}, drawn(1, [(5,), (2, 3), (0,), (7,)]))
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :])
        assert snapshot.read(path) is None, place
        path.write_bytes(data[:place])
        assert snapshot.read(path) is None, place
    path.write_bytes(data + b"\0")
    assert snapshot.read(path) is None
    path.write_bytes(data)
    assert snapshot.read(path) is not None


def test_a_file_that_is_larger_than_a_piece_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "_PIECE_BYTES", 100)
    path, arrays = tmp_path / "x", drawn(2, [(1000,), (333,)])
    snapshot.write(path, {}, arrays)
    data = path.read_bytes()
    assert data[-32:] == hashlib.sha256(data[:-32]).digest()
    found = snapshot.read(path)
    assert found is not None
    assert same(found.arrays, arrays)


def test_what_is_no_file_is_no_snapshot(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "short").write_bytes(MAGIC + hashlib.sha256(MAGIC).digest()[:31])
    for name in ("absent", ".", "empty", "short"):
        assert snapshot.read(tmp_path / name) is None


def test_a_file_that_is_unlinked_or_replaced_stays_readable_to_whoever_mapped_it(tmp_path: Path) -> None:
    path, old, new = tmp_path / "x", drawn(3, [(100_000,)]), drawn(4, [(100_000,)])
    snapshot.write(path, {}, old)
    first = snapshot.read(path)
    snapshot.write(path, {}, new)
    second = snapshot.read(path)
    path.unlink()
    assert first is not None
    assert second is not None
    assert same(first.arrays, old)
    assert same(second.arrays, new)


WRITER = """
import sys
from pathlib import Path
from indexer import snapshot
import numpy as np
number = int(sys.argv[2])
for turn in range(200):
    snapshot.write(Path(sys.argv[1]), {"by": number, "turn": turn}, {"a": np.full(20_000, number * 1000 + turn)})
"""


def test_processes_that_write_at_once_never_leave_a_torn_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    snapshot.write(path, {"by": 0, "turn": 0}, {"a": np.zeros(20_000, np.int64)})
    writers = [run(WRITER, path, number) for number in (1, 2)]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        found = snapshot.read(path)
        assert found is not None
        assert (found.arrays["a"] == found.about["by"] * 1000 + found.about["turn"]).all()
        seen.add(found.about["by"])
    for writer in writers:
        ended(writer)
    assert {1, 2} <= seen
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
