"""What is compared: staydown, and plain hashes as the field uses them, each at its own operating point.

A system is handed files and knows keys. Hash baselines get upright pictures and refuse
PDQ of a quality below 50, as their makers advise; that is to their advantage.
"""

import importlib
import io
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from benchmarks.robustness.vpdq import share_found, vpdq
from hashing.errors import MediaError
from hashing.pdq import pdq
from indexer.errors import IndexerError
from service.engine import Engine
from service.settings import Settings

Codes = NDArray[np.uint8]  # (forms, bytes)
Span = tuple[float, float, float, float]  # query's start and end, reference's start and end, in seconds
MIN_QUALITY = 50


@dataclass(frozen=True, slots=True)
class Scored:
    """One known content that a system names. A higher score is surer; `verdict` is match or review."""

    key: str
    score: float
    verdict: str
    spans: tuple[Span, ...] = ()


class System(Protocol):
    """Something that finds copies."""

    name: str

    def enroll(self, key: str, data: bytes) -> None:
        """Take a file as known."""
        ...

    def query(self, data: bytes) -> list[Scored]:
        """Name what the file is a copy of."""
        ...

    def close(self) -> None:
        """Give back what was taken."""
        ...


def opened(data: bytes) -> Image.Image:
    """Return the upright picture of a file."""
    with Image.open(io.BytesIO(data)) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


class HashSystem:
    """Hashes of the whole frame within a radius; `forms` of the query are all compared."""

    def __init__(self, name: str, forms: Callable[[Image.Image], Codes | None], radius: int) -> None:
        self.name = name
        self._forms, self._radius = forms, radius
        self._keys: list[str] = []
        self._codes: list[Codes] = []
        self._table: Codes | None = None

    def enroll(self, key: str, data: bytes) -> None:
        """Keep the first form's hash."""
        codes = self._forms(opened(data))
        if codes is not None:
            self._keys.append(key)
            self._codes.append(codes[0])
            self._table = None

    def query(self, data: bytes) -> list[Scored]:
        """Compare with all of them."""
        codes = self._forms(opened(data))
        if codes is None or not self._keys:
            return []
        if self._table is None:
            self._table = np.stack(self._codes)
        bits = np.bitwise_count(self._table[:, None] ^ codes).sum(2, dtype=np.int64).min(1)
        near = np.flatnonzero(bits <= self._radius).tolist()
        return [Scored(self._keys[place], -float(bits[place]), "match") for place in near]

    def close(self) -> None:
        """Hold nothing."""


def _pdq_codes(count: int, image: Image.Image) -> Codes | None:
    found = pdq(np.array(image))
    return found.codes[:count] if found.quality >= MIN_QUALITY else None


def _image_hash(make: Callable[..., Any], side: int, image: Image.Image) -> Codes:
    return np.packbits(make(image, hash_size=side).hash.ravel())[None]


class Staydown:
    """The whole of it: worker processes, enroller, index, matcher, on a store that is thrown away."""

    name = "staydown"
    _BANK = "bench"

    def __init__(self, workers: int = 1) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="staydown-robustness-")
        self._engine = Engine(Settings.model_validate({"home": self._folder.name, "workers": workers}))
        self._engine.record.create_bank(self._BANK, actor="bench")
        self._engine.load_index()
        self._keys: dict[str, str] = {}

    def enroll(self, key: str, data: bytes) -> None:
        """Enroll as `staydown enroll` does; what it refuses stays unknown."""
        with suppress(MediaError, IndexerError):
            done = self._engine.enroll_media(self._BANK, data, None, (), actor="bench")
            self._keys[done.content_id] = key

    def query(self, data: bytes) -> list[Scored]:
        """Check as `staydown check` does."""
        try:
            answer = self._engine.check_media(data, None)
        except MediaError:
            return []
        return [
            Scored(
                self._keys[match.content_id],
                -float(np.log10(max(match.false_match_probability, 1e-300))),
                match.verdict.value,
                tuple((*segment.query_s, *segment.reference_s) for segment in match.segments),
            )
            for match in answer.matches
        ]

    def close(self) -> None:
        """End the workers, delete the store."""
        self._engine.close()
        self._folder.cleanup()


