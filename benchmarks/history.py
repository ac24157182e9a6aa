"""Drawn histories against an obvious model: whatever was done in whatever order, answers are what a dictionary says.

    python -m benchmarks.history [--operations 50000]

Hypothesis draws what is done (tests/test_history.py runs a short form): contents enrolled one by one and as lists,
enrolled again, withdrawn, switched off, held and released; banks made, switched and deleted; snapshots, compactions,
restarts, backups, and restores without what was withdrawn since. Two engines stand on one store, and each has to answer
like the model. On SQLite; the tests play it on PostgreSQL too.
"""

import argparse
import copy
import itertools
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from hashing.signals import FRAME_DTYPE, Codes, Kind, Media, Signal
from indexer.enroll import Submission
from indexer.guards import Hold, generic_codes
from indexer.lists import HashList
from indexer.policy import Verdict
from service import upkeep
from service.engine import Engine
from service.settings import read_settings

STEPS = 50
PLAIN = 12
CODES: Codes = np.concatenate(
    [np.random.default_rng(7).integers(0, 256, (PLAIN, 32), dtype=np.uint8), generic_codes()[:1]]
)
GENERIC = PLAIN  # its place: held until it is released
BANKS = st.integers(0, 3)
SETS = st.frozensets(st.integers(0, PLAIN), min_size=1, max_size=3)
done: Counter[str] = Counter()


@dataclass(slots=True)
class Known:
    """One content as the model knows it."""

    bank: str
    codes: frozenset[int]
    enabled: bool = True
    released: bool = False
    withdrawn: bool = False


@dataclass(slots=True)
class Model:
    """All that is known, as dictionaries: which banks answer, and the contents by their ids."""

    banks: dict[str, bool] = field(default_factory=dict)
    contents: dict[str, Known] = field(default_factory=dict)

    def live(self) -> dict[str, Known]:
        """Return what is neither withdrawn nor deleted with its bank."""
        return {name: one for name, one in self.contents.items() if not one.withdrawn and one.bank in self.banks}

    def same(self, bank: str, codes: frozenset[int]) -> str | None:
        """Return the live content of a bank with just these hashes."""
        return next((name for name, one in self.live().items() if (one.bank, one.codes) == (bank, codes)), None)

    def found(self, code: int) -> set[str]:
        """Return what a query for one hash has to find."""
        return {
            name for name, one in self.live().items()
            if code in one.codes and one.enabled and self.banks[one.bank] and (code != GENERIC or one.released)
        }  # fmt: skip


def rows(codes: frozenset[int]) -> Signal:
    """Return ready-made hashes as a signal."""
    frames = np.zeros(len(codes), FRAME_DTYPE)
    frames["quality"], frames["timestamp_s"], frames["until_s"] = 100, np.nan, np.nan
    frames["hash"] = CODES[sorted(codes)]
    return Signal(Media(Kind.HASHES, None, frames_hashed=len(codes)), frames)


def asked(code: int, bits: int) -> Signal:
    """Return a copy of one hash, so many bits away."""
    signal = rows(frozenset({code}))
    flips = np.zeros(256, np.uint8)
    flips[np.random.default_rng(bits).choice(256, bits, replace=False)] = 1
    signal.frames["hash"] ^= np.packbits(flips)
    return signal


