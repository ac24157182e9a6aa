"""The benchmarks of checks, HTTP, videos, rescans and others' software run, small; ratios are of what was measured."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import checks, corpus, end_to_end, hma, hma_app, measure, over_http, peers, report, rescans, videos
from benchmarks.load import Load, load
from benchmarks.rescans import Look
from benchmarks.robustness.peers import PYTHON
from benchmarks.server import family
from hashing.hasher import hash_media


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call a sample is enough here."""
    monkeypatch.setattr(measure, "SAMPLE_S", 0.0)


def well_formed(section: report.Section) -> report.Summary:
    """Return what a section comes to, after the way that its raw measurements go."""
    again = report.section_of(json.loads(json.dumps(section.to_json())))
    assert again == section
    return report.summarize(again)


def ratio(timings: tuple[report.Timing, ...], ours: str, peer: str) -> float:
    """Compute a ratio by hand."""
    (mine,) = [one.seconds for one in timings if one.name == ours]
    (theirs,) = [one.seconds for one in timings if one.name == peer]
    return statistics.median(b / a for a, b in zip(mine, theirs, strict=True))


# --- checks -----------------------------------------------------------------------------


def test_a_check_is_held_against_decoding_to_the_same_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "GROWING_SIZE", (320, 240))
    known, unknown = checks.pictures((320, 240), 2, first=9), checks.pictures((320, 240), 2)
    with checks.filled(2_000, known) as engine:
        times = checks.timed(engine, (320, 240), unknown, 3)
        facts = checks.told_apart(engine, (320, 240), unknown[0], 3)
        check = checks.as_expected(engine, unknown, known)
        curves = checks.grown(2, sizes=(500, 2_000), last=engine)
    assert check.ok, check.detail
    floors = (report.Floor(checks.name_of((320, 240)), checks.SAME, 1e-9, goal=True, ours=checks.ALONE),
              report.Floor(checks.name_of((320, 240)), checks.SAME, 1e9, goal=True, ours=checks.TOGETHER))  # fmt: skip
    summary = well_formed(report.Section("Checks", "", times, tuple(facts), (check,), floors, curves))
    of_same = {one.ours: one.value for one in summary.ratios if one.peer == checks.SAME}
    same = tuple(one for one in times if one.group == checks.name_of((320, 240)))
    assert of_same == {
        how: pytest.approx(ratio(same, how, checks.SAME)) for how in (checks.ALONE, checks.TOGETHER)
    }  # fmt: skip
    assert [one.ok for one in summary.checks] == [True, True, False]
    assert facts[0].name == "decoding"
    assert any("search of 9 rows within 46 bits" in fact.name for fact in facts)
    assert [[point.x for point in curve.points] for curve in curves] == [[500, 2_000]] * 2


def test_wrong_verdicts_are_told() -> None:
    known = checks.pictures((320, 240), 1, first=9)
    with checks.filled(500, known) as engine:
        assert not checks.as_expected(engine, known, []).ok


@pytest.mark.parametrize(("size", "asked"), [((320, 240), (320, 240)), ((1200, 1100), (600, 550))])
def test_the_yardstick_decodes_to_the_size_of_a_check(size: tuple[int, int], asked: tuple[int, int]) -> None:
    assert checks.size_asked(checks.pictures(size, 1)[0]) == asked


# --- HTTP -------------------------------------------------------------------------------


@pytest.mark.slow
def test_http_is_held_against_the_same_in_process() -> None:
    section = over_http.measured(8, 2, hashes=40)
    summary = well_formed(section)
    asked = tuple(one for one in section.timings if one.group == over_http.CHECK)
    (found,) = [one.value for one in summary.ratios if one.peer == over_http.POOL]
    assert found == pytest.approx(ratio(asked, over_http.HTTP, over_http.POOL))
    assert len(summary.ratios) == 4
    assert [check.goal for check in summary.checks] == [True] * 3


def test_a_tail_is_of_the_loads_that_were() -> None:
    loads = over_http.Loads(0, [], 100, [Load(1.0, (0.01,) * 90 + (0.2,) * 10), Load(1.0, (0.01,) * 100)])
    assert loads.tail() == pytest.approx((20 + 1) / 2)
    assert not over_http.steady("t", loads).ok
    assert over_http.steady("t", over_http.Loads(0, [], 100, loads.done[1:])).ok


# --- videos -----------------------------------------------------------------------------


@pytest.mark.slow
def test_clips_are_held_against_decoding_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos, "SIZES", ((160, 90), (320, 180)))
    data = videos.made((320, 180), 4.0, {"g": "25"})
    with checks.filled(500, [data]) as engine:
        times = videos.timed(engine, "clip", data, 2)
        curves = videos.by_length(engine, data, (1.0, 4.0), 1) + videos.by_size(engine, 1.0, 1)
        assert checks.one_by_one(engine, [videos.first(data, 3.0)]) == ["match"]
    times += videos.limited("clip", data, 2)
    curves += videos.by_cores({"photos": [corpus.jpeg(corpus.picture(1, 160, 120), 85)] * 2}, 1, hashes=500)
    summary = well_formed(report.Section("Videos", "", times, (), (), (), curves))
    values = {one.ours: one.value for one in summary.ratios if one.peer == end_to_end.PYAV}
    assert len(summary.ratios) == 3 + 1
    assert values[videos.VERDICT] == pytest.approx(ratio(times[:4], videos.VERDICT, end_to_end.PYAV))
    cores = len(os.sched_getaffinity(0))
    assert [point.x for point in curves[-1].points] == list(range(1, cores + 1))
    assert [point.x for point in curves[0].points] == [1.0, 4.0]


