"""What goes out comes in again, hash by hash and content by content."""

import csv
import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shelf import Shelf, bare, codes, film, frames, still

from hashing.signals import PROFILES, Signal, SignalType
from indexer.enroll import Submission, signals_of
from indexer.errors import InvalidManifest, NothingToEnroll, UnknownBank
from indexer.exchange.columns import read_list
from indexer.exchange.hashlist import BATCH, check_format, export_hashes, import_hashes
from indexer.exchange.manifest import read_manifest

Held = list[tuple[str | None, tuple[str, ...], list[tuple[str, bytes]], list[tuple[object, ...]]]]


def held(shelf: Shelf, bank: str) -> Held:
    """All of a bank but its ids: contents in order of enrolment, hashes in order of their values."""
    found: Held = []
    for content in shelf.record.contents(bank, limit=10_000):
        exact, rows = shelf.record.hashes_of(content.content_pk)
        values = [
            (int(row["profile"]), int(row["view"]), int(row["quality"]), str(row["timestamp_s"]), bytes(row["hash"]))
            for row in rows
        ]
        found.append((content.case, content.labels, [(kind.value, code) for kind, code in exact], values))
    return found


def signals_in(path: Path) -> list[Signal]:
    return signals_of([item.hashes for item in read_manifest(path)])


hashes = st.binary(min_size=32, max_size=32)
rows = st.tuples(
    st.integers(0, len(PROFILES) - 1), st.integers(0, 1), st.integers(0, 100), st.none() | st.floats(0, 1e5), hashes
)
plain = st.text(st.characters(exclude_characters=";", exclude_categories=["Cs", "Zs", "Cc", "Zl", "Zp"]), min_size=1)
contents = st.tuples(
    st.lists(rows, max_size=4), st.lists(hashes, max_size=1), st.lists(st.binary(min_size=16, max_size=16), max_size=1),
    st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
    st.lists(plain, max_size=2),
).filter(lambda content: content[0] or content[1] or content[2])  # fmt: skip


def signal(
    drawn: tuple[list[tuple[int, int, int, float | None, bytes]], list[bytes], list[bytes], object, object],
) -> Signal:
    table = frames(np.zeros((len(drawn[0]), 32), np.uint8))
    for row, (profile, view, quality, time_s, code) in zip(table, drawn[0], strict=True):
        row["profile"], row["view"], row["quality"] = profile, view, quality
        row["timestamp_s"] = row["until_s"] = np.nan if time_s is None else time_s
        row["hash"] = np.frombuffer(code, np.uint8)
    exact = [(SignalType.SHA256, code) for code in drawn[1]] + [(SignalType.MD5, code) for code in drawn[2]]
    return bare(*exact, rows=table)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(contents, max_size=4))
def test_what_goes_out_comes_in_again(shelf: Shelf, form: str, drawn: list[tuple[list[object], ...]]) -> None:
    for bank in shelf.record.bank_names():
        shelf.record.delete_bank(bank, actor="t")
    for bank in ("from", "to"):
        shelf.record.create_bank(bank, actor="t", signal_types=list(SignalType))
    for content in drawn:
        shelf.enroll(signal(content), "from", case=content[3], labels=tuple(content[4]))  # type: ignore[arg-type]
    path = shelf.path.with_name("list")
    path.unlink(missing_ok=True)
    count = export_hashes(shelf.record, "from", path, form)
    done = import_hashes(shelf.lists, "to", path, actor="t")
    assert held(shelf, "to") == held(shelf, "from")
    assert count == sum(len(exact) + len(values) for _, _, exact, values in held(shelf, "from"))
    assert all(all(part.created) for part in done)
    again = import_hashes(shelf.lists, "to", path, actor="t")
    assert [part.content_ids for part in again] == [part.content_ids for part in done]
    assert not any(any(part.created) for part in again)
    assert held(shelf, "to") == held(shelf, "from")


