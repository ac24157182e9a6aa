"""Edits of colour and sharpness: colour, blur and noise."""

from functools import partial

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.corpus import Field, Picture
from benchmarks.robustness.edits_base import Edit, Make, Plain, Rng, chancy, clipped, resized, simple

_SEPIA = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]], np.float32)


def bright(factor: float, picture: Picture) -> Picture:
    """Multiply all levels."""
    return clipped(picture.astype(np.float32) * np.float32(factor))


def contrasted(factor: float, picture: Picture) -> Picture:
    """Spread the levels about their mean by a factor."""
    middle = np.float32(picture.mean())
    return clipped((picture.astype(np.float32) - middle) * np.float32(factor) + middle)


def gamma(power: float, picture: Picture) -> Picture:
    """Bend the levels; over 1 makes darker."""
    return clipped(255 * (np.arange(256, dtype=np.float32) / 255) ** np.float32(power))[picture]


def grey(picture: Picture) -> Picture:
    """Take the colour away."""
    return np.asarray(cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8)


def saturated(factor: float, picture: Picture) -> Picture:
    """Strengthen the colour."""
    return np.array(ImageEnhance.Color(Image.fromarray(picture)).enhance(factor))


def hue_turned(degrees: int, picture: Picture) -> Picture:
    """Turn all hues by degrees of the colour circle."""
    turned = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2HSV), np.uint8).copy()
    turned[..., 0] = (turned[..., 0].astype(np.int32) + degrees // 2) % 180
    return np.asarray(cv2.cvtColor(turned, cv2.COLOR_HSV2RGB), np.uint8)


def _sepia(picture: Picture) -> Picture:
    return clipped(picture.astype(np.float32) @ _SEPIA.T)


def _vignette(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    light: Field = 1 - np.float32(0.4) * (down**2 + across**2)
    return clipped(picture * light[..., None])


def _posterised(bits: int, picture: Picture) -> Picture:
    return np.array(ImageOps.posterize(Image.fromarray(picture), bits))


def _equalised(picture: Picture) -> Picture:
    return np.array(ImageOps.equalize(Image.fromarray(picture)))


def _inverted(picture: Picture) -> Picture:
    return (255 - picture).astype(np.uint8)


def blurred(sigma: float, picture: Picture) -> Picture:
    """Blur by a Gaussian of `sigma` pixels."""
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.uint8)


def _sharpened(amount: float, picture: Picture) -> Picture:
    values = picture.astype(np.float32)
    return clipped(values + np.float32(amount) * (values - blurred(1.5, picture)))


def noisy(sigma: float, picture: Picture, rng: Rng) -> Picture:
    """Add Gaussian noise of `sigma` levels."""
    return clipped(picture + rng.standard_normal(picture.shape, np.float32) * np.float32(sigma))


def _salt_and_pepper(share: float, picture: Picture, rng: Rng) -> Picture:
    dice = rng.random(picture.shape[:2], np.float32)
    result = picture.copy()
    result[dice < share / 2] = 0
    result[dice > 1 - share / 2] = 255
    return result


def pixelated(cell: int, picture: Picture) -> Picture:
    """Average cells of pixels, shown as blocks."""
    height, width = picture.shape[:2]
    small = resized(picture, width / cell, height / cell)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)


def _colour() -> list[Edit]:
    makes: dict[str, Plain] = {f"brightness_{factor}": partial(bright, factor) for factor in (0.6, 1.5)}
    makes |= {f"contrast_{factor}": partial(contrasted, factor) for factor in (0.5, 1.8)}
    makes |= {f"gamma_{power}": partial(gamma, power) for power in (0.5, 2)}
    makes |= {"grey": grey, "saturation_2": partial(saturated, 2)}
    makes |= {f"hue_{degrees}": partial(hue_turned, degrees) for degrees in (60, 180)}
    makes |= {"invert": _inverted, "sepia": _sepia, "vignette": _vignette}
    makes |= {"posterise_3": partial(_posterised, 3), "equalise": _equalised}
    return [Edit(name, "colour", simple(make)) for name, make in makes.items()]


def _blur_noise() -> list[Edit]:
    makes: dict[str, Make] = {f"blur_{sigma}": simple(partial(blurred, sigma)) for sigma in (1, 2, 4)}
    makes["sharpen_3"] = simple(partial(_sharpened, 3))
    makes |= {f"noise_{sigma}": chancy(partial(noisy, sigma)) for sigma in (10, 25)}
    makes["salt_pepper_5"] = chancy(partial(_salt_and_pepper, 0.05))
    makes |= {f"pixelate_{cell}": simple(partial(pixelated, cell)) for cell in (4, 8)}
    return [Edit(name, "blur_noise", make) for name, make in makes.items()]


TONE: list[Edit] = [*_colour(), *_blur_noise()]
