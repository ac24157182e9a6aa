"""Real writers, killed at random moments: what was acknowledged is there, what was withdrawn is not.

The long form is `python -m benchmarks.durability`; its figures are in docs/durability.md.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from postgres import needed
from shelf import ROOT

from benchmarks import crashes
from indexer.enroll import Submission


def durability(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Run the benchmark's own command, in a process that may fork."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.durability", "--json", *arguments], cwd=ROOT, capture_output=True,
        text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    (total,) = json.loads(done.stdout)
    return done.returncode, total


@pytest.mark.slow
def test_killed_writers_lose_nothing() -> None:
    status, total = durability("--kills", "10")
    assert (status, total["rounds"], total["lost"], total["back"], total["faults"]) == (0, 10, 0, 0, 0), total
    assert total["enrolled"] > 50, total
    assert total["withdrawn"] > 5, total
    assert total["checked"] >= total["enrolled"], total


@pytest.mark.slow
def test_a_killed_postgresql_loses_nothing() -> None:
    needed()
    status, total = durability("--server-kills", "6")
    assert (status, total["rounds"], total["lost"], total["back"], total["faults"]) == (0, 6, 0, 0, 0), total
    assert total["enrolled"] > 30, total


# --- the check itself: it finds what it is for ------------------------------------------


@pytest.fixture
def bench(tmp_path: Path) -> crashes.Bench:
    made = crashes.Bench(f"sqlite:///{tmp_path / 'staydown.db'}", tmp_path)
    made.record.create_bank(crashes.BANK, actor="test")
    made.load()
    return made


def enrolled(bench: crashes.Bench, seed: int) -> list[Any]:
    done = bench.enroller.enroll(crashes.BANK, Submission(crashes.content(seed)), actor="test")
    return ["enrolled", seed, done.content_id, done.bank_revision]


def left(bench: crashes.Bench, *lines: list[Any], least_revision: int = 0) -> crashes.Left:
    return crashes.check(f"sqlite:///{bench.home / 'staydown.db'}", bench.home, list(lines), least_revision)


def test_the_check_finds_what_is_lost_and_what_is_back(bench: crashes.Bench) -> None:
    line, other = enrolled(bench, 1), enrolled(bench, 2)
    assert left(bench, line, other).well
    assert left(bench, line, ["enrolled", 3, "c_never", 2]).lost == 1
    assert left(bench, line, ["withdrawing", line[2]], ["withdrawn", line[2], 2]).back == 1
    bench.record.withdraw(bench.record.content(crashes.BANK, line[2]), reason="r", actor="t")
    assert left(bench, line, other, ["withdrawing", line[2]]).well  # not answered, but done
    assert left(bench, line).lost == 1
    assert left(bench, other, ["bank", "none"]).faults == ["bank none"]
    assert left(bench, other, least_revision=1000).faults == ["revision went back"]


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("UPDATE audit SET actor = 'x'", "audit chain"),
        ("PRAGMA foreign_keys=OFF; DELETE FROM content", "foreign_key_check"),
        ("UPDATE content SET withdrawn_at = 'now'", "signal without content"),
    ],
)
def test_the_check_finds_a_broken_store(bench: crashes.Bench, statement: str, fault: str) -> None:
    import sqlite3

    enrolled(bench, 1)
    bench.store.close()
    connection = sqlite3.connect(bench.home / "staydown.db")
    connection.executescript(statement)
    connection.commit()
    connection.close()
    assert fault in left(bench).faults


def test_seeds_are_the_same_each_time_and_differ() -> None:
    first, again, other = crashes.content(5), crashes.content(5), crashes.content(6)
    assert np.array_equal(first.frames["hash"], again.frames["hash"])
    assert first.exact == again.exact != other.exact
    assert len(first.sketches) == 1
    assert len(other.sketches) == 0
