"""Things that are drawn on or around pictures: text, emoji, logos, an app's screen. All by Pillow."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.corpus import Picture
from benchmarks.robustness.edits_base import Rng, resized

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
Colour = tuple[int, int, int]

_TEXT = (
    "when you finally see it and cannot stop laughing send this to everyone you know before it is gone "
    "look at what happened last night nobody was ready for that moment best day ever with the whole family "
    "wait until the end more in my profile follow for part two link in bio original by someone else"
)
_WORDS = _TEXT.split()
_NAMES = ("maria.k_", "the_real_jo", "nightowl88", "daily.pics", "sunny_side", "k4rl", "anna.banana", "old.town.cat")


@lru_cache(maxsize=64)
def font(size: int) -> Font:
    """Return Pillow's own font."""
    return ImageFont.load_default(max(size, 6))


def words(rng: Rng, count: int) -> str:
    """Return text as people put under pictures."""
    start = int(rng.integers(len(_WORDS)))
    return " ".join(_WORDS[(start + number) % len(_WORDS)] for number in range(count))


def user(rng: Rng) -> str:
    """Return a name as people give themselves."""
    return _NAMES[int(rng.integers(len(_NAMES)))]


def wrapped(text: str, face: Font, width: float) -> list[str]:
    """Break text into lines that fit the width."""
    lines: list[str] = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if face.getlength(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def vivid(rng: Rng) -> Colour:
    """Return a strong colour."""
    red, green, blue = (int(level) for level in rng.permutation([235, int(rng.integers(30, 200)), 40]))
    return red, green, blue


def emoji(kind: int, side: int) -> Image.Image:
    """Return an RGBA emoji: laughing, heart eyes, cool or crying."""
    size = 128
    image = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.ellipse((2, 2, size - 2, size - 2), (255, 205, 50, 255), (200, 140, 10, 255), 3)
    _EYES[kind % len(_EYES)](draw)
    mouth = (34, 66, 94, 110)
    draw.chord(mouth, 0, 180, (110, 40, 20, 255)) if kind % 2 == 0 else draw.arc(mouth, 20, 160, (90, 40, 10, 255), 7)
    return image.resize((side, side), Image.Resampling.LANCZOS)


def _dots(draw: ImageDraw.ImageDraw) -> None:
    for left in (36, 76):
        draw.ellipse((left, 36, left + 16, 62), (80, 40, 10, 255))


def _hearts(draw: ImageDraw.ImageDraw) -> None:
    for left in (20, 70):
        heart(draw, left, 26, 38, (230, 30, 50))


def _shades(draw: ImageDraw.ImageDraw) -> None:
    draw.rectangle((14, 38, 114, 46), (20, 20, 20, 255))
    for left in (22, 70):
        draw.rounded_rectangle((left, 38, left + 38, 66), 10, (20, 20, 20, 255))


def _tears(draw: ImageDraw.ImageDraw) -> None:
    _dots(draw)
    for left in (26, 88):
        draw.ellipse((left, 60, left + 16, 92), (80, 170, 250, 255))


_EYES = (_dots, _hearts, _shades, _tears)


def heart(draw: ImageDraw.ImageDraw, x: float, y: float, size: float, colour: Colour) -> None:
    """Draw a filled heart into a square of `size` at (x, y)."""
    half = size / 2
    draw.ellipse((x, y, x + half * 1.1, y + half), colour)
    draw.ellipse((x + half * 0.9, y, x + size, y + half), colour)
    draw.polygon([(x + 2, y + half * 0.7), (x + size - 2, y + half * 0.7), (x + half, y + size)], colour)


def logo(rng: Rng, width: int, height: int) -> Image.Image:
    """Return an opaque RGB logo: a round mark and a name on a plain ground."""
    ground, mark = vivid(rng), vivid(rng)
    image = Image.new("RGB", (width * 4, height * 4), ground)
    draw = ImageDraw.Draw(image)
    tall, wide = image.height, image.width
    side = int(min(tall, wide) * 0.5)
    draw.ellipse((wide * 0.06, tall * 0.1, wide * 0.06 + side, tall * 0.1 + side), mark, (255, 255, 255), side // 10)
    draw.rectangle((wide * 0.55, tall * 0.18, wide * 0.92, tall * 0.5), (255, 255, 255))
    draw.text((wide * 0.06, tall * 0.66), user(rng)[:8].upper(), (255, 255, 255), font(int(min(tall * 0.28, wide / 6))))
    return image.resize((width, height), Image.Resampling.LANCZOS)


def tiled_text(size: tuple[int, int], text: str, alpha: int) -> Image.Image:
    """Return an RGBA layer of slanted text all over."""
    step = max(size) // 6
    layer = Image.new("RGBA", (max(size) * 2, max(size) * 2), (255, 255, 255, 0))
    draw, face = ImageDraw.Draw(layer), font(step // 3)
    across = int(face.getlength(text) * 1.25) + 4
    for number, top in enumerate(range(0, layer.height, step)):
        for left in range(-across * (number % 2) // 2, layer.width, across):
            draw.text((left, top), text, (255, 255, 255, alpha), face)
    left, top = (layer.width - size[0]) // 2, (layer.height - size[1]) // 2
    turned = layer.rotate(30, Image.Resampling.BICUBIC)
    return turned.crop((left, top, left + size[0], top + size[1]))


def text_block(draw: ImageDraw.ImageDraw, lines: Sequence[str], x: float, y: float, size: int, colour: Colour) -> float:
    """Draw lines under each other; return where they end."""
    for number, line in enumerate(lines):
        draw.text((x, y + number * size * 1.3), line, colour, font(size))
    return y + len(lines) * size * 1.3


# --- a phone's screen -------------------------------------------------------------------

SCREEN = (720, 1480)
_ICONS_SIZE = 44


def screen_place(picture: Picture) -> tuple[int, int, int, int]:
    """Return left, top, width and height of the picture on the screen."""
    factor = min(SCREEN[0] / picture.shape[1], 900 / picture.shape[0])
    width, height = round(picture.shape[1] * factor), round(picture.shape[0] * factor)
    return (SCREEN[0] - width) // 2, 212, width, height


def screenshot(picture: Picture, rng: Rng, dark: bool) -> Picture:
    """Return the picture as a phone shows it inside an app: 720×1480."""
    paper, ink = ((18, 18, 20), (240, 240, 240)) if dark else ((255, 255, 255), (20, 20, 20))
    screen = Image.new("RGB", SCREEN, paper)
    draw = ImageDraw.Draw(screen)
    _status_bar(draw, rng, ink)
    _header(draw, rng, ink, paper)
    left, top, width, height = screen_place(picture)
    screen.paste(Image.fromarray(resized(picture, width, height)), (left, top))
    below = _buttons(draw, rng, top + height + 18, ink)
    _comments(draw, rng, below, ink)
    _navigation(draw, ink, paper)
    return np.array(screen)


def _status_bar(draw: ImageDraw.ImageDraw, rng: Rng, ink: Colour) -> None:
    draw.text((34, 14), f"{int(rng.integers(24)):02}:{int(rng.integers(60)):02}", ink, font(26))
    for number in range(4):
        draw.rectangle((560 + number * 11, 38 - 6 * number, 567 + number * 11, 44), ink)
    draw.rounded_rectangle((630, 20, 684, 44), 6, None, ink, 2)
    draw.rectangle((634, 24, 634 + int(rng.integers(6, 46)), 40), ink)


def _avatar(draw: ImageDraw.ImageDraw, rng: Rng, x: int, y: int, size: int) -> None:
    draw.ellipse((x, y, x + size, y + size), vivid(rng))
    draw.ellipse((x + size * 0.32, y + size * 0.2, x + size * 0.68, y + size * 0.54), (250, 230, 210))
    draw.chord((x + size * 0.18, y + size * 0.55, x + size * 0.82, y + size * 1.2), 180, 360, (250, 230, 210))


def _header(draw: ImageDraw.ImageDraw, rng: Rng, ink: Colour, paper: Colour) -> None:
    draw.line([(52, 86), (34, 102), (52, 118)], ink, 5)
    draw.text((290, 84), "Posts", ink, font(32))
    _avatar(draw, rng, 24, 138, 60)
    draw.text((100, 140), user(rng), ink, font(26))
    draw.text((100, 174), words(rng, 3), (140, 140, 140), font(20))
    draw.rounded_rectangle((520, 146, 650, 190), 10, (0, 120, 245))
    draw.text((545, 154), "Follow", (255, 255, 255), font(24))
    for number in range(3):
        draw.ellipse((676, 152 + number * 13, 683, 159 + number * 13), ink)


def _buttons(draw: ImageDraw.ImageDraw, rng: Rng, top: int, ink: Colour) -> int:
    heart(draw, 26, top, _ICONS_SIZE, (235, 40, 70))
    draw.ellipse((96, top, 96 + _ICONS_SIZE, top + _ICONS_SIZE - 4), None, ink, 4)
    draw.polygon([(104, top + 36), (100, top + 50), (120, top + 40)], ink)
    draw.polygon([(170, top + 20), (214, top), (194, top + 44), (188, top + 26)], None, ink, 4)
    draw.polygon([(660, top), (688, top), (688, top + 44), (674, top + 32), (660, top + 44)], None, ink, 4)
    draw.text((26, top + 60), f"{int(rng.integers(10, 9999)):,} likes", ink, font(26))
    return top + 104


def _comments(draw: ImageDraw.ImageDraw, rng: Rng, top: int, ink: Colour) -> None:
    lines = wrapped(f"{user(rng)}  {words(rng, 16)}", font(24), SCREEN[0] - 60)
    y = text_block(draw, lines, 26, top, 24, ink) + 14
    draw.text((26, y), f"View all {int(rng.integers(3, 400))} comments", (140, 140, 140), font(22))
    y += 48
    while y < SCREEN[1] - 190:
        _avatar(draw, rng, 26, int(y), 44)
        y = text_block(draw, [user(rng), words(rng, 6)], 86, y, 20, ink) + 24


def _navigation(draw: ImageDraw.ImageDraw, ink: Colour, paper: Colour) -> None:
    draw.rectangle((0, SCREEN[1] - 110, SCREEN[0], SCREEN[1]), paper)
    draw.line([(0, SCREEN[1] - 110), (SCREEN[0], SCREEN[1] - 110)], (128, 128, 128), 1)
    y = SCREEN[1] - 92
    draw.polygon([(60, y + 20), (84, y), (108, y + 20), (108, y + 46), (60, y + 46)], ink)
    draw.ellipse((208, y, 244, y + 36), None, ink, 5)
    draw.line([(238, y + 32), (252, y + 46)], ink, 6)
    draw.rounded_rectangle((338, y, 384, y + 46), 10, None, ink, 4)
    draw.line([(361, y + 10), (361, y + 36)], ink, 4)
    draw.line([(348, y + 23), (374, y + 23)], ink, 4)
    draw.polygon([(480, y), (520, y + 23), (480, y + 46)], None, ink, 4)
    draw.ellipse((614, y, 660, y + 46), (150, 110, 90))
    draw.rounded_rectangle((240, SCREEN[1] - 20, 480, SCREEN[1] - 13), 4, ink)
