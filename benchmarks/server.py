"""A real `staydown serve` beside this process: its own home, a free loopback port, the real commands.

Rules of this file: nothing but the standard library and the installed command; what is
started here is stopped here, by its process id.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HOST = "127.0.0.1"
START_S, STOP_S, REQUEST_S = 60.0, 40.0, 120.0
COMMAND = Path(sys.executable).with_name("staydown")


class ServerFailed(Exception):
    """The service or a command of it did not do what it should have."""


def environment(home: Path, **settings: str) -> dict[str, str]:
    """Return this process's environment with no settings of staydown but its home and these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STAYDOWN_")}
    given = {f"STAYDOWN_{name.upper()}": value for name, value in settings.items()}
    return kept | {"STAYDOWN_HOME": str(home)} | given


def staydown(home: Path, *arguments: str, **settings: str) -> list[dict[str, Any]]:
    """Run one command with `--json` and return the objects it printed; ServerFailed unless it exits 0."""
    done = subprocess.run(
        [str(COMMAND), *arguments, "--json"], env=environment(home, **settings), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise ServerFailed(f"staydown {arguments[0]} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


class Client:
    """One keep-alive connection with one key."""

    def __init__(self, port: int, key: str | None = None) -> None:
        self._connection = HTTPConnection(HOST, port, timeout=REQUEST_S)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def request(self, method: str, path: str, body: bytes | None = None,
                content_type: str = "application/octet-stream") -> tuple[int, dict[str, Any]]:  # fmt: skip
        """Return the status and the JSON body of an answer."""
        headers = self._headers | ({"Content-Type": content_type} if body is not None else {})
        try:
            self._connection.request(method, path, body, headers)
            answer = self._connection.getresponse()
        except ConnectionError:  # the service closes what was idle for seconds; RemoteDisconnected is one of these
            self._connection.close()
            self._connection.request(method, path, body, headers)
            answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())

    def check(self, media: bytes) -> tuple[int, dict[str, Any]]:
        """Ask for the verdict on media."""
        return self.request("POST", "/v1/check", media)

    def check_hashes(self, signals: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
        """Ask for the verdict on ready-made hashes."""
        return self.request("POST", "/v1/check/hashes", json.dumps({"signals": signals}).encode(), "application/json")

    def delete(self, path: str) -> None:
        """Delete what has no body to answer with."""
        self._connection.request("DELETE", path, headers=self._headers)
        answer = self._connection.getresponse()
        answer.read()
        if answer.status != 204:
            raise ServerFailed(f"DELETE was answered with {answer.status}")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self.close()


@dataclass(frozen=True, slots=True)
class Server:
    """A running service."""

    home: Path
    port: int
    pid: int

    def client(self, key: str | None = None) -> Client:
        """Open a connection to it."""
        return Client(self.port, key)


def family(pid: int) -> list[int]:
    """Return a process and all below it, as far as they still are."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [one for child in task.read_text().split() for one in family(int(child))]
        except OSError:  # ended just now
            continue
    return found


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _ready(port: int) -> bool:
    try:
        with Client(port) as client:
            return client.request("GET", "/health/ready")[0] == 200
    except (OSError, ValueError):
        return False


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not _ready(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServerFailed(f"staydown serve did not get ready: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, and end it if it does not in time."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def serving(home: Path, **settings: str) -> Iterator[Server]:
    """Run `staydown serve` while the block runs; ServerFailed if it does not get ready."""
    port = free_port()
    log = home / f"serve-{port}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(COMMAND), "serve", "--host", HOST, "--port", str(port)],
            env=environment(home, **settings), stdin=subprocess.DEVNULL, stdout=file, stderr=file,
        )  # fmt: skip
    try:
        _wait(process, port, log)
        yield Server(home, port, process.pid)
    finally:
        stop(process)
