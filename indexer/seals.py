"""Hashes at rest: columns that seal what they are given and open what they have, by keys outside the database.

A sealed value is MAGIC, the id of its key, and AES-256-GCM with a nonce of its own; where equal values
have to be found by the database, AES-256-SIV, which seals equal values equally. An id is made from its
key, so that a wrong key is told from a missing one at once. Values without MAGIC are plain: a store may
hold both, and values of several keys, while it is sealed or its key is changed.

The columns find the keys at the dialect of their engine: SQLAlchemy hands that to a type, and nothing else.
"""

import base64
import hashlib
import hmac
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from sqlalchemy import JSON, ColumnElement, Dialect, Engine, LargeBinary, String, Table, TypeDecorator, type_coerce
from sqlalchemy.types import TypeEngine

from indexer.errors import KeyFileBroken, KeyMissing, StoreBroken

MAGIC = b"\xff\xffS1"  # no sketch begins like this, and nothing plain that is as long as a sealed value of its kind
KEY_BYTES, _ID_BYTES, _NONCE_BYTES, _TAG_BYTES = 32, 5, 12, 16
HEAD_BYTES = len(MAGIC) + _ID_BYTES
_LEAST_BYTES = HEAD_BYTES + _NONCE_BYTES + _TAG_BYTES  # more than a SHA-256 has
_ABOUT = b"staydown"


def key_id_of(key: bytes) -> str:
    """Return the id of a key, which tells nothing of it."""
    return hmac.digest(key, b"staydown key id", hashlib.sha256)[:_ID_BYTES].hex()


@dataclass(frozen=True, slots=True)
class Key:
    """One key, as the ciphers that are made from it."""

    head: bytes
    sealing: AESGCM
    matching: AESSIV

    @classmethod
    def of(cls, key: bytes) -> "Key":
        """Return the ciphers; each has a key of its own, made from this one."""
        parts = [hmac.digest(key, b"staydown %d" % number, hashlib.sha256) for number in range(3)]
        head = MAGIC + bytes.fromhex(key_id_of(key))
        return cls(head, AESGCM(parts[0]), AESSIV(parts[1] + parts[2]))


def read_keys(path: Path) -> dict[str, Key]:
    """Return the keys in a file, base64, a line each, in order; none if there is no file. KeyFileBroken."""
    try:
        lines = [line for line in path.read_text().split("\n") if line and not line.startswith("#")]
        raw = [base64.b64decode(line, validate=True) for line in lines]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise KeyFileBroken(f"{path.name} cannot be read: {type(error).__name__}") from error
    if any(len(key) != KEY_BYTES for key in raw):
        raise KeyFileBroken(f"{path.name} holds something that is no key")
    return {key_id_of(key): Key.of(key) for key in raw}


