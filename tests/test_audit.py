"""The audit log against whoever can write the database: ten thousand single manipulations, and heads kept elsewhere."""

import json
import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Local, staydown
from shelf import Shelf, codes, opened, still

from indexer.audit import Head, read_head
from indexer.errors import KeyFileBroken, NotSigned
from indexer.signing import Signer, check_signed
from indexer.store import entry_digest

Row = list[Any]  # seq, at, actor, action, target, detail, revision, digest
Rows = list[Row]
NAMES = ("at", "actor", "action", "target", "detail", "revision")


class Attacker:
    """Somebody who can write the database: takes the log as it lies there, and puts another in its place."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.connection = sqlite3.connect(shelf.path, isolation_level=None)
        self.connection.execute("PRAGMA synchronous=OFF")
        self.rows: Rows = [list(row) for row in self.connection.execute("SELECT * FROM audit ORDER BY seq")]
        (self.digest,) = self.connection.execute("SELECT audit_digest FROM state").fetchone()

    def put(self, rows: Rows, digest: bytes | None = None) -> None:
        self.connection.execute("BEGIN")
        self.connection.execute("DELETE FROM audit")
        texts = "?, CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), ?, ?"
        self.connection.executemany(f"INSERT INTO audit VALUES ({texts})", rows)
        self.connection.execute("UPDATE state SET audit_digest = ?", (self.digest if digest is None else digest,))
        self.connection.execute("COMMIT")

    def put_back(self) -> None:
        self.put(self.rows)


def relinked(rows: Rows) -> tuple[Rows, bytes]:
    """Number and link a log anew, as whoever knows how it is made can; returns it, and its last link."""
    link, done = b"", []
    for seq, row in enumerate(rows, 1):
        fields = dict(zip(NAMES, row[1:7], strict=True))
        try:
            fields["detail"] = json.loads(fields["detail"])
        except ValueError:
            fields["detail"] = {"unreadable": fields["detail"]}
        link = entry_digest(link, fields)
        done.append([seq, *row[1:7], link])
    return done, link


def flip(rows: Rows, chance: random.Random) -> Rows:
    """One bit of one field of one entry."""
    row = chance.choice(rows)
    place = chance.randrange(len(row))
    value = row[place]
    if isinstance(value, int):
        row[place] = value ^ 1 << chance.randrange(40)
    else:
        data = bytearray(value.encode() if isinstance(value, str) else value)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        row[place] = bytes(data)
    return rows if len({each[0] for each in rows}) == len(rows) else flip(rows, chance)


def drop(rows: Rows, chance: random.Random) -> Rows:
    """One entry that is not the last; the others keep their numbers, or close up."""
    del rows[chance.randrange(len(rows) - 1)]
    return [[seq, *row[1:]] for seq, row in enumerate(rows, 1)] if chance.random() < 0.5 else rows


def reorder(rows: Rows, chance: random.Random) -> Rows:
    """Two entries that stand in each other's place; their links go with them, or stay."""
    first, second = chance.sample(range(len(rows)), 2)
    stop = 8 if chance.random() < 0.5 else 7
    rows[first][1:stop], rows[second][1:stop] = rows[second][1:stop], rows[first][1:stop]
    return rows


def insert(rows: Rows, chance: random.Random) -> Rows:
    """An entry that was never written, rightly linked to the one before it."""
    place = chance.randrange(len(rows))
    made = list(chance.choice(rows))
    made[2] = f"k_{chance.randrange(16**12):012x}"
    new, _ = relinked([*rows[:place], made])
    return [*new, *([row[0] + 1, *row[1:]] for row in rows[place:])]


def cut(rows: Rows, chance: random.Random) -> Rows:
    """The end, from some entry on."""
    return rows[: chance.randrange(len(rows))]


