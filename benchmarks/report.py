"""Raw measurements -> a frozen report -> JSON, an exit status (`page` makes a page of it). Pure: no clock, no files.

Every figure stands beside a peer measured in the same run, in turns: a ratio is the
median over the rounds of `peer's time / staydown's time`, so that a noisy neighbour
slows both. Absolute times are shown for the curious; nothing is judged by them.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

TOLERANCE = 0.3  # of a ratio: what two runs on a busy machine may differ by


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds for one item, one value a round; `ours` tells staydown from a peer or a yardstick."""

    group: str
    name: str
    ours: bool
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.seconds or min(self.seconds) <= 0:
            raise ValueError(f"{self.group}, {self.name}: times have to be positive")


@dataclass(frozen=True, slots=True)
class Fact:
    """A number that is no time, such as bytes a hash."""

    group: str
    name: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Check:
    """Something that has to hold, whatever the speed; or a goal, which is told and fails nothing."""

    name: str
    ok: bool
    detail: str
    goal: bool = False


@dataclass(frozen=True, slots=True)
class Floor:
    """The least that the ratio to a peer has to be; `ours` where several of ours are held against one."""

    group: str
    peer: str
    at_least: float
    goal: bool = False
    ours: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured at one place of a curve: median and quartiles."""

    x: float
    low: float
    value: float
    high: float


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a plot: how something grows. Lines of one title are drawn together."""

    title: str
    x: str  # what grows, with its unit
    unit: str  # of the values
    name: str
    points: tuple[Point, ...]


def point(x: float, values: Sequence[float]) -> Point:
    """Sum up what was measured at one place."""
    return Point(x, *quartiles(values))


