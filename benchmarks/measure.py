"""How things are timed: in turns, each in a process with one thread a library; and on what machine."""

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2

from benchmarks import page, report
from benchmarks.report import Section, Timing, section_of
from benchmarks.robustness.peers import PYTHON as PEERS_PYTHON

ROOT = Path(__file__).parent.parent
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
TICKS_S = 1 / os.sysconf("SC_CLK_TCK")
SAMPLE_S = 0.02  # a timing of something quicker is of as many calls as take so long
LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "av", "faiss-cpu", "imagehash", "pdqhash", "uvicorn")

HMA_FOLDER = "BENCH_HMA_FOLDER"  # the environment variable with the folder of HMA

Action = Callable[[], object]


def _calls(action: Action) -> int:
    """Warm an action up and return how often it is called a sample."""
    if _sample(action, 1) > 10 * SAMPLE_S:
        return 1
    return max(1, round(SAMPLE_S / max(_sample(action, 1), 1e-7)))


def _sample(action: Action, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        action()
    return (time.perf_counter() - start) / calls


def in_turns(actions: Mapping[str, Action], rounds: int) -> dict[str, tuple[float, ...]]:
    """Return seconds a call, one value a round; who begins changes from round to round."""
    names = list(actions)
    calls = {name: _calls(actions[name]) for name in names}
    found: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                found[name].append(_sample(actions[name], calls[name]))
    finally:
        gc.enable()
    return {name: tuple(values) for name, values in found.items()}


def timings(group: str, ours: Mapping[str, Action], peers: Mapping[str, Action], rounds: int,
            items: float | Mapping[str, float] = 1) -> tuple[Timing, ...]:  # fmt: skip
    """Time ours and theirs in turns; `items` is how many items an action treats, or each of them."""
    found = in_turns({**ours, **peers}, rounds)
    sizes = items if isinstance(items, Mapping) else dict.fromkeys(found, items)
    return tuple(
        Timing(group, name, name in ours, tuple(value / sizes[name] for value in values))
        for name, values in found.items()
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def machine_s() -> float:
    """Return the seconds for which cores were busy since the machine started."""
    user, nice, system, _, _, irq, soft, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + soft + steal) * TICKS_S


class Company:
    """How much others had of the cores since this was made, beside this process and those that it waited for."""

    def __init__(self) -> None:
        self._began = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        return time.monotonic(), machine_s(), sum(os.times()[:4])

    def share(self) -> float:
        """Return their share of all cores."""
        passed_s, busy_s, ours_s = (now - then for now, then in zip(self._now(), self._began, strict=True))
        return max(0.0, busy_s - ours_s) / (passed_s * len(os.sched_getaffinity(0)))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def machine() -> dict[str, str]:
    """Return what a reader has to know of this machine."""
    facts = {"CPU": _cpu_model(), "cores": str(len(os.sched_getaffinity(0))),
             "system": f"{platform.system()} {platform.release()}", "Python": platform.python_version()}  # fmt: skip
    return facts | {name: _version(name) for name in LIBRARIES}


def run_alone(module: str, arguments: list[str]) -> int:
    """Run a benchmark in a process of its own with one thread a library; return its exit status."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    return subprocess.run(command, env=os.environ | ONE_THREAD, cwd=ROOT, check=False).returncode


def collect_alone(module: str, short: bool, folder: Path) -> Section:
    """Run a benchmark like `run_alone` and return its raw measurements; RuntimeError if it gave none."""
    raw = folder / f"{module}.json"
    run_alone(module, ["--raw", str(raw), *(["--short"] if short else [])])
    if not raw.exists():
        raise RuntimeError(f"benchmarks.{module} ended without a result")
    return section_of(json.loads(raw.read_text()))


def add_peers(parser: argparse.ArgumentParser) -> None:
    """Add the options that name others' software, which is in no environment of ours."""
    parser.add_argument("--peers-python", type=Path, metavar="PYTHON", help="a Python that has other libraries")
    parser.add_argument("--hma", type=Path, metavar="FOLDER", help="folder with HMA's repository and its `venv`")


def name_peers(python: Path | None, hma: Path | None) -> None:
    """Tell the benchmarks, which run in processes below this one, where others' software is."""
    named = {PEERS_PYTHON: python, HMA_FOLDER: hma}
    os.environ.update({name: str(path.absolute()) for name, path in named.items() if path is not None})


def command(module: str, collect: Callable[[bool], Section]) -> int:
    """Be `python -m benchmarks.MODULE [--short] [--raw FILE]`: print the table, or write what it is made of."""
    parser = argparse.ArgumentParser(prog=f"benchmarks.{module}")
    parser.add_argument("--short", action="store_true", help="fewer rounds and smaller sizes")
    parser.add_argument("--raw", type=Path, help="write the raw measurements here as JSON and print nothing")
    add_peers(parser)
    asked = parser.parse_args()
    name_peers(asked.peers_python, asked.hma)
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        return run_alone(module, sys.argv[1:])
    cv2.setNumThreads(1)
    section = collect(asked.short)
    if asked.raw is not None:
        asked.raw.write_text(json.dumps(section.to_json()))
        return 0
    built = report.build(machine(), [section])
    print(page.to_markdown(built))
    return built.status
