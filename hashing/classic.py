"""The imagehash family as signal types: phash, dhash and whash, 256 bits each.

The hashes are those of the `imagehash` package with hash_size=16, bit for bit, in the
order of `str(ImageHash)`. Their transforms and thresholds are not PDQ's: a mirrored
copy is found by PDQ, not by these.
"""

from collections.abc import Callable

import imagehash
import numpy as np
from PIL import Image

from hashing.media import Pixels
from hashing.signals import HASH_BYTES, Codes, SignalType

SIDE = 16
_HASHERS: dict[SignalType, Callable[[Image.Image], imagehash.ImageHash]] = {
    SignalType.PHASH: lambda image: imagehash.phash(image, hash_size=SIDE),
    SignalType.DHASH: lambda image: imagehash.dhash(image, hash_size=SIDE),
    SignalType.WHASH: lambda image: imagehash.whash(image, hash_size=SIDE),
}


def classic(signal_type: SignalType, pixels: Pixels) -> Codes:
    """Return one hash, uint8 (32,), of a uint8 picture (h, w) or (h, w, 3) RGB."""
    found = _HASHERS[signal_type](Image.fromarray(np.ascontiguousarray(pixels)))
    return np.packbits(found.hash.ravel()).reshape(HASH_BYTES)
