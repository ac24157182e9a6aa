"""The video edits: each gives a file's bytes and which of its seconds show which of the reference's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from zlib import crc32

import numpy as np
from PIL import Image

from benchmarks.corpus import Picture
from benchmarks.robustness import drawing
from benchmarks.robustness.clips_base import (
    Span,
    Take,
    Write,
    as_gif,
    as_jpeg,
    as_mp4,
    at_rate,
    host,
    read,
)
from benchmarks.robustness.edits_base import Plain, Rng, clipped, covering, paste, resized, scaled
from benchmarks.robustness.edits_drawn import captioned
from benchmarks.robustness.edits_shape import crop_edges, mirrored, padded
from benchmarks.robustness.edits_tone import blurred, gamma, grey, noisy

Make = Callable[[Take, Rng, Sequence[Take]], Take]
_SCREEN_SHARE = 0.4  # of 720×1480: phones record smaller than they show


@dataclass(frozen=True, slots=True)
class ClipEdit:
    """One edit of a clip."""

    name: str
    family: str
    make: Make
    write: Write = as_mp4


def apply(name: str, take: Take, seed: int, others: Sequence[Take] = ()) -> tuple[bytes, tuple[Span, ...]]:
    """Return the edited clip's file and the truth about its times."""
    edit = CLIP_EDITS[name]
    made = edit.make(take, np.random.default_rng([seed, crc32(name.encode())]), others)
    return edit.write(made), made.spans


def apply_to_file(name: str, data: bytes, seed: int, others: Sequence[bytes] = ()) -> tuple[bytes, tuple[Span, ...]]:
    """The same from files' bytes, of which the first 12 seconds are taken."""
    return apply(name, read(data), seed, [read(other) for other in others])


# --- makers -----------------------------------------------------------------------------


def _each(edit: Plain) -> Make:
    return lambda take, rng, others: take.each(edit)


def _timed(edit: Callable[[Take], Take]) -> Make:
    return lambda take, rng, others: edit(take)


def _same(take: Take) -> Take:
    return take


def _low(height: int, picture: Picture) -> Picture:
    return scaled(picture, height / min(picture.shape[:2]))


def _faster(speed: float, take: Take) -> Take:
    """Play at another speed and the same rate."""
    played = at_rate(replace(take, fps=take.fps * speed), take.fps)
    return replace(played, spans=((0.0, played.seconds, 0.0, take.seconds),))


def _trimmed(take: Take) -> Take:
    return take.part(0.37, take.seconds)


def _middle(take: Take) -> Take:
    return take.part(take.seconds / 4, take.seconds * 3 / 4)


def _short(take: Take, rng: Rng, others: Sequence[Take]) -> Take:
    start = float(rng.uniform(0, max(take.seconds - 3, 0)))
    return take.part(start, start + 3)


def _backwards(take: Take) -> Take:
    return Take(take.frames[::-1], take.fps, ((0.0, take.seconds, take.seconds, 0.0),))


def _turned(picture: Picture) -> Picture:
    return np.rot90(picture, -1)


def _portrait(picture: Picture) -> Picture:
    """Pad to 9:16 with black above and below (or at the sides)."""
    height, width = picture.shape[:2]
    wanted = max(height, round(width * 16 / 9))
    rows = (wanted - height) / 2 / height
    return padded(rows, max((wanted * 9 / 16 - width) / 2 / width, 0), 0, picture)


def _stretched(picture: Picture) -> Picture:
    return resized(picture, picture.shape[1] * 1.25, picture.shape[0])


def _with_logo(take: Take, rng: Rng, others: Sequence[Take]) -> Take:
    """Lay an opaque box of 25 % of the width and 10 % of the height into a corner."""
    width, height = take.size
    mark = np.array(drawing.logo(rng, round(width * 0.25), max(round(height * 0.1), 8)))
    return take.each(lambda frame: paste(frame, mark, round(width * 0.72), round(height * 0.04)))


def _captioned(take: Take, rng: Rng, others: Sequence[Take]) -> Take:
    bar = captioned(0.2, take.frames[0], rng)[: -take.size[1]]
    return take.each(lambda frame: np.concatenate([bar, frame]))


def _barred(picture: Picture) -> Picture:
    """Lay a plain bar of 15 % of the height across the middle."""
    result = picture.copy()
    result[round(len(result) * 0.425) : round(len(result) * 0.575)] = (20, 20, 20)
    return result


def _lighter(picture: Picture) -> Picture:
    return clipped(picture + np.float32(0.15 * 255))


def _noisy(take: Take, rng: Rng, others: Sequence[Take]) -> Take:
    return take.each(lambda frame: noisy(20, frame, rng))


def _inset(take: Take, rng: Rng, others: Sequence[Take]) -> Take:
    """Play at half the size somewhere on another clip."""
    width, height = take.size
    left, top = (round(float(rng.uniform(0.03, 0.47)) * side) for side in (width, height))
    ground = host(others, rng, take, take.seconds)
    frames = (paste(covering(below, width, height), scaled(frame, 0.5), left, top)
              for below, frame in zip(ground, take.frames, strict=False))  # fmt: skip
    return replace(take, frames=tuple(frames))


