"""The keys' secret: made once, kept from others, and told to be wrong where it is."""

import json
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from postgres import Postgres
from serving import make_key, staydown

from service.engine import Engine
from service.errors import InvalidSettings
from service.pepper import made_pepper, read_pepper
from service.settings import Settings


def test_a_secret_is_made_once_and_only_we_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "home" / "key.pepper"
    made, new = made_pepper(path)
    assert new
    assert len(made) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made_pepper(path) == (made, False)
    assert read_pepper(path) == made
    assert [file.name for file in path.parent.iterdir()] == ["key.pepper"]


def test_two_stores_have_two_secrets(tmp_path: Path) -> None:
    assert made_pepper(tmp_path / "a")[0] != made_pepper(tmp_path / "b")[0]


def test_of_several_that_start_at_once_one_makes_it_and_all_have_it(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from service.pepper import made_pepper;"
    code += "sys.stdin.read(1); print(made_pepper(Path(sys.argv[1])))"
    arguments = [sys.executable, "-c", code, str(tmp_path / "pepper")]
    started = [subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    time.sleep(1)
    said = [process.communicate("x")[0].strip() for process in started]
    assert len({line.partition("'")[2][:64] for line in said}) == 1
    assert sum(line.endswith("True)") for line in said) == 1


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [(None, 0, "cannot be read"), (b"", 0o600, "16 bytes"), (b"short\n", 0o600, "16 bytes"), (b" " * 64, 0o600, "16"),
     (b"x" * 32, 0o620, "chmod 600"), (b"x" * 32, 0o602, "chmod 600")],
)  # fmt: skip
def test_a_secret_that_is_none_is_refused(tmp_path: Path, content: bytes | None, mode: int, why: str) -> None:
    path = tmp_path / "pepper"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(InvalidSettings, match=why):
        read_pepper(path)


def test_a_store_of_before_is_bound_at_its_first_start(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url=f"sqlite:///{tmp_path}/x.db")
    in_memory = settings.model_copy(update={"home": tmp_path / "elsewhere"})
    with Engine(in_memory) as engine:
        engine.keys._pepper = engine.keys._pepper_id = None  # as the release before had it
        _, text = engine.keys.create("admin", actor="t")
    with Engine(settings) as engine:
        assert engine.keys.authenticate(text) is not None
        assert (engine.keys.unbound(), engine.keys.foreign()) == (0, 0)
    (tmp_path / "key.pepper").unlink()
    with Engine(settings) as engine:
        assert engine.keys.authenticate(text) is None, "a new pepper opens nothing that another one bound"
        assert engine.keys.foreign() == 1


def findings(home: Path, *more: str, **settings: str) -> dict[str, str]:
    """Return what doctor finds wrong about the keys, with what it says."""
    done = staydown(home, "doctor", "--json", *more, **settings)
    found = json.loads(done.stdout)["findings"]
    return {f["code"]: f["detail"] for f in found if f["what"] in {"keys", "pepper"} and f["code"]}


def test_doctor_says_when_replicas_share_no_secret_and_when_keys_are_not_bound(
    tmp_path: Path, postgres: Postgres
) -> None:
    url = postgres.new_database()
    key = make_key(tmp_path / "a", "admin", database_url=url)
    assert set(findings(tmp_path / "a", database_url=url)) == {"pepper_absent"}
    assert not (tmp_path / "a" / "key.pepper").exists()
    secret = tmp_path / "secret"
    secret.write_text("x" * 64)
    secret.chmod(0o604)
    given = {"database_url": url, "key_pepper_file": str(secret)}
    assert set(findings(tmp_path / "b", **given)) == {"pepper_open", "keys_unbound"}
    secret.chmod(0o600)
    assert "1 open nothing" in findings(tmp_path / "b", **given)["keys_unbound"]
    assert staydown(tmp_path / "b", "key", "bind", "--json", **given).stdout == b'{"bound": 1}\n'
    assert findings(tmp_path / "c", **given) == {}
    secret.write_text("y" * 64)
    assert set(findings(tmp_path / "c", **given)) == {"pepper_missing"}
    assert key.startswith("sd_")
    secret.unlink()
    refused = staydown(tmp_path / "c", "key", "list", **given)
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert b"invalid_settings" in refused.stderr


def test_doctor_binds_keys_where_it_is_asked_to_repair(tmp_path: Path, postgres: Postgres) -> None:
    url, secret = postgres.new_database(), tmp_path / "secret"
    make_key(tmp_path / "a", "admin", database_url=url)
    secret.write_text("x" * 64)
    secret.chmod(0o600)
    given = {"database_url": url, "key_pepper_file": str(secret)}
    assert set(findings(tmp_path / "a", "--repair", **given)) <= {"keys_unbound"}
    assert findings(tmp_path / "a", **given) == {}
