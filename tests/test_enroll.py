"""Enrolment: the same content is one content, all of a batch or none, and each answered hash is found."""

import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shelf import Shelf, bare, codes, film, flipped, frames, sketched, still

from benchmarks import corpus
from hashing.errors import InvalidHash, Reason, UnhashableMedia
from hashing.hasher import Plan, hash_media
from hashing.media import Sampling
from hashing.signals import PERCEPTUAL, Kind, Media, Signal, SignalType, Transform, View, no_frames
from indexer.enroll import ReadyHash, Submission, fingerprint, signal_of
from indexer.errors import NothingToEnroll
from indexer.policy import MIN_QUALITY

SHA, MD5, PDQ = SignalType.SHA256, SignalType.MD5, SignalType.PDQ
DENSE = Plan(Sampling.DENSE)


def test_the_same_content_twice_is_one_content(shelf: Shelf) -> None:
    data = corpus.jpeg(corpus.picture(1), 90)
    first, second = (shelf.enroll(hash_media(data, DENSE)) for _ in range(2))
    assert (first.content_id, first.signals) == (second.content_id, second.signals)
    assert (first.created, second.created) == (True, False)
    assert second.bank_revision == first.bank_revision + 1
    assert shelf.record.counts() == (1, 1)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(range(7)))
def test_the_order_of_hashes_does_not_matter(shelf: Shelf, order: list[int]) -> None:
    ready = [ReadyHash(PDQ, bytes(code).hex()) for code in codes(1, 6)] + [ReadyHash(MD5, "ab" * 16)]
    known = shelf.enroll(signal_of(ready))
    assert shelf.enroll(signal_of([ready[place] for place in order])).content_id == known.content_id
    assert shelf.record.counts() == (1, 6)


def test_one_content_may_be_in_two_banks(shelf: Shelf) -> None:
    shelf.record.create_bank("other", actor="t")
    signal = still(codes(2, 1)[0])
    here, there = shelf.enroll(signal), shelf.enroll(signal, "other")
    assert here.content_id != there.content_id
    assert (here.created, there.created) == (True, True)
    assert sorted(shelf.found(signal)) == sorted([here.content_id, there.content_id])
    shelf.withdraw(here)
    assert shelf.found(signal) == [there.content_id]


def test_what_was_withdrawn_stays_withdrawn_when_the_same_is_enrolled_again(shelf: Shelf) -> None:
    signal = bare((SHA, b"a" * 32), rows=frames(codes(3, 1)))
    first = shelf.enroll(signal)
    shelf.withdraw(first)
    second = shelf.enroll(signal)
    assert second.created
    assert second.content_id != first.content_id
    assert shelf.found(signal) == [second.content_id]
    assert shelf.content(first).withdrawn_at is not None


def test_a_known_content_takes_the_hashes_that_it_lacks(shelf: Shelf) -> None:
    """An answered enrolment is found by each of its hashes, also if its SHA-256 was known."""
    one, two = codes(4, 2)
    first = shelf.enroll(bare((SHA, b"a" * 32)))
    second = shelf.enroll(bare((SHA, b"a" * 32), (MD5, b"b" * 16), rows=frames(np.array([one, two]))))
    third = shelf.enroll(bare((SHA, b"a" * 32), rows=frames(two[None])))
    assert first.content_id == second.content_id == third.content_id
    for signal in (bare((SHA, b"a" * 32)), bare((MD5, b"b" * 16)), still(one), still(two)):
        assert shelf.found(signal) == [first.content_id]
    assert shelf.record.signal_counts(shelf.content(first).content_pk) == {"sha256": 1, "md5": 1, "pdq": 2}


def test_a_bank_that_keeps_another_type_from_now_on_gets_it_by_enrolling_again(shelf: Shelf) -> None:
    both = np.concatenate([frames(codes(5, 1)), frames(codes(6, 1), kind=SignalType.PHASH)])
    signal = Signal(Media(Kind.IMAGE, "c" * 64), both, ((SHA, b"\xcc" * 32),))
    first = shelf.enroll(signal)
    assert first.signals == {"sha256": 1, "pdq": 1}
    shelf.record.set_bank("b", actor="t", signal_types=[SignalType.PHASH, MD5])
    assert shelf.found(still(codes(6, 1)[0], kind=SignalType.PHASH)) == []
    assert shelf.enroll(signal).content_id == first.content_id
    assert shelf.found(still(codes(6, 1)[0], kind=SignalType.PHASH)) == [first.content_id]
    assert shelf.found(still(codes(5, 1)[0])) == [], "the bank does not compare PDQ any more"