class History(RuleBasedStateMachine):
    """One store, two engines, one model."""

    fresh: Callable[[], str] = staticmethod(lambda: "")  # the address of an empty database; "": SQLite in the home

    @initialize()
    def begin(self) -> None:
        """Open an empty store."""
        self.folder, self.homes, self.names = Path(tempfile.mkdtemp()), itertools.count(), itertools.count()
        self.model = Model()
        self.kept: tuple[Path, Model] | None = None
        self.backups = 0
        self._open(self.fresh())

    def _open(self, url: str) -> None:
        home = self.folder / f"home{next(self.homes)}"
        given = {"STAYDOWN_HOME": str(home), "STAYDOWN_DATABASE_URL": url, "STAYDOWN_WORKERS": "1"}
        self.settings = read_settings(given)
        self.engines = [self._engine(), self._engine()]

    def _engine(self) -> Engine:
        engine = Engine(self.settings)
        engine.load_index()
        return engine

    def teardown(self) -> None:
        """Close everything."""
        for engine in getattr(self, "engines", ()):
            engine.close()
        shutil.rmtree(getattr(self, "folder", "nowhere"), ignore_errors=True)

    def _bank(self, number: int) -> str:
        names = sorted(self.model.banks) or [self._new_bank(0)]
        return names[number % len(names)]

    def _new_bank(self, which: int) -> str:
        name = f"b{next(self.names)}"
        self.engines[which].record.create_bank(name, actor="t")
        self.model.banks[name] = True
        return name

    def _content(self, number: int) -> tuple[str, Known] | None:
        live = sorted(self.model.live().items())
        return live[number % len(live)] if live else None

    @rule(which=st.integers(0, 1))
    def create_bank(self, which: int) -> None:
        """Make a bank of a new name."""
        done["banks made"] += 1
        self._new_bank(which)

    @rule(which=st.integers(0, 1), bank=BANKS, enabled=st.booleans())
    def set_bank(self, which: int, bank: int, enabled: bool) -> None:
        """Switch a bank on or off."""
        done["banks switched"] += 1
        name = self._bank(bank)
        self.engines[which].record.set_bank(name, actor="t", enabled=enabled)
        self.model.banks[name] = enabled

    @precondition(lambda self: len(self.model.banks) > 2)
    @rule(which=st.integers(0, 1), bank=BANKS)
    def delete_bank(self, which: int, bank: int) -> None:
        """Delete a bank."""
        done["banks deleted"] += 1
        name = self._bank(bank)
        self.engines[which].delete_bank(name, actor="t")
        del self.model.banks[name]

    def _enrolled(self, bank: str, codes: frozenset[int], content_id: str, created: bool) -> None:
        same = self.model.same(bank, codes)
        assert created is (same is None)
        assert content_id == (same or content_id)
        assert same or content_id not in self.model.contents
        self.model.contents.setdefault(content_id, Known(bank, codes))

    @rule(which=st.integers(0, 1), bank=BANKS, codes=SETS)
    def enroll(self, which: int, bank: int, codes: frozenset[int]) -> None:
        """Enroll one content."""
        done["enrolled"] += 1
        name = self._bank(bank)
        answer = self.engines[which].enroller.enroll(name, Submission(rows(codes)), actor="t")
        self._enrolled(name, codes, answer.content_id, answer.created)

    @rule(which=st.integers(0, 1), bank=BANKS, sets=st.lists(SETS, min_size=1, max_size=6))
    def enroll_list(self, which: int, bank: int, sets: list[frozenset[int]]) -> None:
        """Enroll a list, which may name a content twice."""
        done["lists enrolled"] += 1
        name, parts = self._bank(bank), [rows(codes).frames for codes in sets]
        contents = HashList(
            np.concatenate(parts), np.array(list(map(len, parts))), [None] * len(sets), [()] * len(sets)
        )
        answer = self.engines[which].lists.enroll(name, contents, actor="t")
        for codes, content_id, created in zip(sets, answer.content_ids, answer.created, strict=True):
            self._enrolled(name, codes, content_id, created)

    @rule(which=st.integers(0, 1), number=st.integers(0, 50))
    def withdraw(self, which: int, number: int) -> None:
        """Withdraw a content."""
        if chosen := self._content(number):
            done["withdrawn"] += 1
            self.engines[which].withdraw([chosen[0]], reason="r", actor="t")
            chosen[1].withdrawn = True

    @rule(which=st.integers(0, 1), number=st.integers(0, 50), enabled=st.booleans())
    def set_content(self, which: int, number: int, enabled: bool) -> None:
        """Switch a content on or off."""
        if chosen := self._content(number):
            done["contents switched"] += 1
            self.engines[which].record.set_content(chosen[1].bank, chosen[0], actor="t", enabled=enabled)
            chosen[1].enabled = enabled

    @rule(which=st.integers(0, 1), number=st.integers(0, 50), released=st.booleans())
    def review(self, which: int, number: int, released: bool) -> None:
        """Release what the guards hold, or hold it again."""
        if chosen := self._content(number):
            done["reviewed"] += 1
            engine, known = self.engines[which], chosen[1]
            act = engine.release if released else engine.hold_again
            changed = act(known.bank, chosen[0], [Hold.GENERIC], actor="t")
            assert changed == int(GENERIC in known.codes and released is not known.released)
            known.released = released if GENERIC in known.codes else False

    @rule(which=st.integers(0, 1), code=st.integers(0, PLAIN), bits=st.sampled_from([0, 9, 31]))
    def check(self, which: int, code: int, bits: int) -> None:
        """Ask one engine about one hash."""
        done["checked"] += 1
        self._answers(which, code, bits)

    @rule()
    def check_all(self) -> None:
        """Ask both engines about every hash."""
        done["checked in full"] += 1
        for which, code in itertools.product((0, 1), range(len(CODES))):
            self._answers(which, code, 0)

    def _answers(self, which: int, code: int, bits: int) -> None:
        answer = self.engines[which].matcher.match(asked(code, bits))
        wanted = self.model.found(code)
        assert {match.content_id for match in answer.matches} == wanted
        assert answer.verdict is (Verdict.MATCH if wanted else Verdict.NO_MATCH)

    @rule(which=st.integers(0, 1))
    def snapshot(self, which: int) -> None:
        """Write the index cache."""
        done["snapshots"] += 1
        self.engines[which].save_index()

    @rule(which=st.integers(0, 1))
    def compact(self, which: int) -> None:
        """Put the index in order."""
        done["compactions"] += 1
        self.engines[which].tend_index()

    @rule(which=st.integers(0, 1))
    def restart(self, which: int) -> None:
        """Close an engine and open it again, with what it finds."""
        done["restarts"] += 1
        self.engines[which].close()
        self.engines[which] = self._engine()

    @rule(which=st.integers(0, 1))
    def back_up(self, which: int) -> None:
        """Take a backup, and remember what was known."""
        done["backups"] += 1
        self.backups += 1
        path = self.folder / f"backup{self.backups}"
        self.kept = (path, copy.deepcopy(self.model))
        upkeep.back_up(self.engines[which], path, actor="t")

    @precondition(lambda self: self.kept)
    @rule()
    def restore(self) -> None:
        """Lose the store, and put the backup in its place: all of it but what was withdrawn since."""
        done["restores"] += 1
        assert self.kept is not None
        path, model = self.kept
        listed = self.folder / "listed"
        shutil.copy(
            self.settings.withdrawals_path, listed
        ) if self.settings.withdrawals_path.exists() else listed.touch()
        for engine in self.engines:
            engine.close()
        gone = {name for name, one in self.model.contents.items() if one.withdrawn}
        banks = {name: enabled for name, enabled in model.banks.items() if name in self.model.banks}
        self.model = Model(banks, copy.deepcopy(model.contents))
        for name in gone & self.model.contents.keys():
            self.model.contents[name].withdrawn = True
        self._open(self.fresh())
        upkeep.restore(self.engines[0], path, [listed])
        for which in (0, 1):
            self.restart(which)
        self.check_all()


def play(histories: int, fresh: Callable[[], str], steps: int = STEPS, **how: Any) -> None:
    """Draw histories and hold each to the model; an AssertionError shows the shortest that differs."""
    machine = type("Drawn", (History,), {"fresh": staticmethod(fresh)})
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=histories, stateful_step_count=steps, deadline=None, database=None,
                          suppress_health_check=list(HealthCheck), **how),
    )  # fmt: skip


def main() -> None:
    """Play until enough was done, and print what."""
    parser = argparse.ArgumentParser(prog="benchmarks.history")
    parser.add_argument("--operations", type=int, default=50_000)
    given = parser.parse_args()
    began = time.monotonic()
    while sum(done.values()) < given.operations:
        play(20, lambda: "")
        print(f"{sum(done.values()):,} so far", file=sys.stderr, flush=True)
    for what, count in sorted(done.items()):
        print(f"{what:20} {count:8,}")
    print(f"operations {sum(done.values()):,} in {time.monotonic() - began:,.0f} s, violations 0")


if __name__ == "__main__":
    main()
