"""Where the pool has its workers from: the zygote, watched and started anew, and the processes it forks.

A worker is no child of this process, so it is watched by a descriptor (pidfd), which means it and no
other process, even if its number is used again.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress

from hashing import wire
from hashing.cage import Sandbox

# PDQ's matrices are small: two BLAS threads wait for each other, and cost twice the processor time.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
START_S = 60.0  # of the zygote, on a machine that is very busy
_GONE_S = 0.2  # from the end of a process until the kernel has put it away


class Process:
    """A worker, by its descriptor."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self._descriptor = descriptor
        self._ended = select.poll()
        self._ended.register(descriptor, select.POLLIN)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return not self._ended.poll(0)

    def send_signal(self, number: int) -> None:
        """Send it a signal; nothing happens if it has ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def wait(self) -> None:
        """Wait until it is gone, and let go of it."""
        self._ended.poll()
        deadline = time.monotonic() + _GONE_S
        with suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                signal.pidfd_send_signal(self._descriptor, 0)
                time.sleep(0.0002)
        os.close(self._descriptor)


class Nursery:
    """The zygote; `born` has a worker forked. Thread-safe."""

    def __init__(self, environment: Mapping[str, str] | None, sandbox: Sandbox) -> None:
        """Start the zygote; `environment` is all that it and its workers see of this process's."""
        self._environment, self._sandbox = dict(environment or {}), sandbox
        self._lock = threading.Lock()
        self._start()

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(START_S)
        with theirs:
            self._zygote = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
                [sys.executable, "-P", "-m", "hashing.zygote", str(theirs.fileno()), self._sandbox],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env={**self._environment, **_ONE_THREAD},
            )  # fmt: skip

    def born(self, theirs: socket.socket) -> Process:
        """Have a worker forked that serves this socket; OSError if there is none to be had."""
        with self._lock:
            try:
                return self._fork(theirs)
            except OSError:  # ended from outside, as by a system short of memory: once more
                self._end()
                self._start()
                return self._fork(theirs)

    def _fork(self, theirs: socket.socket) -> Process:
        socket.send_fds(self._socket, [b"f"], [theirs.fileno()])
        said, descriptors, _, _ = socket.recv_fds(self._socket, wire.BORN.size, 1)
        if len(said) < wire.BORN.size or not descriptors:
            raise ConnectionError("the zygote has ended")
        return Process(wire.BORN.unpack(said)[0], descriptors[0])

    def _end(self) -> None:
        self._zygote.kill()
        self._zygote.wait()
        self._socket.close()

    def close(self) -> None:
        """End the zygote; its workers live on."""
        with self._lock:
            self._end()