NAMED = ("content", "case", "labels", "signal_type", "hash", "quality", "timestamp_s", "profile", "view")
CELLS = {
    "content": ("", "a", "b", " a"), "case": ("", "2026-17", "x\u2028y"), "labels": ("", "x", "x; y;;", ";"),
    "signal_type": ("", "pdq", "phash", "md5", "sha256", "keypoints", "PDQ"),
    "hash": ("ab" * 32, " " + "AB" * 32, "cd" * 32, "ef" * 16, "", "zz" * 32, "a" * 63),
    "quality": ("", "0", "77", "100", "101", "-1", "many"), "timestamp_s": ("", "0", "1.5", "nan", "1e400"),
    "profile": ("", "pdq-full/1", "pdq-512/1", "dhash/1", "none"), "view": ("", "full", "trimmed", "half"),
}  # fmt: skip
likely = st.tuples(*(st.sampled_from(CELLS[name][:3]) for name in NAMED))
any_cells = st.tuples(*(st.sampled_from(CELLS[name]) for name in NAMED))


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(likely, min_size=1, max_size=6) | st.lists(any_cells, min_size=1, max_size=2))
def test_a_list_read_by_columns_is_the_list_read_line_by_line(tmp_path: Path, drawn: list[tuple[str, ...]]) -> None:
    """CSV goes by columns, JSON Lines one line after the other: the same hashes come of it, or the same refusal."""
    with (tmp_path / "list.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([NAMED, *drawn])
    lines = (json.dumps(dict(zip(NAMED, row, strict=True))) for row in drawn)
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    try:
        expected = read_list(tmp_path / "list.jsonl")
    except InvalidManifest:
        with pytest.raises(InvalidManifest):
            read_list(tmp_path / "list.csv")
        return
    found = read_list(tmp_path / "list.csv")
    assert found.sizes.tolist() == expected.sizes.tolist()
    assert (found.cases, found.labels) == (expected.cases, expected.labels)
    assert {number: tuple(pairs) for number, pairs in found.exact.items()} == {
        number: tuple(pairs) for number, pairs in expected.exact.items()
    }
    assert found.frames.tobytes() == expected.frames.tobytes()


@pytest.mark.parametrize("line", ['{"path": "a.jpg"}', '{"path": "https://media.example/a.jpg"}'])
def test_a_hash_list_names_no_media(tmp_path: Path, line: str) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text(line)
    with pytest.raises(InvalidManifest, match="names no files"):
        read_list(path)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_an_imported_list_is_found(shelf: Shelf, form: str) -> None:
    shelf.record.create_bank("copy", actor="t")
    shelf.enroll(film(codes(1, 5), np.arange(5) / 10), case="c", labels=("x", "y"))
    shelf.enroll_all([still(code) for code in codes(2, 700)])
    path = shelf.path.with_name("list")
    assert export_hashes(shelf.record, "b", path, form) == 705
    assert path.stat().st_mode & 0o777 == 0o600
    assert [len(part.content_ids) for part in import_hashes(shelf.lists, "copy", path, actor="t")] == [701]
    match = shelf.match(film(codes(1, 5), np.arange(5) / 10), "copy").matches[0]
    assert match.segments[0].frames == 5
    assert shelf.record.contents("copy", limit=1)[0].labels == ("x", "y")
    assert all(shelf.found(still(code), "copy") for code in codes(2, 700)[::50])


def test_what_was_withdrawn_does_not_go_out(shelf: Shelf) -> None:
    kept, gone = shelf.enroll_all([still(code) for code in codes(3, 2)])
    shelf.withdraw(gone)
    path = shelf.path.with_name("list")
    assert export_hashes(shelf.record, "b", path, "csv") == 1
    assert kept.content_id in path.read_text()
    assert bytes(codes(3, 2)[1]).hex() not in path.read_text()


def test_an_export_never_writes_over_a_file(shelf: Shelf) -> None:
    path = shelf.path.with_name("list")
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        export_hashes(shelf.record, "b", path, "csv")
    assert path.read_text() == "precious"


def test_formats_and_banks_have_to_be_known(shelf: Shelf) -> None:
    path = shelf.path.with_name("list")
    for name in ("CSV", "xml", ""):
        with pytest.raises(InvalidManifest, match="known: csv, jsonl"):
            check_format(name)
        with pytest.raises(InvalidManifest):
            export_hashes(shelf.record, "b", path, name)
    with pytest.raises(UnknownBank):
        export_hashes(shelf.record, "none", path, "csv")
    assert not path.exists()
    path.write_text("hash\n" + "ab" * 32)
    with pytest.raises(UnknownBank):
        import_hashes(shelf.lists, "none", path, actor="t")


def test_a_list_of_files_is_no_list_of_hashes(shelf: Shelf) -> None:
    path = shelf.path.with_name("list")
    for text in ("a.jpg\n", f"path,hash\n,{'ab' * 32}\na.jpg,\n"):
        path.write_text(text)
        with pytest.raises(InvalidManifest, match="names no files"):
            import_hashes(shelf.lists, "b", path, actor="t")
    path.write_text("signal_type,hash\nphash," + "ab" * 32)
    with pytest.raises(NothingToEnroll):
        import_hashes(shelf.lists, "b", path, actor="t")
    assert shelf.record.counts() == (0, 0)


def test_known_contents_of_a_list_take_what_they_lack(shelf: Shelf) -> None:
    """As contents enrolled one by one do; of those that lack nothing not a row changes."""
    pdq = [bytes(code).hex() for code in codes(7, 4)]
    sha, md5 = [digit * 64 for digit in "abc"], "d" * 32
    lists = (
        [("a", sha[0]), ("a", pdq[0]), ("b", sha[1]), ("b", pdq[1]), ("c", sha[2]), ("d", pdq[3])],
        [("a", sha[0]), ("a", pdq[0]), ("a", pdq[2]), ("a", md5), ("b", sha[1]), ("b", pdq[1]), ("c", sha[2]),
         ("c", md5), ("again", sha[0]), ("again", pdq[2]), ("again", pdq[3]), ("d", pdq[3])],
    )  # fmt: skip
    shelf.record.create_bank("slow", actor="t", signal_types=list(SignalType))
    shelf.record.set_bank("b", actor="t", signal_types=list(SignalType))
    path = shelf.path.with_name("list")
    for rows in lists:
        kinds = {64: "sha256", 32: "md5"}
        lines = [f"{name},{'pdq' if code in pdq else kinds[len(code)]},{code}" for name, code in rows]
        path.write_text("content,signal_type,hash\n" + "\n".join(lines))
        shelf.enroller.enroll_many("slow", [Submission(each) for each in signals_in(path)], actor="t")
        import_hashes(shelf.lists, "b", path, actor="t")
        assert held(shelf, "b") == held(shelf, "slow")
    assert [content.revision for content in shelf.record.contents("b")] == [
        shelf.store.revision() - unchanged for unchanged in (0, 2, 0, 2)
    ]


def test_ten_thousand_hashes_take_seconds(shelf: Shelf) -> None:
    path = shelf.path.with_name("list")
    path.write_text("hash\n" + "\n".join(bytes(code).hex() for code in codes(4, 22_000)))
    begun = time.process_time()
    done = import_hashes(shelf.lists, "b", path, actor="t")
    assert time.process_time() - begun < 3.0
    ids = [content_id for part in done for content_id in part.content_ids]
    assert len(set(ids)) == len(shelf.index) == len(shelf.record.contents("b", limit=30_000)) == 22_000
    assert [len(part.content_ids) for part in done] == [BATCH, 2_000]
    assert done[0].bank_revision + 1 == done[1].bank_revision == shelf.store.revision()
    assert shelf.found(still(codes(4, 22_000)[21_999])) == [ids[-1]]
    assert shelf.ledger.verify() == (3, None)
    said = [entry.detail["content_ids"] for entry, _ in shelf.ledger.entries() if entry.action == "content.import"]
    assert said == [list(part.content_ids) for part in done]
    begun = time.process_time()
    again = import_hashes(shelf.lists, "b", path, actor="t")
    assert time.process_time() - begun < 3.0
    assert [part.content_ids for part in again] == [part.content_ids for part in done]
