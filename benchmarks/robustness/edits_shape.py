"""Edits of size, outline and orientation: codec, scale, crop, dihedral, rotation, frame."""

from functools import partial

import cv2
import numpy as np

from benchmarks.corpus import Picture
from benchmarks.robustness.edits_base import Edit, Make, Plain, Rng, chancy, covering, paste, resized, scaled, simple


def same(picture: Picture) -> Picture:
    """Return the picture itself: only the file is new."""
    return picture


def _longest(side: int, picture: Picture) -> Picture:
    return scaled(picture, side / max(picture.shape[:2]))


def stretched(factor: float, picture: Picture) -> Picture:
    """Make it wider by a factor."""
    return resized(picture, picture.shape[1] * factor, picture.shape[0])


def _square(picture: Picture) -> Picture:
    return resized(picture, min(picture.shape[:2]), min(picture.shape[:2]))


def cropped(picture: Picture, left: float, top: float, right: float, bottom: float) -> Picture:
    """Cut off shares of the sides."""
    height, width = picture.shape[:2]
    return picture[round(height * top) : round(height * (1 - bottom)), round(width * left) : round(width * (1 - right))]


def crop_edges(share: float, picture: Picture) -> Picture:
    """Cut off a share of the side at each edge."""
    return cropped(picture, share, share, share, share)


def crop_area(area: float, picture: Picture, rng: Rng) -> Picture:
    """Keep a part of the area at a random place, its aspect within 3:4 and 4:3 of the picture's."""
    aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    wide = min(np.sqrt(area * aspect), 1.0)
    tall = min(area / wide, 1.0)
    wide = area / tall
    left, top = rng.uniform(0, 1 - wide), rng.uniform(0, 1 - tall)
    return cropped(picture, left, top, 1 - left - wide, 1 - top - tall)


def mirrored(picture: Picture) -> Picture:
    """Swap left and right."""
    return np.ascontiguousarray(picture[:, ::-1])


def turned(quarters: int, picture: Picture) -> Picture:
    """Turn clockwise by quarters of a circle."""
    return np.ascontiguousarray(np.rot90(picture, -quarters))


def rotated(degrees: float, picture: Picture) -> Picture:
    """Rotate about the middle on a black canvas that holds all of it."""
    height, width = picture.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    cosine, sine = abs(matrix[0, 0]), abs(matrix[0, 1])
    size = round(width * cosine + height * sine), round(width * sine + height * cosine)
    matrix[:, 2] += (size[0] / 2 - width / 2, size[1] / 2 - height / 2)
    return np.asarray(cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_CUBIC), np.uint8)


def _inner_size(width: int, height: int, degrees: float) -> tuple[float, float]:
    """Return the largest upright rectangle inside a rotated one."""
    sine, cosine = abs(np.sin(np.radians(degrees))), abs(np.cos(np.radians(degrees)))
    long, short = max(width, height), min(width, height)
    if short <= 2 * sine * cosine * long or abs(sine - cosine) < 1e-10:
        half = short / 2
        return (half / sine, half / cosine) if width >= height else (half / cosine, half / sine)
    double = cosine * cosine - sine * sine
    return (width * cosine - height * sine) / double, (height * cosine - width * sine) / double


def rotated_inside(degrees: float, picture: Picture) -> Picture:
    """Rotate and keep the largest upright rectangle without fill."""
    whole = rotated(degrees, picture)
    wide, tall = (int(side) - 2 for side in _inner_size(picture.shape[1], picture.shape[0], degrees))
    top, left = (whole.shape[0] - tall) // 2, (whole.shape[1] - wide) // 2
    return whole[top : top + tall, left : left + wide]


def padded(rows: float, columns: float, level: int, picture: Picture) -> Picture:
    """Add a border of shares of the picture's sides, on both sides each."""
    down, across = round(picture.shape[0] * rows), round(picture.shape[1] * columns)
    return np.pad(picture, ((down, down), (across, across), (0, 0)), constant_values=level)


