"""Sketches in the record: whole, of active content alone, and gone with a withdrawal."""

import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from shelf import Shelf, bare, codes, frames, opened, sketched, still

from hashing.signals import Kind, Media, Signal, SignalType, Sketches
from indexer.descriptors import voters
from indexer.enroll import Enrolled
from indexer.errors import NothingToEnroll
from indexer.index import Index
from indexer.votes import MOST

SHA, PDQ, KEYPOINTS = SignalType.SHA256, SignalType.PDQ, SignalType.KEYPOINTS


def picture(seed: int, count: int = 1) -> Signal:
    """Return the signal of a picture, or of a video, with one PDQ hash and so many sketches."""
    rows = sketched(seed, count)
    if count > 1:
        rows["timestamp_s"], rows["until_s"] = np.arange(count), np.arange(count) + 0.5
    media = Media(Kind.IMAGE if count == 1 else Kind.VIDEO, f"{seed:064x}", 640, 480, None, count)
    return Signal(media, frames(codes(seed, 1)), ((SHA, seed.to_bytes(32)),), None, rows)


def stored(shelf: Shelf) -> tuple[list[int], Sketches]:
    parts = list(shelf.record.sketches.since(0))
    keys = [int(pk) for part in parts for pk in part.sketch_pk]
    return keys, np.concatenate([part.rows for part in parts]) if parts else sketched(0, 0)


def banks(shelf: Shelf) -> list[int]:
    return [bank.bank_pk for bank in shelf.record.banks()]


@pytest.mark.parametrize("points", [0, 1, 300, 600])
def test_a_sketch_comes_back_as_it_was(shelf: Shelf, points: int) -> None:
    signal = replace(picture(1), sketches=sketched(2, 1, points))
    done = shelf.enroll(signal)
    assert done.signals == {"sha256": 1, "pdq": 1, "keypoints": 1}
    assert shelf.record.signal_counts(shelf.content(done).content_pk) == done.signals
    keys, rows = stored(shelf)
    assert rows.tobytes() == signal.sketches.tobytes()
    located = shelf.record.sketches.locate(keys, banks(shelf))
    assert located.rows.tobytes() == rows.tobytes()
    assert located.content_pk.tolist() == [shelf.content(done).content_pk]


