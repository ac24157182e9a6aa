"""Many signals judged together: each gets the answer that it gets alone, for as few questions to the database."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from shelf import NAN, Shelf, bare, codes, film, flipped, frames, still
from sqlalchemy import event

from hashing.signals import FRAME_DTYPE, Frames, Signal, SignalType
from indexer.errors import UnknownBank
from indexer.lawful import CompanionEnroller, Lawful
from indexer.matcher import Answer, Query

SHA, MD5, PDQ, PHASH = SignalType.SHA256, SignalType.MD5, SignalType.PDQ, SignalType.PHASH
BANK = codes(51, 400)


def both(pdq: Any, phash: Any) -> Frames:
    rows = np.concatenate([frames(pdq[None]), frames(phash[None], kind=PHASH)])
    return np.asarray(rows, FRAME_DTYPE)


@pytest.fixture
def full(shelf: Shelf) -> Shelf:
    """Banks of every kind, with equals, companions, lawful content, and what is withdrawn, disabled or featureless."""
    kinds = {"signal_types": [SHA, MD5, PDQ, PHASH]}
    shelf.record.set_bank("b", actor="t", **kinds)
    shelf.record.create_bank("strict", actor="t", policy="strict", signal_types=[PDQ, MD5])
    shelf.record.create_bank("fair", actor="t", lawful=True, suppresses=["b"])
    done = shelf.enroll_all([still(code) for code in BANK[:120]])
    shelf.enroll_all([film(BANK[n : n + 20], np.arange(20) / 5) for n in range(120, 300, 20)])
    shelf.enroll_all([still(code) for code in BANK[:40:2]], "strict")
    shelf.enroll_all([still(flipped(code, 6)) for code in BANK[:120:10]])  # two as near as each other
    shelf.enroll_all([film(np.repeat(BANK[300:301], 9, axis=0), np.arange(9) / 10)])
    shelf.enroll_all([bare((MD5, bytes([n]) * 16), (SHA, bytes([n]) * 32), rows=both(*BANK[[300 + n, 350 + n]]))
                      for n in range(1, 20)])  # fmt: skip
    shelf.enroll_all([bare((MD5, bytes([n]) * 16)) for n in range(5, 10)], "strict")
    shelf.enroll_all([still(flipped(code, 25)) for code in BANK[5:60:5]], "fair")
    companions = CompanionEnroller(shelf.record)
    for one, code in zip(done[3:30:3], BANK[3:30:3], strict=True):
        companions.add("b", one.content_id, Lawful(still(flipped(code, 25))), actor="t")
    for one in done[7:100:9]:
        shelf.withdraw(one)
    shelf.record.set_content("b", done[50].content_id, actor="t", enabled=False)
    return shelf


def asked() -> Iterator[Signal]:
    """Known at every distance, unknown, by digest, by several types, as videos and negatives, featureless, empty."""
    yield from (still(flipped(BANK[n], n % 50, seed=n)) for n in range(0, 300, 3))
    yield from (still(flipped(code, 25)) for code in BANK[:60])  # what lawful content or a companion is
    yield from map(still, codes(52, 30))
    yield from (bare((MD5, bytes([n]) * 16)) for n in range(0, 12, 2))
    yield from (bare((SHA, bytes([n]) * 32), (MD5, bytes([n + 1]) * 16)) for n in range(0, 12, 3))
    yield from (bare((MD5, bytes([n]) * 16), rows=both(BANK[300 + n], BANK[351 + n])) for n in range(1, 20, 4))
    yield from (still(np.asarray(~BANK[n], np.uint8)) for n in (0, 5, 130))
    yield film(BANK[125:175], np.arange(50) / 5)
    yield film(np.array([flipped(code, n, seed=n) for n, code in enumerate(BANK[140:170])]), np.arange(30) / 2)
    yield still(BANK[0], quality=2)
    yield bare()
    yield bare((MD5, b"\xff" * 16))
    yield Signal(still(BANK[0]).media, frames(BANK[:3], times_s=NAN))


def test_each_gets_the_answer_that_it_gets_alone(full: Shelf) -> None:
    signals, chance = list(asked()), np.random.default_rng(5)
    for names in (None, ["b"], ["strict", "fair"]):
        alone = [full.matcher.match(signal, names) for signal in signals]
        for size in (1, 3, 40, len(signals)):
            order = chance.permutation(len(signals))
            for start in range(0, len(order), size):
                part = order[start : start + size]
                assert full.matcher.match_all([Query(signals[n]) for n in part], names) == [alone[n] for n in part]
        verdicts = {answer.verdict.value for answer in alone}
        assert verdicts >= {"match", "no_match", "unhashable"}
    everything = [full.matcher.match(signal) for signal in signals]
    assert {match.signal_type for answer in everything for match in answer.matches} == {SHA, MD5, PDQ, PHASH}
    assert {one.by for answer in everything for one in answer.suppressed} == {"companion", "lawful_bank"}
    assert sum(len(answer.matches) > 1 for answer in everything) > 10


def test_the_answer_does_not_depend_on_how_the_index_lies(full: Shelf) -> None:
    signals = list(asked())
    before = [full.matcher.match(signal) for signal in signals]
    full.index.compact(full.record)
    after = [full.matcher.match(signal) for signal in signals]

    def evidence(answers: list[Answer]) -> list[Any]:  # what a match is worth depends on how many hashes there are
        return [[(m.content_id, m.transform, m.distance_bits, m.segments) for m in one.matches] for one in answers]

    assert evidence(before) == evidence(after)


def test_a_batch_takes_as_many_statements_as_one(full: Shelf) -> None:
    def counted(ask: Callable[[], Any]) -> int:
        statements: list[str] = []

        def note(*given: Any) -> None:
            statements.append(given[2].partition(" ")[0])

        event.listen(full.store.engine, "before_cursor_execute", note)
        try:
            ask()
        finally:
            event.remove(full.store.engine, "before_cursor_execute", note)
        return statements.count("SELECT")

    known = [Query(still(flipped(BANK[n], 3))) for n in range(60, 90)]
    full.matcher.match(known[0].signal)  # takes in what is new
    assert counted(lambda: full.matcher.match(known[0].signal)) == counted(lambda: full.matcher.match_all(known)) <= 5
    unknown = still(codes(53, 1)[0])
    assert counted(lambda: full.matcher.match(unknown)) <= 2
    assert counted(lambda: full.matcher.match_all([])) <= 2


def test_a_bank_that_is_unknown_is_everybody_s_error(full: Shelf) -> None:
    with pytest.raises(UnknownBank):
        full.matcher.match_all([Query(still(BANK[0])), Query(still(BANK[1]))], ["nowhere"])
