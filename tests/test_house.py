"""The house's rules, held by tests: layers, owners, sizes, no dangerous calls, no open route."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from service.app import create_app
from service.auth import Permission
from service.settings import Settings

ROOT = Path(__file__).parent.parent
FILES = sorted(path for room in ("hashing", "indexer", "service") for path in (ROOT / room).rglob("*.py"))
TREES = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in FILES}
OPEN = {"/health/live", "/health/ready"}

# Two boundaries a door, each named where it stands: what nobody foresaw is an answer there, never a way on.
BROAD_EXCEPTS = {
    "service/middleware.py": "the HTTP boundary",
    "service/cli.py": "the boundary of the command line",
    "service/rescans.py": "the batch-item boundary of rescans over HTTP",
    "indexer/rescan.py": "one input must never end a batch",
}


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def users(library: str) -> set[str]:
    """Return the files that import a library."""
    return {name for name, tree in TREES.items() if any(re.match(rf"{library}(\.|$)", word) for word in imports(tree))}


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function's statements, its docstring left out."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def test_the_layers_hold() -> None:
    done = subprocess.run([Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize(
    ("library", "owners"),
    [
        ("faiss", {"indexer/segments.py", "indexer/descriptors.py"}),
        ("pymilvus", {"indexer/milvus.py"}),
        ("grpc", {"indexer/milvus.py"}),
        ("cryptography", {"indexer/signing.py", "indexer/seals.py"}),
        ("httpcore", {"service/fetch_worker.py"}),
        ("procrastinate", {"indexer/queue_jobs.py"}),
        ("uvicorn", {"service/connections.py", "service/drain.py"}),
        ("structlog", {"service/logs.py", "service/middleware.py"}),
        ("python_multipart", {"service/uploads.py"}),
        ("prometheus_client", {"service/metrics.py"}),
        ("av", {"hashing/clips.py", "hashing/worker.py"}),
        ("PIL", {"hashing/stills.py", "hashing/classic.py"}),
        ("subprocess", {"hashing/nursery.py", "service/fetch.py"}),
    ],
)
def test_a_library_has_one_owner(library: str, owners: set[str]) -> None:
    assert users(library) <= owners


def test_sql_is_in_the_record_alone() -> None:
    record = ("engines", "store", "tables", "banks", "record", "contents", "hashes", "sketches", "companions", "holds")
    beside = (
        "ledger",
        "standing",
        "keys",
        "audit",
        "seals",
        "sealing",
        "jobs",
        "queue",
        "retro",
        "withdrawals",
        "backup",
        "erasure",
    )
    owners = {f"indexer/{name}.py" for name in (*record, *beside)}
    assert {name for name in users("sqlalchemy") if not name.startswith("indexer/migrations/")} <= owners


def test_no_http_client_but_the_guarded_one() -> None:
    for library in ("httpx", "requests", "aiohttp", "urllib.request", "urllib3", "http.client", "ftplib"):
        assert not users(library)


def test_the_environment_is_read_in_one_file() -> None:
    readers = {
        name for name, tree in TREES.items() for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.Name)
        and ast.unparse(node) in {"os.environ", "os.getenv", "environ", "getenv", "os.environb"}
    }  # fmt: skip
    assert readers == {"service/settings.py"}


def test_nothing_is_pickled_evaluated_or_given_to_a_shell() -> None:
    forbidden = {"eval", "exec", "compile", "os.system", "os.popen", "yaml.load", "__import__", "input"}
    for library in ("pickle", "marshal", "shelve", "dill", "joblib", "tempfile", "multiprocessing"):
        assert not users(library), library
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                assert called(node) not in forbidden, name
                shell = [word for word in node.keywords if word.arg == "shell"]
                assert not shell, name
                numpy_pickle = [word for word in node.keywords if word.arg == "allow_pickle"]
                assert not numpy_pickle, name


def test_only_problems_know_status_codes() -> None:
    assert {name for name, tree in TREES.items() if "HTTPException" in ast.unparse(tree)} == {"service/problems.py"}


def test_nothing_prints_but_output() -> None:
    writers = {name for name, tree in TREES.items() for node in ast.walk(tree)
               if isinstance(node, ast.Call) and called(node) in {"print", "sys.stdout.write"}}  # fmt: skip
    assert writers <= {"service/output.py"}


def test_a_broad_except_is_a_named_boundary() -> None:
    found: dict[str, int] = {}
    for name, tree in TREES.items():
        lines = (ROOT / name).read_text().splitlines()
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type is not None else "everything"
                if re.search(r"\b(Exception|BaseException|everything)\b", caught):
                    assert BROAD_EXCEPTS[name] in lines[node.lineno - 1], f"{name}:{node.lineno}"
                    found[name] = found.get(name, 0) + 1
    assert found == dict.fromkeys(BROAD_EXCEPTS, 1)


def test_no_assert_is_a_check_of_input() -> None:
    for name, tree in TREES.items():
        asserts = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
        top_level = {node.lineno for node in tree.body if isinstance(node, ast.Assert)}
        assert set(asserts) <= top_level, name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_short_and_says_what_it_is_for(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 350
    assert path.name == "__init__.py" or ast.get_docstring(ast.parse(text))


def test_functions_are_short() -> None:
    ours = {name: tree for name, tree in TREES.items() if "/migrations/versions/" not in name}  # those are lists
    lengths = sorted(code_lines(function) for tree in ours.values() for function in functions(tree))
    longest = max((code_lines(f), name, f.name) for name, tree in ours.items() for f in functions(tree))
    assert longest[0] <= 50, longest
    assert lengths[len(lengths) * 95 // 100] <= 30
    assert lengths[len(lengths) // 2] <= 8


def test_no_import_hides_in_a_function() -> None:
    for name, tree in TREES.items():
        for function in functions(tree):
            assert not [n for n in ast.walk(function) if isinstance(n, ast.Import | ast.ImportFrom)], name


def test_public_names_are_described() -> None:
    missing = [
        f"{name} {node.name}" for name, tree in TREES.items() if "migrations" not in name for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_") and ast.get_docstring(node) is None
    ]  # fmt: skip
    assert missing == []


def test_values_are_frozen() -> None:
    growing = {
        "service/uploads.py Upload",
        "service/uploads.py _Part",
        "indexer/store.py Change",
        "indexer/rescan.py Tally",
        "benchmarks/history.py Known",
        "benchmarks/history.py Model",
    }
    for name, tree in TREES.items():
        for node in (n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)):
            for decorator in map(ast.unparse, node.decorator_list):
                if decorator.startswith("dataclass") and f"{name} {node.name}" not in growing:
                    assert "frozen=True" in decorator, f"{name} {node.name}"
                    assert "slots=True" in decorator, f"{name} {node.name}"


def routes() -> list[APIRoute]:
    """Return every route that the app answers, from the table that the server itself walks."""
    found: list[APIRoute] = []
    left = list(create_app(Settings(home=Path("/nowhere"))).routes)
    while left:
        route = left.pop()
        if isinstance(route, APIRoute):
            found.append(route)
        else:
            left += getattr(route, "routes", None) or getattr(getattr(route, "original_router", None), "routes", [])
    return found


def permissions(route: APIRoute) -> list[Permission]:
    return [d.call.permission for d in route.dependant.dependencies if hasattr(d.call, "permission")]


def test_every_route_says_which_permission_it_needs() -> None:
    paths = {route.path for route in routes()}
    assert paths > OPEN
    assert len(paths) >= 13, paths
    for route in routes():
        assert len(permissions(route)) == (0 if route.path in OPEN else 1), route.path


def test_what_changes_something_needs_more_than_reading() -> None:
    for route in routes():
        if route.methods & {"PUT", "PATCH", "DELETE"}:
            assert permissions(route)[0] in {Permission.MANAGE, Permission.WITHDRAW}, route.path


def test_the_tests_are_not_a_package() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_no_module_is_named_like_one_of_the_standard_library() -> None:
    top_level = {path.stem for path in (ROOT / "tests").rglob("*.py")} | {"hashing", "indexer", "service", "benchmarks"}
    assert not top_level & sys.stdlib_module_names
