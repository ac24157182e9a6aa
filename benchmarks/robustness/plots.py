"""`python -m benchmarks.robustness.plots RESULT.json… --out FOLDER`: the plots of runs, as SVG or PNG.

Draws what the results hold: recall against the strength of edits, recall against false
matches as the threshold moves, how near copies and strangers come, and whether stated
probabilities hold. Needs the extra `bench`.
"""

import argparse
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.robustness import curves
from benchmarks.robustness.curves import Bin
from benchmarks.robustness.edits_dials import DIALS
from benchmarks.robustness.scores import RECALL, Rate, Row

mpl.rcParams |= {"svg.hashsalt": "staydown", "font.size": 8, "svg.fonttype": "none", "axes.grid": True,
                 "grid.alpha": 0.3, "legend.frameon": False}  # fmt: skip
_COLUMNS = 4
_DPI = 72
_POINTS = 16
_AS_PNG = "strength"  # as SVG too large for a repository
_COLOURS = ("#0b6e4f", "#b5541c", "#3b5b92", "#7a4b8f", "#8a8a2a", "#555555")
_FIELDS = {field.name for field in fields(Row)}


def rows_of(document: Mapping[str, object]) -> list[Row]:
    """Return the rows of a report's JSON; ValueError if it has none."""
    rows = document.get("rows")
    if not isinstance(rows, list):
        raise ValueError("this is no report of the robustness benchmark: it has no rows")
    return [Row(**{name: value for name, value in row.items() if name in _FIELDS}) for row in rows]


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as SVG or PNG, the same bytes for the same figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nameless = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(path, metadata=nameless, dpi=_DPI)
    return path


def _systems(rows: Iterable[Row]) -> dict[str, str]:
    """Return a colour for each system, staydown first."""
    names = sorted({row.system for row in rows}, key=lambda name: (name != "staydown", name))
    return {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}