def framed(share: float, level: int, picture: Picture) -> Picture:
    """Add a border equally wide on all sides, a share of the shorter one."""
    wide = round(min(picture.shape[:2]) * share)
    return np.pad(picture, ((wide, wide), (wide, wide), (0, 0)), constant_values=level)


def on_blurred_canvas(picture: Picture, width: int = 720, height: int = 1280) -> Picture:
    """Fit the picture into a portrait canvas filled with a blurred form of itself."""
    ground = covering(picture, width, height)
    ground = np.asarray(cv2.GaussianBlur(ground, (0, 0), 24), np.uint8)
    fitted = scaled(picture, min(width / picture.shape[1], height / picture.shape[0]))
    return paste(ground, fitted, (width - fitted.shape[1]) // 2, (height - fitted.shape[0]) // 2)


def _codec() -> list[Edit]:
    jpegs = [Edit(f"jpeg_q{q}", "codec", simple(same), quality=q) for q in (95, 90, 75, 50, 30, 20, 10)]
    return jpegs + [Edit(f"webp_q{q}", "codec", simple(same), "WEBP", q) for q in (50, 10)]


def _scale() -> list[Edit]:
    makes: dict[str, Plain] = {
        f"resize_{share}": partial(lambda f, p: scaled(p, f), share / 100) for share in (75, 50, 25)
    }
    makes |= {f"longest_{side}": partial(_longest, side) for side in (128, 64)}
    makes["upscale_2x"] = partial(scaled, factor=2)
    makes |= {f"stretch_w{factor}": partial(stretched, factor) for factor in (1.1, 1.25, 1.5)}
    makes["square"] = _square
    return [Edit(name, "scale", simple(make)) for name, make in makes.items()]


def _crop() -> list[Edit]:
    makes: dict[str, Make] = {
        f"crop_edge_{share}": simple(partial(crop_edges, share / 100)) for share in (2.5, 5, 10, 15, 25)
    }
    makes |= {f"crop_left_{share}": simple(partial(cropped, left=share / 100, top=0, right=0, bottom=0))
              for share in (10, 25)}  # fmt: skip
    makes["crop_top_25"] = simple(partial(cropped, left=0, top=0.25, right=0, bottom=0))
    makes["crop_left_top_25"] = simple(partial(cropped, left=0.25, top=0.25, right=0, bottom=0))
    makes |= {f"crop_area_{area}": chancy(partial(crop_area, area / 100)) for area in (70, 50, 30)}
    return [Edit(name, "crop", make) for name, make in makes.items()]


def _dihedral() -> list[Edit]:
    makes: dict[str, Plain] = {"mirror": mirrored, "flip_v": lambda picture: np.ascontiguousarray(picture[::-1])}
    makes |= {f"rot90_{90 * quarters}": partial(turned, quarters) for quarters in (1, 2, 3)}
    return [Edit(name, "dihedral", simple(make)) for name, make in makes.items()]


def _rotation() -> list[Edit]:
    makes: dict[str, Plain] = {f"rot_{degrees}_black": partial(rotated, degrees) for degrees in (2, 5, 10, 15, 25, 45)}
    makes |= {f"rot_{degrees}_crop": partial(rotated_inside, degrees) for degrees in (2, 5, 10)}
    return [Edit(name, "rotation", simple(make)) for name, make in makes.items()]


def _frames() -> list[Edit]:
    makes: dict[str, Plain] = {"frame_black_6": partial(framed, 1 / 16, 0)}
    makes |= {f"frame_white_{share}": partial(framed, share / 100, 255) for share in (10, 20)}
    makes |= {f"letterbox_{share}": partial(padded, share / 100, 0.0, 0) for share in (10, 25)}
    makes["pillarbox_25"] = partial(padded, 0.0, 0.25, 0)
    makes["canvas_9x16_blur"] = on_blurred_canvas
    return [Edit(name, "frame", simple(make)) for name, make in makes.items()]


SHAPE: list[Edit] = [*_codec(), *_scale(), *_crop(), *_dihedral(), *_rotation(), *_frames()]
