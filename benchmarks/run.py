"""`make bench`: all benchmarks that need no media of others, one report.

Each runs in a process of its own. The report is printed, and written to
`benchmarks/results/latest.md` and `.json`. Exit status 1 if a check fails, or, with
`--compare`, if a ratio to a peer fell by more than the tolerance.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from benchmarks import report
from benchmarks.measure import collect_alone, machine

MODULES = ("hashing", "search", "end_to_end")
RESULTS = Path(__file__).parent / "results"
errors = Console(stderr=True, highlight=False)


def measured(short: bool) -> list[report.Section]:
    """Run all benchmarks."""
    sections = []
    with tempfile.TemporaryDirectory(prefix="staydown-bench-") as folder:
        for module in MODULES:
            errors.print(f"benchmarks.{module} …")
            sections.append(collect_alone(module, short, Path(folder)))
    return sections


def write(built: report.Report, folder: Path) -> None:
    """Write the report as a page and as a document."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latest.md").write_text(report.to_markdown(built))
    (folder / "latest.json").write_text(json.dumps(report.to_json(built), indent=1, ensure_ascii=False) + "\n")


def show(page: str) -> None:
    """Print the report: as tables on a terminal, as it is elsewhere."""
    if sys.stdout.isatty():
        Console().print(Markdown(page))
    else:
        sys.stdout.write(page)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="benchmarks.run")
    parser.add_argument("--short", action="store_true", help="fewer rounds: under 5 minutes on 2 cores")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="an earlier latest.json to be held against")
    parser.add_argument("--tolerance", type=float, default=report.TOLERANCE, help="share that a ratio may fall by")
    asked = parser.parse_args()
    old: dict[str, Any] | None = json.loads(asked.compare.read_text()) if asked.compare else None
    built = report.build(machine(), measured(asked.short), old, asked.tolerance)
    write(built, RESULTS)
    show(report.to_markdown(built))
    return built.status


if __name__ == "__main__":
    sys.exit(main())
