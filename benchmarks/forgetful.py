"""A file system in memory that forgets what was not fsynced, tears what it keeps, and fails on demand (FUSE).

The model is the strict reading of POSIX, stricter than ext4:

- What is written to a file is durable once *that file* was fsynced.
- Names (create, rename, unlink, mkdir) are durable once *their folder* was fsynced.
- A cut stops everything at once: whatever comes later gets EIO, and `cut` writes what is durable
  into a folder of a real file system. Nothing else is left.
- Torn: sectors of 512 bytes may reach the disk at any time and in any order, before the cut and at
  it, so that a page of 4 KiB may be half old and half new. A file's size goes with what reached it.

The kernel's page cache is left on, since SQLite maps its `-shm` file into memory: writes come
through at once (no write-back cache), and WAL mode works as on a disk. Nothing of SQLite is set
differently from production. `kernel_cache` keeps FUSE from dropping that cache at each open, which
no file system on a disk does: after a failed write, the mapped file would go back in time.

`Forgetful` starts the file system in a process of its own and talks to it over its pipes.
"""

import ctypes.util
import errno
import json
import os
import random
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SECTOR = 512
ROOT = Path(__file__).parent.parent
WRITING = frozenset({"write", "create", "truncate", "rename", "unlink", "mkdir", "rmdir"})
SYNCING = frozenset({"fsync", "fsyncdir"})
# What fails in which state of a disk. A full one still overwrites, syncs, and lets names go.
FAULTS = {
    "ENOSPC": frozenset({"write", "create", "mkdir"}),
    "EIO": WRITING | SYNCING,
    "EROFS": WRITING,
}


def absent() -> str | None:
    """Return why no such file system can be mounted here, or None."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened"
    if ctypes.util.find_library("fuse3") is None:
        return "libfuse3 is not installed (on Debian: apt-get install fuse3)"
    return None


@dataclass(eq=False)
class File:
    """A file: as programs see it, and as the disk has it. `dirty` sectors differ."""

    mode: int
    live: bytearray = field(default_factory=bytearray)
    disk: bytearray = field(default_factory=bytearray)
    dirty: set[int] = field(default_factory=set)

    def write(self, data: bytes, offset: int) -> None:
        """Change what programs see."""
        end = offset + len(data)
        start = min(offset, len(self.live))
        if len(self.live) < end:
            self.live.extend(bytes(end - len(self.live)))
        self.live[offset:end] = data
        self.dirty.update(range(start // SECTOR, (end + SECTOR - 1) // SECTOR))

    def truncate(self, length: int) -> None:
        """Cut or lengthen it."""
        if length > len(self.live):
            self.write(bytes(length - len(self.live)), len(self.live))
        else:
            self.dirty.update(range(length // SECTOR, len(self.live) // SECTOR + 1))
            del self.live[length:]

    def sync(self) -> None:
        """Make all of it durable."""
        self._keep(self.dirty)
        del self.disk[len(self.live) :]
        self.dirty.clear()

    def tear(self, chance: random.Random) -> None:
        """Let some of the dirty sectors reach the disk, in no order."""
        share = chance.random()
        kept = {sector for sector in self.dirty if chance.random() < share}
        self._keep(kept)
        self.dirty -= kept

    def _keep(self, sectors: set[int]) -> None:
        for sector in sectors:
            start = sector * SECTOR
            data = self.live[start : start + SECTOR]
            if len(self.disk) < start + len(data):
                self.disk.extend(bytes(start + len(data) - len(self.disk)))
            self.disk[start : start + len(data)] = data


@dataclass(eq=False)
class Folder:
    """A folder: its names as programs see them, and as the disk has them."""

    mode: int = stat.S_IFDIR | 0o755
    live: dict[str, "File | Folder"] = field(default_factory=dict)
    disk: dict[str, "File | Folder"] = field(default_factory=dict)


class Disk:
    """The state of the file system, and its faults."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.root = Folder()
        self.open: dict[int, File] = {}
        self.gone = self.torn = False
        self.chance = random.Random(0)
        self.failing: frozenset[str] = frozenset()
        self.error, self.after, self.calls = errno.EIO, 0, 0

    def find(self, path: str) -> File | Folder:
        """Return what a path names; ENOENT."""
        node: File | Folder = self.root
        for name in filter(None, path.split("/")):
            if not isinstance(node, Folder) or name not in node.live:
                raise OSError(errno.ENOENT, path)
            node = node.live[name]
        return node

    def folder(self, path: str) -> tuple[Folder, str]:
        """Return the folder that a path is in, and its name there."""
        above, _, name = path.rpartition("/")
        found = self.find(above)
        if not isinstance(found, Folder):
            raise OSError(errno.ENOTDIR, path)
        return found, name

    def allow(self, call: str, *, grows: bool = True) -> None:
        """Raise if the disk is gone, or if this call fails by now."""
        if self.gone:
            raise OSError(errno.EIO, "the power is off")
        if call in self.failing and (grows or self.error != errno.ENOSPC):
            self.calls += 1
            if self.calls > self.after:
                raise OSError(self.error, call)

    def fail(self, error: str, after: int = 0) -> None:
        """Let what FAULTS names fail from the call number `after` on."""
        with self.lock:
            self.failing, self.error, self.after, self.calls = FAULTS[error], getattr(errno, error), after, 0

    def heal(self) -> None:
        """End the fault."""
        with self.lock:
            self.failing = frozenset()

    def tearing(self, torn: bool, seed: int) -> None:
        """Begin to write sectors back at random times, or end that."""
        with self.lock:
            self.torn, self.chance = torn, random.Random(seed)

    def cut(self, of: str, to: str) -> None:
        """Cut the power: write what is durable of a folder into another one, and forget all there was."""
        with self.lock:
            self.gone = True
            node: File | Folder | None = self.root
            for name in filter(None, of.split("/")):
                node = node.disk.get(name) if isinstance(node, Folder) else None
            Path(to).mkdir(parents=True)
            if isinstance(node, Folder):
                self._write_out(node, Path(to))

    def _write_out(self, folder: Folder, to: Path) -> None:
        for name, node in folder.disk.items():
            if isinstance(node, Folder):
                (to / name).mkdir(mode=stat.S_IMODE(node.mode))
                self._write_out(node, to / name)
                continue
            if self.torn:
                node.tear(self.chance)
            (to / name).write_bytes(node.disk)
            (to / name).chmod(stat.S_IMODE(node.mode))

    def restart(self) -> None:
        """Turn the power on again, over an empty disk."""
        with self.lock:
            self.root, self.gone, self.torn, self.failing = Folder(), False, False, frozenset()


