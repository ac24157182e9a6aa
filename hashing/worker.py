"""The process in which media is decoded, forked from the zygote, which has loaded what it needs (`prepare`).

It locks itself in (`cage`), and says by its first byte which layers hold. Then it reads a request
from its socket, answers with one record, and starts again; ends when the other side closes. It
holds no bank, no key and no settings. An error that is not a MediaError ends the process: the
pool turns that into `decoder_crashed`.
"""

import encodings
import importlib
import pkgutil
import socket

import av.logging
import cv2
import numpy as np

from hashing import wire
from hashing.cage import Sandbox, lock
from hashing.contrast import CONTRAST_DTYPE, TELL_DTYPE
from hashing.edges import Plane
from hashing.errors import MediaError
from hashing.evidence import PAIR_DTYPE
from hashing.hasher import Plan, confirm_pairs, hash_pictures, lay_over, tell_pairs
from hashing.signals import SignalType, no_sketches
from hashing.stills import warm

# What is imported at its first use, which may be in the middle of a file: PyAV's parts, and codecs of names in EXIF.
_IMPORTED_LATE = (av, encodings)
_OF_OTHER_SYSTEMS = {"encodings.mbcs", "encodings.oem", "encodings.cp65001", "av.__main__"}


class Desk:
    """What the worker has before it: the sketches and planes of the media hashed last."""

    def __init__(self) -> None:
        self._sketches = no_sketches()
        self._planes: tuple[Plane, ...] = ()

    def hash(self, header: bytes, body: bytes) -> bytes:
        """Return the record for media."""
        self._sketches, self._planes = no_sketches(), ()
        plan, _ = wire.unpack_request(header)
        try:
            signal, self._planes = hash_pictures(body, plan)
        except MediaError as error:
            return wire.pack_error(error)
        self._sketches = signal.sketches
        return wire.pack_signal(signal)

    def confirm(self, body: bytes) -> bytes:
        """Return the evidence for pairs, a row each."""
        return confirm_pairs(self._sketches, self._planes, np.frombuffer(body, PAIR_DTYPE)).tobytes()

    def tell(self, body: bytes) -> bytes:
        """Return what tells contents from companions, a row each."""
        return tell_pairs(self._sketches, self._planes, np.frombuffer(body, TELL_DTYPE)).tobytes()


def lay(header: bytes, body: bytes) -> bytes:
    """Return how a companion looks where its content was sketched; nothing is found in what cannot be read."""
    plan, references, data = wire.unpack_lay(header, body)
    try:
        return lay_over(data, plan, references).tobytes()
    except MediaError:
        return np.zeros(len(references), CONTRAST_DTYPE).tobytes()


def run(channel: socket.socket) -> None:
    """Answer requests until the other side closes."""
    desk = Desk()
    with channel.makefile("rb") as stream:
        while header := stream.read(wire.REQUEST.size):
            if size := wire.pairs_announced(header):
                channel.sendall(desk.confirm(stream.read(size)))
            elif size := wire.tells_announced(header):
                channel.sendall(desk.tell(stream.read(size)))
            elif size := wire.lay_announced(header):
                channel.sendall(lay(header, stream.read(size)))
            else:
                channel.sendall(desk.hash(header, stream.read(wire.unpack_request(header)[1])))


def _load() -> None:
    """Load all that is loaded when it is first needed: afterwards nothing may be opened any more."""
    for package in _IMPORTED_LATE:
        for part in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if part.name not in _OF_OTHER_SYSTEMS:
                importlib.import_module(part.name)
    _rehearse(warm(), Plan(types=frozenset(SignalType)))


def _rehearse(data: bytes, plan: Plan) -> None:
    """Do all that is asked of a worker once, with a picture: libraries import parts of themselves on the way."""
    signal, planes = hash_pictures(data, plan)
    for dtype, asked in ((PAIR_DTYPE, confirm_pairs), (TELL_DTYPE, tell_pairs)):
        rows = np.zeros(1, dtype)
        for name in set(rows.dtype.names or ()) - {"query"}:
            rows[name] = signal.sketches[0] if name == "reference" else 0
        asked(signal.sketches, planes, rows)
    lay_over(data, plan, signal.sketches)


def prepare() -> None:
    """Load and do all that workers will; no words on stderr, one thread."""
    cv2.setNumThreads(1)
    av.logging.set_level(None)
    _load()


def serve(channel: socket.socket, sandbox: Sandbox) -> None:
    """Lock this process in, say which layers hold, and answer requests; from then on it has nothing but its socket."""
    channel.sendall(wire.pack_layers(lock(sandbox)))
    run(channel)
