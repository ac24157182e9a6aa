"""Clients that keep a connection for nothing are cut off by the running server; honest slow ones are not."""

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
import uvicorn
from serving import Api, Server, make_key, staydown, wait_until

from service.app import create_app
from service.settings import Settings

LIMIT_S = 10.0
Hold = Callable[[socket.socket, str], None]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("slow") / "home", max_connections="60") as running:
        yield running


@pytest.fixture(scope="module")
def key(server: Server) -> str:
    return server.first_key()


def head(key: str, path: str = "/v1/check", **headers: str) -> bytes:
    lines = {"Host": "x", "Authorization": f"Bearer {key}", "Content-Type": "image/jpeg"} | headers
    said = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{said}\r\n".encode()


def drip(connection: socket.socket, data: bytes, every_s: float = 0.25) -> None:
    """Send a byte at a time, until nobody takes them any more."""
    for number in range(len(data)):
        connection.send(data[number : number + 1])
        time.sleep(every_s)


def nothing(connection: socket.socket, key: str) -> None:
    time.sleep(60)


def half_a_line(connection: socket.socket, key: str) -> None:
    connection.sendall(b"GET /health/li")


def headers_by_bytes(connection: socket.socket, key: str) -> None:
    drip(connection, head(key) * 10)


def headers_that_never_end(connection: socket.socket, key: str) -> None:
    connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n")
    drip(connection, b"X-A: b\r\n" * 100)


def second_headers_by_bytes(connection: socket.socket, key: str) -> None:
    connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    assert connection.recv(10_000).startswith(b"HTTP/1.1 200")
    drip(connection, head(key) * 10)


def no_body(connection: socket.socket, key: str) -> None:
    connection.sendall(head(key, Content_Length="1000"))


def half_a_body(connection: socket.socket, key: str) -> None:
    connection.sendall(head(key, Content_Length="100000") + b"x" * 50_000)


def body_by_bytes(connection: socket.socket, key: str) -> None:
    connection.sendall(head(key, Content_Length="100000"))
    drip(connection, b"x" * 1000)


def chunks_by_bytes(connection: socket.socket, key: str) -> None:
    connection.sendall(head(key, Transfer_Encoding="chunked"))
    drip(connection, b"1\r\nx\r\n" * 300)


def a_chunk_that_never_ends(connection: socket.socket, key: str) -> None:
    connection.sendall(head(key, Transfer_Encoding="chunked") + b"fffffff\r\nxx")
    drip(connection, b"x" * 1000)


def body_after_its_answer(connection: socket.socket, key: str) -> None:
    """The answer is there (401), and the body goes on for ever."""
    connection.sendall(head("none", Content_Length="1000000000"))
    while True:
        connection.sendall(b"x" * 10_000)
        time.sleep(0.05)


def answers_not_read(connection: socket.socket, key: str) -> None:
    request = f"GET /openapi.json HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
    connection.sendall(request * 300)
    time.sleep(60)


HOLDS = (nothing, half_a_line, headers_by_bytes, headers_that_never_end, second_headers_by_bytes, no_body,
         half_a_body, body_by_bytes, chunks_by_bytes, a_chunk_that_never_ends, body_after_its_answer,
         answers_not_read)  # fmt: skip


def kept(port: int, from_port: int) -> bool:
    """Tell whether the server's end of a connection is open: the client's may not hear of its end."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = {(row[1].partition(":")[2], row[2].partition(":")[2]): row[3] for row in rows}
    return ends.get((f"{port:04X}", f"{from_port:04X}")) in {"01", "08"}  # ESTABLISHED, CLOSE_WAIT


def held_s(port: int, hold: Hold, key: str, most_s: float) -> float:
    """Return how long the server keeps a connection that is held so."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))

    def send() -> None:
        with contextlib.suppress(OSError):
            hold(connection, key)

    threading.Thread(target=send, daemon=True).start()
    began, ended = time.monotonic(), False
    while not ended and time.monotonic() - began < most_s:
        time.sleep(0.25)
        ended = not kept(port, connection.getsockname()[1])
    took = time.monotonic() - began
    connection.close()
    return took


