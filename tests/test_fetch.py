"""Links: which are refused before any connection, and what a hostile server cannot do."""

import contextlib
import gzip
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import Local, wait_until

from hashing.errors import MediaTooLarge, StaydownError
from service.engine import Engine
from service.errors import LinkFailed, LinkRefused
from service.fetch import Fetcher
from service.fetch_wire import ANSWER, Outcome, Rules, error_of, unpack_answer
from service.fetch_worker import Ended, fetched
from service.settings import Settings, worker_environment

INTERNAL = (ip_network("127.0.0.1/32"),)


class Web(ThreadingHTTPServer):
    """A server on loopback that counts who connects."""

    daemon_threads = True
    connections = 0

    def get_request(self) -> tuple[socket.socket, Any]:
        self.connections += 1
        return super().get_request()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Pages(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    media: ClassVar[bytes] = b""
    seen: ClassVar[list[dict[str, str]]] = []

    def log_message(self, *_: Any) -> None:
        pass

    def _send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        Pages.seen.append(dict(self.headers) | {"path": self.path})
        name, _, rest = self.path.lstrip("/").partition("/")
        actions: dict[str, Callable[[], None]] = {
            "media": lambda: self._send(self.media),
            "to": lambda: self._send(b"", 302, Location=rest),
            "loop": lambda: self._send(b"", 301, Location="/loop"),
            "hops": self._hop,
            "nowhere": lambda: self._send(b"", 302),
            "gzip": lambda: self._send(gzip.compress(self.media), Content_Encoding="gzip"),
            "drip": self._drip,
            "stall": lambda: time.sleep(8),
            "headers": self._headers_drip,
            "endless": self._endless,
            "large": lambda: self._send(b"x" * 300_000),
            "short": lambda: self._send(b"x", Content_Length="1000"),
            "empty": lambda: self._send(b""),
        }
        actions.get(name, lambda: self._send(b"no", int(name)))()

    def _hop(self) -> None:
        left = int(self.path.rsplit("/", 1)[1])
        self._send(b"", 302, Location=f"/hops/{left - 1}" if left else "/media")

    def _drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        for _ in range(80):
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.1)

    def _headers_drip(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(80):
            self.wfile.write(f"X-{number}: y\r\n".encode())
            self.wfile.flush()
            time.sleep(0.1)

    def _endless(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while True:
            self.wfile.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")


class _Quiet(Web):
    def handle_error(self, *_: Any) -> None:
        """A client that hangs up on an endless answer is what is wanted."""


@pytest.fixture(scope="module")
def web(photo_jpeg: bytes) -> Iterator[Web]:
    Pages.media = photo_jpeg
    with _Quiet(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


running: dict[str, Fetcher] = {}


@pytest.fixture(scope="module", autouse=True)
def _ended() -> Iterator[None]:
    yield
    for fetcher in running.values():
        fetcher.close()
    running.clear()


def fetch(link: str, **more: Any) -> bytes:
    """Fetch by a process of these settings, which is kept for the next link."""
    given = {"home": Path("/nowhere"), "fetch_timeout_s": 2.0, "max_body_bytes": 200_000} | more
    settings = Settings(**given)
    key = repr(settings)
    if key not in running:
        running[key] = Fetcher(settings.fetch_rules(), worker_environment(), enabled=settings.fetch_enabled)
    return anyio.run(running[key].fetch, link)


def fetch_inside(link: str, **settings: Any) -> bytes:
    return fetch(link, fetch_internal_networks=INTERNAL, **settings)


def test_a_private_address_is_refused_before_any_connection(web: Web) -> None:
    before = web.connections
    port = web.server_port
    forms = [
        "127.0.0.1", "localhost", "LOCALHOST", "localhost.", "2130706433", "0x7f000001", "0177.0.0.1", "127.1",
        "127.0.1", "0", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]",
        "[0:0:0:0:0:0:0:1]", "0x7f.1", "017700000001", socket.gethostname(),
    ]  # fmt: skip
    for host in forms:
        for link in (f"http://{host}:{port}/media", f"http://{host}/media"):
            with pytest.raises((LinkRefused, LinkFailed)) as caught:
                fetch(link)
            named = caught.type is LinkFailed and "resolved" in str(caught.value)
            assert caught.type is LinkRefused or named, (link, caught.value)
    assert web.connections == before


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.100.100.200", "[fd00:ec2::254]",
             "[fe80::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[2a00::5efe:7f00:1]",
             "255.255.255.255", "224.0.0.1"],
)  # fmt: skip
def test_an_address_that_is_not_public_is_refused(host: str) -> None:
    began = time.monotonic()
    with pytest.raises(LinkRefused):
        fetch(f"http://{host}/latest/meta-data/")
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    "link",
    [
        "", "x", "/etc/passwd", "file:///etc/passwd", "ftp://example.org/a", "gopher://127.0.0.1:6379/_INFO", "data:,x",
        "http:", "http://", "http:///x", "http:x", "//example.org/", "http://user@example.org/", "http://u:p@example.org/",
        "http://example.org:99999/", "http://example.org:x/", "http://[::1/", "http://\u2460\u2461.example/",
        "http://exam\u0000ple/", "http://\ud800/", "javascript:alert(1)", "unix:///var/run/docker.sock", "ws://example.org/",
        "http://example.org@127.0.0.1/", "http://127.0.0.1#@example.org/", "http://127.0.0.1\\@example.org/",
        "dict://127.0.0.1:11211/stats", " http://u@example.org/", "h\nttp://u@example.org",
    ],
)  # fmt: skip
def test_what_is_no_link_to_the_web_is_refused(link: str) -> None:
    with pytest.raises(LinkRefused):
        fetch(link)


