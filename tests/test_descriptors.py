"""Votes are those of a search of everything in a small segment, and nearly so in a large one."""

import threading

import numpy as np
import pytest
from shelf import codes, flipped, sketched
from test_votes import slow as counted

from benchmarks import corpus
from hashing.keypoints import plane_of, sketch
from hashing.media import Frame
from hashing.signals import MAX_KEYPOINTS, OCTAVES, Sketches, distances
from indexer import descriptors
from indexer.descriptors import FLAT_UPTO, MAX_BITS, MIRRORED_VOTERS, NEAREST, VOTERS, Descriptors, voters
from indexer.votes import MOST, Keypoints


def slow(known: Keypoints, owners: list[int], query: Keypoints) -> dict[int, int]:
    """The obvious truth: each voter's nearest few get its vote, and only those that agree count."""
    cast: list[tuple[int, int, int]] = []
    for number, point in enumerate(query[:VOTERS]):
        apart = distances(known["code"], point["code"])
        nearest = np.argsort(apart, kind="stable")[:NEAREST].tolist()
        cast += [(number, owners[place], place) for place in nearest if apart[place] <= MAX_BITS]
    voter, sketch, place = ([row[n] for row in cast] for n in range(3))
    return counted(voter, sketch, query[voter], known[place])


def points_of(sketches: Sketches) -> tuple[Keypoints, list[int]]:
    """Return all keypoints of sketches, and the row of the sketch that each belongs to."""
    parts = [row["keypoints"][: row["count"]] for row in sketches]
    return np.concatenate(parts), [number for number, part in enumerate(parts) for _ in part]


def voted(index: Descriptors, query: np.void) -> dict[int, int]:
    votes = index.vote(voters(query))
    assert votes.votes.tolist() == sorted(votes.votes.tolist(), reverse=True)
    return dict(zip(votes.sketch_pk.tolist(), votes.votes.tolist(), strict=True))


def near(row: np.void, bits: int, points: int, seed: int) -> Sketches:
    """Return a query whose first `points` descriptors are so many bits from those of a sketch; the rest are noise."""
    query = sketched(seed, points=300)
    query["keypoints"][0, :points] = row["keypoints"][:points]
    for place in range(points):
        query["keypoints"]["code"][0, place] = flipped(row["keypoints"]["code"][place], bits, seed + place)
    return query


def test_votes_are_exact_in_a_small_segment() -> None:
    known = sketched(1, 6)
    index = Descriptors()
    index.add(np.arange(10, 16), known)
    points, rows = points_of(known)
    owners = [row + 10 for row in rows]
    assert len(index) == 1800 <= FLAT_UPTO
    for number, bits in ((0, 0), (3, 20), (5, MAX_BITS), (5, MAX_BITS + 1)):
        query = near(known[number], bits, 40, 100)
        wanted = slow(points, owners, query["keypoints"][0, :300])
        assert voted(index, query[0]) == wanted
        assert (number + 10 in wanted) is (bits <= MAX_BITS)


@pytest.mark.parametrize("seed", range(4))
def test_only_votes_of_one_turn_and_scale_count_together(seed: int) -> None:
    chance = np.random.default_rng(seed)
    known, index = sketched(20 + seed, 6), Descriptors()
    for name, most in (("angle", 256), ("octave", OCTAVES)):
        known["keypoints"][name] = chance.integers(0, most, known["keypoints"][name].shape)
    index.add(np.arange(6), known)
    points, owners = points_of(known)
    query = known[:1].copy()
    assert voted(index, query[0]) == slow(points, owners, query["keypoints"][0, :300])
    assert voted(index, query[0])[0] == MOST
    query["keypoints"]["angle"] = chance.integers(0, 256, query["keypoints"]["angle"].shape)
    assert voted(index, query[0]) == slow(points, owners, query["keypoints"][0, :300])
    assert voted(index, query[0]).get(0, 0) < 15


