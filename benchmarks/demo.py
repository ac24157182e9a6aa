"""`make demo`: the main job from end to end, on ordinary media made on the spot.

Enrolls a clip and three photographs by the command line, starts the service on a free
loopback port, posts edited copies and unrelated media to it, and withdraws a content.
Exit status 0 only if every verdict is the expected one.
"""

import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import corpus
from benchmarks.server import Client, Server, ServerFailed, serving, staydown

BANK = "confirmed"
MATCH, NO_MATCH, UNHASHABLE, UNSUPPORTED = "match", "no_match", "unhashable", "unsupported_media"
_WIDTH, _HEIGHT = 960, 720
_CLIP = 101

console = Console(highlight=False) if sys.stdout.isatty() else Console(width=160, highlight=False)


@dataclass(frozen=True, slots=True)
class Upload:
    """One file to post: what was done to it, and what has to be answered; `source` names what was enrolled."""

    name: str
    edit: str
    data: bytes
    expected: str
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """What came back: the verdict or the error's code, its evidence, and milliseconds."""

    upload: Upload
    verdict: str
    evidence: str
    ms: float
    fault: str


def photo(seed: int) -> corpus.Picture:
    """Return the demo's photograph of a seed."""
    return corpus.picture(seed, _WIDTH, _HEIGHT)


def originals() -> dict[str, bytes]:
    """Return what is enrolled: file name to bytes."""
    files = {f"photo-{seed}.jpg": corpus.jpeg(photo(seed), 92) for seed in (1, 2, 3)}
    return files | {"clip.mp4": corpus.clip(_CLIP)}


