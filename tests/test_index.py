"""The index keeps step with the record under threads and processes, and its snapshot is whole or not taken."""

import gc
import random
import shutil
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest
from shelf import Shelf, bare, codes, ended, frames, opened, run, sketched, still

from hashing import signals
from hashing.signals import PERCEPTUAL, SignalType
from indexer.descriptors import voters
from indexer.index import Index
from indexer.segments import Keys

PDQ = SignalType.PDQ


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


def mapped_files() -> list[str]:
    """The snapshots that this process has mapped, as the kernel tells; an unlinked one is named `deleted`."""
    lines = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    return sorted({line[5] for line in lines if len(line) == 6 and "tidied.cache" in line[5]})


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells which files are mapped")
def test_after_a_withdrawal_no_file_with_the_hash_stays_open(shelf: Shelf) -> None:
    """The running index lives in its snapshot. Unlinked, the file would still be on the disk while it is mapped."""
    gone, kept = codes(28, 2)
    path = shelf.path.with_name("tidied.cache")
    done = [shelf.enroll(replace(still(code), sketches=sketched(52))) for code in (gone, kept)]
    shelf.index.tend(path, shelf.record)
    assert mapped_files() == [str(path)]
    shelf.withdraw(done[0])
    path.unlink()
    assert mapped_files() == [f"{path} (deleted)"]
    shelf.index.refresh(shelf.record)
    shelf.index.tend(path, shelf.record)
    gc.collect()
    assert mapped_files() == [str(path)]
    assert bytes(gone) not in path.read_bytes()
    assert bytes(kept) in path.read_bytes()
    assert (shelf.found(still(gone)), shelf.found(still(kept))) == ([], [done[1].content_id])


