"""`python -m benchmarks.robustness.guards FOLDER…`: what the guards hold, of photographs and of generic frames.

Photographs: every picture below the folders is hashed as an enrolment does. About half of them
(by the hash of their bytes) are a lawful bank, the others are enrolled beside it as hashes, by the
real enroller on a store in memory; whatever is held of these is listed by reason. A picture held
as benign or hub whose PDQ and phash agree with a lawful one's is the same picture twice, and
counted apart.

Generic frames: all that `benchmarks.generic_frames` draws, in sizes that it does not list,
through edits that uploads suffer; and cards with a line of words that is on no list. Nothing is
written.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks import corpus, generic_frames
from hashing.errors import MediaError
from hashing.hasher import Plan, hash_media
from hashing.media import Sampling
from hashing.signals import Signal, SignalType, View, distances
from indexer.enroll import Enroller, Submission
from indexer.guarding import is_generic
from indexer.guards import judge_rows, words
from indexer.index import Index
from indexer.policy import MIN_QUALITY
from indexer.record import Record
from indexer.store import Store

Picture = NDArray[np.uint8]
TYPES = frozenset({SignalType.PDQ, SignalType.PHASH, SignalType.SHA256})
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
SAME_BITS = 40  # in PDQ and in phash: the same picture twice
SIZES = ((854, 480), (1280, 720), (640, 512), (720, 720), (405, 720))
NAMES = ("Zebra Films 2031", "see you on friday", "Kapitel 7", "@a.name.here", "made with love by us", "v2.0 final")


def _resized(picture: Picture, scale: float) -> Picture:
    return np.asarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def _noisy(picture: Picture) -> Picture:
    grain = np.random.default_rng(0).normal(0, 8, picture.shape)
    return np.clip(picture + grain, 0, 255).astype(np.uint8)


def _cropped(picture: Picture) -> Picture:
    rows, columns = picture.shape[0] // 100, picture.shape[1] // 100
    return np.ascontiguousarray(picture[rows:-rows, columns:-columns])


EDITS: dict[str, Callable[[Picture], Picture]] = {
    "as drawn": lambda picture: picture,
    "jpeg 40": lambda picture: corpus.decode(corpus.jpeg(picture, 40)),
    "half size": lambda picture: _resized(picture, 0.5),
    "gamma 1.5": lambda picture: (255 * (picture / 255.0) ** 1.5).astype(np.uint8),
    "noise 8": _noisy,
    "crop 1 % an edge": _cropped,
    "mirror": lambda picture: np.ascontiguousarray(picture[:, ::-1]),
}


def signals(folders: Sequence[Path]) -> Iterator[Signal]:
    """Yield the signal of every picture below the folders, as an enrolment hashes it."""
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES):
        try:
            yield hash_media(path.read_bytes(), Plan(Sampling.DENSE, TYPES))
        except MediaError:
            continue


def held(picture: Picture) -> str | None:
    """Return why a still of this picture would be held, asking no bank; None if it would not."""
    rows = hash_media(corpus.encode(picture, "PNG"), Plan(Sampling.DENSE)).frames
    reasons = [word for word in words(judge_rows(rows, is_generic(rows))) if word]
    telling = [word for word in reasons if word != "low_quality"]  # one view's quality holds that view alone
    return next(iter(telling), reasons[0] if len(reasons) == len(rows) else None)


def _same(signal: Signal, lawful: Sequence[Signal]) -> bool:
    """Tell whether one of the lawful pictures is this very one, by PDQ and phash at once."""
    near = np.ones(len(lawful), bool)
    for kind in (SignalType.PDQ, SignalType.PHASH):
        codes = np.stack([each.of_type(kind)[0]["hash"] for each in lawful])
        near &= distances(codes, signal.of_type(kind)[0]["hash"]) <= SAME_BITS
    return bool(near.any())


def _odd(signal: Signal) -> bool:
    return int((signal.media.sha256 or "0")[-1], 16) % 2 == 1


def photographs(folders: Sequence[Path]) -> None:
    """Print what is held of photographs."""
    found = list({signal.media.sha256: signal for signal in signals(folders)}.values())
    lawful, others = [s for s in found if _odd(s)], [s for s in found if not _odd(s)]
    alone: Counter[str] = Counter()
    for signal in found:
        rows = signal.of_type(SignalType.PDQ)[:1]
        alone.update(word for word in words(judge_rows(rows, is_generic(rows))) if word)
    print(f"{len(found)} photographs, asking no bank: {dict(alone) or 'none held'}")
    counts = _beside(lawful, others)
    print(f"{len(others)} photographs beside a benign set of {len(lawful)}: {dict(counts) or 'none held'}")


def _beside(lawful: Sequence[Signal], others: Sequence[Signal]) -> Counter[str]:
    store = Store("sqlite://")
    record = Record(store)
    record.create_bank("benign", actor="benchmark", lawful=True, signal_types=list(TYPES))
    record.create_bank("abusive", actor="benchmark")
    enroller = Enroller(record, Index(MIN_QUALITY))
    enroller.enroll_many("benign", list(map(Submission, lawful)), actor="benchmark")
    done = enroller.enroll_many("abusive", list(map(Submission, others)), actor="benchmark")
    counts: Counter[str] = Counter()
    for signal, enrolled in zip(others, done, strict=True):
        for reason in {run.reason.value for run in enrolled.held if run.view is View.FULL}:
            twice = reason in {"benign", "hub"} and _same(signal, lawful)
            counts[f"{reason}, the same picture twice" if twice else reason] += 1
    store.close()
    return counts


def generic() -> None:
    """Print how much of the generic frames is held, by edit."""
    listed = [held(picture) for _, picture in generic_frames.pictures()]
    print(f"in the sizes listed: {len(listed) - listed.count(None)} of {len(listed)} held")
    for name, edit in EDITS.items():
        reasons: Counter[str | None] = Counter(
            held(edit(draw(*size))) for draw in generic_frames.drawings().values() for size in SIZES
        )
        total = sum(reasons.values())
        print(f"in other sizes, {name}: {total - reasons[None]} of {total} held, {dict(reasons)}")


def cards() -> None:
    """Print how many cards with words on no list are held, white on black and black on white."""
    reasons: Counter[str | None] = Counter()
    for text in NAMES:
        for size in (24, 40, 60, 90):
            for place in (0.2, 0.5, 0.85):
                card = np.full((360, 640, 3), 16, np.uint8)
                card = generic_frames.written(card, text, size, (235, 235, 235), place)
                reasons.update((held(card), held(np.asarray(255 - card, np.uint8))))
    total = sum(reasons.values())
    print(f"cards with a line of words: {total - reasons[None]} of {total} held, {dict(reasons)}")


def main() -> None:
    """Run all three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    asked = parser.parse_args()
    generic()
    cards()
    if asked.folders:
        photographs(asked.folders)


if __name__ == "__main__":
    main()
