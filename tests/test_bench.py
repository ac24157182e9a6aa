"""Every benchmark runs, small, and what it checks holds. No time is judged here."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from benchmarks import (
    cache,
    corpus,
    demo,
    end_to_end,
    false_matches,
    freshness,
    growth,
    hashing,
    limits,
    measure,
    report,
    run,
    search,
)
from benchmarks.corpus import Picture
from benchmarks.load import BadAnswer, Load, load, request_of
from benchmarks.server import ServerFailed, environment, serving, staydown
from service import cli_bench
from service.cli import app


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call a sample is enough here."""
    monkeypatch.setattr(measure, "SAMPLE_S", 0.0)


# --- measuring --------------------------------------------------------------------------


def test_actions_take_turns_and_begin_in_turn() -> None:
    told: list[str] = []
    found = measure.in_turns({name: lambda name=name: told.append(name) for name in "abc"}, 3)  # type: ignore[misc]
    assert "".join(told).endswith("abc" + "bca" + "cab")
    assert {name: len(values) for name, values in found.items()} == {"a": 3, "b": 3, "c": 3}


def test_times_are_for_one_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "in_turns", lambda actions, rounds: dict.fromkeys(actions, (8.0,) * rounds))
    found = measure.timings("g", {"ours": int}, {"theirs": int}, 2, items={"ours": 4, "theirs": 8})
    assert [(timing.name, timing.ours, timing.seconds) for timing in found] == [
        ("ours", True, (2.0, 2.0)), ("theirs", False, (1.0, 1.0)),
    ]  # fmt: skip


def test_the_machine_is_named() -> None:
    facts = measure.machine()
    assert {"CPU", "cores", "Python", "numpy", "pdqhash"} <= set(facts)
    assert all(facts.values())


def test_a_benchmark_writes_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    section = report.Section(
        "S", "", (report.Timing("g", "ours", True, (1.0,)), report.Timing("g", "p", False, (2.0,)))
    )
    for name, value in measure.ONE_THREAD.items():
        monkeypatch.setenv(name, value)
    threads = cv2.getNumThreads()
    monkeypatch.setattr(sys, "argv", ["x", "--short", "--raw", str(tmp_path / "raw.json")])
    assert measure.command("x", lambda short: section) == 0
    assert report.section_of(json.loads((tmp_path / "raw.json").read_text())) == section
    monkeypatch.setattr(sys, "argv", ["x"])
    assert measure.command("x", lambda short: section) == 0
    assert "2.00× as fast as it" in capsys.readouterr().out
    cv2.setNumThreads(threads)


# --- benchmarks -------------------------------------------------------------------------


@pytest.mark.parametrize("grey", [False, True])
def test_hashing(grey: bool) -> None:
    timings = hashing.timed(96, 64, grey, 2)
    assert [timing.ours for timing in timings].count(True) == 1
    lines = report.summarize(report.Section("Hashing", "", timings)).lines
    assert sum(line.ratio is not None for line in lines) == 6
    assert hashing.differing_bits(corpus.picture(3, 333, 517)) == 0


def test_hashing_counts_the_bits() -> None:
    check = hashing.exactness(3)
    assert check.ok
    assert check.detail.startswith("0 differing bits on 3 pictures")


def test_search_is_exact_and_finds_what_was_planted() -> None:
    times, _, checks = search.sized(500, 2)
    assert [(check.ok, check.detail) for check in checks if not check.ok] == []
    assert len(report.summarize(report.Section("Search", "", tuple(times))).ratios) == 2 * 3 + 3 + 1
    codes, queries = search.codes_with_copies(500)
    for radius_bits in search.RADII_BITS:
        planted = [number for number in range(len(queries)) if number % 49 <= radius_bits]
        assert {query for query, _, _ in search.brute_force(codes, queries, radius_bits)} == set(planted)


def test_search_among_clumps_is_exact() -> None:
    times, _, checks = search.in_clumps(2_000, 2)
    assert [(check.ok, check.detail) for check in checks if not check.ok] == []
    assert len(times) == 2 * 3 * 2
    codes, queries = search.clustered(2_000)
    assert len(search.brute_force(codes, queries, 46)) > 3 * len(queries)


def test_starts_with_the_cache_and_without_answer_the_same(tmp_path: Path) -> None:
    first, *others = cache.starts(tmp_path, 10_000, 6)
    assert [one["from"] for one in (first, *others)] == ["record", "cache", "cache", "cache"]
    assert all(one["hashes"] == first["hashes"] for one in others)
    assert (first["hashes"]["pdq"], first["hashes"]["keypoints"]) == (10_000, 6)


def test_memory_stays_flat_over_changes_and_compactions(tmp_path: Path) -> None:
    told = list(cache.changes(tmp_path, 5_000, 60, 10))
    assert [one["hashes"] for one in told] == [5_000] * 10
    assert cache._flat(told) == 0


