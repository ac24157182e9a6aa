"""Edits that lay something over a picture or around it: overlay, user interface."""

from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.corpus import Picture
from benchmarks.robustness import drawing
from benchmarks.robustness.edits_base import Chancy, Edit, Rng, chancy
from benchmarks.robustness.edits_tone import blurred, pixelated


def with_logo(share: float, picture: Picture, rng: Rng) -> Picture:
    """Lay an opaque logo, a share of width and height, into a random corner."""
    height, width = picture.shape[:2]
    mark = drawing.logo(rng, max(round(width * share), 8), max(round(height * share), 8))
    right, down = rng.integers(2, size=2).tolist()
    left = round(width * 0.97) - mark.width if right else round(width * 0.03)
    top = round(height * 0.97) - mark.height if down else round(height * 0.03)
    image = Image.fromarray(picture)
    image.paste(mark, (left, top))
    return np.array(image)


def with_tiled_text(alpha: float, picture: Picture, rng: Rng) -> Picture:
    """Write a name slanted all over."""
    image = Image.fromarray(picture).convert("RGBA")
    layer = drawing.tiled_text(image.size, f"@{drawing.user(rng)}", round(255 * alpha))
    return np.array(Image.alpha_composite(image, layer).convert("RGB"))


def with_emoji(share: float, count: int, centred: bool, picture: Picture, rng: Rng) -> Picture:
    """Lay emoji, a share of the longer side, at random places or in the middle."""
    image = Image.fromarray(picture)
    side = round(max(image.size) * share)
    for _ in range(count):
        face = drawing.emoji(int(rng.integers(4)), side)
        spot = (0.5, 0.5) if centred else rng.uniform(0, 1, 2).tolist()
        image.paste(face, (round((image.width - side) * spot[0]), round((image.height - side) * spot[1])), face)
    return np.array(image)


def with_bar(share: float, picture: Picture, rng: Rng) -> Picture:
    """Lay a plain bar across, somewhere between a fifth and four fifths of the height."""
    height = picture.shape[0]
    tall = round(height * share)
    top = round(rng.uniform(0.2, 0.8 - share) * height)
    result = picture.copy()
    result[top : top + tall] = drawing.vivid(rng)
    return result


def censored(how: str, picture: Picture, rng: Rng) -> Picture:
    """Make 15 % of the area unrecognisable: a box of the picture's shape near the middle."""
    height, width = picture.shape[:2]
    side = float(np.sqrt(0.15))
    tall, wide = round(height * side), round(width * side)
    top, left = (round(float(rng.uniform(0.1, 0.9 - side)) * length) for length in (height, width))
    result = picture.copy()
    box = result[top : top + tall, left : left + wide]
    box[:] = {"blur": blurred(max(width / 32, 4), box), "pixel": pixelated(max(width // 24, 8), box), "black": box * 0}[
        how
    ]
    return result


def with_meme_text(picture: Picture, rng: Rng) -> Picture:
    """Write two lines of white text with a black rim at the top and at the bottom."""
    image = Image.fromarray(picture)
    draw, size = ImageDraw.Draw(image), max(image.width // 12, 12)
    face = drawing.font(size)
    above = drawing.wrapped(drawing.words(rng, 6).upper(), face, image.width * 0.92)[:2]
    below = drawing.wrapped(drawing.words(rng, 6).upper(), face, image.width * 0.92)[:2]
    tops = [size * (0.2 + 1.15 * row) for row in range(len(above))]
    tops += [image.height - size * (0.4 + 1.15 * (len(below) - row)) for row in range(len(below))]
    for line, top in zip(above + below, tops, strict=True):
        x = (image.width - face.getlength(line)) / 2
        draw.text((x, top), line, (255, 255, 255), face, stroke_width=max(size // 12, 1), stroke_fill=(0, 0, 0))
    return np.array(image)


def captioned(share: float, picture: Picture, rng: Rng) -> Picture:
    """Add a white bar with black text above, a share of the picture's height."""
    height, width = picture.shape[:2]
    tall = round(height * share)
    bar = Image.new("RGB", (width, tall), (255, 255, 255))
    size = max(min(tall // 4, width // 16), 8)
    lines = drawing.wrapped(drawing.words(rng, 40), drawing.font(size), width * 0.92)
    lines = lines[: max(int(tall * 0.85 / (size * 1.3)), 1)]
    drawing.text_block(ImageDraw.Draw(bar), lines, width * 0.04, tall * 0.08, size, (10, 10, 10))
    return np.concatenate([np.array(bar), picture])


def as_screenshot(dark: bool, picture: Picture, rng: Rng) -> Picture:
    """Show the picture in an app on a phone."""
    return drawing.screenshot(picture, rng, dark)


def _overlay() -> list[Edit]:
    makes: dict[str, Chancy] = {f"logo_{share}": partial(with_logo, share / 100) for share in (10, 25)}
    makes |= {f"tiled_text_{alpha}": partial(with_tiled_text, alpha / 100) for alpha in (30, 60)}
    makes |= {f"emoji_{share}": partial(with_emoji, share / 100, 1, False) for share in (15, 30)}
    makes |= {"emoji_50_centre": partial(with_emoji, 0.5, 1, True), "emoji_4x20": partial(with_emoji, 0.2, 4, False)}
    makes["bar_15"] = partial(with_bar, 0.15)
    makes |= {f"censor_{how}_15": partial(censored, how) for how in ("blur", "pixel", "black")}
    makes["meme_text"] = with_meme_text
    return [Edit(name, "overlay", chancy(make)) for name, make in makes.items()]


def _ui() -> list[Edit]:
    makes: dict[str, Chancy] = {f"caption_{share}": partial(captioned, share / 100) for share in (20, 40)}
    makes |= {"screenshot_light": partial(as_screenshot, False), "screenshot_dark": partial(as_screenshot, True)}
    return [Edit(name, "ui", chancy(make)) for name, make in makes.items()]


DRAWN: list[Edit] = [*_overlay(), *_ui()]
