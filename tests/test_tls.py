"""HTTPS by the service itself, and client certificates: who has none gets no answer at all."""

import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPSConnection
from pathlib import Path

import pytest
import uvicorn
from serving import wait_until

from service.app import create_app
from service.connections import config
from service.settings import Settings


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def signed(folder: Path, name: str, by: str) -> None:
    """Make a key and a certificate of an authority."""
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key"]
    openssl(folder, "req", *new, "-subj", f"/CN={name}", "-out", f"{name}.csr")
    (folder / "alt").write_text("subjectAltName=IP:127.0.0.1")
    openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{by}.pem", "-CAkey", f"{by}.key", "-days", "2",
            "-CAcreateserial", "-extfile", "alt", "-out", f"{name}.pem")  # fmt: skip


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("openssl is absent, and CI=true")
        pytest.skip("openssl is absent")
    folder = tmp_path_factory.mktemp("certificates")
    for authority in ("ours", "other"):
        new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{authority}.key"]
        openssl(folder, "req", "-x509", *new, "-days", "2", "-subj", f"/CN={authority}", "-out", f"{authority}.pem")
    for name, by in (("server", "ours"), ("client", "ours"), ("stranger", "other")):
        signed(folder, name, by)
    return folder


@contextmanager
def serving(home: Path, certificates: Path, **more: Path) -> Iterator[int]:
    """Run the app over TLS, as `serve` configures it, and give its port."""
    settings = Settings(home=home, workers=1, tls_certificate_file=certificates / "server.pem",
                        tls_key_file=certificates / "server.key", slow_client_s=2.0, **more)  # fmt: skip
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(config(create_app(settings), settings, lambda why: None, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    wait_until(lambda: server.started)
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join()


def status(port: int, certificates: Path, client: str | None = None) -> int:
    """Ask whether the process lives."""
    context = ssl.create_default_context(cafile=certificates / "ours.pem")
    if client is not None:
        context.load_cert_chain(certificates / f"{client}.pem", certificates / f"{client}.key")
    connection = HTTPSConnection("127.0.0.1", port, context=context, timeout=10)
    try:
        connection.request("GET", "/health/live")
        return connection.getresponse().status
    finally:
        connection.close()


def test_the_service_speaks_tls_by_itself(tmp_path: Path, certificates: Path) -> None:
    with serving(tmp_path, certificates) as port:
        assert status(port, certificates) == 200
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
            plain.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200" not in plain.recv(100)


def test_without_a_certificate_of_ours_nobody_is_answered(tmp_path: Path, certificates: Path) -> None:
    with serving(tmp_path, certificates, tls_client_ca_file=certificates / "ours.pem") as port:
        assert status(port, certificates, "client") == 200
        for nobody in (None, "stranger"):
            with pytest.raises(OSError, match=r"(?i)certificate|alert|reset|closed|broken"):
                status(port, certificates, nobody)
        assert status(port, certificates, "client") == 200


def test_a_handshake_that_does_not_end_is_ended(tmp_path: Path, certificates: Path) -> None:
    with serving(tmp_path, certificates) as port:
        for said in (b"", b"\x16\x03\x01\x02\x00\x01"):
            began = time.monotonic()
            with socket.create_connection(("127.0.0.1", port), timeout=20) as half:
                half.sendall(said)
                assert half.recv(100) == b""
            assert time.monotonic() - began < 5
