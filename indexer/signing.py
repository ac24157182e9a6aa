"""What leaves the house is signed: Ed25519, by a key in a file outside the database.

Whoever can write the database can write a whole audit log anew, links and all. A signed head of it
that was taken before, and kept elsewhere, tells.
"""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from indexer.engines import make_folder, sync_folder
from indexer.errors import KeyFileBroken, NotSigned


def make_secret_file(path: Path, data: bytes) -> bool:
    """Write a new file that its owner alone can read, durably; False if there is one of this name. KeyFileBroken."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        make_folder(path.parent)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _place(part, path)
        sync_folder(path.parent)
    except FileExistsError:
        return False
    except OSError as error:
        raise KeyFileBroken(f"{path.name} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    return True


def _place(part: Path, path: Path) -> None:
    """Give a file its name: whole or not at all, and of several that start at once, one does. FileExistsError."""
    try:
        os.link(part, path)
    except PermissionError:  # a file system without hard links; there two may start at once but for a moment
        if path.exists():
            raise FileExistsError from None
        part.rename(path)


def _signed_bytes(document: Mapping[str, Any]) -> bytes:
    said = {name: value for name, value in document.items() if name != "signature"}
    return json.dumps(said, sort_keys=True, separators=(",", ":")).encode()


class Signer:
    """The key of this installation, made when it is first asked to sign."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _key(self) -> Ed25519PrivateKey:
        if not self._path.exists():
            plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            make_secret_file(self._path, Ed25519PrivateKey.generate().private_bytes(*plain))
        try:
            key = serialization.load_pem_private_key(self._path.read_bytes(), None)
        except (OSError, ValueError, TypeError) as error:
            raise KeyFileBroken(f"{self._path.name} holds no key that signs: {type(error).__name__}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyFileBroken(f"{self._path.name} holds no Ed25519 key")
        return key

    def public_key(self) -> str | None:
        """Return the public half in hex; None if there is no key yet. KeyFileBroken."""
        return self._key().public_key().public_bytes_raw().hex() if self._path.exists() else None

    def signed(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Return a document with the public key and the signature; KeyFileBroken."""
        key = self._key()
        whole = {**document, "public_key": key.public_key().public_bytes_raw().hex()}
        return {**whole, "signature": key.sign(_signed_bytes(whole)).hex()}


def check_signed(document: Any, public_key: str | None) -> dict[str, Any]:
    """Return what a document says; NotSigned unless its signature is right, and by this key if one is named."""
    try:
        by, signature = bytes.fromhex(document["public_key"]), bytes.fromhex(document["signature"])
        Ed25519PublicKey.from_public_bytes(by).verify(signature, _signed_bytes(document))
    except (InvalidSignature, ValueError, TypeError, KeyError) as error:
        raise NotSigned from error
    if public_key is not None and by.hex() != public_key.lower():
        raise NotSigned("this is signed by another key")
    return dict(document)
