"""The pool with real worker processes: killed, stopped, replaced, alone with its bytes."""

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import corpus
from hashing import sandbox, wire, worker
from hashing.errors import CorruptMedia, MediaTooLarge, Reason, UnsupportedMedia
from hashing.hasher import Plan, digests, hash_media, hash_pictures
from hashing.media import Limits, Sampling
from hashing.sandbox import Pool
from hashing.signals import FRAME_DTYPE, Kind, Signal

QUICK = Plan(limits=Limits(timeout_s=0.5))


@pytest.fixture(scope="module")
def jpeg() -> bytes:
    return corpus.jpeg(corpus.picture(1, 200, 150), 80)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(1) as shared:
        yield shared


def pids(pool: Pool) -> list[int]:
    """The processes of all idle workers, the next one to be used last."""
    return [one._process.pid for one in pool._idle.queue if one is not None]


def same(a: Signal, b: Signal) -> bool:
    return (a.frames.tobytes(), a.media, a.exact, a.reason) == (b.frames.tobytes(), b.media, b.exact, b.reason)


# --- answers ----------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", Sampling)
def test_answers_are_those_of_this_process(sampling: Sampling, pool: Pool, jpeg: bytes, short_clip: bytes) -> None:
    plan = Plan(sampling)
    transparent = np.dstack([corpus.picture(1, 64, 64), np.full((64, 64), 99, np.uint8)])
    wide = corpus.encode(np.zeros((5, 1_100_000), np.uint8), "PNG")  # too_many_pixels
    for data in (jpeg, short_clip, corpus.animation(3, "GIF"), corpus.encode(transparent, "PNG"), wide,
                 corpus.encode(corpus.picture(2), "PNG")[:100_000]):  # fmt: skip
        assert same(pool.hash_media(data, plan), hash_media(data, plan))


def test_limits_cross_the_wall(pool: Pool, jpeg: bytes, short_clip: bytes) -> None:
    for data, limits in ((jpeg, Limits(max_pixels=100)), (short_clip, Limits(max_frames=3)),
                         (short_clip, Limits(max_duration_s=0.5))):  # fmt: skip
        plan = Plan(limits=limits)
        found = pool.hash_media(data, plan)
        assert found.reason is not None
        assert same(found, hash_media(data, plan))


def test_errors_cross_the_wall_and_the_worker_lives_on(pool: Pool, jpeg: bytes) -> None:
    before = pids(pool)
    for data, kind in ((b"hello", UnsupportedMedia), (b"", UnsupportedMedia), (jpeg[:30], CorruptMedia)):
        with pytest.raises(kind):
            pool.hash_media(data, Plan())
    with pytest.raises(MediaTooLarge):
        pool.hash_media(jpeg, Plan(limits=Limits(max_body_bytes=10)))
    assert pids(pool) == before
    assert pool.hash_media(jpeg, Plan()).reason is None


# --- crashes and time-outs --------------------------------------------------------------


def stopped(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.005)


def killed_while_asked(pool: Pool, data: bytes, thread: ThreadPoolExecutor) -> Future[Signal]:
    """Ask the only worker of the pool, and kill it when it has the question and not yet answered."""
    (one,) = pool._idle.queue
    assert one is not None
    stopped(one._process.pid)
    before = one.items
    asked = thread.submit(pool.hash_media, data, Plan())
    while one.items == before:
        time.sleep(0.005)
    one._process.send_signal(signal.SIGKILL)
    return asked


def test_a_worker_killed_in_the_middle_is_one_unhashable(jpeg: bytes, short_clip: bytes) -> None:
    with Pool(1) as pool, ThreadPoolExecutor(1) as thread:
        for data, kind in ((jpeg, Kind.IMAGE), (short_clip, Kind.VIDEO)):
            (pid,) = pids(pool)
            asked = killed_while_asked(pool, data, thread)
            found = asked.result(timeout=10)
            assert (found.reason, len(found.frames), found.media.kind) == (Reason.DECODER_CRASHED, 0, kind)
            assert found.exact == digests(data)
            assert found.media.sha256 == digests(data)[0][1].hex()
            assert pool.hash_media(data, Plan()).reason is None
            assert pids(pool) != [pid]


@pytest.mark.parametrize("size", [None, (1500, 1500)])
def test_a_worker_that_does_not_answer_has_its_time(size: tuple[int, int] | None, jpeg: bytes) -> None:
    """Whether it hangs with the bytes read, or before it takes them all."""
    data = jpeg if size is None else corpus.encode(np.zeros((*size, 3), np.uint8), "BMP")
    with Pool(1) as pool:
        (pid,) = pids(pool)
        stopped(pid)
        began = time.monotonic()
        found = pool.hash_media(data, QUICK)
        assert 0.4 < time.monotonic() - began < 5
        assert (found.reason, len(found.frames), found.exact) == (Reason.DECODER_TIMED_OUT, 0, digests(data))
        assert not Path(f"/proc/{pid}").exists()
        assert pool.hash_media(jpeg, Plan()).reason is None


def test_a_worker_that_dies_before_it_has_the_bytes_is_one_unhashable() -> None:
    data = corpus.encode(np.zeros((1500, 1500, 3), np.uint8), "BMP")
    with Pool(1) as pool, ThreadPoolExecutor(1) as thread:
        asked = killed_while_asked(pool, data, thread)
        assert asked.result(timeout=10).reason is Reason.DECODER_CRASHED


