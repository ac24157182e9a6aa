"""Points of plots from rows made up here, the drawing of them, and the climbing adversary."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from benchmarks import corpus as made
from benchmarks.robustness import adversary, curves, scores
from benchmarks.robustness.adversary import Seen, climb, psnr_db
from benchmarks.robustness.edits_base import resized
from benchmarks.robustness.scores import RECALL, Rate, Row


def copy(edit: str, found: str | None, score: float | None = None, system: str = "staydown",
         family: str = "sweeps") -> Row:  # fmt: skip
    return Row(system, RECALL, edit, family, "a.jpg", 0.01, found, score)


def stranger(wrong: str | None, score: float | None, system: str = "staydown", group: str = "plain") -> Row:
    return Row(system, group, "", "", "b.jpg", 0.01, wrong=wrong, wrong_score=score, wrong_key="k")


# --- intervals --------------------------------------------------------------------------


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_exact_interval_is_where_the_tails_hold_a_fortieth(case: tuple[int, int]) -> None:
    hits, n = case
    low, high = curves.clopper_pearson(Rate(hits, n))
    assert 0 <= low <= hits / n <= high <= 1
    if hits:
        assert binom.sf(hits - 1, n, low) == pytest.approx(0.025)
    if hits < n:
        assert binom.cdf(hits, n, high) == pytest.approx(0.025)


def test_statements_that_hold_lie_within_the_bands() -> None:
    rng = np.random.default_rng(5)
    probability = 10 ** rng.uniform(-4, 0, 20_000)
    was_false = rng.random(20_000) < probability
    bins = curves.reliability(list(zip(probability.tolist(), was_false.tolist(), strict=True)))
    assert [each.observed.n for each in bins] == pytest.approx([5000] * 4, rel=0.1)
    assert sum(each.observed.n for each in bins) == 20_000
    means = [probability[np.floor(np.log10(probability)) == place].mean() for place in (-4, -3, -2, -1)]
    assert all(each.low <= mean <= each.high for each, mean in zip(bins, means, strict=True))
    overstated = curves.reliability([(p / 100, w) for p, w in zip(probability, was_false, strict=True)])
    assert not overstated[-1].low <= overstated[-1].stated <= overstated[-1].high


def test_what_is_next_to_impossible_is_one_bin() -> None:
    (each,) = curves.reliability([(0.0, False), (1e-300, False), (1e-40, True)])
    assert each.stated == pytest.approx(curves.LEAST_STATED)
    assert each.observed == Rate(1, 3)


def test_exceedance_counts_strangers_stated_so_low() -> None:
    bins = curves.exceedance([1e-2, 1e-4, 1e-3], 1000)
    assert [(each.stated, each.observed) for each in bins] == [
        (1e-4, Rate(1, 1000)), (1e-3, Rate(2, 1000)), (1e-2, Rate(3, 1000))]  # fmt: skip


# --- curves -----------------------------------------------------------------------------


def test_recall_by_strength_is_of_sweeps_alone() -> None:
    rows = [copy("sweeps:crop~0.5", "match"), copy("sweeps:crop~0.5", None), copy("sweeps:crop~0.2", "review"),
            copy("sweeps:jpeg~30", "match", system="pdq_31"), copy("crop_edge_10", "match", family="crop"),
            copy("pairs:crop~0.5+jpeg~30", "match", family="pairs"), stranger("match", 3.0)]  # fmt: skip
    assert curves.strengths(rows, "staydown", ("match",)) == {"crop": [(0.2, Rate(0, 1)), (0.5, Rate(1, 2))]}
    assert curves.strengths(rows, "staydown", ("match", "review"))["crop"][0] == (0.2, Rate(1, 1))
    assert curves.strengths(rows, "pdq_31", ("match",)) == {"jpeg": [(30.0, Rate(1, 1))]}


@given(st.lists(st.one_of(st.none(), st.integers(-9, 9)), min_size=1, max_size=30),
       st.lists(st.one_of(st.none(), st.integers(-9, 9)), min_size=1, max_size=30))  # fmt: skip
def test_roc_is_what_each_threshold_gives(right: list[int | None], wrong: list[int | None]) -> None:
    rows = [copy("x", "match", score) for score in right] + [stranger("match", score) for score in wrong]
    thresholds, rates, recalls = curves.roc(curves.copies(rows, "staydown"), curves.strangers(rows, "staydown"))
    for least, rate, share in zip(thresholds, rates, recalls, strict=True):
        assert share == sum(score is not None and score >= least for score in right) / len(right)
        assert rate == sum(score is not None and score >= least for score in wrong) / len(wrong)
    assert (np.diff(rates) >= 0).all()
    assert (np.diff(recalls) >= 0).all()


def test_what_staydown_stated_and_whether_it_was_false() -> None:
    rows = [copy("x", "match", 6.0), copy("x", None, None), stranger("review", 2.0), stranger(None, 1.0),
            copy("x", "match", -4.0, "pdq_31")]  # fmt: skip
    assert curves.stated_of(rows) == [(pytest.approx(1e-6), False), (pytest.approx(1e-2), True)]


# --- the report -------------------------------------------------------------------------


def test_what_is_apart_is_in_no_mean_of_the_list() -> None:
    rows = [copy("jpeg_q50", "match", family="codec"), copy("mirror", "match", family="dihedral"),
            *(copy(f"pairs:crop~0.{number}+jpeg~30", None, family="pairs") for number in range(1, 9)),
            copy("triples:mirror+crop~0.5+jpeg~30", "match", family="triples"),
            copy("tiles_3x3", None, family="harder"), stranger(None, None)]  # fmt: skip
    means = scores.family_means(rows, "staydown")
    assert means == {"codec": 1.0, "dihedral": 1.0, "pairs": 0.0, "triples": 1.0, "harder": 0.0, "all": 1.0}
    page = scores.markdown("T", {}, rows, {"k": "photos/k.jpg"})
    assert "| pairs | 8 | 0 (0–32) |" in page
    assert "| triples | 1 | 100 (21–100) |" in page
    assert "| pairs with jpeg | 8 | 0 (0–32) |" in page
    assert "crop~0.1" not in page


def test_wrong_answers_are_named_the_surest_first() -> None:
    rows = [stranger("review", 2.0), stranger("match", 1.0), stranger(None, 9.0), stranger("match", 5.0)]
    found = scores.wrong_pairs(rows, {"k": "photos/k.jpg"})
    assert [(row.wrong, row.wrong_score) for row in found] == [("match", 5.0), ("match", 1.0), ("review", 2.0)]
    page = scores.markdown("T", {}, rows, {"k": "photos/k.jpg", "l": "photos/l.jpg"})
    assert "| b.jpg | plain |  | photos/k.jpg | match | 5.00 |" in page
    assert "| plain | staydown | 4 | 8 | 2 |" in page
    document = scores.document({}, rows, {"k": "photos/k.jpg"})
    assert document["wrong"][0][1:5] == ["b.jpg", "plain", "", "photos/k.jpg"]


# --- drawing ----------------------------------------------------------------------------


def _rows() -> list[Row]:
    rng = np.random.default_rng(3)
    rows = []
    for system, reach in (("staydown", 0.2), ("pdq_31", 0.85)):
        sign = 1 if system == "staydown" else -1
        for share in (0.9, 0.5, 0.1):
            rows += [copy(f"sweeps:crop~{share}", "match" if share > reach else None, sign * 10.0 * share, system)] * 5
        rows += [stranger(None, sign * float(rng.uniform(0, 3)), system) for _ in range(40)]
    return [*rows, stranger("review", 2.5)]


def test_all_plots_are_drawn_small_and_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="the extra bench is not installed")
    from benchmarks.robustness import plots

    result = tmp_path / "run.json"
    result.write_text(json.dumps({"rows": [asdict(row) for row in _rows()]}))
    for folder in ("first", "second"):
        monkeypatch.setattr("sys.argv", ["plots", str(result), "--out", str(tmp_path / folder)])
        plots.main()
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert names == ["run-distances-pdq_31.svg", "run-distances-staydown.svg", "run-reliability.svg", "run-roc.svg",
                     "run-strangers.svg", "run-strength.png"]  # fmt: skip
    for name in names:
        data = (tmp_path / "first" / name).read_bytes()
        assert data == (tmp_path / "second" / name).read_bytes()
        assert len(data) < 200_000
    assert "crop" not in (tmp_path / "first" / "run-roc.svg").read_text()
    assert "pdq_31" in (tmp_path / "first" / "run-roc.svg").read_text()


def test_nothing_is_drawn_of_what_was_not_measured() -> None:
    pytest.importorskip("matplotlib", reason="the extra bench is not installed")
    from benchmarks.robustness import plots

    assert plots.draw_strengths([copy("mirror", "match", 3.0, family="dihedral")]) is None
    assert plots.draw_roc([copy("mirror", "match", 3.0)]) is None
    assert plots.draw_distances([stranger("match", 3.0)], "staydown") is None
    with pytest.raises(ValueError, match="no report"):
        plots.rows_of({"something": 1})


# --- the adversary ----------------------------------------------------------------------


def test_a_climb_stays_within_the_noise_allowed_and_goes_where_the_score_falls() -> None:
    picture = resized(made.picture(4), 160, 120)
    sent: list[float] = []

    def ask(changed: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Seen:
        """Be less sure the more the upper half grows brighter than the lower one."""
        sent.append(psnr_db(picture, changed))
        gap = (changed.astype(float) - picture).mean((1, 2))
        score = -float(gap[:60].mean() - gap[60:].mean())
        return Seen(score > -2.0, score)

    done = climb(picture, ask, np.random.default_rng(1), 200)
    assert done.evaded
    assert done.tries == len(sent)
    assert done.psnr_db == min(sent) >= 30
    stubborn = climb(picture, lambda changed: Seen(True, 1.0), np.random.default_rng(1), 20, 40.0)
    assert (stubborn.evaded, stubborn.tries) == (False, 20)
    assert stubborn.psnr_db >= 40


def test_noise_ratio() -> None:
    grey = np.full((10, 10, 3), 100, np.uint8)
    assert psnr_db(grey, grey) == math.inf
    assert psnr_db(grey, grey + np.uint8(10)) == pytest.approx(20 * math.log10(25.5))


def test_an_attack_on_a_whole_frame_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    for seed in range(8):
        (tmp_path / f"{seed}.jpg").write_bytes(made.jpeg(resized(made.picture(100 + seed), 240, 180), 90))
    asked = "--queries 2 --tries 3 --systems pdq_31 --bank 4"
    monkeypatch.setattr("sys.argv", ["adversary", str(tmp_path), *asked.split()])
    adversary.main()
    row = capsys.readouterr().out.strip().splitlines()[-1].split("|")
    assert row[1].strip() == "pdq_31"
    assert int(row[2]) == 2
    assert float(row[5]) >= 30
