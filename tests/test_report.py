"""Raw measurements -> report -> text, JSON, exit status."""

import importlib.util
import json
from pathlib import Path

import pytest

from benchmarks import page, report
from benchmarks.report import Check, Fact, Floor, Section, Timing


def section(*, ours: tuple[float, ...] = (1.0, 2.0, 1.0), checks: tuple[Check, ...] = (),
            floors: tuple[Floor, ...] = ()) -> Section:  # fmt: skip
    timings = (
        Timing("512×512", "staydown pdq", True, ours),
        Timing("512×512", "pdqhash", False, (10.0, 20.0, 12.0)),
        Timing("512×512", "quicker", False, (0.5, 1.0, 0.5)),
    )
    return Section("Hashing", "A note.", timings, (Fact("512×512", "memory", 32.0, "bytes a hash"),), checks, floors)


def doors() -> Section:
    timings = (
        Timing("photo", "in process", True, (4.0, 4.0)),
        Timing("photo", "HTTP", True, (8.0, 8.0)),
        Timing("photo", "decoding", False, (2.0, 2.0)),
    )
    return Section("Doors", "", timings)


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    lines = report.summarize(section()).lines
    assert [line.ratio and line.ratio.value for line in lines] == [None, 10.0, 0.5]
    assert (lines[0].median_s, lines[0].iqr_s) == (1.0, 0.5)
    ratio = lines[1].ratio
    assert ratio is not None
    assert (ratio.low, ratio.high) == (10.0, 11.0)
    assert ratio.key == "Hashing | 512×512 | staydown pdq | pdqhash"


def test_many_of_ours_are_held_against_one_yardstick() -> None:
    lines = report.summarize(doors()).lines
    assert [(line.name, line.ratio and line.ratio.value) for line in lines] == [
        ("in process", 0.5), ("HTTP", 0.25), ("decoding", None),
    ]  # fmt: skip


def test_what_cannot_be_paired_is_refused() -> None:
    two = tuple(
        Timing("a", name, ours, (1.0,)) for name, ours in [("b", True), ("c", True), ("d", False), ("e", False)]
    )
    with pytest.raises(ValueError, match="neither"):
        report.summarize(Section("s", "", two))
    uneven = (Timing("a", "b", True, (1.0,)), Timing("a", "c", False, (1.0, 2.0)))
    with pytest.raises(ValueError, match="zip"):
        report.summarize(Section("s", "", uneven))


@pytest.mark.parametrize("seconds", [(), (1.0, 0.0), (-1.0,)])
def test_a_time_is_positive(seconds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="positive"):
        Timing("a", "b", True, seconds)


def test_one_round_has_no_spread() -> None:
    assert report.quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert report.quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("floor", "ok"),
    [(Floor("512×512", "pdqhash", 5.0), True), (Floor("512×512", "pdqhash", 10.1), False),
     (Floor("512×512", "nobody", 1.0), False)],
)  # fmt: skip
def test_a_floor_is_a_check(floor: Floor, ok: bool) -> None:
    built = report.build({}, [section(floors=(floor,))])
    assert [check.ok for check in built.summaries[0].checks] == [ok]
    assert built.status == (0 if ok else 1)


def test_a_failed_check_fails_the_run() -> None:
    assert report.build({}, [section()]).status == 0
    built = report.build({}, [section(checks=(Check("exact", False, "3 bits differ"),))])
    assert built.status == 1
    assert "**FAILED**: exact: 3 bits differ" in page.to_markdown(built)


def test_raw_measurements_survive_json() -> None:
    raw = section(checks=(Check("exact", True, "0 bits"),), floors=(Floor("512×512", "pdqhash", 5.0),))
    assert report.section_of(json.loads(json.dumps(raw.to_json()))) == raw


# --- against an earlier run -------------------------------------------------------------


def test_a_run_is_no_regression_of_itself() -> None:
    old = report.to_json(report.build({}, [section(), doors()]))
    assert report.build({}, [section(), doors()], old).status == 0


def test_times_may_grow_together_but_a_ratio_may_not_fall() -> None:
    old = report.to_json(report.build({}, [section()]))
    slower_machine = Section("Hashing", "", tuple(
        Timing(t.group, t.name, t.ours, tuple(9 * value for value in t.seconds)) for t in section().timings
    ))  # fmt: skip
    assert report.build({}, [slower_machine], old).status == 0
    fell = report.build({}, [section(ours=(2.0, 4.0, 2.4))], old)
    assert fell.status == 1
    assert fell.regressions[0] == "Hashing | 512×512 | staydown pdq | pdqhash: was 10.00, is 5.00"
    assert "Fell against the earlier run" in page.to_markdown(fell)


def span(value: float, share: float = 0.0) -> report.Span:
    return report.Span(value * (1 - share), value, value * (1 + share))


