"""Jobs in PostgreSQL by procrastinate: made, worked off, and taken back from workers that died.

The only file that knows procrastinate. A job is a range of numbers of one rescan, and says
nothing of what is asked. Its worker's heartbeat is the sign that it is alive: a job of a worker
without one stays `doing`, and every other worker looks for such jobs and puts them back. That is
no job itself, as procrastinate's manual has it: it must not wait behind long ones, and a job
that takes jobs back can be lost like any other (procrastinate issue 1408).
"""

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from indexer.errors import StoreBroken
from indexer.queue import JobsSchema, Range

try:
    import procrastinate
    import psycopg
    from procrastinate.exceptions import ConnectorException, JobAborted
    from procrastinate.schema import SchemaManager
except ImportError:  # the extra `queue` is not installed
    INSTALLED = False
else:
    INSTALLED = True

# Rescan, numbers, whether to stop, whether the job was begun before; says whether all is done.
Run = Callable[[str, Range, Callable[[], bool], bool], bool]
Tell = Callable[[str, str], object]  # what happened, and one word why
_TASK, _QUEUE = "staydown.rescan", "staydown"
_RETRY_S = 2
_BEATS = 3  # of the heart, in the time after which a worker counts as dead


def jobs_schema() -> JobsSchema:
    """Return the tables that the installed procrastinate needs."""
    files = sorted(Path(SchemaManager.get_migrations_path()).glob("*.sql"))
    return JobsSchema(SchemaManager.get_schema(), tuple((file.name, file.read_text()) for file in files))


def defer(connection: Any, rescan_id: str, jobs: Sequence[Range]) -> None:
    """Make jobs in a transaction of psycopg's; StoreBroken."""
    app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector())
    made = app.configure_task(_TASK, queue=_QUEUE, connection=connection)
    given: list[dict[str, Any]] = [{"rescan_id": rescan_id, "first": first, "behind": end} for first, end in jobs]
    try:
        made.batch_defer(*given)
    except ConnectorException as error:
        raise StoreBroken("the queue cannot be written") from error


def work(arguments: dict[str, Any], run: Run, tell: Tell, *, lost_s: float) -> None:
    """Work off jobs, one at a time, until SIGTERM or SIGINT; what is under way then is put back.

    A worker that gives no sign of life for `lost_s` counts as dead. A database that is away is waited for.
    """
    logging.getLogger("procrastinate").setLevel(logging.CRITICAL)  # `tell` is told what matters
    asyncio.run(_work(arguments, run, tell, lost_s))


async def _work(arguments: dict[str, Any], run: Run, tell: Tell, lost_s: float) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    while not ended.is_set():
        connector = procrastinate.PsycopgConnector(kwargs=arguments, min_size=1, max_size=4)
        app = procrastinate.App(connector=connector)
        _add_task(app, run)
        try:
            async with app.open_async():
                tell("worker ready", "")
                await _session(app, ended, tell, lost_s)
        except (ConnectorException, psycopg.Error) as error:
            tell("queue not reached", type(error).__name__)
            await _first(ended.wait(), asyncio.sleep(_RETRY_S))


def _add_task(app: "procrastinate.App", run: Run) -> None:
    again = procrastinate.RetryStrategy(wait=_RETRY_S)  # what is wrong with an item is its result; this is the store

    @app.task(name=_TASK, queue=_QUEUE, retry=again, pass_context=True)
    def rescan(context: "procrastinate.JobContext", *, rescan_id: str, first: int, behind: int) -> None:
        if not run(rescan_id, (first, behind), context.should_abort, context.job.attempts > 0):
            raise JobAborted


async def _session(app: "procrastinate.App", ended: asyncio.Event, tell: Tell, lost_s: float) -> None:
    worker = app.run_worker_async(
        queues=[_QUEUE], concurrency=1, delete_jobs="successful", install_signal_handlers=False,
        update_heartbeat_interval=lost_s / _BEATS, stalled_worker_timeout=lost_s, shutdown_graceful_timeout=0,
    )  # fmt: skip
    await _first(worker, _take_back(app, tell, lost_s), ended.wait())


async def _first(*waits: Any) -> None:
    """Wait for the first of these, end the others in order, and raise what went wrong with any."""
    tasks = [asyncio.ensure_future(each) for each in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


async def _take_back(app: "procrastinate.App", tell: Tell, lost_s: float) -> None:
    """Put back jobs of workers that died, for ever."""
    while True:
        for job in await app.job_manager.get_stalled_jobs(queue=_QUEUE, seconds_since_heartbeat=lost_s):
            try:
                await app.job_manager.retry_job(job)
            except ConnectorException:  # another worker was first
                continue
            tell("job taken back", str(job.id))
        await asyncio.sleep(lost_s / _BEATS)
