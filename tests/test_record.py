"""What is known, and that what is withdrawn leaves nothing behind."""

import gc
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shelf import Shelf, bare, codes, film, frames, opened, still
from sqlalchemy import event

from hashing.signals import FRAME_DTYPE, Kind, SignalType, View
from indexer.errors import UnknownContent
from indexer.hashes import _signal_rows, frames_of

SHA, MD5 = SignalType.SHA256, SignalType.MD5


def test_a_content_is_kept_as_it_was_given(shelf: Shelf) -> None:
    signal = film(codes(1, 4), np.arange(4) / 10, np.arange(4) / 10 + 0.05)
    done = shelf.enroll(signal, case="case 7", labels=("a", "b"))
    kept = shelf.content(done)
    assert (kept.content_id, kept.bank, kept.kind, kept.enabled) == (done.content_id, "b", Kind.VIDEO, True)
    assert (kept.width, kept.height, kept.duration_s, kept.frames_hashed) == (640, 360, 0.3, 4)
    assert (kept.case, kept.labels, kept.revision) == ("case 7", ("a", "b"), done.bank_revision)
    assert (kept.withdrawn_at, kept.withdrawn_reason) == (None, None)
    digests, rows = shelf.record.hashes_of(kept.content_pk)
    assert digests == []
    assert np.array_equal(rows, signal.frames)
    assert shelf.record.signal_counts(kept.content_pk) == {"pdq": 4}


def test_counts_are_by_type(shelf: Shelf) -> None:
    shelf.record.set_bank("b", actor="t", signal_types=list(SignalType))
    rows = np.concatenate([frames(codes(2, 3)), frames(codes(3, 2), kind=SignalType.WHASH)])
    done = shelf.enroll(bare((SHA, b"a" * 32), (MD5, b"b" * 16), rows=rows))
    wanted = {"sha256": 1, "md5": 1, "pdq": 3, "whash": 2}
    assert shelf.record.signal_counts(shelf.content(done).content_pk) == wanted == done.signals
    assert shelf.record.counts() == (1, 5)


@given(st.lists(st.tuples(
    st.integers(0, 4), st.integers(0, 1), st.integers(0, 100),
    st.floats(0, 1e6) | st.just(float("nan")), st.binary(min_size=32, max_size=32),
), max_size=8))  # fmt: skip
def test_rows_come_back_from_the_database_as_they_went(given_rows: list[tuple[int, int, int, float, bytes]]) -> None:
    rows = np.zeros(len(given_rows), FRAME_DTYPE)
    for row, (profile, view, quality, time_s, code) in zip(rows, given_rows, strict=True):
        row["profile"], row["view"], row["quality"] = profile, view, quality
        row["timestamp_s"] = row["until_s"] = time_s
        row["hash"] = np.frombuffer(code, np.uint8)

    names = ("content_pk", "profile", "view", "quality", "timestamp_s", "until_s", "held", "hash")
    written = _signal_rows([1] * len(rows), rows, np.zeros(len(rows), np.uint8))
    assert (
        frames_of([SimpleNamespace(**dict(zip(names, row, strict=True))) for row in written]).tobytes()
        == rows.tobytes()
    )


def test_pages_follow_each_other_in_order_of_enrolment(shelf: Shelf) -> None:
    done = shelf.enroll_all([still(code) for code in codes(4, 23)])
    shelf.withdraw(done[11])
    wanted = [one.content_id for number, one in enumerate(done) if number != 11]
    seen: list[str] = []
    after = 0
    while page := shelf.record.contents("b", after=after, limit=5):
        assert len(page) <= 5
        seen += [content.content_id for content in page]
        after = page[-1].content_pk
    assert seen == wanted


def test_content_is_found_in_its_own_bank_only(shelf: Shelf) -> None:
    """A peer lets the content of bank A be read and deleted through bank B."""
    shelf.record.create_bank("other", actor="t")
    done = shelf.enroll(still(codes(5, 1)[0]))
    for bank, content_id in (("other", done.content_id), ("b", "c_0"), ("b", ""), ("b", done.content_id.upper())):
        with pytest.raises(UnknownContent):
            shelf.record.content(bank, content_id)
        with pytest.raises(UnknownContent):
            shelf.record.set_content(bank, content_id, actor="t", enabled=False)
    assert shelf.content(done).enabled
    found = shelf.record.contents_by_id([done.content_id, "c_0"])
    assert [content.content_id for content in found] == [done.content_id]


