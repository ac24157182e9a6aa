"""The command line `staydown`. Results on stdout, everything else on stderr.

Exit status of `check` and `rescan`: 0 all read and nothing matched, 1 something matched
or needs review, 2 wrong usage or a broken store, 3 nothing matched but something could
not be judged. Other commands: 0, or 2 with a message.
"""

import math
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from hashing.errors import InvalidHash, MediaError, StaydownError
from hashing.hasher import DEFAULT_TYPES
from hashing.signals import SignalType
from indexer.enroll import Enrolled
from indexer.errors import InvalidCompanion, InvalidManifest, NothingToEnroll, UnknownBank
from indexer.exchange.manifest import Item, expand, is_link, read_manifest
from indexer.rescan import guarded
from service import (
    answers,
    cli_audit,
    cli_banks,
    cli_bench,
    cli_keys,
    cli_lists,
    cli_queue,
    cli_store,
    connections,
    output,
    schemas,
    upkeep,
)  # fmt: skip
from service.app import create_app
from service.auth import Role
from service.drain import DrainingServer
from service.engine import Engine
from service.errors import InvalidSettings, LinkFailed, LinkRefused
from service.inputs import read, verdicts, word_of
from service.logs import configure
from service.settings import read_settings

app = typer.Typer(no_args_is_help=True, help="Keeps known non-consensual intimate deepfakes down.",
                  pretty_exceptions_enable=False)  # fmt: skip
cli_banks.install(app)
cli_audit.install(app)
cli_keys.install(app)
cli_lists.install(app)
cli_store.install(app)
cli_queue.install(app)
cli_bench.install(app)

AsJson = Annotated[bool, typer.Option("--json", help="one JSON object a line instead of a table")]
Banks = Annotated[list[str] | None, typer.Option("--bank", help="banks to ask; all if left out")]
MATCHED, WRONG, UNJUDGED = 1, 2, 3
_SWITCH_S = 0.001  # how long a thread that computes keeps others waiting, by Python's default 5 ms at every turn
_LAWFUL = "its lawful original, which is no content; may be repeated"
_ITEM_ERRORS = (MediaError, InvalidHash, NothingToEnroll, InvalidCompanion, LinkRefused, LinkFailed, OSError)


@contextmanager
def _engine(*, index: bool = True) -> Iterator[Engine]:
    with Engine(read_settings()) as engine:
        if index:
            engine.load_index()
        yield engine


@app.command()
def serve(host: str = "127.0.0.1", port: Annotated[int, typer.Option(min=0, max=65535)] = 8000) -> None:
    """Run the HTTP service."""
    settings = read_settings()
    configure(settings.log_level)
    sys.setswitchinterval(_SWITCH_S)
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn stops in order first, then raises it again
        signal.signal(number, lambda *_: sys.exit(0))
    scheme = "https" if settings.tls_certificate_file else "http"
    with _listening(scheme, host, port) as listener:
        connections.tuned(listener, settings)
        with Engine(settings) as engine:
            upkeep.seal_if_new(engine)
            first = engine.keys.create_first(Role.ADMIN)
            _ = engine.pool  # what starts at all can lock decoders in; else SandboxMissing
        if first is not None:
            output.errors.print(f"There was no key yet. This admin key is shown once:\n\n    {first}\n", soft_wrap=True)
        http = create_app(settings)
        grace_s = math.ceil(settings.shutdown_grace_s)
        config = connections.config(http, settings, http.state.metrics.drop, timeout_graceful_shutdown=grace_s)
        DrainingServer(config, http.state.drain, settings.shutdown_drain_s).run(sockets=[listener])