def test_votes_are_those_of_all_segments_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A voter has few votes, however many segments the bank lies in."""
    monkeypatch.setattr(descriptors, "MERGED_UPTO", 400)
    known, index = sketched(50, 8), Descriptors()
    known["keypoints"]["code"][4:, :150] = known["keypoints"]["code"][0, :150]
    for number in range(8):
        index.add(np.array([number]), known[number : number + 1])
    assert len(index._segments) == 8
    points, owners = points_of(known)
    for number in (0, 2, 5):
        query = near(known[number], 6, 60, 300)
        assert voted(index, query[0]) == slow(points, owners, query["keypoints"][0, :300])


def test_the_keypoints_that_a_picture_needs_most_vote() -> None:
    known, index = sketched(30, points=MAX_KEYPOINTS), Descriptors()
    known["keypoints"]["code"][0, 20:VOTERS] = codes(32, VOTERS - 20)
    index.add(np.array([1]), known)
    query = known.copy()
    query["keypoints"]["code"][0, :MAX_KEYPOINTS] = codes(31, MAX_KEYPOINTS)
    for start, stop, mirrored, found in (
        (VOTERS - 20, VOTERS, 0, True), (VOTERS, VOTERS + 20, 0, False),
        (MIRRORED_VOTERS - 20, MIRRORED_VOTERS, 1, True), (MIRRORED_VOTERS, MIRRORED_VOTERS + 20, 1, False),
    ):  # fmt: skip
        some = query.copy()
        some["mirrored"] = mirrored
        some["keypoints"][0, start:stop] = known["keypoints"][0, start:stop]
        assert (voted(index, some[0]).get(1, 0) >= 15) is found


def test_the_centres_are_distinct_and_make_even_lists(real: Sketches) -> None:
    centres = descriptors.CENTRES
    assert centres.shape == (4096, 32) == np.unique(centres, axis=0).shape
    sizes = np.bincount(descriptors._segment(np.arange(100), real).lists, minlength=4096)  # type: ignore[union-attr]
    assert len(sizes) * (sizes.astype(float) ** 2).sum() / sizes.sum() ** 2 < 3


def test_only_the_keypoints_that_count_are_searched() -> None:
    row = sketched(5, points=20)
    row["keypoints"]["code"][0, 20:40] = codes(6, 20)
    index = Descriptors()
    index.add(np.array([1]), row)
    query = sketched(7, points=20)
    query["keypoints"]["code"][0, :20] = codes(6, 20)
    assert voted(index, query[0]) == {}
    assert len(index) == 20
    query = row.copy()
    query["count"] = 12
    assert voted(index, query[0]) == {1: 12}


def test_nothing_votes_for_nothing() -> None:
    index = Descriptors()
    assert voted(index, sketched(8)[0]) == {}
    index.add(np.array([1]), sketched(9, points=0))
    index.add(np.array([], np.int64), sketched(9, 0))
    assert (len(index), index.sketches) == (0, 0)
    index.add(np.array([2, 3]), sketched(10, 2))
    assert voted(index, sketched(9, points=0)[0]) == {}
    assert (len(index), index.sketches) == (600, 2)
    assert voted(index, sketched(11)[0]) == {}


@pytest.fixture(scope="module")
def real() -> Sketches:
    """The sketches of 100 pictures: descriptors of pictures are not spread evenly, as random ones are."""
    planes = [corpus.picture(1000 + seed, 512, 384) for seed in range(100)]
    return np.concatenate([sketch(plane_of(Frame(plane)), MAX_KEYPOINTS) for plane in planes])


@pytest.mark.parametrize(("bits", "share"), [(0, 0.99), (8, 0.95), (16, 0.9), (24, 0.85), (32, 0.75)])
def test_near_descriptors_are_found_in_a_large_segment(real: Sketches, bits: int, share: float) -> None:
    """Not all, since only lists about as near as the nearest are looked into (FURTHER_BITS)."""
    index = Descriptors()
    index.add(np.arange(100), real)
    assert len(index) > 10 * FLAT_UPTO
    planted = [near(row, bits, 40, 200 + number) for number, row in enumerate(real[::5])]
    found = [voted(index, query[0]).get(5 * number, 0) for number, query in enumerate(planted)]
    assert sum(found) >= share * 40 * len(found)


def test_segments_are_merged_and_lose_nothing() -> None:
    known, index = sketched(15, 70), Descriptors()
    for number in range(70):
        index.add(np.array([number]), known[number : number + 1])
    sizes = [len(segment) for segment in index._segments]
    assert sum(sizes) == len(index) == 21_000
    assert len(sizes) <= 8
    assert index.sketches == 70
    for number in range(70):
        assert voted(index, known[number])[number] >= MOST - 2


def test_segments_that_are_large_enough_are_not_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an enrolment now and then would build one from everything, while all others wait."""
    monkeypatch.setattr(descriptors, "MERGED_UPTO", 1500)
    known, index = sketched(16, 40), Descriptors()
    for number in range(40):
        index.add(np.array([number]), known[number : number + 1])
    assert max(len(segment) for segment in index._segments) <= 1500
    assert len(index) == 12_000
    assert all(voted(index, known[number])[number] >= MOST - 2 for number in range(40))