def test_a_port_that_is_not_the_webs_is_refused() -> None:
    for port in (22, 25, 6379, 11211, 8000):
        with pytest.raises(LinkRefused):
            fetch(f"http://1.1.1.1:{port}/")
        with pytest.raises(LinkRefused):  # an internal network opens the ports of that network alone
            fetch_inside(f"http://1.1.1.1:{port}/")


def test_a_network_that_the_operator_named_is_fetched(web: Web, photo_jpeg: bytes) -> None:
    assert fetch_inside(f"{web.url}/media") == photo_jpeg
    sent = Pages.seen[-1]
    assert sent["Accept-Encoding"] == "identity"
    assert sent["User-Agent"] == "staydown"
    assert not {"Cookie", "Authorization", "Referer"} & set(sent)


def test_links_can_be_switched_off(web: Web) -> None:
    before = web.connections
    with pytest.raises(LinkRefused, match="switched off"):
        fetch_inside(f"{web.url}/media", fetch_enabled=False)
    assert web.connections == before


def test_a_redirect_is_followed_and_judged_again(web: Web, photo_jpeg: bytes) -> None:
    assert fetch_inside(f"{web.url}/hops/5", fetch_max_redirects=6) == photo_jpeg
    assert fetch_inside(f"{web.url}/to//media") == photo_jpeg
    assert fetch_inside(f"{web.url}/media/für/bücher.jpg") == photo_jpeg
    assert Pages.seen[-1]["path"] == "/media/f%C3%BCr/b%C3%BCcher.jpg"
    for onward in ("http://127.0.0.2/x", "http://10.0.0.1/", "http://[::1]/", "file:///etc/passwd",
                   "http://2130706434/", "http://169.254.169.254/latest/", "ftp://127.0.0.1/",
                   "http://u@127.0.0.1/", "//127.0.0.2/"):  # fmt: skip
        with pytest.raises(LinkRefused):
            fetch_inside(f"{web.url}/to/{onward}")


