"""Ways to run staydown for a test: the app in this process, the real server, the real command.

All of them speak HTTP over a real socket, by the standard library's client.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self

import pytest
import uvicorn
from postgres import Postgres

from benchmarks import corpus
from benchmarks.server import family
from service.app import create_app
from service.auth import Role
from service.logs import configure
from service.settings import Settings

COMMAND = Path(sys.executable).with_name("staydown")
WAIT_S = 60.0


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def is_problem(self, status: int, code: str) -> bool:
        """Hold an error to the contract; an AssertionError says what is wrong."""
        assert self.status == status, self.body
        assert self.headers["content-type"] == "application/problem+json"
        said = self.json
        assert said["code"] == code, said
        assert said["status"] == status
        assert said["type"] == f"urn:staydown:error:{code}"
        assert said["request_id"] == self.headers["x-request-id"]
        assert said["title"] and said["detail"]
        return True


def form(parts: Iterable[tuple[str, bytes | str, str | None]], boundary: str = "bound") -> tuple[bytes, str]:
    """Return a multipart body of (name, value, file name or None), and its content type."""
    body = b""
    for name, value, file_name in parts:
        named = f'; filename="{file_name}"' if file_name is not None else ""
        kind = "Content-Type: video/mp4\r\n" if file_name is not None else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n{kind}\r\n'
        body += head.encode() + (value.encode() if isinstance(value, str) else value) + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


@dataclass(frozen=True)
class Api:
    """One server and one key."""

    port: int
    key: str | None = None

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None,
             timeout_s: float = WAIT_S) -> Answer:  # fmt: skip
        """Send one request; a body that is no bytes (or iterable of bytes) goes as JSON."""
        sent = {"Authorization": f"Bearer {self.key}"} if self.key is not None else {}
        if isinstance(body, dict | list):
            body, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        connection = HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(method, path, body, sent | (headers or {}))
            got = connection.getresponse()
            return Answer(got.status, {name.lower(): value for name, value in got.getheaders()}, got.read())
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        return self.call("GET", path)

    def post(self, path: str, body: Any = None, kind: str = "application/octet-stream", **headers: str) -> Answer:
        """Post JSON (a dict), or bytes as the content type `kind`."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.call("POST", path, body, given if isinstance(body, dict) else {"Content-Type": kind} | given)

    def post_form(self, path: str, *parts: tuple[str, bytes | str, str | None]) -> Answer:
        body, kind = form(parts)
        return self.post(path, body, kind)

    def send_raw(self, data: bytes, timeout_s: float = WAIT_S) -> bytes:
        """Send bytes as they are and return all that comes back until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as connection:
            connection.sendall(data)
            answered = b""
            while piece := connection.recv(65536):
                answered += piece
            return answered

    def bank(self) -> str:
        """Make a bank with a name of its own."""
        name = f"b{secrets.token_hex(6)}"
        assert self.call("PUT", f"/v1/banks/{name}").status == 201
        return name

    def with_key(self, key: str | None) -> "Api":
        return Api(self.port, key)


@dataclass
class Local:
    """The app in this process, on a real socket, with a key of every role."""

    home: Path
    settings: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Self:
        configure("error")
        given = {"home": self.home, "workers": 1} | self.settings
        self.app = create_app(Settings(**given))
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(self.app, log_config=None, access_log=False, timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]})
        self._thread.start()
        api = Api(self.port)
        wait_until(lambda: self._server.started and api.get("/health/ready").status == 200)
        for role in Role if not self.keys else ():  # given, where the store cannot be written
            self.keys[role.value] = self.engine.keys.create(role.value, actor="test")[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    @property
    def engine(self) -> Any:
        return self.app.state.engine

    def api(self, role: str | None = "admin") -> Api:
        return Api(self.port, self.keys[role] if role else None)


def wait_until(true: Any, timeout_s: float = WAIT_S, what: str = "") -> None:
    """Wait for a condition; a refused connection counts as not yet."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if true():
                return
        except OSError:
            pass
        time.sleep(0.02)
    raise AssertionError(what or "it did not come true in time")


def environment(home: Path, **settings: str) -> dict[str, str]:
    """Return this process's environment with these settings of staydown and no others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STAYDOWN_")}
    given = {f"STAYDOWN_{name.upper()}": value for name, value in settings.items()}
    return kept | {"STAYDOWN_HOME": str(home), "COLUMNS": "200"} | given


def staydown(home: Path, *arguments: str | Path, stdin: bytes = b"", timeout_s: float = 120,
             **settings: str) -> subprocess.CompletedProcess[bytes]:  # fmt: skip
    """Run the real command to its end."""
    return subprocess.run([COMMAND, *arguments], env=environment(home, **settings), input=stdin,
                          capture_output=True, timeout=timeout_s, check=False)  # fmt: skip


class Server:
    """The real `staydown serve` on a free loopback port."""

    def __init__(self, home: Path, *, port: int = 0, wrapper: Iterable[str] = (), tmp: Path | None = None,
                 **settings: str) -> None:  # fmt: skip
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self._log = home.parent / f"{home.name}.{secrets.token_hex(4)}.log"
        given = environment(home, **({"workers": "1"} | settings))
        if tmp is not None:
            given["TMPDIR"] = str(tmp)
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*wrapper, str(COMMAND), "serve", "--port", str(port)], env=given, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        wait_until(lambda: self._port() and Api(self._port()).get("/health/ready").status == 200, what=self.log())
        self.port = self._port()

    def _port(self) -> int:
        if self.process.poll() is not None:
            raise AssertionError(f"it ended with {self.process.returncode}: {self.log()}")
        _, found, rest = self.log().partition("listening on http://127.0.0.1:")
        return int(rest.split()[0]) if found and "\n" in rest else 0

    def log(self) -> str:
        """Return all that it said on stdout and stderr."""
        return self._log.read_text()

    def first_key(self) -> str:
        return next(line.strip() for line in self.log().splitlines() if line.strip().startswith("sd_"))

    def api(self, key: str | None) -> Api:
        return Api(self.port, key)

    def pids(self) -> list[int]:
        """Return the process and all below it."""
        return family(self.process.pid)

    def stop(self, timeout_s: float = 20) -> int:
        """Ask it to end, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """End it as a power cut would, with all below it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def descendants(pid: int) -> list[int]:
    """Return the processes below one."""
    return family(pid)[1:]


def make_key(home: Path, role: str, **settings: str) -> str:
    """Make a key with the real command."""
    done = staydown(home, "key", "create", "--role", role, "--json", **settings)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["key"])


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def local(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """The app in this process, shared by tests that make banks of their own; on each kind of database in turn."""
    settings = {}
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        settings["database_url"] = server.new_database()
    with Local(tmp_path_factory.mktemp("local"), settings) as running:
        yield running


@pytest.fixture(scope="session")
def admin(local: Local) -> Api:
    return local.api("admin")


@pytest.fixture(scope="session")
def photo_jpeg() -> bytes:
    return corpus.jpeg(corpus.picture(503, 320, 240), 90)


@pytest.fixture(scope="session")
def copy_jpeg() -> bytes:
    """An edited copy of `photo_jpeg`."""
    return corpus.jpeg(corpus.EDITS["half_size"](corpus.picture(503, 320, 240)), 60)


@pytest.fixture(scope="session")
def other_jpeg() -> bytes:
    return corpus.jpeg(corpus.picture(502, 320, 240), 90)
