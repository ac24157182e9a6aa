"""What we run: locked by hash, listed, searched for secrets and for dangerous calls.

No known holes are looked up (pip-audit): that needs a service on the network, and an answer that changes by the day
is no test. Whoever publishes an image scans it, by its list of contents (`make sbom`).
"""

import json
import re
import subprocess
import sys
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


def tool(name: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a tool of the `test` extra in the repository."""
    command = [Path(sys.executable).with_name(name), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def scanned(where: Path, *words: str) -> set[tuple[str, str, str]]:
    """Return what the secret scan finds: file, kind, and a digest of the find."""
    done = tool("detect-secrets", "-C", where, "scan", "--all-files", *words)
    assert done.returncode == 0, done.stderr
    return finds(json.loads(done.stdout))


def finds(report: dict[str, object]) -> set[tuple[str, str, str]]:
    results: dict[str, list[dict[str, str]]] = report["results"]  # type: ignore[assignment]
    return {(name, one["type"], one["hashed_secret"]) for name, each in results.items() for one in each}


@pytest.mark.slow
def test_no_secret_is_in_the_repository() -> None:
    """But for what a person looked at and took for none: `make secrets` writes that list anew."""
    makefile = (ROOT / "Makefile").read_text()
    words = re.search(r"^SCANNED = ((?:.*\\\n)*.*)$", makefile, re.M)[1].replace("\\\n", " ").replace("$$", "$").split()  # type: ignore[index]
    found = scanned(ROOT, *(word.strip("'") for word in words))
    known = finds(json.loads((ROOT / ".secrets.baseline").read_text()))
    assert {(name, kind) for name, kind, digest in found - known} == set()


def test_the_secret_scan_finds_secrets(tmp_path: Path) -> None:
    """The control."""
    key = "-----BEGIN " + "EC PRIVATE KEY-----"
    aws = "AKIA" + "Z7Y3QW5T2R8P4M6N"
    (tmp_path / "a.py").write_text(f'KEY = """{key}"""\nawskey = "{aws}"\npassword = "{aws[::-1]}"\n')
    assert {kind for _, kind, _ in scanned(tmp_path, ".")} >= {"Private Key", "AWS Access Key", "Secret Keyword"}


def test_bandit_finds_nothing_and_would(tmp_path: Path) -> None:
    clean = tool("bandit", "-q", "-c", "pyproject.toml", "-r", "hashing", "indexer", "service")
    assert clean.returncode == 0, clean.stdout
    bad = tmp_path / "bad.py"
    bad.write_text("import pickle\npickle.loads(b'')\neval('1')\n")
    found = tool("bandit", "-q", "-c", "pyproject.toml", bad)
    assert found.returncode == 1
    assert "B301" in found.stdout


def test_the_list_of_contents_names_what_is_locked(tmp_path: Path) -> None:
    made = tmp_path / "sbom.json"
    done = tool("cyclonedx-py", "requirements", "requirements.lock", "--pyproject", "pyproject.toml",
                "--output-reproducible", "--of", "JSON", "-o", made)  # fmt: skip
    assert done.returncode == 0, done.stderr
    listed = {(one["name"].lower(), one["version"]) for one in json.loads(made.read_text())["components"]}
    locked = {tuple(re.match(r"([^=\[]+)(?:\[\w+\])?==([^ ;]+)", line).groups()) for line in LOCKED}  # type: ignore[union-attr]
    assert listed == {(name.lower(), version) for name, version in locked}
