"""The search is exact, loses nothing under threads, and its snapshot is whole or not taken."""

import random
import shutil
import sqlite3
import threading
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shelf import Codes, Shelf, bare, codes, ended, flipped, frames, opened, run, still

from hashing import signals
from hashing.signals import PERCEPTUAL, SignalType, distances
from indexer.index import Index, TypeIndex

PDQ = SignalType.PDQ
MAX_BITS = 48


def slow(known: Codes, query: Codes, radius_bits: int) -> set[tuple[int, int, int]]:
    """The obvious truth: (row of the query, key, distance)."""
    return {
        (row, int(key) + 1, int(apart[key]))
        for row, code in enumerate(query)
        for apart in [distances(known, code)]
        for key in np.flatnonzero(apart <= radius_bits)
    }


def found(index: TypeIndex, query: Codes, radius_bits: int) -> set[tuple[int, int, int]]:
    hits = index.search(query, radius_bits)
    rows = list(zip(hits.query.tolist(), hits.signal_pk.tolist(), hits.distance_bits.tolist(), strict=True))
    assert len(set(rows)) == len(rows)
    return set(rows)


def keys_of(count: int, start: int = 1) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(start, start + count, dtype=np.int64)


def planted() -> tuple[Codes, Codes]:
    """Return 700 known codes, and 6 queries with neighbours at every distance from 0 to 49 bits."""
    query = codes(1, 6)
    near = [flipped(query[bits % 6], bits, bits) for bits in range(MAX_BITS + 2) for _ in range(4)]
    known = np.concatenate([codes(2, 500), np.array(near, np.uint8)])
    return known[np.random.default_rng(3).permutation(len(known))], query


@pytest.mark.parametrize("radius_bits", range(MAX_BITS + 1))
def test_every_radius_is_exact(radius_bits: int) -> None:
    known, query = planted()
    index = TypeIndex()
    index.add(keys_of(len(known)), known)
    assert found(index, query, radius_bits) == slow(known, query, radius_bits)


@pytest.mark.parametrize("radius_bits", [0, 1, 30, 31, 46])
def test_the_radius_itself_is_inside_and_one_bit_more_is_not(radius_bits: int) -> None:
    query = codes(4, 1)
    known = np.array([flipped(query[0], radius_bits), flipped(query[0], radius_bits + 1)], np.uint8)
    index = TypeIndex()
    index.add(keys_of(2), known)
    assert found(index, query, radius_bits) == {(0, 1, radius_bits)}


def test_one_hash_in_the_bank_is_found() -> None:
    query = codes(5, 1)
    index = TypeIndex()
    index.add(np.array([77], np.int64), query)
    assert found(index, query, 31) == {(0, 77, 0)}


def test_an_empty_index_and_an_empty_query_find_nothing() -> None:
    index = TypeIndex()
    assert found(index, codes(1, 3), 31) == set()
    index.add(keys_of(0), codes(1, 0))
    assert (len(index), found(index, codes(1, 3), 31)) == (0, set())
    index.add(keys_of(3), codes(1, 3))
    assert found(index, codes(1, 0), 31) == set()


def test_equal_codes_are_all_found() -> None:
    same = np.repeat(codes(6, 1), 50, axis=0)
    index = TypeIndex()
    index.add(keys_of(50), same)
    assert len(found(index, same[:1], 0)) == 50


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(0, MAX_BITS))
def test_many_small_adds_are_one_big_add(sizes: list[int], radius_bits: int) -> None:
    known, query = planted()
    known = known[: sum(sizes)]
    index, start = TypeIndex(), 0
    for size in sizes:
        index.add(keys_of(min(size, len(known) - start), start + 1), known[start : start + size])
        start = min(start + size, len(known))
    assert len(index) == len(known)
    assert found(index, query, radius_bits) == slow(known, query, radius_bits)
    keys, stored = index.all()
    assert sorted(keys.tolist()) == list(range(1, len(known) + 1))
    assert np.array_equal(stored[np.argsort(keys)], known)


def test_adding_one_by_one_keeps_few_segments() -> None:
    known = codes(7, 600)
    index = TypeIndex()
    for key in range(600):
        index.add(keys_of(1, key + 1), known[key : key + 1])
    assert len(index._segments) <= 11
    assert found(index, known, 20) == slow(known, known, 20)