def test_who_keeps_a_connection_for_nothing_is_cut_off_within_ten_seconds(server: Server, key: str) -> None:
    """All at once, five of each; those who mind the time are answered meanwhile."""
    times: dict[str, list[float]] = {hold.__name__: [] for hold in HOLDS}

    def one(hold: Hold) -> None:
        times[hold.__name__].append(held_s(server.port, hold, key, 20.0))

    threads = [threading.Thread(target=one, args=(hold,)) for hold in HOLDS for _ in range(4)]
    for thread in threads:
        thread.start()
    asked = 0
    while any(thread.is_alive() for thread in threads):
        began = time.monotonic()
        assert server.api(key).get("/v1/banks").status == 200
        assert time.monotonic() - began < 2
        asked += 1
        time.sleep(0.1)
    assert asked > 10
    assert {name: max(took) for name, took in times.items() if max(took) >= LIMIT_S} == {}
    metrics = server.api(key).get("/metrics").body.decode()
    counted = dict(re.findall(r'staydown_connections_dropped_total\{why="(\w+)"\} ([\d.]+)', metrics))
    assert all(float(counted[why]) > 0 for why in ("headers", "body", "rest", "answer"))


def test_uvicorn_alone_keeps_them_all(tmp_path: Path) -> None:
    """The control: the same clients on a server without guards."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(Settings(home=tmp_path, workers=1))
    plain = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=plain.run, kwargs={"sockets": [listener]})
    thread.start()
    port = listener.getsockname()[1]
    wait_until(lambda: plain.started and Api(port).get("/health/ready").status == 200)
    key = app.state.engine.keys.create("check", actor="t")[1]
    times: list[float] = []
    holds = [threading.Thread(target=lambda hold=hold: times.append(held_s(port, hold, key, 11.0)))
             for hold in (nothing, half_a_line, headers_by_bytes, no_body, body_by_bytes)]  # fmt: skip
    for held in holds:
        held.start()
    for held in holds:
        held.join()
    plain.should_exit = plain.force_exit = True
    thread.join()
    assert min(times) >= 11.0


def slow_upload(server: Server, key: str, data: bytes, bytes_a_tenth: int) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head(key, Content_Length=str(len(data)), Connection="close"))
        for start in range(0, len(data), bytes_a_tenth):
            connection.sendall(data[start : start + bytes_a_tenth])
            time.sleep(0.1)
        answered = b""
        while piece := connection.recv(65536):
            answered += piece
        return answered


def test_a_slow_but_steady_upload_is_taken(server: Server, key: str, photo_jpeg: bytes) -> None:
    """Two kilobytes a second, for twelve seconds: as from a bad line."""
    data = photo_jpeg + b"\0" * (24_000 - len(photo_jpeg))
    assert slow_upload(server, key, data, 200).startswith(b"HTTP/1.1 200")


def test_an_upload_below_the_least_rate_is_not(server: Server, key: str) -> None:
    with pytest.raises(ConnectionError):
        slow_upload(server, key, b"x" * 24_000, 50)


def test_a_kept_connection_goes_on(server: Server, key: str) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.connect()
    ours = connection.sock.getsockname()
    for _ in range(5):
        connection.request("GET", "/v1/banks", headers={"Authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        assert connection.sock.getsockname() == ours
        time.sleep(3)
    connection.close()


def test_who_waits_to_be_told_to_go_on_is_not_slow(server: Server, key: str, photo_jpeg: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(head(key, Content_Length=str(len(photo_jpeg)), Expect="100-continue", Connection="close"))
        assert connection.recv(1000).startswith(b"HTTP/1.1 100")
        connection.sendall(photo_jpeg)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_headers_have_a_size(server: Server, key: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 40_000)
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")


def test_of_too_many_connections_the_last_are_closed(server: Server, key: str) -> None:
    open_ones = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(60)]
    try:
        one_more = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        with one_more, contextlib.suppress(ConnectionResetError):
            assert one_more.recv(10) == b""
    finally:
        for connection in open_ones:
            connection.close()
    wait_until(lambda: server.api(key).get("/v1/banks").status == 200)
    assert 'why="too_many"} 0.0' not in server.api(key).get("/metrics").body.decode()


def test_only_a_named_proxy_tells_the_clients_address(tmp_path: Path) -> None:
    """`X-Forwarded-For` opens nothing unless the one who sends it is trusted."""
    home = tmp_path / "home"
    make_key(home, "admin")
    limited = json.loads(
        staydown(home, "key", "create", "--role", "audit", "--network", "192.0.2.0/24", "--json").stdout
    )
    asked = {"X-Forwarded-For": "192.0.2.7"}
    for proxies, status in (("", 403), ("10.0.0.0/8", 403), ("127.0.0.0/8", 200)):
        with Server(home, trusted_proxies=proxies) as running:
            api = running.api(limited["key"])
            assert api.call("GET", "/v1/banks", headers=asked).status == status, proxies
            assert api.get("/v1/banks").status == 403
