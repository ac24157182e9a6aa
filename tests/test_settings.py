"""Settings: read once, verified, masked."""

from ipaddress import ip_network
from pathlib import Path

import pytest
from serving import environment, staydown

from service.errors import InvalidSettings
from service.settings import PREFIX, Settings, read_settings, worker_environment


def test_the_defaults_need_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    found = read_settings({})
    assert found.home == tmp_path / ".local" / "share" / "staydown"
    assert found.record_url == f"sqlite:///{found.home}/staydown.db"
    assert found.index_path == found.home / "index.cache"
    assert found.worker_count >= 1
    assert found.fetch_internal_networks == ()
    assert not found.home.exists()


def test_the_home_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert read_settings({}).home == tmp_path / "data" / "staydown"
    monkeypatch.setenv("HOME", str(tmp_path))
    for ignored in ("", "relative/data"):
        monkeypatch.setenv("XDG_DATA_HOME", ignored)
        assert read_settings({}).home == tmp_path / ".local" / "share" / "staydown"
    assert read_settings({"STAYDOWN_HOME": "/x"}).home == Path("/x")


def test_every_setting_can_be_set() -> None:
    given = {
        "HOME": "/h", "WITHDRAWALS_FILE": "/w", "SIGNING_KEY_FILE": "/s", "KEY_FILE": "/k",
        "SEAL_NEW_STORE": "false",
        "DATABASE_URL": "postgresql://u:p@h/d", "WORKERS": "3", "MAX_BODY_BYTES": "1", "MAX_PIXELS": "2",
        "UPLOAD_TIMEOUT_S": "9", "MAX_DURATION_S": "1.5", "MAX_FRAMES": "4", "CHECK_TIMEOUT_S": "5",
        "ENROLL_TIMEOUT_S": "6", "MAX_IN_FLIGHT": "7", "FETCH_ENABLED": "false", "FETCH_TIMEOUT_S": "8",
        "FETCH_MAX_REDIRECTS": "0", "FETCH_INTERNAL_NETWORKS": "10.0.0.0/8, fd00::/8", "LOG_LEVEL": "debug",
        "DATABASE_CONNECTIONS": "10", "MAX_STALENESS_S": "11", "MIN_REVISION_WAIT_S": "12",
        "WORKER_LOST_S": "13", "RESCAN_DAYS": "14", "RETRO_DAYS": "15",
        "SHUTDOWN_DRAIN_S": "16", "SHUTDOWN_GRACE_S": "17",
        "SEARCH_URL": "milvus://h:19530", "SEARCH_TIMEOUT_S": "13",
        "FETCH_HOSTS": "example.org, Cdn.example", "FETCH_PROXY": "http://proxy:3128",
        "TLS_CERTIFICATE_FILE": "/c", "TLS_KEY_FILE": "/k", "TLS_CLIENT_CA_FILE": "/a",
        "KEY_PEPPER_FILE": "/p", "TRUSTED_PROXIES": "10.1.0.0/16", "TENANT_REQUESTS_PER_S": "18",
        "TENANT_MAX_IN_FLIGHT": "19", "TENANT_REQUESTS_PER_DAY": "20", "REQUEST_TIMEOUT_S": "21", "SLOW_CLIENT_S": "22",
        "PROBING_BITS": "25", "PROBING_STOP_S": "26", "PROBING_STOPS_MEDIA": "true",
        "MIN_UPLOAD_BYTES_PER_S": "23", "MAX_CONNECTIONS": "24", "SANDBOX": "available",
    }  # fmt: skip
    assert {name.lower() for name in given} == set(Settings.model_fields)
    found = read_settings({PREFIX + name: value for name, value in given.items()})
    assert (found.workers, found.worker_count, found.fetch_enabled, found.log_level) == (3, 3, False, "debug")
    assert found.fetch_internal_networks == (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    assert (found.database_connections, found.max_staleness_s, found.min_revision_wait_s) == (10, 11.0, 12.0)
    limits = found.limits(2.0)
    assert (limits.max_body_bytes, limits.max_pixels, limits.max_frames, limits.timeout_s) == (1, 2, 4, 2.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_PIXEL", "1"), ("WORKER", "1"), ("PORT", "8000"), ("", "x"), ("MAX_PIXELS_", "1"), ("max_pixels", "1"),
        ("MAX_PIXELS", "0"), ("MAX_PIXELS", "many"), ("MAX_PIXELS", "1e6"), ("WORKERS", "-1"), ("WORKERS", "257"),
        ("CHECK_TIMEOUT_S", "0"), ("CHECK_TIMEOUT_S", "-1"), ("CHECK_TIMEOUT_S", "nan"), ("MAX_IN_FLIGHT", "0"),
        ("FETCH_ENABLED", "perhaps"), ("FETCH_MAX_REDIRECTS", "21"), ("FETCH_INTERNAL_NETWORKS", "10.0.0.0/33"),
        ("FETCH_INTERNAL_NETWORKS", "10.0.0.1/8"), ("FETCH_INTERNAL_NETWORKS", "localhost"), ("LOG_LEVEL", "loud"),
        ("LOG_LEVEL", "INFO "), ("DATABASE_URL", "mysql://h/d"), ("DATABASE_URL", "/var/lib/staydown.db"),
        ("SEARCH_URL", "http://h:19530"), ("SEARCH_URL", "milvus://"), ("SEARCH_URL", "milvus://h/a/b"),
        ("SEARCH_TIMEOUT_S", "0"), ("SLOW_CLIENT_S", "0"), ("TENANT_MAX_IN_FLIGHT", "0"), ("TRUSTED_PROXIES", "lb"),
        ("FETCH_PROXY", "socks5://h"), ("FETCH_PROXY", "http://u:p@h"), ("FETCH_PROXY", "http://"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidSettings, match=f"{PREFIX}{name}:"):
        read_settings({PREFIX + name: value})


def test_where_the_pepper_is() -> None:
    home = {"STAYDOWN_HOME": "/h"}
    assert read_settings(home).pepper_path == Path("/h/key.pepper")
    assert read_settings(home | {"STAYDOWN_DATABASE_URL": "sqlite:////other/x.db"}).pepper_path == Path("/h/key.pepper")
    assert read_settings(home | {"STAYDOWN_DATABASE_URL": "sqlite://"}).pepper_path is None, "nothing is kept"
    server = home | {"STAYDOWN_DATABASE_URL": "postgresql://u@h/d"}
    assert read_settings(server).pepper_path is None, "replicas have to share it"
    assert read_settings(server | {"STAYDOWN_KEY_PEPPER_FILE": "/p"}).pepper_path == Path("/p")


def test_all_wrong_settings_are_named_at_once() -> None:
    with pytest.raises(InvalidSettings) as caught:
        read_settings({"STAYDOWN_WORKERS": "x", "STAYDOWN_MAX_FRAMES": "0"})
    assert "STAYDOWN_WORKERS" in str(caught.value)
    assert "STAYDOWN_MAX_FRAMES" in str(caught.value)


def test_an_empty_variable_is_as_if_not_set() -> None:
    assert read_settings({"STAYDOWN_WORKERS": "", "STAYDOWN_LOG_LEVEL": ""}).log_level == "info"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://staydown:hunter2@db:5432/s", "postgresql://staydown:***@db:5432/s"),
        ("postgresql+psycopg://u:hunter2@[::1]/s?sslmode=require", "postgresql+psycopg://u:***@[::1]/s"),
        ("postgresql://u:hun@hunter2@db/s", "postgresql://u:***@db/s"),
        ("postgresql://u:hunter2/@db/s", "postgresql://u:***@db/s"),
        ("postgresql://u@db/s?password=hunter2", "postgresql://u@db/s"),
        ("postgresql:///s?user=u&password=hunter2", "postgresql:///s"),
        ("postgresql://:hunter2@db/s", "postgresql://:***@db/s"),
        ("sqlite:////var/lib/staydown.db", "sqlite:////var/lib/staydown.db"),
    ],
)
def test_a_password_is_never_shown(url: str, shown: str) -> None:
    said = read_settings({"STAYDOWN_DATABASE_URL": url}).shown()
    assert said["database_url"] == shown
    assert "hunter2" not in str(said)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("milvus://h:19530", "milvus://h:19530"),
        ("milvus+tls://root:hunter2@h/db", "milvus+tls://root:***@h/db"),
        ("", ""),
    ],
)
def test_the_search_back_end_is_shown_without_its_password(url: str, shown: str) -> None:
    assert read_settings({"STAYDOWN_SEARCH_URL": url}).shown()["search_url"] == shown


def test_everything_is_shown() -> None:
    assert set(Settings(home=Path("/h")).shown()) == set(Settings.model_fields)


def test_a_worker_sees_no_setting_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STAYDOWN_DATABASE_URL", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "hunter2")
    seen = worker_environment()
    assert "hunter2" not in seen.values()
    assert seen["OMP_NUM_THREADS"] == "1"
    assert "PATH" in seen


@pytest.mark.parametrize("command", [["serve"], ["check", "x.jpg"], ["bank", "list"], ["doctor"]])
def test_a_misspelt_variable_ends_every_command_with_2(tmp_path: Path, command: list[str]) -> None:
    done = staydown(tmp_path / "home", *command, max_pixel="1")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().splitlines() == [
        "staydown: invalid_settings: STAYDOWN_MAX_PIXEL: there is no such setting"
    ]
    assert not (tmp_path / "home").exists()


def test_the_environment_of_these_tests_is_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAYDOWN_ODD", "1")
    assert {name for name in environment(tmp_path) if name.startswith(PREFIX)} == {"STAYDOWN_HOME"}
