"""Answers of systems -> rates with intervals -> Markdown and JSON. Pure: no clock, no files."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

APART = ("pairs", "triples", "chains", "harder", "sweeps")  # families that are in no mean of the list of edits
CHAINED = APART[:3]
RECALL = "recall"  # the group of rows whose query is a copy; in all other groups nothing may be found
Span = tuple[float, float, float, float]  # query's start and end, reference's start and end
_Z = 1.959963985  # 95 %
_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Row:
    """What one system said of one query."""

    system: str
    group: str
    edit: str
    family: str
    query: str
    seconds: float
    found: str | None = None  # the verdict on the true content; None in groups without one
    found_score: float | None = None
    wrong: str | None = None  # the surest verdict on any other content; where None, the score only says how near
    wrong_score: float | None = None
    wrong_key: str | None = None
    placed: bool | None = None  # of a video: whether the times that were told are right
    covered: float | None = None  # of a video: which share of the copied seconds was told
    iou_query: float | None = None  # of a video: told seconds against copied ones, in the upload
    iou_reference: float | None = None  # and in the known clip


@dataclass(frozen=True, slots=True)
class Rate:
    """`hits` of `n`, with a Wilson 95 % interval."""

    hits: int
    n: int

    @property
    def value(self) -> float:
        """The share."""
        return self.hits / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval."""
        if not self.n:
            return 0.0, 1.0
        share, square = self.value, _Z * _Z / self.n
        middle = (share + square / 2) / (1 + square)
        half = _Z / (1 + square) * math.sqrt(share * (1 - share) / self.n + square / (4 * self.n))
        return max(middle - half, 0.0), min(middle + half, 1.0)

    @property
    def bound(self) -> float:
        """What the rate is below, with 95 %: by the rule of three where nothing was hit."""
        if not self.hits:
            return min(3 / self.n, 1.0) if self.n else 1.0
        return self.interval[1]

    def __str__(self) -> str:
        low, high = self.interval
        digits = 1 if self.n >= 200 else 0
        return f"{100 * self.value:.{digits}f} ({100 * low:.{digits}f}–{100 * high:.{digits}f})"


def _shown_at(span: Span, query_s: float) -> float:
    """Return the reference's time at one of the query's, infinity where it shows something else."""
    start, end, since, until = span
    if not start - 0.5 <= query_s <= end + 0.5:
        return math.inf
    return since + (until - since) * (query_s - start) / (end - start) if end > start else since


def placed(told: Sequence[Span], truth: Sequence[Span], tolerance_s: float = 1.0) -> bool:
    """Say whether all times that are told are right within a second."""
    for start, end, since, until in told:
        middle, claimed = (start + end) / 2, (since + until) / 2
        if min(abs(_shown_at(span, middle) - claimed) for span in truth) > tolerance_s:
            return False
    return bool(told)


def covered(told: Sequence[Span], truth: Sequence[Span]) -> float:
    """Return which share of the copied seconds is told; 1 of a still."""
    length = sum(end - start for start, end, _, _ in truth)
    return min(sum(end - start for start, end, _, _ in told) / length, 1.0) if length else 1.0


def _length(intervals: Sequence[tuple[float, float]]) -> float:
    """Return how many seconds lie in at least one of the intervals."""
    length_s, reached_s = 0.0, -math.inf
    for start_s, end_s in sorted(intervals):
        length_s += max(end_s - max(start_s, reached_s), 0.0)
        reached_s = max(reached_s, end_s)
    return length_s


def iou(told: Sequence[tuple[float, float]], truth: Sequence[tuple[float, float]]) -> float | None:
    """Return the seconds in both over the seconds in either; None where the truth is a moment and has none."""
    told, truth = [(min(pair), max(pair)) for pair in told], [(min(pair), max(pair)) for pair in truth]
    either = _length([*told, *truth])
    return (_length(told) + _length(truth) - either) / either if _length(truth) else None


def overlaps(told: Sequence[Span], truth: Sequence[Span]) -> tuple[float | None, float | None]:
    """Return the IoU of the seconds told with the truth, on the upload's axis and on the known clip's."""
    return (
        iou([span[:2] for span in told], [span[:2] for span in truth]),
        iou([span[2:] for span in told], [span[2:] for span in truth]),
    )


def recall(rows: Sequence[Row], verdicts: Sequence[str] = ("match", "review")) -> Rate:
    """Count the copies that were found with one of these verdicts."""
    return Rate(sum(row.found in verdicts for row in rows), len(rows))