@pytest.mark.slow
def test_every_door_gives_the_same_verdicts() -> None:
    known = corpus.jpeg(corpus.picture(1, 320, 240), 85)
    other = corpus.jpeg(corpus.picture(2, 320, 240), 85)
    media = end_to_end.Media("photo", (known, other), ("match", "no_match"))
    with end_to_end.opened([media], hashes=40) as doors:
        timings, check = end_to_end.checked(doors, media, end_to_end.PILLOW, end_to_end._decode_pictures, 2)
    assert check.ok, check.detail
    assert len(report.summarize(report.Section("E", "", timings)).ratios) == 5


# --- false matches ----------------------------------------------------------------------


def test_pairs_are_counted_as_by_hand(tmp_path: Path, photos: list[Picture], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(false_matches, "_BLOCK", 3)
    for number, picture in enumerate(photos[:7]):
        (tmp_path / f"{number}.png").write_bytes(corpus.encode(picture, "PNG"))
    (tmp_path / "again.jpg").write_bytes(corpus.jpeg(photos[0], 60))
    (tmp_path / "blank.png").write_bytes(corpus.encode(np.full((99, 99, 3), 9, np.uint8), "PNG"))
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "words.txt").write_text("not even named like one")
    hashes = false_matches.hash_all(false_matches.pictures_below([tmp_path]), 1)
    assert (len(hashes), hashes.skipped) == (8, 2)
    found, duplicates = false_matches.histograms(hashes)
    assert duplicates == 1
    for kind in false_matches.TYPES:
        codes = [int.from_bytes(bytes(code)) for code in hashes.codes[kind]]
        slow = sorted((a ^ b).bit_count() for number, a in enumerate(codes) for b in codes[:number])
        fast = np.repeat(np.arange(257), found[kind.value]).tolist()
        assert len(fast) == 8 * 7 // 2 - 1
        assert slow[1:] == fast  # but for the duplicate, the nearest pair
    assert "too few pairs" in false_matches.text_of(hashes)


def test_the_fit_finds_the_line() -> None:
    """A cumulative rate of 10^(-8 + 0.07 bits) over 10^8 pairs."""
    below = np.floor(10.0 ** (0.07 * np.arange(110))).clip(max=1e8).astype(np.int64)
    histogram = np.zeros(257, np.int64)
    histogram[:110] = np.diff(below, prepend=0)
    histogram[128] = 10**8 - below[-1]
    tail = false_matches.fit(histogram)
    assert tail is not None
    assert tail.intercept == pytest.approx(-8, abs=0.05)
    assert tail.slope == pytest.approx(0.07, abs=0.001)
    assert tail.bits_at(1e-7) == 14
    assert tail.bits_at(1e-9) == -1
    assert false_matches.fit(np.zeros(257, np.int64)) is None


def test_distances_in_blocks_are_distances() -> None:
    codes = np.random.default_rng(1).integers(0, 256, (9, 32), np.uint8)
    slow = [[sum((int(x) ^ int(y)).bit_count() for x, y in zip(a, b, strict=True)) for b in codes] for a in codes]
    assert false_matches.between(codes, codes).tolist() == slow


# --- demo and run -----------------------------------------------------------------------


def answer(verdict: str, content_id: str = "c_1", distance: int | None = 4) -> dict[str, object]:
    match = {"content_id": content_id, "signal_type": "pdq", "distance_bits": distance, "inliers": None,
             "transform": "mirror",
             "segments": [{"query_s": [0.0, 2.0], "reference_s": [1.0, 3.0], "frames": 5}]}  # fmt: skip
    return {"verdict": verdict, "reason": None, "matches": [match] if verdict == "match" else []}


class Said:
    """A client that gives one answer."""

    def __init__(self, body: dict[str, object]) -> None:
        self.body = body

    def check(self, media: bytes) -> tuple[int, dict[str, object]]:
        return 200, self.body


@pytest.mark.parametrize(
    ("seen", "hidden", "fault"),
    [
        (answer("match"), answer("match", distance=None), ""),
        (answer("no_match"), answer("no_match"), "expected match"),
        ({"code": "corrupt_media"}, {"code": "corrupt_media"}, "expected match"),
        (answer("match", "c_2"), answer("match", "c_2", None), "expected a.jpg"),
        (answer("match"), answer("no_match"), "the check key got another verdict"),
        (answer("match"), answer("match"), "the check key saw a distance"),
    ],
)
def test_the_demo_names_what_is_wrong(seen: dict[str, object], hidden: dict[str, object], fault: str) -> None:
    upload = demo.Upload("copy.jpg", "mirrored", b"", "match", "a.jpg")
    names = {"c_1": "a.jpg", "c_2": "b.jpg"}
    row = demo.ask(upload, Said(hidden), Said(seen), names)  # type: ignore[arg-type]
    assert row.fault == fault
    if not fault:
        assert row.evidence == "a.jpg, pdq 4 bits, mirror, 0.0–2.0 s shows 1.0–3.0 s"