class Calls:
    """What the kernel asks, on one disk. The library takes any object with these methods."""

    def __init__(self, disk: Disk) -> None:
        self._disk, self._next = disk, 1

    def __call__(self, call: str, path: str, *arguments: Any) -> Any:
        """Answer one call."""
        with self._disk.lock:
            try:
                self._disk.allow(call, grows=call != "write" or self._grows(path, *arguments))
            except OSError:
                if call == "fsync":  # Linux takes pages whose write-back failed for clean: they never reach the disk
                    self._file(path, arguments[-1]).dirty.clear()
                raise
            return getattr(self, call)(path, *arguments)

    def _file(self, path: str, handle: int | None) -> File:
        found = self._disk.open.get(handle or 0) or self._disk.find(path)
        if not isinstance(found, File):
            raise OSError(errno.EISDIR, path)
        return found

    def _grows(self, path: str, data: bytes, offset: int, handle: int) -> bool:
        return offset + len(data) > len(self._file(path, handle).live)

    def _opened(self, file: File) -> int:
        self._next += 1
        self._disk.open[self._next] = file
        return self._next

    def getattr(self, path: str, handle: int | None = None) -> dict[str, Any]:
        """Tell what is known of a file or folder."""
        found = self._disk.open.get(handle or 0) or self._disk.find(path)
        size = len(found.live) if isinstance(found, File) else 0
        return {"st_mode": found.mode, "st_nlink": 1, "st_size": size, "st_uid": os.getuid(), "st_gid": os.getgid()}

    def readdir(self, path: str, _: int) -> list[str]:
        """List a folder."""
        found = self._disk.find(path)
        return [".", "..", *found.live] if isinstance(found, Folder) else []

    def create(self, path: str, mode: int, _: Any = None) -> int:
        """Make a file and open it."""
        folder, name = self._disk.folder(path)
        made = folder.live[name] = File(stat.S_IFREG | stat.S_IMODE(mode))
        return self._opened(made)

    def open(self, path: str, _: int) -> int:
        """Open a file."""
        return self._opened(self._file(path, None))

    def release(self, _: str, handle: int) -> int:
        """Close a file."""
        self._disk.open.pop(handle, None)
        return 0

    def read(self, path: str, size: int, offset: int, handle: int) -> bytes:
        """Read as programs see it."""
        return bytes(self._file(path, handle).live[offset : offset + size])

    def write(self, path: str, data: bytes, offset: int, handle: int) -> int:
        """Write; nothing of it is durable, unless the disk happens to write it back."""
        file, disk = self._file(path, handle), self._disk
        file.write(data, offset)
        if disk.torn and disk.chance.random() < 0.1:
            file.tear(disk.chance)
        return len(data)

    def truncate(self, path: str, length: int, handle: int | None = None) -> int:
        """Change a file's size."""
        self._file(path, handle).truncate(length)
        return 0

    def fsync(self, path: str, _: int, handle: int) -> int:
        """Make a file's content durable."""
        self._file(path, handle).sync()
        return 0

    def fsyncdir(self, path: str, _: int, __: int) -> int:
        """Make a folder's names durable."""
        found = self._disk.find(path)
        if isinstance(found, Folder):
            found.disk = dict(found.live)
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        """Make a folder."""
        folder, name = self._disk.folder(path)
        folder.live[name] = Folder(stat.S_IFDIR | stat.S_IMODE(mode))
        return 0

    def unlink(self, path: str) -> int:
        """Take a name away."""
        self._disk.find(path)
        folder, name = self._disk.folder(path)
        del folder.live[name]
        return 0

    rmdir = unlink

    def rename(self, old: str, new: str) -> int:
        """Give another name, in place of what has it."""
        moved = self._disk.find(old)
        (source, name), (target, wanted) = self._disk.folder(old), self._disk.folder(new)
        del source.live[name]
        target.live[wanted] = moved
        return 0

    def chmod(self, path: str, mode: int) -> int:
        """Set the permissions."""
        found = self._disk.find(path)
        found.mode = stat.S_IFMT(found.mode) | stat.S_IMODE(mode)
        return 0


