"""What a process can still do once it is locked in; what counts is what it can do outside of the cage."""

import ctypes
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import corpus
from hashing import cage
from hashing.cage import LAYERS, Sandbox
from hashing.hasher import DEFAULT_TYPES, Plan, hash_media
from hashing.sandbox import Pool
from hashing.signals import SignalType

caged = pytest.mark.skipif(not cage.landlock_abi(), reason="this kernel has no Landlock")

ATTEMPTS = """
import ctypes, fcntl, json, mmap, os, resource, shutil, signal, socket, subprocess, sys, tempfile, threading
sys.path.insert(0, sys.argv[1])
from hashing.cage import Sandbox, lock
folder, target = sys.argv[2], sys.argv[3]
libc = ctypes.CDLL(None, use_errno=True)
os.chdir(folder)
beside = os.path.join(folder, "beside")
page = mmap.mmap(-1, 4096)
holder = ctypes.c_char.from_buffer(page)

def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")

def forked():
    if os.fork() == 0:
        os._exit(0)

def peek():
    class Vector(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))
    buffer = ctypes.create_string_buffer(8)
    ours, theirs = Vector(ctypes.addressof(buffer), 8), Vector(int(target.split(":")[1], 16), 8)
    if libc.process_vm_readv(int(target.split(":")[0]), ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0) != 8:
        raise OSError(ctypes.get_errno(), "refused")

def executable():
    libc.mmap.restype = ctypes.c_void_p
    if libc.mmap(None, 4096, 7, 0x22, -1, 0) in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "refused")

def made_executable():
    if libc.mprotect(ctypes.c_void_p(ctypes.addressof(holder)), 4096, 7):
        raise OSError(ctypes.get_errno(), "refused")

def waits(address):
    with socket.socket() as one:
        one.bind(address)
        one.listen()

actions = {
    "read a file": lambda: os.open(beside, os.O_RDONLY),
    "write a file": lambda: os.open(beside, os.O_WRONLY),
    "make a file": lambda: os.open("made", os.O_CREAT | os.O_WRONLY),
    "write to shared memory": lambda: os.open("/dev/shm/staydown-test-%d" % os.getpid(), os.O_CREAT | os.O_RDWR),
    "make a folder": lambda: os.mkdir("folder"),
    "delete a file": lambda: os.unlink("gone"),
    "rename a file": lambda: os.rename("old", "new"),
    "link to a file": lambda: os.symlink("/etc/passwd", "link"),
    "list a folder": lambda: os.listdir("/"),
    "look at a file": lambda: os.stat(beside),
    "change a file's mode": lambda: os.chmod(beside, 0o600),
    "read another's memory": peek,
    "send a signal": lambda: os.kill(os.getppid(), 0),
    "open a TCP socket": lambda: socket.socket().fileno(),
    "open a UDP socket": lambda: socket.socket(type=socket.SOCK_DGRAM).fileno(),
    "open a Unix socket": lambda: socket.socket(socket.AF_UNIX).fileno(),
    "listen": lambda: waits(("127.0.0.1", 0)),
    "fork": forked,
    "run a program": lambda: subprocess.run(["/bin/true"], check=True),
    "hide a file in memory": lambda: os.memfd_create("hidden"),
    "make a pipe": os.pipe,
    "get executable memory": executable,
    "make memory executable": made_executable,
    "watch a process": lambda: os.pidfd_open(os.getppid()),
    "have a namespace of its own": lambda: call({"x86_64": 272, "aarch64": 97}[os.uname().machine], 0x10000000),
    "raise a limit": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    "change its folder": lambda: os.chdir("/"),
}
held = sorted(lock(Sandbox(sys.argv[4])))
done = {}
for name, action in actions.items():
    try:
        action()
        done[name] = True
    except (OSError, ValueError, subprocess.SubprocessError):
        done[name] = False
os.write(1, json.dumps({"held": held, "done": done}).encode())
"""


def attempted(folder: Path, sandbox: Sandbox) -> tuple[list[str], dict[str, bool]]:
    """Let a process try everything, in a folder of its own."""
    folder.mkdir()
    for name in ("beside", "gone", "old"):
        (folder / name).write_text(name)
    peeked = bytearray(b"a secret")
    address = (ctypes.c_char * len(peeked)).from_buffer(peeked)
    target = f"{os.getpid()}:{ctypes.addressof(address):x}"
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPTS, root, str(folder), target, sandbox],
        capture_output=True, text=True, check=False, timeout=60, env={"OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for left in Path("/dev/shm").glob("staydown-test-*"):
        left.unlink()
    return told["held"], told["done"]


@caged
def test_what_is_possible_outside_is_refused_inside(tmp_path: Path) -> None:
    nothing, free = attempted(tmp_path / "free", Sandbox.OFF)
    held, inside = attempted(tmp_path / "caged", Sandbox.REQUIRED)
    assert nothing == []
    assert held == sorted(LAYERS)
    possible = [name for name, worked in free.items() if worked]
    assert len(possible) >= 23, free
    assert [name for name in possible if inside[name]] == []


@caged
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "HEIF", "TIFF", "BMP", "clip"])
def test_every_format_is_read_inside(format_: str, short_clip: bytes) -> None:
    data = short_clip if format_ == "clip" else corpus.encode(corpus.picture(4, 300, 200), format_)
    plan = Plan(types=DEFAULT_TYPES | {SignalType.KEYPOINTS})
    with Pool(1, sandbox=Sandbox.REQUIRED) as pool:  # a fresh one: nothing is warm from another format
        assert pool.layers == frozenset(LAYERS)
        found, wanted = pool.hash_media(data, plan), hash_media(data, plan)
    assert found.frames.tobytes() == wanted.frames.tobytes()
    assert (found.reason, len(found.sketches)) == (None, len(wanted.sketches))


def test_the_filter_is_made_for_each_architecture_and_no_other() -> None:
    for machine in ("x86_64", "aarch64"):
        assert len(cage.program(machine)) % 8 == 0
    with pytest.raises(KeyError):
        cage.program("riscv64")


def memory(pid: int) -> bytes:
    """Return all that a process has in its memory."""
    found = bytearray()
    with Path(f"/proc/{pid}/mem").open("rb") as file:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if re.match(r"\S+ r", line) and "[v" not in line and end - start < 1 << 30:
                file.seek(start)
                found += file.read(end - start)
    return bytes(found)


@caged
@pytest.mark.skipif(platform.system() != "Linux" or os.getuid() != 0, reason="reads another process's memory: root")
def test_neither_worker_nor_zygote_holds_what_this_process_holds() -> None:
    canary = os.urandom(8).hex().encode() * 4
    os.environ["STAYDOWN_CANARY"] = canary.decode()
    try:
        with Pool(1, {}, Sandbox.REQUIRED) as pool:
            (worker,) = pool._idle.queue
            assert worker is not None
            assert canary not in memory(worker._process.pid)
            assert canary not in memory(pool._nursery._zygote.pid)
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
        try:
            assert canary in memory(child)
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
    finally:
        del os.environ["STAYDOWN_CANARY"]
