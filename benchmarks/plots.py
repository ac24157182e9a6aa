"""`python -m benchmarks.plots [REPORT.json] [--out FOLDER]`: the curves of a report, a plot a title. Extra `bench`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.page import file_of
from benchmarks.report import Curve, curves_of

RESULTS = Path(__file__).parent / "results"
_COLOURS = ("#0b6e4f", "#b5541c", "#3b5b92", "#7a4b8f", "#8a8a2a", "#555555")
_WIDE = 20  # from such a ratio of the largest place to the smallest on, an axis is logarithmic

mpl.rcParams |= {"svg.hashsalt": "staydown", "font.size": 8, "svg.fonttype": "none", "axes.grid": True,
                 "grid.alpha": 0.3, "legend.frameon": False}  # fmt: skip


def _scale(values: Sequence[float]) -> str:
    return "log" if min(values) > 0 and max(values) > _WIDE * min(values) else "linear"


def _draw(axes: Axes, curve: Curve, colour: str) -> None:
    places = [point.x for point in curve.points]
    axes.plot(places, [point.value for point in curve.points], ".-", color=colour, label=curve.name, lw=1)
    axes.fill_between(places, [point.low for point in curve.points], [point.high for point in curve.points],
                      color=colour, alpha=0.2, lw=0)  # fmt: skip


def draw(curves: Sequence[Curve]) -> Figure:
    """Draw the curves of one title: medians, and the middle half as a band."""
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    for number, curve in enumerate(curves):
        _draw(axes, curve, _COLOURS[number % len(_COLOURS)])
    points = [point for curve in curves for point in curve.points]
    axes.set(title=curves[0].title, xlabel=curves[0].x, ylabel=curves[0].unit)
    axes.set(xscale=_scale([point.x for point in points]), yscale=_scale([point.value for point in points]))
    if axes.get_yscale() == "linear":
        axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def draw_all(curves: Sequence[Curve], folder: Path) -> list[Path]:
    """Draw each title to a file that the report's page links to; the same bytes for the same curves."""
    paths = []
    for title in dict.fromkeys(curve.title for curve in curves):
        path = folder / file_of(title)
        figure = draw([curve for curve in curves if curve.title == title])
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        paths.append(path)
    return paths


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="benchmarks.plots")
    parser.add_argument("report", type=Path, nargs="?", default=RESULTS / "latest.json")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    for path in draw_all(curves_of(json.loads(asked.report.read_text())), asked.out):
        print(path)


if __name__ == "__main__":
    main()
