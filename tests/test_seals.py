"""Hashes at rest: what is sealed is in no file, and is found all the same, whatever key it was sealed with."""

import base64
import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Server, staydown
from shelf import Shelf, bare, codes, film, flipped, frames, sketched, still

from hashing.signals import Kind, Media, Signal, SignalType
from indexer import backup, sealing
from indexer.errors import KeyFileBroken, KeyMissing, StoreBroken
from indexer.index import Index
from indexer.jobs import Jobs
from indexer.ledger import Ledger
from indexer.lists import HashList
from indexer.policy import MIN_QUALITY
from indexer.record import Record
from indexer.retro import Retro
from indexer.seals import MAGIC, Ring, is_sealed, open_pieces, read_keys, seal_pieces
from indexer.store import Store
from indexer.tombstones import Known


def shelved(address: str, path: Path, key_file: Path | None) -> Shelf:
    store = Store(address, key_file=key_file)
    record, index = Record(store), Index(MIN_QUALITY)
    if not record.bank_names():
        record.create_bank("b", actor="test")
    index.refresh(record)
    return Shelf(path, address, store, record, index, Ledger(store), Jobs(store))


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere" / "hash.keys"
    sealing.make_key_file(path)
    return path


@pytest.fixture
def sealed(database: str, tmp_path: Path, keys: Path) -> Iterator[Shelf]:
    shelf = shelved(database, tmp_path / "staydown.db", keys)
    sealing.write_with(shelf.store, keys, actor="test")
    yield shelf
    shelf.store.close()


def secrets_of(signal: Signal) -> list[bytes]:
    rows = [row.tobytes() for row in signal.frames["hash"]] + [digest for _, digest in signal.exact]
    return rows + [row["keypoints"]["code"][0].tobytes() for row in signal.sketches]


def various() -> list[Signal]:
    """A picture, a video, digests, and a picture with a sketch."""
    rows = codes(3, 8)
    picture = Signal(Media(Kind.IMAGE, "ab" * 32, 640, 480, None, 1), frames(rows[7:]), sketches=sketched(1))
    digests = bare((SignalType.SHA256, b"q" * 32), (SignalType.MD5, b"m" * 16))
    return [still(rows[0]), film(rows[1:6], np.arange(5.0)), digests, picture]


def on_disk(folder: Path, but: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir() if file.is_file() and file != but)


def answers(shelf: Shelf) -> list[list[str]]:
    return [shelf.found(signal) for signal in various()]


# --- the store --------------------------------------------------------------------------


def test_what_is_sealed_is_found_and_in_no_file(tmp_path: Path, keys: Path) -> None:
    address, path = f"sqlite:///{tmp_path / 'x' / 's.db'}", tmp_path / "x" / "s.db"
    control = shelved(f"sqlite:///{tmp_path / 'y' / 's.db'}", tmp_path / "y" / "s.db", None)
    shelf = shelved(address, path, keys)
    sealing.write_with(shelf.store, keys, actor="test")
    for one in (control, shelf):
        done = one.enroll_all(various())
        assert answers(one) == [[each.content_id] for each in done]
        assert not any(again.created for again in one.enroll_all(various()))
        one.index.save(one.path.with_name("index.cache"), one.record)
        backup.write(one.store, one.path.with_name("backup"))
        one.store.close()
    plain, hidden = on_disk(tmp_path / "y", keys), on_disk(tmp_path / "x", keys)
    for signal in various():
        for secret in secrets_of(signal):
            assert secret in plain, "the control"
            assert secret not in hidden
            assert secret.hex().encode() not in hidden
    assert b"abab" * 16 in plain
    assert b"abab" * 16 not in hidden


