"""phash, dhash and whash are those of `imagehash`, bit for bit, and read as it writes them."""

import imagehash
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks import corpus
from hashing.classic import classic
from hashing.signals import CLASSIC, SignalType, distance, to_hex

THEIRS = {
    SignalType.PHASH: imagehash.phash, SignalType.DHASH: imagehash.dhash, SignalType.WHASH: imagehash.whash,
}  # fmt: skip


@pytest.mark.parametrize("kind", CLASSIC)
def test_is_imagehash(kind: SignalType, photos: list[NDArray[np.uint8]]) -> None:
    for picture in photos[:6]:
        for pixels in (picture, np.ascontiguousarray(picture[7:, 3:, 0]), picture[::2, ::3]):
            theirs = THEIRS[kind](Image.fromarray(np.ascontiguousarray(pixels)), hash_size=16)
            ours = classic(kind, pixels)
            assert to_hex(ours) == str(theirs)
            assert (ours.shape, ours.dtype) == ((32,), np.uint8)


@pytest.mark.parametrize("kind", CLASSIC)
def test_an_edited_copy_is_near_and_another_scene_is_not(kind: SignalType, photos: list[NDArray[np.uint8]]) -> None:
    first, second = (bytes(classic(kind, picture)) for picture in photos[:2])
    for name in ("half_size", "noise", "grey"):
        assert distance(bytes(classic(kind, corpus.EDITS[name](photos[0]))), first) <= 24
    assert distance(first, second) > 60
