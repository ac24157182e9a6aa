"""Multi-index hashing: which of many codes can be within a radius of a query. Pure NumPy, no storage, no FAISS.

A code is cut into 12 bands. Two codes that differ in few bits differ in even fewer in one
of the bands, so that looking up each band of the query, with a few of its bits flipped,
meets every code within the radius (Norouzi, Punjani, Fleet: "Fast search in Hamming space
with multi-index hashing", CVPR 2012). How many flips each band needs is the general
pigeonhole principle: were band i of a code more than t_i bits away, for every i, then the
code would be at least sum(t_i + 1) bits away; so it is enough that this sum is radius + 1
(Qin et al.: "GPH: similarity search in Hamming space", ICDE 2018). Any radius is exact
so; wide ones need so many flips that looking at everything is cheaper, which `cost` tells.

Each band has one table: rows of codes sorted by the band's bits, and where each value
begins. These are plain arrays, so that they can lie in a file that is mapped to memory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hashing.signals import HASH_BITS, Codes

BANDS = 12
_WIDTH_BITS = HASH_BITS // BANDS  # four bits are in no band: that a code differs there never makes it nearer
_WORD_BITS = np.uint64(64)
_BEGINS_BITS = np.arange(BANDS, dtype=np.uint64) * np.uint64(_WIDTH_BITS)
_FIRST_WORD, _SHIFT_BITS = np.divmod(_BEGINS_BITS, _WORD_BITS)
_NEXT_WORD = np.minimum(_FIRST_WORD + np.uint64(1), np.uint64(3))
# What a probe and a candidate cost, in codes that a scan passes in the same time, as measured with 1 and 10 million
# codes: both wait for memory, the scan does not.
_PROBE_COST, _CANDIDATE_COST = 12.0, 32.0
_INSIDE: Literal["clip"] = "clip"  # what is taken lies inside: not looking saves a third of the time
_PIECE = 1 << 20  # codes that are looked at at once while tables are made, for the sake of memory and of other threads

Rows = NDArray[np.uint32]
Words = NDArray[np.uint64]


def words_of(codes: Codes) -> Words:
    """Return codes (n, 32) as four words each, (n, 4)."""
    words: Words = np.ascontiguousarray(codes).view("<u8")
    return words


def _values(words: Words, bits: int, bands: slice = slice(None)) -> Words:
    """Return so many low bits of bands of codes (n, 4): (n, bands)."""
    low = words[:, _FIRST_WORD[bands]] >> _SHIFT_BITS[bands]
    high = words[:, _NEXT_WORD[bands]] << _WORD_BITS - _SHIFT_BITS[bands]  # masked away if a band lies in one word
    found: Words = (low | high) & np.uint64((1 << bits) - 1)
    return found


def _masks(bits: int, flips: int) -> NDArray[np.int64]:
    """Return all values of so many bits with at most `flips` set, in order, so that near memory is read at one time."""
    chosen = (places for count in range(flips + 1) for places in combinations(range(bits), count))
    return np.array(sorted(sum(1 << place for place in places) for places in chosen), np.int64)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is looked up for a radius: values to flip, all bands behind one another, and how many each band has."""

    masks: NDArray[np.int64]
    counts: NDArray[np.int64]
    bands: NDArray[np.int64]  # the band of each mask
    begins: NDArray[np.int64]  # where the table of that band does


@lru_cache(maxsize=64)
def _plan(radius_bits: int, bits: int) -> _Plan:
    each, more = divmod(radius_bits + 1, BANDS)
    masks = [_masks(bits, each if number < more else each - 1) for number in range(BANDS)]
    counts = np.array([len(part) for part in masks])
    bands = np.repeat(np.arange(BANDS), counts)
    return _Plan(np.concatenate(masks), counts, bands, bands * ((1 << bits) + 1))


def _probes(radius_bits: int, bits: int) -> int:
    """Return how many values a plan looks up, without making it: a wide radius has millions."""
    each, more = divmod(radius_bits + 1, BANDS)
    return more * _choices(bits, each) + (BANDS - more) * _choices(bits, each - 1)


def _choices(bits: int, flips: int) -> int:
    total, term = 0, 1
    for count in range(flips + 1):
        total, term = total + term, term * (bits - count) // (count + 1)
    return total