def test_redirects_come_to_an_end(web: Web) -> None:
    before = len(Pages.seen)
    with pytest.raises(LinkFailed, match="redirects too often"):
        fetch_inside(f"{web.url}/loop", fetch_max_redirects=5)
    assert len(Pages.seen) == before + 6
    with pytest.raises(LinkFailed):
        fetch_inside(f"{web.url}/hops/1", fetch_max_redirects=0)


@pytest.mark.parametrize("path", ["404", "500", "403", "201", "206", "304", "nowhere", "gzip", "short"])
def test_an_answer_that_is_not_the_media_failed(web: Web, path: str) -> None:
    with pytest.raises(LinkFailed):
        fetch_inside(f"{web.url}/{path}")


@pytest.mark.parametrize("path", ["drip", "stall", "headers"])
def test_one_deadline_covers_everything(web: Web, path: str) -> None:
    began = time.monotonic()
    with pytest.raises(LinkFailed, match="in time"):
        fetch_inside(f"{web.url}/{path}", fetch_timeout_s=0.7)
    assert 0.6 < time.monotonic() - began < 3


@pytest.mark.parametrize("path", ["large", "endless"])
def test_no_more_is_read_than_is_taken(web: Web, path: str) -> None:
    began = time.monotonic()
    with pytest.raises(MediaTooLarge):
        fetch_inside(f"{web.url}/{path}")
    assert time.monotonic() - began < 2


def test_a_server_that_is_not_there_failed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(LinkFailed):
        fetch_inside(f"http://127.0.0.1:{port}/")


def test_a_server_that_speaks_no_http_failed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"220 smtp ready\r\n")

        thread = threading.Thread(target=speak)
        thread.start()
        port = listener.getsockname()[1]
        for link in (f"http://127.0.0.1:{port}/", f"https://127.0.0.1:{port}/"):
            with pytest.raises(LinkFailed):
                fetch_inside(link)
        thread.join()


def test_a_name_is_resolved_once_and_all_its_addresses_are_judged(monkeypatch: pytest.MonkeyPatch, web: Web) -> None:
    """The resolver is the outside world here: a name with one public and one private address, and one that changes."""
    answers = [["8.8.8.8", "127.0.0.1"]]
    asked: list[str] = []

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr("service.fetch_worker.socket.getaddrinfo", resolve)
    outside, inside = Rules(1000, 2.0, 1), Rules(10**6, 2.0, 1, INTERNAL)
    before = web.connections
    with pytest.raises(Ended, match="REFUSED"):
        anyio.run(fetched, outside, "http://both.example/")
    answers[:] = [["127.0.0.1"], ["10.0.0.1"]]  # what a rebinding name answers the second time
    anyio.run(fetched, inside, f"http://rebinding.example:{web.server_port}/media")
    assert asked == ["both.example", "rebinding.example"]
    assert web.connections == before + 1


def test_over_http_a_link_is_refused_or_judged(web: Web, tmp_path: Path, local: Local, photo_jpeg: bytes) -> None:
    before = web.connections
    refused = local.api("check").post("/v1/check", {"url": f"{web.url}/media"})
    assert refused.is_problem(422, "link_refused")
    assert web.url not in refused.body.decode()
    assert web.connections == before
    with Local(tmp_path, {"fetch_internal_networks": INTERNAL, "fetch_timeout_s": 1.0}) as running:
        api = running.api()
        bank = api.bank()
        made = api.post(f"/v1/banks/{bank}/contents", {"url": f"{web.url}/media", "case": "C", "labels": ["l"]})
        assert made.status == 201
        assert api.get(f"/v1/banks/{bank}/contents/{made.json['content_id']}").json["case"] == "C"
        assert api.post("/v1/check", {"url": f"{web.url}/hops/2"}).json["verdict"] == "match"
        assert api.post_form("/v1/check", ("url", f"{web.url}/media", None)).json["verdict"] == "match"
        assert api.post("/v1/hash", {"url": f"{web.url}/media"}).json["media"]["width"] == 320
        assert api.post("/v1/check", {"url": f"{web.url}/404"}).is_problem(502, "link_failed")
        assert api.post("/v1/check", {"url": f"{web.url}/drip"}).is_problem(502, "link_failed")
        assert api.post("/v1/check", {"url": f"{web.url}/empty"}).is_problem(415, "unsupported_media")
        assert api.post("/v1/check", {"url": f"{web.url}/media", "x": 1}).is_problem(422, "invalid_request")