def test_a_sealed_store_answers_as_a_plain_one(sealed: Shelf, tmp_path: Path) -> None:
    plain = shelved(f"sqlite:///{tmp_path / 'plain.db'}", tmp_path / "plain.db", None)
    rows = codes(11, 40)
    listed = HashList(frames(rows), np.ones(40, np.int64), [None] * 40, [()] * 40, {3: [(SignalType.MD5, b"x" * 16)]})
    asked = [still(flipped(rows[n], bits, n)) for n, bits in enumerate([0, 7, 31, 32, 46, 47])]
    found = []
    for shelf in (plain, sealed):
        done = shelf.lists.enroll("b", listed, actor="test")
        names = {name: number for number, name in enumerate(done.content_ids)}
        assert not any(shelf.lists.enroll("b", listed, actor="test").created)
        shelf.withdraw(shelf.enroll(still(codes(12, 1)[0])))
        found.append([
            [(names[match.content_id], match.distance_bits, match.verdict) for match in shelf.match(signal).matches]
            for signal in [*asked, bare((SignalType.MD5, b"x" * 16))]
        ])  # fmt: skip
        digests, kept = shelf.record.hashes_of(shelf.record.contents_by_id(done.content_ids[3:4])[0].content_pk)
        assert (digests, kept["hash"].tobytes()) == ([(SignalType.MD5, b"x" * 16)], rows[3].tobytes())
    assert found[0] == found[1]
    plain.store.close()


def test_an_index_is_saved_sealed_and_loaded(sealed: Shelf, tmp_path: Path) -> None:
    done = sealed.enroll_all(various())
    path = tmp_path / "index.cache"
    sealed.index.save(path, sealed.record)
    sealed.index = Index(MIN_QUALITY)
    assert sealed.index.load(path, sealed.record)
    sealed.index.refresh(sealed.record)
    sealed.__post_init__()
    assert answers(sealed) == [[each.content_id] for each in done]
    data = bytearray(path.read_bytes())
    for place in np.linspace(0, len(data) - 1, 40).astype(int).tolist():
        data[place] ^= 1
        path.write_bytes(data)
        assert not Index(MIN_QUALITY).load(path, sealed.record), place
        data[place] ^= 1
    path.write_bytes(data)
    assert Index(MIN_QUALITY).load(path, sealed.record)


def test_a_plain_store_is_sealed_while_it_is_used(database: str, tmp_path: Path, keys: Path) -> None:
    shelf = shelved(database, tmp_path / "staydown.db", keys)
    done = shelf.enroll_all(various())
    before = sealing.counts(shelf.store)
    assert {how for found in before.values() for how in found} == {"plain"}
    key_id = sealing.write_with(shelf.store, keys, actor="test")
    assert answers(shelf) == [[each.content_id] for each in done], "half of it is plain"
    assert not any(again.created for again in shelf.enroll_all(various()))
    assert sealing.seal_rows(shelf.store, lambda *_: None) > 0
    after = sealing.counts(shelf.store)
    assert {how for found in after.values() for how in found} == {key_id}
    assert {name: sum(found.values()) for name, found in after.items()} == {
        name: sum(found.values()) for name, found in before.items()
    }
    assert answers(shelf) == [[each.content_id] for each in done]
    assert sealing.seal_rows(shelf.store, lambda *_: None) == 0
    assert shelf.ledger.verify()[1] is None
    shelf.store.close()


def test_a_key_is_changed_in_portions_and_goes_on_where_it_was(
    sealed: Shelf, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "_PORTION", 3)
    done = sealed.enroll_all([still(code) for code in codes(5, 20)])
    old = sealing.sealed_with(sealed.store)
    sealing.add_key(keys)
    new = sealing.write_with(sealed.store, keys, actor="test")
    seen: list[int] = []

    def dies(_: str, count: int) -> None:
        seen.append(count)
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sealing.seal_rows(sealed.store, dies)
    assert sealing.counts(sealed.store)["signal"] == {old: 8, new: 12}
    with_both = shelved(sealed.url, sealed.path, keys)
    for number, code in enumerate(codes(5, 20)):
        assert with_both.found(still(code)) == [done[number].content_id]
        assert not with_both.enroll(still(code)).created
    assert sealing.seal_rows(sealed.store, lambda *_: None) == 8 + 20
    keys.write_text(keys.read_text().splitlines()[-1] + "\n")  # the old key is gone
    alone = shelved(sealed.url, sealed.path, keys)
    assert [alone.found(still(code)) for code in codes(5, 20)] == [[each.content_id] for each in done]
    for shelf in (with_both, alone):
        shelf.store.close()


