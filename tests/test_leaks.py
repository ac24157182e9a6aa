"""What role `check` is answered, searched for the bank; `benchmarks.leaks` makes 100,000 such calls."""

from collections.abc import Iterator

import pytest
from serving import Server, make_key

from benchmarks.leaks import Call, Known, Search, fill, run
from benchmarks.server import Server as Served


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Known]]:
    home = tmp_path_factory.mktemp("leaks") / "home"
    with Server(home, retro_days="1") as server:
        yield server, fill(Served(home, server.port, server.process.pid), server.first_key())


def test_role_check_learns_no_hash_and_no_distance(filled: tuple[Server, Known]) -> None:
    server, known = filled
    leaks, statuses = run(server.port, make_key(server.home, "check"), known, 1500, 7)
    assert dict(leaks) == {}
    assert statuses[200] > 300
    assert statuses[403] > 300
    assert not {500, 503} & set(statuses)


def test_the_search_finds_what_a_role_with_evidence_is_shown(filled: tuple[Server, Known]) -> None:
    """The control: the same calls by a role that may see distances."""
    server, known = filled
    leaks, _ = run(server.port, make_key(server.home, "review"), known, 300, 7)
    assert leaks["distance_bits"] > 0
    assert leaks["false_match_probability"] > 0


def test_the_search_finds_a_hash_in_every_form() -> None:
    text = "0123456789abcdef" * 4
    search, call = Search(Known((text,), (), ())), Call("GET", "/")
    assert search.found(call, "", b"nothing") == []
    for body in (text, text.upper(), f"x{text[20:40]}x", f'{{"a": "{text[:16]}"}}'):
        assert search.found(call, "", body.encode()) == ["hash"]
        assert search.found(call, body, b"") == ["hash"], "in a header"
    assert "bytes" in search.found(call, "", bytes.fromhex(text))
    assert search.found(call, "", text[:15].encode()) == []
