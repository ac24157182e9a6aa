"""Links: which are refused before any connection, and what a hostile server cannot do."""

import gzip
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
from serving import Local

from hashing.errors import MediaTooLarge, StaydownError
from service.errors import LinkFailed, LinkRefused
from service.fetch import Fetcher
from service.fetch_wire import Rules
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
