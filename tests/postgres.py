"""A PostgreSQL server of the tests' own: binaries of Debian's package, a folder of its own, a Unix socket only."""

import ctypes
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lacking import lacking
from sqlalchemy import create_engine, text

from indexer.store import Store

WAIT_S = 30.0
_PR_SET_PDEATHSIG = 1
_TEMPLATE = "staydown_template"


def binaries() -> Path | None:
    """Return the folder of the newest server's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[4]))
    return found[-1].parent if found else None


def needed() -> Path:
    """Return the folder of the programs; without it the test is skipped, and fails where CI=true."""
    folder = binaries()
    if folder is None:
        lacking("no PostgreSQL server: apt-get install postgresql")
    return folder


def _unprivileged() -> dict[str, Any]:
    """Return as whom the server runs: it refuses to be root."""
    if os.geteuid() != 0:
        return {}
    return {"user": "nobody", "group": "nogroup", "extra_groups": []}


def _die_with_us() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


class Postgres:
    """One server. Nothing but this process's user reaches it."""

    def __init__(self, folder: Path, *, fsync: bool) -> None:
        self._bin, self._fsync = needed(), fsync
        self.folder = folder
        self.data = folder / "data"
        self.process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """Make an empty cluster, its administrator called `staydown`."""
        self._run("initdb", "--pgdata", self.data, "--username", "staydown", "--auth", "trust", "--encoding", "UTF8",
                  "--locale", "C.UTF-8", "--no-sync", "--no-instructions")  # fmt: skip

    def copy_of(self, other: "Postgres") -> None:
        """Make this one a hot standby of another."""
        self._run("pg_basebackup", "--pgdata", self.data, "--write-recovery-conf", "--checkpoint", "fast", "--no-sync",
                  "--dbname", f"host={other.folder} user=staydown")  # fmt: skip

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = subprocess.run([self._bin / program, *arguments], capture_output=True, text=True, check=False,
                              cwd=self.folder, env={"PATH": os.environ["PATH"]}, **_unprivileged())  # fmt: skip
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        settings = {"unix_socket_directories": self.folder, "listen_addresses": "", "max_connections": 200,
                    "fsync": "on" if self._fsync else "off", "shared_buffers": "64MB"}  # fmt: skip
        given = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._bin / "postgres", "-D", self.data, *given], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                cwd=self.folder, preexec_fn=_die_with_us, **_unprivileged(),  # noqa: PLW1509
            )  # fmt: skip
        deadline = time.monotonic() + WAIT_S
        while "ready" not in self.status():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.02)

    def status(self) -> str:
        """Return the last line of the server's own file about itself, which says whether it is ready or standby."""
        try:
            return self.data.joinpath("postmaster.pid").read_text().rpartition("\n")[0].rpartition("\n")[2]
        except OSError:
            return ""

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT in order, SIGQUIT as a crash, whose recovery the next start does."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(WAIT_S)
            self.process = None

    def url(self, database: str = "postgres") -> str:
        """Return the address of a database."""
        return f"postgresql://staydown@/{database}?host={self.folder}"

    def sql(self, statement: str, database: str = "postgres", **values: Any) -> list[Any]:
        """Run a statement by itself, as somebody else; returns its rows."""
        engine = create_engine(self.url(database).replace("://", "+psycopg://"), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                done = connection.execute(text(statement), values)
                return list(done.all()) if done.returns_rows else []
        finally:
            engine.dispose()

    def new_database(self) -> str:
        """Make a store that is migrated and empty; returns its address."""
        if not self.sql("SELECT 1 FROM pg_database WHERE datname = :name", name=_TEMPLATE):
            self.sql(f"CREATE DATABASE {_TEMPLATE}")
            Store(self.url(_TEMPLATE)).close()
        return self.empty_database(f"TEMPLATE {_TEMPLATE} STRATEGY FILE_COPY", same=True)

    def empty_database(self, how: str = "", *, same: bool = False) -> str:
        """Make a database with nothing in it; returns its address."""
        name = f"t{secrets.token_hex(8)}"
        self.sql(f"CREATE DATABASE {name} {how}")
        if same:  # the stores of two tests are not one store
            self.sql("UPDATE state SET store_id = :id", name, id=secrets.token_hex(16))
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database, whoever is connected."""
        self.sql(f"DROP DATABASE {name_of(url)} WITH (FORCE)")


def name_of(url: str) -> str:
    """Return the name of the database that an address leads to."""
    return url.partition("?")[0].rpartition("/")[2]


@contextmanager
def folder() -> Iterator[Path]:
    """Make a folder with a short name (a socket's is limited), which the server's user may enter."""
    made = Path(tempfile.mkdtemp(prefix="sdpg", dir="/tmp"))
    try:
        if os.geteuid() == 0:
            shutil.chown(made, "nobody", "nogroup")
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def running(*, fsync: bool) -> Iterator[Postgres]:
    """Run a server for a while."""
    needed()
    with folder() as made:
        server = Postgres(made, fsync=fsync)
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.stop(signal.SIGQUIT)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server shared by all tests that need no durability: a database each."""
    with running(fsync=False) as server:
        yield server