def false(rows: Sequence[Row], verdict: str) -> Rate:
    """Count the queries whose surest wrong answer has this verdict."""
    return Rate(sum(row.wrong == verdict for row in rows), len(rows))


def by_edit(rows: Iterable[Row], system: str) -> dict[str, list[Row]]:
    """Return the rows of copies of one system by edit."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.system == system and row.group == RECALL:
            found.setdefault(row.edit, []).append(row)
    return found


def _families_of(row: Row) -> tuple[str, ...]:
    return (row.family,) if row.family in APART else (row.family, "all")


def family_means(rows: Sequence[Row], system: str, verdicts: Sequence[str] = ("match", "review")) -> dict[str, float]:
    """Return the mean over the edits of each family, and over all edits of the list as `all`."""
    rates: dict[str, list[float]] = {}
    for group in by_edit(rows, system).values():
        rate = recall(group, verdicts).value
        for name in _families_of(group[0]):
            rates.setdefault(name, []).append(rate)
    means = {name: statistics.fmean(values) for name, values in rates.items()}
    return {name: means[name] for name in [*(name for name in means if name != "all"), "all"] if name in means}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)] + [""]


def _columns(rows: Sequence[Row]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return (title, system, verdicts): two columns for a system that also says `review`."""
    columns: list[tuple[str, str, tuple[str, ...]]] = []
    for system in dict.fromkeys(row.system for row in rows):
        unsure = any(row.system == system and "review" in (row.found, row.wrong) for row in rows)
        if unsure:
            columns.append((f"{system}, match", system, ("match",)))
        columns.append((f"{system}, match or review" if unsure else system, system, ("match", "review")))
    return columns


def _families(rows: Sequence[Row]) -> list[str]:
    columns = _columns(rows)
    means = [family_means(rows, system, verdicts) for _, system, verdicts in columns]
    count: dict[str, set[str]] = {}
    for row in rows:
        if row.group == RECALL:
            for name in _families_of(row):
                count.setdefault(name, set()).add(row.edit)
    body = ([name, str(len(count[name])), *(f"{100 * mean[name]:.1f}" for mean in means)] for name in means[0])
    return _table(["family", "edits", *(title for title, _, _ in columns)], body)


def pooled(rows: Iterable[Row], key: Callable[[Row], Iterable[str]]) -> dict[str, list[Row]]:
    """Return the rows of copies by each of the names that `key` gives a row."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        for name in key(row) if row.group == RECALL else ():
            found.setdefault(name, []).append(row)
    return found


def _steps(row: Row) -> list[str]:
    """Return the kinds of edit in a chain, and of other edits nothing."""
    steps = row.edit.rpartition(":")[2].split("+") if row.family in CHAINED else []
    return [f"{row.family} with {step.partition('~')[0]}" for step in steps]


def _pooled(rows: Sequence[Row], what: str, key: Callable[[Row], Iterable[str]]) -> list[str]:
    """Return a table of shares of queries with intervals."""
    columns = _columns(rows)
    tables = {system: pooled((row for row in rows if row.system == system), key) for _, system, _ in columns}
    first = next(iter(tables.values()))
    body = ([name, str(len(group)), *(str(recall(tables[system][name], verdicts)) for _, system, verdicts in columns)]
            for name, group in sorted(first.items(), key=lambda pair: pair[0] == "all"))  # fmt: skip
    return _table([what, "n", *(title for title, _, _ in columns)], body) if first else []


def _edits(rows: Sequence[Row]) -> list[str]:
    columns = _columns(rows)
    tables = {system: by_edit(rows, system) for _, system, _ in columns}
    first = next(iter(tables.values()))
    body = (
        [edit, group[0].family, str(len(group)),
         *(str(recall(tables[system][edit], verdicts)) for _, system, verdicts in columns)]
        for edit, group in first.items() if group[0].family not in CHAINED
    )  # fmt: skip
    return _table(["edit", "family", "n", *(title for title, _, _ in columns)], body)


def _alarms(rows: Sequence[Row], enrolled: int) -> list[str]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.group, row.system), []).append(row)
    body = []
    for (group, system), mine in sorted(groups.items()):
        sure, unsure = false(mine, "match"), false(mine, "review")
        name = "wrong content beside a copy" if group == RECALL else group
        pairs = f"{len(mine) * enrolled:,}" if enrolled else "–"
        body.append([name, system, str(len(mine)), pairs, str(sure.hits), f"{sure.bound:.2g}",
                     str(unsure.hits), f"{unsure.bound:.2g}"])  # fmt: skip
    head = ["queries", "system", "n", "pairs", "match", "rate below (95 %)", "review", "rate below (95 %)"]
    return _table(head, body)


def wrong_pairs(rows: Iterable[Row], names: Mapping[str, str]) -> list[Row]:
    """Return the rows with a wrong answer, the surest first, and `wrong_key` as the file's name."""
    found = [
        replace(row, wrong_key=names.get(row.wrong_key, row.wrong_key)) for row in rows if row.wrong and row.wrong_key
    ]
    return sorted(found, key=lambda row: (row.wrong != "match", -(row.wrong_score or 0.0)))