KINDS: tuple[Callable[[Rows, random.Random], Rows], ...] = (flip, drop, reorder, insert, cut)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    """A log of twenty entries of several kinds."""
    with opened(tmp_path_factory.mktemp("book") / "x.db") as shelf:
        for number, code in enumerate(codes(1, 8)):
            shelf.record.set_bank("b", actor=f"ä{number}", policy="strict")
            done = shelf.enroll(still(code), case=f"{number}")
            if number % 3 == 0:
                shelf.withdraw(done)
        yield shelf


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path / "keys" / "signing.key")


def head_of(shelf: Shelf, signer: Signer) -> Head:
    return read_head(json.loads(json.dumps(shelf.ledger.signed_head(signer))))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_manipulation_is_overlooked(book: Shelf, signer: Signer, kind: Callable[..., Rows]) -> None:
    """Ten thousand in all: a thousand of each kind as they are, and a thousand with all links made anew.

    The controls: the log as it is, before and after; and the second thousand without a head, which are accepted.
    """
    attacker, chance, head = Attacker(book), random.Random(kind.__name__), head_of(book, signer)
    untouched = (len(attacker.rows), None)
    accepted_without_head = 0
    for _ in range(1000):
        changed = kind([list(row) for row in attacker.rows], chance)
        attacker.put(changed)
        assert book.ledger.verify()[1] is not None, changed
        attacker.put_back()
    assert book.ledger.verify([head]) == untouched
    for _ in range(1000):
        changed = kind([list(row) for row in attacker.rows], chance)
        rows, digest = relinked([[_text(value) for value in row] for row in changed])
        if rows == attacker.rows:  # a flipped number or link that was made anew: nothing was changed
            rows, digest = relinked(cut(rows, chance))
        attacker.put(rows, digest)
        assert book.ledger.verify([head])[1] is not None, changed
        accepted_without_head += book.ledger.verify()[1] is None
        attacker.put_back()
    assert book.ledger.verify([head]) == untouched
    assert accepted_without_head > 900, "that is what heads are for"


def _text(value: Any) -> Any:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


def test_the_first_broken_entry_is_named(book: Shelf) -> None:
    attacker = Attacker(book)
    for place in range(len(attacker.rows)):
        rows = [list(row) for row in attacker.rows]
        rows[place][4] = "another"
        attacker.put(rows)
        assert book.ledger.verify()[1] == place + 1
        attacker.put(rows[:place])
        assert book.ledger.verify()[1] == place + 1, "the first that is missing"
    attacker.put_back()
    assert book.ledger.verify()[1] is None


def test_of_several_heads_the_first_that_disagrees_tells(shelf: Shelf, signer: Signer) -> None:
    heads = []
    for number in range(4):
        shelf.record.set_bank("b", actor="t", description=f"{number}")
        heads.append(head_of(shelf, signer))
    count, broken = shelf.ledger.verify(heads)
    assert (count, broken) == (heads[-1].seq, None)
    wrong = Head(heads[2].store_id, heads[2].seq, b"x" * 32)
    assert shelf.ledger.verify([heads[0], wrong, heads[3]])[1] == heads[2].seq
    later = Head(heads[2].store_id, heads[3].seq + 5, b"x" * 32)
    assert shelf.ledger.verify([later])[1] == heads[3].seq + 1


def test_a_log_that_is_being_written_is_not_called_broken(shelf: Shelf, signer: Signer) -> None:
    with opened(shelf.url) as elsewhere:
        for code in codes(7, 20):
            elsewhere.enroll(still(code))
            head = head_of(shelf, signer)
            assert shelf.ledger.verify([head])[1] is None


# --- signatures -------------------------------------------------------------------------


