"""What a hash is: signal types, versioned profiles, bit order, hex form, distance.

The only file that knows how many bits a hash has. A frame hash is a row of a NumPy
record array (`FRAME_DTYPE`), so that a film of ten thousand frames is one array; it
becomes text only at the edge (`to_hex`).

Bit order: byte 0 is what the hex form begins with; PDQ's hex form is the one of the
reference (most significant word first), imagehash's is `str(ImageHash)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hashing.errors import InvalidHash, Reason

HASH_BITS = 256
HASH_BYTES = HASH_BITS // 8

Frames = NDArray[np.void]
Codes = NDArray[np.uint8]


class SignalType(StrEnum):
    """A kind of hash. `sha256` and `md5` find exact copies, the others edited ones.

    `keypoints` is not one hash a frame but a sketch: see SKETCH_DTYPE.
    """

    SHA256 = "sha256"
    MD5 = "md5"
    PDQ = "pdq"
    PHASH = "phash"
    DHASH = "dhash"
    WHASH = "whash"
    KEYPOINTS = "keypoints"


EXACT_BYTES = {SignalType.SHA256: 32, SignalType.MD5: 16}
PERCEPTUAL = (SignalType.PDQ, SignalType.PHASH, SignalType.DHASH, SignalType.WHASH)
CLASSIC = (SignalType.PHASH, SignalType.DHASH, SignalType.WHASH)


@dataclass(frozen=True, slots=True)
class Profile:
    """How a perceptual hash was made. Hashes of two profiles of one type compare, a few bits off.

    `pdq-full` hashes all pixels, as python-threatexchange does; `pdq-512` first scales
    down to 512×512, as the C++ and WebAssembly tools do (0 to 10 bits apart).
    """

    name: str
    version: int
    signal_type: SignalType

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


# The position in this tuple is what records and indexes store: append, never reorder.
PROFILES = (
    Profile("pdq-full", 1, SignalType.PDQ),
    Profile("pdq-512", 1, SignalType.PDQ),
    Profile("imagehash-phash16", 1, SignalType.PHASH),
    Profile("imagehash-dhash16", 1, SignalType.DHASH),
    Profile("imagehash-whash16", 1, SignalType.WHASH),
)
PROFILE_OF_TYPE = {
    SignalType.PDQ: 0,
    SignalType.PHASH: 2,
    SignalType.DHASH: 3,
    SignalType.WHASH: 4,
}
PROFILE_NAMES = {str(profile): number for number, profile in enumerate(PROFILES)}


def profiles_of(signal_type: SignalType) -> tuple[int, ...]:
    """Return the numbers of all profiles of one signal type."""
    return tuple(n for n, profile in enumerate(PROFILES) if profile.signal_type is signal_type)


class View(StrEnum):
    """Which part of the picture was hashed."""

    FULL = "full"
    TRIMMED = "trimmed"  # without the plain border (letterbox, pillarbox, frame)


class Transform(StrEnum):
    """The eight symmetries of a rectangle. Rotations are clockwise."""

    NONE = "none"
    MIRROR = "mirror"
    FLIP = "flip"
    ROTATE90 = "rotate90"
    ROTATE180 = "rotate180"
    ROTATE270 = "rotate270"
    TRANSPOSE = "transpose"
    TRANSVERSE = "transverse"


VIEWS = tuple(View)
TRANSFORMS = tuple(Transform)
INVERSE = {transform: transform for transform in TRANSFORMS} | {
    Transform.ROTATE90: Transform.ROTATE270,
    Transform.ROTATE270: Transform.ROTATE90,
}

# One hashed frame. `until_s` is when the next different frame was seen: a still scene is
# one row. Stills have NaN times. `unsure` and `bare` (hashing.pdq) say how much of the hash is
# noise and of the picture empty; 0 where nobody saw the picture.
FRAME_DTYPE = np.dtype(
    [
        ("profile", "u1"),
        ("view", "u1"),
        ("transform", "u1"),
        ("quality", "u1"),
        ("unsure", "u1"),
        ("bare", "u1"),
        ("timestamp_s", "<f8"),
        ("until_s", "<f8"),
        ("hash", "u1", (HASH_BYTES,)),
    ]
)
MAX_QUALITY = 100

# One sketched frame: local descriptors with their places, and the directions of its edges.
# Places are in 1/64 pixel of a plane of width × height, angles in 1/256 turn, octaves in steps of
# scale by 1.2; only the first `count` keypoints count, those first that the picture needs most.
MAX_KEYPOINTS = 600
GRID_SIDE = 32
GRID_BYTES = 2 * 2 * GRID_SIDE * GRID_SIDE // 8  # two bits for each of two directions
OCTAVES = 8
KEYPOINT_DTYPE = np.dtype(
    [("x", "<u2"), ("y", "<u2"), ("angle", "u1"), ("octave", "u1"), ("code", "u1", (HASH_BYTES,))]
)
SKETCH_DTYPE = np.dtype(
    [
        ("timestamp_s", "<f8"),
        ("until_s", "<f8"),
        ("width", "<u2"),
        ("height", "<u2"),
        ("count", "<u2"),
        ("mirrored", "u1"),
        ("grid", "u1", (GRID_BYTES,)),
        ("keypoints", KEYPOINT_DTYPE, (MAX_KEYPOINTS,)),
    ]
)
Sketches = NDArray[np.void]


def no_sketches() -> Sketches:
    """Return zero rows of SKETCH_DTYPE."""
    return np.empty(0, dtype=SKETCH_DTYPE)


def no_frames() -> Frames:
    """Return zero rows of FRAME_DTYPE."""
    return np.empty(0, dtype=FRAME_DTYPE)


def joined(parts: Sequence[Frames]) -> Frames:
    """Return the rows of all parts as one array; for thousands of parts far faster than np.concatenate."""
    return np.frombuffer(bytearray(b"".join([part.tobytes() for part in parts])), FRAME_DTYPE)


class Kind(StrEnum):
    """What was asked about."""

    IMAGE = "image"
    VIDEO = "video"
    HASHES = "hashes"


@dataclass(frozen=True, slots=True)
class Media:
    """What is known of the media besides its hashes."""

    kind: Kind
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    duration_s: float | None = None
    frames_hashed: int = 0


@dataclass(frozen=True, slots=True)
class Signal:
    """All hashes of one piece of media. There are no pixels from here on.

    `frames` has FRAME_DTYPE and shape (n,). `exact` maps exact types to their digests.
    `reason` says why the media could not be judged, or not all of it: a signal with a
    reason can match, but it can never be "no match".
    """

    media: Media
    frames: Frames
    exact: tuple[tuple[SignalType, bytes], ...] = ()
    reason: Reason | None = None
    sketches: Sketches = field(default_factory=no_sketches)

    def __post_init__(self) -> None:
        if self.frames.dtype != FRAME_DTYPE or self.frames.ndim != 1:
            raise InvalidHash("frames must be one row of FRAME_DTYPE a hash")

    def of_type(self, signal_type: SignalType) -> Frames:
        """Return the rows of one perceptual signal type, shape (m,)."""
        return self.frames[np.isin(self.frames["profile"], profiles_of(signal_type))]


def to_hex(code: Any) -> str:
    """Return the lower-case hex form of one hash (bytes, or uint8 of shape (n,))."""
    return bytes(code).hex()


def from_hex(signal_type: SignalType, text: str) -> bytes:
    """Read the hex form of one hash; InvalidHash unless it is exactly as long as its type asks."""
    wanted = EXACT_BYTES.get(signal_type, HASH_BYTES)
    if len(text) != 2 * wanted or not text.isalnum():  # fromhex would skip spaces
        raise InvalidHash(f"a {signal_type} hash has {2 * wanted} hexadecimal digits")
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise InvalidHash(f"a {signal_type} hash has only hexadecimal digits") from error


def distance(a: bytes, b: bytes) -> int:
    """Return the Hamming distance in bits of two hashes: the slow truth that searches are held to."""
    return (int.from_bytes(a) ^ int.from_bytes(b)).bit_count()


def distances(codes: Codes, code: Codes) -> NDArray[np.int64]:
    """Return the Hamming distances in bits, shape (n,), of codes (n, 32) to one code (32,)."""
    found: NDArray[np.int64] = np.bitwise_count(codes ^ code).sum(axis=-1, dtype=np.int64)
    return found