def test_times_come_back(shelf: Shelf) -> None:
    shelf.enroll(picture(3, 4))
    _, rows = stored(shelf)
    assert rows["timestamp_s"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert rows["until_s"].tolist() == [0.5, 1.5, 2.5, 3.5]


def test_only_the_form_that_was_seen_is_kept(shelf: Shelf) -> None:
    signal = picture(4, 2)
    signal.sketches["mirrored"] = [0, 1]
    assert shelf.enroll(signal).signals["keypoints"] == 1
    assert stored(shelf)[1]["timestamp_s"].tolist() == [0.0]


def test_a_bank_that_does_not_keep_them_has_none(shelf: Shelf) -> None:
    shelf.record.set_bank("b", actor="t", signal_types=[PDQ])
    assert shelf.enroll(picture(5)).signals == {"pdq": 1}
    assert stored(shelf)[0] == []
    assert shelf.index.sizes()["keypoints"] == 0


def test_a_bank_of_sketches_alone_takes_media_and_nothing_else(shelf: Shelf) -> None:
    shelf.record.set_bank("b", actor="t", signal_types=[KEYPOINTS])
    done = shelf.enroll(picture(6))
    assert (done.signals, done.warnings) == ({"keypoints": 1}, ())
    empty = replace(picture(7), sketches=sketched(7, 1, 0))
    assert shelf.enroll(empty).warnings == ("featureless",)
    with pytest.raises(NothingToEnroll):
        shelf.enroll(still(codes(8, 1)[0]))


def test_sketches_come_some_at_a_time_in_order_with_their_banks(shelf: Shelf) -> None:
    shelf.record.create_bank("other", actor="t")
    shelf.enroll(picture(9, 600))
    shelf.enroll(picture(9, 3), "other")
    parts = list(shelf.record.sketches.since(0))
    assert len(parts) == 2
    keys = np.concatenate([part.sketch_pk for part in parts])
    assert np.all(np.diff(keys) > 0)
    assert np.array_equal(keys, shelf.record.sketches.keys())
    ours, theirs = banks(shelf)
    assert np.concatenate([part.bank_pk for part in parts]).tolist() == [ours] * 600 + [theirs] * 3
    assert list(shelf.record.sketches.since(int(keys[-1]))) == []
    assert shelf.index.sizes()["keypoints"] == 603


def test_located_is_what_is_active_in_the_banks_that_are_asked(shelf: Shelf) -> None:
    shelf.record.create_bank("other", actor="t")
    done = [shelf.enroll(picture(seed)) for seed in (10, 11, 12)]
    there = shelf.enroll(picture(13), "other")
    keys, _ = stored(shelf)
    ours, theirs = banks(shelf)

    def found(*asked: int) -> list[int]:
        return shelf.record.sketches.locate(keys, asked).sketch_pk.tolist()

    assert found(ours, theirs) == keys
    assert found(ours) == keys[:3]
    assert found(theirs) == keys[3:]
    assert found() == []
    shelf.withdraw(done[0])
    shelf.record.set_content("b", done[1].content_id, actor="t", enabled=False)
    assert found(ours, theirs) == keys[2:]
    shelf.record.set_content("b", done[1].content_id, actor="t", enabled=True)
    shelf.withdraw(there)
    assert found(ours, theirs) == keys[1:3]
    shelf.record.delete_bank("b", actor="t")
    assert found(ours, theirs) == []
    assert len(shelf.record.sketches.locate([10**12], [ours]).rows) == 0


def raw(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))


def secrets(signal: Signal) -> list[bytes]:
    """Bytes of the sketches: too long to stand there by chance, short enough to lie on one page."""
    row = signal.sketches[0]
    return [row["keypoints"][n]["code"].tobytes() for n in range(300)] + [row["grid"].tobytes()[:64]]


def test_a_withdrawal_leaves_no_byte_of_a_sketch_even_while_the_store_is_open(tmp_path: Path) -> None:
    with opened(tmp_path / "staydown.db") as shelf:
        kept, gone = picture(14), picture(15)
        shelf.enroll(kept)
        done = shelf.enroll(gone)
        assert sum(secret in raw(shelf.path) for secret in secrets(gone)) > 280, "they are searched for as they stand"
        shelf.withdraw(done)
        assert not any(secret in raw(shelf.path) for secret in [*secrets(gone), *map(bytes, codes(15, 1))])
        assert sum(secret in raw(shelf.path) for secret in secrets(kept)) > 280
        assert shelf.record.signal_counts(shelf.content(done).content_pk) == {}


def test_a_deleted_bank_leaves_no_byte_even_while_the_store_is_open(tmp_path: Path) -> None:
    with opened(tmp_path / "staydown.db") as shelf:
        gone = picture(16)
        shelf.enroll(gone)
        shelf.record.delete_bank("b", actor="t")
        assert not any(secret in raw(shelf.path) for secret in secrets(gone))


