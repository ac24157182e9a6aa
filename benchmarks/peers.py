"""`python -m benchmarks.peers --peers-python PYTHON`: other libraries' hashes and indexes, each where it is installed.

They run in an environment of their own, a process each, which is handed a file's bytes, or codes, over a pipe:
what that costs is counted for them, and is little. Bytes to a hash, theirs of one picture or clip, ours with
eight symmetries; an index of as many codes, asked for one at a time within 31 bits. Who is absent is named.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial

import faiss

from benchmarks import corpus
from benchmarks.end_to_end import PHOTO_SIZE
from benchmarks.measure import Action, command, timings
from benchmarks.report import Fact, Section, Timing
from benchmarks.robustness.peers import Peer
from benchmarks.search import (
    MULTI,
    OURS,
    RADII_BITS,
    brute_force,
    codes_with_copies,
    multi_index,
    our_index,
    turning,
    within,
)
from hashing.hasher import Plan, hash_pictures
from hashing.signals import HASH_BITS, Codes, SignalType

PICTURES, CLIPS, INDEX = ("perception", "imagededup"), ("videohash", "vpdq"), "pdq_index"
WORDS = {INDEX: "python-threatexchange PDQIndex", "perception": "perception PHash", "imagededup": "imagededup PHash"}
HASHED, RADIUS_BITS = "staydown, PDQ", RADII_BITS[0]
HASH_TABLE, TABLE_BITS, FLIPS = "faiss IndexBinaryHash 20, nflip 2, inexact", 20, 2
PLAN = Plan(types=frozenset({SignalType.PDQ}))
Search = Callable[[Codes], int]  # how many matches


def present(names: Sequence[str], stack: ExitStack) -> tuple[dict[str, Peer], list[str]]:
    """Start those peers that are there; return them, and the names of the others."""
    found, absent = {}, []
    for name in names:
        try:
            found[name] = stack.enter_context(closing(Peer(name)))
        except ImportError:
            absent.append(WORDS.get(name, name))
    return found, absent


def hashed(title: str, data: bytes, peers: dict[str, Peer], rounds: int) -> tuple[tuple[Timing, ...], list[str]]:
    """Time the bytes of media to their hashes; name those that have none for it."""
    mute = [name for name, peer in peers.items() if not peer.hash(data)]
    theirs: dict[str, Action] = {
        WORDS.get(name, name): partial(peer.hash, data) for name, peer in peers.items() if name not in mute
    }
    if not theirs:
        return (), mute
    return timings(title, {HASHED: lambda: hash_pictures(data, PLAN)}, theirs, rounds), mute


def _asker(peer: Peer, codes: Codes) -> Search:
    """Have PDQIndex hold codes, and return its search: four bytes of answer for each match."""
    peer.hash(codes.tobytes())
    return lambda queries: sum(len(peer.hash(bytes(query))) // 4 for query in queries)


def _table(codes: Codes) -> Search:
    index = faiss.IndexBinaryHash(HASH_BITS, TABLE_BITS)
    index.nflip = FLIPS
    index.add(codes)
    return lambda queries: len(index.range_search(queries, RADIUS_BITS + 1)[2])


def searched(count: int, peers: dict[str, Peer], rounds: int) -> tuple[tuple[Timing, ...], list[Fact]]:
    """Time one query at a time among random codes with planted copies, and tell how many copies are found."""
    codes, queries = codes_with_copies(count)
    ours, multi = our_index(codes), within(multi_index(codes), RADIUS_BITS)
    searches: dict[str, Search] = {
        OURS: lambda some: len(ours.search(some, RADIUS_BITS)),
        MULTI: lambda some: len(multi(some)[2]),
        HASH_TABLE: _table(codes),
    } | {WORDS[name]: _asker(peer, codes) for name, peer in peers.items()}
    actions = {name: turning(search, queries, 1) for name, search in searches.items()}
    title = f"{count:,} hashes, {RADIUS_BITS} bits, one query"
    times = timings(title, {OURS: actions.pop(OURS)}, actions, rounds)
    truth = len(brute_force(codes, queries, RADIUS_BITS))
    found = {name: 100 * search(queries) / truth for name, search in searches.items()}
    return times, [Fact(title, f"{name}: pairs found", share, "% of them") for name, share in found.items()]


def collect(short: bool) -> Section:
    """Measure those that are there."""
    rounds, count = (7, 100_000) if short else (15, 1_000_000)
    photo = corpus.jpeg(corpus.picture(1, *PHOTO_SIZE), 85)
    clip = corpus.clip(5, duration_s=8.0, width=1280, height=720, crf=30, options={"g": "50"})
    with ExitStack() as stack:
        theirs, absent = present((*PICTURES, *CLIPS, INDEX), stack)
        of_pictures, mute = hashed("1 MP photo, bytes to hash", photo, chosen(theirs, PICTURES), rounds)
        of_clips, muter = hashed("720p clip of 8 s, bytes to hashes", clip, chosen(theirs, CLIPS), 3 if short else 7)
        of_codes, facts = searched(count, chosen(theirs, (INDEX,)), rounds)
    note = "One thread each. " + ("All are here." if not absent else f"Skipped, not installed: {', '.join(absent)}.")
    note += f" Gave no hash: {', '.join(mute + muter)}." if mute + muter else ""
    return Section("Peers", note, (*of_pictures, *of_clips, *of_codes), tuple(facts))


def chosen(peers: dict[str, Peer], names: Sequence[str]) -> dict[str, Peer]:
    """Return those of some names that are there."""
    return {name: peers[name] for name in names if name in peers}


if __name__ == "__main__":
    sys.exit(command("peers", collect))