@dataclass(frozen=True, slots=True, eq=False)
class Bands:
    """The tables over n codes: rows (BANDS, n), and in `starts` (BANDS, 2^bits + 1) where each value begins."""

    rows: Rows
    starts: Rows

    @classmethod
    def of(cls, codes: Codes) -> "Bands":
        """Build the tables; the narrower the fewer codes there are, so that they do not outgrow them."""
        words, count = words_of(codes), len(codes)
        bits = min(count.bit_length() + 1, _WIDTH_BITS)
        rows, starts = np.empty((BANDS, count), np.uint32), np.zeros((BANDS, (1 << bits) + 1), np.uint32)
        numbers, packed = np.arange(count, dtype=np.uint32), np.empty(count, np.uint64)
        for number in range(BANDS):
            for first in range(0, count, _PIECE):
                piece = slice(first, first + _PIECE)
                packed[piece] = _values(words[piece], bits, slice(number, number + 1))[:, 0]
                starts[number, 1:] += np.bincount(packed[piece].view(np.int64), minlength=1 << bits).astype(np.uint32)
            np.cumsum(starts[number], out=starts[number])
            packed <<= np.uint64(32)
            packed |= numbers
            packed.sort()
            rows[number] = packed  # the low half is kept
        return cls(rows, starts)

    def only(self, kept: NDArray[np.bool_], read: Callable[[Rows], object] = lambda _: None) -> "Bands":
        """Return the tables over the codes that are kept, without sorting anew; `read` is told what is done with."""
        renumbered = np.cumsum(kept, dtype=np.uint32) - np.uint32(1)
        rows, starts = np.empty((BANDS, int(kept.sum())), np.uint32), np.empty_like(self.starts)
        before = np.zeros(len(kept) + 1, np.uint32)
        for number in range(BANDS):
            filled = 0
            for first in range(0, len(kept), _PIECE):
                old = self.rows[number, first : first + _PIECE]
                stay = kept[old]
                np.cumsum(stay, out=before[first + 1 : first + 1 + len(old)])
                before[first + 1 : first + 1 + len(old)] += np.uint32(filled)
                left = renumbered[old[stay]]
                rows[number, filled : filled + len(left)] = left
                filled += len(left)
            starts[number] = before[self.starts[number]]
            read(self.rows[number])
        read(self.starts)
        return Bands(rows, starts)

    @property
    def _bits(self) -> int:
        return int(self.starts.shape[1]).bit_length() - 1

    def cost(self, radius_bits: int) -> float:
        """Return what a search costs among evenly spread codes, in codes that a scan passes in the same time."""
        a_value = float(self.rows.shape[1]) / (1 << self._bits)  # codes that have it
        return _probes(radius_bits, self._bits) * (_PROBE_COST + _CANDIDATE_COST * a_value)

    def values(self, queries: Words) -> NDArray[np.int64]:
        """Return the values of all bands of some codes (q, 4): (q, BANDS)."""
        return _values(queries, self._bits).astype(np.int64)

    def candidates(self, values: NDArray[np.int64], radius_bits: int) -> Rows | None:
        """Return rows with all that can be within a radius of the code with these values, some of them twice.

        None if they are so many that looking at everything is cheaper, as where featureless
        pictures fill one value of a band.
        """
        plan = _plan(radius_bits, self._bits)
        places = (np.repeat(values, plan.counts) ^ plan.masks) + plan.begins
        table = self.starts.reshape(-1)
        first, past = table.take(places, mode=_INSIDE), table.take(places + 1, mode=_INSIDE)
        found = np.flatnonzero(past != first)
        counts = (past - first)[found].astype(np.int64)
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        if total * _CANDIDATE_COST > self.rows.shape[1]:
            return None
        begins = first[found] + plan.bands[found] * self.rows.shape[1]
        return self.rows.reshape(-1).take(np.repeat(begins - (ends - counts), counts) + np.arange(total), mode=_INSIDE)


def nearby(words: Words, rows: Rows, query: Words, radius_bits: int) -> tuple[Rows, NDArray[np.int32]]:
    """Return those of some rows that are within a radius of one code (4,), each once, and their distances in bits."""
    apart = words.take(rows, axis=0, mode=_INSIDE)
    counts = np.bitwise_count(np.bitwise_xor(apart, query, out=apart))
    distance_bits = counts.view("<u4").ravel()  # four counts of at most 64: added in pairs, since 256 is no byte
    distance_bits = (distance_bits & 0xFF00FF) + (distance_bits >> 8 & 0xFF00FF)
    distance_bits = (distance_bits + (distance_bits >> 16)) & 0xFFFF
    near = np.flatnonzero(distance_bits <= radius_bits)
    if not len(near):
        return rows[:0], np.empty(0, np.int32)
    found, first = np.unique(rows[near], return_index=True)
    return found, distance_bits[near[first]].astype(np.int32)
