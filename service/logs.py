"""Structured logs: one JSON line an event on stderr. Never bytes, names, links, hashes or keys."""

import logging
import sys

import structlog


def configure(level: str) -> None:
    """Send structlog's and the standard library's events to stderr as JSON lines."""
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, force=True, format="%(levelname)s %(name)s %(message)s"
    )
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it quotes what it cannot read


def log() -> structlog.typing.FilteringBoundLogger:
    """Return the logger."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger
