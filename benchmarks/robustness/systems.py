"""What is compared: staydown, and plain hashes as the field uses them, each at its own operating point.

A system is handed files and knows keys; what it knows it keeps in a folder, so that it
need not be told again. Hash baselines get upright pictures and refuse
PDQ of a quality below 50, as their makers advise; that is to their advantage.
"""

import io
import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from benchmarks.robustness.peers import Peer
from benchmarks.robustness.vpdq import share_found, vpdq
from hashing.errors import MediaError
from hashing.pdq import pdq
from indexer.errors import IndexerError
from service.engine import Engine
from service.settings import Settings

Codes = NDArray[np.uint8]  # (forms, bytes)
Span = tuple[float, float, float, float]  # query's start and end, reference's start and end, in seconds
MIN_QUALITY = 50
NEAR = "near"
_NEAREST = 5  # told though further away than the radius


@dataclass(frozen=True, slots=True)
class Scored:
    """One known content that a system names. A higher score is surer.

    `verdict` is match or review, or NEAR of what is only told to show how near it comes.
    """

    key: str
    score: float
    verdict: str
    spans: tuple[Span, ...] = ()


class System(Protocol):
    """Something that finds copies."""

    name: str

    def knows(self, key: str) -> bool:
        """Say whether a file was taken, or refused, before."""
        ...

    def enroll(self, key: str, data: bytes) -> None:
        """Take a file as known. May be called by several threads."""
        ...

    def keep(self) -> None:
        """Write what is known into the folder."""
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

    def __init__(self, folder: Path, name: str, kept: str, forms: Callable[[bytes], Codes | None],
                 radius: int) -> None:  # fmt: skip
        """Open it with what is in the folder under the name `kept`, which systems with the same hashes share."""
        self.name = name
        self._file, self._forms, self._radius = folder / f"{kept}.npz", forms, radius
        self._known: dict[str, Codes | None] = {}
        if self._file.exists():
            with np.load(self._file) as file:
                self._known = dict(zip(file["keys"].tolist(), file["codes"], strict=True))
                self._known |= dict.fromkeys(file["refused"].tolist())
        self._table: tuple[list[str], Codes] | None = None

    def knows(self, key: str) -> bool:
        """Say whether there is a hash of it, or none to be had."""
        return key in self._known

    def enroll(self, key: str, data: bytes) -> None:
        """Keep the first form's hash."""
        codes = self._forms(data)
        self._known[key] = None if codes is None else codes[0]
        self._table = None

    def keep(self) -> None:
        """Write the hashes, and which files have none."""
        keys, codes = self._hashes()
        refused = [key for key, code in self._known.items() if code is None]
        np.savez(self._file, keys=np.array(keys, "U32"), codes=codes, refused=np.array(refused, "U32"))

    def _hashes(self) -> tuple[list[str], Codes]:
        if self._table is None:
            known = {key: code for key, code in self._known.items() if code is not None}
            self._table = list(known), np.stack(list(known.values())) if known else np.empty((0, 1), np.uint8)
        return self._table

    def query(self, data: bytes) -> list[Scored]:
        """Compare with all of them."""
        codes = self._forms(data)
        keys, table = self._hashes()
        if codes is None or not keys:
            return []
        bits = np.bitwise_count(table[:, None] ^ codes).sum(2, dtype=np.int64).min(1)
        least = np.partition(bits, min(_NEAREST, len(bits)) - 1)[: min(_NEAREST, len(bits))].max()
        near = np.flatnonzero(bits <= max(self._radius, least)).tolist()
        verdicts = {place: "match" if bits[place] <= self._radius else NEAR for place in near}
        return [Scored(keys[place], -float(bits[place]), verdict) for place, verdict in verdicts.items()]

    def close(self) -> None:
        """Hold nothing."""


def _pdq_codes(count: int, data: bytes) -> Codes | None:
    found = pdq(np.array(opened(data)))
    return found.codes[:count] if found.quality >= MIN_QUALITY else None


def _image_hash(make: Callable[..., Any], side: int, data: bytes) -> Codes:
    return np.packbits(make(opened(data), hash_size=side).hash.ravel())[None]


