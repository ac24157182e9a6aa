"""Replicas behind a real load balancer are restarted one after the other, and no request fails."""

import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest
from lacking import lacking
from postgres import Postgres
from serving import Api, Server, make_key, wait_until

ROOT = Path(__file__).parents[1]
DRAIN_S = 2.0
BODY = {"signals": [{"signal_type": "pdq", "hash": "0f" * 32}]}


def balancer_program() -> str:
    found = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if found is None:
        lacking("no load balancer: apt-get install haproxy")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def balancer(folder: Path, ports: dict[str, int]) -> Iterator[int]:
    """Run HAProxy with the configuration that we ship, its addresses replaced, and without its second tries."""
    program, port = balancer_program(), free_port()
    text = (ROOT / "deploy" / "haproxy" / "haproxy.cfg").read_text()
    text = text.replace("bind :8080", f"bind 127.0.0.1:{port}").replace(
        " resolvers docker init-addr last,libc,none", ""
    )
    text = re.sub(r"resolvers docker\n(    .*\n)+", "", text)
    for name, own in ports.items():
        text = text.replace(f"staydown-{name}:8000", f"127.0.0.1:{own}")
    text = text.replace("    retries 3\n    option redispatch\n", "    retries 0\n")
    assert "redispatch" not in text
    assert "staydown-" not in text and "docker" not in text
    (folder / "haproxy.cfg").write_text(text)
    process = subprocess.Popen([program, "-q", "-f", str(folder / "haproxy.cfg")])
    try:
        wait_until(lambda: Api(port).get("/health/ready").status == 200)
        yield port
    finally:
        process.terminate()
        process.wait(10)


class Asking:
    """Threads that check all the time, each over a connection that is kept."""

    def __init__(self, port: int, key: str, threads: int = 4, pace_s: float = 0.13) -> None:
        self.statuses: list[int | str] = []
        self._ended = threading.Event()
        self._asked = (port, key, pace_s)
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]

    def _ask(self) -> None:
        port, key, pace_s = self._asked
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        body = b'{"signals": [{"signal_type": "pdq", "hash": "' + b"0f" * 32 + b'"}]}'
        while not self._ended.wait(pace_s):
            try:
                connection.request("POST", "/v1/check/hashes", body, headers)
                answer = connection.getresponse()
                answer.read()
                self.statuses.append(answer.status)
            except (OSError, HTTPException) as error:
                self.statuses.append(repr(error))
                connection.close()
        connection.close()

    def __enter__(self) -> "Asking":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.slow
def test_a_rolling_restart_fails_no_request(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.new_database()
    settings = {"database_url": url, "shutdown_drain_s": str(DRAIN_S)}
    ports = {name: free_port() for name in "ab"}
    key = make_key(tmp_path / "a", "admin", **settings)
    replicas = {name: Server(tmp_path / name, port=ports[name], **settings) for name in "ab"}
    try:
        with balancer(tmp_path, ports) as port, Asking(port, key) as asking:
            for name in "ab":
                before = len(asking.statuses)
                assert replicas[name].stop(timeout_s=60) == 0
                replicas[name] = Server(tmp_path / name, port=ports[name], **settings)
                time.sleep(2.0)  # until the balancer has seen it
                assert len(asking.statuses) > before + 50
        assert set(asking.statuses) == {200}
        assert all(replica.api(key).get("/health/ready").status == 200 for replica in replicas.values())
    finally:
        for replica in replicas.values():
            replica.kill()


def test_a_process_that_is_to_end_says_so_and_goes_on_answering(tmp_path: Path) -> None:
    key = make_key(tmp_path / "home", "admin")
    with Server(tmp_path / "home", shutdown_drain_s="3") as server:
        api = server.api(key)
        assert "connection" not in api.post("/v1/check/hashes", BODY).headers
        server.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        wait_until(lambda: api.get("/health/ready").status == 503, timeout_s=1)
        assert api.get("/health/ready").json["status"] == "stopping"
        answer = api.post("/v1/check/hashes", BODY)
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert api.get("/health/live").status == 200
        assert server.process.wait(20) == 0
        assert time.monotonic() - began >= 3.0


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with Server(tmp_path / "home", shutdown_drain_s="300") as server:
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.api(None).get("/health/ready").status == 503)
        assert server.stop() == 0


def test_without_a_drain_it_ends_at_once(tmp_path: Path) -> None:
    with Server(tmp_path / "home") as server:
        assert server.stop(timeout_s=10) == 0