def test_settings_of_this_process_do_not_reach_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAYDOWN_NO_SUCH_SETTING", "1")
    assert [name for name in environment(tmp_path) if name.startswith("STAYDOWN_")] == ["STAYDOWN_HOME"]
    (tmp_path / "staydown.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(ServerFailed, match="bank"):
        staydown(tmp_path, "bank", "list")
    with pytest.raises(ServerFailed, match="did not get ready"), serving(tmp_path):
        pass


def test_a_run_writes_a_page_and_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    def fake(module: str, short: bool, folder: Path) -> report.Section:
        times = (report.Timing("g", "ours", True, (speed["s"],)), report.Timing("g", "peer", False, (10.0,)))
        return report.Section(module, "", times)

    speed = {"s": 1.0}
    monkeypatch.setattr(run, "collect_alone", fake)
    monkeypatch.setattr(sys, "argv", ["run", "--short", "--out", str(tmp_path)])
    assert run.main() == 0
    assert (tmp_path / "latest.md").read_text() == capsys.readouterr().out
    (tmp_path / "latest.json").rename(tmp_path / "old.json")
    speed["s"] = 4.0
    monkeypatch.setattr(sys, "argv", ["run", "--compare", str(tmp_path / "old.json"), "--out", str(tmp_path)])
    assert run.main() == 1
    assert len(json.loads((tmp_path / "latest.json").read_text())["regressions"]) == len(run.MODULES)


def test_the_command_runs_the_suite_and_fails_on_a_fall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                        capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    speed = {"s": 1.0}

    def fake(module: str, short: bool, folder: Path) -> report.Section:
        times = (report.Timing("g", "ours", True, (speed["s"],)), report.Timing("g", "peer", False, (10.0,)))
        return report.Section(module, "", times)

    monkeypatch.setattr(run, "collect_alone", fake)
    ask = ["--only", "search", "--out", str(tmp_path)]
    assert CliRunner().invoke(app, ["bench", *ask]).exit_code == 0
    old = (tmp_path / "latest.json").rename(tmp_path / "old.json")
    assert CliRunner().invoke(app, ["bench", *ask, "--compare", str(old)]).exit_code == 0
    speed["s"] = 4.0
    assert CliRunner().invoke(app, ["bench", *ask, "--compare", str(old)]).exit_code == 1
    old.write_text("[]")
    assert CliRunner().invoke(app, ["bench", *ask, "--compare", str(old)]).exit_code == 2
    assert CliRunner().invoke(app, ["bench", "--only", "nothing"]).exit_code == 2


def test_the_command_says_that_the_package_has_no_benchmarks(tmp_path: Path) -> None:
    with pytest.raises(typer.Exit) as ended:
        cli_bench.suite(tmp_path)
    assert ended.value.exit_code == 2


def test_search_and_loads_become_curves() -> None:
    curves, weights = growth.by_size((200, 400), 2)
    assert weights == []  # too small to be weighed
    assert [[point.x for point in curve.points] for curve in curves] == [[200, 400]] * 3
    loads = {1: [Load(2.0, (0.01,) * 98 + (0.5,) * 2)], 2: [Load(1.0, (0.01,) * 100)]}
    per_s, p50, p99 = growth.curves_of_loads("t", loads)
    assert [point.value for point in per_s.points] == [50.0, 100.0]
    assert [point.value for point in p50.points] == pytest.approx([10.0, 10.0])
    assert p99.points[0].value > 400
    assert not growth.steady("t", loads).ok
    assert growth.steady("t", {2: loads[2]}).ok


@pytest.mark.slow
def test_a_load_is_answered_over_all_connections(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        done = load(server.port, [request_of("GET", "/health/live")], 4, 50)
        assert len(done.latencies_s) == 50
        assert done.per_s > 0
        with pytest.raises(BadAnswer, match="404"):
            load(server.port, [request_of("GET", "/nothing")], 2, 4)


def test_limits() -> None:
    assert len(limits.decoding(96, 64, 2)) == 4
    assert len(limits.bandwidth(1, 1 << 16)) == 3
    times = limits.popcount(1, 5_000)
    assert len(report.summarize(report.Section("L", "", times)).ratios) == 3


def test_freshness_tells_how_soon_a_change_is_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness, "QUIET_S", 0.5)
    lines = list(freshness.run(tmp_path, 500, 20, 3, {}))
    assert lines[0].startswith("500 hashes imported in ")
    rows = {line.split(" | ")[0]: line.split(" | ")[1] for line in lines if line.startswith("| ")}
    assert rows["| enrolled → found"] == rows["| withdrawn → gone"] == "3"
    assert len(rows) == 5
    assert lines[-1].endswith("refused or wrong: 0")
