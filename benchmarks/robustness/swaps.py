"""`python -m benchmarks.robustness.swaps FOLDER…`: deepfakes told from their base footage, on simulated swaps.

Each picture is swapped (`swapping`), the swapped one is enrolled with the original as its
companion, and both are asked about, as they are and edited: the original must not `match`,
the swap must. `--lawful bank` keeps the originals in a lawful bank instead, `--lawful none`
nowhere. `--clips` does the same with clips, in which the swapped region moves, and asks
about original footage with a swapped part behind it too.
"""

import argparse
import hashlib
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.corpus import Picture
from benchmarks.measure import machine
from benchmarks.robustness import clips
from benchmarks.robustness.clips_base import Take, as_mp4, read
from benchmarks.robustness.corpus import CLIPS, PICTURES, Item, load
from benchmarks.robustness.edits import apply
from benchmarks.robustness.edits_base import clipped, encode
from benchmarks.robustness.scores import Rate
from benchmarks.robustness.swapping import SHARES, Box, region, swapped
from hashing.pdq import pdq
from indexer.policy import MIN_QUALITY
from service.engine import Engine
from service.settings import Settings

PLAIN = "as it is"
EDITS = ("jpeg_q50", "jpeg_q20", "resize_50", "crop_edge_10", "mirror", "screenshot_light", "caption_20",
         "brightness_1.5", "rot_2_crop", "blur_2", "emoji_15", "combo_social")  # fmt: skip
CLIP_EDITS = ("crf_45", "p240", "mirror", "crop_edge_10", "caption_20", "clip_3s")
COMPILATION = "original, then 2 s of the swap"
_EDITS_A_PICTURE, _EDITS_A_CLIP = 5, 2
_CLIP_S = 6.0


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that was asked about: which it was, what was done to it, and what was said."""

    share: float
    edit: str
    swap: bool
    verdict: str  # of a swap on its own content, of an original on anything
    told: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A swap and its original: files to enroll, and files to ask about (edit, whether it is the swap, bytes)."""

    share: float
    swap: bytes
    original: bytes
    queries: tuple[tuple[str, bool, bytes], ...]


def items(folders: Iterable[Path], suffixes: frozenset[str], split: str, seed: int) -> Iterator[Item]:
    """Yield files of one half of a corpus in a drawn order, each content once."""
    paths = sorted(p for folder in folders for p in folder.rglob("*") if p.suffix.lower() in suffixes)
    seen = set[str]()
    for place in np.random.default_rng(seed).permutation(len(paths)).tolist():
        item = Item(paths[place], hashlib.sha256(paths[place].read_bytes()).hexdigest(), paths[place].parent.name)
        if item.split == split and item.sha256 not in seen:
            seen.add(item.sha256)
            yield item


def _turn(names: Sequence[str], number: int, count: int) -> list[str]:
    return [names[(number * count + place) % len(names)] for place in range(count)]


