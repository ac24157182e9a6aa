"""What the command line and workers are given to judge: files, links, ready-made hashes, standard input."""

import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio

from hashing.errors import StaydownError
from indexer.errors import NO_INPUTS_FAULT, SearchUnavailable, UnknownBank
from indexer.exchange.manifest import Item, is_link
from indexer.matcher import Answer
from service import answers
from service.engine import Engine

_OF_ALL = UnknownBank, SearchUnavailable  # of inputs that are judged together


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
    """Judge inputs together, by the same calls as the HTTP service; what cannot be read is unhashable.

    NO_INPUTS_FAULT are raised.
    """
    try:
        answered = _answers(engine, banks, items)
    except (StaydownError, OSError) as error:
        word = fault_of(engine, error)
        if len(items) > 1 and not isinstance(error, _OF_ALL):
            return [found for item in items for found in verdicts(engine, banks, [item])]
        return [answers.unjudged(uuid.uuid4().hex, word, engine.index.revision) for _ in items]
    return [answers.verdict_out(each, uuid.uuid4().hex, evidence=True).model_dump(mode="json") for each in answered]


def word_of(error: Exception) -> str:
    """Return the one word for what went wrong with an input."""
    return error.word if isinstance(error, StaydownError) else "unreadable_file"


def fault_of(engine: Engine, error: Exception) -> str:
    """Return the one word for what went wrong with an input; NO_INPUTS_FAULT are raised.

    A search that fails while its back-end answers is the input's own: it would fail for ever.
    """
    if isinstance(error, SearchUnavailable):
        engine.probe_search()
    elif isinstance(error, NO_INPUTS_FAULT):
        raise error
    return word_of(error)