def test_a_process_that_has_not_heard_of_a_new_key_learns_of_it(sealed: Shelf, keys: Path) -> None:
    other = shelved(sealed.url, sealed.path, keys)
    sealing.add_key(keys)
    sealing.write_with(sealed.store, keys, actor="test")
    digests = bare((SignalType.SHA256, b"n" * 32))
    done = [sealed.enroll(digests), sealed.enroll(still(codes(9, 1)[0]))]
    assert other.found(digests) == [done[0].content_id]
    assert other.found(still(codes(9, 1)[0])) == [done[1].content_id]
    assert not other.enroll(digests).created
    other.store.close()


def test_without_its_key_nothing_is_answered_or_written(sealed: Shelf, keys: Path, tmp_path: Path) -> None:
    sealed.enroll(still(codes(1, 1)[0]))
    for path in (tmp_path / "none", tmp_path / "other"):
        if path.name == "other":
            sealing.make_key_file(path)
        store = Store(sealed.url, key_file=path)
        with pytest.raises(KeyMissing, match="not in the key file"):
            store.revision()
        with pytest.raises(KeyMissing), store.change("test"):
            raise AssertionError("it was let in")
        store.close()
    for text in ("no key", base64.b64encode(b"short").decode(), "ä"):
        keys.write_text(text)
        with pytest.raises(KeyFileBroken):
            read_keys(keys)


def test_a_sealed_hash_that_was_changed_is_an_error_and_not_another_hash(tmp_path: Path, keys: Path) -> None:
    path = tmp_path / "s.db"
    shelf = shelved(f"sqlite:///{path}", path, keys)
    sealing.write_with(shelf.store, keys, actor="test")
    shelf.enroll(still(codes(1, 1)[0]))
    connection = sqlite3.connect(path, isolation_level=None)
    (kept,) = connection.execute("SELECT hash FROM signal").fetchone()
    assert len(kept) == 69 and kept.startswith(MAGIC)
    for place in range(len(MAGIC), len(kept)):
        connection.execute("UPDATE signal SET hash = ?", (kept[:place] + bytes([kept[place] ^ 1]) + kept[place + 1 :],))
        with pytest.raises((StoreBroken, KeyMissing)):
            list(shelf.record.signals_since(0))
    connection.execute("UPDATE signal SET hash = ?", (kept,))
    assert [len(rows) for _, rows in shelf.record.signals_since(0)] == [1]
    connection.close()
    shelf.store.close()


def test_a_backup_of_a_sealed_store_is_sealed_and_comes_back(sealed: Shelf, tmp_path: Path, keys: Path) -> None:
    done = sealed.enroll_all(various())
    sealed.jobs.submit([{"url": "x"}], None, key_id="k")
    gone = sealed.enroll(still(codes(8, 1)[0]))
    backup.write(sealed.store, tmp_path / "b")
    sealed.withdraw(gone)
    data = (tmp_path / "b").read_bytes()
    assert not [secret for signal in various() for secret in secrets_of(signal) if secret in data]
    known = Known(frozenset({gone.content_id}), frozenset(), None, 0)
    assert backup.purge(tmp_path / "b", known)
    fresh = Store(f"sqlite:///{tmp_path / 'new.db'}", key_file=keys)
    backup.restore(tmp_path / "b", fresh, known)
    record, index = Record(fresh), Index(MIN_QUALITY)
    index.refresh(record)
    shelf = Shelf(tmp_path / "new.db", "", fresh, record, index, Ledger(fresh), Jobs(fresh))
    assert answers(shelf) == [[each.content_id] for each in done]
    assert shelf.found(still(codes(8, 1)[0])) == []
    fresh.close()


def test_what_is_kept_for_retro_matches_is_sealed(tmp_path: Path, keys: Path) -> None:
    path = tmp_path / "x" / "s.db"
    shelf = shelved(f"sqlite:///{path}", path, keys)
    sealing.write_with(shelf.store, keys, actor="test")
    retro = Retro(shelf.store)
    for signal in various():
        assert retro.keep(signal, shelf.match(signal), None, key_id="k", reference="r")
    kept = [each.signal for each in retro.page(0, 10)]
    assert [secrets_of(each)[:1] for each in kept] == [secrets_of(each)[:1] for each in various()]
    assert [each.media for each in kept] == [each.media for each in various()]
    data = on_disk(path.parent, keys)
    for signal in various():
        assert not [s for s in secrets_of(signal) if s in data or s.hex().encode() in data]
    shelf.store.close()


