"""A pool of worker processes that decode and hash, so that a crash is one `unhashable`.

Bytes go in over a socket pair, a fixed binary record comes back (`wire`). The digests
are taken on this side while the worker decodes, so they are known whatever happens to
it. A worker that crashes, answers nonsense or runs out of time is ended and replaced.
"""

import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from hashing import wire
from hashing.errors import MediaError, Reason
from hashing.hasher import Plan, admit, digests, with_digests
from hashing.signals import FRAME_DTYPE, Kind, Media, Signal, no_frames

# PDQ's matrices are small: two BLAS threads wait for each other, and cost twice the processor time.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
GRACE_S = 2.0
ITEMS_A_WORKER = 2000  # then it is replaced, whatever its decoders may have leaked


class _Failed(Exception):
    """The worker could not answer; `reason` says why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class _Worker:
    """One process and the socket to it."""

    def __init__(self, environment: Mapping[str, str] | None) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
                [sys.executable, "-P", "-m", "hashing.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env={**(environment or {}), **_ONE_THREAD},
            )  # fmt: skip
        self._stream = self._socket.makefile("rb")
        self.items = 0

    @property
    def alive(self) -> bool:
        """Not ended from outside, as by a system short of memory, while it was idle."""
        return self._process.poll() is None

    def send(self, data: bytes, plan: Plan) -> None:
        self.items += 1
        self._socket.settimeout(plan.limits.timeout_s)
        try:
            self._socket.sendall(wire.pack_request(plan, len(data)))
            self._socket.sendall(data)
        except OSError as error:
            raise _Failed(_reason_of(error)) from error

    def receive(self, plan: Plan) -> Signal:
        try:
            header = self._read(wire.ANSWER.size)
            body = self._read(wire.rows_announced(header, plan.limits) * FRAME_DTYPE.itemsize)
            return wire.unpack_signal(header, body)
        except (OSError, ValueError) as error:
            raise _Failed(_reason_of(error)) from error

    def _read(self, size: int) -> bytes:
        data = self._stream.read(size) if size else b""
        if len(data) < size:
            raise ValueError("the worker closed its socket")
        return data

    def kill(self) -> None:
        """End the process; the call that waits for it sees a crash."""
        self._process.kill()

    def end(self) -> None:
        self.kill()
        self._process.wait()
        self._stream.close()
        self._socket.close()


def _reason_of(error: Exception) -> Reason:
    return Reason.DECODER_TIMED_OUT if isinstance(error, TimeoutError) else Reason.DECODER_CRASHED


class Pool:
    """`workers` processes behind one thread-safe call."""

    def __init__(self, workers: int, environment: Mapping[str, str] | None = None) -> None:
        """Start the processes; `environment` is all that they see of this one's."""
        self._environment = environment
        self.workers = workers
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        self._busy: set[_Worker] = set()
        self._ended, self._lock = False, threading.Lock()
        for _ in range(workers):
            self._idle.put(_Worker(environment))

    def hash_media(self, data: bytes, plan: Plan) -> Signal:
        """Hash media in a worker; waits for a free one.

        Raises UnsupportedMedia, CorruptMedia, MediaTooLarge. A crash or a time-out is a
        Signal with that reason and no frames.
        """
        container = admit(data, plan.limits)
        worker: _Worker | None = None
        keep: _Worker | None = None
        try:
            worker = self._take()
            worker.send(data, plan)
            exact = digests(data)
            signal = worker.receive(plan)
            keep = worker
        except _Failed as failure:
            kind = Kind.VIDEO if container.demuxer else Kind.IMAGE
            signal, exact = Signal(Media(kind), no_frames(), reason=failure.reason), digests(data)
        except MediaError:  # an answer like any other
            keep = worker
            raise
        finally:
            if worker is not None:
                self._put_back(worker, keep)
        return with_digests(signal, exact)

    def _take(self) -> _Worker:
        worker = self._idle.get()
        if worker is not None and not worker.alive:
            worker.end()
            worker = None
        with self._lock:
            if self._ended:
                self._idle.put(worker)  # for whoever waits beside this call
                raise _Failed(Reason.DECODER_CRASHED)
            worker = worker or _Worker(self._environment)
            self._busy.add(worker)
        return worker

    def _put_back(self, worker: _Worker, keep: _Worker | None) -> None:
        self._busy.discard(worker)
        if keep is None or worker.items >= ITEMS_A_WORKER:
            worker.end()
            keep = None
        self._idle.put(keep)

    def close(self, grace_s: float = GRACE_S) -> None:
        """End all workers. A call under way gets its answer if that comes in time, else it is a crash."""
        last = threading.Timer(grace_s, self._give_up)
        last.start()
        for _ in range(self.workers):
            worker = self._idle.get()
            if worker is not None:
                worker.end()
        last.cancel()
        self._ended = True
        self._idle.put(None)  # goes from one call that still waits to the next

    def _give_up(self) -> None:
        with self._lock:
            self._ended = True
            for worker in self._busy:
                worker.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self.close()