def draw_strengths(rows: Sequence[Row]) -> Figure | None:
    """Draw recall against the strength of each edit that was swept; None if none was."""
    systems = _systems(rows)
    found = {name: curves.strengths(rows, name, ("match", "review")) for name in systems}
    dials = [name for name in DIALS if any(name in by_dial for by_dial in found.values())]
    if not dials:
        return None
    lines = math.ceil(len(dials) / _COLUMNS)
    figure = Figure(figsize=(11, 2.3 * lines + 0.4), layout="constrained")
    places = figure.subplots(lines, _COLUMNS, squeeze=False).ravel()
    for axes, dial in zip(places, dials, strict=False):
        for system, colour in systems.items():
            _strength(axes, found[system].get(dial, []), colour, system)
        axes.set(xlabel=DIALS[dial].what, ylim=(-0.03, 1.03), title=dial)
        if DIALS[dial].strong < DIALS[dial].weak:
            axes.invert_xaxis()
    for axes in places[len(dials) :]:
        axes.set_axis_off()
    figure.legend(*places[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(systems))
    return figure


def _strength(axes: Axes, points: Sequence[tuple[float, Rate]], colour: str, label: str) -> None:
    """Draw one system's recall with Wilson's intervals."""
    values = [value for value, _ in points]
    rates = [rate for _, rate in points]
    axes.plot(values, [rate.value for rate in rates], ".-", color=colour, label=label, lw=1)
    low, high = zip(*(rate.interval for rate in rates), strict=True) if rates else ((), ())
    axes.fill_between(values, low, high, color=colour, alpha=0.15, lw=0)


def draw_roc(rows: Sequence[Row]) -> Figure | None:
    """Draw recall against the rate of false answers, of the mean over all copies; None without copies or strangers."""
    figure = Figure(figsize=(5.2, 4), layout="constrained")
    axes = figure.subplots()
    for system, colour in _systems(rows).items():
        right, wrong = curves.copies(rows, system), curves.strangers(rows, system)
        if len(right) and len(wrong):
            _, rates, recalls = curves.roc(right, wrong)
            axes.step(np.maximum(rates, 0.3 / len(wrong)), recalls, where="post", color=colour, label=system, lw=1.2)
    if not axes.lines:
        return None
    axes.set(xscale="log", ylim=(0, 1.02), ylabel="copies found, share",
             xlabel="strangers with a false answer, share (left edge: none)")  # fmt: skip
    axes.legend(loc="lower right")
    return figure


def draw_distances(rows: Sequence[Row], system: str) -> Figure | None:
    """Draw how far a system sees copies from their originals, and strangers from the nearest picture."""
    right, wrong = (-scores[np.isfinite(scores)] for scores in (curves.copies(rows, system),
                                                                curves.strangers(rows, system)))  # fmt: skip
    if not len(right):
        return None
    sign, what = (-1, "evidence: -log10 of the stated probability") if system == "staydown" else (1, "distance, bits")
    figure = Figure(figsize=(5.2, 3), layout="constrained")
    axes = figure.subplots()
    edges = np.histogram_bin_edges(np.concatenate([right, wrong]) * sign, 48).tolist()
    axes.hist(right * sign, edges, color=_COLOURS[0], alpha=0.6, label=f"copies ({len(right)} named)")
    axes.hist(wrong * sign, edges, color=_COLOURS[1], alpha=0.6, label=f"strangers, nearest ({len(wrong)} named)")
    axes.set(xlabel=f"{system}: {what}", ylabel="queries", yscale="log")
    axes.legend()
    return figure


def draw_reliability(bins: Sequence[Bin], stated_as: str = "stated probability of a false match",
                     observed_as: str = "observed share of false matches") -> Figure:  # fmt: skip
    """Draw the observed share of what is false against the stated one, each with its 95 % band."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    lowest = min((each.stated for each in bins), default=1e-3)
    ends = np.array([lowest / 3, 1.0])
    axes.plot(ends, ends, "--", color="#888888", lw=1, label="as stated")
    stated = np.array([each.stated for each in bins])
    floor = min(lowest, *(each.high for each in bins), 1.0) / 3 if bins else 1e-3
    low, high = (np.array([max(getattr(each, side), floor) for each in bins]) for side in ("low", "high"))
    axes.vlines(stated, low, high, color=_COLOURS[0], lw=3, alpha=0.35)
    seen = _seen(bins)
    axes.plot(stated[seen], [bins[place].observed.value for place in np.flatnonzero(seen).tolist()], "o", ms=4,
              color=_COLOURS[0], label="observed share, 95 % band")  # fmt: skip
    for each, top in zip(bins, high, strict=True):
        axes.annotate(f"{each.observed.hits}/{each.observed.n}", (each.stated, top), fontsize=6, ha="center",
                      xytext=(0, 3), textcoords="offset points")  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel=stated_as, ylabel=observed_as, ylim=(floor, 2))  # fmt: skip
    axes.legend(loc="lower right")
    return figure


def draw_strangers(rows: Sequence[Row]) -> Figure | None:
    """Draw the share of strangers that staydown stated so or lower, against what it stated; None if it named none."""
    mine = [row for row in rows if row.system == "staydown" and row.group != RECALL]
    stated = [10**-row.wrong_score for row in mine if row.wrong and row.wrong_score is not None]
    if not stated:
        return None
    bins = curves.exceedance(stated, len(mine))
    some = sorted({round(place) for place in np.linspace(0, len(bins) - 1, _POINTS).tolist()})
    return draw_reliability([bins[place] for place in some], "stated chance that a stranger comes as near",
                            "share of strangers stated so or lower")  # fmt: skip


def _seen(bins: Sequence[Bin]) -> NDArray[np.bool_]:
    """Return which bins have a false match at all: a share of 0 has no place on a logarithmic axis."""
    return np.array([each.observed.hits > 0 for each in bins], bool)


def draw_all(rows: Sequence[Row], folder: Path, stem: str) -> list[Path]:
    """Draw what the rows hold; return the files."""
    figures: dict[str, Figure | None] = {"strength": draw_strengths(rows), "roc": draw_roc(rows)}
    figures |= {f"distances-{system}": draw_distances(rows, system) for system in _systems(rows)}
    if stated := curves.stated_of(rows):
        figures["reliability"] = draw_reliability(curves.reliability(stated))
        figures["strangers"] = draw_strangers(rows)
    return [
        save(figure, folder / f"{stem}-{name}{'.png' if name == _AS_PNG else '.svg'}")
        for name, figure in figures.items()
        if figure is not None
    ]


def main() -> None:
    """Be `python -m benchmarks.robustness.plots`."""
    parser = argparse.ArgumentParser(description="Draw the plots of robustness runs")
    parser.add_argument("results", type=Path, nargs="+", help="JSON files that runs wrote; their rows are put together")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/robustness"))
    parser.add_argument("--stem", help="beginning of the files' names; else the first result's")
    asked = parser.parse_args()
    rows = [row for path in asked.results for row in rows_of(json.loads(path.read_text()))]
    for path in draw_all(rows, asked.out, asked.stem or asked.results[0].stem):
        print(path, f"{path.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