class Staydown:
    """The whole of it: worker processes, enroller, index, matcher, on a store in the folder."""

    name = "staydown"
    _BANK = "bench"

    def __init__(self, folder: Path, workers: int = 1) -> None:
        self._engine = Engine(Settings.model_validate({"home": str(folder / "staydown"), "workers": workers}))
        if self._BANK not in self._engine.record.bank_names():
            self._engine.record.create_bank(self._BANK, actor="bench")
        self._refused = folder / "staydown-refused.json"
        self._unknown: set[str] = set(json.loads(self._refused.read_text())) if self._refused.exists() else set()
        self._keys = self._enrolled()
        self._taken = {*self._keys.values(), *self._unknown}

    def _enrolled(self) -> dict[str, str]:
        """Return the key, which is the case reference, of each content."""
        found: dict[str, str] = {}
        after = 0
        while contents := self._engine.record.contents(self._BANK, after=after, limit=1000):
            found |= {content.content_id: content.case or "" for content in contents}
            after = contents[-1].content_pk
        return found

    def knows(self, key: str) -> bool:
        """Say whether it was enrolled, or refused."""
        return key in self._taken

    def enroll(self, key: str, data: bytes) -> None:
        """Enroll as `staydown enroll` does; what it refuses stays unknown."""
        try:
            done = self._engine.enroll_media(self._BANK, data, key, (), actor="bench")
            self._keys[done.content_id] = key
        except (MediaError, IndexerError):
            self._unknown.add(key)

    def keep(self) -> None:
        """Write the index cache, and what was refused; all else is in the store already."""
        self._refused.write_text(json.dumps(sorted(self._unknown)))
        self._engine.load_index()
        self._engine.save_index()

    def query(self, data: bytes) -> list[Scored]:
        """Check as `staydown check` does."""
        if not self._engine.index.ready:
            self._engine.load_index()
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
        """End the workers, close the store."""
        self._engine.close()


class VPdq:
    """vPDQ: found where `least` of the query's frames are near a frame of the known video; 0 means any."""

    def __init__(self, folder: Path, name: str, least: float, native: bool = False) -> None:
        """Hash in Python, or as its makers' own library does, in the other environment; ImportError."""
        self.name = name
        self._peer = Peer("vpdq") if native else None
        self._file, self._least = folder / ("vpdq-native.npz" if native else "vpdq.npz"), least
        self._known: dict[str, Codes] = {}
        if self._file.exists():
            with np.load(self._file) as file:
                self._known = dict(file)

    def knows(self, key: str) -> bool:
        """Say whether its frames were hashed."""
        return key in self._known

    def enroll(self, key: str, data: bytes) -> None:
        """Keep the hashes of a frame a second."""
        self._known[key] = self._codes(data)

    def _codes(self, data: bytes) -> Codes:
        return vpdq(data) if self._peer is None else np.frombuffer(self._peer.hash(data), np.uint8).reshape(-1, 32)

    def keep(self) -> None:
        """Write an array for each video."""
        np.savez(self._file, **cast("dict[str, Any]", self._known))

    def query(self, data: bytes) -> list[Scored]:
        """Compare with all of them."""
        codes = self._codes(data)
        shares = {key: share_found(codes, known) for key, known in self._known.items()}
        return [Scored(key, share, "match") for key, share in shares.items() if share and share >= self._least]

    def close(self) -> None:
        """End the other environment's process, if there is one."""
        if self._peer is not None:
            self._peer.close()


# --- peers, where they are installed ----------------------------------------------------


class PeerSystem(HashSystem):
    """Hashes that another environment's library makes, within the radius that the library means."""

    def __init__(self, folder: Path, name: str, library: str, radius: int) -> None:
        """Start it; ImportError."""
        self._peer = Peer(library)
        super().__init__(folder, name, library, self._codes, radius)

    def _codes(self, data: bytes) -> Codes | None:
        return np.frombuffer(found, np.uint8)[None] if (found := self._peer.hash(data)) else None

    def close(self) -> None:
        """End it."""
        self._peer.close()


def _pdq(name: str, forms: int, folder: Path) -> System:
    return HashSystem(folder, name, "pdq", partial(_pdq_codes, forms), 31)


def _classic(kind: str, side: int, radius: int, folder: Path) -> System:
    bits = side * side
    make = partial(_image_hash, getattr(imagehash, kind), side)
    return HashSystem(folder, f"{kind}{bits}_{radius}", f"{kind}{bits}", make, radius)


SYSTEMS: dict[str, Callable[[Path], System]] = {
    "pdq_31": partial(_pdq, "pdq_31", 1),
    "pdq8_31": partial(_pdq, "pdq8_31", 8),
    "phash64_8": partial(_classic, "phash", 8, 8),
    "phash256_51": partial(_classic, "phash", 16, 51),
    "dhash64_4": partial(_classic, "dhash", 8, 4),
    "vpdq_80": lambda folder: VPdq(folder, "vpdq_80", 0.8),
    "vpdq_any": lambda folder: VPdq(folder, "vpdq_any", 0.0),
    "vpdq_native_80": lambda folder: VPdq(folder, "vpdq_native_80", 0.8, native=True),
    "staydown": Staydown,
    # Their own thresholds: 0.2 of 256 bits; 10 of 64; 15 % of 64.
    "perception": lambda folder: PeerSystem(folder, "perception_phash256_0.2", "perception", 51),
    "imagededup": lambda folder: PeerSystem(folder, "imagededup_phash_10", "imagededup", 10),
    "videohash": lambda folder: PeerSystem(folder, "videohash_10", "videohash", 10),
}


def usable(names: Iterable[str]) -> list[str]:
    """Return the names of the systems that can be had here; print why the others cannot. KeyError."""
    found = []
    for name in names:
        try:
            with tempfile.TemporaryDirectory(prefix="staydown-usable-") as folder:
                SYSTEMS[name](Path(folder)).close()
        except ImportError as error:
            print(f"{name} is skipped: {error}")
        else:
            found.append(name)
    return found
