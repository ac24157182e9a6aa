"""An audit log that shows what was tampered with, answers kept once."""

import json
import random
import sqlite3
import threading
from collections.abc import Iterator

import pytest
from shelf import Shelf, codes, opened, still
from sqlalchemy import delete

from indexer.tables import audit

# --- audit ------------------------------------------------------------------------------


def written(shelf: Shelf) -> int:
    """Write a dozen entries of several kinds; returns how many there are."""
    done = shelf.enroll_all([still(code) for code in codes(1, 4)])
    shelf.withdraw(done[0])
    key, _ = shelf.keys.create("check", actor="admin")
    shelf.record.set_bank("b", actor="ä", description="ü")
    shelf.keys.revoke(key.key_id, actor="admin")
    shelf.jobs.submit([{"url": "x"}], None, key_id=key.key_id)
    shelf.withdraw(done[1])
    count, broken = shelf.ledger.verify()
    assert broken is None
    return count


def test_the_log_says_who_did_what(shelf: Shelf) -> None:
    written(shelf)
    entries = [entry for entry, _ in shelf.ledger.entries()]
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert [entry.action for entry in entries] == [
        "bank.create", *["content.enroll"] * 4, "content.withdraw", "key.create", "bank.set", "key.revoke",
        "rescan.submit", "content.withdraw",
    ]  # fmt: skip
    assert entries[5].detail == {"bank": "b", "reason": "by mistake"}
    assert entries[7].actor == "ä"
    revisions = [entry.revision for entry in entries]
    assert revisions == sorted(revisions)
    assert revisions[-1] == shelf.store.revision()


def tampered(shelf: Shelf, sql: str, *values: object) -> int | None:
    """Change the log behind staydown's back, and say what verify says; then undo it."""
    connection = sqlite3.connect(shelf.path, isolation_level=None)
    before = connection.execute("SELECT * FROM audit").fetchall()
    try:
        assert connection.execute(sql, values).rowcount > 0
        return shelf.ledger.verify()[1]
    finally:
        connection.execute("DELETE FROM audit")
        connection.executemany(f"INSERT INTO audit VALUES ({','.join('?' * len(before[0]))})", before)
        connection.close()
        assert shelf.ledger.verify()[1] is None


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    with opened(tmp_path_factory.mktemp("book") / "x.db") as shelf:
        written(shelf)
        yield shelf