def test_keep_forgets_the_others() -> None:
    known = codes(8, 100)
    index = TypeIndex()
    index.add(keys_of(60), known[:60])
    index.add(keys_of(40, 61), known[60:])
    index.keep(np.arange(1, 101, 3, dtype=np.int64))
    assert sorted(index.all()[0].tolist()) == list(range(1, 101, 3))
    assert {key for _, key, _ in found(index, known, 0)} == set(range(1, 101, 3))
    index.keep(np.empty(0, np.int64))
    assert len(index) == 0


def test_searches_during_adds_never_lose_what_was_there() -> None:
    known = codes(9, 3000)
    index = TypeIndex()
    index.add(keys_of(1000), known[:1000])
    errors: list[str] = []
    ended_adding = threading.Event()

    def search() -> None:
        while not ended_adding.is_set():
            hits = index.search(known[:200], 0)
            if set(hits.signal_pk.tolist()) != set(range(1, 201)):
                errors.append("lost")

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for key in range(1000, 3000):
        index.add(keys_of(1, key + 1), known[key : key + 1])
    ended_adding.set()
    for thread in threads:
        thread.join()
    assert not errors
    assert found(index, known[-50:], 0) == {(row, 2951 + row, 0) for row in range(50)}


# --- with the record --------------------------------------------------------------------


