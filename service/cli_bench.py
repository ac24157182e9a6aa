"""`staydown bench`: the benchmarks, which are in the repository and in no package."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from service import output

CLONE = Path(__file__).parent.parent  # where this package is installed from, if from a clone
WRONG = 2
_PEERS = ("pdqhash", "imagehash")


def suite(clone: Path) -> Any:
    """Return the module that runs the benchmarks; says what is missing and ends with status 2 where it cannot."""
    if not (clone / "benchmarks" / "run.py").is_file():
        _end("the benchmarks are in the repository and not in the package: clone it and run `make bench` there")
    missing = [name for name in _PEERS if importlib.util.find_spec(name) is None]
    if missing:
        _end(f"the benchmarks need {', '.join(missing)}: pip install --editable '.[bench]'")
    if str(clone) not in sys.path:
        sys.path.insert(0, str(clone))
    return importlib.import_module("benchmarks.run")


def _end(text: str) -> NoReturn:
    output.say_error(f"staydown: {text}")
    raise typer.Exit(WRONG)


def bench(
    short: Annotated[bool, typer.Option("--short", help="fewer rounds and smaller sizes: under 5 minutes")] = False,
    compare: Annotated[Path | None, typer.Option(metavar="OLD.json", help="an earlier report; a fall fails")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the report; else benchmarks/results")] = None,
    only: Annotated[list[str] | None, typer.Option(help="a section of the suite; may be repeated")] = None,
    peers_python: Annotated[Path | None, typer.Option(metavar="PYTHON", help="a Python with other libraries")] = None,
    hma: Annotated[Path | None, typer.Option(metavar="FOLDER", help="HMA's repository and its venv")] = None,
) -> None:
    """Measure this machine: hashing, search, checks, HTTP, rescans, beside peers and physical limits."""
    run = suite(CLONE)
    unknown = sorted(set(only or ()) - set(run.MODULES))
    if unknown:
        _end(f"there is no section {', '.join(unknown)}, but {', '.join(run.MODULES)}")
    run.name_peers(peers_python, hma)
    try:
        raise typer.Exit(run.run(only or run.MODULES, short=short, compare=compare, out=out or run.RESULTS))
    except ValueError as error:  # the earlier report
        _end(str(error))


def install(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("bench")(bench)
