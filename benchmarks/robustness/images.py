"""`python -m benchmarks.robustness.images FOLDER…`: which edited pictures are found, and which strangers are.

Pictures that are edited are in the bank, each edit's its own as long as there are; the
collages and backgrounds they are put into are not. Strangers come plain, through the same
edits, as the most alike of the same folder, and as blank frames, of which nothing may be
found. Pictures of the folders `--fill` (those of the other half, say, which something was
tuned on) stand in the bank and are never asked about.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from benchmarks.corpus import Picture
from benchmarks.robustness import corpus, harness
from benchmarks.robustness.corpus import Item, Split
from benchmarks.robustness.edits import CHAINS, SWEEPS, apply, chosen, family
from benchmarks.robustness.edits_base import encode
from benchmarks.robustness.edits_hard import ASSETS
from benchmarks.robustness.scores import RECALL, Row
from benchmarks.robustness.systems import usable

_PARTNERS = 12  # pictures that the others are put into or beside
_IN_A_TASK = 25


@dataclass(frozen=True, slots=True)
class Task:
    """Pictures to be asked about after one edit, or as they are if it has no name."""

    group: str
    edit: str
    items: tuple[Item, ...]
    partners: tuple[Item, ...]
    seed: int


@lru_cache(maxsize=64)
def _load(path: Path) -> Picture:
    return corpus.load(path)


def measure(task: Task) -> list[Row]:
    """Edit the task's pictures and ask this process's systems about them."""
    if task.group == "blank":
        return [row for name, data in blanks() for row in harness.ask(data, "blank", name, "", None)]
    others = [_load(item.path) for item in task.partners]
    kind = family(task.edit) if task.edit else ""
    rows: list[Row] = []
    for number, item in enumerate(task.items):
        data = item.path.read_bytes()
        if task.edit:
            data = apply(task.edit, _load(item.path), task.seed + number, others)
        truth = item.key if task.group == RECALL else None
        rows += harness.ask(data, task.group, task.edit, kind, item, truth)
    return rows


def blanks() -> Iterator[tuple[str, bytes]]:
    """Yield pictures without features: there is nothing in them to be found."""
    flat = np.zeros((480, 640, 3), np.float32)
    down = np.linspace(0, 255, 480, dtype=np.float32)[:, None, None]
    grain = np.random.default_rng(1).standard_normal((480, 640, 1), np.float32) * 3
    grounds = {
        "black": flat,
        "white": flat + 255,
        "grey": flat + 128,
        "gradient": flat + down,
        "grain": flat + 128 + grain,
    }
    for name, ground in grounds.items():
        yield name, encode(ground.clip(0, 255).round().astype(np.uint8))


def _slices(items: Sequence[Item], count: int, number: int) -> tuple[Item, ...]:
    """Return `count` items, others for each number as long as there are."""
    return tuple(items[(number * count + place) % len(items)] for place in range(min(count, len(items))))


def plan(split: Split, asked: argparse.Namespace, edits: Sequence[str]) -> tuple[list[Item], list[Task]]:
    """Return what is enrolled and what is asked."""
    known = split.bank[: asked.bank]
    bank = [*known, *split.fill][: asked.bank]
    strangers = [*split.distractors, *split.bank[asked.bank :]]
    partners, strangers = tuple(strangers[:_PARTNERS]), strangers[_PARTNERS:]
    ask = partial(_tasks, partners=partners, seed=asked.seed)
    tasks = [*_through(RECALL, edits, known, asked.queries, ask)] if known else []
    if strangers:
        tasks += _through("distractors, edited", edits, strangers, asked.edited_distractors, ask)
        tasks += ask("distractors, plain", "", strangers[: asked.distractors])
        tasks += ask("look-alikes", "", corpus.look_alikes(strangers, bank, asked.look_alikes))
    return bank, [*tasks, Task("blank", "", (), (), asked.seed)]


def _through(group: str, edits: Sequence[str], items: Sequence[Item], count: int,
             ask: Callable[[str, str, Sequence[Item]], list[Task]]) -> Iterator[Task]:  # fmt: skip
    """Yield the tasks of each edit: each of a sweep has the same pictures, each chain one."""
    fixed: dict[str, int] = {}
    for number, edit in enumerate(edits):
        kind = family(edit)
        place = fixed.setdefault(edit.partition("~")[0], number) if kind == SWEEPS else number
        yield from ask(group, edit, _slices(items, 1 if kind in CHAINS else count, place))


def _tasks(group: str, edit: str, items: Sequence[Item], partners: tuple[Item, ...], seed: int) -> list[Task]:
    """Return tasks of a few pictures each, so that no process waits long for another."""
    return [Task(group, edit, tuple(items[start : start + _IN_A_TASK]), partners, seed + start)
            for start in range(0, len(items), _IN_A_TASK)]  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = harness.parser("pictures", "all, pairs, triples, chains, harder, sweeps, families, names; commas between")
    parser.add_argument("--distractors", type=int, default=400, help="how many strangers are asked about as they are")
    parser.add_argument("--edited-distractors", type=int, default=8, help="how many strangers for each edit")
    parser.add_argument("--look-alikes", type=int, default=200, help="how many look-alikes of the same folder's name")
    parser.add_argument("--fill", type=Path, nargs="+", default=[], help="folders whose pictures only fill the bank")
    parser.add_argument("--home", type=Path, help="folder in which the enrolled bank is kept for later runs")
    parser.add_argument("--chains", type=int, default=200, help="how many pairs, triples or longer chains, if asked")
    parser.add_argument("--assets", type=Path, help="AugLy's folder of assets, for the edits augly_…")
    parser.add_argument("--stem", default="images", help="beginning of the report's file names")
    return parser


def main() -> None:
    """Be `python -m benchmarks.robustness.images`."""
    asked = _parser().parse_args()
    start = time.monotonic()
    if asked.assets is not None:
        os.environ[ASSETS] = str(asked.assets)
    edits = chosen(asked.edits, asked.seed, asked.chains)
    systems = usable(asked.systems.split(","))
    split = corpus.pictures(asked.folders, asked.split, asked.processes, asked.fill, asked.home)
    bank, tasks = plan(split, asked, edits)
    rows = harness.run(tasks, measure, systems, bank, asked.processes, asked.home)
    facts = _facts(asked, split, len(bank), tasks) | {"took": f"{time.monotonic() - start:.0f} s"}
    harness.report(asked, "Pictures", facts, rows, asked.stem, bank)


def _facts(asked: argparse.Namespace, split: Split, enrolled: int, tasks: Sequence[Task]) -> dict[str, str]:
    copied = {item.key for task in tasks if task.group == RECALL for item in task.items}
    edits = {task.edit for task in tasks if task.group == RECALL}
    own = min(asked.bank, len(split.bank))
    return {
        "pictures enrolled": f"{enrolled}, of which {enrolled - own} only fill the bank and are never asked about",
        "strangers at hand": str(len(split.distractors) + len(split.bank) - own),
        "duplicates removed": str(split.duplicates),
        "edited queries": f"{asked.queries} for each of {len(edits)} edits, of {len(copied)} different pictures",
        "folders": ", ".join(folder.name for folder in asked.folders),
        "folders that fill the bank": ", ".join(folder.name for folder in asked.fill) or "none",
    }


if __name__ == "__main__":
    main()
