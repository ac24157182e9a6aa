"""Many rounds of writing and stopping, counted."""

import sys
from dataclasses import dataclass

from benchmarks import crashes

ROUNDS_A_STORE = 10
SEEDS_A_ROUND = 1_000_000  # no two rounds share any


@dataclass
class Total:
    """What many rounds came to."""

    what: str
    rounds: int = 0
    enrolled: int = 0
    withdrawn: int = 0
    saved: int = 0
    snapshots_loaded: int = 0
    checked: int = 0
    lost: int = 0
    back: int = 0
    faults: int = 0
    wall_s: float = 0.0

    @property
    def well(self) -> bool:
        """Tell whether nothing was lost, came back or broke."""
        return not (self.lost or self.back or self.faults)

    def add(self, lines: crashes.Acks, left: crashes.Left) -> None:
        """Count one round."""
        words = [line[0] for line in lines]
        self.rounds += 1
        self.enrolled += words.count("enrolled")
        self.withdrawn += words.count("withdrawn")
        self.saved += words.count("saved")
        self.snapshots_loaded += left.snapshot_loaded
        self.checked += left.checked
        self.lost, self.back, self.faults = self.lost + left.lost, self.back + left.back, self.faults + len(left.faults)
        for fault in left.faults:
            print(f"round {self.rounds}: {fault}", file=sys.stderr)
