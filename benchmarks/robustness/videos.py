"""`python -m benchmarks.robustness.videos FOLDER…`: which edited clips are found, and where in time.

Known clips are enrolled whole; of each, the first seconds are edited. Clips of strangers are
asked about as they are and through the same edits. `--made N` adds clips that we draw.
Clips are scarcer than pictures: all of the half are known but for the last few, the strangers,
and of each film there is one piece: two pieces of one scene are no strangers.
"""

import argparse
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from benchmarks.corpus import clip
from benchmarks.robustness import corpus, harness
from benchmarks.robustness.clips import CLIP_EDITS, apply
from benchmarks.robustness.clips_base import Take, read
from benchmarks.robustness.corpus import SPLIT_DIGITS, Item, Split
from benchmarks.robustness.scores import RECALL, Row, Span, covered, overlaps, placed
from benchmarks.robustness.systems import usable

_EDITS_A_TASK = 10


@dataclass(frozen=True, slots=True)
class Task:
    """One clip through some edits, or as it is if there are none."""

    group: str
    item: Item
    edits: tuple[str, ...]
    partner: Item | None
    seed: int
    seconds: float


@lru_cache(maxsize=4)
def _take(path: Path | None, seconds: float) -> Take:
    """Return a clip's first seconds; of no path, a clip that we draw."""
    return read(clip(987_654, duration_s=seconds) if path is None else path.read_bytes(), seconds)


def measure(task: Task) -> list[Row]:
    """Edit the task's clip and ask this process's systems about it."""
    if not task.edits:
        return harness.ask(task.item.path.read_bytes(), task.group, "", "", task.item)
    truth = task.item.key if task.group == RECALL else None
    others = [_take(task.partner.path if task.partner else None, task.seconds)]
    rows = []
    for name in task.edits:
        data, spans = apply(name, _take(task.item.path, task.seconds), task.seed, others)
        for row, right in harness.ask_for_answers(data, task.group, name, CLIP_EDITS[name].family, task.item, truth):
            rows.append(_timed(row, right.spans if right else (), spans))
    return rows


def _timed(row: Row, told: Sequence[Span], truth: Sequence[Span]) -> Row:
    if not told:
        return row
    query, reference = overlaps(told, truth)
    return replace(row, placed=placed(told, truth), covered=covered(told, truth), iou_query=query,
                   iou_reference=reference)  # fmt: skip


def _parts(edits: Sequence[str]) -> Iterable[tuple[str, ...]]:
    return (tuple(edits[start : start + _EDITS_A_TASK]) for start in range(0, len(edits), _EDITS_A_TASK))


def plan(split: Split, asked: argparse.Namespace, edits: Sequence[str]) -> tuple[list[Item], list[Task]]:
    """Return what is enrolled and what is asked. The first stranger is what others are put into."""
    clips = list({item.sha256[:SPLIT_DIGITS]: item for item in (*split.bank, *split.distractors)}.values())
    bank, strangers = clips[: asked.bank], clips[asked.bank :]
    partner = strangers.pop(0) if len(strangers) > 3 else None
    tasks = [Task(RECALL, item, part, partner, asked.seed + number, asked.seconds)
             for number, item in enumerate(bank[: asked.queries])
             for part in _parts(edits[number % asked.every :: asked.every])]  # fmt: skip
    for number, item in enumerate(strangers[: asked.distractors]):
        tasks.append(Task("distractors, plain", item, (), partner, 0, asked.seconds))
        some = tuple(edits[number % 4 :: 4])
        tasks += [Task("distractors, edited", item, part, partner, asked.seed, asked.seconds) for part in _parts(some)]
    return bank, tasks


def _made(folder: Path, count: int) -> Path:
    """Draw clips: each of two scenes, 10 s."""
    for seed in range(count):
        (folder / f"made-{seed}.mp4").write_bytes(clip(5000 + seed, duration_s=10.0))
    return folder


def _parser() -> argparse.ArgumentParser:
    parser = harness.parser("clips", "all, or families and names with commas between")
    parser.set_defaults(systems="vpdq_80,vpdq_any,staydown", bank=40, queries=12)
    parser.add_argument("--distractors", type=int, default=12, help="how many strangers are asked about")
    parser.add_argument("--seconds", type=float, default=12.0, help="how much of a clip is edited")
    parser.add_argument("--every", type=int, default=1, help="each clip goes through every so manieth edit")
    parser.add_argument("--made", type=int, default=0, help="how many clips are drawn in addition")
    return parser


def main() -> None:
    """Be `python -m benchmarks.robustness.videos`."""
    asked = _parser().parse_args()
    start = time.monotonic()
    edits = harness.chosen(asked.edits, {name: edit.family for name, edit in CLIP_EDITS.items()})
    systems = usable(asked.systems.split(","))
    with tempfile.TemporaryDirectory(prefix="staydown-made-") as folder:
        made = [_made(Path(folder), asked.made)] if asked.made else []
        split = corpus.clips([*asked.folders, *made], asked.split)
        bank, tasks = plan(split, asked, edits)
        rows = harness.run(tasks, measure, systems, bank, asked.processes)
    facts = {
        "clips enrolled": str(len(bank)),
        "clips edited": f"{min(asked.queries, len(bank))}, each through one in {asked.every} of {len(edits)} edits",
        "edited": f"the first {asked.seconds:g} s",
        "clips drawn by us": str(asked.made),
        "folders": ", ".join(path.name for path in asked.folders),
        "took": f"{time.monotonic() - start:.0f} s",
    }
    harness.report(asked, "Clips", facts, rows, "videos")


if __name__ == "__main__":
    main()