def _listening(scheme: str, host: str, port: int) -> socket.socket:
    """Take the port before anything else is done; InvalidSettings."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise InvalidSettings(f"cannot listen on {host} port {port}: {error.strerror}") from error
    output.say_error(f"listening on {scheme}://{host}:{listener.getsockname()[1]}")
    return listener


def _exit_code(verdicts: Iterable[str]) -> int:
    found = set(verdicts)
    if found & {"match", "review"}:
        return MATCHED
    return UNJUDGED if "unhashable" in found else 0


def _inputs(names: list[str]) -> list[Item]:
    """Expand folders; links and `-` stand for themselves."""
    found: list[Item] = []
    for name in names:
        plain = name == "-" or is_link(name)
        found += [Item(name)] if plain else list(expand([Path(name)]))
    return found


@app.command()
def check(
    inputs: Annotated[list[str], typer.Argument(metavar="PATH-or-URL...")], bank: Banks = None, as_json: AsJson = False
) -> None:
    """Judge media: files, folders, links, or - for standard input."""
    rows, judged = [], []
    with _engine() as engine:
        _known(engine, bank)
        judge = guarded(partial(verdicts, engine, bank))
        with ThreadPoolExecutor(engine.settings.worker_count) as threads:
            items = _inputs(inputs)
            for item, (found,) in zip(items, threads.map(judge, [[item] for item in items]), strict=True):
                judged.append(found["verdict"])
                if as_json:
                    output.say_json({"input": item.name} | found)
                rows.append((item.name, found["verdict"], output.evidence(found)))
    if not as_json:
        output.say_table("", ("input", "verdict", "evidence"), rows)
    raise typer.Exit(_exit_code(judged))


def _known(engine: Engine, banks: list[str] | None) -> None:
    for name in banks or []:
        engine.record.bank(name)


@app.command()
def rescan(
    source: Annotated[Path, typer.Argument(metavar="MANIFEST-or-FOLDER")],
    out: Annotated[Path, typer.Option(help="file for one JSON line an input")],
    bank: Banks = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on where an earlier run ended")] = False,
    workers: Annotated[int, typer.Option(min=0, help="processes that decode; 0: one a core")] = 0,
    queue: Annotated[bool, typer.Option("--queue", help="let `staydown worker` work it off, on any machine")] = False,
    as_json: AsJson = False,
) -> None:
    """Check a folder or a manifest of any length: one line for every input, always."""
    settings = read_settings()
    settings = settings.model_copy(update={"workers": workers or settings.workers})
    items = list(expand([source])) if source.is_dir() else read_manifest(source)
    with Engine(settings) as engine, output.progress(len(items), "rescan") as bar:
        _known(engine, bank)
        how = cli_queue.queued if queue else cli_queue.here
        tally = how(engine, items, bank, out, resume, lambda done: bar.advance(bar.task_ids[0], done))
    counts = dict(tally.counts)
    if as_json:
        output.say_json({"inputs": sum(counts.values()), "verdicts": counts, "out": str(out)})
    else:
        output.say_table("", ("verdict", "inputs"), sorted(counts.items()))
    raise typer.Exit(_exit_code(counts))


@app.command(name="hash")
def hash_command(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...")],
    signal_type: Annotated[list[SignalType] | None, typer.Option("--type", help="signal types")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the hashes of media; nothing is stored or looked up."""
    code = 0
    settings = read_settings()
    with Engine(settings.model_copy(update={"database_url": "sqlite://"})) as engine:
        for item in _inputs(paths):
            try:
                data = read(engine, item)
                found = answers.hash_out(engine.hash_for_show(data, signal_type or DEFAULT_TYPES))
            except _ITEM_ERRORS as error:
                output.say_error(f"{item.name}: {word_of(error)}: {error}")
                code = WRONG
                continue
            _show_hashes(item.name, found, as_json)
    raise typer.Exit(code)


def _show_hashes(name: str, found: schemas.HashOut, as_json: bool) -> None:
    if as_json:
        output.say_json({"input": name} | found.model_dump(mode="json"))
        return
    rows = [(s.signal_type, s.timestamp_s, s.view.value, s.quality, s.hash) for s in found.signals]
    output.say_table(name, ("signal_type", "timestamp_s", "view", "quality", "hash"), rows)


def _enroll_item(
    engine: Engine, bank: str, item: Item, case: str | None, labels: list[str], lawful: list[bytes], source: str | None
) -> Enrolled:
    case, tags = item.case or case, list(item.labels) or labels
    if item.hashes:
        return engine.enroll_hashes(bank, item.hashes, case, tags, lawful, source=source, actor="cli")
    data = read(engine, item)
    return engine.enroll_media(bank, data, case, tags, lawful, source=source, actor="cli")


