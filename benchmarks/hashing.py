"""`python -m benchmarks.hashing`: PDQ against others' PDQ, other hashes, and decoding the same picture.

staydown's call gives the hash in all eight symmetries and the quality; each peer's gives
one hash. One thread each. The bits are compared with pdqhash's in the same run.
"""

import io
import sys
from collections.abc import Mapping
from functools import partial

import cv2
import imagehash
import numpy as np
import pdqhash
from PIL import Image

from benchmarks import corpus
from benchmarks.corpus import Picture
from benchmarks.measure import Action, command, timings
from benchmarks.report import Check, Floor, Section, Timing
from hashing.pdq import pdq

SIZES = ((256, 256), (512, 512), (1280, 720), (1920, 1080), (4000, 3000))  # width, height
FLOORS = {(512, 512): 15.0, (1920, 1080): 25.0, (4000, 3000): 50.0}
PDQHASH = "pdqhash"
HASH_SIDE = 16  # of the imagehash family: 256 bits, like PDQ
EXACT_PICTURES = 240
OURS = "staydown pdq"


def _decode_pillow(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def _decode_opencv(data: bytes) -> object:
    """Decode our own JPEG: OpenCV is no decoder for bytes from outside."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def peers_of(rgb: Picture, grey: bool) -> dict[str, Action]:
    """Return the peers' calls for a picture; pdqhash takes RGB only, so grey is given to it as RGB."""
    shown = Image.fromarray(np.ascontiguousarray(rgb[..., 0]) if grey else rgb)
    data = corpus.encode(np.asarray(shown), "JPEG", quality=90)
    return {
        PDQHASH: partial(pdqhash.compute, rgb),
        "imagehash phash": partial(imagehash.phash, shown, hash_size=HASH_SIDE),
        "imagehash dhash": partial(imagehash.dhash, shown, hash_size=HASH_SIDE),
        "imagehash whash": partial(imagehash.whash, shown, hash_size=HASH_SIDE),
        "decoding its JPEG, Pillow": partial(_decode_pillow, data),
        "decoding its JPEG, OpenCV": partial(_decode_opencv, data),
    }


def group_of(width: int, height: int, grey: bool) -> str:
    """Return the name of a case."""
    return f"{width}×{height} {'grey' if grey else 'RGB'}"


def timed(width: int, height: int, grey: bool, rounds: int) -> tuple[Timing, ...]:
    """Time one case."""
    rgb = corpus.picture(width, width, height)
    if grey:
        rgb = corpus.EDITS["grey"](rgb)
    picture = np.ascontiguousarray(rgb[..., 0]) if grey else rgb
    ours: Mapping[str, Action] = {OURS: partial(pdq, picture)}
    return timings(group_of(width, height, grey), ours, peers_of(rgb, grey), rounds)


def differing_bits(picture: Picture) -> int:
    """Return by how many bits our hash and pdqhash's differ."""
    theirs, _ = pdqhash.compute(picture)
    return int(np.count_nonzero(np.unpackbits(pdq(picture).codes[0]) != theirs))


def exactness(count: int) -> Check:
    """Hash pictures of odd sizes, the smaller side above 16 pixels, by both."""
    rng = np.random.default_rng(256)
    scenes = [corpus.picture(seed, 1280, 960) for seed in range(min(count, 8))]
    wrong = bits = 0
    for number in range(count):
        width, height = (int(side) | 1 for side in np.exp(rng.uniform(np.log(17), np.log(1400), 2)))
        scene = scenes[number % len(scenes)]
        picture = np.asarray(cv2.resize(scene, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        apart = differing_bits(picture)
        wrong, bits = wrong + bool(apart), bits + apart
    detail = f"{bits} differing bits on {count} pictures of odd sizes ({wrong} pictures differ)"
    return Check("the same bits as pdqhash", bits == 0, detail)


def collect(short: bool) -> Section:
    """Measure everything."""
    found: list[Timing] = []
    for grey in (False, True):
        for width, height in SIZES:
            large = width * height > 4_000_000
            found += timed(width, height, grey, (3 if large else 5) if short else (15 if large else 31))
    floors = tuple(Floor(group_of(*size, grey=False), PDQHASH, least) for size, least in FLOORS.items())
    note = ("One decoded picture to its hash, one thread. staydown's call gives eight symmetries and the quality, "
            "a peer's one hash of 256 bits. Decoding is no peer but a yardstick.")  # fmt: skip
    return Section("Hashing", note, tuple(found), (), (exactness(EXACT_PICTURES),), floors)


if __name__ == "__main__":
    sys.exit(command("hashing", collect))
