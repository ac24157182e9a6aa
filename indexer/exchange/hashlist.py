"""Lists of ready-made hashes, in and out: `csv` and `jsonl`, as `manifest` describes them.

What goes out comes in again: one line a hash, grouped by `content`. Beside it lies a signature, `FILE.sig`.
"""

import csv
import gc
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hashing.signals import PROFILES, VIEWS, to_hex
from indexer.errors import InvalidManifest, NotSigned
from indexer.exchange.columns import read_list
from indexer.lists import Listed, ListEnroller
from indexer.record import Record
from indexer.signing import Signer, check_signed

FORMATS = ("csv", "jsonl")
COLUMNS = ("content", "case", "labels", "signal_type", "hash", "quality", "timestamp_s", "profile", "view")
BATCH = 20_000
SIGNED = "staydown-export/1"


def check_format(name: str) -> None:
    """Refuse a format that is not known; InvalidManifest."""
    if name not in FORMATS:
        raise InvalidManifest(f"unknown format {name!r}; known: {', '.join(FORMATS)}")


def import_hashes(
    enroller: ListEnroller, bank: str, path: Path, *, source: str | None = None, actor: str
) -> list[Listed]:
    """Enroll every content of a hash list; thousands in one transaction."""
    gc.disable()  # a collection would walk millions of texts again and again, none of which is garbage
    try:
        contents = read_list(path)
        parts = (contents.part(start, start + BATCH) for start in range(0, len(contents), BATCH))
        return list(enroller.enroll_parts(bank, parts, source=source, actor=actor))
    finally:
        gc.enable()


def _lines(record: Record, bank: str) -> Iterator[dict[str, Any]]:
    after = 0
    while page := record.contents(bank, after=after, limit=500):
        for content in page:
            head = {"content": content.content_id, "case": content.case, "labels": list(content.labels)}
            exact, frames = record.hashes_of(content.content_pk)
            for kind, code in exact:
                yield head | {"signal_type": kind.value, "hash": code.hex()}
            for row in frames:
                profile = PROFILES[int(row["profile"])]
                time_s = float(row["timestamp_s"])
                yield head | {
                    "signal_type": profile.signal_type.value, "hash": to_hex(row["hash"]),
                    "quality": int(row["quality"]), "timestamp_s": None if math.isnan(time_s) else time_s,
                    "profile": str(profile), "view": VIEWS[int(row["view"])].value,
                }  # fmt: skip
        after = page[-1].content_pk


def export_hashes(record: Record, bank: str, path: Path, form: str) -> int:
    """Write a bank's hashes; returns how many lines. The file is readable by its owner only."""
    check_format(form)
    record.bank(bank)
    path.touch(mode=0o600, exist_ok=False)
    count = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        if form == "csv":
            writer.writeheader()
        for count, line in enumerate(_lines(record, bank), start=1):  # noqa: B007 - the count is the answer
            if form == "csv":
                writer.writerow(line | {"labels": ";".join(line["labels"])})
            else:
                file.write(json.dumps(line) + "\n")
    return count


def signature_of(path: Path) -> Path:
    """Return where the signature of a list lies."""
    return path.with_name(f"{path.name}.sig")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sign_list(path: Path, signer: Signer, **about: Any) -> None:
    """Write beside a list who made it, of what, and its digest, signed; KeyFileBroken."""
    document = signer.signed({"format": SIGNED, "sha256": _sha256(path), **about})
    beside = signature_of(path)
    beside.touch(mode=0o600, exist_ok=False)
    beside.write_text(json.dumps(document) + "\n")


def check_list(path: Path, public_key: str) -> dict[str, Any]:
    """Return what is said of a list; NotSigned unless it is as it was signed by this key."""
    try:
        said = check_signed(json.loads(signature_of(path).read_bytes()), public_key)
    except (OSError, ValueError) as error:
        raise NotSigned(f"{path.name} has no signature beside it") from error
    if said.get("format") != SIGNED or said.get("sha256") != _sha256(path):
        raise NotSigned(f"{path.name} is not as it was signed")
    return said
