"""The process that workers are forked from: `python -m hashing.zygote FD SANDBOX`.

It loads what decoding takes, once, and then forks at each byte that comes over the socket FD together
with the end of a socket for the new worker; it answers with a descriptor of the process and its number.
So a lost worker is replaced within moments, and pages that nobody writes to are shared by all of them.

Rules of this file: it is a fresh interpreter without settings, key or bank, as `worker` was from its
start; it never reads a byte of media; it has one thread, or forking would not be safe; it holds no
socket but its own. Nobody waits for workers here: they are watched by their descriptors (`nursery`).
"""

import gc
import os
import signal
import socket
import sys
from pathlib import Path

from hashing import wire
from hashing.cage import Sandbox
from hashing.worker import prepare, serve


def give_birth(channel: socket.socket, theirs: int, sandbox: Sandbox) -> None:
    """Fork a worker that serves the socket `theirs`, and say which process it is. Does not return in the worker."""
    pid = os.fork()
    if pid == 0:
        try:
            channel.close()
            serve(socket.socket(fileno=theirs), sandbox)
        finally:
            os._exit(1)  # whatever it was, it is not to come back to the loop below
    os.close(theirs)
    descriptor = os.pidfd_open(pid)
    socket.send_fds(channel, [wire.BORN.pack(pid)], [descriptor])
    os.close(descriptor)


def run(channel: socket.socket, sandbox: Sandbox) -> None:
    """Fork until the other side closes."""
    while True:
        asked, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if not asked or not descriptors:
            return
        give_birth(channel, descriptors[0], sandbox)


def main() -> None:
    """Prepare, and fork."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended workers go by themselves
    prepare()
    gc.collect()
    gc.freeze()  # so that collecting garbage does not write to what is shared
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        raise SystemExit("a process with threads cannot be forked safely")
    run(socket.socket(fileno=int(sys.argv[1])), Sandbox(sys.argv[2]))


if __name__ == "__main__":
    main()
