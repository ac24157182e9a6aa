"""`python -m benchmarks.generic_frames`: draws frames that many videos share, and writes `indexer/generic.json`.

Test cards, bars, countdowns, title and end cards, players' chrome, placeholders: drawn by us, so
that nothing of anybody's is shipped, in the shapes of picture in which they are seen. What is kept
is the PDQ hash of each, in all eight symmetries. Frames that `indexer.guards` holds by their
structure alone, and whose hash is noise (plain bars, ramps, checkerboards, grids), need no entry.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hashing.pdq import PdqHash, pdq
from indexer.policy import MAX_UNSURE_BITS, MIN_QUALITY

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]
Draw = Callable[[int, int], Picture]

OUT = Path(__file__).parents[1] / "indexer" / "generic.json"
SHAPES = {"16:9": (640, 360), "4:3": (640, 480), "1:1": (480, 480), "9:16": (360, 640)}
WHITE, BLACK, GREY, RED = (235, 235, 235), (16, 16, 16), (128, 128, 128), (200, 30, 30)
BARS: tuple[Colour, ...] = (
    (191, 191, 191), (191, 191, 0), (0, 191, 191), (0, 191, 0), (191, 0, 191), (191, 0, 0), (0, 0, 191),
)  # fmt: skip
WORDS = (
    "THE END", "The End", "END", "FIN", "Thanks for watching", "Thank you", "Subscribe", "Like and subscribe",
    "To be continued", "Please stand by", "No signal", "Video unavailable", "This video is not available",
    "Content unavailable", "Loading...", "Coming soon", "Follow for more", "Link in bio", "No image available",
    "Image not found", "404", "Sensitive content", "Age restricted", "18+", "WARNING", "CENSORED",
    "Part 1", "Part 2", "Trailer", "Copyright",
)  # fmt: skip


def _plain(width: int, height: int, colour: Colour = BLACK) -> Picture:
    return np.full((height, width, 3), colour, np.uint8)


def _stripes(canvas: Picture, colours: tuple[Colour, ...], top: float, bottom: float) -> None:
    height, width = canvas.shape[:2]
    for number, colour in enumerate(colours):
        left, right = number * width // len(colours), (number + 1) * width // len(colours)
        canvas[round(top * height) : round(bottom * height), left:right] = colour


def _smpte(width: int, height: int) -> Picture:
    """SMPTE ECR 1-1978: seven bars, a row of their opposites, and the row with white and black."""
    canvas = _plain(width, height)
    _stripes(canvas, BARS, 0, 2 / 3)
    _stripes(canvas, (BARS[6], BLACK, BARS[4], BLACK, BARS[2], BLACK, BARS[0]), 2 / 3, 3 / 4)
    fifth: tuple[Colour, ...] = ((0, 33, 76), WHITE, (50, 0, 106), BLACK)
    _stripes(canvas[:, : width * 20 // 28], fifth, 3 / 4, 1)
    _stripes(canvas[:, width * 20 // 28 : width * 24 // 28], ((9, 9, 9), BLACK, (29, 29, 29)), 3 / 4, 1)
    return canvas


def _smpte_hd(width: int, height: int) -> Picture:
    """After SMPTE RP 219: grey edges, bars, and two rows below with a ramp."""
    canvas = _plain(width, height, (104, 104, 104))
    inner = slice(width // 8, width - width // 8)
    _stripes(canvas[:, inner], BARS, 0, 7 / 12)
    canvas[round(height * 7 / 12) : round(height * 8 / 12), inner] = BARS[0]
    canvas[round(height * 8 / 12) : round(height * 9 / 12), inner] = np.linspace(0, 235, inner.stop - inner.start)[
        None, :, None
    ]
    _stripes(canvas[:, inner], (BLACK, WHITE, BLACK, (30, 30, 30), BLACK), 9 / 12, 1)
    return canvas


def _bars_over(*rows: tuple[Colour, ...]) -> Draw:
    """Return bars in the upper two thirds and the given rows of colours below."""

    def draw(width: int, height: int) -> Picture:
        canvas = _plain(width, height)
        _stripes(canvas, BARS, 0, 2 / 3)
        for number, colours in enumerate(rows):
            _stripes(canvas, colours, 2 / 3 + number / 3 / len(rows), 2 / 3 + (number + 1) / 3 / len(rows))
        return canvas

    return draw


def _bars_named(width: int, height: int) -> Picture:
    canvas = _plain(width, height)
    _stripes(canvas, (WHITE, *BARS[1:], BLACK), 0, 1)
    cv2.rectangle(canvas, (width // 4, height * 2 // 5), (width * 3 // 4, height * 3 // 5), BLACK, -1)
    return canvas


def _test_card(width: int, height: int) -> Picture:
    """A circle with bars and a grating on a grid, as electronic test cards have."""
    canvas = _plain(width, height, GREY)
    step = height // 12
    canvas[step // 2 :: step] = WHITE
    canvas[:, (width // 2) % step :: step] = WHITE
    round_, radius = _plain(width, height), min(width, height) * 9 // 20
    _stripes(round_[:, width // 2 - radius : width // 2 + radius], BARS, 0.25, 0.5)
    _stripes(round_[:, width // 2 - radius : width // 2 + radius], (BLACK, WHITE) * 12, 0.5, 0.65)
    round_[: height // 4] = WHITE
    inside = np.hypot(*(np.indices((height, width)) - np.array([[[height // 2]], [[width // 2]]]))) < radius
    canvas[inside] = round_[inside]
    return canvas


def _crosshatch(width: int, height: int) -> Picture:
    canvas = _plain(width, height)
    for part in range(1, 12):
        canvas[part * height // 12] = canvas[:, part * width // 12] = WHITE
    middle, unit = (width // 2, height // 2), min(width, height)
    cv2.circle(canvas, middle, unit * 9 // 20, WHITE, 3, cv2.LINE_AA)
    cv2.line(canvas, (0, 0), (width, height), WHITE, 2, cv2.LINE_AA)
    cv2.putText(canvas, "1", (middle[0] - 20, middle[1] + 30), 0, 2, RED, 5, cv2.LINE_AA)
    return canvas


def _countdown(number: int) -> Draw:
    """A film leader: two circles, a cross, a number."""

    def draw(width: int, height: int) -> Picture:
        canvas, (x, y) = _plain(width, height, (160, 160, 160)), (width // 2, height // 2)
        unit = min(width, height)
        cv2.line(canvas, (x, 0), (x, height), BLACK, 2)
        cv2.line(canvas, (0, y), (width, y), BLACK, 2)
        for radius in (unit * 3 // 10, unit * 2 // 5):
            cv2.circle(canvas, (x, y), radius, WHITE, max(unit // 90, 1), cv2.LINE_AA)
        return written(canvas, str(number), unit * 2 // 5, BLACK)

    return draw


def written(canvas: Picture, text: str, size: int, colour: Colour, below: float = 0.5) -> Picture:
    """Write text in the middle, no wider than the canvas."""
    image = Image.fromarray(canvas)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    while pen.textlength(text, font) > 0.85 * image.width:
        size = size * 9 // 10
        font = ImageFont.load_default(size)
    pen.text((image.width / 2, image.height * below), text, colour, font, anchor="mm")
    return np.asarray(image, np.uint8)


def _words(text: str, share: float) -> Draw:
    """Text in grey-white on black; black on white has every bit turned over, and is looked for as well."""
    return lambda width, height: written(_plain(width, height), text, round(height * share), WHITE)


def _stroked(text: str) -> Draw:
    def draw(width: int, height: int) -> Picture:
        canvas, scale = _plain(width, height), 0.7 * width / (cv2.getTextSize(text, 0, 1, 2)[0][0])
        scale = min(scale, 3.0)
        (wide, tall), _ = cv2.getTextSize(text, 0, scale, 4)
        cv2.putText(canvas, text, ((width - wide) // 2, (height + tall) // 2), 0, scale, WHITE, 4, cv2.LINE_AA)
        return canvas

    return draw


def _player(ground: Colour, button: str, bar: bool) -> Draw:
    """A player that shows nothing yet: a button, and the bar below."""

    def draw(width: int, height: int) -> Picture:
        canvas, (x, y), unit = _plain(width, height, ground), (width // 2, height // 2), min(width, height)
        size = unit // 10
        if button == "ring":
            cv2.circle(canvas, (x, y), 2 * size, WHITE, 4, cv2.LINE_AA)
        elif button == "disc":
            cv2.circle(canvas, (x, y), 2 * size, GREY, -1, cv2.LINE_AA)
        elif button == "badge":
            cv2.rectangle(canvas, (x - 2 * size, y - size * 3 // 2), (x + 2 * size, y + size * 3 // 2), RED, -1)
        corners = np.array([[x - size * 2 // 3, y - size], [x + size, y], [x - size * 2 // 3, y + size]])
        cv2.fillPoly(canvas, [corners], WHITE, cv2.LINE_AA)
        if bar:
            top = height * 15 // 16
            cv2.rectangle(canvas, (width // 30, top), (width * 29 // 30, top + 5), GREY, -1)
            cv2.rectangle(canvas, (width // 30, top), (width // 9, top + 5), RED, -1)
        return canvas

    return draw


def _spinner(width: int, height: int) -> Picture:
    canvas, middle, radius = _plain(width, height), (width // 2, height // 2), min(width, height) // 8
    cv2.ellipse(canvas, middle, (radius, radius), 0, -60, 180, WHITE, 6, cv2.LINE_AA)
    return canvas


def _no_picture(width: int, height: int) -> Picture:
    """The usual icon of a missing picture: a frame with hills and a sun."""
    canvas, (x, y), unit = _plain(width, height, (225, 225, 225)), (width // 2, height // 2), min(width, height) // 8
    cv2.rectangle(canvas, (x - 2 * unit, y - unit * 3 // 2), (x + 2 * unit, y + unit * 3 // 2), GREY, 8)
    cv2.circle(canvas, (x - unit, y - unit * 2 // 3), unit // 3, GREY, -1, cv2.LINE_AA)
    base = y + unit
    hills = [[x - 3 * unit // 2, base], [x - unit // 2, y], [x, y + unit // 2], [x + unit // 2, y - unit // 2]]
    cv2.fillPoly(canvas, [np.array([*hills, [x + 3 * unit // 2, base]])], GREY, cv2.LINE_AA)
    return canvas


def _nobody(width: int, height: int) -> Picture:
    """The usual picture of who has none: a head and shoulders."""
    canvas, (x, y), unit = _plain(width, height, (220, 225, 230)), (width // 2, height // 2), min(width, height)
    tone = (165, 175, 185)
    cv2.circle(canvas, (x, y - unit // 9), unit // 5, tone, -1, cv2.LINE_AA)
    cv2.ellipse(canvas, (x, y + unit // 2), (unit * 2 // 5, unit * 2 // 7), 0, 180, 360, tone, -1, cv2.LINE_AA)
    return canvas


def _end_screen(ground: Colour, boxes: tuple[tuple[float, float], ...]) -> Draw:
    """Boxes for the next videos, and a disc for the channel, as video sites lay them out."""

    def draw(width: int, height: int) -> Picture:
        canvas = _plain(width, height, ground)
        for x, y in boxes:
            left, top = round(x * width), round(y * height)
            cv2.rectangle(canvas, (left, top), (left + width * 3 // 10, top + width * 17 // 100), GREY, -1)
        cv2.circle(canvas, (width // 2, height // 4), min(width, height) // 8, WHITE, -1, cv2.LINE_AA)
        return canvas

    return draw


def drawings() -> dict[str, Draw]:
    """Return what is drawn, by name."""
    found: dict[str, Draw] = {
        "bars, SMPTE": _smpte, "bars, SMPTE HD": _smpte_hd, "bars with a name": _bars_named,
        "bars over red": _bars_over((RED,)), "bars over black and white": _bars_over((BLACK, WHITE, BLACK)),
        "bars over blue and white": _bars_over((BARS[6], BLACK, BARS[4], BLACK), (BLACK, WHITE, BLACK, BLACK)),
        "test card": _test_card, "crosshatch": _crosshatch, "spinner": _spinner, "no picture": _no_picture,
        "nobody": _nobody,
        "end screen, two": _end_screen((30, 30, 40), ((0.1, 0.5), (0.6, 0.5))),
        "end screen, one left": _end_screen((30, 30, 40), ((0.08, 0.45),)),
        "end screen, one right": _end_screen((30, 30, 40), ((0.62, 0.45),)),
    }  # fmt: skip
    found |= {f"countdown {number}": _countdown(number) for number in range(1, 11)}
    for button in ("plain", "ring", "disc", "badge"):
        found |= {
            f"player, {button}": _player(BLACK, button, False),
            f"player, {button}, bar": _player(BLACK, button, True),
        }
    found |= {f"words, {text}": _words(text, 0.16) for text in WORDS}
    return found | {f"strokes, {text}": _stroked(text) for text in WORDS[:12]}


def pictures() -> Iterator[tuple[str, Picture]]:
    """Yield every frame with its name, in every shape of picture."""
    for name, draw in drawings().items():
        for shape, (width, height) in SHAPES.items():
            yield f"{name}, {shape}", draw(width, height)


def listed(hashed: PdqHash) -> bool:
    """Tell whether a frame's hash is worth an entry: it is no noise, and would be searched."""
    return hashed.unsure <= MAX_UNSURE_BITS and hashed.quality >= MIN_QUALITY


def main() -> None:
    """Draw, hash and write."""
    hashes = {name: pdq(picture) for name, picture in pictures()}
    entries = {
        name: [bytes(code).hex() for code in hashed.codes] for name, hashed in hashes.items() if listed(hashed)
    }  # fmt: skip
    OUT.write_text(json.dumps(entries, indent=0) + "\n", encoding="utf-8")
    print(f"{len(hashes)} frames, {len(entries)} listed, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
