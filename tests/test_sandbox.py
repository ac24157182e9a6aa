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
from hashing.errors import CorruptMedia, MediaTooLarge, Reason, UnhashableMedia, UnsupportedMedia
from hashing.evidence import EVIDENCE_DTYPE, PAIR_DTYPE, Pairs
from hashing.hasher import DEFAULT_TYPES, Plan, confirm_pairs, digests, hash_media, hash_pictures
from hashing.media import Limits, Sampling
from hashing.sandbox import Opened, Pool
from hashing.signals import Kind, Signal, SignalType, Sketches

QUICK = Plan(limits=Limits(timeout_s=0.5))
SKETCHED = Plan(types=DEFAULT_TYPES | {SignalType.KEYPOINTS})


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
    return (a.frames.tobytes(), a.sketches.tobytes(), a.media, a.exact, a.reason) == (
        b.frames.tobytes(), b.sketches.tobytes(), b.media, b.exact, b.reason
    )  # fmt: skip


# --- answers ----------------------------------------------------------------------------


@pytest.mark.parametrize("types", [DEFAULT_TYPES, SKETCHED.types])
@pytest.mark.parametrize("sampling", Sampling)
def test_answers_are_those_of_this_process(
    sampling: Sampling, types: frozenset[SignalType], pool: Pool, jpeg: bytes, short_clip: bytes
) -> None:
    plan = Plan(sampling, types)
    assert len(pool.hash_media(jpeg, plan).sketches) == (types != DEFAULT_TYPES) * (
        1 + (sampling is not Sampling.DENSE)
    )
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
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.005)
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


# --- media that a worker has before it --------------------------------------------------


@pytest.fixture(scope="module")
def references() -> Sketches:
    """Sketches as a bank has them, that of the `jpeg` second."""
    plan = Plan(Sampling.DENSE, SKETCHED.types)
    media = [corpus.jpeg(corpus.picture(seed, 200, 150), 90) for seed in range(4)]
    return np.concatenate([hash_media(data, plan).sketches for data in media])


def pairs_with(references: Sketches, *numbers: int) -> Pairs:
    """Return each of these sketches of the query with each reference."""
    pairs = np.zeros(len(numbers) * len(references), PAIR_DTYPE)
    pairs["query"] = np.repeat(np.array(numbers, np.int64), len(references))
    pairs["reference"] = np.concatenate([references] * len(numbers)) if numbers else references[:0]
    return pairs


def worker_of(opened: Opened) -> sandbox._Worker:
    assert opened._worker is not None
    return opened._worker


@pytest.mark.parametrize("kind", ["jpeg", "short_clip"])
def test_a_worker_confirms_as_this_process_does_bit_for_bit(
    kind: str, pool: Pool, references: Sketches, request: pytest.FixtureRequest
) -> None:
    data: bytes = request.getfixturevalue(kind)
    signal, planes = hash_pictures(data, SKETCHED)
    pairs = pairs_with(references, *range(len(signal.sketches)))
    with pool.open(data, SKETCHED) as opened:
        assert same(opened.signal, hash_media(data, SKETCHED))
        for chosen in (pairs, pairs[::-1], pairs[:1], pairs[:0]):  # as often as one likes
            evidence = opened.confirm(chosen)
            assert (evidence.dtype, len(evidence)) == (EVIDENCE_DTYPE, len(chosen))
            assert evidence.tobytes() == confirm_pairs(signal.sketches, planes, chosen).tobytes()
    if kind == "jpeg":
        agreeing = (confirm_pairs(signal.sketches, planes, pairs)["agreement"] > 50).sum(1)
        assert np.flatnonzero(agreeing > 30).tolist() == [1]


def test_as_many_pairs_as_the_wire_takes_are_confirmed(pool: Pool, jpeg: bytes, references: Sketches) -> None:
    pairs = np.resize(pairs_with(references, 0, 1), wire.MAX_PAIRS)
    with pool.open(jpeg, SKETCHED) as opened:
        evidence = opened.confirm(pairs)
    assert evidence.tobytes() == np.resize(evidence[:8], wire.MAX_PAIRS).tobytes()


def failure(opened: Opened, pairs: Pairs) -> Reason:
    with pytest.raises(UnhashableMedia) as caught:
        opened.confirm(pairs)
    return caught.value.reason


