"""Rescans on the command line: in this process, or queued on PostgreSQL; and the worker for what is queued."""

import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from indexer import queue_jobs
from indexer.errors import InvalidManifest
from indexer.exchange.manifest import Item
from indexer.queue import Queue
from indexer.queue_rescan import QueueWork, read_ticket, rescan_queued
from indexer.rescan import Patience, Tally, rescan
from service import output
from service.engine import Engine
from service.errors import InvalidSettings
from service.inputs import verdicts
from service.logs import configure, log
from service.settings import Settings, read_settings
from service.upkeep import paced

Progress = Callable[[int], None]
_TEND_EVERY_S, _TEND_SHARE = 60.0, 0.02


def here(engine: Engine, items: Sequence[Item], banks: list[str] | None, out: Path, resume: bool,
         progress: Progress) -> Tally:  # fmt: skip
    """Rescan on the cores of this machine."""
    if read_ticket(out) is not None:
        raise InvalidManifest(f"{out.name} is being worked off by workers; go on with --queue --resume")
    engine.load_index()
    check = partial(verdicts, engine, banks)
    return rescan(items, check, out, resume=resume, workers=engine.settings.worker_count, progress=progress)


def queued(engine: Engine, items: Sequence[Item], banks: list[str] | None, out: Path, resume: bool,
           progress: Progress) -> Tally:  # fmt: skip
    """Let workers rescan, and write what they find."""
    queue = _queue(engine, "--queue")
    output.say_error("workers on this database (`staydown worker`) check what is listed; --resume goes on after an end")
    return rescan_queued(items, queue, queue_jobs.defer, out, banks=banks, resume=resume, progress=progress)


def _queue(engine: Engine, what: str) -> Queue:
    """Return the queue of a store, ready for use; InvalidSettings where there can be none."""
    queue = Queue(engine.store)
    if not queue.possible:
        raise InvalidSettings(f"{what} needs PostgreSQL: set STAYDOWN_DATABASE_URL to postgresql://…"
                              " Without --queue a rescan runs on the cores of this machine.")  # fmt: skip
    if not queue_jobs.INSTALLED:
        raise InvalidSettings(f"{what} needs the extra `queue`: pip install 'staydown[queue]'")
    queue.prepare(queue_jobs.jobs_schema())
    return queue


def _tell(what: str, why: str) -> None:
    log().info(what, why=why)


def _settings(concurrency: int) -> Settings:
    settings = read_settings()
    return settings.model_copy(update={"workers": concurrency or settings.workers})


def _patience(settings: Settings) -> Patience:
    """Return what ends a worker in which an item hangs: no thread can be ended, and others take its job back."""

    def over() -> NoReturn:
        log().error("an item hangs; the worker ends")
        os._exit(2)

    return Patience(settings.fetch_timeout_s + settings.check_timeout_s + settings.worker_lost_s, over)


def worker(
    concurrency: Annotated[int, typer.Option(min=0, help="items at a time, each in a process; 0: one a core")] = 0,
) -> None:
    """Work off queued rescans, until it is told to end; any number of these, on any machine."""
    settings = _settings(concurrency)
    configure(settings.log_level)
    ended = threading.Event()
    with Engine(settings) as engine:
        queue = _queue(engine, "a worker")
        engine.load_index()
        engine.watch.start()
        tending = threading.Thread(target=_tend, args=(engine, queue, ended), name="tend", daemon=True)
        tending.start()
        checks = partial(partial, verdicts, engine)
        run = QueueWork(queue, checks, settings.worker_count, _patience(settings))
        queue_jobs.work(queue.connect_arguments(), run, _tell, lost_s=settings.worker_lost_s)
        ended.set()
    log().info("worker ended")


def _tend(engine: Engine, queue: Queue, ended: threading.Event) -> None:
    """Keep the index in order, and forget rescans that nobody fetches."""

    def turn() -> None:
        engine.tend_index()
        if forgotten := queue.forget(engine.settings.rescan_days):
            log().info("rescans forgotten", count=forgotten)

    paced(ended, turn, _TEND_EVERY_S, _TEND_SHARE, "not tended")


def install(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command("worker")(worker)