@dataclass(frozen=True, slots=True)
class Section:
    """The raw measurements of one benchmark. A group of timings has one of ours, or one of theirs."""

    name: str
    note: str
    timings: tuple[Timing, ...]
    facts: tuple[Fact, ...] = ()
    checks: tuple[Check, ...] = ()
    floors: tuple[Floor, ...] = ()
    curves: tuple[Curve, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what `section_of` reads."""
        return asdict(self)


def skipped(name: str, why: str) -> Section:
    """Return a section that says why it measured nothing."""
    return Section(name, f"Skipped: {why}.", ())


def section_of(document: Mapping[str, Any]) -> Section:
    """Read raw measurements back."""
    return Section(
        document["name"],
        document["note"],
        tuple(Timing(**item | {"seconds": tuple(item["seconds"])}) for item in document["timings"]),
        tuple(Fact(**item) for item in document["facts"]),
        tuple(Check(**item) for item in document["checks"]),
        tuple(Floor(**item) for item in document["floors"]),
        tuple(_curve_of(item) for item in document["curves"]),
    )


def _curve_of(document: Mapping[str, Any]) -> Curve:
    return Curve(**{**document, "points": tuple(Point(**item) for item in document["points"])})


def curves_of(document: Mapping[str, Any]) -> tuple[Curve, ...]:
    """Return the curves of a report's JSON."""
    return tuple(map(_curve_of, document["curves"]))


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as fast staydown is as a peer: median over the rounds, and the middle half of them."""

    section: str
    group: str
    ours: str
    peer: str
    value: float
    low: float
    high: float

    @property
    def key(self) -> str:
        """What stays the same from run to run."""
        return " | ".join((self.section, self.group, self.ours, self.peer))


class Span(NamedTuple):
    """A ratio's lower quartile, median and upper quartile."""

    low: float
    value: float
    high: float


@dataclass(frozen=True, slots=True)
class Line:
    """One timing, summed up, and its ratio if it is half of a pair."""

    group: str
    name: str
    ours: bool
    median_s: float
    iqr_s: float
    ratio: Ratio | None


@dataclass(frozen=True, slots=True)
class Summary:
    """One section, summed up."""

    name: str
    note: str
    lines: tuple[Line, ...]
    facts: tuple[Fact, ...]
    checks: tuple[Check, ...]
    curves: tuple[Curve, ...] = ()

    @property
    def ratios(self) -> tuple[Ratio, ...]:
        """All ratios of the section."""
        return tuple(line.ratio for line in self.lines if line.ratio)


@dataclass(frozen=True, slots=True)
class Report:
    """All sections of a run, and what they were measured on."""

    machine: Mapping[str, str]
    summaries: tuple[Summary, ...]
    regressions: tuple[str, ...] = field(default=())

    @property
    def status(self) -> int:
        """0, or 1 if a check failed or a ratio fell."""
        failed = any(not (check.ok or check.goal) for summary in self.summaries for check in summary.checks)
        return 1 if failed or self.regressions else 0


# --- raw -> frozen ----------------------------------------------------------------------


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _ratio(section: str, ours: Timing, peer: Timing) -> Ratio:
    rounds = [theirs / mine for mine, theirs in zip(ours.seconds, peer.seconds, strict=True)]
    low, middle, high = quartiles(rounds)
    return Ratio(section, ours.group, ours.name, peer.name, middle, low, high)


def _paired(section: str, group: list[Timing]) -> dict[str, Ratio]:
    """Return the ratio of each timing but the one that all others are compared with."""
    ours, peers = [t for t in group if t.ours], [t for t in group if not t.ours]
    if len(ours) == 1:
        return {peer.name: _ratio(section, ours[0], peer) for peer in peers}
    if len(peers) == 1:
        return {mine.name: _ratio(section, mine, peers[0]) for mine in ours}
    raise ValueError(f"{section}, {group[0].group}: neither one of ours nor one of theirs")


def _lines(section: Section) -> Iterable[Line]:
    groups: dict[str, list[Timing]] = {}
    for timing in section.timings:
        groups.setdefault(timing.group, []).append(timing)
    for name, group in groups.items():
        ratios = _paired(section.name, group)
        for timing in group:
            low, middle, high = quartiles(timing.seconds)
            yield Line(name, timing.name, timing.ours, middle, high - low, ratios.get(timing.name))


def _judged(floor: Floor, ratios: Iterable[Ratio]) -> Check:
    name = f"{floor.group}: at least {floor.at_least:g} times as fast as {floor.peer}"
    found = [ratio.value for ratio in ratios
             if (ratio.group, ratio.peer) == (floor.group, floor.peer) and floor.ours in ("", ratio.ours)]  # fmt: skip
    if not found:
        return Check(name, False, "was not measured", floor.goal)
    return Check(name, min(found) >= floor.at_least, f"{min(found):.2f} times", floor.goal)


def summarize(section: Section) -> Summary:
    """Sum up one section; ValueError where timings cannot be paired."""
    lines = tuple(_lines(section))
    ratios = [line.ratio for line in lines if line.ratio]
    floors = tuple(_judged(floor, ratios) for floor in section.floors)
    return Summary(section.name, section.note, lines, section.facts, (*section.checks, *floors), section.curves)


def regressions(old: Mapping[str, Span], new: Mapping[str, Span], tolerance: float = TOLERANCE) -> tuple[str, ...]:
    """Name each ratio that fell, and each that is gone.

    It fell if the middle half of its rounds now lies below that of the earlier run by more
    than `tolerance` of it: one noisy run is no regression.
    """
    if old and not set(old) & set(new):
        return ("the two runs have no ratio in common",)
    gone = [f"{key}: was {was.value:.2f}, is not measured any more" for key, was in old.items() if key not in new]
    fell = [
        f"{key}: was {was.value:.2f}, is {new[key].value:.2f}"
        for key, was in old.items()
        if key in new and new[key].high < was.low * (1 - tolerance)
    ]
    return tuple(fell + gone)


def ratios_of(document: Mapping[str, Any]) -> dict[str, Span]:
    """Return the ratios of a report's JSON."""
    return {str(r["key"]): Span(float(r["low"]), float(r["value"]), float(r["high"])) for r in document["ratios"]}


def build(machine: Mapping[str, str], sections: Iterable[Section], old: Mapping[str, Any] | None = None,
          tolerance: float = TOLERANCE) -> Report:  # fmt: skip
    """Make the report; `old` is the JSON of an earlier one, to be held against in the sections that were measured."""
    summaries = tuple(map(summarize, sections))
    if old is None:
        return Report(machine, summaries)
    new = {ratio.key: Span(ratio.low, ratio.value, ratio.high) for summary in summaries for ratio in summary.ratios}
    measured = {summary.name for summary in summaries if summary.lines}
    asked = {key: was for key, was in ratios_of(old).items() if key.partition(" | ")[0] in measured}
    return Report(machine, summaries, regressions(asked, new, tolerance))


def to_json(report: Report) -> dict[str, Any]:
    """Return the report as a document; `ratios` is what a later run is held against."""
    return {
        "machine": dict(report.machine),
        "ratios": [{"key": ratio.key, "value": round(ratio.value, 4), "low": round(ratio.low, 4),
                    "high": round(ratio.high, 4)}
                   for summary in report.summaries for ratio in summary.ratios],
        "facts": [asdict(fact) for summary in report.summaries for fact in summary.facts],
        "curves": [asdict(curve) for summary in report.summaries for curve in summary.curves],
        "checks": [asdict(check) for summary in report.summaries for check in summary.checks],
        "regressions": list(report.regressions),
    }  # fmt: skip
