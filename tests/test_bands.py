"""The tables meet every code within the radius, by as few flips as the pigeonhole principle allows, and no fewer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shelf import Codes, codes

from hashing.signals import HASH_BITS, distances
from indexer import bands
from indexer.bands import BANDS, Bands, nearby, words_of

WIDTH = HASH_BITS // BANDS


@pytest.fixture(autouse=True)
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates are returned however many they are."""
    monkeypatch.setattr(bands, "_CANDIDATE_COST", 0.0)


def flipped_in(code: Codes, counts: list[int], seed: int) -> Codes:
    """Return a code that differs in so many bits of each band, of those that even the smallest table looks at."""
    chance, word = np.random.default_rng(seed), int.from_bytes(code.tobytes(), "little")
    for band, count in enumerate(counts):
        for place in chance.choice(8, count, replace=False):
            word ^= 1 << (band * WIDTH + int(place))
    return np.frombuffer(word.to_bytes(32, "little"), np.uint8)


def candidates(tables: Bands, query: Codes, radius_bits: int) -> set[int]:
    rows = tables.candidates(tables.values(words_of(query[None]))[0], radius_bits)
    assert rows is not None
    return set(rows.tolist())


def allowed(radius_bits: int) -> list[int]:
    """Return the most bits that each band may differ in for a code to be looked at; their sum plus 12 is radius + 1."""
    each, more = divmod(radius_bits + 1, BANDS)
    return [each if number < more else each - 1 for number in range(BANDS)]


@pytest.mark.parametrize("radius_bits", [0, 5, 11, 12, 18, 31, 40, 46, 47, 59, 60])
def test_a_code_that_only_one_band_gives_away_is_met(radius_bits: int) -> None:
    """As unlucky as can be: one bit too many in every band but one."""
    query, most = codes(1, 1)[0], allowed(radius_bits)
    unlucky = [
        flipped_in(query, [flips if number == lucky else flips + 1 for number, flips in enumerate(most)], lucky)
        for lucky in range(BANDS)
        if most[lucky] >= 0
    ]
    assert {int(distances(code[None], query)[0]) for code in unlucky} == {radius_bits}
    known = np.concatenate([codes(2, 140), np.array(unlucky)])
    assert candidates(Bands.of(known), query, radius_bits) >= set(range(140, 140 + len(unlucky)))


@pytest.mark.parametrize("radius_bits", [11, 31, 46])
def test_beyond_the_radius_nothing_is_promised(radius_bits: int) -> None:
    """The trap: asked for one bit less than a code is away, the tables may miss it. So the radius is never exceeded."""
    query = codes(3, 1)[0]
    further = flipped_in(query, [flips + 1 for flips in allowed(radius_bits)], 4)
    tables = Bands.of(further[None].repeat(140, axis=0))
    assert candidates(tables, query, radius_bits) == set()
    assert candidates(tables, query, radius_bits + 1) == set(range(140))


@given(st.integers(1, 300), st.integers(0, 40), st.integers(0, 2**32))
def test_candidates_hold_all_that_is_near(count: int, radius_bits: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    query = codes(5, 1)[0]
    masks = np.packbits(chance.random((count, HASH_BITS)) < chance.random((count, 1)) / 4, axis=1)
    known = query ^ masks
    apart = distances(known, query)
    tables = Bands.of(known)
    assert candidates(tables, query, radius_bits) >= set(np.flatnonzero(apart <= radius_bits).tolist())
    rows, distance_bits = nearby(words_of(known), np.arange(count).repeat(2), words_of(query[None])[0], radius_bits)
    assert rows.tolist() == np.flatnonzero(apart <= radius_bits).tolist()
    assert distance_bits.tolist() == apart[apart <= radius_bits].tolist()


def test_all_256_bits_are_counted() -> None:
    query, rows = words_of(codes(6, 1))[0], np.array([0], np.uint32)
    for bits, code in ((256, ~query), (0, query), (192, np.append(~query[:3], query[3]))):
        assert nearby(code[None], rows, query, 256)[1].tolist() == [bits]


def test_the_cost_counts_what_is_looked_up() -> None:
    tables = Bands.of(codes(7, 5000))
    for radius_bits in (0, 11, 20, 31, 46):
        plan = bands._plan(radius_bits, tables._bits)
        assert bands._probes(radius_bits, tables._bits) == len(plan.masks) == plan.counts.sum()
        keys = plan.bands << 32 | plan.masks
        assert len(np.unique(keys)) == len(keys), "nothing is looked up twice"
    assert tables.cost(46) > tables.cost(31) > tables.cost(0)
    assert tables.cost(256) > 5000, "wider than the tables pay for: it is scanned"