def _black_ends(take: Take) -> Take:
    black = (np.zeros_like(take.frames[0]),) * round(2 * take.fps)
    start = len(black) / take.fps
    return Take((*black, *take.frames, *black), take.fps, ((start, start + take.seconds, 0.0, take.seconds),))


def _spliced(take: Take, rng: Rng, others: Sequence[Take]) -> Take:
    """Cut 3 s into another clip of 30 s."""
    part = _short(take, rng, ())
    around = [covering(frame, *take.size) for frame in host(others, rng, take, 10 * part.seconds)]
    cut = int(rng.integers(len(around) // 10, len(around) * 9 // 10))
    start, (_, _, since, until) = cut / take.fps, part.spans[0]
    return Take((*around[:cut], *part.frames, *around[cut:]), take.fps,
                ((start, start + part.seconds, since, until),))  # fmt: skip


def _small_gif(take: Take) -> Take:
    return at_rate(take, 5).each(lambda frame: scaled(frame, min(1.0, 240 / max(frame.shape[:2]))))


def _slides(take: Take) -> Take:
    """Hold a frame for 2.5 s, then the one of that time; the file keeps 10 frames a second."""
    slow = at_rate(take, 0.4)
    end = min(slow.seconds, take.seconds)
    return replace(at_rate(slow, 10), spans=((0.0, end, 0.0, end),))


def _still(take: Take) -> Take:
    at = take.seconds * 0.4
    return Take((take.frames[int(at * take.fps)],), take.fps, ((0.0, 0.0, at, at),))


def _recorded(take: Take, rng: Rng, others: Sequence[Take]) -> Take:
    """Play in an app on a phone whose screen is recorded."""
    dark = bool(rng.integers(2))
    left, top, width, height = drawing.screen_place(take.frames[0])
    whole = Image.fromarray(drawing.screenshot(take.frames[0], rng, dark))
    ground = scaled(np.array(whole), _SCREEN_SHARE)
    inner = round(width * _SCREEN_SHARE), round(height * _SCREEN_SHARE)
    place = round(left * _SCREEN_SHARE), round(top * _SCREEN_SHARE)
    return take.each(lambda frame: paste(ground, resized(frame, *inner), *place))


# --- the registry -----------------------------------------------------------------------


def _codec() -> list[ClipEdit]:
    encoded = [ClipEdit(f"crf_{crf}", "codec", _timed(_same), partial(as_mp4, crf=crf)) for crf in (35, 45)]
    rates = [ClipEdit(f"fps_{fps}", "codec", _timed(partial(at_rate, fps=fps))) for fps in (15, 10)]
    return [*encoded, ClipEdit("p240", "codec", _each(partial(_low, 240))), *rates,
            ClipEdit("gif", "codec", _timed(_small_gif), as_gif)]  # fmt: skip


def _time() -> list[ClipEdit]:
    makes: dict[str, Make] = {f"speed_{speed}": _timed(partial(_faster, speed)) for speed in (0.75, 0.8, 1.25, 2)}
    makes |= {"trim_0.37": _timed(_trimmed), "middle_50": _timed(_middle), "clip_3s": _short}
    makes |= {"reverse": _timed(_backwards), "black_2s_both": _timed(_black_ends), "splice_3s": _spliced}
    makes["slideshow"] = _timed(_slides)
    return [ClipEdit(name, "time", make) for name, make in makes.items()]


def _shape() -> list[ClipEdit]:
    makes: dict[str, Plain] = {"mirror": mirrored, "rot90": _turned}
    makes |= {f"crop_edge_{share}": partial(crop_edges, share / 100) for share in (5, 10, 25)}
    makes |= {"pad_9x16": _portrait, "pad_10": partial(padded, 0.1, 0.1, 0), "stretch_1.25": _stretched}
    makes["mirror_crop_10"] = lambda picture: crop_edges(0.1, mirrored(picture))
    return [ClipEdit(name, "shape", _each(make)) for name, make in makes.items()]


def _tone() -> list[ClipEdit]:
    makes: dict[str, Plain] = {"grey": grey, "gamma_1.6": partial(gamma, 1.6), "brightness_0.15": _lighter}
    makes["blur_3"] = partial(blurred, 3)
    return [
        *(ClipEdit(name, "tone", _each(make)) for name, make in makes.items()),
        ClipEdit("noise_20", "tone", _noisy),
    ]


def _scene() -> list[ClipEdit]:
    makes: dict[str, Make] = {"logo": _with_logo, "caption_20": _captioned, "middle_bar": _each(_barred)}
    makes |= {"pip_50": _inset, "screen_recording": _recorded}
    return [ClipEdit(name, "scene", make) for name, make in makes.items()]


def _stills() -> list[ClipEdit]:
    cropped = _timed(lambda take: _still(take).each(partial(crop_edges, 0.1)))
    return [ClipEdit("still", "still", _timed(_still), as_jpeg), ClipEdit("still_crop_10", "still", cropped, as_jpeg)]


_ALL = (*_codec(), *_time(), *_shape(), *_tone(), *_scene(), *_stills())
CLIP_EDITS: dict[str, ClipEdit] = {edit.name: edit for edit in _ALL}
