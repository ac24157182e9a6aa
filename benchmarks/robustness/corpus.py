"""Any folder of pictures or clips as a corpus: split by content, duplicates removed.

`python -m benchmarks.robustness.corpus GIT_DIRECTORY FOLDER` writes the pictures (or with
`--suffix`, whatever else) of a bare git directory below a folder, which must lie outside
of the repository: nobody's photographs are committed here.
"""

import argparse
import hashlib
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from benchmarks.corpus import Picture
from benchmarks.measure import ONE_THREAD
from benchmarks.robustness.edits_base import resized, scaled
from hashing.errors import MediaError
from hashing.hasher import Plan, hash_media
from hashing.media import Sampling
from hashing.pdq import pdq
from hashing.signals import SignalType
from indexer.policy import MIN_QUALITY

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
CLIPS = frozenset({".mp4", ".mov", ".webm", ".mkv", ".avi", ".m4v"})
DUPLICATE_BITS = 31
LONGEST_SIDE = 1024  # of a picture that is edited; larger ones are scaled, as services do
_THUMB_SIDE = 12
SPLIT_DIGITS = 8  # of a digest: they decide the half, the next eight whether it may be enrolled
_CHUNK = 64  # files that a process looks at in one go

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Item:
    """One file. `sha256` decides where it belongs; `category` is its folder's name, and its own last word."""

    path: Path
    sha256: str
    category: str
    codes: Bytes | None = None  # (n, 32) PDQ: one of a picture, those of the frames of a clip
    thumb: Bytes | None = None  # (12, 12, 3), for finding look-alikes

    @property
    def key(self) -> str:
        """What the systems call it."""
        return self.sha256[:16]

    @property
    def name(self) -> str:
        """What a report calls it."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def split(self) -> str:
        """`tune` or `held_out`, for ever."""
        return ("tune", "held_out")[int(self.sha256[:SPLIT_DIGITS], 16) % 2]

    @property
    def in_bank(self) -> bool:
        """Whether it may be enrolled; else it is a distractor."""
        return int(self.sha256[SPLIT_DIGITS:16], 16) % 2 == 0


@dataclass(frozen=True, slots=True)
class Split:
    """One half of a corpus: what may be enrolled, what is in no bank, and what only fills a bank."""

    bank: tuple[Item, ...]
    distractors: tuple[Item, ...]
    duplicates: int
    fill: tuple[Item, ...] = ()


def load(path: Path) -> Picture:
    """Return an upright picture of 1024 pixels at most."""
    with Image.open(path) as image:
        picture = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    return scaled(picture, min(1.0, LONGEST_SIDE / max(picture.shape[:2])))


def _plain(path: Path) -> Item:
    word = re.search(r"_([A-Za-z]+)$", path.stem)  # as in 12_kitchen.jpg
    category = f"{path.parent.name}/{word[1]}" if word else path.parent.name
    return Item(path, hashlib.sha256(path.read_bytes()).hexdigest(), category)


def _looked_at(path: Path) -> Item | None:
    """Return a picture's Item, or None if it cannot be read, or has no features by which to know it again."""
    try:
        picture = load(path)
    except (OSError, ValueError):
        return None
    bare, hashed = _plain(path), pdq(picture)
    if hashed.quality < MIN_QUALITY:
        return None
    return Item(path, bare.sha256, bare.category, hashed.codes[:1], resized(picture, _THUMB_SIDE, _THUMB_SIDE))


def _files(folders: Iterable[Path], suffixes: frozenset[str]) -> list[Path]:
    found = (path for folder in folders for path in folder.rglob("*"))
    return sorted(path for path in found if path.suffix.lower() in suffixes and path.is_file())