def test_the_first_seconds_of_a_clip_are_its_first_seconds() -> None:
    data = videos.made((160, 90), 3.0, {"g": "25"})
    cut = videos.first(data, 1.0)
    assert sum(1 for _ in corpus.clip_pictures(cut)) == 25
    assert (
        hash_media(cut, videos.PDQ).frames["hash"][0].tobytes()
        == hash_media(data, videos.PDQ).frames["hash"][0].tobytes()
    )


def test_cores_are_given_back() -> None:
    before = os.sched_getaffinity(0)
    with videos.on_cores(1):
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


# --- rescans ----------------------------------------------------------------------------


def looks(memory_mb: list[float], busy: float, others: float, cores: int = 2) -> list[Look]:
    """Return one look a second, at ten results each, as of a process with that share of the cores."""
    ours_s, all_s = busy * cores, (busy + others) * cores
    return [Look(float(n), n * ours_s, n * all_s, mb, 10 * n) for n, mb in enumerate(memory_mb)]


def test_the_use_of_cores_and_the_growth_of_memory_are_those_of_the_looks() -> None:
    seen = looks([100.0] * 10 + [110.0] * 11, 0.75, 0.25)
    assert rescans.use_of_cores(seen, 2) == pytest.approx((0.75, 0.25))
    assert rescans.growth_of_memory(seen) == pytest.approx(1.1)
    assert [one.lines for one in rescans.at_work(seen, 200)] == list(range(10, 200, 10))
    section = rescans.summed(seen, 200, 2)
    well_formed(section)
    assert [check.ok for check in section.checks] == [False, True, False]
    assert {fact.name: fact.value for fact in section.facts}["files a second"] == pytest.approx(10)
    with pytest.raises(RuntimeError, match="too few"):
        rescans.summed(seen[:4], 200, 2)


def test_cpu_of_those_below_counts_when_they_are_gone() -> None:
    burn = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(40_000_000))']); input()"
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert rescans.look(process.pid, Path("/nowhere")).lines == 0
        while len(family(process.pid)) < 2:
            pass
        while len(family(process.pid)) > 1:
            pass
        assert rescans.look(process.pid, Path("/nowhere")).cpu_s > 0.1
        process.communicate(b"\n")


def test_what_this_process_does_is_not_told_of_others() -> None:
    company = measure.Company()
    sum(range(10_000_000))
    passed_s, busy_s, ours_s = (b - a for a, b in zip(company._began, company._now(), strict=True))
    assert ours_s > 0
    share, cores = company.share(), len(os.sched_getaffinity(0))
    assert share == pytest.approx(max(0.0, busy_s - ours_s) / (passed_s * cores), abs=0.1)
    assert share <= 1 - ours_s / (passed_s * cores) + 0.1


@pytest.mark.slow
def test_a_rescan_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescans, "LOOK_S", 0.02)
    section = rescans.measured(60, hashes=40)
    well_formed(section)
    found = {fact.name: fact.value for fact in section.facts}
    assert found["files a second"] > 0
    assert 0 < found[f"use of {len(os.sched_getaffinity(0))} cores"] <= 110
    assert {curve.title for curve in section.curves} == {"Memory of a rescan", "Use of the cores by a rescan"}


# --- others' software -------------------------------------------------------------------


def test_peers_that_are_absent_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON, sys.executable)
    with peers.ExitStack() as stack:
        found, absent = peers.present(("perception", "pdq_index"), stack)
    assert found == {}
    assert absent == ["perception PHash", "python-threatexchange PDQIndex"]
    times, facts = peers.searched(500, {}, 2)
    assert {fact.name: fact.value for fact in facts}[f"{peers.OURS}: pairs found"] == 100
    summary = well_formed(report.Section("Peers", "", times, tuple(facts)))
    assert {one.peer for one in summary.ratios} == {peers.MULTI, peers.HASH_TABLE}


def test_hma_is_skipped_with_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(measure.HMA_FOLDER, raising=False)
    section = hma.collect(short=True)
    assert well_formed(section).lines == ()
    assert section.note == "Skipped: HMA was not named (--hma FOLDER)."
    assert "hasher-matcher-actioner" in hma.missing(tmp_path)
    (tmp_path / "hasher-matcher-actioner" / "src" / "OpenMediaMatch").mkdir(parents=True)
    assert "gunicorn" in hma.missing(tmp_path)


@pytest.mark.slow
def test_our_side_of_hmas_comparison_answers() -> None:
    codes, files = hma_app.codes_of(4), checks.pictures((96, 64), 1)
    with hma.ourselves(500) as (port, key):
        for requests in hma.asked_of_us(key, codes, files):
            assert len(load(port, requests, 2, 4).latencies_s) == 4


def test_others_software_is_named_to_the_benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(measure.HMA_FOLDER, raising=False)
    monkeypatch.setenv(PYTHON, "")
    measure.name_peers(tmp_path / "python", None)
    assert os.environ[PYTHON] == str(tmp_path / "python")
    assert measure.HMA_FOLDER not in os.environ