# --- the ciphers ------------------------------------------------------------------------


def test_what_was_sealed_is_opened(keys: Path) -> None:
    ring, chance = Ring(keys), np.random.default_rng(1)
    for size in (0, 1, 16, 32, 5000):
        value = chance.bytes(size)
        assert ring.seal(value) == ring.seal_equally(value) == value, "a store that is not sealed"
    ring.use(next(iter(ring.keys)))
    for size in (1, 2, 16, 32, 33, 5000):
        value = chance.bytes(size)
        one, other = ring.seal(value), ring.seal(value)
        assert one != other and is_sealed(one) and ring.open(one) == ring.open(other) == value
        if size < 12:  # no digest is as short
            continue
        equal = ring.seal_equally(value)
        assert [equal] == ring.sealed_forms(value) and ring.open_equal(equal) == value
        assert value not in one + equal
    assert ring.seal(b"") == b""
    assert ring.open(value) == value, "what is plain"


@pytest.mark.parametrize("size", [0, 1, 4 << 20, (4 << 20) + 1, 9_000_000])
def test_a_sealed_file_is_whole_or_nothing(keys: Path, tmp_path: Path, size: int) -> None:
    ring, path = Ring(keys), tmp_path / "f"
    ring.use(next(iter(ring.keys)))
    value = np.random.default_rng(size).bytes(size)
    pieces = list(seal_pieces(ring, iter([value[:100], memoryview(value[100:])])))
    path.write_bytes(b"".join(pieces))
    with path.open("rb") as file:
        assert open_pieces(ring, file) == value
    wrong = [pieces[:-1], pieces[:1], [*pieces, b"x"], [*pieces, pieces[-1]], [*pieces[:1], *pieces[:0:-1]]]
    for parts in wrong:
        path.write_bytes(b"".join(parts))
        with path.open("rb") as file:
            assert open_pieces(ring, file) is None or parts == pieces


def test_of_many_that_make_the_key_file_one_does(tmp_path: Path) -> None:
    path = tmp_path / "k" / "hash.keys"
    threads = [threading.Thread(target=sealing.make_key_file, args=(path,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_keys(path)) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["hash.keys"]
    first = set(read_keys(path))
    sealing.add_key(path)
    assert len(read_keys(path)) == 2 and first < set(read_keys(path))
    assert path.stat().st_mode & 0o777 == 0o600


# --- the doors --------------------------------------------------------------------------


def said(home: Path, *arguments: str | Path, **settings: str) -> Any:
    done = staydown(home, *arguments, "--json", **settings)
    return json.loads(done.stdout) if done.stdout else done.stderr.decode()


def test_a_new_store_is_sealed_by_the_service(tmp_path: Path, photo_jpeg: bytes, copy_jpeg: bytes) -> None:
    for name, wanted in (("sealed", "true"), ("plain", "false")):
        home = tmp_path / name
        with Server(home, seal_new_store=wanted) as server:
            api = server.api(server.first_key())
            bank = api.bank()
            assert api.post(f"/v1/banks/{bank}/contents", photo_jpeg).status == 201
            assert api.post("/v1/check", copy_jpeg).json["verdict"] == "match"
            sent = api.call("POST", "/v1/hash?type=pdq", photo_jpeg).json["signals"][0]["hash"]
            assert server.stop() == 0
        found = bytes.fromhex(sent) in on_disk(home, home / "hash.keys")
        assert found is (name == "plain")
        assert (home / "hash.keys").exists() is (name == "sealed")
    again = said(tmp_path / "plain", "seal")
    assert again["rows"] > 0 and {how for found in again["tables"].values() for how in found} == {again["key"]}
    turned = said(tmp_path / "plain", "seal", "--rotate")
    assert turned["key"] != again["key"] and turned["rows"] == again["rows"]
    photo = tmp_path / "copy.jpg"
    photo.write_bytes(copy_jpeg)
    assert said(tmp_path / "plain", "check", photo)["verdict"] == "match"
    (tmp_path / "plain" / "hash.keys").unlink()
    assert "key_missing" in said(tmp_path / "plain", "check", photo)