def _make_bank(engine: Engine, name: str) -> None:
    try:
        engine.record.bank(name)
    except UnknownBank:
        engine.record.create_bank(name, actor="cli")
        output.say_error(f"created bank {name}")


@app.command()
def enroll(
    paths: Annotated[list[str] | None, typer.Argument(metavar="[PATH...]")] = None,
    bank: Annotated[str, typer.Option(help="the bank; it is created if there is none of this name")] = ...,  # type: ignore[assignment]
    case: Annotated[str | None, typer.Option(help="case reference")] = None,
    label: Annotated[list[str] | None, typer.Option(help="a label; may be repeated")] = None,
    manifest: Annotated[Path | None, typer.Option(help="CSV or JSON Lines, with ready-made hashes too")] = None,
    lawful: Annotated[list[str] | None, typer.Option(metavar="PATH", help=_LAWFUL)] = None,
    source: cli_lists.SourceName = None,
    as_json: AsJson = False,
) -> None:
    """Enroll confirmed media, or hashes of it, in a bank."""
    items = _inputs(paths or []) + (read_manifest(manifest) if manifest else [])
    if not items:
        raise InvalidManifest("nothing to enroll was named")
    if lawful and len(items) > 1:
        raise InvalidCompanion("lawful originals belong to one content: enroll it by itself")
    failed, rows = 0, []
    with _engine(index=False) as engine, output.progress(len(items), "enroll") as bar:
        _make_bank(engine, bank)
        originals = [read(engine, Item(name)) for name in lawful or []]
        with ThreadPoolExecutor(engine.settings.worker_count) as threads:
            given = (case, label or [], originals, source)
            work = [threads.submit(_enroll_item, engine, bank, item, *given) for item in items]
            for item, future in zip(items, work, strict=True):
                bar.advance(bar.task_ids[0])
                try:
                    done = answers.enrolled_out(future.result())
                except _ITEM_ERRORS as error:
                    failed += 1
                    output.say_error(f"{item.name}: {word_of(error)}: {error}")
                    continue
                if as_json:
                    output.say_json({"input": item.name} | done.model_dump(mode="json"))
                else:
                    output.say_held(item.name, done.held)
                rows.append((item.name, done.content_id, done.created, _words(done)))
    if not as_json:
        output.say_table("", ("input", "content_id", "new", "signals"), rows)
    raise typer.Exit(WRONG if failed else 0)


def _words(done: schemas.EnrolledOut) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in done.signals.items())
    counts += f", {len(done.companions)} companions" if done.companions else ""
    if done.held_frames:
        counts += ", held: " + ", ".join(f"{count} {reason}" for reason, count in done.held_frames.items())
    counts += ", proposed" if done.proposed else ""
    return counts + (f" (warning: {', '.join(done.warnings)})" if done.warnings else "")


@app.command()
def withdraw(
    content_ids: Annotated[list[str], typer.Argument(metavar="CONTENT_ID...")],
    reason: Annotated[str, typer.Option(help="why; kept in the audit log")],
    as_json: AsJson = False,
) -> None:
    """Withdraw contents: gone from every answer at once, for good."""
    with _engine(index=False) as engine:
        done = engine.withdraw(content_ids, reason=reason, actor="cli")
    if as_json:
        for content_id, revision in done:
            output.say_json({"content_id": content_id, "bank_revision": revision})
    else:
        output.say_table("", ("withdrawn", "bank_revision"), done)


def main() -> None:
    """Run the command line. An error is one line and exit status 2: never 1, which says that something matched."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold media and hashes
    os.umask(0o077)
    try:
        app()
        return
    except StaydownError as error:
        message = f"{error.word}: {error}"
    except OSError as error:
        message = f"{error.filename or 'a file'}: {error.strerror or type(error).__name__}"
    except Exception as error:  # the boundary of the command line
        message = f"internal_error: {type(error).__name__}"
    output.say_error(f"staydown: {message}")
    sys.exit(WRONG)
