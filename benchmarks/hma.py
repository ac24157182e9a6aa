"""`python -m benchmarks.hma --hma FOLDER`: hash look-ups and picture checks, beside HMA itself.

FOLDER holds HMA's repository (`hasher-matcher-actioner`, of facebook/ThreatExchange) and an environment in
which it runs (`venv`, with gunicorn). It gets a PostgreSQL of its own, as many workers as we have, its index
cache in memory, and the same number of hashes; the same load goes to both services in turns. HMA's way of
serving closes a connection after each answer, so that each of its requests opens one.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import hma_app
from benchmarks.checks import filled
from benchmarks.end_to_end import CONNECTIONS, photos
from benchmarks.load import BadAnswer, load, request_of
from benchmarks.measure import HMA_FOLDER, ROOT, Action, command, timings
from benchmarks.report import Check, Floor, Section, Timing, skipped
from benchmarks.server import HOST, Client, ServerFailed, free_port, serving, stop
from service.auth import Role

OURS, THEIRS = "staydown", "HMA"
LOOK_UP, PICTURE = "hash look-up", "check of a 1 MP photo"
LOOK_UP_BAR = 40.0
WORKERS = 2
START_S = 180.0
_BOUNDARY = "staydown"


# --- HMA --------------------------------------------------------------------------------


@contextmanager
def database() -> Iterator[str]:
    """Run a PostgreSQL, that of the tests, with an empty database, and give its address."""
    sys.path.insert(0, str(ROOT / "tests"))
    with import_module("postgres").running(fsync=True) as server:
        yield str(server.empty_database())


def missing(folder: Path | None) -> str:
    """Say what HMA lacks to run here; nothing if it has all."""
    if folder is None:
        return "HMA was not named (--hma FOLDER)"
    needed = (folder / "hasher-matcher-actioner" / "src" / "OpenMediaMatch", folder / "venv" / "bin" / "gunicorn")
    absent = [path.relative_to(folder) for path in needed if not path.exists()]
    if absent:
        return f"the folder named has no {absent[0]}"
    return "" if list(Path("/usr/lib/postgresql").glob("*/bin/postgres")) else "HMA needs PostgreSQL"


def _ended(what: str, log: Path) -> ServerFailed:
    return ServerFailed(f"{what}: {log.read_text(errors='replace')[-2000:]}")


def _ready(port: int) -> bool:
    request = request_of("GET", "/status")
    try:
        load(port, [request], 1, 1)
    except (OSError, BadAnswer):
        return False
    return True


@contextmanager
def running(folder: Path, url: str, count: int) -> Iterator[int]:
    """Fill HMA, serve it, and give its port; ServerFailed."""
    source, python = folder / "hasher-matcher-actioner" / "src", folder / "venv" / "bin" / "python"
    with tempfile.TemporaryDirectory(prefix="staydown-bench-") as place, ExitStack() as stack:
        config, log, port = Path(place) / "config.py", Path(place) / "log", free_port()
        config.write_text(hma_app.CONFIG.format(uri=url.replace("postgresql://", "postgresql+psycopg2://")))
        told = stack.enter_context(log.open("ab"))
        named = {"OMM_CONFIG": str(config), "PYTHONPATH": str(source)}
        around: dict[str, Any] = {"env": os.environ | named, "cwd": source, "stdout": told, "stderr": told,
                                  "stdin": subprocess.DEVNULL}  # fmt: skip
        fill = [str(python), "-P", hma_app.__file__, str(source), str(count)]
        if subprocess.run(fill, **around, check=False).returncode:
            raise _ended("HMA could not be filled", log)
        serve = [str(python), "-m", "gunicorn", "--workers", str(WORKERS), "--bind", f"{HOST}:{port}",
                 "OpenMediaMatch.app:create_app()"]  # fmt: skip
        process = subprocess.Popen(serve, **around)
        stack.callback(stop, process)
        deadline = time.monotonic() + START_S
        while not _ready(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise _ended("HMA did not get ready", log)
            time.sleep(0.5)
        yield port


def _form(data: bytes) -> tuple[bytes, str]:
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="photo"; filename="x"\r\n\r\n'
    return head.encode() + data + f"\r\n--{_BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={_BOUNDARY}"


def asked_of_hma(codes: Sequence[str], files: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Return the requests of look-ups, and of checks."""
    look_ups = [request_of("GET", f"/m/lookup?signal_type=pdq&signal={code}") for code in codes]
    forms = map(_form, files)
    return look_ups, [request_of("POST", "/m/lookup", body, Content_Type=kind) for body, kind in forms]