def distinct(items: Iterable[Item], beside: Iterable[Item] = ()) -> list[Item]:
    """Keep one of each group of equal or nearly equal pictures, in the order of their digests.

    None is kept that is nearly equal to one of those `beside`.
    """
    kept: list[Item] = []
    table, used, digests = np.zeros((0, 32), np.uint8), 0, set[str]()
    known = [(item, False) for item in beside]
    for item, wanted in known + [(item, True) for item in sorted(items, key=lambda item: item.sha256)]:
        codes = np.zeros((0, 32), np.uint8) if item.codes is None else item.codes
        if wanted and (item.sha256 in digests or _near(table, used, codes)):
            continue
        if used + len(codes) > len(table):
            table = np.concatenate([table, np.zeros((len(table) + len(codes) + 1024, 32), np.uint8)])
        table[used : used + len(codes)] = codes
        used += len(codes)
        digests.add(item.sha256)
        kept += [item] * wanted
    return kept


def _near(table: Bytes, used: int, codes: Bytes) -> bool:
    return any(
        int(np.bitwise_count(table[:used] ^ code).sum(1, dtype=np.int64).min(initial=256)) <= DUPLICATE_BITS
        for code in codes
    )


def workers(processes: int, begin: Callable[..., object], *arguments: object) -> ProcessPoolExecutor:
    """Return processes with one thread a library: on few cores, more threads wait for one another."""
    os.environ.update(ONE_THREAD)
    return ProcessPoolExecutor(processes, get_context("spawn"), begin, arguments)


def _split(items: Sequence[Item], name: str) -> Split:
    kept = distinct(items)
    half = [item for item in kept if item.split == name]
    bank = tuple(item for item in half if item.in_bank)
    return Split(bank, tuple(item for item in half if not item.in_bank), len(items) - len(kept))


def pictures(folders: Iterable[Path], name: str, processes: int = 2, fill: Iterable[Path] = (),
             home: Path | None = None) -> Split:  # fmt: skip
    """Read folders of pictures; `name` is `tune` or `held_out`.

    What the folders `fill` hold beside the pictures of this half may fill a bank. Below
    `home`, what was read of the files is kept for later runs.
    """
    own, others = _files(folders, PICTURES), _files(fill, PICTURES)
    seen = _look(sorted({*own, *others}), processes, home / "looked-at.npz" if home else None)
    split = _split([seen[path] for path in own if path in seen], name)
    mine = [*split.bank, *split.distractors]
    beside = distinct((seen[path] for path in others if path in seen), mine)
    return replace(split, fill=tuple(beside))


