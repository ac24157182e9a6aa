"""A pool of worker processes that decode and hash, so that a crash is one `unhashable`.

Bytes go in over a socket pair, a fixed binary record comes back (`wire`). The digests
are taken on this side while the worker decodes, so they are known whatever happens to
it. A worker that crashes, answers nonsense or runs out of time is ended and replaced.
A worker has no settings, keys or bank from its start, and locks itself in (`cage`).
"""

import queue
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from hashing import wire
from hashing.cage import LAYERS, Sandbox
from hashing.contrast import CONTRAST_DTYPE, MAX_CONTRASTS, TOLD_DTYPE, Contrasts, Tells, Told
from hashing.errors import MediaError, Reason, SandboxMissing, StaydownError, UnhashableMedia
from hashing.evidence import EVIDENCE_DTYPE, Evidence, Pairs
from hashing.hasher import Plan, admit, digests, with_digests
from hashing.nursery import Nursery
from hashing.signals import Kind, Media, Signal, Sketches, no_frames

_Rows = NDArray[np.void]
T = TypeVar("T")
GRACE_S = 2.0
START_S = 60.0  # until a worker is locked in, on a machine that is very busy
ITEMS_A_WORKER = 2000  # then it is replaced, whatever its decoders may have leaked


class _Failed(Exception):
    """The worker could not answer; `reason` says why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class _Worker:
    """One process and the socket to it."""

    def __init__(self, nursery: Nursery) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = nursery.born(theirs)
            except OSError as error:
                self._socket.close()
                raise _Failed(_reason_of(error)) from error
        self._stream = self._socket.makefile("rb")
        self.items = 0
        self._layers: frozenset[str] | None = None

    def layers(self) -> frozenset[str]:
        """Return which layers of the cage hold: the first that it says, once it is ready."""
        if self._layers is None:
            self._socket.settimeout(START_S)
            try:
                self._layers = wire.unpack_layers(self._read(1))
            except (OSError, ValueError) as error:
                raise _Failed(_reason_of(error)) from error
        return self._layers

    @property
    def alive(self) -> bool:
        """Not ended from outside, as by a system short of memory, while it was idle."""
        return self._process.alive

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
            body = self._read(wire.bytes_announced(header, plan.limits))
            return wire.unpack_signal(header, body)
        except (OSError, ValueError) as error:
            raise _Failed(_reason_of(error)) from error

    def confirm(self, pairs: Pairs) -> Evidence:
        size = len(pairs) * EVIDENCE_DTYPE.itemsize
        return self._ask(size, wire.unpack_evidence, wire.pack_pairs(pairs))

    def tell(self, tells: Tells) -> Told:
        return self._ask(len(tells) * TOLD_DTYPE.itemsize, wire.unpack_told, wire.pack_tells(tells))

    def lay(self, data: bytes, plan: Plan, references: Sketches) -> Contrasts:
        self.items += 1
        self._socket.settimeout(plan.limits.timeout_s)
        size = len(references) * CONTRAST_DTYPE.itemsize
        return self._ask(size, wire.unpack_contrasts, wire.pack_lay(plan, data, references), data)

    def _ask(self, size: int, unpack: Callable[[bytes], _Rows], *request: bytes) -> _Rows:
        """Send a request in parts, and return the rows of an answer of `size` bytes."""
        try:
            for part in request:
                self._socket.sendall(part)
            return unpack(self._read(size))
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


def _unseen(kind: Kind, failure: _Failed) -> Signal:
    return Signal(Media(kind), no_frames(), reason=failure.reason)


class Opened:
    """Media that a worker has hashed and still has before it."""

    signal: Signal

    def __init__(self, worker: _Worker | None, signal: Signal | None = None) -> None:
        self._worker = worker
        self.sound = False  # the worker waits for its next request
        if signal is not None:
            self.signal = signal

    def hash(self, data: bytes, plan: Plan, kind: Kind) -> None:
        """Hash the media; what the worker could not do is the signal's reason."""
        if self._worker is None:
            return
        try:
            self._worker.send(data, plan)
            exact = digests(data)
            found = self._worker.receive(plan)
            self.sound = True
        except _Failed as failure:
            found, exact = _unseen(kind, failure), digests(data)
        except MediaError:  # an answer like any other
            self.sound = True
            raise
        self.signal = with_digests(found, exact)

    def look(self, data: bytes, plan: Plan) -> Signal:
        """Hash the media once more, as another plan asks; a MediaError if the worker fails."""

        def again(worker: _Worker) -> Signal:
            worker.send(data, plan)
            return worker.receive(plan)

        return self._asked(again)

    def confirm(self, pairs: Pairs) -> Evidence:
        """Return the evidence (EVIDENCE_DTYPE) for pairs of sketches; UnhashableMedia if the worker fails."""
        return self._asked(lambda worker: worker.confirm(pairs)) if len(pairs) else np.empty(0, EVIDENCE_DTYPE)

    def tell(self, tells: Tells) -> Told:
        """Return a row of TOLD_DTYPE for each of TELL_DTYPE; UnhashableMedia if the worker fails."""
        parts = [tells[start : start + wire.MAX_PAIRS] for start in range(0, len(tells), wire.MAX_PAIRS)]
        told = [self._asked(partial(_Worker.tell, tells=part)) for part in parts]
        return np.concatenate([np.empty(0, TOLD_DTYPE), *told])

    def _asked(self, question: Callable[[_Worker], T]) -> T:
        if self._worker is None or not self.sound:
            raise UnhashableMedia(Reason.DECODER_CRASHED)
        self.sound = False
        try:
            answer = question(self._worker)
        except _Failed as failure:
            raise UnhashableMedia(failure.reason) from failure
        self.sound = True
        return answer


