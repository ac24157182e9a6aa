"""Runs tasks in worker processes, which open the same enrolled bank; writes the report."""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import cv2

from benchmarks.corpus import jpeg, picture
from benchmarks.measure import machine
from benchmarks.robustness import bank as banks
from benchmarks.robustness import scores
from benchmarks.robustness.corpus import Item, workers
from benchmarks.robustness.scores import Row
from benchmarks.robustness.systems import NEAR, SYSTEMS, Scored, System

T = TypeVar("T")
_SURER = (NEAR, "review", "match")
_WARMING_UP = jpeg(picture(2, 64, 48), 90)
_systems: list[System] = []  # of this worker process, filled by `begin`


def begin(names: Sequence[str], folder: Path) -> None:
    """Open this process's systems, with what they know; a first question, not counted, has them load it."""
    cv2.setNumThreads(1)
    _systems[:] = [SYSTEMS[name](folder) for name in names]
    for system in _systems:
        system.query(_WARMING_UP)


def end() -> None:
    """Close this process's systems."""
    for system in _systems:
        system.close()
    _systems.clear()


def ask(data: bytes, group: str, edit: str, family: str, query: Item | None, truth: str | None = None) -> list[Row]:
    """Ask every system of this process about one file."""
    return [row for row, _ in ask_for_answers(data, group, edit, family, query, truth)]


def ask_for_answers(
    data: bytes, group: str, edit: str, family: str, query: Item | None, truth: str | None = None
) -> list[tuple[Row, Scored | None]]:
    """Ask every system; return its row, and what it said of the true content."""
    name = query.name if query else edit
    found = []
    for system in _systems:
        start = time.perf_counter()
        answers = system.query(data)
        row = Row(system.name, group, edit, family, name, round(time.perf_counter() - start, 5))
        found.append(_judged(row, answers, truth))
    return found


def _judged(row: Row, answers: Iterable[Scored], truth: str | None) -> tuple[Row, Scored | None]:
    right, wrong = None, None
    for answer in sorted(answers, key=_sureness):
        if answer.key == truth:
            right, row = answer, replace(row, found=_said(answer), found_score=answer.score)
        else:
            wrong = answer
    if wrong is not None:
        row = replace(row, wrong=_said(wrong), wrong_score=wrong.score, wrong_key=wrong.key)
    return row, right


def _said(answer: Scored) -> str | None:
    return None if answer.verdict == NEAR else answer.verdict


def _sureness(answer: Scored) -> tuple[int, float]:
    return _SURER.index(answer.verdict), answer.score


def run(tasks: Sequence[T], measure: Callable[[T], list[Row]], names: Sequence[str], bank: Sequence[Item],
        processes: int, home: Path | None = None) -> list[Row]:  # fmt: skip
    """Enroll the bank, measure the tasks, in this process or in several; rows come in the order of the tasks.

    Below `home` the bank stays for later runs; without, it is thrown away.
    """
    with nullcontext(home) if home else tempfile.TemporaryDirectory(prefix="staydown-robustness-") as place:
        folder = banks.enroll(names, bank, Path(place), processes)
        return _alone(tasks, measure, names, folder) if processes == 1 else _shared(
            tasks, measure, names, folder, processes)  # fmt: skip


def _alone(tasks: Sequence[T], measure: Callable[[T], list[Row]], names: Sequence[str], folder: Path) -> list[Row]:
    begin(names, folder)
    try:
        return [row for task in tasks for row in measure(task)]
    finally:
        end()


def _shared(tasks: Sequence[T], measure: Callable[[T], list[Row]], names: Sequence[str], folder: Path,
            processes: int) -> list[Row]:  # fmt: skip
    rows: list[Row] = []
    start = time.monotonic()
    with workers(processes, begin, names, folder) as pool:
        for number, found in enumerate(pool.map(measure, tasks), 1):
            rows += found
            if number % 20 == 0 or number == len(tasks):
                print(f"{number} of {len(tasks)} tasks, {time.monotonic() - start:.0f} s", flush=True)
    return rows


def parser(what: str, edits_help: str) -> argparse.ArgumentParser:
    """Return what both benchmarks are asked."""
    found = argparse.ArgumentParser(description=f"Recall and false answers of {what} after edits")
    found.add_argument("folders", nargs="*", type=Path, help=f"folders of {what}, searched to the bottom")
    found.add_argument("--bank", type=int, default=400, help="how many are enrolled at most")
    found.add_argument("--queries", type=int, default=24, help="how many of the bank are edited, for each edit")
    found.add_argument("--edits", default="all", help=edits_help)
    found.add_argument("--systems", default="pdq_31,pdq8_31,staydown", help=f"of {', '.join(SYSTEMS)}")
    found.add_argument("--split", choices=("tune", "held_out"), default="tune")
    found.add_argument("--seed", type=int, default=1)
    found.add_argument("--processes", type=int, default=min(2, len(os.sched_getaffinity(0))))
    found.add_argument("--out", type=Path, help="folder of the report; else it is printed")
    return found


def chosen(text: str, families: Mapping[str, str]) -> list[str]:
    """Return the names of edits that `all`, families or names stand for; ValueError."""
    if text == "all":
        return list(families)
    wanted = text.split(",")
    found = [name for name, family in families.items() if {name, family} & set(wanted)]
    unknown = set(wanted) - set(found) - set(families.values())
    if unknown:
        raise ValueError(f"there is no edit or family {', '.join(sorted(unknown))}")
    return found


def report(asked: argparse.Namespace, title: str, facts: Mapping[str, str], rows: Sequence[Row], stem: str,
           bank: Sequence[Item] = ()) -> None:  # fmt: skip
    """Write Markdown and JSON, or print the page."""
    facts = {**facts, "split": asked.split, "seed": str(asked.seed), **machine()}
    names = {item.key: item.name for item in bank}
    page = scores.markdown(title, facts, rows, names)
    if asked.out is None:
        print(page)
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    name = f"{stem}-{asked.split}"
    (asked.out / f"{name}.md").write_text(page + "\n")
    (asked.out / f"{name}.json").write_text(json.dumps(scores.document(facts, rows, names), indent=0))
    print(page.partition("## Copies found by edit")[0], f"\n{asked.out / name}.md, .json")
