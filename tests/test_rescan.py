"""A line for every input, always; and a file that was cut anywhere is gone on with."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shelf import Shelf, each, ended, run

from hashing.errors import CorruptMedia, Reason, UnhashableMedia, UnsupportedMedia
from hashing.hasher import Plan, hash_media
from hashing.signals import SignalType
from indexer.enroll import ReadyHash
from indexer.errors import NO_INPUTS_FAULT, InvalidManifest, TooManyHits
from indexer.exchange.manifest import Item
from indexer.rescan import guarded, rescan

NO_MATCH = {"verdict": "no_match", "reason": None, "matches": []}


def items(*names: str) -> list[Item]:
    return [Item(name, Path(name)) for name in names]


def judge(item: Item) -> dict[str, Any]:
    """The verdict is in the name."""
    return {"verdict": item.name.partition("-")[0], "reason": None, "matches": []}


def lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_bytes()
    assert text.endswith(b"\n") or not text
    return [json.loads(line) for line in text.splitlines()]


LISTED = [f"{verdict}-{number}" for number in range(30) for verdict in ("match", "no_match")]


@pytest.mark.parametrize("workers", [1, 4, 50])
def test_every_input_has_a_line(tmp_path: Path, workers: int) -> None:
    told: list[int] = []
    out = tmp_path / "out.jsonl"
    tally = rescan(items(*LISTED), each(judge), out, resume=False, workers=workers, progress=told.append)
    assert sorted(line["input"] for line in lines(out)) == sorted(LISTED)
    assert all(line["verdict"] == line["input"].partition("-")[0] for line in lines(out))
    assert tally.counts == {"match": 30, "no_match": 30}
    assert sum(told) == 60
    assert out.stat().st_mode & 0o777 == 0o600


def test_nothing_to_do_is_an_empty_file(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert not rescan([], each(judge), out, resume=False, workers=2).counts
    assert out.read_bytes() == b""
    assert not rescan([], each(judge), out, resume=False, workers=2).counts, "an empty file is nobody's work"


# --- what goes wrong with one input -----------------------------------------------------


@pytest.mark.parametrize(("error", "word"), [
    (CorruptMedia(), "corrupt_media"), (UnsupportedMedia(), "unsupported_media"),
    (UnhashableMedia(Reason.TOO_LONG), "too_long"), (TooManyHits(), "too_many_hits"),
    (FileNotFoundError(), "unreadable_file"), (IsADirectoryError(), "unreadable_file"),
    (PermissionError(), "unreadable_file"), (ValueError("secret"), "internal_error"),
    (RecursionError(), "internal_error"), (MemoryError(), "internal_error"), (ZeroDivisionError(), "internal_error"),
])  # fmt: skip
def test_what_is_raised_is_that_input_s_result(tmp_path: Path, error: Exception, word: str) -> None:
    def check(item: Item) -> dict[str, Any]:
        if item.name == "bad":
            raise error
        return NO_MATCH

    out = tmp_path / "out.jsonl"
    tally = rescan(items("a", "bad", "b"), each(check), out, resume=False, workers=1)
    assert tally.counts == {"no_match": 2, "unhashable": 1}
    bad = next(line for line in lines(out) if line["input"] == "bad")
    assert bad == {"input": "bad", "verdict": "unhashable", "reason": word, "matches": []}
    assert b"secret" not in out.read_bytes()


@pytest.mark.parametrize("fault", NO_INPUTS_FAULT)
def test_what_is_no_inputs_fault_ends_the_batch_which_can_be_gone_on_with(
    tmp_path: Path, fault: type[Exception]
) -> None:
    """A line that says so would never be tried again."""
    out, broken = tmp_path / "out.jsonl", [True]

    def check(item: Item) -> dict[str, Any]:
        if broken[0] and item.name == LISTED[20]:
            raise fault
        return NO_MATCH

    with pytest.raises(fault):
        rescan(items(*LISTED), each(check), out, resume=False, workers=2)
    broken[0] = False
    before = lines(out)
    assert 0 < len(before) < len(LISTED)
    tally = rescan(items(*LISTED), each(check), out, resume=True, workers=2)
    assert tally.counts == {"no_match": 60}
    assert lines(out)[: len(before)] == before
    assert sorted(line["input"] for line in lines(out)) == sorted(LISTED)


def test_real_files_of_every_kind(tmp_path: Path, shelf: Shelf, short_clip: bytes) -> None:
    media = tmp_path / "media"
    (media / "folder").mkdir(parents=True)
    files = {"empty": b"", "garbage": bytes(range(256)) * 9, "clip": short_clip, "torn": short_clip[:4000]}
    for name, data in files.items():
        (media / name).write_bytes(data)
    (media / "no-rights").write_bytes(short_clip)
    (media / "no-rights").chmod(0)
    names = [*files, "folder", "missing", "no-rights", "x" * 5000, "nul\0"]

    def check(item: Item) -> dict[str, Any]:
        assert item.path is not None
        answer = shelf.match(hash_media(item.path.read_bytes(), Plan()))
        return {"verdict": answer.verdict.value, "reason": answer.reason}

    out = tmp_path / "out.jsonl"
    rescan([Item(name, media / name) for name in names], each(check), out, resume=False, workers=2)
    found = {line["input"]: (line["verdict"], line["reason"]) for line in lines(out)}
    assert set(found) == set(names)
    assert found["clip"] == ("no_match", None)
    assert found["empty"] == found["garbage"] == ("unhashable", "unsupported_media")
    assert found["torn"][0] == "unhashable"
    assert found["folder"] == found["missing"] == found["x" * 5000] == ("unhashable", "unreadable_file")
    assert found["nul\0"] == ("unhashable", "internal_error")
    assert found["no-rights"] in {("no_match", None), ("unhashable", "unreadable_file")}, "root may read it"


def test_a_name_that_is_no_text_comes_back(tmp_path: Path) -> None:
    name = b"caf\xe9\n\xff".decode(errors="surrogateescape")
    out = tmp_path / "out.jsonl"
    rescan(items(name), guarded(each(judge)), out, resume=False, workers=1)
    assert lines(out)[0]["input"] == name
    assert rescan(items(name), each(judge), out, resume=True, workers=1).counts.total() == 1
    assert len(lines(out)) == 1


# --- many at a time ---------------------------------------------------------------------


def listed(*sizes: int) -> list[Item]:
    """Inputs with so many hashes each; none if it is media."""
    code = ReadyHash(SignalType.PDQ, "0" * 64)
    return [Item(f"{n}", None if size else Path("x"), (code,) * size) for n, size in enumerate(sizes)]


def test_hashes_are_checked_together_and_media_alone(tmp_path: Path) -> None:
    given = listed(*[1] * 200, 40, 0, 0, *[1] * 30, 900, 1, *[100] * 5)
    groups: list[list[str]] = []

    def check(items: Sequence[Item]) -> list[dict[str, Any]]:
        groups.append([item.name for item in items])
        return [NO_MATCH | {"said": item.name} for item in items]

    rescan(given, check, tmp_path / "out", resume=False, workers=1)
    assert [len(group) for group in groups] == [201, 1, 1, 30, 1, 3, 2, 1]
    assert [name for group in groups for name in group] == [item.name for item in given]
    assert all(line["input"] == line["said"] for line in lines(tmp_path / "out"))


def test_one_of_many_that_fails_takes_no_other_with_it(tmp_path: Path) -> None:
    def check(items: Sequence[Item]) -> list[dict[str, Any]]:
        if any(item.name == "7" for item in items):
            raise RuntimeError
        return [NO_MATCH for _ in items]

    rescan(listed(*[1] * 60), check, tmp_path / "out", resume=False, workers=2)
    found = {line["input"]: line["reason"] for line in lines(tmp_path / "out")}
    assert found == {str(n): "internal_error" if n == 7 else None for n in range(60)}


# --- going on ---------------------------------------------------------------------------


def test_a_file_cut_at_any_byte_is_gone_on_with(tmp_path: Path) -> None:
    listed = ["match-1", "no_match-2", "match-ü\u2028", "unhashable-4", "match-1"]
    whole = tmp_path / "whole.jsonl"
    rescan(items(*listed), each(judge), whole, resume=False, workers=1)
    data, out = whole.read_bytes(), tmp_path / "out.jsonl"
    for size in range(len(data) + 1):
        out.write_bytes(data[:size])
        asked: list[str] = []

        def check(item: Item, asked: list[str] = asked) -> dict[str, Any]:
            asked.append(item.name)
            return judge(item)

        tally = rescan(items(*listed), each(check), out, resume=True, workers=1)
        kept = data[:size].count(b"\n")
        assert len(asked) == len(listed) - kept
        assert Counter(line["input"] for line in lines(out)) == Counter(listed)
        assert out.read_bytes()[: data[:size].rfind(b"\n") + 1] == data[: data[:size].rfind(b"\n") + 1]
        assert tally.counts == {"match": 3, "no_match": 1, "unhashable": 1}


def test_a_torn_end_of_another_length_is_cut_off(tmp_path: Path) -> None:
    """Also one longer than what a read takes at once, and one of zeros, as a power cut leaves."""
    out = tmp_path / "out.jsonl"
    line = json.dumps({"input": "a"} | NO_MATCH).encode() + b"\n"
    for torn in (b"{", bytes(100_000), b'{"input": "b"' + b" " * 3_000_000, "ü".encode()[:1]):
        out.write_bytes(line + torn)
        rescan(items("a", "b"), each(lambda item: NO_MATCH), out, resume=True, workers=1)
        assert [one["input"] for one in lines(out)] == ["a", "b"]


def test_resuming_what_is_whole_or_absent(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert rescan(items("match-1"), each(judge), out, resume=True, workers=1).counts == {"match": 1}
    data = out.read_bytes()

    def never(item: Item) -> dict[str, Any]:
        raise AssertionError(item)

    assert rescan(items("match-1"), each(never), out, resume=True, workers=1).counts == {"match": 1}
    assert out.read_bytes() == data


@given(st.lists(st.sampled_from("abcd"), max_size=12), st.integers(0, 12), st.randoms(use_true_random=False))
def test_order_and_repeats_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory, listed: list[str], done: int, chance: random.Random
) -> None:
    out = tmp_path_factory.mktemp("rescan") / "out.jsonl"
    rescan(items(*listed[:done]), each(judge), out, resume=False, workers=2)
    shuffled = list(listed)
    chance.shuffle(shuffled)
    rescan(items(*shuffled), each(judge), out, resume=True, workers=2)
    assert Counter(line["input"] for line in lines(out)) == Counter(listed)


@pytest.mark.parametrize("other", [[], ["a"], ["a", "c"], ["a", "b"], ["A", "B", "B"]])
def test_the_results_of_another_list_are_refused(tmp_path: Path, other: list[str]) -> None:
    out = tmp_path / "out.jsonl"
    rescan(items("a", "b", "b"), each(judge), out, resume=False, workers=1)
    data = out.read_bytes()
    with pytest.raises(InvalidManifest, match="other inputs"):
        rescan(items(*other), each(judge), out, resume=True, workers=1)
    assert out.read_bytes() == data


def test_an_existing_file_is_never_written_over(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("precious")
    with pytest.raises(InvalidManifest, match="--resume"):
        rescan(items("a"), each(judge), out, resume=False, workers=1)
    assert out.read_text() == "precious"


@pytest.mark.parametrize("line", ["precious\n", "[]\n", "{}\n", '{"input": []}\n', "3\n", "\n", "\xff\n"])
def test_a_file_that_is_no_output_is_refused(tmp_path: Path, line: str) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(line.encode("latin-1") + b"torn")
    with pytest.raises(InvalidManifest, match="line 1"):
        rescan(items("a"), each(judge), out, resume=True, workers=1)
    assert out.read_bytes() == line.encode("latin-1") + b"torn"


def test_a_place_that_cannot_be_written_is_wrong_usage(tmp_path: Path) -> None:
    for out in (tmp_path, tmp_path / "absent" / "out.jsonl"):
        with pytest.raises(InvalidManifest):
            rescan(items("a"), each(judge), out, resume=True, workers=1)


KILLED = """
import sys, time
from pathlib import Path
from forks import fork
from indexer.exchange.manifest import Item
from indexer.rescan import rescan

listed = [Item(f"{n % 50}", Path(f"{n}")) for n in range(300)]

def check(item):
    time.sleep(0.002)
    return {"verdict": "no_match", "reason": None, "matches": [], "padding": "x" * 3000}

def work():
    out = Path(sys.argv[1])
    rescan(listed, lambda items: list(map(check, items)), out, resume=True, workers=4,
           progress=lambda n: print(n, flush=True))

for wanted in (30, 40):
    child = fork(work)
    for _ in range(wanted):
        child.stdout.readline()
    child.killed()
    with open(sys.argv[1], "ab") as out:
        out.write(b'{"input": "7", "verd')
print(fork(work).ended().split()[0])
"""


def test_a_batch_that_is_killed_twice_has_one_line_an_input(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    before = int(ended(run(KILLED, out)))
    assert 60 <= before < 300
    assert Counter(line["input"] for line in lines(out)) == {f"{n}": 6 for n in range(50)}