def test_a_worker_killed_before_it_confirms_is_a_reason(jpeg: bytes, references: Sketches) -> None:
    pairs = pairs_with(references, 0)
    with Pool(1) as pool:
        with pool.open(jpeg, SKETCHED) as opened:
            pid = worker_of(opened)._process.pid
            os.kill(pid, signal.SIGKILL)
            assert failure(opened, pairs) is Reason.DECODER_CRASHED
            assert failure(opened, pairs) is Reason.DECODER_CRASHED
            assert len(opened.confirm(pairs[:0])) == 0
        assert not Path(f"/proc/{pid}").exists()
        with pool.open(jpeg, SKETCHED) as opened:
            assert (opened.confirm(pairs)["agreement"][1] > 50).sum() > 30
        assert pids(pool) != [pid]


def test_a_worker_killed_while_it_confirms_is_a_reason(jpeg: bytes, references: Sketches) -> None:
    with Pool(1) as pool, ThreadPoolExecutor(1) as thread, pool.open(jpeg, SKETCHED) as opened:
        pid = worker_of(opened)._process.pid
        stopped(pid)
        asked = thread.submit(failure, opened, pairs_with(references, 0))
        time.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
        assert asked.result(timeout=10) is Reason.DECODER_CRASHED


def test_a_worker_that_does_not_confirm_has_its_time(jpeg: bytes, references: Sketches) -> None:
    pairs = pairs_with(references, 0)
    with Pool(1) as pool:
        pool.hash_media(jpeg, Plan())  # it takes time to start
        with pool.open(jpeg, Plan(types=SKETCHED.types, limits=Limits(timeout_s=2.0))) as opened:
            assert opened.signal.reason is None
            pid = worker_of(opened)._process.pid
            stopped(pid)
            began = time.monotonic()
            assert failure(opened, pairs) is Reason.DECODER_TIMED_OUT
            assert 1.9 < time.monotonic() - began < 8
            os.kill(pid, signal.SIGCONT)  # its late answer is nobody's
            assert failure(opened, pairs) is Reason.DECODER_CRASHED
        assert not Path(f"/proc/{pid}").exists()
        assert pool.hash_media(jpeg, Plan()).reason is None


def test_a_worker_that_failed_to_hash_is_not_asked_to_confirm(jpeg: bytes, references: Sketches) -> None:
    with Pool(1) as pool:
        (pid,) = pids(pool)
        stopped(pid)
        with pool.open(jpeg, Plan(types=SKETCHED.types, limits=Limits(timeout_s=0.3))) as opened:
            assert (opened.signal.reason, len(opened.signal.sketches)) == (Reason.DECODER_TIMED_OUT, 0)
            os.kill(pid, signal.SIGCONT)
            assert failure(opened, pairs_with(references, 0)) is Reason.DECODER_CRASHED
        assert not Path(f"/proc/{pid}").exists()


def answering(opened: Opened) -> socket.socket:
    """Take the worker's place: return the other end of a new socket, which is waited for 0.3 seconds."""
    one = worker_of(opened)
    ours, theirs = socket.socketpair()
    ours.settimeout(0.3)
    one._stream.close()
    one._socket.close()
    one._socket, one._stream = ours, ours.makefile("rb")
    return theirs


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (np.full(EVIDENCE_DTYPE.itemsize, np.nan, "<f4").tobytes(), Reason.DECODER_CRASHED),
        (b"\xff" * 4 * EVIDENCE_DTYPE.itemsize, Reason.DECODER_CRASHED),
        (b"\0" * (4 * EVIDENCE_DTYPE.itemsize - 1), Reason.DECODER_TIMED_OUT),
        (b"", Reason.DECODER_TIMED_OUT),
    ],
)
def test_evidence_that_is_none_is_a_reason(body: bytes, reason: Reason, jpeg: bytes, references: Sketches) -> None:
    with Pool(1) as pool:
        with pool.open(jpeg, SKETCHED) as opened, answering(opened) as theirs:
            theirs.sendall(body)
            assert failure(opened, pairs_with(references, 0)) is reason
        assert pool.hash_media(jpeg, Plan()).reason is None


def test_evidence_that_stops_short_is_a_crash(jpeg: bytes, references: Sketches) -> None:
    with Pool(1) as pool, pool.open(jpeg, SKETCHED) as opened, answering(opened) as theirs:
        theirs.sendall(b"\0" * 30)
        theirs.shutdown(socket.SHUT_WR)
        assert failure(opened, pairs_with(references, 0)) is Reason.DECODER_CRASHED


