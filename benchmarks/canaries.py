"""Canaries: marks in uploads and links that must not be found on the raw block device afterwards.

    python -m benchmarks.canaries [--canaries 10000] [--seed 1]

A file system in a loop-mounted image holds all that the service may write to: its home, TMPDIR, the
folder it runs in, the caches of its user, its log. Each request carries a canary of its own: raw,
chunked and multipart bodies, links fetched and refused, hashes and names that are none, for checks, hashes
and enrolments, with keys and without, too large, cut, corrupt, and broken off. Then the service ends,
the image is unmounted and read from its first byte to its last, deleted files and the journal included.

The control is a server that takes uploads as its framework does. Its canaries have to be found.
Needs root, a free loop device and mkfs.ext4; says so and ends with status 2 otherwise.
"""

import argparse
import json
import os
import random
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

from benchmarks import corpus, measure
from benchmarks.server import HOST, family, free_port, serving, staydown

IMAGE_BYTES, MAX_BODY_BYTES, LARGE_BYTES = 512 << 20, 3_000_000, 1_300_000
LANES, GREAT_EVERY, CONTROLS = 4, 10, 60
_PIECE = 1 << 24
_MULTIPART = "multipart/form-data; boundary=bound"

SPOOLING = """
import os, sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
async def take(request):
    form = await request.form()
    os.sync()  # as a system under load does by itself, sooner or later
    return PlainTextResponse(str(len(await form["media"].read())))
uvicorn.run(Starlette(routes=[Route("/v1/check", take, methods=["POST"])]), port=int(sys.argv[1]), log_level="error")
"""


@dataclass(frozen=True, slots=True)
class Marks:
    """Canaries of one run: they begin alike, so that one search finds all."""

    mark: str

    def canary(self, number: int) -> str:
        """Return one canary: text, so that it would be seen in logs and names, too."""
        return f"{self.mark}{number:08x}"

    def forms(self) -> tuple[bytes, ...]:
        """Return what is searched for: as it was sent, and as hexadecimal digits."""
        raw = self.mark.encode()
        return raw, raw.hex().encode()


def lacking() -> str | None:
    """Return what is missing here, if anything is."""
    if os.geteuid() != 0:
        return "mounting takes root"
    if shutil.which("mkfs.ext4") is None:
        return "mkfs.ext4 is absent"
    if subprocess.run(["losetup", "-f"], capture_output=True, check=False).returncode:
        return "there is no free loop device"
    return None


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[None]:
    """Make a file system in a file, and mount it while the block runs."""
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    at.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True)
    try:
        yield
    finally:
        os.sync()
        subprocess.run(["umount", str(at)], check=True)


def found(image: Path, marks: Marks) -> tuple[int, set[bytes]]:
    """Return how often a mark stands on a raw image, and with what behind it."""
    pattern = re.compile(b"(?:" + b"|".join(marks.forms()) + b").{0,16}", re.S)
    count, places, kept = 0, set(), b""
    with image.open("rb") as file:
        while piece := file.read(_PIECE):
            data = kept + piece
            hits = [hit for hit in pattern.finditer(data) if hit.end() > len(kept)]
            count += len(hits)
            places |= {hit[0] for hit in hits[:100]}
            kept = data[-128:]
    return count, places


# --- what is sent -----------------------------------------------------------------------