def test_only_the_form_that_was_seen_is_kept(shelf: Shelf) -> None:
    picture = corpus.picture(2)
    signal = hash_media(corpus.jpeg(picture, 95), Plan(Sampling.SPARSE))
    assert set(signal.frames["transform"]) == set(range(8))
    done = shelf.enroll(signal)
    rows = shelf.record.hashes_of(shelf.content(done).content_pk)[1]
    assert rows["transform"].tolist() == [0]
    assert done.signals == {"sha256": 1, "md5": 1, "pdq": 1}


def test_a_batch_is_enrolled_whole_or_not_at_all(shelf: Shelf) -> None:
    before = (shelf.store.revision(), shelf.record.counts(), shelf.ledger.verify())
    good = [still(code) for code in codes(7, 5)]
    for bad, error in (
        (bare(), NothingToEnroll),
        (still(codes(8, 1)[0], kind=SignalType.PHASH), NothingToEnroll),
        (Signal(Media(Kind.IMAGE), no_frames(), ((SHA, b"a" * 32),), Reason.TOO_MANY_PIXELS), UnhashableMedia),
    ):
        with pytest.raises(error):
            shelf.enroll_all([*good, bad])
        assert (shelf.store.revision(), shelf.record.counts(), shelf.ledger.verify()) == before
    done = shelf.enroll_all(good)
    assert len({one.content_id for one in done}) == 5
    assert {one.bank_revision for one in done} == {before[0] + 1}


def test_repeats_within_a_batch_are_one_content(shelf: Shelf) -> None:
    one, two = codes(9, 2)
    digest = (SHA, b"a" * 32)
    done = shelf.enroll_all([bare(digest, rows=frames(one[None])), still(two), bare(digest, rows=frames(two[None]))])
    assert done[0].content_id == done[2].content_id != done[1].content_id
    assert [item.created for item in done] == [True, True, False]
    assert sorted(shelf.found(still(two))) == sorted({item.content_id for item in done})