def test_the_errors_are_of_one_tree() -> None:
    assert issubclass(LinkRefused, StaydownError)
    assert not issubclass(LinkRefused, LinkFailed)


# --- the process that fetches ----------------------------------------------------------------------


def process_of(home: Path, web: Web, **more: Any) -> Engine:
    """Return an engine of which the process that fetches has run."""
    settings = Settings(home=home, workers=1, fetch_internal_networks=INTERNAL, **more)
    engine = Engine(settings)
    anyio.run(engine.fetcher.fetch, f"{web.url}/media")
    return engine


def memory(pid: int) -> bytes:
    """Return all that a process may write to of its memory."""
    found = b""
    with Path(f"/proc/{pid}/mem").open("rb") as file:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, mode = line.split()[:2]
            start, end = (int(number, 16) for number in span.split("-"))
            if "w" in mode:
                file.seek(start)
                with contextlib.suppress(OSError):
                    found += file.read(end - start)
    return found


def test_the_process_has_no_key_no_setting_and_no_bank(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAYDOWN_LOG_LEVEL", "error")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-of-the-environment")
    with process_of(tmp_path, web) as engine:
        engine.record.create_bank("canary-bank", actor="t")
        _, key = engine.keys.create("admin", name="canary-name", actor="t")
        pid = engine.fetcher.pid
        assert pid is not None
        anyio.run(engine.fetcher.fetch, f"{web.url}/media/canary-of-the-link")
        theirs = memory(pid)
        pepper = (tmp_path / "key.pepper").read_bytes().strip()
        assert b"canary-of-the-link" in theirs, "the control: what is there is found"
        for secret in (pepper, key.encode(), b"canary-bank", b"canary-name", b"canary-of-the-environment"):
            assert secret not in theirs
        seen = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"STAYDOWN" not in seen
        assert b"canary" not in seen
        assert not re.search(r"faiss|sqlalchemy|cv2|av/|pydantic", Path(f"/proc/{pid}/maps").read_text())
        kinds = {str(link.readlink()).partition(":")[0] for link in Path(f"/proc/{pid}/fd").iterdir()}
        assert kinds <= {"/dev/null", "socket", "anon_inode"}
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_a_process_that_ended_is_started_anew(web: Web, tmp_path: Path, photo_jpeg: bytes) -> None:
    with process_of(tmp_path, web) as engine:
        first = engine.fetcher.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: not engine.fetcher._process.alive)
        assert anyio.run(engine.fetcher.fetch, f"{web.url}/media") == photo_jpeg
        assert engine.fetcher.pid != first


def test_a_fetch_under_way_when_it_ends_is_an_error(web: Web, tmp_path: Path) -> None:
    with process_of(tmp_path, web, fetch_timeout_s=10.0) as engine:
        pid = engine.fetcher.pid
        assert pid is not None
        threading.Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
        with pytest.raises(LinkFailed, match="ended"):
            anyio.run(engine.fetcher.fetch, f"{web.url}/stall")


def test_a_process_that_hangs_holds_nobody_longer_than_the_deadline(web: Web, tmp_path: Path) -> None:
    with process_of(tmp_path, web, fetch_timeout_s=0.5) as engine:
        pid = engine.fetcher.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(LinkFailed, match="in time"):
            anyio.run(engine.fetcher.fetch, f"{web.url}/media")
        assert time.monotonic() - began < 4


