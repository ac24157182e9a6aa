"""The process in which media is decoded: `python -m hashing.worker FD`.

Reads a request from the socket FD, answers with one record, and starts again; ends when
the other side closes. It holds no bank, no key and no settings. An error that is not a
MediaError ends the process: the pool turns that into `decoder_crashed`.
"""

import resource
import socket
import sys

import av.logging
import cv2
import numpy as np

from hashing import wire
from hashing.contrast import CONTRAST_DTYPE, TELL_DTYPE
from hashing.edges import Plane
from hashing.errors import MediaError
from hashing.evidence import PAIR_DTYPE
from hashing.hasher import confirm_pairs, hash_pictures, lay_over, tell_pairs
from hashing.signals import no_sketches


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


def main() -> None:
    """Prepare the process: no core dumps, no threads of its own, no words on stderr."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    cv2.setNumThreads(1)
    av.logging.set_level(None)
    run(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