class Ring:
    """The keys that one store is read with, and the one that it is written with, if it is sealed at all."""

    def __init__(self, path: Path | None = None) -> None:
        """Read the file; KeyFileBroken."""
        self.path = path
        self.current: str | None = None
        self.keys: dict[str, Key] = {} if path is None else read_keys(path)

    def use(self, key_id: str | None) -> None:
        """Write with this key from now on, as the store says; KeyMissing. The file is read anew where it is unknown.

        Whoever has no file at all, as who only copies rows, is told where something has to be sealed or opened.
        """
        if key_id != self.current:
            if key_id is not None and self.path is not None:
                self._key(key_id)
            self.current = key_id

    def _key(self, key_id: str) -> Key:
        if key_id not in self.keys and self.path is not None:
            self.keys = read_keys(self.path)
        if key_id not in self.keys:
            raise KeyMissing(f"hashes are sealed with key {key_id}, which is not in the key file")
        return self.keys[key_id]

    def key_in_use(self) -> Key:
        """Return the key that the store is written with; KeyMissing."""
        return self._key(str(self.current))

    def seal(self, value: bytes) -> bytes:
        """Seal a value, if the store is; nothing stays nothing."""
        if self.current is None or not value:
            return value
        key, nonce = self._key(self.current), os.urandom(_NONCE_BYTES)
        return key.head + nonce + key.sealing.encrypt(nonce, value, _ABOUT)

    def seal_equally(self, value: bytes) -> bytes:
        """Seal a value of 12 bytes or more so that equal ones stay equal."""
        return value if self.current is None or not value else _matched(self._key(self.current), value)

    def sealed_forms(self, value: bytes) -> list[bytes]:
        """Return what a value may look like in the store where it is sealed equally: by each key once."""
        return [_matched(key, value) for key in self.keys.values()]

    def open(self, value: bytes) -> bytes:
        """Open what `seal` made; what is plain is returned. KeyMissing, StoreBroken."""
        if not value or not is_sealed(value):
            return value
        key = self._key(value[len(MAGIC) : HEAD_BYTES].hex())
        try:
            nonce = value[HEAD_BYTES : HEAD_BYTES + _NONCE_BYTES]
            return key.sealing.decrypt(nonce, value[HEAD_BYTES + _NONCE_BYTES :], _ABOUT)
        except InvalidTag as error:
            raise _CHANGED from error

    def open_equal(self, value: bytes) -> bytes:
        """Open what was sealed equally; what is plain is returned. KeyMissing, StoreBroken."""
        if not value or not is_sealed(value):
            return value
        try:
            return self._key(value[len(MAGIC) : HEAD_BYTES].hex()).matching.decrypt(value[HEAD_BYTES:], [_ABOUT])
        except InvalidTag as error:
            raise _CHANGED from error


_CHANGED = StoreBroken("a sealed hash is not as it was written")


def _matched(key: Key, value: bytes) -> bytes:
    return key.head + key.matching.encrypt(value, [_ABOUT])


def is_sealed(value: bytes) -> bool:
    """Tell whether a value of a sealed column is sealed."""
    return value[: len(MAGIC)] == MAGIC and len(value) >= _LEAST_BYTES


_PIECE_BYTES = 1 << 22


def seal_pieces(ring: Ring, pieces: Iterator[bytes | memoryview]) -> Iterator[bytes]:
    """Yield a file's pieces sealed one by one; none can be changed, moved, left out or added unnoticed.

    Each has its number and whether it is the last bound to it, and all have a nonce of this file.
    """
    key, file, number, held = ring.key_in_use(), os.urandom(_NONCE_BYTES - 4), 0, bytearray()
    yield key.head + file
    for piece in pieces:
        held += piece
        while len(held) > _PIECE_BYTES:
            yield key.sealing.encrypt(file + number.to_bytes(4, "big"), bytes(held[:_PIECE_BYTES]), b"more")
            del held[:_PIECE_BYTES]
            number += 1
    yield key.sealing.encrypt(file + number.to_bytes(4, "big"), bytes(held), b"last")


def open_pieces(ring: Ring, file: BinaryIO) -> bytearray | None:
    """Return what `seal_pieces` sealed, in memory; None if it is not that, byte for byte, or its key is gone."""
    head = file.read(HEAD_BYTES + _NONCE_BYTES - 4)
    key, nonce = ring.keys.get(head[len(MAGIC) : HEAD_BYTES].hex()), head[HEAD_BYTES:]
    whole, number = bytearray(), 0
    piece = file.read(_PIECE_BYTES + _TAG_BYTES)
    while head.startswith(MAGIC) and key is not None and piece:
        after = file.read(_PIECE_BYTES + _TAG_BYTES)
        try:
            whole += key.sealing.decrypt(nonce + number.to_bytes(4, "big"), piece, b"more" if after else b"last")
        except (InvalidTag, ValueError):
            return None
        piece, number = after, number + 1
    return whole if number else None


_ATTRIBUTE, PLAIN = "staydown_ring", Ring()


def give_ring(engine: Engine, ring: Ring) -> None:
    """Let the columns of a store use these keys."""
    setattr(engine.dialect, _ATTRIBUTE, ring)