def test_what_was_signed_is_told_from_anything_else(signer: Signer, tmp_path: Path) -> None:
    document = signer.signed({"a": 1, "b": "ü"})
    assert check_signed(json.loads(json.dumps(document)), signer.public_key())["a"] == 1
    other = Signer(tmp_path / "other.key")
    wrong = [
        document | {"a": 2}, document | {"c": 1}, {k: v for k, v in document.items() if k != "b"},
        document | {"signature": "00" * 64}, document | {"signature": ""},
        document | {"public_key": other.signed({})["public_key"]}, {}, [], None, 5, "x", document | {"public_key": 1},
    ]  # fmt: skip
    for one in wrong:
        with pytest.raises(NotSigned):
            check_signed(one, None)
    with pytest.raises(NotSigned, match="another key"):
        check_signed(other.signed({"a": 1}), signer.public_key())


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "signing.key"
    assert Signer(path).public_key() is None
    first = Signer(path).signed({})["public_key"]
    assert Signer(path).public_key() == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["signing.key"]
    path.write_text("no key")
    with pytest.raises(KeyFileBroken):
        Signer(path).signed({})


def test_a_head_is_no_other_document(signer: Signer) -> None:
    with pytest.raises(NotSigned, match="no head"):
        read_head(signer.signed({"format": "other", "store_id": "x", "seq": 1, "link": ""}))
    with pytest.raises(NotSigned, match="no head"):
        read_head(signer.signed({"format": "staydown-audit-head/1", "seq": "x"}))


# --- the doors --------------------------------------------------------------------------


def said(home: Path, *arguments: str | Path) -> Any:
    done = staydown(home, *arguments, "--json")
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


def test_the_command_holds_the_log_against_a_head(tmp_path: Path) -> None:
    home, kept = tmp_path / "home", tmp_path / "head.json"
    for name in ("a", "b", "c"):
        said(home, "bank", "create", name)
    _, [head], _ = said(home, "audit", "head")
    kept.write_text(json.dumps(head))
    said(home, "bank", "create", "d")
    assert said(home, "audit", "verify", "--head", kept)[:2] == (0, [{"entries": 4, "ok": True, "first_broken": None}])
    assert [entry["target"] for entry in said(home, "audit", "list")[1]] == ["a", "b", "c", "d"]
    connection = sqlite3.connect(home / "staydown.db", isolation_level=None)
    connection.execute("DELETE FROM audit WHERE seq > 2")
    connection.execute("UPDATE state SET audit_digest = (SELECT digest FROM audit WHERE seq = 2)")
    connection.close()
    assert said(home, "audit", "verify")[:2] == (0, [{"entries": 2, "ok": True, "first_broken": None}]), "the control"
    code, [found], _ = said(home, "audit", "verify", "--head", kept)
    assert (code, found["first_broken"]) == (2, 3)
    kept.write_text(json.dumps(head | {"seq": 2}))
    assert (code, "not_signed") == (2, said(home, "audit", "verify", "--head", kept)[2].split()[1].rstrip(":"))
    unsigned = {name: head[name] for name in ("format", "store_id", "seq", "link", "at")}
    kept.write_text(json.dumps(Signer(tmp_path / "stranger.key").signed(unsigned)))
    assert "another key" in said(home, "audit", "verify", "--head", kept)[2]


def test_who_reads_evidence_stands_in_the_log(local: Local, photo_jpeg: bytes, other_jpeg: bytes) -> None:
    bank = local.api().bank()
    content = local.api().post(f"/v1/banks/{bank}/contents", photo_jpeg).json["content_id"]
    log = local.api("audit")
    after = log.get("/v1/audit/head").json["seq"]
    for role in ("check", "review"):
        local.api(role).post(f"/v1/check?bank={bank}", photo_jpeg)
        local.api(role).post(f"/v1/check?bank={bank}", other_jpeg)
    entries = log.get(f"/v1/audit?after={after}").json["entries"]
    assert [(entry["action"], entry["detail"]) for entry in entries] == [("evidence.read", {"contents": [content]})]
    again = log.get(f"/v1/audit?after={after}").json
    assert again["entries"][-1]["action"] == "audit.read"
    head = read_head(log.get("/v1/audit/head").json)
    assert head.seq == again["cursor"] + 1
    assert local.engine.ledger.verify([head])[1] is None