def _look(paths: Sequence[Path], processes: int, kept: Path | None) -> dict[Path, Item]:
    """Return the Items of the files that can be read."""
    known = _kept(kept) if kept is not None and kept.exists() else {}
    marks = {path: (str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths}
    new = [path for path in paths if marks[path] not in known]
    found = [item for item in _look_at_new(new, processes) if item is not None]
    known |= {marks[item.path]: item for item in found}
    if kept is not None and found:
        _keep(kept, known)
    return {path: known[marks[path]] for path in paths if marks[path] in known}


def _look_at_new(paths: Sequence[Path], processes: int) -> list[Item | None]:
    if processes == 1 or len(paths) < 2 * _CHUNK:
        return list(map(_looked_at, paths))
    with workers(processes, cv2.setNumThreads, 1) as pool:
        return list(pool.map(_looked_at, paths, chunksize=_CHUNK))


Mark = tuple[str, int, int]  # path, bytes, time of the last change in ns


def _kept(file: Path) -> dict[Mark, Item]:
    with np.load(file) as table:
        paths, categories, digests = (table[name].tolist() for name in ("paths", "categories", "digests"))
        rows = zip(paths, digests, categories, table["codes"], table["thumbs"], strict=True)
        items = [Item(Path(path), *rest) for path, *rest in rows]
        times = table["marks"].tolist()
    return {(str(item.path), *time): item for item, time in zip(items, times, strict=True)}


def _keep(file: Path, known: Mapping[Mark, Item]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    items = list(known.values())
    np.savez(
        file,
        paths=np.array([str(item.path) for item in items]),
        categories=np.array([item.category for item in items]),
        digests=np.array([item.sha256 for item in items]),
        codes=np.stack([item.codes for item in items if item.codes is not None]),
        thumbs=np.stack([item.thumb for item in items if item.thumb is not None]),
        marks=np.array([mark[1:] for mark in known]),
    )


def _played(path: Path) -> Item | None:
    """Return a clip's Item with the PDQ of its frames, with and without borders; None if it cannot be read."""
    bare = _plain(path)
    bare = replace(bare, sha256=source_digits(path) + bare.sha256[SPLIT_DIGITS:])
    try:
        rows = hash_media(path.read_bytes(), Plan(Sampling.DENSE, frozenset({SignalType.PDQ}))).frames
    except MediaError:
        return None
    rows = rows[(rows["transform"] == 0) & (rows["quality"] >= MIN_QUALITY)]
    return replace(bare, codes=np.unique(rows["hash"], axis=0))


def source_digits(path: Path) -> str:
    """Return the digits that decide a clip's half: its own, or of a piece that `cutting` wrote, those of its film."""
    cut = re.fullmatch(r"([0-9a-f]{16})-\d{3}", path.stem)
    return (cut[1] if cut else hashlib.sha256(path.read_bytes()).hexdigest())[:SPLIT_DIGITS]


def clips(folders: Iterable[Path], name: str) -> Split:
    """Read folders of clips; two with a frame in common are one. Pieces of one film are in one half."""
    seen = map(_played, _files(folders, CLIPS))
    return _split([item for item in seen if item is not None], name)


def look_alikes(distractors: Sequence[Item], bank: Sequence[Item], count: int) -> list[Item]:
    """Return the distractors that are most like a picture of the bank with the same folder's name."""
    known: dict[str, list[Bytes]] = {}
    for mate in bank:
        if mate.thumb is not None:
            known.setdefault(mate.category, []).append(mate.thumb)
    stacks = {category: np.stack(thumbs).astype(np.int16) for category, thumbs in known.items()}
    nearest: list[tuple[float, Item]] = []
    for item in distractors:
        if item.thumb is not None and item.category in stacks:
            gaps = np.abs(stacks[item.category] - item.thumb).mean((1, 2, 3))
            nearest.append((float(gaps.min()), item))
    nearest.sort(key=lambda pair: (pair[0], pair[1].sha256))
    return [item for _, item in nearest[:count]]


# --- out of a git directory -------------------------------------------------------------


def extract(repository: Path, folder: Path, suffixes: frozenset[str] = PICTURES, most: int = 100_000) -> int:
    """Write the newest commit's files with these suffixes below a folder; return how many."""
    git = ["git", "--git-dir", str(repository)]
    listed = subprocess.run([*git, "ls-tree", "-r", "-z", "--name-only", "HEAD"], check=True, capture_output=True)
    names = [name for name in listed.stdout.decode().split("\0") if Path(name).suffix.lower() in suffixes][:most]
    for name in names:
        target = (folder / name).resolve()
        if not target.is_relative_to(folder.resolve()):
            raise ValueError(f"{name} lies outside of {folder}")
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            subprocess.run([*git, "cat-file", "blob", f"HEAD:{name}"], check=True, stdout=file)
    return len(names)


def main() -> None:
    """Be `python -m benchmarks.robustness.corpus`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", type=Path, help="a bare git directory")
    parser.add_argument("folder", type=Path, help="where to write, outside of the repository")
    parser.add_argument("--suffix", action="append", help="such as .mp4; else those of pictures")
    parser.add_argument("--most", type=int, default=100_000)
    asked = parser.parse_args()
    suffixes = frozenset(asked.suffix) if asked.suffix else PICTURES
    print(extract(asked.repository, asked.folder, suffixes, asked.most), "files")


if __name__ == "__main__":
    main()
