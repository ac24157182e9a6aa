"""`make bench`, `staydown bench`: all benchmarks that need no media of others, one report.

Each runs in a process of its own. Others' software is measured beside where it is named
(`--peers-python`, `--hma`), and said to be absent where it is not. The report is printed, and
written as `latest.md` and `latest.json`, with a plot of each curve where the extra `bench` is
installed. Exit status 1 if a check fails, or, with `--compare`, if a ratio to a peer fell by
more than the tolerance; 2 if something could not be measured.
"""

import argparse
import importlib
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from benchmarks import page, report
from benchmarks.measure import Company, add_peers, collect_alone, machine, name_peers

MODULES = ("limits", "hashing", "search", "growth", "checks", "over_http", "end_to_end", "videos", "rescans", "peers",
           "hma")  # fmt: skip
RESULTS = Path(__file__).parent / "results"
UNMEASURED = 2
errors = Console(stderr=True, highlight=False)


def measured(modules: Sequence[str], short: bool) -> list[report.Section]:
    """Run benchmarks, in their order; RuntimeError if one gives no result."""
    sections = []
    with tempfile.TemporaryDirectory(prefix="staydown-bench-") as folder:
        for module in modules:
            began = time.monotonic()
            errors.print(f"benchmarks.{module} …")
            sections.append(collect_alone(module, short, Path(folder)))
            errors.print(f"{time.monotonic() - began:.0f} s")
    return sections


def write(built: report.Report, folder: Path) -> None:
    """Write the report as a page and as a document, and plots beside where matplotlib is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latest.md").write_text(page.to_markdown(built))
    (folder / "latest.json").write_text(json.dumps(report.to_json(built), indent=1, ensure_ascii=False) + "\n")
    if importlib.util.find_spec("matplotlib") is None:
        errors.print("no plots: they need the extra `bench`")
        return
    plots: Any = importlib.import_module("benchmarks.plots")
    plots.draw_all([curve for summary in built.summaries for curve in summary.curves], folder)


def show(text: str) -> None:
    """Print the report: as tables on a terminal, as it is elsewhere."""
    if sys.stdout.isatty():
        Console().print(Markdown(text))
    else:
        sys.stdout.write(text)


def run(modules: Sequence[str] = MODULES, *, short: bool = False, compare: Path | None = None, out: Path = RESULTS,
        tolerance: float = report.TOLERANCE) -> int:  # fmt: skip
    """Measure, write and show; return the exit status. OSError and ValueError for an earlier report that is none."""
    old, company = earlier(compare) if compare else None, Company()
    try:
        sections = measured(modules, short)
    except RuntimeError as error:
        errors.print(f"{error}; what it said stands above")
        return UNMEASURED
    told = machine() | {"others had of the cores meanwhile": f"{company.share():.0%}"}
    built = report.build(told, sections, old, tolerance)
    write(built, out)
    show(page.to_markdown(built))
    return built.status


def earlier(path: Path) -> dict[str, Any]:
    """Return an earlier report; ValueError if the file holds none."""
    document = json.loads(path.read_text())
    if not isinstance(document, dict) or "ratios" not in document:
        raise ValueError(f"{path.name} is no report of these benchmarks")
    return document


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="benchmarks.run")
    parser.add_argument("--short", action="store_true", help="fewer rounds: under 5 minutes on 2 cores")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="an earlier latest.json to be held against")
    parser.add_argument("--tolerance", type=float, default=report.TOLERANCE, help="share that a ratio may fall by")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER", help="where the report is written")
    parser.add_argument("--only", action="append", choices=MODULES, help="this section; may be repeated")
    add_peers(parser)
    asked = parser.parse_args()
    name_peers(asked.peers_python, asked.hma)
    return run(asked.only or MODULES, short=asked.short, compare=asked.compare, out=asked.out,
               tolerance=asked.tolerance)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
