"""What the command line and workers are given to judge: files, links, ready-made hashes, standard input."""

import sys
import uuid
from pathlib import Path
from typing import Any

import anyio

from hashing.errors import StaydownError
from indexer.errors import StoreBroken
from indexer.exchange.manifest import Item, is_link
from indexer.matcher import Answer
from service import answers
from service.engine import Engine


def read(engine: Engine, item: Item) -> bytes:
    """Read what is named: a path is a file, a link is fetched, `-` is standard input."""
    if item.path is None and item.name == "-":
        return sys.stdin.buffer.read(engine.settings.max_body_bytes + 1)
    if item.path is None and is_link(item.name):
        return anyio.run(engine.fetcher.fetch, item.name)
    return engine.read_media(item.path or Path(item.name))


def _answer(engine: Engine, banks: list[str] | None, item: Item) -> Answer:
    if item.hashes:
        return engine.check_hashes(item.hashes, banks)
    return engine.check_media(read(engine, item), banks)


def verdict(engine: Engine, banks: list[str] | None, item: Item) -> dict[str, Any]:
    """Judge one input, by the same calls as the HTTP service; what cannot be read is unhashable."""
    request_id = uuid.uuid4().hex
    try:
        answer = _answer(engine, banks, item)
    except StoreBroken:
        raise
    except (StaydownError, OSError) as error:
        return answers.unjudged(request_id, word_of(error), engine.index.revision)
    return answers.verdict_out(answer, request_id, evidence=True).model_dump(mode="json")


def word_of(error: Exception) -> str:
    """Return the one word for what went wrong with an input."""
    return error.word if isinstance(error, StaydownError) else "unreadable_file"
