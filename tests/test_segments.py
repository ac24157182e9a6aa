"""Hashes in segments are searched exactly, and none is lost while they are added, joined, compacted, forgotten."""

import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shelf import Codes, codes, flipped

from hashing.signals import distances
from indexer import segments
from indexer.segments import SCANNED_UPTO, Segment, TypeIndex

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
    assert len(index.segments) <= 11
    assert found(index, known, 20) == slow(known, known, 20)


def test_what_is_gone_is_forgotten_and_what_is_newer_is_not_judged() -> None:
    known = codes(8, 100)
    index = TypeIndex()
    index.add(keys_of(60), known[:60])
    index.add(keys_of(40, 61), known[60:])
    index.compact(np.arange(1, 101, 3, dtype=np.int64), newest=90)
    kept = {*range(1, 91, 3), *range(91, 101)}
    assert set(index.all()[0].tolist()) == kept
    assert {key for _, key, _ in found(index, known, 0)} == kept
    index.compact(np.empty(0, np.int64), newest=100)
    assert (len(index), index.segments) == (0, ())


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


# --- with tables --------------------------------------------------------------------------


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make tables for what would be scanned otherwise, and use them however much they cost."""
    monkeypatch.setattr(segments, "SCANNED_UPTO", 200)
    monkeypatch.setattr("indexer.bands._PROBE_COST", 0.0)
    monkeypatch.setattr("indexer.bands._CANDIDATE_COST", 0.0)


def tabled(index: TypeIndex) -> list[bool]:
    return [segment.bands is not None for segment in index.segments]


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("radius_bits", range(MAX_BITS + 1))
def test_every_radius_is_exact_with_tables(radius_bits: int) -> None:
    known, query = planted()
    index = TypeIndex()
    index.add(keys_of(len(known)), known)
    index.compact()
    assert tabled(index) == [True]
    assert found(index, query, radius_bits) == slow(known, query, radius_bits)


def planted_among(count: int, query: Codes, radius_bits: int) -> Codes:
    """Return random codes, some of them at most a bit more than `radius_bits` away from a query, in clumps as well."""
    near = [
        flipped(query[bits % len(query)], bits, 7 * bits + turn) for bits in range(radius_bits + 2) for turn in (0, 1)
    ]
    clump = [flipped(near[-1 - number % 5], number % 9, number) for number in range(200)]
    known = np.concatenate([codes(31, count), np.array(near + clump, np.uint8)])
    return known[np.random.default_rng(32).permutation(len(known))]


@pytest.mark.slow
@pytest.mark.parametrize("radius_bits", [31, 46, 60, 100])
def test_a_large_segment_is_exact_by_tables_and_beyond_what_they_pay_for(radius_bits: int) -> None:
    """As they are: a radius that would ask for too many flips is scanned, and a table is never asked beyond itself."""
    query = codes(30, 12)
    known = planted_among(2 * SCANNED_UPTO, query, radius_bits)
    index = TypeIndex()
    index.add(keys_of(len(known)), known)
    index.compact()
    [segment] = index.segments
    assert segment.bands is not None
    assert (segment.bands.cost(radius_bits) < len(segment)) is (radius_bits <= 31)
    assert found(index, query, radius_bits) == slow(known, query, radius_bits)
    assert len(found(index, query, radius_bits)) > radius_bits


@pytest.mark.slow
def test_huge_buckets_of_featureless_hashes_cost_no_more_than_a_scan() -> None:
    """Half of all hashes are one, and a query is near to it in a band: its candidates would be half of everything."""
    blank, query = codes(40, 1)[0], codes(41, 8)
    known = codes(42, 3 * SCANNED_UPTO)
    known[::2] = blank
    known[1::1000] = query[1]
    query[0] = flipped(blank, 30)
    query[2, :24] = blank[:24]  # like it in nine bands, and far from it all the same
    query[2, 24:] = ~blank[24:]
    index = TypeIndex()
    index.add(keys_of(len(known)), known)
    index.compact()
    [segment] = index.segments
    assert segment.bands is not None
    words = segment.bands.values(segments.words_of(query))
    answered = [segment.bands.candidates(values, 31) is not None for values in words]
    assert answered == [False, True, False] + [True] * 5
    for radius_bits in (29, 31):
        assert found(index, query, radius_bits) == slow(known, query, radius_bits)


@pytest.mark.usefixtures("tables")
def test_segments_that_grew_are_joined_and_small_ones_beside_a_large_one_are_not() -> None:
    known = codes(43, 4000)
    index, start = TypeIndex(), 0
    steps: dict[int, list[bool]] = {
        150: [False], 101: [True], 40: [True, False], 50: [True, False], 151: [True], 2000: [True],
        300: [True, True], 152: [True, True, False], 700: [True, True],
    }  # fmt: skip
    for size, tables_of in steps.items():
        index.add(keys_of(size, start + 1), known[start : start + size])
        start += size
        index.compact()
        assert tabled(index) == tables_of, size
        assert len(index) == start
    assert found(index, known, 0) == {(row, row + 1, 0) for row in range(start)}
    assert index.all()[0].tolist() == list(range(1, start + 1)), "keys stay in order"


@pytest.mark.usefixtures("tables")
def test_tables_without_what_is_gone_are_those_built_anew() -> None:
    known = codes(44, 3000)
    index = TypeIndex()
    index.add(keys_of(3000), known)
    index.compact()
    live = np.flatnonzero(np.random.default_rng(45).random(3000) < 0.7) + 1
    index.compact(live, 3000)
    [segment] = index.segments
    fresh = TypeIndex()
    fresh.add(live, known[live - 1])
    fresh.compact()
    [anew] = fresh.segments
    assert segment.bands is not None
    assert anew.bands is not None
    assert np.array_equal(segment.keys, live)
    assert np.array_equal(segment.codes, anew.codes)
    assert np.array_equal(segment.bands.rows, anew.bands.rows)
    assert np.array_equal(segment.bands.starts, anew.bands.starts)
    index.compact(live, 3000)
    assert index.segments == (segment,), "what loses nothing is left as it is"


@pytest.mark.usefixtures("tables")
def test_compacting_says_whether_it_made_a_large_segment() -> None:
    known, index = codes(46, 600), TypeIndex()
    assert not index.compact()
    index.add(keys_of(100), known[:100])
    assert not index.compact()
    index.add(keys_of(500, 101), known[100:])
    assert index.compact()
    assert not index.compact()


class Busy:
    """A thousand hashes more and more, searched and compacted by others meanwhile."""

    def __init__(self) -> None:
        self.known, self.index, self.added = codes(47, 4000), TypeIndex(), 500
        self.index.add(keys_of(500), self.known[:500])
        self.errors: list[int] = []

    def add(self) -> None:
        while self.added < len(self.known):
            start, more = self.added, self.known[self.added : self.added + 7]
            self.index.add(keys_of(len(more), start + 1), more)
            self.added += len(more)

    def search(self) -> None:
        upto = self.added
        hits = self.index.search(self.known[upto - 100 : upto], 0)
        if not set(hits.signal_pk.tolist()) >= set(range(upto - 99, upto + 1)):
            self.errors.append(upto)

    def compact(self) -> None:
        upto = self.added
        self.index.compact(np.arange(1, upto + 1), upto)


@pytest.mark.usefixtures("tables")
def test_nothing_is_lost_while_others_add_search_and_compact() -> None:
    busy, ended_adding = Busy(), threading.Event()

    def repeat(work: Callable[[], None]) -> None:
        while not ended_adding.is_set():
            work()

    works = (busy.search, busy.search, busy.compact, busy.compact)
    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    busy.add()
    ended_adding.set()
    for thread in threads:
        thread.join()
    assert not busy.errors
    assert found(busy.index, busy.known, 0) == {(row, row + 1, 0) for row in range(4000)}


def test_a_segment_can_be_exchanged_for_its_equal() -> None:
    known, index = codes(48, 30), TypeIndex()
    index.add(keys_of(30), known)
    [segment] = index.segments
    equal = Segment.of(segment.arrays())
    index.exchange([segment], [equal])
    assert index.segments[0] is equal
    index.exchange([segment], [Segment(keys_of(1), known[:1])])
    assert index.segments[0] is equal, "what is there no more is not exchanged"
