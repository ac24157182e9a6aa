"""A frozen report as a page of Markdown. Pure."""

from collections.abc import Iterable, Sequence

from benchmarks.report import Check, Curve, Line, Report, Summary


def duration(seconds: float) -> str:
    """Return seconds as text in a fitting unit, three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _rate(seconds: float) -> str:
    return f"{1 / seconds:,.0f}" if seconds < 0.1 else f"{1 / seconds:.3g}"


def _compared(line: Line) -> str:
    if line.ratio is None:
        return "" if line.ours else "the yardstick"
    slower = ", slower" if line.ratio.value < 1 else ""
    other = line.ratio.peer if line.ours else "it"
    return f"{line.ratio.value:.2f}× as fast as {other} ({line.ratio.low:.2f}–{line.ratio.high:.2f}){slower}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(row) + " |" for row in cells]


def _summary_lines(summary: Summary) -> list[str]:
    out = [f"## {summary.name}", "", summary.note, ""]
    if summary.lines:
        head = ("case", "what", "median", "IQR", "a second", "staydown is")
        out += _table(head, (
            (line.group, f"**{line.name}**" if line.ours else line.name, duration(line.median_s),
             f"{line.iqr_s / line.median_s:.0%}", _rate(line.median_s), _compared(line))
            for line in summary.lines
        ))  # fmt: skip
        out.append("")
    if summary.facts:
        out += _table(("case", "what", "value"),
                      ((fact.group, fact.name, f"{fact.value:.4g} {fact.unit}") for fact in summary.facts))  # fmt: skip
        out.append("")
    out += curve_lines(summary.curves)
    out += [f"- {_word(check)}: {check.name}: {check.detail}" for check in summary.checks]
    return [*out, ""] if summary.checks else out


def _word(check: Check) -> str:
    if check.goal:
        return "goal met" if check.ok else "**goal not met**"
    return "holds" if check.ok else "**FAILED**"


def file_of(title: str) -> str:
    """Return the name of the file that a plot is drawn to."""
    words = "".join(c if c.isalnum() else " " for c in title.lower()).split()
    return f"{'-'.join(words)}.svg"


def curve_lines(curves: Sequence[Curve]) -> list[str]:
    """Return a table a plot: a row for each place, a column for each line."""
    out: list[str] = []
    for title in dict.fromkeys(curve.title for curve in curves):
        drawn = [curve for curve in curves if curve.title == title]
        places = sorted({point.x for curve in drawn for point in curve.points})
        head = (drawn[0].x, *(f"{curve.name}, {curve.unit}" for curve in drawn))
        out += [f"**{title}** ([plot]({file_of(title)}))", ""]
        out += _table(head, ((f"{x:,.12g}", *(_at(curve, x) for curve in drawn)) for x in places))
        out.append("")
    return out


def _at(curve: Curve, x: float) -> str:
    found = [f"{point.value:.3g} ({point.low:.3g}–{point.high:.3g})" for point in curve.points if point.x == x]
    return found[0] if found else ""


def to_markdown(report: Report) -> str:
    """Return the report as a page."""
    out = ["# Benchmarks", "", "Ratios are to a peer measured in turns in the same run: above 1, staydown is faster.",
           "In brackets, the middle half of the rounds.", ""]  # fmt: skip
    out += [*_table(("machine", ""), report.machine.items()), ""]
    out += [line for summary in report.summaries for line in _summary_lines(summary)]
    if report.regressions:
        out += ["## Fell against the earlier run", "", *(f"- {text}" for text in report.regressions), ""]
    return "\n".join(out)