def test_a_fall_within_the_tolerance_is_none() -> None:
    assert report.regressions({"a": span(10)}, {"a": span(7.1)}) == ()
    assert report.regressions({"a": span(10)}, {"a": span(6.9)}) == ("a: was 10.00, is 6.90",)
    assert report.regressions({"a": span(10)}, {"a": span(9.4)}, tolerance=0.05) == ("a: was 10.00, is 9.40",)


def test_a_fall_within_the_spread_is_none() -> None:
    assert report.regressions({"a": span(10, 0.2)}, {"a": span(5)}) == ("a: was 10.00, is 5.00",)
    assert report.regressions({"a": span(10, 0.2)}, {"a": span(5, 0.2)}) == ()


def test_a_ratio_that_is_gone_is_named() -> None:
    old = {"a": span(1), "b": span(2)}
    assert report.regressions(old, {"a": span(1), "c": span(9)}) == ("b: was 2.00, is not measured any more",)
    assert report.regressions({"a": span(1)}, {"b": span(1)}) == ("the two runs have no ratio in common",)
    assert report.regressions({}, {"b": span(1)}) == ()


# --- text -------------------------------------------------------------------------------


def test_the_page_says_where_staydown_is_slower() -> None:
    told = page.to_markdown(report.build({"CPU": "one", "cores": "2"}, [section(), doors()]))
    assert "| CPU | one |" in told
    assert "| 512×512 | pdqhash | 12 s | 42% | 0.0833 | 10.00× as fast as it (10.00–11.00) |" in told
    assert "| 512×512 | quicker | 500 ms | 50% | 2 | 0.50× as fast as it (0.50–0.50), slower |" in told
    assert "| photo | **HTTP** | 8 s | 0% | 0.125 | 0.25× as fast as decoding (0.25–0.25), slower |" in told
    assert "| photo | decoding | 2 s | 0% | 0.5 | the yardstick |" in told
    assert "| 512×512 | memory | 32 bytes a hash |" in told


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.5, "2.5 s"), (0.0125, "12.5 ms"), (3.25e-5, "32.5 µs"), (4.2e-8, "42 ns")]
)
def test_durations_have_a_fitting_unit(seconds: float, text: str) -> None:
    assert page.duration(seconds) == text


def test_the_document_holds_ratios_and_facts() -> None:
    document = report.to_json(report.build({"CPU": "one"}, [section()]))
    assert document["machine"] == {"CPU": "one"}
    assert report.ratios_of(document) == {
        "Hashing | 512×512 | staydown pdq | pdqhash": (10.0, 10.0, 11.0),
        "Hashing | 512×512 | staydown pdq | quicker": (0.5, 0.5, 0.5),
    }
    assert document["facts"] == [{"group": "512×512", "name": "memory", "value": 32.0, "unit": "bytes a hash"}]
    assert json.loads(json.dumps(document)) == document


# --- curves and goals -------------------------------------------------------------------


def curve(name: str = "ours", *places: float) -> report.Curve:
    points = tuple(report.point(x, [x, 2 * x, 3 * x]) for x in places or (1_000, 10_000))
    return report.Curve("Search: all of it", "hashes", "ms", name, points)


def test_a_curve_has_a_table_and_survives_json() -> None:
    raw = Section("Growth", "", (), curves=(curve(), curve("theirs", 1_000), curve("large", 10_000_000)))
    assert report.section_of(json.loads(json.dumps(raw.to_json()))) == raw
    built = report.build({}, [raw])
    assert report.curves_of(json.loads(json.dumps(report.to_json(built)))) == raw.curves
    lines = page.to_markdown(built).splitlines()
    assert "**Search: all of it** ([plot](search-all-of-it.svg))" in lines
    assert "| hashes | ours, ms | theirs, ms | large, ms |" in lines
    assert "| 1,000 | 2e+03 (1.5e+03–2.5e+03) | 2e+03 (1.5e+03–2.5e+03) |  |" in lines
    assert "| 10,000,000 |  |  | 2e+07 (1.5e+07–2.5e+07) |" in lines


def test_a_goal_is_told_and_fails_nothing() -> None:
    goals = (Floor("512×512", "pdqhash", 99.0, goal=True), Floor("512×512", "pdqhash", 2.0, goal=True))
    built = report.build({}, [section(floors=goals)])
    assert built.status == 0
    text = page.to_markdown(built)
    assert "- **goal not met**: 512×512: at least 99 times" in text
    assert "- goal met: 512×512: at least 2 times" in text


def test_only_what_was_measured_is_held_against_the_earlier_run() -> None:
    old = report.to_json(report.build({}, [section(), doors()]))
    assert report.build({}, [section()], old).status == 0
    assert report.build({}, [section(ours=(2.0, 4.0, 2.4))], old).status == 1


def test_plots_are_drawn_the_same_each_time(tmp_path: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("the extra bench is not installed")
    from benchmarks import plots

    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        [path] = plots.draw_all([curve(), curve("theirs", 1_000)], tmp_path / name)
        assert path.name == "search-all-of-it.svg"
    first, second = ((tmp_path / name / "search-all-of-it.svg").read_bytes() for name in ("first", "second"))
    assert first == second
    assert b"theirs" in first
