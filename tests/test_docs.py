"""The docs are held to the program: routes, commands, settings, codes, libraries, thresholds, links."""

import math
import re
import tomllib
from pathlib import Path

import pytest
import typer
from fastapi.routing import APIRoute

from hashing.errors import Reason
from indexer.policy import POLICIES, Sureness, Verdict
from service.app import create_app
from service.auth import Role
from service.cli import app as command_line
from service.problems import STATUS
from service.settings import PREFIX, Settings

ROOT = Path(__file__).parent.parent
DOCS = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]


def _commands() -> set[str]:
    group = typer.main.get_command(command_line)
    found = set()
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        below = getattr(command, "commands", None)
        found |= {f"{name} {inner}" for inner in below} if below else {name}
    return found


@pytest.mark.parametrize("command", sorted(_commands()))
def test_every_command_is_in_the_docs(command: str) -> None:
    assert f"`{command}" in DOCS["cli.md"]


def test_every_route_is_in_the_docs(tmp_path: Path) -> None:
    app = create_app(Settings(home=tmp_path))
    for route in app.routes:
        if isinstance(route, APIRoute):
            assert route.path in DOCS["http.md"]


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_in_the_docs_with_its_default(name: str) -> None:
    row = next(line for line in DOCS["cli.md"].splitlines() if line.startswith(f"| `{PREFIX}{name.upper()}`"))
    field = Settings.model_fields[name]
    if isinstance(field.default, bool):
        assert f"| {str(field.default).lower()} |" in row
    elif isinstance(field.default, int | float):
        assert f"| {field.default:g} |".replace("e+08", "00000000") in row or f"| {field.default} |" in row


@pytest.mark.parametrize("code", sorted(STATUS))
def test_every_error_code_is_in_the_docs_with_its_status(code: str) -> None:
    row = next(line for line in DOCS["http.md"].splitlines() if f"`{code}`" in line and re.match(r"\| \d{3} \|", line))
    assert row.startswith(f"| {STATUS[code]} |")


def test_every_word_of_a_verdict_is_in_the_docs() -> None:
    for word in [*Reason, *Verdict, *POLICIES]:
        assert f"`{word}`" in DOCS["matching.md"]
    for role in Role:
        assert f" {role} |" in DOCS["http.md"]


def _sureness(sureness: Sureness) -> str:
    if math.isinf(sureness.least_score):
        return "never"
    return f"{sureness.least_score:g}, {sureness.most_probability:g}"


def test_the_thresholds_in_the_docs_are_the_programs() -> None:
    for policy in POLICIES.values():
        row = next(line for line in DOCS["matching.md"].splitlines() if line.startswith(f"| `{policy.name}` |"))
        cells = [cell.strip() for cell in row.strip("|").split("|")][1:]
        for cell, threshold in zip(cells[:-1], policy.thresholds.values(), strict=True):
            match = "never" if threshold.match_bits < 0 else str(threshold.match_bits)
            assert cell == f"{match} / {threshold.review_bits}"
        assert cells[-1] == " / ".join(map(_sureness, (policy.match, policy.review)))


def test_every_library_is_in_the_docs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    table = DOCS["dependencies.md"].lower()
    for requirement in project["dependencies"]:
        name = re.split(r"[<>=\[]", requirement)[0]
        assert re.search(rf"^\|[^|]*\b{name}\b", table, re.M) or (name == "av" and "av (pyav)" in table), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_two_commands_of_the_readme_are_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for name in re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), re.M):
        assert re.search(rf"^{name}:", makefile, re.M)


def test_the_project_speaks_of_itself_alone() -> None:
    """No path of somebody's machine in any page."""
    for page in PAGES:
        assert not re.search(r"/(home|root|work|Users)/", page.read_text()), page.name
