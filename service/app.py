"""The HTTP service: `create_app(settings)`. Nothing is read at import; the lifespan owns what is closed."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from anyio import CapacityLimiter
from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from pydantic.json_schema import models_json_schema

from hashing.errors import StaydownError
from indexer.errors import IndexerError, IndexNotReady, SearchUnavailable, StoreBroken
from indexer.keys import Key
from service import api, approvals, audits, problems, rescans, retro, schemas
from service.admission import Admission
from service.auth import Permission, requires
from service.drain import Drain
from service.engine import Engine
from service.keyring import Keyring
from service.logs import log
from service.lookups import Lookups
from service.metrics import Metrics
from service.middleware import Gate, Observed
from service.probing import Probing
from service.problems import STATUS
from service.settings import Settings
from service.tenants import Tenants
from service.turns import Turns
from service.upkeep import Upkeep, paced

VERSION = "0.1.0"
_TEND_EVERY_S, _TEND_SHARE = 60.0, 0.02  # of one core's time, at most
_COUNT_EVERY_S, _FORGET_EVERY_S = 2.0, 10.0
_FOLD_EVERY_S, _FOLD_SHARE = 1.0, 0.3
_PROBE_EVERY_S, _PROBE_SHARE = 2.0, 1.0  # it waits for the search back-end, and works next to nothing
_BODIES = (
    schemas.LinkIn,
    schemas.SignalsIn,
    schemas.ContentIn,
    schemas.ContentChange,
    schemas.BankIn,
    rescans.RescanIn,
    approvals.ApprovalIn,
    approvals.SourceIn,
)


def _load(engine: Engine, ended: threading.Event) -> None:
    """Load the index beside the start, so that the process answers for itself at once."""
    try:
        _ = engine.pool
    except StaydownError as error:
        log().error("workers not started", code=error.word)
    while not engine.index.ready and not ended.is_set():
        try:
            engine.load_index()
        except IndexerError as error:
            log().error("index not loaded", code=error.word)
            ended.wait(1.0)
    engine.watch.start()
    log().info("index ready", revision=engine.index.revision, hashes=len(engine.index))


def _tend(engine: Engine, ended: threading.Event) -> None:
    """Load the index, and put it in order: at once where much is loose, and all of it from time to time."""
    if engine.settings.search_url:
        probing = (ended, engine.probe_search, _PROBE_EVERY_S, _PROBE_SHARE, "search back-end not reached")
        threading.Thread(target=paced, args=probing, name="probe", daemon=True).start()
    _load(engine, ended)
    folding = (ended, engine.index.fold, _FOLD_EVERY_S, _FOLD_SHARE, "index not folded")
    threading.Thread(target=paced, args=folding, name="fold", daemon=True).start()
    paced(ended, engine.tend_index, _TEND_EVERY_S, _TEND_SHARE, "index not tended")


def _probing(engine: Engine, found: Metrics) -> Probing:
    """Return the watch over those who probe for hashes, which stops their keys in the store."""

    def stop(key: Key, content_id: str, bits: int) -> str:
        seconds = engine.settings.probing_stop_s
        return engine.keys.stop(key.key_id, seconds, content_id=content_id, bits=bits, actor="probing")

    def note(key: Key, content_id: str, bits: int) -> None:
        engine.ledger.log_read(key.key_id, "probing.seen", content_id, bits=bits)

    bits, stops_media = engine.settings.probing_bits, engine.settings.probing_stops_media
    return Probing(engine.record, bits, stop, note, found.probing.inc, stops_media=stops_media)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    engine, settings = Engine(app.state.settings), app.state.settings
    app.state.engine = engine
    app.state.media_threads = CapacityLimiter(engine.pool.workers + 2)
    app.state.turns = Turns(engine.pool.workers + 2, engine.pool.workers)
    app.state.keyring, app.state.tenants = Keyring(engine.keys.authenticate), Tenants(settings)
    app.state.quick_threads = CapacityLimiter(16)
    app.state.lookups = Lookups(engine.matcher)
    app.state.probing = _probing(engine, app.state.metrics)
    app.state.rescans = rescans.RescanWorker(engine, app.state.probing)
    app.state.rescans.start()
    upkeep = Upkeep(engine)
    upkeep.start()
    keeper = retro.RetroKeeper(engine)
    keeper.start()
    ended = threading.Event()
    threading.Thread(target=_tend, args=(engine, ended), name="index", daemon=True).start()
    counting = (ended, lambda: app.state.tenants.settle(engine.keys.add_use), _COUNT_EVERY_S, 1.0, "use not counted")
    forgetting = (ended, app.state.probing.forget, _FORGET_EVERY_S, 1.0, "hashes not forgotten")
    threading.Thread(target=paced, args=forgetting, name="probing", daemon=True).start()
    threading.Thread(target=paced, args=counting, name="use", daemon=True).start()
    log().info("started", **settings.shown())
    yield
    ended.set()
    app.state.rescans.stop()
    upkeep.stop()
    keeper.stop()
    engine.watch.stop()
    engine.leave_index()
    engine.close()
    log().info("stopped")


async def live() -> dict[str, str]:
    """Tell that the process runs."""
    return {"status": "live"}


def _status(request: Request) -> str:
    """Say in one word whether checks are answered, and whether that will last."""
    engine = api.engine_of(request)
    if request.app.state.drain.begun:
        return "stopping"
    if not engine.search_answers:
        return SearchUnavailable.code
    return ("ready" if engine.current else "stale") if engine.index.ready else "loading"


async def ready(request: Request) -> Response:
    """Tell whether checks are answered: 200, or 503 while the index is loading, out of date, away, or it ends."""
    engine, status = api.engine_of(request), _status(request)
    body = {"status": status, "bank_revision": engine.index.revision, "hashes": engine.index.sizes()}
    body["sandbox"] = sorted(engine.layers)
    if status == "ready":
        return JSONResponse(body)
    code = status if status == SearchUnavailable.code else IndexNotReady.code
    return JSONResponse(body | {"code": code}, STATUS[code])


async def metrics(request: Request) -> Response:
    """Show metrics in Prometheus' text format."""
    found, engine = request.app.state.metrics, api.engine_of(request)
    found.revision.set(engine.index.revision)
    found.age.set(engine.watch.age_s)
    found.ready.set(_status(request) == "ready")
    try:
        found.record_revision.set(await api.in_thread(request, engine.store.revision))
        found.store_reached.set(1)
    except StoreBroken:
        found.store_reached.set(0)
    for kind, count in engine.index.sizes().items():
        found.hashes.labels(kind).set(count)
    return Response(found.text(), media_type="text/plain; version=0.0.4")


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Describe the API, with the bodies that routes read themselves."""
    if not app.openapi_schema:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        _, bodies = models_json_schema(
            [(model, "validation") for model in _BODIES], ref_template="#/components/schemas/{model}"
        )
        components = document.setdefault("components", {})
        components["schemas"] = components.get("schemas", {}) | bodies["$defs"]
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
        app.openapi_schema = document
    return app.openapi_schema


def _own_routes(app: FastAPI) -> None:
    app.add_api_route("/health/live", live, tags=["health"])
    app.add_api_route("/health/ready", ready, tags=["health"], response_model=None)
    for path, route in (("/health/live", live), ("/health/ready", ready)):  # load balancers ask by HEAD
        app.add_api_route(path, route, methods=["HEAD"], include_in_schema=False, response_model=None)
    app.add_api_route("/metrics", metrics, tags=["health"], response_model=None,
                      dependencies=[requires(Permission.METRICS)])  # fmt: skip
    docs = [requires(Permission.DOCS)]

    async def openapi() -> JSONResponse:
        return JSONResponse(_openapi(app))

    async def swagger() -> Response:
        return get_swagger_ui_html(openapi_url="/openapi.json", title=app.title)

    app.add_api_route("/openapi.json", openapi, include_in_schema=False, dependencies=docs)
    app.add_api_route("/docs", swagger, include_in_schema=False, response_model=None, dependencies=docs)


def create_app(settings: Settings) -> FastAPI:
    """Return the app of these settings."""
    app = FastAPI(
        title="staydown",
        version=VERSION,
        description="Keeps known non-consensual intimate deepfakes down.",
        lifespan=_lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.settings, app.state.metrics, app.state.drain = settings, Metrics(), Drain()
    app.state.gate = Gate(settings.max_in_flight, app.state.metrics)
    problems.install(app)
    app.include_router(api.router)
    app.include_router(rescans.router)
    app.include_router(retro.router)
    app.include_router(audits.router)
    app.include_router(approvals.router)
    _own_routes(app)
    app.add_middleware(Admission, settings=settings)
    app.add_middleware(Observed, metrics=app.state.metrics, drain=app.state.drain)
    return app
