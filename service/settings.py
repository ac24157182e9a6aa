"""All settings, read once from environment variables with the prefix STAYDOWN_.

The only file that reads the environment. An unknown variable with the prefix is an
error at start, since a misspelt limit is a limit that is not there.
"""

import os
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from sqlalchemy.engine import make_url

from hashing.media import Limits
from service.errors import InvalidSettings

PREFIX = "STAYDOWN_"
_MIB = 1024 * 1024
Network = IPv4Network | IPv6Network


def _networks(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(ip_network(part.strip()) for part in value.split(",") if part.strip())
    return value


def _default_home() -> Path:
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "staydown"


class Settings(BaseModel):
    """What can be set, with its default and bounds. `STAYDOWN_MAX_PIXELS` sets `max_pixels`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path = Field(default_factory=_default_home, description="folder of the embedded database and the index cache")
    database_url: str = Field("", description="database of the record; empty: SQLite inside home")
    workers: int = Field(0, ge=0, le=256, description="processes that decode; 0: one a core")
    max_body_bytes: int = Field(256 * _MIB, ge=1, description="largest upload or fetched file")
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

    def shown(self) -> dict[str, str]:
        """Return every setting as text, secrets masked."""
        values = {name: str(value) for name, value in self.model_dump(mode="json").items()}
        values["database_url"] = make_url(self.record_url).render_as_string(hide_password=True)
        return values


def _message(error: ValidationError) -> str:
    return "; ".join(f"{PREFIX}{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read and verify the settings; InvalidSettings names each one that is wrong."""
    found = os.environ if environment is None else environment
    given = {name[len(PREFIX) :].lower(): value for name, value in found.items() if name.startswith(PREFIX)}
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        raise InvalidSettings(_message(error)) from error


def worker_environment() -> dict[str, str]:
    """Return what a decoding process may see: no settings, one thread for each library."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