def test_tending_writes_where_something_lacks_and_only_there(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.segments.SCANNED_UPTO", 40)
    path, known = shelf.path.with_name("index"), codes(29, 90)

    def written_by_tending() -> bool:
        before = path.stat().st_ino if path.exists() else None
        shelf.index.tend(path, shelf.record)
        return path.stat().st_ino != before

    shelf.enroll_all([still(code) for code in known[:30]])
    assert [written_by_tending(), written_by_tending()] == [True, False]
    shelf.enroll_all([still(code) for code in known[30:35]])
    assert not written_by_tending(), "what little is new comes from the record"
    shelf.enroll_all([still(code) for code in known[35:]])
    assert [written_by_tending(), written_by_tending()] == [True, False]
    again = Index(50)
    assert again.load(path, shelf.record)
    assert contents(again) == contents(shelf.index)
    path.unlink()
    assert written_by_tending()


def test_enrolled_while_the_index_is_compacted_is_never_taken_for_withdrawn(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys that live are read before the segments are looked through; what came in between is newer than they."""
    first, second, third = codes(30, 3)
    gone = shelf.enroll(still(first))
    shelf.withdraw(gone)
    asked, late = shelf.record.signal_keys, []

    def keys_and_then_another() -> Keys:
        keys = asked()
        late.append(shelf.enroll(still(second)))
        return keys

    with monkeypatch.context() as patched:
        patched.setattr(shelf.record, "signal_keys", keys_and_then_another)
        shelf.index.compact(shelf.record)
    assert shelf.found(still(second)) == [late[0].content_id]
    assert [code for _, code in contents(shelf.index)["pdq"]] == [bytes(second)]
    shelf.withdraw(late[0])
    shelf.enroll(still(third))
    shelf.index.compact(shelf.record)
    assert [code for _, code in contents(shelf.index)["pdq"]] == [bytes(third)]


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
    again.refresh(shelf.record)
    other = Shelf(shelf.path, shelf.url, shelf.store, shelf.record, again, shelf.ledger, shelf.jobs)
    assert other.found(still(later)) == []
    assert len(other.found(still(kept))) == 1
    again.compact(shelf.record)
    assert [code for _, code in contents(again)["pdq"]] == [bytes(kept)]
    again.save(path, shelf.record)
    assert bytes(later) not in path.read_bytes()


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


def tables_for_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.segments.SCANNED_UPTO", 20)
    for cost in ("_PROBE_COST", "_CANDIDATE_COST"):
        monkeypatch.setattr(f"indexer.bands.{cost}", 0.0)


def answers(index: Index) -> dict[str, object]:
    """What an index says to queries within every radius, and how many of the sketches it holds it finds."""
    asked = np.concatenate([codes(20, 30), codes(21, 7)])
    hits = {kind.value: index.search(kind, asked, 46) for kind in PERCEPTUAL}
    found = {
        name: sorted(zip(hit.query.tolist(), hit.signal_pk.tolist(), hit.distance_bits.tolist(), strict=True))
        for name, hit in hits.items()
    }
    votes = [each.vote(voters(row)) for each in index.descriptors([1]) for row in sketched(50, 12)]
    return found | {"sketches": [(vote.sketch_pk.tolist(), vote.votes.tolist()) for vote in votes]}


def test_a_damaged_snapshot_with_tables_and_sketches_is_rebuilt_from_the_record(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """600 times: whatever was done to the file, after a start the answers are those of the record."""
    tables_for_few(monkeypatch)
    sketches = sketched(50, 12)
    shelf.enroll_all([replace(still(codes(51, 12)[n]), sketches=sketches[n : n + 1]) for n in range(12)])
    path = filled(shelf)
    assert shelf.index._types[PDQ].segments[0].bands is not None
    data, truth, chance = path.read_bytes(), answers(shelf.index), random.Random(27)
    assert len(data) > 8 * 4096
    rejected = 0
    for number in range(600):
        path.write_bytes(damaged := disk_damaged(data, chance) if number % 2 else mutated(data, chance))
        again = Index(50)
        rejected += not again.load(path, shelf.record)
        assert (again.revision == 0) is (damaged != data), number
        if number % 20 == 0:
            again.refresh(shelf.record)
            again.compact(shelf.record)
            assert answers(again) == truth, number
    assert rejected > 550


def disk_damaged(data: bytes, chance: random.Random) -> bytes:
    """Damage a file by whole pages: zeroed, swapped, doubled, of another place, or its end."""
    pages = [data[start : start + 4096] for start in range(0, len(data), 4096)]
    one, two = chance.sample(range(len(pages)), 2)
    kind = chance.randrange(6)
    if kind == 0:
        pages[one] = bytes(len(pages[one]))
    elif kind == 1:
        pages[one], pages[two] = pages[two], pages[one]
    elif kind == 2:
        pages.insert(one, pages[two])
    elif kind == 3:
        pages[one] = pages[two]
    elif kind == 4:
        del pages[one:]
    else:
        pages.append(chance.randbytes(chance.randrange(1, 4096)))
    return b"".join(pages)


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
    for name, other in (("PROFILES", signals.PROFILES[:-1]), ("CENTRES_SHA256", "0"), ("KEYPOINT_DTYPE", "<u1")):
        with monkeypatch.context() as patched:
            patched.setattr(f"indexer.index.{name}", other)
            assert not Index(50).load(path, shelf.record), name
    assert Index(50).load(path, shelf.record)


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


def test_a_backup_that_lacks_the_last_change_alone_is_told_from_it(embedded: Shelf, tmp_path: Path) -> None:
    """One other change brings it to the very revision of the snapshot, and other hashes under the last keys."""
    embedded.enroll(still(codes(24, 1)[0]))
    copied(embedded.path, tmp_path / "backup.db")
    embedded.enroll(still(codes(25, 1)[0]))
    path = tmp_path / "snapshot"
    embedded.index.save(path, embedded.record)
    with opened(tmp_path / "backup.db") as restored:
        restored.enroll(still(codes(26, 1)[0]))
        assert restored.store.revision() == embedded.store.revision()
        assert not Index(50).load(path, restored.record)
    assert Index(50).load(path, embedded.record)


def test_a_snapshot_survives_keys_and_jobs(shelf: Shelf) -> None:
    """They append to the audit log without a new revision."""
    path = filled(shelf)
    shelf.keys.create("admin", actor="test")
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
