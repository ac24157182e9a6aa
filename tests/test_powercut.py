"""The power fails, the disk is full, broken or read-only: on a file system that does just that (FUSE)."""

import os
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Server, make_key, staydown
from test_durability import durability

from benchmarks import corpus, crashes
from benchmarks.forgetful import SECTOR, File, Forgetful, absent
from indexer.enroll import Submission
from indexer.errors import StoreBroken


def needed() -> None:
    """Skip where nothing can be mounted: also in a CI whose container has no /dev/fuse, which is not ours to change."""
    why = absent()
    if why is not None and os.environ.get("CI") == "true" and Path("/dev/fuse").exists() and os.geteuid() == 0:
        pytest.fail(why)
    if why is not None:
        pytest.skip(why)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Forgetful]:
    needed()
    with Forgetful(tmp_path / "disk") as mounted:
        yield mounted


# --- the file system itself, against what it says of itself -----------------------------


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def after_cut(disk: Forgetful, tmp_path: Path) -> dict[str, bytes]:
    disk.ask("cut", "", str(tmp_path / "left"))
    return {path.name: path.read_bytes() for path in (tmp_path / "left").iterdir()}


def test_what_is_not_synced_is_forgotten(disk: Forgetful, tmp_path: Path) -> None:
    for name in ("name-and-content", "name", "content", "nothing", "changed", "longer", "shorter", "gone", "renamed"):
        (disk.path / name).write_bytes(b"old" * 1000)
    for name in ("name-and-content", "content", "changed", "longer", "shorter", "gone", "renamed"):
        sync(disk.path / name)
    (disk.path / "content").rename(disk.path / "content-elsewhere")
    (disk.path / "nothing").unlink()
    sync(disk.path)
    (disk.path / "content-elsewhere").rename(disk.path / "never")
    (disk.path / "changed").write_bytes(b"new")
    with (disk.path / "longer").open("ab") as file:
        file.write(b"more")
    os.truncate(disk.path / "shorter", 5)
    (disk.path / "gone").unlink()
    (disk.path / "renamed").rename(disk.path / "changed")
    assert (disk.path / "changed").read_bytes() == b"old" * 1000  # as programs see it
    left = after_cut(disk, tmp_path)
    assert left.pop("name") == b""
    assert set(left) == {"name-and-content", "content-elsewhere", "changed", "longer", "shorter", "gone", "renamed"}
    assert set(left.values()) == {b"old" * 1000}


def test_after_the_cut_nothing_answers(disk: Forgetful, tmp_path: Path) -> None:
    (disk.path / "x").write_bytes(b"x")
    after_cut(disk, tmp_path)
    with pytest.raises(OSError, match="Input/output"):
        (disk.path / "y").write_bytes(b"y")


def test_a_file_is_what_a_plain_buffer_is() -> None:
    """Against a bytearray: random writes and cuts; synced, the disk has the same, and torn, old or new by sector."""
    chance, file, plain = random.Random(1), File(0), bytearray()
    for step in range(400):
        if chance.random() < 0.2:
            length = chance.randrange(5000)
            file.truncate(length)
            plain = plain[:length].ljust(length, b"\0")
        else:
            data, offset = chance.randbytes(chance.randrange(1, 1500)), chance.randrange(4000)
            file.write(data, offset)
            plain.extend(bytes(max(0, offset + len(data) - len(plain))))
            plain[offset : offset + len(data)] = data
        assert file.live == plain
        if step % 7 == 0:
            before = bytes(file.disk)
            file.tear(chance)
            for start in range(0, len(file.disk), SECTOR):
                got = bytes(file.disk[start : start + SECTOR])
                sources = (before[start : start + SECTOR], bytes(plain[start : start + SECTOR]))
                assert any(got.strip(b"\0") == source.strip(b"\0") for source in sources) or got.startswith(sources[1])
        if step % 10 == 0:
            file.sync()
            assert file.disk == plain


# --- power cuts -------------------------------------------------------------------------


@pytest.mark.slow
def test_power_cuts_lose_nothing() -> None:
    needed()
    status, total = durability("--cuts", "8")
    assert (status, total["rounds"], total["lost"], total["back"], total["faults"]) == (0, 8, 0, 0, 0), total
    assert total["enrolled"] > 30, total


@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
def test_weaker_settings_do_lose_rows(synchronous: str) -> None:
    needed()
    status, total = durability("--cuts", "5", "--control", synchronous)
    assert status == 0
    assert total["lost"] + total["faults"] > 0, total
    assert total["lost"] > 0, total


def test_a_home_that_is_made_at_the_first_start_is_there_after_a_cut(disk: Forgetful, tmp_path: Path) -> None:
    home = disk.path / "new" / "home"
    bench = crashes.Bench(f"sqlite:///{home / 'staydown.db'}", home)
    bench.record.create_bank(crashes.BANK, actor="test")
    bench.load()
    line = enroll(bench, 1)
    disk.ask("cut", "new/home", str(tmp_path / "left"))
    left = crashes.check(f"sqlite:///{tmp_path / 'left' / 'staydown.db'}", tmp_path / "left", [line])
    assert (left.well, left.checked) == (True, 1), left


# --- a disk that fails ------------------------------------------------------------------