def test_many_links_at_once_are_not_mixed_up(web: Web, tmp_path: Path, photo_jpeg: bytes) -> None:
    found: dict[int, bytes | str] = {}

    async def run(fetcher: Fetcher) -> None:
        async def one(number: int) -> None:
            path = ("media", "404", "empty")[number % 3]
            try:
                found[number] = await fetcher.fetch(f"{web.url}/{path}")
            except LinkFailed as error:
                found[number] = str(error)

        async with anyio.create_task_group() as group:
            for number in range(60):
                group.start_soon(one, number)

    with process_of(tmp_path, web) as engine:
        anyio.run(run, engine.fetcher)
    expected = (photo_jpeg, "the link answered with status 404", b"")
    assert found == {number: expected[number % 3] for number in range(60)}


def test_links_may_be_limited_to_hosts(web: Web) -> None:
    port = web.server_port
    assert fetch_inside(f"http://127.0.0.1:{port}/media", fetch_hosts=("127.0.0.1",))
    for host in ("localhost", "127.0.0.2", "8.8.8.8", "example.org.evil.example", "evilexample.org"):
        with pytest.raises(LinkRefused):
            fetch_inside(f"http://{host}:{port}/media", fetch_hosts=("127.0.0.1", "example.org"))
    for onward in ("http://localhost/", "http://example.com/"):
        with pytest.raises(LinkRefused):
            fetch_inside(f"{web.url}/to/{onward}", fetch_hosts=("127.0.0.1",))


class Tunnel(threading.Thread):
    """A proxy that connects to what it is asked for, and remembers that; or refuses."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> None:
        super().__init__(daemon=True)
        self.listener, self.asked, self._answer = socket.create_server(("127.0.0.1", 0)), list[str](), answer
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.start()

    def run(self) -> None:
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            line = client.makefile("rb").readline().decode()
            self.asked.append(line.split()[1])
            host, _, port = self.asked[-1].rpartition(":")
            if b" 200 " not in self._answer:
                client.sendall(self._answer)
                client.close()
                continue
            onward = socket.create_connection((host, int(port)))
            client.sendall(self._answer)
            onward.sendall(client.recv(65536))
            while piece := onward.recv(65536):
                client.sendall(piece)
            onward.close()
            client.close()


def test_a_proxy_is_asked_for_the_address_that_was_judged(web: Web, photo_jpeg: bytes) -> None:
    proxy = Tunnel()
    with proxy.listener:
        before = web.connections
        assert fetch_inside(f"{web.url}/media", fetch_proxy=proxy.url) == photo_jpeg
        assert proxy.asked == [f"127.0.0.1:{web.server_port}"]
        assert web.connections == before + 1
        for link in ("http://10.0.0.1/", f"http://127.0.0.2:{web.server_port}/", "http://169.254.169.254/"):
            with pytest.raises(LinkRefused):
                fetch_inside(link, fetch_proxy=proxy.url)
        assert len(proxy.asked) == 1, "what is refused is not even asked for"


@pytest.mark.parametrize("answer", [b"HTTP/1.1 407 no\r\n\r\n", b"", b"nonsense\r\n\r\n", b"x" * 10_000])
def test_a_proxy_that_does_not_connect_is_a_failure(web: Web, answer: bytes) -> None:
    proxy = Tunnel(answer)
    with proxy.listener, pytest.raises(LinkFailed):
        fetch_inside(f"{web.url}/media", fetch_proxy=proxy.url)


@given(st.binary(min_size=ANSWER.size, max_size=ANSWER.size))
def test_no_answer_of_the_process_is_believed_beyond_its_range(data: bytes) -> None:
    try:
        outcome, status, size = unpack_answer(data, 1000)
    except ValueError:
        return
    assert size <= (1000 if outcome is Outcome.MEDIA else 0)
    assert 0 <= status <= 999


def test_every_outcome_is_an_error_that_says_what_it_is() -> None:
    said = {outcome: error_of(outcome, 404) for outcome in Outcome if outcome is not Outcome.MEDIA}
    assert {type(error) for error in said.values()} == {LinkRefused, LinkFailed, MediaTooLarge}
    assert len({str(error) for error in said.values()}) == len(said)