def ring_of(dialect: Dialect) -> Ring:
    """Return the keys that the columns of a store use."""
    ring: Ring = getattr(dialect, _ATTRIBUTE, PLAIN)
    return ring


class Sealed(TypeDecorator[bytes]):
    """Bytes that are sealed: equal ones differ."""

    impl, cache_ok = LargeBinary, True

    def process_bind_param(self, value: bytes | None, dialect: Dialect) -> bytes | None:
        """Seal."""
        return None if value is None else ring_of(dialect).seal(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Open: by one call a row, of which there may be millions."""
        return ring_of(dialect).open


class SealedEqually(TypeDecorator[bytes]):
    """Bytes that are sealed so that equal ones stay equal; to be asked for by `among`."""

    impl, cache_ok = LargeBinary, True

    def process_bind_param(self, value: bytes | None, dialect: Dialect) -> bytes | None:
        """Seal."""
        return None if value is None else ring_of(dialect).seal_equally(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        """Open."""
        return ring_of(dialect).open_equal


class SealedHex(TypeDecorator[str]):
    """Bytes as hex, sealed so that equal ones stay equal: then as base64. To be asked for by `among`."""

    impl, cache_ok = String, True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Make room for what is sealed; SQLite takes text of any length, and changes a column by copying its table."""
        return String(64 if dialect.name == "sqlite" else 128)

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Seal."""
        ring = ring_of(dialect)
        return value if value is None or ring.current is None else as_text(ring.seal_equally(bytes.fromhex(value)))

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """Open."""
        sealed = value is not None and value.startswith(_TEXT_MAGIC)
        return ring_of(dialect).open_equal(base64.b64decode(value)).hex() if sealed else value


_TEXT_MAGIC = base64.b64encode(MAGIC)[:5].decode()  # no hex


def as_text(form: bytes) -> str:
    """Return a sealed form as it stands in a column of text."""
    return base64.b64encode(form).decode()


def forms_of(column: ColumnElement[Any], ring: Ring, values: Sequence[Any]) -> list[Any]:
    """Return all that these values may look like in a column, as the database compares it."""
    if not ring.keys:
        return list(values)
    if isinstance(column.type, SealedHex):
        return [*values, *(as_text(form) for value in values for form in ring.sealed_forms(bytes.fromhex(value)))]
    return [*values, *(form for value in values for form in ring.sealed_forms(value))]


def among(column: ColumnElement[Any], ring: Ring, values: Sequence[Any]) -> ColumnElement[bool]:
    """Return the condition that a column which is sealed equally has one of these values, sealed by whatever key."""
    kind = String() if isinstance(column.type, SealedHex) else LargeBinary()
    return type_coerce(column, kind).in_(forms_of(column, ring, values))


class SealedJson(TypeDecorator[Any]):
    """JSON that is sealed as a whole."""

    impl, cache_ok = JSON, True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Seal."""
        if ring_of(dialect).current is None:
            return value
        return {"sealed": base64.b64encode(ring_of(dialect).seal(json.dumps(value).encode())).decode()}

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """Open."""
        if isinstance(value, dict) and value.keys() == {"sealed"}:
            return json.loads(ring_of(dialect).open(base64.b64decode(value["sealed"])))
        return value


SEALED = (Sealed, SealedEqually, SealedHex)


def sealed_rows(
    dialect: Dialect, table: Table, names: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> Sequence[tuple[Any, ...]]:
    """Return rows that go to the driver as they are, with what is to be sealed sealed."""
    kinds = {place: table.c[name].type for place, name in enumerate(names)}
    sealing = [(place, kind) for place, kind in kinds.items() if isinstance(kind, SEALED)]
    if ring_of(dialect).current is None or not sealing:
        return rows
    columns = [list(column) for column in zip(*rows, strict=True)]
    for place, kind in sealing:
        columns[place] = [kind.process_bind_param(value, dialect) for value in columns[place]]
    return list(zip(*columns, strict=True))