def test_a_content_can_be_changed_until_it_is_withdrawn(shelf: Shelf) -> None:
    done = shelf.enroll(still(codes(6, 1)[0]))
    before = shelf.store.revision()
    changed = shelf.record.set_content("b", done.content_id, actor="t", case_ref="new", labels=["x"], enabled=False)
    assert (changed.case, changed.labels, changed.enabled) == ("new", ("x",), False)
    assert shelf.store.revision() == before + 1
    assert shelf.record.set_content("b", done.content_id, actor="t") == changed
    assert shelf.store.revision() == before + 1
    shelf.withdraw(done)
    with pytest.raises(UnknownContent):
        shelf.record.set_content("b", done.content_id, actor="t", enabled=True)


def test_a_withdrawal_leaves_a_tombstone_without_hashes(shelf: Shelf) -> None:
    done = shelf.enroll(bare((SHA, b"a" * 32), rows=frames(codes(7, 2))))
    revision = shelf.withdraw(done)
    assert revision == shelf.store.revision() == done.bank_revision + 1
    gone = shelf.content(done)
    assert gone.withdrawn_at is not None
    assert gone.withdrawn_reason == "by mistake"
    digests, rows = shelf.record.hashes_of(gone.content_pk)
    assert (digests, len(rows)) == ([], 0)
    assert shelf.record.counts() == (0, 0)
    assert shelf.record.contents("b") == ()
    again = [entry for entry, _ in shelf.ledger.entries() if entry.action == "content.withdraw"]
    shelf.record.withdraw(gone, reason="again", actor="t")
    assert shelf.content(done).withdrawn_reason == "by mistake"
    assert [entry for entry, _ in shelf.ledger.entries() if entry.action == "content.withdraw"] == again


def raw(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))


def test_a_withdrawn_hash_is_in_no_byte_of_the_database(tmp_path: Path) -> None:
    path, kept, gone = tmp_path / "staydown.db", codes(8, 1), codes(9, 40)
    digest, md5 = bytes(codes(10, 1)[0]), bytes(codes(11, 1)[0])[:16]
    with opened(path) as shelf:
        shelf.enroll(still(kept[0]))
        exact = ((SHA, digest), (MD5, md5))
        done = shelf.enroll(bare(*exact, rows=frames(gone, times_s=np.arange(40.0))))
        secrets = [digest, digest.hex().encode(), md5, *map(bytes, gone)]
        assert all(secret in raw(path) for secret in secrets)
        shelf.withdraw(done)
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        connection.close()
        assert not any(secret in raw(path) for secret in secrets)
        assert bytes(kept[0]) in raw(path)


def test_a_deleted_bank_is_in_no_byte_of_the_database(tmp_path: Path) -> None:
    path, gone = tmp_path / "staydown.db", codes(12, 300)
    with opened(path) as shelf:
        shelf.enroll_all([still(code) for code in gone])
        shelf.record.delete_bank("b", actor="t")
    assert not any(bytes(code) in raw(path) for code in gone)


def test_exact_hashes_are_found_by_type_and_bank(shelf: Shelf) -> None:
    shelf.record.create_bank("other", actor="t")
    one = shelf.enroll(bare((SHA, b"a" * 32), (MD5, b"b" * 16)))
    two = shelf.enroll(bare((MD5, b"b" * 16)), "other")
    pks = [shelf.content(done).content_pk for done in (one, two)]
    banks = [bank.bank_pk for bank in shelf.record.banks()]
    find = shelf.record.find_exact
    assert find([(SHA, b"a" * 32)], banks) == {(SHA, b"a" * 32): pks[:1]}
    assert find([(MD5, b"b" * 16)], banks) == {(MD5, b"b" * 16): pks}
    assert find([(MD5, b"b" * 16)], banks[1:]) == {(MD5, b"b" * 16): pks[1:]}
    assert find([(SHA, b"a" * 32), (MD5, b"b" * 16)], banks) == {
        (SHA, b"a" * 32): pks[:1], (MD5, b"b" * 16): pks,
    }  # fmt: skip
    assert find([(SHA, b"b" * 16), (SHA, b"c" * 32)], banks) == {}
    assert find([(SHA, b"a" * 32)], []) == {}
    assert find([], banks) == {}


def test_located_is_what_is_active(shelf: Shelf) -> None:
    done = shelf.enroll_all([still(code, view=View.TRIMMED) for code in codes(13, 4)])
    banks = [shelf.record.bank("b").bank_pk]
    keys = shelf.record.signal_keys()
    located = shelf.record.locate(keys, banks)
    assert np.array_equal(located.signal_pk, keys)
    assert [bytes(row["hash"]) for row in located.rows] == [bytes(code) for code in codes(13, 4)]
    shelf.withdraw(done[0])
    shelf.record.set_content("b", done[1].content_id, actor="t", enabled=False)
    assert np.array_equal(shelf.record.locate(keys, banks).signal_pk, keys[2:])
    assert len(shelf.record.locate(keys, []).signal_pk) == 0
    assert len(shelf.record.locate(np.array([10**12]), banks).rows) == 0
    assert len(shelf.record.locate(keys[:0], banks).rows) == 0


