"""Other people's hashes, made in an environment of their own: their requirements and ours do not agree.

`hashing_server` is what their Python runs (this very file, as a script, with nothing of
ours): a file's bytes in, a hash's bytes out. `Peer` starts it and asks it.
"""

import argparse
import atexit
import importlib
import io
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

PYTHON = "ROBUSTNESS_PEERS_PYTHON"  # the environment variable with the path of their Python
_LENGTH = struct.Struct("<I")
_UNUSABLE = 3  # exit status: the library is not there


# --- their side -------------------------------------------------------------------------


def _pixels(data: bytes) -> Any:
    numpy, image, ops = (importlib.import_module(name) for name in ("numpy", "PIL.Image", "PIL.ImageOps"))
    return numpy.array(ops.exif_transpose(image.open(io.BytesIO(data))).convert("RGB"))


def _perception() -> Callable[[bytes], bytes]:
    """Thorn's perception, as its deduplication service is set up: PHash of 16×16."""
    numpy: Any = importlib.import_module("numpy")
    hasher: Any = importlib.import_module("perception.hashers").PHash(hash_size=16, highfreq_factor=4)

    def take(data: bytes) -> bytes:
        bits = hasher.compute(_pixels(data), hash_format="vector")
        return b"" if bits is None else bytes(numpy.packbits(bits))

    return take


def _imagededup() -> Callable[[bytes], bytes]:
    hasher: Any = importlib.import_module("imagededup.methods").PHash(verbose=False)
    return lambda data: bytes.fromhex(hasher.encode_image(image_array=_pixels(data)).zfill(16))


def _in_a_file(take: Callable[[str, str], bytes], data: bytes) -> bytes:
    """Let a library have its file, in a folder that is deleted after."""
    with tempfile.TemporaryDirectory(prefix="peer-") as folder:
        path = Path(folder) / "media.mp4"
        path.write_bytes(data)
        return take(str(path), f"{folder}/")


def _with_ffmpeg() -> None:
    """Put the program of imageio_ffmpeg on the path where there is no other; ImportError if there is none at all."""
    if shutil.which("ffmpeg") is None:
        program: Any = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
        folder = tempfile.mkdtemp(prefix="peer-")
        atexit.register(shutil.rmtree, folder)
        Path(folder, "ffmpeg").symlink_to(program)
        os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"


def _videohash() -> Callable[[bytes], bytes]:
    """videohash also wants a program called ffmpeg, and a name that Pillow took away in version 10."""
    _with_ffmpeg()
    image: Any = importlib.import_module("PIL.Image")
    image.ANTIALIAS = image.Resampling.LANCZOS
    make: Any = importlib.import_module("videohash").VideoHash
    return partial(_in_a_file, lambda path, folder: bytes.fromhex(make(path=path, storage_path=folder).hash_hex[2:]))


def _vpdq() -> Callable[[bytes], bytes]:
    """vPDQ of its makers: the hashes of a frame a second, one after the other, those of a quality of 50 or more."""
    frames: Any = importlib.import_module("vpdq").computeHash

    def take(path: str, folder: str) -> bytes:
        return b"".join(bytes.fromhex(frame.hex) for frame in frames(path, seconds_per_hash=1.0, thread_count=1)
                        if frame.quality >= 50)  # fmt: skip

    return partial(_in_a_file, take)


CODE_BYTES = 32


def _pdq_index() -> Callable[[bytes], bytes]:
    """python-threatexchange's PDQIndex: many codes make an index, one code is searched in the last of them."""
    made: Any = importlib.import_module("threatexchange.signal_type.pdq.pdq_index").PDQIndex
    index: Any = made()

    def take(data: bytes) -> bytes:
        nonlocal index
        if len(data) == CODE_BYTES:
            return b"".join(_LENGTH.pack(match.metadata) for match in index.query(data.hex()))
        codes = (data[start : start + CODE_BYTES].hex() for start in range(0, len(data), CODE_BYTES))
        index = made([(code, number) for number, code in enumerate(codes)])
        return _LENGTH.pack(len(index))

    return take


HASHERS = {
    "pdq_index": _pdq_index,
    "perception": _perception,
    "imagededup": _imagededup,
    "videohash": _videohash,
    "vpdq": _vpdq,
}


def hashing_server(name: str, source: IO[bytes], sink: IO[bytes]) -> int:
    """Answer each length-prefixed file with a length-prefixed hash, empty where there is none."""
    try:
        take = HASHERS[name]()
    except ImportError:
        return _UNUSABLE
    _send(sink, b"ready")
    while data := _receive(source):
        try:
            code = take(data)
        except Exception:  # whatever another library raises: it has no hash
            code = b""
        _send(sink, code)
    return 0


def _send(sink: IO[bytes], data: bytes) -> None:
    sink.write(_LENGTH.pack(len(data)) + data)
    sink.flush()


def _receive(source: IO[bytes]) -> bytes:
    head = source.read(_LENGTH.size)
    return source.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""


# --- our side ---------------------------------------------------------------------------


class Peer:
    """One running server. Several threads may ask; they wait for each other."""

    def __init__(self, name: str) -> None:
        """Start it; ImportError if the library is not to be had."""
        python = os.environ.get(PYTHON, sys.executable)
        self._process = subprocess.Popen([python, "-P", __file__, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=subprocess.DEVNULL)  # fmt: skip
        self._lock = threading.Lock()
        if self._answer() != b"ready":
            self.close()
            raise ImportError(f"{name} is not installed for {python}")

    def _answer(self) -> bytes:
        return _receive(self._process.stdout) if self._process.stdout else b""

    def hash(self, data: bytes) -> bytes:
        """Return the hash of a file's bytes, empty where there is none; RuntimeError if the process has ended."""
        with self._lock:
            if self._process.stdin is None or self._process.poll() is not None:
                raise RuntimeError("the other environment's process has ended")
            _send(self._process.stdin, data)
            return self._answer()

    def close(self) -> None:
        """End it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Hash files from the standard input")
    parser.add_argument("name", choices=HASHERS)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the libraries print is no answer
    sys.exit(hashing_server(parser.parse_args().name, sys.stdin.buffer, answers))