def _to_look_at(rows: Sequence[Row], names: Mapping[str, str]) -> list[str]:
    mine = [row for row in wrong_pairs(rows, names) if row.system == "staydown"][:_SHOWN]
    body = [[row.query, row.group, row.edit, row.wrong_key or "", row.wrong or "", f"{row.wrong_score:.2f}"]
            for row in mine]  # fmt: skip
    head = ["query", "group", "edit", "found instead", "verdict", "score"]
    return ["## Wrong answers of staydown, the surest first", "", *_table(head, body)] if body else []


def _speed(rows: Sequence[Row]) -> list[str]:
    body = []
    for system in dict.fromkeys(row.system for row in rows):
        times = sorted(row.seconds for row in rows if row.system == system)
        body.append([system, f"{1000 * statistics.median(times):.1f} ms", f"{1000 * times[-len(times) // 20]:.1f} ms"])
    return _table(["system", "median of a query", "95th in a hundred"], body)


def _median(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{100 * statistics.median(known):.1f}" if known else ""


def _times(rows: Sequence[Row], system: str) -> list[str]:
    body = [
        [edit, str(len(group)), _median(row.iou_query for row in group), _median(row.iou_reference for row in group)]
        for edit, group in by_edit(rows, system).items()
    ]
    return _table(["edit", "n", "median IoU in the upload", "median IoU in the known clip"], body)


def _places(rows: Sequence[Row]) -> list[str]:
    body = []
    for system in dict.fromkeys(row.system for row in rows):
        mine = [row for row in rows if row.system == system and row.placed is not None]
        if mine:
            share = statistics.fmean(row.covered or 0.0 for row in mine)
            body.append([system, str(len(mine)), str(Rate(sum(bool(row.placed) for row in mine), len(mine))),
                         f"{100 * share:.0f}", _median(row.iou_query for row in mine),
                         _median(row.iou_reference for row in mine)])  # fmt: skip
    head = ["system", "n", "all times right within 1 s", "mean share of the copied seconds that is told",
            "median IoU in the upload", "median IoU in the known clip"]  # fmt: skip
    if not body:
        return []
    lines = ["## Times told of the copies found, %", "", *_table(head, body)]
    return [*lines, f"By edit, {body[-1][0]}:", "", *_times(rows, body[-1][0])]


def markdown(title: str, facts: Mapping[str, str], rows: Sequence[Row], names: Mapping[str, str] | None = None) -> str:
    """Return the report as a page; `names` are the enrolled files' by their keys."""
    lines = [f"# {title}", "", *_table(["", ""], facts.items())]
    if any(row.group == RECALL for row in rows):
        lines += ["## Copies found, mean over the edits, %", "", *_families(rows)]
        lines += ["## Copies found, of all queries of a family, % (Wilson 95 %)", ""]
        lines += _pooled(rows, "family", _families_of)
    lines += [
        "## False answers: queries of which the surest wrong answer has this verdict",
        "",
        *_alarms(rows, len(names or {})),
    ]
    lines += _to_look_at(rows, names or {})
    lines += _places(rows)
    if any(row.group == RECALL for row in rows):
        lines += ["## Copies found by edit, % (Wilson 95 %)", "", *_edits(rows)]
        lines += _pooled(rows, "chains by the edits in them", _steps)
    lines += ["## Time, with the pictures in memory, other work on the machine", "", *_speed(rows)]
    return "\n".join(lines)


def document(facts: Mapping[str, str], rows: Sequence[Row], names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the report as JSON with every answer, so that other thresholds can be tried on it."""
    systems = list(dict.fromkeys(row.system for row in rows))
    return {
        "facts": dict(facts),
        "families": {system: family_means(rows, system) for system in systems},
        "families_match_only": {system: family_means(rows, system, ("match",)) for system in systems},
        "enrolled": len(names or {}),
        "wrong": [
            [row.system, row.query, row.group, row.edit, row.wrong_key, row.wrong, row.wrong_score]
            for row in wrong_pairs(rows, names or {})
        ],
        "rows": [{name: value for name, value in asdict(row).items() if value is not None} for row in rows],
    }