def test_a_withdrawal_does_not_wait_long_for_a_reader_nor_fail(tmp_path: Path) -> None:
    with opened(tmp_path / "staydown.db") as shelf:
        first, second = shelf.enroll(picture(17)), shelf.enroll(picture(18))
        reader = sqlite3.connect(shelf.path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sketch").fetchone()
        start = time.perf_counter()
        shelf.withdraw(first)
        assert time.perf_counter() - start < 5
        assert stored(shelf)[0] == shelf.record.sketches.keys().tolist() != []
        assert reader.execute("SELECT count(*) FROM sketch").fetchone() == (2,), "it reads what was there"
        reader.close()
        shelf.withdraw(second)
        assert not any(secret in raw(shelf.path) for seed in (17, 18) for secret in secrets(picture(seed)))
        with shelf.store.read() as connection:
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == 30_000


def test_a_withdrawal_of_which_the_change_fails_keeps_the_sketches(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = shelf.enroll(picture(19))
    keys, _ = stored(shelf)

    def fail(change: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(shelf.store, "_append", fail)
        shelf.withdraw(done)
    assert stored(shelf)[0] == keys
    assert shelf.content(done).withdrawn_at is None


def test_enrolling_again_adds_no_second_copy(shelf: Shelf) -> None:
    first, second = shelf.enroll(picture(20, 3)), shelf.enroll(picture(20, 3))
    assert first.content_id == second.content_id
    assert first.signals == second.signals == {"sha256": 1, "pdq": 1, "keypoints": 3}
    assert len(stored(shelf)[0]) == 3
    assert shelf.index.sizes()["keypoints"] == 3


def test_media_adds_the_sketches_that_ready_made_hashes_had_not(shelf: Shelf) -> None:
    signal = picture(21)
    first = shelf.enroll(bare((SHA, (21).to_bytes(32)), rows=frames(codes(21, 1))))
    assert stored(shelf)[0] == []
    second = shelf.enroll(signal)
    assert (second.content_id, second.created) == (first.content_id, False)
    assert stored(shelf)[1].tobytes() == signal.sketches.tobytes()
    assert shelf.index.sizes() | {"phash": 0} == shelf.index.sizes() | {"pdq": 1, "keypoints": 1}
    other = Index(50)
    other.refresh(shelf.record)
    assert other.sizes() == shelf.index.sizes()


def test_a_content_completed_while_another_reads_is_not_lost(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader has seen revision n; before it reads the rows, an older content is completed at n + 1.

    With an upper bound of n the content's older hashes would be left out now, and the
    next time as well, since their keys are below those that were taken in meanwhile.
    """
    old, new = codes(22, 1)[0], codes(23, 1)[0]
    first = shelf.enroll(bare((SHA, b"a" * 32), rows=frames(old[None])))
    shelf.enroll(still(codes(24, 1)[0]))
    reader, revision, completed = Index(50), shelf.store.revision, []

    def and_then_completed() -> int:
        seen = revision()
        if not completed:
            completed.append(shelf.enroll(bare((SHA, b"a" * 32), rows=frames(np.array([old, new])))))
        return seen

    shelf.index.ready = False  # the enrolment does not refresh on its own
    monkeypatch.setattr(shelf.store, "revision", and_then_completed)
    seen = reader.refresh(shelf.record)
    assert completed[0].content_id == first.content_id
    assert completed[0].bank_revision == seen + 1
    found = {int(pk) for code in (old, new) for pk in reader.search(PDQ, code[None], 0).signal_pk}
    assert len(found) == 2
    assert reader.refresh(shelf.record) == seen + 1
    assert sorted(found) == sorted(pk for code in (old, new) for pk in reader.search(PDQ, code[None], 0).signal_pk)
    assert reader.sizes()["pdq"] == len(shelf.record.signal_keys()) == 3


def test_sketches_added_while_another_reads_are_taken_in_once(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, since, added = Index(50), shelf.record.signals_since, list[Enrolled]()
    shelf.enroll(picture(25))

    def and_then_enrolled(revision: int) -> object:
        yield from since(revision)
        if not added:
            added.append(shelf.enroll(picture(26)))

    shelf.index.ready = False
    monkeypatch.setattr(shelf.record, "signals_since", and_then_enrolled)
    for _ in range(3):
        reader.refresh(shelf.record)
    assert reader.sizes() == {"pdq": 2, "phash": 0, "dhash": 0, "whash": 0, "keypoints": 2}


def test_threads_that_start_at_once_take_sketches_in_once(shelf: Shelf) -> None:
    for seed in range(30, 40):
        shelf.enroll(picture(seed, 2))
    other = Index(50)
    threads = [threading.Thread(target=other.refresh, args=(shelf.record,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert other.sizes() == shelf.index.sizes()
    assert other.sizes()["keypoints"] == 20


def test_a_withdrawn_sketch_is_forgotten_at_the_next_refresh(shelf: Shelf) -> None:
    done = [shelf.enroll(picture(seed)) for seed in (41, 42)]
    assert shelf.index.sizes()["keypoints"] == 2
    shelf.withdraw(done[0])
    shelf.index.refresh(shelf.record)
    assert shelf.index.sizes()["keypoints"] == 1
    [searched] = shelf.index.descriptors(banks(shelf))
    assert len(searched.vote(voters(picture(41).sketches[0])).votes) == 0
    assert searched.vote(voters(picture(42).sketches[0])).votes.tolist() == [MOST]


def test_of_many_sketches_the_withdrawn_are_forgotten_when_the_index_is_compacted(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No search waits for it: until then the record is asked about them."""
    monkeypatch.setattr("indexer.index.FORGOTTEN_AT_ONCE", 500)
    done = [shelf.enroll(picture(seed)) for seed in (41, 42)]
    shelf.withdraw(done[0])
    shelf.index.refresh(shelf.record)
    assert shelf.index.sizes()["keypoints"] == 2
    [searched] = shelf.index.descriptors(banks(shelf))
    votes = searched.vote(voters(picture(41).sketches[0]))
    assert len(shelf.record.sketches.locate(votes.sketch_pk.tolist(), banks(shelf)).rows) == 0
    shelf.index.compact(shelf.record)
    assert shelf.index.sizes()["keypoints"] == 1


def test_a_deleted_banks_sketches_are_forgotten_with_the_next_snapshot(shelf: Shelf) -> None:
    shelf.enroll(picture(43))
    shelf.record.delete_bank("b", actor="t")
    assert shelf.index.descriptors(banks(shelf)) == []
    shelf.index.refresh(shelf.record)
    shelf.index.save(shelf.path.with_name("index.cache"), shelf.record)
    assert shelf.index.sizes()["keypoints"] == 0


def test_sketches_come_with_the_snapshot_and_what_was_withdrawn_since_is_forgotten(shelf: Shelf) -> None:
    path = shelf.path.with_name("index.cache")
    done = [shelf.enroll(picture(seed)) for seed in (44, 45, 46)]
    shelf.index.save(path, shelf.record)
    shelf.withdraw(done[1])
    other = Index(50)
    assert other.load(path, shelf.record)
    assert other.sizes()["keypoints"] == 3, "before the record was asked"
    other.refresh(shelf.record)
    assert other.sizes()["keypoints"] == 2
    assert other.descriptors(banks(shelf))[0].vote(voters(picture(46).sketches[0])).votes.tolist() == [MOST]
    same = Index(50)
    shelf.index.refresh(shelf.record)
    shelf.index.save(path, shelf.record)
    assert same.load(path, shelf.record)
    same.refresh(shelf.record)
    other.compact(shelf.record)
    assert same.sizes() == other.sizes(), "also where the snapshot is of the latest revision"


def test_a_snapshot_written_while_content_is_withdrawn_does_not_stay(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shelf.path.with_name("index.cache")
    done = [shelf.enroll(picture(seed)) for seed in (47, 48)]
    replaced = Path.replace

    def withdrawn_meanwhile(part: Path, target: Path) -> Path:
        shelf.withdraw(done[0])
        return replaced(part, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", withdrawn_meanwhile)
        shelf.index.save(path, shelf.record)
    assert not path.exists()
    shelf.index.save(path, shelf.record)
    assert path.exists()
    assert bytes(codes(47, 1)[0]) not in path.read_bytes()
