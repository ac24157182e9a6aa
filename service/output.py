"""What the command line prints: tables for people, JSON for programs."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

errors = Console(stderr=True, highlight=False)


def say_json(value: Any) -> None:
    """Print one JSON value on one line."""
    sys.stdout.write(json.dumps(value) + "\n")


def shown(value: Any) -> str:
    """Return text that a terminal shows and does not obey, whatever a file is called."""
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def say_error(text: str) -> None:
    """Print one line on stderr."""
    errors.print(Text(shown(text)), soft_wrap=True)


def say_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; as wide as it needs to be where nobody looks."""
    console = Console(highlight=False) if sys.stdout.isatty() else Console(width=200, highlight=False)
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    console.print(table)


def say_held(name: str, runs: Sequence[Any]) -> None:
    """Say on stderr which frames of an input are kept out of matching, and why: one line a run."""
    for run in runs:
        when = "" if run.timestamp_s is None else f" {run.timestamp_s:.1f}–{run.until_s:.1f} s"
        say_error(f"{name}: held{when}, {run.view}: {run.reason}, {run.frames} frames")


@contextmanager
def progress(total: int, what: str) -> Iterator[Progress]:
    """Show a bar on stderr while the block runs, on a terminal only."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, disable=not sys.stderr.isatty()) as bar:
        bar.add_task(what, total=total)
        yield bar


def _suppressed(found: list[dict[str, Any]]) -> str:
    if not found:
        return ""
    by = "its companion" if found[0]["by"] == "companion" else "a lawful bank"
    return f"{found[0]['bank']}/{found[0]['content_id']}, suppressed by {by}"


def evidence(verdict: dict[str, Any]) -> str:
    """Say in one line what a verdict rests on."""
    if not verdict["matches"]:
        return verdict.get("reason") or _suppressed(verdict.get("suppressed", []))
    best = verdict["matches"][0]
    words = [f"{best['bank']}/{best['content_id']}", best["signal_type"], best["transform"]]
    if best["distance_bits"] is not None:
        words.append(f"{best['distance_bits']} bits")
    if best["inliers"] is not None:
        words.append(f"{best['inliers']} inliers")
    for part in best["segments"][:1]:
        (start, stop), (from_s, to_s) = part["query_s"], part["reference_s"]
        pace = "" if part["speed"] in (None, 1.0) else f" at speed {part['speed']:g}"
        words.append(f"{start:.1f}–{stop:.1f} s shows {from_s:.1f}–{to_s:.1f} s{pace}")
    return ", ".join(words)