class VPdq:
    """vPDQ: found where `least` of the query's frames are near a frame of the known video; 0 means any."""

    def __init__(self, name: str, least: float) -> None:
        self.name = name
        self._least = least
        self._known: dict[str, Codes] = {}

    def enroll(self, key: str, data: bytes) -> None:
        """Keep the hashes of a frame a second."""
        self._known[key] = vpdq(data)

    def query(self, data: bytes) -> list[Scored]:
        """Compare with all of them."""
        codes = vpdq(data)
        shares = {key: share_found(codes, known) for key, known in self._known.items()}
        return [Scored(key, share, "match") for key, share in shares.items() if share and share >= self._least]

    def close(self) -> None:
        """Hold nothing."""


# --- peers, where they are installed ----------------------------------------------------


class _Imagededup(HashSystem):
    """imagededup's PHash at its default of 10 bits."""

    def __init__(self) -> None:
        hasher: Any = importlib.import_module("imagededup.methods").PHash(verbose=False)
        super().__init__("imagededup_phash_10", partial(self._code, hasher), 10)

    @staticmethod
    def _code(hasher: Any, image: Image.Image) -> Codes:
        return np.frombuffer(bytes.fromhex(hasher.encode_image(image_array=np.array(image))), np.uint8)[None]


class _Perception:
    """Thorn's perception: PHash of 16×16 at the distance of 0.2 (51 of 256 bits)."""

    def __init__(self) -> None:
        hashers: Any = importlib.import_module("perception.hashers")
        self.name = "perception_phash256_0.2"
        self._hasher = hashers.PHash(hash_size=16, highfreq_factor=4)
        self._known: dict[str, Any] = {}

    def enroll(self, key: str, data: bytes) -> None:
        """Keep the hash."""
        self._known[key] = self._hash(opened(data))

    def _hash(self, image: Image.Image) -> Any:
        return self._hasher.compute(np.array(image), hash_format="vector")

    def query(self, data: bytes) -> list[Scored]:
        """Compare with all of them."""
        seen = self._hash(opened(data))
        if seen is None or not self._known:
            return []
        table = np.stack([code for code in self._known.values() if code is not None])
        shares = (table != seen).mean(1)
        keys = [key for key, code in self._known.items() if code is not None]
        return [Scored(keys[place], -float(shares[place]), "match") for place in np.flatnonzero(shares <= 0.2).tolist()]

    def close(self) -> None:
        """Hold nothing."""


SYSTEMS: dict[str, Callable[[], System]] = {
    "pdq_31": lambda: HashSystem("pdq_31", partial(_pdq_codes, 1), 31),
    "pdq8_31": lambda: HashSystem("pdq8_31", partial(_pdq_codes, 8), 31),
    "phash64_8": lambda: HashSystem("phash64_8", partial(_image_hash, imagehash.phash, 8), 8),
    "phash256_51": lambda: HashSystem("phash256_51", partial(_image_hash, imagehash.phash, 16), 51),
    "dhash64_4": lambda: HashSystem("dhash64_4", partial(_image_hash, imagehash.dhash, 8), 4),
    "vpdq_80": lambda: VPdq("vpdq_80", 0.8),
    "vpdq_any": lambda: VPdq("vpdq_any", 0.0),
    "staydown": Staydown,
    "perception": _Perception,
    "imagededup": _Imagededup,
}


def usable(names: Iterable[str]) -> list[str]:
    """Return the names of the systems that can be had here; print why the others cannot. KeyError."""
    found = []
    for name in names:
        try:
            SYSTEMS[name]().close()
        except ImportError as error:
            print(f"{name} is skipped: {error}")
        else:
            found.append(name)
    return found