def media(canary: str, *, great: bool) -> bytes:
    """Return a small picture with its canary in a comment and behind it; or more than a framework keeps in memory."""
    words = canary.encode() * 8
    picture = corpus.jpeg(corpus.picture(61, 96, 64), 80)
    data = picture[:2] + b"\xff\xfe" + (len(words) + 2).to_bytes(2) + words + picture[2:] + words
    return data + canary.encode() * (LARGE_BYTES // len(canary)) if great else data


def form(canary: str, data: bytes) -> bytes:
    """Return a multipart body, with the canary in a name and in a field, too."""
    head = f'--bound\r\nContent-Disposition: form-data; name="note"\r\n\r\n{canary}\r\n--bound\r\n'
    named = f'Content-Disposition: form-data; name="media"; filename="{canary}.jpg"\r\n\r\n'
    return (head + named).encode() + data + b"\r\n--bound--\r\n"


@dataclass(frozen=True, slots=True)
class Place:
    """Where requests go."""

    port: int
    key: str
    links: int = 0
    bank: str = "canaries"

    def send(self, path: str, body: object, kind: str = "image/jpeg", key: str | None = None) -> int:
        """Send one request and return the status; 0 if the connection was cut."""
        connection = HTTPConnection(HOST, self.port, timeout=120)
        headers = {"Authorization": f"Bearer {self.key if key is None else key}", "Content-Type": kind}
        try:
            connection.request("POST", path, body, headers)  # type: ignore[arg-type]
            answer = connection.getresponse()
            answer.read()
        except (OSError, HTTPException):
            return 0
        finally:
            connection.close()
        return answer.status

    def break_off(self, path: str, data: bytes, kind: str = "image/jpeg") -> int:
        """Announce a body, send half of it, and go away."""
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.key}\r\nContent-Type: {kind}\r\n"
        with socket.create_connection((HOST, self.port), timeout=120) as connection:
            connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data[: len(data) // 2])
        return 0

    def link(self, canary: str, *, host: str = HOST) -> int:
        """Have a link fetched; its address has the canary, and so has what it leads to."""
        body = json.dumps({"url": f"http://{host}:{self.links}/{canary}?{canary}"})
        return self.send("/v1/check", body, "application/json")


Way = Callable[[Place, str, bytes], int]
CONTENTS = "/v1/banks/canaries/contents"
WAYS: dict[str, Way] = {
    "raw": lambda place, _, data: place.send("/v1/check", data),
    "chunked": lambda place, _, data: place.send("/v1/check", iter([data[:500], data[500:]])),
    "multipart": lambda place, canary, data: place.send("/v1/check", form(canary, data), _MULTIPART),
    "hashed": lambda place, _, data: place.send("/v1/hash", data),
    "enrolled": lambda place, _, data: place.send(CONTENTS, data),
    "enrolled by multipart": lambda place, canary, data: place.send(CONTENTS, form("no canary", data), _MULTIPART),
    "a link": lambda place, canary, _: place.link(canary),
    "a link refused": lambda place, canary, _: place.link(canary, host="10.0.0.1"),
    "a link to nothing": lambda place, canary, _: place.link(canary, host=f"{canary}.invalid"),
    "without a key": lambda place, _, data: place.send("/v1/check", data, key=""),
    "with a wrong key": lambda place, canary, data: place.send("/v1/check", data, key=f"sd_{canary}"),
    "no media": lambda place, canary, _: place.send("/v1/check", canary.encode() * 99),
    "corrupt": lambda place, _, data: place.send("/v1/check", b"GIF89a" + data),
    "cut": lambda place, _, data: place.send("/v1/check", data[:1500]),
    "too large": lambda place, canary, data: place.send("/v1/check", data + canary.encode() * (MAX_BODY_BYTES // 20)),
    "too large in a form": lambda place, canary, data: place.send(
        "/v1/check", form(canary, data + canary.encode() * (MAX_BODY_BYTES // 20)), _MULTIPART
    ),
    "broken off": lambda place, _, data: place.break_off("/v1/check", data),
    "broken off in a form": lambda place, canary, data: place.break_off("/v1/check", form(canary, data), _MULTIPART),
    "no JSON": lambda place, canary, _: place.send("/v1/check", f'{{"url": "{canary}', "application/json"),
    "no hash": lambda place, canary, _: place.send(
        "/v1/check/hashes", json.dumps({"signals": [{"signal_type": "pdq", "hash": canary}]}), "application/json"
    ),
    "a bank that there is not": lambda place, canary, data: place.send(f"/v1/check?bank={quote(canary)}", data),
    "nowhere": lambda place, canary, data: place.send(f"/v1/{quote(canary)}", data),
}


class _Pages(BaseHTTPRequestHandler):
    """Answers each link with media that holds the canary of its address."""

    def do_GET(self) -> None:
        data = media(self.path[1:].partition("?")[0], great=False)
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@contextmanager
def pages() -> Iterator[int]:
    """Serve what links lead to, from this process, which writes nothing; gives the port."""
    server = ThreadingHTTPServer((HOST, 0), _Pages)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def send_all(place: Place, marks: Marks, count: int, seed: int) -> Counter[str]:
    """Send canaries by all ways in turn, on some connections; returns how each was answered."""
    numbers, names = list(range(count)), list(WAYS)
    random.Random(seed).shuffle(numbers)

    def one(number: int) -> str:
        name, canary = names[number % len(names)], marks.canary(number)
        data = media(canary, great=number // len(names) % GREAT_EVERY == 0)
        return f"{name}: {WAYS[name](place, canary, data) or 'cut'}"

    with ThreadPoolExecutor(LANES) as lanes:
        return Counter(lanes.map(one, numbers))


# --- the runs ---------------------------------------------------------------------------


@contextmanager
def living_in(folder: Path) -> Iterator[Path]:
    """Let what is started in the block have its folder, TMPDIR, HOME and caches there; gives the service's home."""
    for name in ("home", "tmp", "user", "here"):
        (folder / name).mkdir(mode=0o700)
    before = dict(os.environ)
    os.environ |= {"TMPDIR": str(folder / "tmp"), "HOME": str(folder / "user"),
                   "XDG_CACHE_HOME": str(folder / "user"), "XDG_DATA_HOME": str(folder / "user")}  # fmt: skip
    try:
        with chdir(folder / "here"):
            yield folder / "home"
    finally:
        os.environ.clear()
        os.environ |= before


def swapped_kb(pid: int) -> int:
    """Return how much of a process lies on a swap device."""
    return sum(int(line.split()[1]) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
               if line.startswith("VmSwap"))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    answers: Counter[str]
    hits: int
    places: set[bytes]
    log_bytes: int
    swapped_kb: int
    left: list[str]


def _shared() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}


def trial(work: Path, marks: Marks, count: int, seed: int) -> Outcome:
    """Run the service on an image, send all, and search the image."""
    image, at = work / "image", work / "mounted"
    before = _shared()
    with mounted(image, at), living_in(at) as home, pages() as links:
        settings = {"workers": "2", "max_body_bytes": str(MAX_BODY_BYTES), "log_level": "debug",
                    "fetch_internal_networks": "127.0.0.1/32"}  # fmt: skip
        with serving(home, **settings) as server:
            key = str(staydown(home, "key", "create", "--role", "admin")[0]["key"])
            with server.client(key) as client:
                client.request("PUT", "/v1/banks/canaries")
            answers = send_all(Place(server.port, key, links), marks, count, seed)
            swapped = sum(swapped_kb(pid) for pid in family(server.pid))
        log_bytes = sum(path.stat().st_size for path in home.glob("serve-*.log"))
    hits, places = found(image, marks)
    return Outcome(answers, hits, places, log_bytes, swapped, sorted(_shared() - before))


def control(work: Path, marks: Marks, count: int = CONTROLS) -> int:
    """Return how many marks are found where a server spools its uploads."""
    image, at = work / "image", work / "mounted"
    with mounted(image, at), living_in(at):
        port = free_port()
        process = subprocess.Popen([sys.executable, "-c", SPOOLING, str(port)])
        try:
            place, deadline = Place(port, ""), time.monotonic() + 60
            while not place.send("/", b"") and time.monotonic() < deadline:
                time.sleep(0.1)
            for number in range(count):
                canary = marks.canary(number)
                place.send("/v1/check", form(canary, media(canary, great=True)), _MULTIPART)
        finally:
            process.kill()
            process.wait()
    return found(image, marks)[0]


def main() -> int:
    """Run both, and print what was found."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--canaries", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    if (missing := lacking()) is not None:
        print(missing, file=sys.stderr)
        return 2
    print(json.dumps(measure.machine()))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "control").mkdir()
        spooled = control(Path(folder) / "control", Marks("ca" + secrets.token_hex(8)))
        done = trial(Path(folder), Marks("ca" + secrets.token_hex(8)), given.canaries, given.seed)
    print(f"control: {CONTROLS} uploads to a server that spools, {spooled} marks on its device")
    print(f"{given.canaries} canaries: {done.hits} marks on the raw device {sorted(done.places)[:3]}")
    print(f"log {done.log_bytes} bytes, swapped {done.swapped_kb} kB, left in shared memory {done.left}")
    for word, count in sorted(done.answers.items()):
        print(f"  {count:6} × {word}")
    return 0 if spooled and not done.hits and not done.swapped_kb and done.log_bytes else 1


if __name__ == "__main__":
    sys.exit(main())