def photo_copies(known: bytes) -> Iterator[Upload]:
    """Yield copies of the photographs, most of them of the first."""
    edits = {"mirrored": "mirror", "rotated 90°": "rotate90", "letterboxed": "letterbox", "half size": "half_size",
             "greyscale": "grey", "brighter": "brightness"}  # fmt: skip
    first = "photo-1.jpg"
    yield Upload(first, "identical", known, MATCH, first)
    yield Upload(first, "JPEG quality 30", corpus.jpeg(photo(1), 30), MATCH, first)
    for words, name in edits.items():
        yield Upload(first, words, corpus.jpeg(corpus.EDITS[name](photo(1)), 85), MATCH, first)
    height, width = photo(1).shape[:2]
    cropped = photo(1)[height // 7 : -height // 7, width // 7 : -width // 7]
    yield Upload(first, "cropped by a seventh a side", corpus.jpeg(cropped, 85), MATCH, first)
    screen = np.full((2 * width, width + 40, 3), 250, np.uint8)
    screen[260 : 260 + height, 20:-20] = photo(1)
    screen[90:130, 40:300] = screen[170:200, 40:200] = screen[300 + height : 330 + height, 40:-90] = 60
    yield Upload(first, "mirrored on a phone's screen", corpus.jpeg(screen[:, ::-1].copy(), 80), MATCH, first)
    framed = corpus.EDITS["white_frame"](corpus.EDITS["mirror"](photo(2)))
    yield Upload("photo-2.jpg", "mirrored in a white frame", corpus.jpeg(framed, 85), MATCH, "photo-2.jpg")
    noisy = corpus.encode(corpus.EDITS["noise"](photo(3)), "WEBP", quality=60)
    yield Upload("photo-3.webp", "noise added, as WebP", noisy, MATCH, "photo-3.jpg")


def clip_copies(known: bytes) -> Iterator[Upload]:
    """Yield copies of the clip, and a still of it."""
    edits = {"re-encoded at crf 35": "reencode", "half size": "half_size",
             f"first {corpus.TRIM_START_S} s cut off": "trimmed", f"{corpus.SPEED} times as fast": "faster",
             "mirrored": "mirror", "letterboxed": "letterbox", "as WebM (VP9)": "webm"}  # fmt: skip
    for words, name in edits.items():
        suffix = "webm" if name == "webm" else "mp4"
        yield Upload(f"clip.{suffix}", words, corpus.edited_clip(_CLIP, name), MATCH, "clip.mp4")
    still = list(corpus.clip_pictures(known))[133]
    yield Upload("still.jpg", "one frame of the clip", corpus.jpeg(still, 80), MATCH, "clip.mp4")


def strangers() -> Iterator[Upload]:
    """Yield media that was never enrolled, and what is no media at all."""
    for seed in (11, 12, 13):
        yield Upload(f"other-{seed}.jpg", "unrelated photo", corpus.jpeg(photo(seed), 90), NO_MATCH)
    yield Upload("other-14.png", "unrelated photo", corpus.encode(corpus.picture(14), "PNG"), NO_MATCH)
    yield Upload("other-15.heic", "unrelated photo", corpus.encode(corpus.picture(15), "HEIF"), NO_MATCH)
    yield Upload("other.mp4", "unrelated clip", corpus.clip(_CLIP + 1), NO_MATCH)
    yield Upload("other.gif", "unrelated animation", corpus.animation(16), NO_MATCH)
    blank = np.full((_HEIGHT, _WIDTH, 3), 118, np.uint8)
    yield Upload("blank.jpg", "nothing to be seen", corpus.jpeg(blank, 90), UNHASHABLE)
    yield Upload("notes.txt", "no media at all", b"These are words, not pictures.\n" * 40, UNSUPPORTED)


def _evidence(match: dict[str, Any], names: dict[str, str]) -> str:
    """Say what a match rests on, by the name of the enrolled file."""
    how = f"{match['inliers']} inliers" if match["distance_bits"] is None else f"{match['distance_bits']} bits"
    words = [names.get(match["content_id"], "?"), f"{match['signal_type']} {how}"]
    if match["transform"] != "none":
        words.append(match["transform"])
    for part in match["segments"][:1]:
        (start, stop), (from_s, to_s) = part["query_s"], part["reference_s"]
        words.append(f"{start:.1f}–{stop:.1f} s shows {from_s:.1f}–{to_s:.1f} s")
    return ", ".join(words)


def _fault(upload: Upload, verdict: str, best: dict[str, Any] | None, hidden: dict[str, Any],
           names: dict[str, str]) -> str:  # fmt: skip
    """Say in what the answers differ from the expected ones; nothing if in nothing."""
    if verdict != upload.expected:
        return f"expected {upload.expected}"
    if best is not None and names.get(best["content_id"]) != upload.source:
        return f"expected {upload.source}"
    if hidden.get("verdict", verdict) != verdict:
        return "the check key got another verdict"
    if any(match["distance_bits"] is not None or match["inliers"] is not None for match in hidden.get("matches", [])):
        return "the check key saw a distance"
    return ""


def ask(upload: Upload, uploader: Client, reviewer: Client, names: dict[str, str]) -> Row:
    """Post one upload with the key of an upload service, and again as a reviewer, who sees the evidence."""
    start = time.perf_counter()
    hidden = uploader.check(upload.data)[1]
    ms = (time.perf_counter() - start) * 1000
    seen = reviewer.check(upload.data)[1]
    verdict = str(seen.get("verdict", seen.get("code")))
    best = next(iter(seen.get("matches", [])), None)
    evidence = _evidence(best, names) if best else str(seen.get("reason") or "")
    return Row(upload, verdict, evidence, ms, _fault(upload, verdict, best, hidden, names))


def show(rows: Iterable[Row], title: str = "") -> None:
    """Print the table."""
    table = Table(title=title, title_justify="left")
    for column in ("file", "edit", "verdict", "evidence"):
        table.add_column(column, overflow="fold")
    table.add_column("ms", justify="right")
    table.add_column("as expected")
    for row in rows:
        wrong = f"NO: {row.fault}" if row.fault else "yes"
        table.add_row(row.upload.name, row.upload.edit, row.verdict, row.evidence, f"{row.ms:.0f}", wrong,
                      style="bold red" if row.fault else None)  # fmt: skip
    console.print(table)


def run_command(home: Path, *arguments: str) -> list[dict[str, Any]]:
    """Show and run one command."""
    console.print(f"$ staydown {' '.join(arguments)}", soft_wrap=True, markup=False)
    return staydown(home, *arguments)


def enroll(home: Path, folder: Path, files: dict[str, bytes]) -> dict[str, str]:
    """Make the bank and enroll the files; return the file name of each content id."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    run_command(home, "bank", "create", BANK, "--description", "confirmed non-consensual media")
    done = run_command(home, "enroll", str(folder), "--bank", BANK, "--case", "demo-1")
    return {item["content_id"]: Path(item["input"]).name for item in done}


def _after_withdrawal(home: Path, names: dict[str, str], uploader: Client, reviewer: Client) -> list[Row]:
    """Withdraw the first photograph, and ask for two copies of it again."""
    content_id = next(key for key, name in names.items() if name == "photo-1.jpg")
    run_command(home, "withdraw", content_id, "--reason", "demo: the person shown asked for it")
    original = corpus.jpeg(photo(1), 92)
    mirrored = corpus.jpeg(corpus.EDITS["mirror"](photo(1)), 85)
    again = [Upload("photo-1.jpg", "identical, withdrawn", original, NO_MATCH),
             Upload("photo-1.jpg", "mirrored, withdrawn", mirrored, NO_MATCH)]  # fmt: skip
    return [ask(upload, uploader, reviewer, names) for upload in again]


def _checked(server: Server, keys: dict[str, str], names: dict[str, str], files: dict[str, bytes]) -> list[Row]:
    with server.client(keys["check"]) as uploader, server.client(keys["review"]) as reviewer:
        uploads = [*photo_copies(files["photo-1.jpg"]), *clip_copies(files["clip.mp4"]), *strangers()]
        rows = [ask(upload, uploader, reviewer, names) for upload in uploads]
        return rows + _after_withdrawal(server.home, names, uploader, reviewer)


def demo(folder: Path) -> list[Row]:
    """Do everything below a folder; ServerFailed."""
    home, media = folder / "home", folder / "media"
    home.mkdir()
    media.mkdir()
    files = originals()
    names = enroll(home, media, files)
    keys = {role: run_command(home, "key", "create", "--role", role)[0]["key"] for role in ("check", "review")}
    console.print(f"$ STAYDOWN_HOME={home} staydown serve --port …", soft_wrap=True, markup=False)
    with serving(home) as server:
        console.print(f"ready on http://127.0.0.1:{server.port}; making and posting media", soft_wrap=True)
        return _checked(server, keys, names, files)


def main() -> int:
    """Run the demo; return the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    start = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="staydown-demo-") as folder:
            rows = demo(Path(folder))
    except ServerFailed as failure:
        console.print(f"demo: {failure}", soft_wrap=True, markup=False)
        return 1
    show(rows)
    wrong = sum(bool(row.fault) for row in rows)
    console.print(f"{len(rows) - wrong} of {len(rows)} verdicts as expected, {time.monotonic() - start:.0f} s; "
                  "the service is stopped and its folder removed")  # fmt: skip
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