@pytest.mark.parametrize("numbers", [(2,), (2**32 - 1,), (0,) * 65], ids=["beyond", "far_beyond", "too_many"])
def test_pairs_that_cannot_be_confirmed_end_a_worker_and_nothing_else(
    numbers: tuple[int, ...], jpeg: bytes, references: Sketches
) -> None:
    """Of two sketches the numbers are 0 and 1; 65 × 4 pairs are more than the wire takes."""
    with Pool(1) as pool:
        with pool.open(jpeg, SKETCHED) as opened:
            assert len(opened.signal.sketches) == 2
            assert failure(opened, pairs_with(references, *numbers)) is Reason.DECODER_CRASHED
        with pool.open(jpeg, SKETCHED) as opened:
            assert (opened.confirm(pairs_with(references, 0))["agreement"][1] > 50).sum() > 30


def test_nothing_of_former_media_is_left_on_the_desk(jpeg: bytes, references: Sketches) -> None:
    with Pool(1) as pool:
        before = pids(pool)
        with pool.open(jpeg, SKETCHED) as opened:
            assert (opened.confirm(pairs_with(references, 0))["agreement"][1] > 50).sum() > 30
        assert pids(pool) == before
        with pool.open(jpeg, Plan()) as opened:
            assert worker_of(opened)._process.pid == before[0]
            assert failure(opened, pairs_with(references, 0)) is Reason.DECODER_CRASHED


def test_a_desk_is_cleared_before_anything_is_decoded(jpeg: bytes, references: Sketches) -> None:
    body = pairs_with(references, 0).tobytes()
    for plan, data in ((SKETCHED, jpeg[:30]), (SKETCHED, b"hello"), (Plan(), jpeg),
                       (Plan(Sampling.DENSE, SKETCHED.types), jpeg)):  # fmt: skip
        desk = worker.Desk()
        desk.hash(wire.pack_request(SKETCHED, len(jpeg)), jpeg)
        assert len(desk.confirm(body)) == 4 * EVIDENCE_DTYPE.itemsize
        desk.hash(wire.pack_request(plan, len(data)), data)
        assert desk._planes == ()
        with pytest.raises(IndexError):
            desk.confirm(body)


def test_a_worker_is_held_while_the_block_runs_and_then_returned(jpeg: bytes) -> None:
    with Pool(1) as pool, ThreadPoolExecutor(1) as thread:
        before = pids(pool)
        with pool.open(jpeg, SKETCHED) as opened:
            assert pool._idle.empty()
            assert opened._worker in pool._busy
            asked = thread.submit(pool.hash_media, jpeg, Plan())
            time.sleep(0.3)
            assert not asked.done()
        assert asked.result(timeout=10).reason is None
        assert pids(pool) == before
        assert not pool._busy


def test_a_block_that_raises_returns_its_worker(jpeg: bytes) -> None:
    with Pool(1) as pool:
        before = pids(pool)
        with pytest.raises(ZeroDivisionError), pool.open(jpeg, SKETCHED):
            raise ZeroDivisionError
        with pytest.raises(CorruptMedia), pool.open(jpeg[:30], SKETCHED):
            raise AssertionError("there is nothing to hold")
        with pytest.raises(MediaTooLarge), pool.open(jpeg, Plan(limits=Limits(max_body_bytes=1))):
            raise AssertionError("there is nothing to hold")
        assert pids(pool) == before


def test_after_the_block_the_worker_is_no_longer_ours(pool: Pool, jpeg: bytes, references: Sketches) -> None:
    before = pids(pool)
    with pool.open(jpeg, SKETCHED) as opened:
        pass
    assert failure(opened, pairs_with(references, 0)) is Reason.DECODER_CRASHED
    assert pids(pool) == before
    assert pool.hash_media(jpeg, Plan()).reason is None


def test_a_closed_pool_opens_nothing_and_confirms_nothing(jpeg: bytes, references: Sketches) -> None:
    pool = Pool(1)
    pool.close()
    with pool.open(jpeg, SKETCHED) as opened:
        assert opened.signal.reason is Reason.DECODER_CRASHED
        assert opened.signal.exact == digests(jpeg)
        assert failure(opened, pairs_with(references, 0)) is Reason.DECODER_CRASHED
        assert len(opened.confirm(pairs_with(references))) == 0


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


def zygote(pool: Pool) -> int:
    return pool._nursery._zygote.pid


