"""Lists of ready-made hashes, in and out: `csv` and `jsonl`, as `manifest` describes them.

What goes out comes in again: one line a hash, grouped by `content`.
"""

import csv
import gc
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hashing.signals import PROFILES, VIEWS, to_hex
from indexer.errors import InvalidManifest
from indexer.exchange.columns import read_list
from indexer.lists import Listed, ListEnroller
from indexer.record import Record

FORMATS = ("csv", "jsonl")
COLUMNS = ("content", "case", "labels", "signal_type", "hash", "quality", "timestamp_s", "profile", "view")
BATCH = 20_000


def check_format(name: str) -> None:
    """Refuse a format that is not known; InvalidManifest."""
    if name not in FORMATS:
        raise InvalidManifest(f"unknown format {name!r}; known: {', '.join(FORMATS)}")


def import_hashes(enroller: ListEnroller, bank: str, path: Path, *, actor: str) -> list[Listed]:
    """Enroll every content of a hash list; thousands in one transaction."""
    gc.disable()  # a collection would walk millions of texts again and again, none of which is garbage
    try:
        contents = read_list(path)
        parts = (contents.part(start, start + BATCH) for start in range(0, len(contents), BATCH))
        return list(enroller.enroll_parts(bank, parts, actor=actor))
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
