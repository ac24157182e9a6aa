"""Named arrays in one file that is mapped to memory, whole or not at all.

`MAGIC`, a line of JSON (what the arrays belong to, and their names, types and shapes), the
arrays, each at a multiple of 64 bytes, and the SHA-256 of all that. Of a store that is sealed the
file is sealed too (`seals`), piece by piece: it cannot be mapped then, and is read to memory. A file is believed only
after every byte of it was read and hashed, which takes about half a second a gigabyte; its
pages then belong to the system, which shares them between processes and takes them back when
memory is short. FAISS's own files are not used, since a damaged one may load without a word.

A file is never changed in place: it is written under a name of this process and takes the
other's place at once, and a file that is unlinked stays readable to whoever has mapped it.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from indexer.seals import PLAIN, Ring, open_pieces, seal_pieces

MAGIC = b"staydown-index 2\n"
_ALIGNED_BYTES, _PIECE_BYTES = 64, 1 << 22
_DIGEST_BYTES = hashlib.sha256().digest_size

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a file says it belongs to, and its arrays, which cannot be written."""

    about: dict[str, Any]
    arrays: Arrays


def _aligned(place: int) -> int:
    return -(-place // _ALIGNED_BYTES) * _ALIGNED_BYTES


def _pieces(about: Mapping[str, Any], arrays: Arrays) -> Iterator[bytes | memoryview]:
    listed = [[name, array.dtype.str, array.shape] for name, array in arrays.items()]
    start = MAGIC + json.dumps({"about": about, "arrays": listed}).encode() + b"\n"
    yield start.ljust(_aligned(len(start)), b"\0")
    for array in arrays.values():
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        for place in range(0, len(data), _PIECE_BYTES):
            yield data[place : place + _PIECE_BYTES]
        yield bytes(_aligned(len(data)) - len(data))


def _summed(pieces: Iterator[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        yield piece
    yield digest.digest()


def write(path: Path, about: Mapping[str, Any], arrays: Arrays, ring: Ring = PLAIN) -> None:
    """Write a file that takes the place of another at once; OSError."""
    part, pieces = path.with_name(f"{path.name}.{os.getpid()}.part"), _pieces(about, arrays)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        for piece in _summed(pieces) if ring.current is None else seal_pieces(ring, pieces):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def read(path: Path, ring: Ring = PLAIN) -> Snapshot | None:
    """Map a file to memory; None if there is none, or it is not what was written, byte for byte."""
    try:
        with path.open("rb") as file:
            if ring.current is not None:
                opened = open_pieces(ring, file)
                return None if opened is None else _parsed(opened)
            return _parsed(_mapped(file)) if _whole(file) else None
    except OSError:
        return None


def _whole(file: BinaryIO) -> bool:
    """Read everything once. Not through the mapping, whose pages would count as this process's own."""
    left = os.fstat(file.fileno()).st_size - _DIGEST_BYTES
    if left < len(MAGIC) or file.read(len(MAGIC)) != MAGIC:
        return False
    digest, left = hashlib.sha256(MAGIC), left - len(MAGIC)
    while left > 0 and (piece := file.read(min(left, _PIECE_BYTES))):
        digest.update(piece)
        left -= len(piece)
    return file.read() == digest.digest()


def _mapped(file: BinaryIO) -> mmap.mmap:
    return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


def _parsed(mapped: mmap.mmap | bytearray) -> Snapshot:
    end = mapped.find(b"\n", len(MAGIC)) + 1  # ours, byte for byte, from here on
    said = json.loads(bytes(mapped[len(MAGIC) : end]))
    data, place, arrays = np.frombuffer(mapped, np.uint8), _aligned(end), {}
    data.flags.writeable = False
    for name, kind, shape in said["arrays"]:
        size = int(np.dtype(kind).itemsize * np.prod(shape, dtype=np.int64))
        arrays[name] = data[place : place + size].view(kind).reshape(shape)
        place += _aligned(size)
    return Snapshot(said["about"], arrays)


def let_go(array: NDArray[Any]) -> None:
    """Give the memory of a mapped array back to the system: it is read anew where it is needed. Others stay."""
    data: Any = array.base
    mapped = getattr(getattr(data, "base", None), "obj", None)
    if isinstance(mapped, mmap.mmap) and array.size:
        first = array.ctypes.data - data.ctypes.data
        start = first - first % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, start, first + array.nbytes - start)
