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

from hashing import wire
from hashing.errors import MediaError
from hashing.hasher import hash_pictures


def answer(header: bytes, body: bytes) -> bytes:
    """Return the record for one request."""
    plan, _ = wire.unpack_request(header)
    try:
        return wire.pack_signal(hash_pictures(body, plan))
    except MediaError as error:
        return wire.pack_error(error)


def run(channel: socket.socket) -> None:
    """Answer requests until the other side closes."""
    with channel.makefile("rb") as stream:
        while header := stream.read(wire.REQUEST.size):
            size = wire.unpack_request(header)[1]
            channel.sendall(answer(header, stream.read(size)))


def main() -> None:
    """Prepare the process: no core dumps, no threads of its own, no words on stderr."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    cv2.setNumThreads(1)
    av.logging.set_level(None)
    run(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