def test_a_worker_that_died_while_idle_costs_nobody_an_answer(jpeg: bytes) -> None:
    with Pool(1) as pool:
        (pid,) = pids(pool)
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert pool.hash_media(jpeg, Plan()).reason is None
        assert pids(pool) != [pid]


def test_a_worker_that_answers_nonsense_is_replaced(jpeg: bytes) -> None:
    with Pool(1) as pool:
        (one,) = pool._idle.queue
        assert one is not None
        ours, theirs = socket.socketpair()
        one._stream.close()
        one._socket.close()
        one._socket, one._stream = ours, ours.makefile("rb")
        theirs.sendall(b"\xff" * 200)
        assert pool.hash_media(jpeg, Plan()).reason is Reason.DECODER_CRASHED
        theirs.close()
        assert pool.hash_media(jpeg, Plan()).reason is None


# --- the pool ---------------------------------------------------------------------------


def test_both_workers_are_used_at_once(jpeg: bytes) -> None:
    with Pool(2) as pool, ThreadPoolExecutor(2) as threads:
        both = pids(pool)
        assert len(set(both)) == 2
        for pid in both:
            stopped(pid)
        asked = [threads.submit(pool.hash_media, jpeg, Plan()) for _ in range(2)]
        deadline = time.monotonic() + 10
        while not pool._idle.empty() and time.monotonic() < deadline:
            time.sleep(0.005)
        assert pool._idle.empty()
        for pid in both:
            os.kill(pid, signal.SIGCONT)
        assert all(same(one.result(timeout=20), hash_media(jpeg, Plan())) for one in asked)
        assert sorted(pids(pool)) == sorted(both)


def test_many_calls_share_few_workers(jpeg: bytes) -> None:
    media = [jpeg, corpus.jpeg(corpus.picture(5, 90, 60), 80), corpus.encode(corpus.picture(6, 60, 90), "PNG")] * 8
    with Pool(2) as pool, ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda data: pool.hash_media(data, Plan()), media))
    assert all(same(one, hash_media(data, Plan())) for one, data in zip(found, media, strict=True))


def test_a_worker_is_replaced_after_its_share(jpeg: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "ITEMS_A_WORKER", 2)
    with Pool(1) as pool:
        (first,) = pids(pool)
        pool.hash_media(jpeg, Plan())
        assert pids(pool) == [first]
        pool.hash_media(jpeg, Plan())
        assert not Path(f"/proc/{first}").exists()
        assert pool.hash_media(jpeg, Plan()).reason is None
        assert pids(pool) not in ([], [first])


def test_workers_see_the_environment_they_are_given(jpeg: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAYDOWN_DATABASE_URL", "postgresql://secret")
    with Pool(1, {"LANG": "C.UTF-8"}) as pool:
        assert pool.hash_media(jpeg, Plan()).reason is None
        (pid,) = pids(pool)
        seen = set(Path(f"/proc/{pid}/environ").read_text().split("\0")) - {""}
        assert seen == {"LANG=C.UTF-8", "OPENBLAS_NUM_THREADS=1", "OMP_NUM_THREADS=1"}
    with Pool(1) as pool:
        assert pool.hash_media(jpeg, Plan()).reason is None
        (pid,) = pids(pool)
        assert b"secret" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_a_worker_holds_no_files_of_this_process(jpeg: bytes, tmp_path: Path) -> None:
    with (tmp_path / "bank").open("wb") as bank, Pool(1) as pool:
        os.set_inheritable(bank.fileno(), True)
        pool.hash_media(jpeg, Plan())
        (pid,) = pids(pool)
        held = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    assert {name for name in held if not name.startswith("socket:")} == {os.devnull}


def test_a_worker_has_one_thread(pool: Pool, jpeg: bytes, short_clip: bytes) -> None:
    for data in (jpeg, short_clip, corpus.encode(corpus.picture(1, 64, 64), "AVIF")):
        pool.hash_media(data, Plan())
    (pid,) = pids(pool)
    assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1


def test_a_closed_pool_leaves_no_process(jpeg: bytes) -> None:
    pool = Pool(2)
    pool.hash_media(jpeg, Plan())
    running = pids(pool)
    assert all(Path(f"/proc/{pid}").exists() for pid in running)
    pool.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in running)


# --- the worker's own loop, in a thread of this process ---------------------------------


def test_the_worker_answers_until_the_other_side_closes(jpeg: bytes, photo: NDArray[np.uint8]) -> None:
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=worker.run, args=(theirs,))
    thread.start()
    with ours, ours.makefile("rb") as stream:
        for data in (jpeg, corpus.encode(photo, "PNG")):
            ours.sendall(wire.pack_request(Plan(), len(data)) + data)
            header = stream.read(wire.ANSWER.size)
            body = stream.read(wire.rows_announced(header, Limits()) * FRAME_DTYPE.itemsize)
            assert body == hash_pictures(data, Plan()).frames.tobytes()
        ours.sendall(wire.pack_request(Plan(), 5) + b"hello")
        with pytest.raises(UnsupportedMedia):
            wire.rows_announced(stream.read(wire.ANSWER.size), Limits())
        ours.shutdown(socket.SHUT_WR)
        thread.join(timeout=10)
    theirs.close()
    assert not thread.is_alive()


def test_half_a_request_ends_the_worker() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"sdq1")
        ours.shutdown(socket.SHUT_WR)
        with pytest.raises(struct.error):
            worker.run(theirs)
