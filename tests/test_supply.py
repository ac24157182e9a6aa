"""What the container installs is locked: every library that we name, in a version that we ask for, with its hashes."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
NAMED = [*PROJECT["dependencies"], *EXTRAS["postgres"], *EXTRAS["queue"], "setuptools>=77"]
LOCKED = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text().strip())


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


@pytest.mark.parametrize("asked", sorted(set(NAMED)))
def test_what_we_name_is_locked(asked: str) -> None:
    name, least = re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", asked).groups()  # type: ignore[union-attr]
    found = [line for line in LOCKED if line.lower().startswith(f"{name.lower()}==")]
    assert found
    assert all(version(line.partition("==")[2].partition(" ")[0]) >= version(least) for line in found)


def test_everything_that_is_locked_has_hashes() -> None:
    assert len(LOCKED) > len(NAMED)
    assert [line.split("==")[0] for line in LOCKED if not re.search(r"--hash=sha256:[0-9a-f]{64}", line)] == []
    assert "://" not in "".join(LOCKED)  # no registry's address


def test_the_container_installs_nothing_else() -> None:
    installs = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if "pip install" in line]
    assert len(installs) == 2
    assert "--require-hashes -r requirements.lock" in installs[0]
    assert "--no-deps --no-build-isolation" in installs[1]