def test_what_is_forgotten_does_not_crowd_out_what_is_kept() -> None:
    index = Descriptors()
    same = np.concatenate([sketched(17)] * 9)
    index.add(np.arange(9), same)
    index.add(np.arange(20, 30), sketched(18, 10))
    segments = index._segments
    assert 8 not in voted(index, same[0])
    index.keep(np.array([8, *range(20, 30)]), 29)
    assert voted(index, same[0]) == {8: MOST}
    assert (len(index), index.sketches) == (3300, 11)
    before = index._segments
    index.keep(np.arange(100), 29)
    assert index._segments == before != segments, "what loses nothing is not built again"
    index.keep(np.array([], np.int64), 20)
    assert index.sketches == 9, "what is newer is not judged"
    index.keep(np.array([], np.int64), 29)
    assert (len(index), index._segments) == (0, ())


def test_a_search_while_others_add_sees_what_was_there_before() -> None:
    known, index, lost = sketched(19, 64), Descriptors(), []
    index.add(np.array([0]), known[:1])
    started, done = threading.Barrier(6), threading.Event()

    def add(numbers: range) -> None:
        started.wait()
        for number in numbers:
            index.add(np.array([number]), known[number : number + 1])
            if voted(index, known[number]).get(number, 0) < MOST - 4:
                lost.append(number)

    def search() -> None:
        started.wait()
        while not done.is_set():
            if voted(index, known[0]).get(0, 0) < MOST - 4:
                lost.append(0)

    writers = [threading.Thread(target=add, args=(range(start, 64, 4),)) for start in (1, 2, 3, 4)]
    readers = [threading.Thread(target=search) for _ in range(2)]
    for thread in (*writers, *readers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert not lost
    assert index.sketches == 64


def test_what_is_added_while_others_are_forgotten_stays() -> None:
    known, index, forgotten = sketched(60, 60), Descriptors(), threading.Event()
    index.add(np.arange(30), known[:30])
    live = np.arange(0, 30, 3)

    def forget() -> None:
        for _ in range(40):
            index.keep(live, 29)
        forgotten.set()

    thread = threading.Thread(target=forget)
    thread.start()
    for number in range(30, 60):
        index.add(np.array([number]), known[number : number + 1])
    thread.join()
    index.keep(live, 29)
    assert sorted(np.concatenate([segment.sketches for segment in index._segments]).tolist()) == [*live, *range(30, 60)]
    assert all(voted(index, known[number])[number] >= MOST - 2 for number in (*live, *range(30, 60)))


def test_what_was_written_votes_as_before() -> None:
    known, index = sketched(61, 20), Descriptors()
    for name, most in (("angle", 256), ("octave", OCTAVES)):
        known["keypoints"][name] = np.random.default_rng(62).integers(0, most, known["keypoints"][name].shape)
    index.add(np.arange(15), known[:15])
    index.add(np.arange(15, 20), known[15:])
    assert [len(segment) > FLAT_UPTO for segment in index._segments] == [True, False]
    again = Descriptors({name: array.copy() for name, array in part.items()} for part in index.parts())
    assert (len(again), again.sketches) == (len(index), 20)
    for number, row in enumerate(known):
        query = near(row, 25, 60, 300 + number)[0]
        assert voted(again, query) == voted(index, query)
    again.add(np.arange(20, 40), sketched(63, 20))
    assert voted(again, known[3])[3] == MOST, "merged with what is new"