class Pool:
    """`workers` processes behind one thread-safe call."""

    def __init__(self, workers: int, environment: Mapping[str, str] | None = None,
                 sandbox: Sandbox = Sandbox.AVAILABLE) -> None:  # fmt: skip
        """Start the processes, and wait until they are locked in; `environment` is all that they see of this one's.

        SandboxMissing if that is asked for and cannot be; UnhashableMedia if they do not start.
        """
        self._sandbox, self._nursery = sandbox, Nursery(environment, sandbox)
        self.workers = workers
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        self._busy: set[_Worker] = set()
        self._ended, self._lock = False, threading.Lock()
        try:
            self.layers = self._first_layers()
        except StaydownError:
            self._end_idle()
            self._nursery.close()
            raise

    def hash_media(self, data: bytes, plan: Plan) -> Signal:
        """Hash media in a worker; waits for a free one.

        Raises UnsupportedMedia, CorruptMedia, MediaTooLarge. A crash or a time-out is a
        Signal with that reason and no frames.
        """
        with self.open(data, plan) as opened:
            return opened.signal

    def lay_over(self, data: bytes, plan: Plan, references: Sketches) -> Contrasts:
        """Lay a companion over sketches of its content: a row of CONTRAST_DTYPE each. UnhashableMedia."""
        parts = [references[start : start + MAX_CONTRASTS] for start in range(0, len(references), MAX_CONTRASTS)]
        return np.concatenate([np.empty(0, CONTRAST_DTYPE), *(self._lay(data, plan, part) for part in parts)])

    def _lay(self, data: bytes, plan: Plan, references: Sketches) -> Contrasts:
        keep: _Worker | None = None
        try:
            worker = self._take()
        except _Failed as failure:
            raise UnhashableMedia(failure.reason) from failure
        try:
            found = worker.lay(data, plan, references)
            keep = worker
        except _Failed as failure:
            raise UnhashableMedia(failure.reason) from failure
        finally:
            self._put_back(worker, keep)
        return found

    @contextmanager
    def open(self, data: bytes, plan: Plan) -> Iterator["Opened"]:
        """Hash media as `hash_media` does, and keep its worker while the block runs, to confirm pairs."""
        container = admit(data, plan.limits)
        kind = Kind.VIDEO if container.demuxer else Kind.IMAGE
        try:
            worker = self._take()
        except _Failed as failure:  # the pool is ending
            yield Opened(None, with_digests(_unseen(kind, failure), digests(data)))
            return
        opened = Opened(worker)
        try:
            opened.hash(data, plan, kind)
            yield opened
        finally:
            sound, opened.sound = opened.sound, False  # the worker is no longer the caller's
            self._put_back(worker, worker if sound else None)

    def _take(self) -> _Worker:
        worker = self._idle.get()
        if worker is not None and not worker.alive:
            worker.end()
            worker = None
        with self._lock:
            if self._ended:
                self._idle.put(worker)  # for whoever waits beside this call
                raise _Failed(Reason.DECODER_CRASHED)
            try:
                worker = worker or _Worker(self._nursery)
            except _Failed:
                self._idle.put(None)
                raise
            self._busy.add(worker)
        try:
            self._check(worker.layers())
        except (_Failed, SandboxMissing):
            self._put_back(worker, None)
            raise
        return worker

    def _check(self, held: frozenset[str]) -> None:
        if self._sandbox is Sandbox.REQUIRED and (missing := [layer for layer in LAYERS if layer not in held]):
            raise SandboxMissing(f"decoders cannot be locked in: no {', '.join(missing)} here; see STAYDOWN_SANDBOX")

    def _first_layers(self) -> frozenset[str]:
        """Start the workers, and return which layers of the cage hold in all of them."""
        try:
            for _ in range(self.workers):
                self._idle.put(_Worker(self._nursery))
            held = [worker.layers() for worker in self._idle.queue if worker is not None]
        except _Failed as failure:
            raise UnhashableMedia(failure.reason) from failure
        found = frozenset(LAYERS).intersection(*held)
        self._check(found)
        return found

    def _end_idle(self) -> None:
        while not self._idle.empty():
            if (worker := self._idle.get()) is not None:
                worker.end()

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
        self._nursery.close()
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
