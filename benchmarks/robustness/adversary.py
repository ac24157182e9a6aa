"""`python -m benchmarks.robustness.adversary FOLDER…`: how often a few hundred tries push a copy past a system.

A black-box attacker climbs: smooth grey noise, as much as the PSNR allows, is turned a
little towards other noise, and stays so if the system becomes less sure of the true
picture (in the manner of Jain, Crețu and de Montjoye 2022 and of Hao et al. 2021 against
hashes). The attacker is given more than the role `check` tells: the distance of a hash,
the exact probability of staydown.
"""

import argparse
import io
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.corpus import Field, Picture
from benchmarks.robustness import bank as banks
from benchmarks.robustness import corpus
from benchmarks.robustness.corpus import Item
from benchmarks.robustness.edits_base import Rng, clipped, resized_field, scaled
from benchmarks.robustness.scores import Rate
from benchmarks.robustness.systems import NEAR, SYSTEMS, System, usable

_CELLS = (8, 16, 24, 32, 48)  # of the noise along the longer side
_STARTS = 0.1  # of the tries: noise of its own each, of which the best is climbed from
_STEP = (0.6, 0.15)  # how much of the noise is new, at the first step and at the last
_SIDE = 512  # longest, of what is sent
_HEAD = """| system | pictures | got past, % (Wilson 95 %) | median tries | least PSNR, dB | took |
|---|--:|--:|--:|--:|--:|"""
Ask = Callable[[Picture], "Seen"]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a system says of the true picture: whether it is named, and how surely."""

    named: bool
    score: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a climb came to."""

    evaded: bool
    tries: int
    psnr_db: float


def psnr_db(picture: Picture, other: Picture) -> float:
    """Return the peak signal-to-noise ratio in dB; infinity of equal pictures."""
    error = float(np.mean((picture.astype(np.float64) - other) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def smooth_noise(picture: Picture, rng: Rng) -> Field:
    """Return float32 (height, width, 1) noise of a random scale for a picture, its root mean square 1."""
    height, width = picture.shape[:2]
    factor = int(rng.choice(_CELLS)) / max(height, width)
    small = rng.standard_normal((max(round(height * factor), 2), max(round(width * factor), 2)), np.float32)
    return _of_size(resized_field(small, width, height), 1.0)[..., None]


def _of_size(noise: Field, size: float) -> Field:
    """Return noise with a root mean square of `size`."""
    return noise * np.float32(size / (float(np.sqrt(np.mean(noise**2))) + 1e-9))


def _added(picture: Picture, noise: Field, least_psnr_db: float) -> Picture:
    """Add as much of the noise as the PSNR allows, after rounding and clipping."""
    size = 255 / 10 ** (least_psnr_db / 20)
    while psnr_db(picture, changed := clipped(picture + _of_size(noise, size))) < least_psnr_db:
        size *= 0.98
    return changed


def climb(picture: Picture, ask: Ask, rng: Rng, tries: int = 200, least_psnr_db: float = 30.0) -> Outcome:
    """Change the picture until the system no longer names it, or the tries are used up."""
    best, noise, lowest = math.inf, smooth_noise(picture, rng), math.inf
    starts = max(round(tries * _STARTS), 1)
    for number in range(1, tries + 1):
        new = smooth_noise(picture, rng)
        if number > starts:
            share = _STEP[0] + (_STEP[1] - _STEP[0]) * number / tries
            new = _of_size(noise * np.float32(math.sqrt(1 - share**2)) + new * np.float32(share), 1.0)
        changed = _added(picture, new, least_psnr_db)
        lowest = min(lowest, psnr_db(picture, changed))
        seen = ask(changed)
        if not seen.named:
            return Outcome(True, number, lowest)
        if seen.score <= best:
            noise, best = new, seen.score
    return Outcome(False, tries, lowest)


def seen_by(system: System, key: str, picture: Picture) -> Seen:
    """Ask a system about a picture, as a lossless file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    answers = [answer for answer in system.query(file.getvalue()) if answer.key == key]
    named = any(answer.verdict != NEAR for answer in answers)
    return Seen(named, max((answer.score for answer in answers), default=-math.inf))


def attack(system: System, items: Sequence[Item], tries: int, least_psnr_db: float, seed: int) -> list[Outcome]:
    """Attack each picture that the system names as it is."""
    found = []
    for number, item in enumerate(items):
        picture = corpus.load(item.path)
        picture = scaled(picture, min(1.0, _SIDE / max(picture.shape[:2])))
        ask = partial(seen_by, system, item.key)
        if ask(picture).named:
            found.append(climb(picture, ask, np.random.default_rng([seed, number]), tries, least_psnr_db))
    return found


def line(name: str, outcomes: Sequence[Outcome], seconds: float) -> str:
    """Return a row of the table."""
    rate = Rate(sum(outcome.evaded for outcome in outcomes), len(outcomes))
    tries = [outcome.tries for outcome in outcomes if outcome.evaded]
    median = f"{statistics.median(tries):.0f}" if tries else "–"
    lowest = min((outcome.psnr_db for outcome in outcomes), default=math.nan)
    return f"| {name} | {rate.n} | {rate} | {median} | {lowest:.1f} | {seconds:.0f} s |"


def main() -> None:
    """Be `python -m benchmarks.robustness.adversary`."""
    parser = argparse.ArgumentParser(description="How often a black-box attacker gets a copy past a system")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--split", choices=("tune", "held_out"), default="tune")
    parser.add_argument("--bank", type=int, default=200, help="how many are enrolled at most")
    parser.add_argument("--queries", type=int, default=30, help="how many pictures are attacked")
    parser.add_argument("--tries", type=int, default=200, help="how often the system is asked about each")
    parser.add_argument("--psnr", type=float, default=30.0, help="least PSNR in dB of what is sent")
    parser.add_argument("--systems", default="pdq_31,staydown")
    parser.add_argument("--home", type=Path, help="folder in which the enrolled bank is kept for later runs")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    bank = list(corpus.pictures(asked.folders, asked.split, 2, (), asked.home).bank[: asked.bank])
    names = usable(asked.systems.split(","))
    print(f"{len(bank)} pictures enrolled, {asked.tries} tries, PSNR of {asked.psnr:g} dB or more, {asked.split}\n")
    print(_HEAD)
    with nullcontext(asked.home) if asked.home else tempfile.TemporaryDirectory(prefix="adversary-") as place:
        folder = banks.enroll(names, bank, Path(place), 2)
        for name in names:
            system, start = SYSTEMS[name](folder), time.monotonic()
            outcomes = attack(system, bank[: asked.queries], asked.tries, asked.psnr, asked.seed)
            print(line(name, outcomes, time.monotonic() - start), flush=True)
            system.close()


if __name__ == "__main__":
    main()