def test_a_zygote_that_ended_is_started_anew(jpeg: bytes) -> None:
    with Pool(1) as pool:
        (worker_pid,), first = pids(pool), zygote(pool)
        os.kill(first, signal.SIGKILL)
        assert pool.hash_media(jpeg, Plan()).reason is None
        assert pids(pool) == [worker_pid], "who lives is not touched"
        os.kill(worker_pid, signal.SIGKILL)
        while Path(f"/proc/{worker_pid}").exists():
            time.sleep(0.005)
        assert pool.hash_media(jpeg, Plan()).reason is None
        assert zygote(pool) != first
        second = zygote(pool)
    assert not Path(f"/proc/{second}").exists()


def test_a_zygote_that_cannot_be_had_is_a_reason(jpeg: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with Pool(1) as pool:
        (pid,) = pids(pool)
        monkeypatch.setattr("sys.executable", "/bin/false")
        os.kill(zygote(pool), signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.005)
        assert pool.hash_media(jpeg, Plan()).reason is Reason.DECODER_CRASHED
        monkeypatch.undo()
        assert pool.hash_media(jpeg, Plan()).reason is None
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(UnhashableMedia):
        Pool(1)


def test_a_zygote_has_one_thread_and_no_socket_but_its_own(jpeg: bytes, short_clip: bytes) -> None:
    with Pool(3) as pool:
        for data in (jpeg, short_clip):
            pool.hash_media(data, Plan())
        pid = zygote(pool)
        held = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
        assert sum(name.startswith("socket:") for name in held) == 1
        assert {name for name in held if not name.startswith("socket:")} == {os.devnull}
        assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert sorted(map(int, children)) == sorted(pids(pool))
        for one in pids(pool):
            fds = [str(entry.readlink()) for entry in Path(f"/proc/{one}/fd").iterdir()]
            assert sum(name.startswith("socket:") for name in fds) == 1


def test_a_worker_ends_with_its_socket_and_the_zygote_with_the_pool(jpeg: bytes) -> None:
    """As when the service is killed: nothing is left behind."""
    pool = Pool(1)
    (one,), pid = list(pool._idle.queue), zygote(pool)
    assert one is not None
    one._stream.close()
    one._socket.close()
    pool._nursery._socket.close()
    deadline = time.monotonic() + 10
    while one._process.alive and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not one._process.alive
    pool._nursery._zygote.wait(10)
    assert not Path(f"/proc/{pid}").exists()


def test_a_lost_worker_is_replaced_within_moments(jpeg: bytes) -> None:
    """A fresh interpreter would take half a second, of the processor too."""
    with Pool(1) as pool:
        took = []
        for _ in range(5):
            pool.hash_media(jpeg, Plan())
            (pid,) = pids(pool)
            os.kill(pid, signal.SIGKILL)
            while Path(f"/proc/{pid}").exists():
                time.sleep(0.005)
            began = time.monotonic()
            assert pool.hash_media(jpeg, Plan()).reason is None
            took.append(time.monotonic() - began)
    assert min(took) < 0.3


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


def test_the_worker_answers_until_the_other_side_closes(
    jpeg: bytes, photo: NDArray[np.uint8], references: Sketches
) -> None:
    pairs = pairs_with(references, 1, 0)
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=worker.run, args=(theirs,))
    thread.start()
    with ours, ours.makefile("rb") as stream:
        for data in (jpeg, corpus.encode(photo, "PNG")):
            ours.sendall(wire.pack_request(SKETCHED, len(data)) + data)
            header = stream.read(wire.ANSWER.size)
            body = stream.read(wire.bytes_announced(header, Limits()))
            expected, planes = hash_pictures(data, SKETCHED)
            assert body == expected.frames.tobytes() + expected.sketches.tobytes()
            ours.sendall(wire.pack_pairs(pairs))
            evidence = stream.read(len(pairs) * EVIDENCE_DTYPE.itemsize)
            assert evidence == confirm_pairs(expected.sketches, planes, pairs).tobytes()
        ours.sendall(wire.pack_request(Plan(), 5) + b"hello")
        with pytest.raises(UnsupportedMedia):
            wire.bytes_announced(stream.read(wire.ANSWER.size), Limits())
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


@pytest.mark.parametrize("count", [0, wire.MAX_PAIRS + 1])
def test_no_pairs_and_too_many_end_the_worker(count: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(wire.CONFIRM.pack(b"sdc1", count))
        ours.shutdown(socket.SHUT_WR)
        with pytest.raises(ValueError, match="not a request"):
            worker.run(theirs)
