"""All settings, read once from environment variables with the prefix STAYDOWN_.

The only file that reads the environment. An unknown variable with the prefix is an
error at start, since a misspelt limit is a limit that is not there.
"""

import os
import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from hashing.cage import Sandbox
from hashing.media import Limits
from service.addresses import Network
from service.errors import InvalidSettings
from service.fetch_wire import Rules

PREFIX = "STAYDOWN_"
_MIB = 1024 * 1024
_FOR_WORKERS = {"PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME"}


def _networks(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(ip_network(part.strip()) for part in value.split(",") if part.strip())
    return value


def _names(value: Any) -> Any:
    return tuple(part.strip().lower() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _database(url: str) -> str:
    if url and not re.match(r"(sqlite|postgresql)(\+\w+)?://", url):
        raise ValueError("has to begin with sqlite:// or postgresql://")
    return url


def _search(url: str) -> str:
    if url and not re.match(r"milvus(\+tls)?://([^@/]*@)?[^@/]+(/\w*)?$", url):
        raise ValueError("has to be milvus://[user:password@]host[:port][/database], or milvus+tls://…")
    return url


def _masked(url: str) -> str:
    """Return a URL without its password, and without options that may hold one."""
    return re.sub(r"(://[^:/?#]*):.*@", r"\1:***@", url).partition("?")[0]


def _default_home() -> Path:
    """Return the folder per XDG, whose standard has relative paths ignored."""
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    return (data if data.is_absolute() else Path.home() / ".local" / "share") / "staydown"


class Settings(BaseModel):
    """What can be set, with its default and bounds. `STAYDOWN_MAX_PIXELS` sets `max_pixels`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path = Field(default_factory=_default_home, description="folder of the embedded database and the index cache")
    database_url: Annotated[str, AfterValidator(_database)] = Field(
        "", description="database of the record; empty: SQLite inside home"
    )
    withdrawals_file: Path | None = Field(
        None, description="list of what was withdrawn, which no backup brings back; empty: inside home"
    )
    signing_key_file: Path | None = Field(
        None, description="Ed25519 key that signs heads of the audit log and exports; empty: inside home, made there"
    )
    key_file: Path | None = Field(
        None, description="keys that hashes are sealed with at rest; empty: inside home, made there"
    )
    seal_new_store: bool = Field(
        True, description="whether `serve` seals a store that is new; on PostgreSQL only if a key file is set"
    )
    database_connections: int = Field(
        16, ge=2, le=1000, description="most connections to PostgreSQL, and one to listen"
    )
    max_staleness_s: float = Field(
        10.0, gt=0, description="longest time since the index was compared with the store; then checks get 503"
    )
    min_revision_wait_s: float = Field(2.0, ge=0, description="longest wait for a request's Staydown-Min-Revision")
    search_url: Annotated[str, AfterValidator(_search)] = Field(
        "", description="Milvus in which whole-frame hashes are searched, milvus://host:19530; empty: here, in memory"
    )
    search_timeout_s: float = Field(10.0, gt=0, description="longest search in Milvus; then checks get 503")
    workers: int = Field(0, ge=0, le=256, description="processes that decode; 0: one a core")
    sandbox: Sandbox = Field(
        Sandbox.REQUIRED, description="how far decoders are locked in: required, available (what there is), or off"
    )
    max_body_bytes: int = Field(256 * _MIB, ge=1, description="largest upload or fetched file")
    upload_timeout_s: float = Field(300.0, gt=0, description="longest arriving of a request's body")
    max_pixels: int = Field(100_000_000, ge=1, description="largest picture or frame")
    max_duration_s: float = Field(4 * 3600.0, gt=0, description="how much of a video is looked at")
    max_frames: int = Field(500_000, ge=1, description="how many frames of a video are decoded")
    check_timeout_s: float = Field(60.0, gt=0, description="longest decoding of a check")
    enroll_timeout_s: float = Field(900.0, gt=0, description="longest decoding of an enrolment")
    max_in_flight: int = Field(64, ge=1, description="media requests taken at a time; more get 429")
    fetch_enabled: bool = Field(True, description="whether links are fetched at all")
    fetch_timeout_s: float = Field(30.0, gt=0, description="longest fetching of a link, redirects included")
    fetch_max_redirects: int = Field(5, ge=0, le=20, description="redirects followed, each judged anew")
    fetch_internal_networks: Annotated[tuple[Network, ...], BeforeValidator(_networks)] = Field(
        (), description="networks that links may lead to though not public, such as your own media store"
    )
    fetch_hosts: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        (), description="hosts that links may lead to, and what is below them; empty: any"
    )
    fetch_proxy: str = Field(
        "", pattern=r"^(http://[^/@?#\s]+)?$", description="HTTP proxy through which links are fetched, by address"
    )
    worker_lost_s: float = Field(
        30.0, ge=1, description="time without a sign of life after which a worker's jobs are given to others"
    )
    rescan_days: float = Field(7.0, gt=0, description="how long a queued rescan waits for its submitter to come back")
    retro_days: float = Field(
        0.0, ge=0, le=3650, description="how long hashes of checked media are kept where a check agrees; 0: never"
    )
    shutdown_drain_s: float = Field(
        0.0,
        ge=0,
        description="time after SIGTERM of being not ready and still answering; longer than load balancers look",
    )
    shutdown_grace_s: float = Field(4.0, gt=0, description="after that: longest wait for answers under way")
    key_pepper_file: Path | None = Field(
        None, description="secret that keys are bound to, shared by all replicas; empty: inside home, with SQLite"
    )
    trusted_proxies: Annotated[tuple[Network, ...], BeforeValidator(_networks)] = Field(
        (), description="load balancers whose X-Forwarded-For tells the client's address"
    )
    tls_certificate_file: Path | None = Field(None, description="certificate chain, PEM; empty: HTTP without TLS")
    tls_key_file: Path | None = Field(None, description="the certificate's key, PEM")
    tls_client_ca_file: Path | None = Field(
        None, description="who has to have signed a client's certificate, PEM; empty: clients need none"
    )
    tenant_requests_per_s: float = Field(0.0, ge=0, description="most requests of a tenant a second; 0: no limit")
    tenant_max_in_flight: int = Field(48, ge=1, description="most requests of a tenant at a time; more get 429")
    tenant_requests_per_day: int = Field(
        0, ge=0, description="most requests of a tenant a day (UTC), a rescan's items among them; 0: no limit"
    )
    probing_bits: int = Field(
        64, ge=0, description="bits that a tenant may learn of one content's hash before keys are stopped; 0: no watch"
    )
    probing_stops_media: bool = Field(
        False, description="whether checks of media can stop a key too, and are refused to one that is stopped"
    )
    probing_stop_s: float = Field(86_400.0, ge=1, description="how long a key is stopped that learned more")
    request_timeout_s: float = Field(1260.0, gt=0, description="longest time to an answer, the upload included")
    slow_client_s: float = Field(
        7.0, ge=1, description="longest time for a request's headers, and for a sign of life while its body is sent"
    )
    min_upload_bytes_per_s: int = Field(1024, ge=1, description="slowest body; slower clients are dropped")
    max_connections: int = Field(900, ge=1, description="most connections at a time; more are closed")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="least level that is logged")

    @property
    def record_url(self) -> str:
        """The database URL in force."""
        return self.database_url or f"sqlite:///{self.home / 'staydown.db'}"

    @property
    def index_path(self) -> Path:
        """Where the index cache is kept."""
        return self.home / "index.cache"

    @property
    def withdrawals_path(self) -> Path:
        """Where the list of what was withdrawn is kept."""
        return self.withdrawals_file or self.home / "withdrawals.jsonl"

    @property
    def signing_key_path(self) -> Path:
        """Where the key that signs is kept."""
        return self.signing_key_file or self.home / "signing.key"

    @property
    def pepper_path(self) -> Path | None:
        """Where the keys' secret is; None with PostgreSQL unless it is set, since replicas have to share it."""
        if self.key_pepper_file is None and not self.record_url.startswith("sqlite:///"):
            return None
        return self.key_pepper_file or self.home / "key.pepper"

    @property
    def key_path(self) -> Path:
        """Where the keys that hashes are sealed with are kept."""
        return self.key_file or self.home / "hash.keys"

    @property
    def worker_count(self) -> int:
        """How many processes decode."""
        return self.workers or len(os.sched_getaffinity(0))

    def limits(self, timeout_s: float) -> Limits:
        """Return the decoding limits for a job that may take so long."""
        return Limits(
            max_body_bytes=self.max_body_bytes,
            max_pixels=self.max_pixels,
            max_duration_s=self.max_duration_s,
            max_frames=self.max_frames,
            timeout_s=timeout_s,
        )

    def fetch_rules(self) -> Rules:
        """Return what the process that fetches links keeps to."""
        return Rules(
            self.max_body_bytes, self.fetch_timeout_s, self.fetch_max_redirects, self.fetch_internal_networks,
            self.fetch_hosts, self.fetch_proxy,
        )  # fmt: skip

    def shown(self) -> dict[str, str]:
        """Return every setting as text, secrets masked."""
        values = {name: str(value) for name, value in self.model_dump(mode="json").items()}
        values["database_url"], values["search_url"] = _masked(self.record_url), _masked(self.search_url)
        return values


def _known() -> set[str]:
    return {PREFIX + name.upper() for name in Settings.model_fields}


def _message(error: ValidationError) -> str:
    return "; ".join(f"{PREFIX}{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read and verify the settings, empty ones as if not set; InvalidSettings names each one that is wrong."""
    found = os.environ if environment is None else environment
    given = {name[len(PREFIX) :].lower(): value for name, value in found.items() if name.startswith(PREFIX) and value}
    if strange := sorted(name for name in found if name.startswith(PREFIX) and name not in _known()):
        raise InvalidSettings(f"{', '.join(strange)}: there is no such setting")
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        raise InvalidSettings(_message(error)) from error


# A worker frees and takes the memory of a picture again and again: kept, it saves half of a check's time.
_KEEP_MEMORY = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.top_pad=67108864"}


def worker_environment() -> dict[str, str]:
    """Return what a decoding process may see: what Python needs, no settings or secrets; one thread a library."""
    kept = {name: value for name, value in os.environ.items() if name in _FOR_WORKERS}
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | _KEEP_MEMORY
