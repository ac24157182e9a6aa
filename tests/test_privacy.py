"""No trace: what is checked leaves no byte behind, on no disk, in no log, in no metric, in no database.

The real server and its workers run under strace. The same watch is first held against a
server that does spool its uploads, since a watch that sees nothing proves nothing.
"""

import hashlib
import io
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from lacking import lacking
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from serving import Api, Server, wait_until

from benchmarks import corpus
from hashing.hasher import DEFAULT_TYPES, Plan, hash_media
from hashing.media import Sampling

CANARY = b"canary-7f3a91"
NAME = "canary-name-51ac.mp4"
LINK = "http://canary-link-93bd.invalid/canary-path?canary=1"
CALLS = "open,openat,openat2,creat,memfd_create,mknod,mknodat,link,linkat,symlink,symlinkat,rename,renameat,renameat2"
STORE = {"staydown.db", "staydown.db-wal", "staydown.db-shm", "staydown.db-journal"}

WRITES = re.compile(r"\b(O_WRONLY|O_RDWR|O_CREAT|O_TMPFILE|O_TRUNC|O_APPEND)\b")
OPENED = re.compile(r'\bopen(?:at2?)?\((?:AT_FDCWD, |\d+, )?"((?:[^"\\]|\\.)*)", (.*)')
MADE = re.compile(rf"\b({CALLS.removeprefix('open,openat,openat2,').replace(',', '|')})\(")

OTHER_SERVER = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
async def take(request):
    form = await request.form()
    return PlainTextResponse(str(len(await form["media"].read())))
async def ready(request):
    return PlainTextResponse("ready")
app = Starlette(routes=[Route("/take", take, methods=["POST"]), Route("/health/ready", ready)])
uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
"""


def strace(trace: Path) -> list[str]:
    """Return the words that put a command under watch; skip, or fail in CI, where strace is absent."""
    if shutil.which("strace") is None:
        lacking("strace is absent: apt-get install strace")
    return ["strace", "-D", "-f", "-qq", "-s", "300", "-e", f"trace={CALLS}", "-e", "signal=none", "-o", str(trace)]


def written(lines: list[str]) -> list[str]:
    """Return what was opened for writing, or made, by these lines of strace's; a call that failed made nothing."""
    found = []
    for line in lines:
        if re.search(r" = -1 ", line):
            continue
        call = OPENED.search(line)
        if call is not None and WRITES.search(call[2]) and call[1] != "/dev/null":
            found.append(call[1])
        elif MADE.search(line):
            found.append(line.strip())
    return found


@dataclass(frozen=True)
class Media:
    """Media with a canary in it, and all that must not stay of it."""

    data: bytes
    canaries: tuple[bytes, ...]


def marked(data: bytes) -> Media:
    """Return media with its canaries: the mark, its digests and its perceptual hashes, in hex and in bytes."""
    signal = hash_media(data, Plan(Sampling.DENSE, DEFAULT_TYPES))
    codes = [code for _, code in signal.exact] + [bytes(row["hash"]) for row in signal.frames]
    return Media(data, (CANARY, *codes, *(code.hex().encode() for code in codes)))


@pytest.fixture(scope="module")
def picture() -> Media:
    """A PNG of more than 2 MB that cannot be compressed, with a canary in its text."""
    noise = np.random.default_rng(5).integers(0, 256, (900, 900, 3), np.uint8)
    noise[100:800, 100:800] = corpus.picture(900, 700, 700)
    words = PngInfo()
    words.add_text("Comment", CANARY.decode() * 50)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG", pnginfo=words, compress_level=1)
    assert len(file.getvalue()) > 1_500_000
    return marked(file.getvalue())