def pictures(found: Iterator[Item], count: int, blend: float = 1.0) -> Iterator[Pair]:
    """Yield swaps of pictures with features; each takes its region from the picture before, by `blend` of it."""
    donor = load(next(found).path)
    shown = (picture for picture in (load(item.path) for item in found) if pdq(picture).quality >= MIN_QUALITY)
    for number, original in enumerate(itertools.islice(shown, count)):
        share = SHARES[number % len(SHARES)]
        swap = clipped(original + blend * (swapped(original, donor, share).astype(np.float32) - original))
        queries = [(PLAIN, True, encode(swap, quality=85)), (PLAIN, False, encode(original, quality=85))]
        for edit in _turn(EDITS, number // len(SHARES), _EDITS_A_PICTURE):
            queries += [(edit, is_swap, apply(edit, picture, number, [donor]))
                        for is_swap, picture in ((True, swap), (False, original))]  # fmt: skip
        yield Pair(share, encode(swap), encode(original), tuple(queries))
        donor = original


def _moving(box: Box, picture: Picture, share: float) -> Box:
    """Return the box after a share of the clip: it goes round in a small circle, within the frame."""
    left, top, width, height = box
    angle, (high, wide) = 2 * np.pi * share, picture.shape[:2]
    left = int(np.clip(left + 0.04 * wide * np.sin(angle), 0, wide - width))
    return left, int(np.clip(top + 0.04 * high * np.cos(angle), 0, high - height)), width, height


def swapped_take(take: Take, donor: Picture, share: float) -> Take:
    """Return a clip with a region of each frame from the donor."""
    box, count = region(take.frames[0], share), len(take.frames)
    frames = [swapped(f, donor, share, _moving(box, f, n / count)) for n, f in enumerate(take.frames)]
    return replace(take, frames=tuple(frames))


def takes(found: Iterator[Item], count: int, blend: float = 1.0) -> Iterator[Pair]:
    """Yield swaps of clips, of `blend` 1 alone."""
    donor = read(next(found).path.read_bytes(), 0.5).frames[0]
    for number, item in enumerate(itertools.islice(found, count)):
        original, share = read(item.path.read_bytes(), _CLIP_S), SHARES[number % len(SHARES)]
        if original.seconds < 3.0:
            continue
        swap = swapped_take(original, donor, share)
        queries = [(PLAIN, True, as_mp4(swap, 28)), (PLAIN, False, as_mp4(original, 28))]
        behind = replace(original, frames=original.frames + swap.frames[-round(2 * swap.fps) :])
        queries.append((COMPILATION, True, as_mp4(behind)))
        for edit in _turn(CLIP_EDITS, number // len(SHARES), _EDITS_A_CLIP):
            queries += [(edit, is_swap, clips.apply(edit, take, number)[0])
                        for is_swap, take in ((True, swap), (False, original))]  # fmt: skip
        yield Pair(share, as_mp4(swap), as_mp4(original), tuple(queries))
        donor = original.frames[0]


def _ask(engine: Engine, content_id: str, pair: Pair) -> Iterator[Case]:
    for edit, swap, data in pair.queries:
        answer = engine.check_media(data, None)
        own = next((match for match in answer.matches if match.content_id == content_id), None)
        verdict = answer.verdict.value if not swap else own.verdict.value if own else "no_match"
        told = own.told_apart.nearer.value if own and own.told_apart else "suppressed" if answer.suppressed else ""
        yield Case(pair.share, edit, swap, verdict, told)


def _engine(home: Path) -> Engine:
    return Engine(Settings.model_validate({"home": home, "workers": 1}))


def measure(pairs: Iterable[Pair], lawful: str) -> list[Case]:
    """Enroll each pair and ask about it; contents pile up in the bank."""
    cases: list[Case] = []
    with tempfile.TemporaryDirectory() as home, _engine(Path(home)) as engine:
        engine.load_index()
        engine.record.create_bank("swaps", actor="bench")
        engine.record.create_bank("originals", actor="bench", lawful=True)
        for pair in pairs:
            beside = [pair.original] if lawful == "companion" else []
            done = engine.enroll_media("swaps", pair.swap, None, [], beside, actor="bench")
            if lawful == "bank":
                engine.enroll_media("originals", pair.original, None, [], actor="bench")
            cases += _ask(engine, done.content_id, pair)
    return cases


def _row(name: str, cases: Sequence[Case]) -> str:
    swaps, originals = [c for c in cases if c.swap], [c for c in cases if not c.swap]
    cells = [
        str(Rate(sum(c.verdict == "match" for c in swaps), len(swaps))) if swaps else "",
        str(Rate(sum(c.verdict in {"match", "review"} for c in swaps), len(swaps))) if swaps else "",
        str(Rate(sum(c.verdict != "match" for c in originals), len(originals))) if originals else "",
        str(Rate(sum(c.verdict == "no_match" for c in originals), len(originals))) if originals else "",
        str(len(cases)),
    ]
    return f"| {name} | {' | '.join(cells)} |"


def table(cases: Sequence[Case]) -> str:
    """Return a Markdown table by share of the area and by edit, in per cent with Wilson's 95 % intervals."""
    lines = ["| | swap: match | or review | original: not match | no match | queries |", "|---|--:|--:|--:|--:|--:|"]
    for share in sorted({case.share for case in cases}):
        lines.append(_row(f"{100 * share:.0f} % of the area", [c for c in cases if c.share == share]))
    for edit in sorted({case.edit for case in cases}):
        lines.append(_row(edit, [c for c in cases if c.edit == edit]))
    return "\n".join([*lines, _row("**all**", cases)])


def main() -> None:
    """Be `python -m benchmarks.robustness.swaps`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--clips", action="store_true", help="clips instead of pictures")
    parser.add_argument("--count", type=int, default=320, help="how many pictures or clips")
    parser.add_argument("--blend", type=float, default=1.0, help="how much of the region is another picture's")
    parser.add_argument("--lawful", choices=("companion", "bank", "none"), default="companion")
    parser.add_argument("--split", choices=("tune", "held_out"), default="tune")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    found = items(asked.folders, CLIPS if asked.clips else PICTURES, asked.split, asked.seed)
    cases = measure((takes if asked.clips else pictures)(found, asked.count, asked.blend), asked.lawful)
    facts = {
        "split": asked.split,
        "lawful": asked.lawful,
        "blend": str(asked.blend),
        "seed": str(asked.seed),
    } | machine()
    print("\n".join(f"- {name}: {value}" for name, value in (facts | machine()).items()), table(cases), sep="\n\n")


if __name__ == "__main__":
    main()