def opened(home: Path) -> crashes.Bench:
    home.mkdir(exist_ok=True)
    bench = crashes.Bench(f"sqlite:///{home / 'staydown.db'}", home)
    if not bench.record.bank_names():
        bench.record.create_bank(crashes.BANK, actor="test")
    bench.load()
    sync(home.parent)
    return bench


def enroll(bench: crashes.Bench, seed: int) -> list[Any]:
    done = bench.enroller.enroll(crashes.BANK, Submission(crashes.content(seed)), actor="test")
    return ["enrolled", seed, done.content_id, done.bank_revision]


@pytest.mark.parametrize("after", [0, 1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EROFS"])
def test_a_disk_that_fails_half_applies_nothing(error: str, after: int, disk: Forgetful, tmp_path: Path) -> None:
    bench = opened(disk.path / "home")
    lines = [enroll(bench, seed) for seed in range(1, 11)]
    counts, revision = bench.record.counts(), bench.store.revision()
    found = bench.record.content(crashes.BANK, lines[0][2])
    disk.ask("fail", error, after)
    done, failed = 0, 0
    for seed in range(20, 26):
        try:
            lines.append(enroll(bench, seed))
            done += 1
        except StoreBroken as error_raised:
            assert error_raised.word == "store_broken"
            failed += 1
    assert failed >= 3  # it does come, and it stays
    assert bench.record.counts() == (counts[0] + done, counts[1] + done)
    assert bench.store.revision() == revision + done
    with pytest.raises(StoreBroken):
        bench.record.withdraw(found, reason="r", actor="t")
    look = [match.content_id for match in bench.matcher.match(crashes.content(1)).matches]
    assert look == [found.content_id]  # reads go on, and the failed withdrawal is not half done
    disk.ask("heal")
    lines.append(enroll(bench, 30))
    revision = bench.record.withdraw(found, reason="r", actor="t")
    lines += [["withdrawing", found.content_id], ["withdrawn", found.content_id, revision]]
    bench.store.close()
    disk.ask("cut", "home", str(tmp_path / "left"))
    left = crashes.check(f"sqlite:///{tmp_path / 'left' / 'staydown.db'}", tmp_path / "left", lines)
    assert left.well, left
    assert left.checked == len(lines) - 2


def test_a_withdrawal_that_cannot_be_noted_is_not_done(disk: Forgetful, tmp_path: Path) -> None:
    bench = opened(tmp_path / "home")
    bench.tombstones.path = disk.path / "withdrawals.jsonl"
    line = enroll(bench, 1)
    disk.ask("fail", "ENOSPC")
    found = bench.record.content(crashes.BANK, line[2])
    with pytest.raises(StoreBroken, match="No space left"):
        bench.record.withdraw(found, reason="r", actor="t")
    assert bench.record.content(crashes.BANK, line[2]).withdrawn_at is None
    disk.ask("heal")
    bench.record.withdraw(found, reason="r", actor="t")
    assert bench.tombstones.known().content_ids == {line[2]}


def test_a_torn_page_is_refused_and_said(tmp_path: Path) -> None:
    """Half a page of the database itself is old: not what WAL mode leaves, but what a bad disk may."""
    bench = opened(tmp_path / "home")
    lines = [enroll(bench, seed) for seed in range(1, 60)]
    bench.store.close()
    path = tmp_path / "home" / "staydown.db"
    data = bytearray(path.read_bytes())
    for start in range(4096 * 3, len(data), 4096):
        data[start + 2048 : start + 4096] = bytes(2048)
    path.write_bytes(data)
    with pytest.raises((StoreBroken, sqlite3.DatabaseError, AssertionError)):
        again = opened(tmp_path / "home")
        assert all(crashes.check(f"sqlite:///{path}", again.home, [line]).well for line in lines)


@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EROFS"])
def test_the_service_says_so_and_goes_on(error: str, disk: Forgetful, tmp_path: Path) -> None:
    photo = corpus.jpeg(corpus.picture(1), 90)
    (tmp_path / "other.jpg").write_bytes(corpus.jpeg(corpus.picture(2), 90))
    key = make_key(disk.path / "home", "admin")
    with Server(disk.path / "home") as server:
        api = server.api(key)
        assert api.call("PUT", "/v1/banks/b", {}).status in {200, 201}
        content_id = api.post("/v1/banks/b/contents", photo).json["content_id"]
        disk.ask("fail", error)
        assert api.post("/v1/banks/b/contents", (tmp_path / "other.jpg").read_bytes()).is_problem(503, "store_broken")
        assert api.call("DELETE", f"/v1/banks/b/contents/{content_id}").is_problem(503, "store_broken")
        assert api.post("/v1/check", photo).json["verdict"] == "match"
        assert api.get("/health/live").status == 200
        done = staydown(disk.path / "home", "enroll", tmp_path / "other.jpg", "--bank", "b", workers="1")
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"store_broken" in done.stderr
        disk.ask("heal")
        assert api.post("/v1/banks/b/contents", (tmp_path / "other.jpg").read_bytes()).status == 201
        assert api.call("DELETE", f"/v1/banks/b/contents/{content_id}").status == 204
        assert api.post("/v1/check", photo).json["verdict"] == "no_match"