FIELDS = {
    "at": "2020-01-01T00:00:00+00:00", "actor": "nobody", "action": "content.enroll2", "target": "c_0",
    "detail": '{"bank": "other"}', "revision": 99, "digest": b"x" * 32,
}  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_a_changed_field_is_named(book: Shelf, field: str) -> None:
    for seq in range(1, book.ledger.verify()[0] + 1):
        assert tampered(book, f"UPDATE audit SET {field} = ? WHERE seq = ?", FIELDS[field], seq) == seq


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", ["", "no JSON {", "[]", "5", "null", 0, -1, 1.5, b"", b"\xff\x00"])
def test_a_field_of_another_kind_is_named(book: Shelf, field: str, value: object) -> None:
    if not (field == "detail" and isinstance(value, bytes)):
        assert tampered(book, f"UPDATE audit SET {field} = ? WHERE seq = 5", value) == 5


def test_a_deleted_entry_is_missed(book: Shelf) -> None:
    count = book.ledger.verify()[0]
    for seq in range(1, count):
        assert tampered(book, "DELETE FROM audit WHERE seq = ?", seq) == seq + 1
    for seq in range(2, count + 1):
        assert tampered(book, "DELETE FROM audit WHERE seq >= ?", seq) == seq, "the end, or all from there on"
    assert tampered(book, "DELETE FROM audit") == 1


def test_a_deletion_is_seen_though_the_rest_is_numbered_anew(book: Shelf) -> None:
    for seq in range(1, book.ledger.verify()[0]):
        sql = "UPDATE audit SET seq = seq - 1 WHERE seq > ?"
        connection = sqlite3.connect(book.path, isolation_level=None)
        gone = connection.execute("SELECT * FROM audit WHERE seq = ?", (seq,)).fetchone()
        connection.execute("DELETE FROM audit WHERE seq = ?", (seq,))
        connection.execute(sql, (seq,))
        assert book.ledger.verify()[1] == seq
        connection.execute("UPDATE audit SET seq = -seq WHERE seq >= ?", (seq,))
        connection.execute("UPDATE audit SET seq = 1 - seq WHERE seq < 0")
        connection.execute(f"INSERT INTO audit VALUES ({','.join('?' * len(gone))})", gone)
        connection.close()
        assert book.ledger.verify()[1] is None


def test_entries_in_another_order_are_named(book: Shelf) -> None:
    count, chance = book.ledger.verify()[0], random.Random(2)
    for _ in range(30):
        first, second = sorted(chance.sample(range(1, count + 1), 2))
        connection = sqlite3.connect(book.path, isolation_level=None)

        def swap(connection: sqlite3.Connection = connection, first: int = first, second: int = second) -> None:
            connection.execute("UPDATE audit SET seq = -1 WHERE seq = ?", (first,))
            connection.execute("UPDATE audit SET seq = ? WHERE seq = ?", (first, second))
            connection.execute("UPDATE audit SET seq = ? WHERE seq = -1", (second,))

        swap()
        assert book.ledger.verify()[1] == first
        swap()
        connection.close()
        assert book.ledger.verify()[1] is None


def test_an_invented_entry_is_named(book: Shelf) -> None:
    count = book.ledger.verify()[0]
    sql = "INSERT INTO audit SELECT ?, at, actor, action, target, detail, revision, digest FROM audit WHERE seq = ?"
    assert tampered(book, sql, count + 1, count) == count + 1
    assert tampered(book, sql, 0, 1) == 0


def test_random_tampering_is_never_overlooked(book: Shelf) -> None:
    count, chance = book.ledger.verify()[0], random.Random(3)
    for _ in range(60):
        seq, field = chance.randrange(1, count + 1), chance.choice(list(FIELDS))
        value: object = chance.choice(
            [chance.randbytes(32), chance.randrange(1000, 9999), json.dumps({"x": chance.random()})]
        )
        if not (field == "detail" and isinstance(value, bytes)):
            assert tampered(book, f"UPDATE audit SET {field} = ? WHERE seq = ?", value, seq) == seq


def test_what_is_written_after_tampering_does_not_cover_it(shelf: Shelf) -> None:
    count = written(shelf)
    with shelf.store.engine.begin() as connection:
        connection.execute(delete(audit).where(audit.c.seq >= count - 1))
    shelf.record.set_bank("b", actor="t", description="later")
    assert shelf.ledger.verify()[1] == count - 1


# --- answers kept for idempotent requests -----------------------------------------------


def test_the_first_answer_stays(shelf: Shelf) -> None:
    assert shelf.ledger.remembered("k", "i") is None
    shelf.ledger.remember("k", "i", b"first", {"a": [1, None, "ä"]})
    shelf.ledger.remember("k", "i", b"second", {"b": 2})
    assert shelf.ledger.remembered("k", "i") == (b"first", {"a": [1, None, "ä"]})
    assert shelf.ledger.remembered("other", "i") is None
    assert shelf.ledger.remembered("k", "I") is None


def test_the_first_answer_stays_among_threads(shelf: Shelf) -> None:
    failed: list[Exception] = []

    def work(number: int) -> None:
        try:
            shelf.ledger.remember("k", "i", b"%d" % number, {"number": number})
        except Exception as error:  # any of them
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    kept = shelf.ledger.remembered("k", "i")
    assert kept is not None
    assert kept[0] == b"%d" % kept[1]["number"]
