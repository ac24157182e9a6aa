"""A bank that is enrolled once, kept in a folder, and opened by every process of this run and of later ones.

The folder is named after the pictures and after what a drawn picture hashes to, so that
neither another bank nor another version of the hashes is ever taken for this one. What
changes how a bank is enrolled without changing a hash (guards, say) is not in the name:
delete the folder then.
"""

import hashlib
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2

from benchmarks.corpus import jpeg, picture
from benchmarks.robustness.corpus import Item
from benchmarks.robustness.systems import SYSTEMS, System
from hashing.hasher import Plan, hash_media
from hashing.media import Sampling
from hashing.signals import PROFILES, SignalType


def fingerprint(bank: Iterable[Item]) -> str:
    """Return 16 hex digits that change with the bank's files, the profiles, and what they make of a picture."""
    shown = hash_media(jpeg(picture(1), 90), Plan(Sampling.DENSE, frozenset(SignalType)))
    digest = hashlib.sha256(" ".join(str(profile) for profile in PROFILES).encode())
    digest.update(shown.frames.tobytes() + shown.sketches.tobytes())
    for key in sorted(item.sha256 for item in bank):
        digest.update(bytes.fromhex(key))
    return digest.hexdigest()[:16]


def enroll(names: Sequence[str], bank: Sequence[Item], home: Path, threads: int) -> Path:
    """Have each system know the bank; return the folder in which it does. What is there already is not done again."""
    cv2.setNumThreads(1)
    folder = home / fingerprint(bank)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        system = SYSTEMS[name](folder)
        try:
            _enroll_in(system, bank, threads)
        finally:
            system.close()
    return folder


def _enroll_in(system: System, bank: Sequence[Item], threads: int) -> None:
    missing = [item for item in bank if not system.knows(item.key)]
    start = time.monotonic()

    def take(item: Item) -> None:
        system.enroll(item.key, item.path.read_bytes())

    with ThreadPoolExecutor(threads) as pool:
        for number, _ in enumerate(pool.map(take, missing), 1):
            if number % 1000 == 0:
                print(f"{system.name}: {number} of {len(missing)}, {time.monotonic() - start:.0f} s", flush=True)
    if missing:
        system.keep()