def test_more_keys_than_one_statement_takes(shelf: Shelf) -> None:
    shelf.enroll(film(codes(14, 5100), np.arange(5100) / 10))
    banks, keys = [shelf.record.bank("b").bank_pk], shelf.record.signal_keys()
    assert np.array_equal(shelf.record.locate(keys[::-1], banks).signal_pk, keys)
    assert len(shelf.record.contents_by_pk(list(range(1, 12_000)))) == 1


def test_signals_since_are_those_of_all_later_changes(shelf: Shelf) -> None:
    done = [shelf.enroll(still(code)) for code in codes(15, 6)]
    for number, each in enumerate(done):
        since = shelf.record.signals_since(each.bank_revision)
        found = [bytes(row["hash"]) for _, rows in since for row in rows]
        assert found == [bytes(code) for code in codes(15, 6)[number + 1 :]]
    assert list(shelf.record.signals_since(shelf.store.revision())) == []


def test_what_is_new_is_found_without_a_walk_over_all_that_is_known(shelf: Shelf) -> None:
    """SQLite once walked all contents, and PostgreSQL compared each hash with each new content."""
    asked: list[tuple[str, Any]] = []

    def keep(_: object, __: object, statement: str, values: Any, *___: object) -> None:
        asked.append((statement, values))

    for seed, count in enumerate((2000, 2000, 2000, 100)):
        done = shelf.enroll_all([still(code) for code in codes(10 + seed, count)])
    with shelf.store.engine.begin() as connection:
        connection.exec_driver_sql("ANALYZE")  # PostgreSQL does so by itself, but when it pleases
    event.listen(shelf.store.engine, "before_cursor_execute", keep)
    parts = list(shelf.record.signals_since(done[0].bank_revision - 1))
    event.remove(shelf.store.engine, "before_cursor_execute", keep)
    assert sum(len(keys) for keys, _ in parts) == 100
    word = "EXPLAIN" if shelf.store.gives_nudges else "EXPLAIN QUERY PLAN"
    with shelf.store.read() as connection:
        plan = [str(row) for row in connection.exec_driver_sql(f"{word} {asked[-1][0]}", asked[-1][1])]
    assert any("ix_content_revision" in line for line in plan), "\n".join(plan)
    assert not any("Join Filter" in line or "Materialize" in line for line in plan), "\n".join(plan)


@pytest.mark.parametrize("keys", [1, 30, 300, 3000])
def test_hits_are_joined_from_the_hashes_and_not_from_the_contents(shelf: Shelf, keys: int) -> None:
    """For some dozens of keys SQLite once walked every content of the banks."""
    asked: list[tuple[str, Any]] = []

    def keep(_: object, __: object, statement: str, values: Any, *___: object) -> None:
        asked.append((statement, values))

    for seed in range(3):
        shelf.enroll_all([bare((MD5, code[:16].tobytes()), rows=frames(code[None])) for code in codes(30 + seed, 2000)])
    banks = [shelf.record.bank("b").bank_pk]
    known = [(MD5, code[:16].tobytes()) for code in codes(30, 2000)]
    event.listen(shelf.store.engine, "before_cursor_execute", keep)
    assert len(shelf.record.locate(shelf.record.signal_keys()[:keys], banks).rows) == keys
    assert len(shelf.record.find_exact(known[:keys], banks)) == min(keys, 2000)
    event.remove(shelf.store.engine, "before_cursor_execute", keep)
    joins = [one for one in asked if " JOIN " in one[0]]
    assert len(joins) == 2
    if shelf.store.gives_nudges:  # it knows how many rows there are, and a walk may be right for it
        return
    with shelf.store.read() as connection:
        for statement, values in joins:
            plan = [str(row) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]
            assert any("SEARCH content USING INTEGER PRIMARY KEY" in line for line in plan), "\n".join(plan)


def test_whoever_takes_in_a_long_list_does_not_keep_python_busy_with_garbage(shelf: Shelf) -> None:
    """Collections hold all threads up, the largest of them for 50 ms: with 4,096 rows at a time there were 58."""
    shelf.enroll(bare(rows=frames(codes(21, 20_000))))
    walks: list[int] = []

    def count(phase: str, about: dict[str, int]) -> None:
        if phase == "start":
            walks.append(about["generation"])

    for _ in shelf.record.signals_since(shelf.store.revision() - 1):
        break  # what is made once is there
    gc.collect()
    gc.callbacks.append(count)
    try:
        taken = sum(len(keys) for keys, _ in shelf.record.signals_since(shelf.store.revision() - 1))
    finally:
        gc.callbacks.remove(count)
    assert taken == 20_000
    assert len(walks) <= 5
