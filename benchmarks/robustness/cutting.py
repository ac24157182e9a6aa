"""`python -m benchmarks.robustness.cutting FOLDER… --out FOLDER`: a corpus of clips out of films and clips.

What plays longer than one and a half pieces is cut into pieces, written as H.264; shorter
ones are copied as they are; too short ones, and what cannot be read, are left out. A
piece is named by the digest of its film, so that `corpus` keeps the pieces of one film in
one half. The folder must lie outside of the repository: nobody's films are committed here.
"""

import argparse
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import av

from benchmarks.corpus import Picture
from benchmarks.robustness.clips_base import as_mp4, decoded, read, steady
from benchmarks.robustness.corpus import CLIPS

PIECE_S = 12.0
LEAST_S = 4.0
MOST_PIECES = 40
_CRF = 20
_REPOSITORY = Path(__file__).resolve().parents[2]


def plays_s(data: bytes) -> float:
    """Return how long a clip plays by its header, 0 if that does not say; FFmpegError."""
    with av.open(io.BytesIO(data), "r") as container:
        return (container.duration or 0) / av.time_base if container.streams.video else 0.0


def pieces(data: bytes, seconds: float = PIECE_S) -> Iterator[bytes]:
    """Yield one part after another as files; what is left at the end is dropped if it is short."""
    with av.open(io.BytesIO(data), "r") as container:
        rate = float(container.streams.video[0].average_rate or 25)
        timed: list[tuple[float, Picture]] = []
        end_s = seconds
        for at, picture in decoded(container):
            if at >= end_s:
                yield as_mp4(steady(timed, rate), _CRF)
                timed, end_s = [], end_s + seconds
            timed.append((at, picture))
        if timed and timed[-1][0] - timed[0][0] >= LEAST_S:
            yield as_mp4(steady(timed, rate), _CRF)


def _store(path: Path, folder: Path, seconds: float, most: int) -> int:
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()[:16]
    long_s = plays_s(data)
    if long_s < LEAST_S:
        return 0
    if long_s < 1.5 * seconds:
        read(data, seconds)  # what is damaged is left out
        (folder / f"{digest}-000{path.suffix.lower()}").write_bytes(data)
        return 1
    count = 0
    for number, piece in zip(range(most), pieces(data, seconds), strict=False):
        (folder / f"{digest}-{number:03}.mp4").write_bytes(piece)
        count = number + 1
    return count


def cut(folders: Sequence[Path], out: Path, seconds: float = PIECE_S, most: int = MOST_PIECES) -> int:
    """Write the clips and pieces of all folders into `out`; return how many. ValueError inside the repository."""
    if out.resolve().is_relative_to(_REPOSITORY):
        raise ValueError(f"{out} lies inside of the repository")
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in CLIPS):
        try:
            count += _store(path, out, seconds, most)
        except (av.FFmpegError, ValueError) as error:
            print(f"{path.name} is left out: {error}")
    return count


def main() -> None:
    """Be `python -m benchmarks.robustness.cutting`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="searched to the bottom")
    parser.add_argument("--out", type=Path, required=True, help="where to write, outside of the repository")
    parser.add_argument("--seconds", type=float, default=PIECE_S)
    parser.add_argument("--most", type=int, default=MOST_PIECES, help="pieces of one film")
    asked = parser.parse_args()
    print(cut(asked.folders, asked.out, asked.seconds, asked.most), "clips")


if __name__ == "__main__":
    main()