# --- staydown ---------------------------------------------------------------------------


def asked_of_us(key: str, codes: Sequence[str], files: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Return the same requests to us."""
    bodies = [json.dumps({"signals": [{"signal_type": "pdq", "hash": code}]}).encode() for code in codes]
    bearer = f"Bearer {key}"
    look_ups = [request_of("POST", "/v1/check/hashes", body, Content_Type="application/json", Authorization=bearer)
                for body in bodies]  # fmt: skip
    return look_ups, [request_of("POST", "/v1/check", data, Content_Type="application/octet-stream",
                                 Authorization=bearer) for data in files]  # fmt: skip


@contextmanager
def ourselves(count: int) -> Iterator[tuple[int, str]]:
    """Serve as many random hashes; give the port and a key."""
    with filled(count) as engine:
        _, key = engine.keys.create(Role.LOOKUP.value, name="bench", actor="bench")
        engine.save_index()
        with serving(engine.settings.home, workers=str(WORKERS)) as server:
            yield server.port, key


# --- both -------------------------------------------------------------------------------


def finds(port: int, code: str) -> bool:
    """Tell whether HMA finds a hash in its bank."""
    with Client(port) as client:
        return hma_app.BANK in client.request("GET", f"/m/lookup?signal_type=pdq&signal={code}")[1]


def measured(folder: Path, count: int, items: tuple[int, int], rounds: int) -> Section:
    """Measure look-ups and checks: so many items of each a time."""
    files, known = photos(8).files, hma_app.codes_of(64)
    with ExitStack() as stack:
        theirs = stack.enter_context(running(folder, stack.enter_context(database()), count))
        ours, key = stack.enter_context(ourselves(count))
        unknown = [f"{int(code, 16) ^ (1 << 256) - 1:064x}" for code in known]
        pairs = zip(asked_of_us(key, unknown, files), asked_of_hma(unknown, files), items, (LOOK_UP, PICTURE),
                    strict=True)  # fmt: skip
        times: tuple[Timing, ...] = ()
        for mine, peer, size, title in pairs:
            own: dict[str, Action] = {OURS: partial(load, ours, mine, CONNECTIONS, 10 * size)}
            other: dict[str, Action] = {THEIRS: partial(load, theirs, peer, CONNECTIONS, size)}
            times += timings(title, own, other, rounds, {OURS: 10.0 * size, THEIRS: float(size)})
        found = sum(finds(theirs, code) for code in known[:8])
    note = (f"{count:,} random PDQ hashes in each, {WORKERS} workers each, {CONNECTIONS} connections, the same load to "
            "both in turns. Ours also searches for the negative, and to the wider radius of `review`.")  # fmt: skip
    check = Check("HMA finds what it holds", found == 8, f"{found} of 8 hashes")
    return Section("HMA", note, times, (), (check,), (Floor(LOOK_UP, THEIRS, LOOK_UP_BAR, goal=True),))


def collect(short: bool) -> Section:
    """Measure, where HMA is."""
    named = os.environ.get(HMA_FOLDER)
    folder = Path(named) if named else None
    if why := missing(folder):
        return skipped("HMA", why)
    assert folder is not None
    return measured(folder, 10_000, (60, 20), 3) if short else measured(folder, 100_000, (200, 60), 9)


if __name__ == "__main__":
    sys.exit(command("hma", collect))
