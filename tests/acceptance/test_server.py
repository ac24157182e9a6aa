"""The real server: start, stop, crash, two processes on one store."""

import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from serving import Answer, Api, Server, descendants, environment, make_key, staydown, wait_until

from service.keyring import KNOWN_S

HASH = "f8f8f0cee0f4a84f06370a22038f63f0b36e2ed596621e1d33e6b39c4e9c9b22"


def ready(text: str = HASH) -> dict[str, Any]:
    return {"signals": [{"signal_type": "pdq", "hash": text}]}


def alive(pid: int) -> bool:
    """Tell whether a process runs: one that only waits to be counted does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Post(threading.Thread):
    """A check under way."""

    def __init__(self, api: Api, data: bytes) -> None:
        super().__init__()
        self.api, self.data, self.answer = api, data, None
        self.start()

    def run(self) -> None:
        try:
            self.answer: Answer | None = self.api.post("/v1/check", self.data)
        except OSError:  # the server ended
            self.answer = None

    def end(self) -> Answer:
        self.join(60)
        assert self.answer is not None
        return self.answer


def stopped_worker(server: Server) -> int:
    """Stop the one worker, as if what it decodes took for ever; returns its process id."""
    _, pid = descendants(server.process.pid)  # the first is the zygote
    os.kill(pid, signal.SIGSTOP)
    return pid


def test_the_first_start_prints_an_admin_key_and_the_second_does_not(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Server(home) as first:
        keys = [line for line in first.log().splitlines() if line.strip().startswith("sd_")]
        assert len(keys) == 1
        assert first.api(keys[0].strip()).get("/v1/banks").status == 200
        assert first.stop() == 0
    with Server(home) as second:
        assert "sd_" not in second.log()
        assert second.api(keys[0].strip()).get("/v1/banks").status == 200
    assert (home / "staydown.db").stat().st_mode & 0o077 == 0


def test_a_start_with_a_key_prints_none(tmp_path: Path) -> None:
    key = make_key(tmp_path / "home", "check")
    with Server(tmp_path / "home") as server:
        assert "sd_" not in server.log()
        assert server.api(key).get("/v1/banks").status == 403


def test_it_stops_in_order_and_starts_from_its_cache(tmp_path: Path, photo_jpeg: bytes) -> None:
    home = tmp_path / "home"
    with Server(home) as server:
        api = server.api(server.first_key())
        bank = api.bank()
        assert api.post(f"/v1/banks/{bank}/contents", photo_jpeg).status == 201
        workers = descendants(server.process.pid)
        assert len(workers) == 2, "the zygote and a worker"
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 10
        assert not any(map(alive, workers))
        assert '"event": "stopped"' in server.log()
    cache = home / "index.cache"
    assert cache.stat().st_mode & 0o077 == 0
    assert b'"index cache", "ok": true' in staydown(home, "doctor", "--json", workers="1").stdout
    with Server(home) as again:
        assert again.api(api.key).post("/v1/check", photo_jpeg).json["verdict"] == "match"
        assert again.stop() == 0
    cache.write_bytes(cache.read_bytes()[:-5])
    with Server(home) as rebuilt:
        assert rebuilt.api(api.key).post("/v1/check", photo_jpeg).json["verdict"] == "match"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_in_time_whatever_is_under_way(tmp_path: Path, photo_jpeg: bytes, number: int) -> None:
    with Server(tmp_path / "home") as server:
        api = server.api(server.first_key())
        pid = stopped_worker(server)
        checks = [Post(api, photo_jpeg) for _ in range(3)]
        with socket.create_connection(("127.0.0.1", server.port)) as half:
            head = (
                f"POST /v1/check HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\nContent-Length: 9\r\n\r\n1"
            )
            half.sendall(head.encode())
            time.sleep(0.5)
            began = time.monotonic()
            server.process.send_signal(number)
            assert server.process.wait(20) == 0
            assert time.monotonic() - began < 10
        assert not alive(pid)
        for check in checks:
            check.join(5)
            assert not check.is_alive()


def test_a_port_that_is_taken_is_one_line_and_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = staydown(tmp_path / "home", "serve", "--port", str(taken.getsockname()[1]), timeout_s=20)
    assert (done.returncode, done.stdout) == (2, b"")
    assert len(done.stderr.splitlines()) == 1
    assert b"cannot listen on 127.0.0.1" in done.stderr
    assert staydown(tmp_path / "home", "serve", "--host", "192.0.2.1", "--port", "0").returncode == 2


def test_what_one_process_enrolls_another_finds_within_a_second(tmp_path: Path, photo_jpeg: bytes) -> None:
    home = tmp_path / "home"
    with Server(home) as first, Server(home) as second:
        here = first.api(first.first_key())
        there = second.api(here.key)
        bank = here.bank()
        content = here.post(f"/v1/banks/{bank}/contents", photo_jpeg).json["content_id"]
        answered = time.monotonic()
        wait_until(lambda: there.post("/v1/check", photo_jpeg).json["verdict"] == "match", 1.0)
        assert time.monotonic() - answered < 1.0
        for number in range(20):
            text = f"{number:064x}"
            made = here.post(f"/v1/banks/{bank}/contents", ready(text[::-1])).json["content_id"]
            found = there.post("/v1/check/hashes", ready(text[::-1])).json["matches"]
            assert made in {match["content_id"] for match in found}
        assert here.call("DELETE", f"/v1/banks/{bank}/contents/{content}").status == 204
        for api in (here, there):
            assert api.post("/v1/check", photo_jpeg).json["verdict"] == "no_match"
        first.kill()  # and a power cut loses nothing that was answered
        assert there.get(f"/v1/banks/{bank}").json["contents"] == 20
    with Server(home) as third:
        api = third.api(here.key)
        assert api.post("/v1/check", photo_jpeg).json["verdict"] == "no_match"
        assert api.post("/v1/check/hashes", ready("0" * 64)).json["verdict"] == "match"


def test_what_the_command_enrolls_the_server_finds(tmp_path: Path, photo_jpeg: bytes) -> None:
    home, file = tmp_path / "home", tmp_path / "known.jpg"
    file.write_bytes(photo_jpeg)
    with Server(home) as server:
        api = server.api(server.first_key())
        assert api.post("/v1/check", photo_jpeg).json["verdict"] == "no_match"
        assert staydown(home, "enroll", file, "--bank", "b", workers="1").returncode == 0
        assert api.post("/v1/check", photo_jpeg).json["verdict"] == "match"
        key = make_key(home, "check")
        assert api.with_key(key).post("/v1/check", photo_jpeg).status == 200
        assert staydown(home, "key", "revoke", f"k_{key.split('_')[1]}").returncode == 0
        time.sleep(KNOWN_S)
        assert api.with_key(key).post("/v1/check", photo_jpeg).is_problem(401, "unauthenticated")


def test_a_worker_that_dies_is_one_unhashable(tmp_path: Path, photo_jpeg: bytes, short_clip: bytes) -> None:
    with Server(tmp_path / "home") as server:
        api = server.api(server.first_key())
        bank = api.bank()
        api.post(f"/v1/banks/{bank}/contents", photo_jpeg)
        for data, kind in ((photo_jpeg[:-9], "image"), (short_clip, "video")):
            pid = stopped_worker(server)
            check = Post(api, data)
            time.sleep(0.3)
            os.kill(pid, signal.SIGKILL)
            said = check.end()
            assert (said.status, said.json["verdict"], said.json["reason"]) == (200, "unhashable", "decoder_crashed")
            assert (said.json["media"]["kind"], len(said.json["media"]["sha256"])) == (kind, 64)
            assert api.post("/v1/check", photo_jpeg).json["verdict"] == "match"
        pid = stopped_worker(server)
        check = Post(api, photo_jpeg)
        time.sleep(0.3)
        os.kill(pid, signal.SIGKILL)
        assert check.end().json["verdict"] == "match"  # by its digest, which needs no decoder
        assert api.post("/v1/check", photo_jpeg).json["reason"] is None
        pid = stopped_worker(server)
        os.kill(pid, signal.SIGKILL)  # while nobody asks
        wait_until(lambda: not alive(pid))
        assert api.post("/v1/check", photo_jpeg).json["reason"] is None
        assert server.stop() == 0


def test_a_worker_that_takes_too_long_is_one_unhashable(tmp_path: Path, photo_jpeg: bytes) -> None:
    with Server(tmp_path / "home", check_timeout_s="1") as server:
        api = server.api(server.first_key())
        stopped_worker(server)
        began = time.monotonic()
        said = api.post("/v1/check", photo_jpeg).json
        assert (said["verdict"], said["reason"]) == ("unhashable", "decoder_timed_out")
        assert time.monotonic() - began < 10


def test_a_worker_ends_with_its_server(tmp_path: Path) -> None:
    with Server(tmp_path / "home") as server:
        workers = descendants(server.process.pid)
        os.kill(server.process.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(alive, workers)), 10)


def test_the_server_runs_from_any_folder(tmp_path: Path) -> None:
    """A folder of media may hold a file called like a module."""
    import subprocess

    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    (tmp_path / "hashing.py").write_text("raise SystemExit('the wrong hashing')")
    from serving import COMMAND

    from benchmarks import corpus

    (tmp_path / "a.jpg").write_bytes(corpus.jpeg(corpus.picture(1, 64, 64), 90))
    done = subprocess.run([COMMAND, "check", "a.jpg"], env=environment(tmp_path / "home"), cwd=tmp_path,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_once_the_server_has_stopped_no_file_holds_a_withdrawn_hash(tmp_path: Path) -> None:
    home = tmp_path / "home"

    def holders() -> set[str]:
        return {path.name for path in home.iterdir() if bytes.fromhex(HASH) in path.read_bytes()}

    with Server(home, seal_new_store="false") as server:
        api = server.api(server.first_key())
        bank = api.bank()
        content = api.post(f"/v1/banks/{bank}/contents", ready()).json["content_id"]
        assert holders()
        assert api.call("DELETE", f"/v1/banks/{bank}/contents/{content}").status == 204
        assert server.stop() == 0
    assert holders() == set()
