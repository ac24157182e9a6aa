"""The secret that keys are bound to: a file outside the database, which nobody else needs to read.

Beside the embedded database it is made at first use. For PostgreSQL the operator makes one and
gives it to all replicas; without it keys are kept as plain digests.
"""

import os
import secrets
import stat
from pathlib import Path

from indexer.errors import KeyFileBroken
from indexer.signing import make_secret_file
from service.errors import InvalidSettings

_BYTES, _LEAST_BYTES, _MOST_BYTES = 32, 16, 4096


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        mode, found = os.fstat(file.fileno()).st_mode, file.read(_MOST_BYTES).strip()
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InvalidSettings(f"{path}: others may change this secret; chmod 600 it")
    if len(found) < _LEAST_BYTES:
        raise InvalidSettings(f"{path}: a secret of at least {_LEAST_BYTES} bytes is expected, better {_BYTES} random")
    return found


def read_pepper(path: Path) -> bytes:
    """Return the secret in a file; InvalidSettings if it cannot be read, is short, or open to others."""
    try:
        return _read(path)
    except OSError as error:
        raise InvalidSettings(f"{path}: the keys' secret cannot be read: {error.strerror}") from error


def is_open(path: Path) -> bool:
    """Tell whether others may read a secret."""
    return bool(path.stat().st_mode & stat.S_IROTH)


def made_pepper(path: Path) -> tuple[bytes, bool]:
    """Return the secret in a file, and whether it was made just now; of several that start at once, one makes it."""
    if path.exists():
        return read_pepper(path), False
    try:
        made = make_secret_file(path, secrets.token_hex(_BYTES).encode() + b"\n")
    except KeyFileBroken as error:
        raise InvalidSettings(f"{path}: the keys' secret cannot be made: {error}") from error
    return read_pepper(path), made
