"""Rows of a run -> the points of its plots. Pure: no drawing, no files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from benchmarks.robustness.edits_dials import dial_of
from benchmarks.robustness.scores import RECALL, Rate, Row, recall

Floats = NDArray[np.float64]
Stated = tuple[float, bool]  # the probability that a match is false, and whether it was
LEAST_STATED = 1e-12
MISSED = -np.inf  # the score of what was not named at all


@dataclass(frozen=True, slots=True)
class Bin:
    """Matches stated with about the same probability of being false."""

    stated: float  # geometric mean
    observed: Rate
    low: float  # Clopper-Pearson, 95 %
    high: float


def clopper_pearson(rate: Rate, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a share (Clopper and Pearson 1934)."""
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, rate.hits, rate.n - rate.hits + 1)) if rate.hits else 0.0
    high = float(beta.ppf(1 - tail, rate.hits + 1, rate.n - rate.hits)) if rate.hits < rate.n else 1.0
    return low, high


def reliability(stated: Iterable[Stated], bins_a_decade: int = 1) -> list[Bin]:
    """Return the observed share of false matches by stated probability, in bins of equal width in its logarithm.

    Probabilities below LEAST_STATED are one bin: no number of matches at hand could tell them apart.
    """
    groups: dict[int, list[Stated]] = {}
    for probability, was_false in stated:
        certain = max(probability, LEAST_STATED)
        groups.setdefault(int(np.floor(np.log10(certain) * bins_a_decade)), []).append((certain, was_false))
    found = []
    for _, group in sorted(groups.items()):
        rate = Rate(sum(was_false for _, was_false in group), len(group))
        mean = float(10 ** np.mean(np.log10([probability for probability, _ in group])))
        found.append(Bin(mean, rate, *clopper_pearson(rate)))
    return found


def exceedance(stated: Sequence[float], asked: int) -> list[Bin]:
    """Return, for each probability stated of strangers' matches, the share of all strangers stated so or lower.

    Where the statement is the chance that a stranger comes as near, the share does not exceed it.
    """
    found = []
    for number, probability in enumerate(sorted(stated), 1):
        rate = Rate(number, asked)
        found.append(Bin(probability, rate, *clopper_pearson(rate)))
    return found


def strengths(rows: Iterable[Row], system: str, verdicts: Sequence[str]) -> dict[str, list[tuple[float, Rate]]]:
    """Return by dial how many copies of a sweep were found at each value, values ascending."""
    groups: dict[str, dict[float, list[Row]]] = {}
    for row in rows:
        if row.group == RECALL and row.system == system and (place := dial_of(row.edit.rpartition(":")[2])):
            groups.setdefault(place[0].name, {}).setdefault(place[1], []).append(row)
    return {
        name: [(value, recall(group, verdicts)) for value, group in sorted(by_value.items())]
        for name, by_value in groups.items()
    }


def copies(rows: Iterable[Row], system: str) -> Floats:
    """Return the score of each copy's true content; MISSED where it was not named."""
    found = [row.found_score for row in rows if row.system == system and row.group == RECALL]
    return np.array([MISSED if score is None else score for score in found], np.float64)


def strangers(rows: Iterable[Row], system: str) -> Floats:
    """Return the best score of any content for each query that is no copy; MISSED where none was named."""
    found = [row.wrong_score for row in rows if row.system == system and row.group != RECALL]
    return np.array([MISSED if score is None else score for score in found], np.float64)


def roc(right: Floats, wrong: Floats) -> tuple[Floats, Floats, Floats]:
    """Return (threshold, false rate, recall) at each score that occurs, thresholds descending."""
    finite = np.concatenate([right, wrong])
    thresholds = np.unique(finite[np.isfinite(finite)])[::-1].astype(np.float64)
    recalls = np.array([(right >= least).mean() if len(right) else np.nan for least in thresholds])
    rates = np.array([(wrong >= least).mean() if len(wrong) else np.nan for least in thresholds])
    return thresholds, rates, recalls


def stated_of(rows: Iterable[Row], system: str = "staydown") -> list[Stated]:
    """Return what a system that scores by minus the logarithm of a probability stated, and whether it was false."""
    found: list[Stated] = []
    for row in rows:
        if row.system == system:
            if row.found and row.found_score is not None:
                found.append((10**-row.found_score, False))
            if row.wrong and row.wrong_score is not None:
                found.append((10**-row.wrong_score, True))
    return found