def test_enrolments_of_many_threads_are_found_as_soon_as_they_are_answered(shelf: Shelf) -> None:
    known = codes(10, 120)
    lost: list[int] = []

    def work(numbers: range) -> None:
        for number in numbers:
            done = shelf.enroll(still(known[number]))
            if shelf.found(still(known[number])) != [done.content_id]:
                lost.append(number)

    threads = [threading.Thread(target=work, args=(range(start, 120, 6),)) for start in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not lost
    assert shelf.index.sizes()["pdq"] == 120
    assert sorted(shelf.index._types[PDQ].all()[0].tolist()) == sorted(shelf.record.signal_keys().tolist())


def test_refreshing_from_many_threads_adds_nothing_twice(shelf: Shelf) -> None:
    known = codes(11, 400)
    other = Index(50)
    shelf.enroll_all([still(code) for code in known])
    threads = [threading.Thread(target=other.refresh, args=(shelf.record,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert other.sizes() == shelf.index.sizes() == {"pdq": 400, "phash": 0, "dhash": 0, "whash": 0, "keypoints": 0}
    assert other.revision == shelf.store.revision()


def test_what_is_withdrawn_never_answers_even_before_a_refresh(shelf: Shelf) -> None:
    code = codes(12, 1)[0]
    done = shelf.enroll(still(code))
    assert shelf.found(still(code)) == [done.content_id]
    shelf.withdraw(done)
    assert len(shelf.index.search(PDQ, code[None], 0)) == 1, "it is still in the cache"
    assert shelf.found(still(code)) == []


def test_disabled_content_and_disabled_banks_do_not_answer(shelf: Shelf) -> None:
    code = codes(13, 1)[0]
    done = shelf.enroll(still(code))
    shelf.record.set_content("b", done.content_id, actor="test", enabled=False)
    assert shelf.found(still(code)) == []
    shelf.record.set_content("b", done.content_id, actor="test", enabled=True)
    assert shelf.found(still(code)) == [done.content_id]
    shelf.record.set_bank("b", actor="test", enabled=False)
    assert shelf.found(still(code)) == []
    shelf.record.set_bank("b", actor="test", enabled=True)
    assert shelf.found(still(code)) == [done.content_id]


@pytest.mark.parametrize("quality", [0, 49, 50, 100])
def test_frames_without_features_never_match(shelf: Shelf, quality: int) -> None:
    known, asked = codes(14, 2)
    shelf.enroll(still(known, quality=quality))
    assert bool(shelf.found(still(known))) is (quality >= 50)
    shelf.enroll(still(asked))
    assert bool(shelf.found(still(asked, quality=quality))) is (quality >= 50)


def test_another_process_s_view_follows_at_once(shelf: Shelf) -> None:
    code = codes(15, 1)[0]
    with opened(shelf.url) as other:
        done = shelf.enroll(still(code))
        assert other.found(still(code)) == [done.content_id]
        other.withdraw(done)
        assert shelf.found(still(code)) == []
        again = other.enroll(still(code))
        assert shelf.index.refresh(shelf.record) == again.bank_revision
        assert shelf.index.search(PDQ, code[None], 0).signal_pk.max() == shelf.record.signal_keys().max()


WRITER = """
import sys
from pathlib import Path
from shelf import codes, opened, still
with opened(sys.argv[1]) as shelf:
    print(shelf.enroll(still(codes(16, 1)[0])).content_id)
"""


def test_a_real_other_process_is_seen(shelf: Shelf) -> None:
    content_id = ended(run(WRITER, shelf.url)).strip()
    assert shelf.found(still(codes(16, 1)[0])) == [content_id]


def test_each_type_is_searched_by_itself(shelf: Shelf) -> None:
    code = codes(17, 1)[0]
    shelf.record.set_bank("b", actor="test", signal_types=list(SignalType))
    for kind in PERCEPTUAL:
        shelf.enroll(still(code, kind=kind))
    for kind in PERCEPTUAL:
        assert len(shelf.index.search(kind, code[None], 0)) == 1
    assert len(shelf.index) == len(PERCEPTUAL)


# --- the snapshot -----------------------------------------------------------------------


def filled(shelf: Shelf, count: int = 30) -> Path:
    """Enroll `count` pictures in two types, save the snapshot, return its path."""
    shelf.record.set_bank("b", actor="test", signal_types=[PDQ, SignalType.PHASH])
    both = [still(code) for code in codes(20, count)] + [still(code, kind=SignalType.PHASH) for code in codes(21, 7)]
    shelf.enroll_all(both)
    path = shelf.path.with_name("index")
    shelf.index.save(path, shelf.record)
    return path


def contents(index: Index) -> dict[str, list[tuple[int, bytes]]]:
    """Return all that an index holds, in an order of its own."""
    return {
        kind.value: sorted((int(key), bytes(code)) for key, code in zip(*one.all(), strict=True))
        for kind, one in index._types.items()
    }


def test_a_snapshot_comes_back_whole(shelf: Shelf) -> None:
    path = filled(shelf)
    again = Index(50)
    assert again.load(path, shelf.record)
    assert not again.ready
    assert (again.revision, contents(again)) == (shelf.index.revision, contents(shelf.index))
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir() if "part" in file.name] == []
    code = codes(22, 1)[0]
    done = shelf.enroll(still(code))
    assert again.refresh(shelf.record) == done.bank_revision
    assert contents(again) == contents(shelf.index)


def test_a_snapshot_of_nothing_comes_back(shelf: Shelf) -> None:
    path = shelf.path.with_name("index")
    shelf.index.save(path, shelf.record)
    again = Index(50)
    assert again.load(path, shelf.record)
    assert len(again) == 0


def test_a_snapshot_holds_nothing_that_was_withdrawn(shelf: Shelf) -> None:
    gone, kept, later = codes(23, 3)
    done = shelf.enroll(still(gone))
    shelf.enroll(still(kept))
    last = shelf.enroll(still(later))
    shelf.withdraw(done)
    path = shelf.path.with_name("index")
    shelf.index.save(path, shelf.record)
    data = path.read_bytes()
    assert bytes(kept) in data
    assert bytes(gone) not in data
    shelf.withdraw(last)  # after the snapshot
    again = Index(50)
    assert again.load(path, shelf.record)
    assert [code for _, code in contents(again)["pdq"]] == [bytes(kept)]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Damage a file as disks, copies and people do."""
    place = chance.randrange(len(data))
    if chance.random() < 0.5:
        place = chance.randrange(400)  # the header
    kind = chance.randrange(6)
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :]
    if kind == 2:
        return data[:place] + chance.randbytes(chance.randrange(1, 50)) + data[place:]
    if kind == 3:
        return data[:place] + data[place + chance.randrange(1, 50) :]
    if kind == 4:
        return data[:place] + bytes(min(64, len(data) - place)) + data[place + 64 :]
    digit = chance.choice([spot for spot in range(600) if data[spot : spot + 1].isdigit()])
    return data[:digit] + str(chance.randrange(10)).encode() + data[digit + 1 :]


def test_a_damaged_snapshot_is_never_believed(shelf: Shelf) -> None:
    path = filled(shelf)
    data, truth = path.read_bytes(), contents(shelf.index)
    chance, taken = random.Random(24), 0
    for number in range(600):
        path.write_bytes(damaged := mutated(data, chance))
        again = Index(50)
        if again.load(path, shelf.record):
            taken += 1
            assert damaged == data, number
            assert (again.revision, contents(again)) == (shelf.index.revision, truth), number
        else:
            assert (again.revision, len(again)) == (0, 0), number
    assert taken < 60, "most were damaged"


@pytest.mark.parametrize("data", [b"", b"staydown-index\n", b"staydown-index\n{}\n", b"[" * 100_000, bytes(500)])
def test_what_is_no_snapshot_is_refused(shelf: Shelf, data: bytes) -> None:
    path = shelf.path.with_name("index")
    path.write_bytes(data)
    assert not Index(50).load(path, shelf.record)
    assert not Index(50).load(path.with_name("absent"), shelf.record)
    assert not Index(50).load(path.parent, shelf.record)


def test_a_snapshot_of_another_store_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    path = filled(shelf)
    with opened(tmp_path / "other.db") as other:
        filled(other)
        path.write_bytes((tmp_path / "index").read_bytes())
        assert Index(50).load(path, other.record)
        assert not Index(50).load(path, shelf.record)


def test_a_snapshot_of_another_quality_or_of_other_profiles_is_refused(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = filled(shelf)
    assert not Index(40).load(path, shelf.record)
    assert Index(50).load(path, shelf.record)
    monkeypatch.setattr("indexer.index.PROFILES", signals.PROFILES[:-1])
    assert not Index(50).load(path, shelf.record)


def copied(database: Path, to: Path) -> None:
    source, target = sqlite3.connect(database), sqlite3.connect(to)
    source.backup(target)
    source.close()
    target.close()


def test_a_snapshot_of_the_future_is_refused(embedded: Shelf, tmp_path: Path) -> None:
    copied(embedded.path, tmp_path / "backup.db")
    path = filled(embedded)
    with opened(tmp_path / "backup.db") as older:
        assert older.store.store_id() == embedded.store.store_id()
        assert not Index(50).load(path, older.record)


def test_a_snapshot_of_a_history_that_was_replaced_by_a_backup_is_refused(embedded: Shelf, tmp_path: Path) -> None:
    """The backup has gone on to the same revision, with other hashes under the same keys."""
    copied(embedded.path, tmp_path / "backup.db")
    path = filled(embedded)
    with opened(tmp_path / "backup.db") as restored:
        for code in codes(25, 40):
            restored.enroll(still(code))
        assert restored.store.revision() > embedded.store.revision()
        assert not Index(50).load(path, restored.record)
        again = Index(50)
        shutil.copy(path, tmp_path / "kept")
        again.load(tmp_path / "kept", restored.record)
        again.refresh(restored.record)
        assert contents(again) == contents(restored.index)


def test_a_snapshot_survives_keys_and_jobs(shelf: Shelf) -> None:
    """They append to the audit log without a new revision."""
    path = filled(shelf)
    shelf.ledger.create_key("admin", actor="test")
    shelf.jobs.submit([{"url": "https://example.org"}], None, key_id="k")
    assert Index(50).load(path, shelf.record)


def test_saving_into_a_missing_folder_is_an_os_error(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="index"):
        shelf.index.save(tmp_path / "absent" / "index", shelf.record)


def test_a_completed_content_is_in_the_index_once(shelf: Shelf) -> None:
    one, two = codes(26, 2)
    digest = (SignalType.SHA256, b"x" * 32)
    shelf.enroll(bare(digest, rows=frames(one[None])))
    shelf.enroll(bare(digest, rows=frames(np.array([one, two]))))
    assert [code for _, code in contents(shelf.index)["pdq"]] == [bytes(one), bytes(two)]
    fresh = Index(50)
    fresh.refresh(shelf.record)
    assert contents(fresh) == contents(shelf.index)


def test_a_search_takes_one_thread_of_openmp_whoever_asks(shelf: Shelf) -> None:
    """OpenMP's setting is one for each thread: set at import alone, a busy server searched nine times slower."""
    seen = []

    def ask() -> None:
        shelf.index.search(SignalType.PDQ, codes(1, 1), 31)
        seen.append(faiss.omp_get_max_threads())

    shelf.enroll(still(codes(1, 1)[0]))
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert seen == [1]