def _obey(disk: Disk) -> None:
    """Do what comes on standard input, one JSON line a command, and say so."""
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        getattr(disk, name)(*arguments)
        sys.stdout.write("done\n")
        sys.stdout.flush()


def main(mountpoint: str) -> None:
    """Mount one; ends when it is unmounted."""
    os.environ["FUSE_LIBRARY_NAME"] = "fuse3"
    import mfusepy  # loads libfuse: only where a file system is mounted  # noqa: PLC0415

    class Operations(mfusepy.Operations):  # type: ignore[misc, unused-ignore]
        """The calls that the disk answers; for all others the library's answer holds."""

        use_ns = True

    def answered(name: str) -> Any:
        def method(_: Any, path: str, *arguments: Any) -> Any:
            try:
                return calls(name, path, *arguments)
            except OSError as error:
                raise mfusepy.FuseOSError(error.errno or errno.EIO) from error

        return method

    disk = Disk()
    calls = Calls(disk)
    for name in vars(Calls):
        if not name.startswith("_"):
            setattr(Operations, name, answered(name))
    threading.Thread(target=_obey, args=(disk,), daemon=True).start()
    with suppress(RuntimeError):  # that is how it says that a signal ended it
        mfusepy.FUSE(Operations(), mountpoint, foreground=True, nothreads=True, kernel_cache=True, fsname="forgetful")


class Forgetful:
    """A mounted forgetful file system, for as long as the block lasts."""

    def __init__(self, mountpoint: Path) -> None:
        """It is mounted at a folder, which is made."""
        self.path = mountpoint

    def __enter__(self) -> Self:
        self.path.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.forgetful", str(self.path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        ends = time.monotonic() + 30
        while not self.path.is_mount():
            if self._process.poll() is not None or time.monotonic() > ends:
                raise OSError(f"the forgetful file system could not be mounted at {self.path}")
            time.sleep(0.02)
        return self

    def ask(self, command: str, *arguments: Any) -> None:
        """Give it one command: a method of Disk."""
        if self._process.stdin is None or self._process.stdout is None:
            raise OSError("not mounted")
        self._process.stdin.write(json.dumps([command, *arguments]) + "\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "done\n":
            raise OSError(f"the forgetful file system failed at {command}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.communicate(timeout=30)


if __name__ == "__main__":
    main(sys.argv[1])
