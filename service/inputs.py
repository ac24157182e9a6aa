"""What the command line and workers are given to judge: files, links, ready-made hashes, standard input."""

import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio

from hashing.errors import StaydownError
from indexer.errors import IndexNotReady, SearchUnavailable, StoreBroken, UnknownBank
from indexer.exchange.manifest import Item, is_link
from indexer.matcher import Answer
from service import answers
from service.engine import Engine

_NO_INPUTS_FAULT = (IndexNotReady, SearchUnavailable, UnknownBank)


def read(engine: Engine, item: Item) -> bytes:
    """Read what is named: a path is a file, a link is fetched, `-` is standard input."""
    if item.path is None and item.name == "-":
        return sys.stdin.buffer.read(engine.settings.max_body_bytes + 1)
    if item.path is None and is_link(item.name):
        return anyio.run(engine.fetcher.fetch, item.name)
    return engine.read_media(item.path or Path(item.name))


def _answers(engine: Engine, banks: list[str] | None, items: Sequence[Item]) -> list[Answer]:
    if all(item.hashes for item in items):
        return engine.check_lists([item.hashes for item in items], banks)
    return [engine.check_media(read(engine, item), banks) for item in items]


def verdicts(engine: Engine, banks: list[str] | None, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Judge inputs together, by the same calls as the HTTP service; what cannot be read is unhashable."""
    try:
        answered = _answers(engine, banks, items)
    except StoreBroken:
        raise
    except (StaydownError, OSError) as error:
        if len(items) > 1 and not isinstance(error, _NO_INPUTS_FAULT):
            return [found for item in items for found in verdicts(engine, banks, [item])]
        return [answers.unjudged(uuid.uuid4().hex, word_of(error), engine.index.revision) for _ in items]
    return [answers.verdict_out(each, uuid.uuid4().hex, evidence=True).model_dump(mode="json") for each in answered]


def word_of(error: Exception) -> str:
    """Return the one word for what went wrong with an input."""
    return error.word if isinstance(error, StaydownError) else "unreadable_file"