@pytest.fixture(scope="module")
def video() -> Media:
    """An MP4 of 20 MB: a short clip and a box of canaries."""
    clip = corpus.clip(901, duration_s=1.2, width=192, height=108)
    filling = CANARY * (20_000_000 // len(CANARY))
    data = clip + (len(filling) + 8).to_bytes(4) + b"free" + filling
    assert len(data) > 19_000_000
    return marked(data)


class Watched:
    """A server under strace, and the place where it lives."""

    def __init__(self, root: Path) -> None:
        self.root, self.trace, self.tmp = root, root / "trace", root / "tmp"
        self.tmp.mkdir()
        self.server = Server(  # not sealed, so that the search finds what is there
            root / "home", wrapper=strace(self.trace), tmp=self.tmp, log_level="debug", workers="2",
            seal_new_store="false",
        )  # fmt: skip
        self.admin = self.server.api(self.server.first_key())

    def lines(self) -> list[str]:
        time.sleep(0.3)  # until strace has written what it saw
        return self.trace.read_text(errors="replace").splitlines()

    def files(self) -> dict[str, int]:
        """Return every file of the place, but strace's own."""
        return {
            str(path): path.stat().st_size for path in self.root.rglob("*") if path.is_file() and path != self.trace
        }

    def places_of(self, canaries: tuple[bytes, ...]) -> dict[str, set[bytes]]:
        """Return the files that hold one of these."""
        found: dict[str, set[bytes]] = {}
        for path in map(Path, self.files()):
            data = path.read_bytes()
            if held := {canary for canary in canaries if canary in data or canary.upper() in data}:
                found[path.name] = held
        return found


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    running = Watched(tmp_path_factory.mktemp("watched"))
    with running.server:
        warm = corpus.jpeg(corpus.picture(902, 160, 120), 90), corpus.clip(903, duration_s=0.4, width=64, height=64)
        for data in warm * 3:  # both workers, and whatever is imported at first use
            threads = [threading.Thread(target=running.admin.post, args=("/v1/check", data)) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        yield running


def send_everything(api: Api, media: Media) -> list[int]:
    """Check media in every way there is, whole and cut."""
    answers = [
        api.post("/v1/check", media.data),
        api.post_form("/v1/check", ("media", media.data, NAME), ("case", "canary-case-77", None)),
        api.post("/v1/check", iter([media.data[:70_000], media.data[70_000:]])),
        api.post("/v1/check", media.data[: len(media.data) // 2]),
        api.post_form("/v1/check", ("media", media.data[:200_000], NAME)),
        api.post("/v1/check", b"GIF89a" + media.data[10:]),
        api.post("/v1/check", CANARY * 200_000),
    ]
    return [answer.status for answer in answers]


# --- the watch itself -----------------------------------------------------------------------


def test_the_watch_catches_a_server_that_spools(tmp_path: Path, picture: Media) -> None:
    trace, tmp = tmp_path / "trace", tmp_path / "tmp"
    tmp.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    script = tmp_path / "other.py"
    script.write_text(OTHER_SERVER)
    process = subprocess.Popen([*strace(trace), sys.executable, str(script), str(port)],
                               env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp)})  # fmt: skip
    try:
        api = Api(port)
        wait_until(lambda: api.get("/health/ready").status == 200)
        seen = len(trace.read_text().splitlines())
        assert api.post_form("/take", ("media", picture.data, NAME)).status == 200
        time.sleep(0.3)
        caught = written(trace.read_text().splitlines()[seen:])
    finally:
        process.kill()
        process.wait()
    assert any(str(tmp) in path for path in caught), caught


@pytest.mark.parametrize(
    ("line", "caught"),
    [
        ('1 openat(AT_FDCWD, "/tmp/x", O_RDWR|O_CREAT|O_EXCL|O_CLOEXEC, 0600) = 5', ["/tmp/x"]),
        ('1 openat(AT_FDCWD, "/tmp", O_RDWR|O_EXCL|O_TMPFILE, 0600) = 5', ["/tmp"]),
        ('1 openat(AT_FDCWD, "/tmp/x", O_RDONLY|O_CLOEXEC) = 5', []),
        ('1 openat(AT_FDCWD, "/tmp/x", O_RDWR|O_CREAT, 0600) = -1 EACCES (Permission denied)', []),
        ('1 openat(AT_FDCWD, "/tmp/x", O_RDWR|O_CREAT, 0600 <unfinished ...>', ["/tmp/x"]),
        ("1 <... openat resumed>) = 5", []),
        ('1 creat("/tmp/x", 0600) = 5', ['1 creat("/tmp/x", 0600) = 5']),
        ('1 memfd_create("x", MFD_CLOEXEC) = 5', ['1 memfd_create("x", MFD_CLOEXEC) = 5']),
        ('1 rename("/tmp/a", "/tmp/b") = 0', ['1 rename("/tmp/a", "/tmp/b") = 0']),
        ('1 rename("/tmp/a", "/tmp/b") = -1 ENOENT (No such file)', []),
    ],
)
def test_the_watch_reads_its_lines(line: str, caught: list[str]) -> None:
    assert written([line]) == caught


# --- the server -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["picture", "video"])
def test_a_check_opens_no_file_for_writing_and_leaves_none(
    watched: Watched, request: pytest.FixtureRequest, name: str
) -> None:
    media: Media = request.getfixturevalue(name)
    before, seen = watched.files(), len(watched.lines())
    statuses = send_everything(watched.admin, media)
    assert statuses[:3] == [200, 200, 200]
    assert watched.admin.post("/v1/check", {"url": LINK}).status in {422, 502}
    assert watched.admin.post("/v1/hash", media.data).status == 200
    lines = watched.lines()[seen:]
    assert [path for path in written(lines) if Path(path).name not in STORE] == []
    assert {path for path in watched.files() if Path(path).name not in STORE} == {
        path for path in before if Path(path).name not in STORE
    }
    assert list(watched.tmp.iterdir()) == []


def test_the_watch_was_awake(watched: Watched) -> None:
    """It saw the store being made, and it follows the server, the zygote, its workers and the process that fetches."""
    assert any(path.endswith("staydown.db") for path in written(watched.lines()))
    traced = {int(line.split()[0]) for line in watched.lines() if line.split()[0].isdigit()}
    assert len(watched.server.pids()) == 5  # strace itself is one
    assert set(watched.server.pids()) <= traced


@pytest.mark.parametrize("name", ["picture", "video"])
def test_nothing_of_what_was_checked_is_kept_anywhere(
    watched: Watched, request: pytest.FixtureRequest, name: str
) -> None:
    media: Media = request.getfixturevalue(name)
    send_everything(watched.admin, media)
    watched.admin.post("/v1/check", {"url": LINK})
    watched.admin.post("/v1/check", {"url": "http://127.0.0.1/canary-path"})
    hashes = {"signals": [{"signal_type": "pdq", "hash": media.canaries[-1].decode()}]}
    assert watched.admin.post("/v1/check/hashes", hashes).status == 200
    wrong = {"signals": [{"signal_type": "pdq", "hash": media.canaries[-1].decode() + "zz"}]}
    assert watched.admin.post("/v1/check/hashes", wrong).status == 422
    watched.admin.get("/v1/banks/canary-bank-8d?canary-query=1")
    watched.admin.with_key("sd_canary_key-text").get("/v1/banks")
    words = (*media.canaries, b"canary", str(watched.admin.key).encode(), b"invalid/")
    first_lines = watched.server.log().split("{", 1)[0]
    log = watched.server.log().removeprefix(first_lines).encode()
    assert b'"event": "request"' in log
    metrics = watched.admin.get("/metrics").body
    assert b"staydown_verdicts_total" in metrics
    for word in words:
        assert word not in log
        assert word not in metrics
    assert watched.places_of((*media.canaries, b"canary")) == {}


def test_an_enrolment_keeps_hashes_and_no_media(watched: Watched, picture: Media, video: Media) -> None:
    bank = watched.admin.bank()
    for media in (picture, video):
        made = watched.admin.post_form(f"/v1/banks/{bank}/contents", ("media", media.data, NAME))
        assert made.status == 201
    kept = watched.places_of(picture.canaries)
    assert set(kept) & STORE, "the search for canaries finds what is there"
    assert hashlib.sha256(picture.data).digest() in set.union(*kept.values())
    assert watched.places_of((CANARY, NAME.encode())) == {}
    rows = [media.data[at : at + 64] for media in (picture, video) for at in range(5000, 60_000, 9000)]
    assert watched.places_of(tuple(row for row in rows if row.strip(CANARY))) == {}


def test_a_withdrawal_leaves_no_hash_behind(watched: Watched) -> None:
    media = marked(corpus.encode(corpus.picture(904, 200, 150), "PNG"))
    bank = watched.admin.bank()
    made = watched.admin.post(f"/v1/banks/{bank}/contents", media.data).json
    digests = tuple(canary for canary in media.canaries if canary != CANARY)
    assert watched.places_of(digests)
    assert watched.admin.call("DELETE", f"/v1/banks/{bank}/contents/{made['content_id']}?reason=x").status == 204
    assert watched.places_of(digests) == {}


def test_no_process_may_leave_a_core(watched: Watched) -> None:
    for pid in watched.server.pids():
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"Max core file size\s+0\s+0\s", limits), limits
    assert resource.getrlimit(resource.RLIMIT_CORE) is not None


def test_a_worker_knows_no_setting_and_holds_no_store(watched: Watched) -> None:
    children = [pid for pid in watched.server.pids() if pid != watched.server.process.pid]
    assert b"STAYDOWN_HOME" in Path(f"/proc/{watched.server.process.pid}/environ").read_bytes()
    for pid in children:
        assert b"STAYDOWN" not in Path(f"/proc/{pid}/environ").read_bytes()
        opened = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
        assert not [path for path in opened if "staydown.db" in path or "index" in path], opened
        assert str(watched.server.home).encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_what_is_kept_is_its_owners_alone(watched: Watched) -> None:
    for path in watched.server.home.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