def test_the_same_content_from_many_threads_is_one_content(shelf: Shelf) -> None:
    seen: list[str] = []

    def work() -> None:
        seen.append(shelf.enroll(still(codes(10, 1)[0])).content_id)

    threads = [threading.Thread(target=work) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 10
    assert len(set(seen)) == 1
    assert shelf.record.counts() == (1, 1)


def test_warnings_say_what_will_not_be_found(shelf: Shelf) -> None:
    code = codes(11, 1)[0]
    partial = Signal(Media(Kind.IMAGE, None, 1, 1, None, 1), frames(code[None]), (), Reason.TRUNCATED)
    blank = hash_media(corpus.encode(np.full((200, 200, 3), 90, np.uint8), "PNG"), DENSE)
    assert shelf.enroll(still(code)).warnings == ()
    assert shelf.enroll(partial).warnings == ("truncated",)
    assert shelf.enroll(blank).warnings == ("featureless",)
    assert shelf.enroll(still(code, quality=MIN_QUALITY - 1)).warnings == ("featureless",)
    assert shelf.enroll(still(code, quality=MIN_QUALITY)).warnings == ()
    assert shelf.enroll(bare((MD5, b"b" * 16))).warnings == ()
    assert shelf.enroll(bare(rows=frames(code[None], quality=10))).warnings == ("featureless",)
    mixed = np.concatenate([frames(code[None]), frames(codes(12, 1), quality=0)])
    assert shelf.enroll(bare(rows=mixed)).warnings == ()
    no_pictures = Signal(Media(Kind.VIDEO), no_frames(), ((SHA, b"d" * 32),))
    assert shelf.enroll(no_pictures).warnings == ("featureless",)


def test_media_of_which_nothing_was_seen_is_refused(shelf: Shelf) -> None:
    with pytest.raises(UnhashableMedia) as caught:
        shelf.enroll(Signal(Media(Kind.VIDEO), no_frames(), ((SHA, b"a" * 32),), Reason.NO_VIDEO))
    assert caught.value.word == "no_video"
    assert shelf.record.counts() == (0, 0)


@pytest.mark.parametrize("kept", list(SignalType))
def test_a_bank_keeps_its_own_types(shelf: Shelf, kept: SignalType) -> None:
    shelf.record.set_bank("b", actor="t", signal_types=[kept])
    rows = np.concatenate([frames(codes(number, 1), kind=kind) for number, kind in enumerate(PERCEPTUAL)])
    exact, sketches = ((SHA, b"a" * 32), (MD5, b"b" * 16)), sketched(1)
    done = shelf.enroll(Signal(Media(Kind.IMAGE), rows, exact, sketches=sketches))
    assert done.signals == {kept.value: 1} == shelf.record.signal_counts(shelf.content(done).content_pk)


def test_the_index_is_left_alone_until_it_is_ready(shelf: Shelf) -> None:
    shelf.index.ready = False
    shelf.enroll(still(codes(13, 1)[0]))
    assert len(shelf.index) == 0
    shelf.index.refresh(shelf.record)
    assert len(shelf.index) == 1


def test_every_enrolment_is_in_the_audit_log_without_its_hashes(shelf: Shelf) -> None:
    done = shelf.enroll(bare((SHA, b"a" * 32), rows=frames(codes(14, 2))))
    shelf.enroll(bare((SHA, b"a" * 32), rows=frames(codes(14, 2))))
    entries = [entry for entry, _ in shelf.ledger.entries() if entry.action == "content.enroll"]
    assert [entry.target for entry in entries] == [done.content_id] * 2
    assert [entry.detail["created"] for entry in entries] == [True, False]
    assert entries[0].detail == {"bank": "b", "created": True, "signals": {"sha256": 1, "pdq": 2}}
    assert entries[0].revision == done.bank_revision


# --- ready-made hashes ------------------------------------------------------------------


def test_ready_made_hashes_become_a_signal() -> None:
    code = bytes(codes(15, 1)[0])
    signal = signal_of([
        ReadyHash(PDQ, code.hex(), 77, 1.5, "pdq-512/1", View.TRIMMED), ReadyHash(MD5, "AB" * 16),
        ReadyHash(SHA, "cd" * 32), ReadyHash(SignalType.WHASH, code.hex()),
    ])  # fmt: skip
    assert signal.media == Media(Kind.HASHES, "cd" * 32, frames_hashed=2)
    assert signal.exact == ((MD5, b"\xab" * 16), (SHA, b"\xcd" * 32))
    first, second = signal.frames
    assert (first["profile"], first["view"], first["quality"], first["timestamp_s"]) == (1, 1, 77, 1.5)
    assert (second["profile"], second["view"], second["quality"]) == (4, 0, 100)
    assert np.isnan(second["timestamp_s"])
    assert bytes(first["hash"]) == bytes(second["hash"]) == code


@pytest.mark.parametrize("ready", [
    ReadyHash(PDQ, "ab" * 31), ReadyHash(PDQ, "zz" * 32), ReadyHash(PDQ, ""), ReadyHash(MD5, "ab" * 32),
    ReadyHash(SHA, "ab" * 16), ReadyHash(SHA, "ab" * 31 + "  "), ReadyHash(PDQ, "ab  " + "ab" * 30),
    ReadyHash(PDQ, "ab" * 32, profile="pdq-full/2"),
    ReadyHash(PDQ, "ab" * 32, profile="imagehash-phash16/1"), ReadyHash(SignalType.PHASH, "ab" * 32, profile="x"),
])  # fmt: skip
def test_what_is_no_hash_is_refused(ready: ReadyHash) -> None:
    with pytest.raises(InvalidHash):
        signal_of([ready])


def test_hashes_of_two_profiles_of_one_type_are_compared(shelf: Shelf) -> None:
    code = codes(16, 1)[0]
    done = shelf.enroll(signal_of([ReadyHash(PDQ, bytes(code).hex(), profile="pdq-512/1")]))
    assert shelf.found(still(flipped(code, 10))) == [done.content_id]


def test_fingerprints_tell_contents_apart() -> None:
    base = [still(code) for code in codes(17, 20)] + [film(codes(18, 3), np.arange(3.0)), bare((MD5, b"a" * 16))]
    base += [bare((SHA, b"a" * 32)), still(codes(17, 1)[0], kind=SignalType.PHASH)]
    assert len({fingerprint(signal) for signal in base}) == len(base)
    assert fingerprint(bare((SHA, b"a" * 32))) == (b"a" * 32).hex()


def test_a_submission_of_a_transformed_form_alone_is_nothing(shelf: Shelf) -> None:
    with pytest.raises(NothingToEnroll):
        shelf.enroller.enroll("b", Submission(bare(rows=frames(codes(19, 1), transform=Transform.MIRROR))), actor="t")
