"""A Milvus server of our own, for tests and measurements: the package `milvus`, which is the server itself.

It listens on every address whatever its configuration says, and its etcd on one port. So it
runs in a network of its own, with nothing in it but a loopback, and hands on what comes to a
port of ours on this one. It survives SIGTERM, and is killed. Its data lie in a folder that
is given, and are found again by the next start.
"""

import ctypes
import fcntl
import importlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PORT, _HEALTH_PORT = 19530, 9091  # inside
_START_S, _PIECE_BYTES = 60.0, 1 << 18
_PR_SET_PDEATHSIG = 1
_SIOCSIFFLAGS, _IFF_UP_RUNNING = 0x8914, 0x41


def missing() -> str | None:
    """Return why it cannot run here, or None."""
    if find_spec("milvus") is None:
        return "no Milvus server: the package `milvus` is for x86-64 Linux"
    if shutil.which("unshare") is None or subprocess.run([*_alone(), "true"], check=False).returncode:
        return "no Milvus server: no network namespace can be made here"
    return None


def _alone() -> list[str]:
    """Return the command that runs another in a network of its own."""
    return ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]


def _die_with_us() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class MilvusServer:
    """One server, and the address at which it is reached as long as this object lives."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address, as the setting has it."""
        return f"milvus://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def pid(self) -> int:
        """The process that hands on; the server is below it."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it is healthy."""
        handle = self._listener.fileno()
        command = [*_alone(), sys.executable, "-m", "benchmarks.milvus_server", str(handle), str(self._folder)]
        self._process = subprocess.Popen(
            command, pass_fds=(handle,), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            preexec_fn=_die_with_us,  # noqa: PLW1509
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n", "Milvus did not start; its log is in its folder"

    def kill(self) -> None:
        """End it as a crash does. What is asked of it now waits for an answer."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def pause(self) -> None:
        """Hand on nothing, until `resume`: a server that hangs."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, and give its address back."""
        self.kill()
        self._listener.close()


@contextmanager
def running(folder: Path) -> Iterator[MilvusServer]:
    """Run a server for a while."""
    server = MilvusServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.close()


# In the network of its own


def _loopback_up() -> None:
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP_RUNNING))


def _installed(folder: Path) -> Path:
    """Unpack the server and write its configuration; return the program."""
    package: Any = importlib.import_module("milvus")
    config = package.MilvusServerConfig()
    config.update(data_dir=str(folder))
    config.resolve()
    config.set("log.level", "warn")
    config.write_config()
    package._initialize_data_files(str(folder))
    return folder / "bin" / "milvus"


def _run(folder: Path) -> "subprocess.Popen[bytes]":
    program = _installed(folder)
    here = {"DEPLOY_MODE": "STANDALONE", "METRICS_PORT": str(_HEALTH_PORT), "MILVUS_RUN_DIR": str(folder / "run"),
            "LD_LIBRARY_PATH": str(program.parent)}  # fmt: skip
    with (folder / "log").open("ab") as log:
        return subprocess.Popen([program, "run", "standalone"], env=os.environ | here, cwd=folder, stdout=log,
                                stderr=log, preexec_fn=_die_with_us)  # fmt: skip  # noqa: PLW1509


def _healthy() -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{_HEALTH_PORT}/healthz", timeout=5) as answer:
        return b"OK" in answer.read()
    return False


def _hand_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(_PIECE_BYTES):
            target.sendall(piece)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _serve(handle: int, folder: Path) -> None:
    """Run the server in this network, and hand connections of the other on to it."""
    _loopback_up()
    server, deadline = _run(folder), time.monotonic() + _START_S
    while not _healthy():
        if server.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("Milvus did not become healthy")
        time.sleep(0.05)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    listener = socket.socket(fileno=handle)
    while True:
        ours, _ = listener.accept()
        theirs = socket.create_connection(("127.0.0.1", PORT))
        for end in (ours, theirs):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for pair in ((ours, theirs), (theirs, ours)):
            threading.Thread(target=_hand_on, args=pair, daemon=True).start()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), Path(sys.argv[2]))
