"""A few drawn histories; benchmarks/history.py plays tens of thousands of operations."""

import pytest
from postgres import Postgres

from benchmarks import history


@pytest.mark.slow
def test_what_was_drawn_is_answered_as_the_model_says() -> None:
    before = sum(history.done.values())
    history.play(4, lambda: "", steps=20, derandomize=True)
    assert sum(history.done.values()) > before + 40


@pytest.mark.slow
def test_on_postgresql_too(postgres: Postgres) -> None:
    history.play(2, postgres.new_database, steps=20, derandomize=True)


def test_a_lost_withdrawal_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is no mirror of the store: an engine that forgets to withdraw is found out."""
    monkeypatch.setattr("service.engine.Engine.withdraw", lambda *_, **__: [])
    drawn = history.History()
    drawn.begin()
    try:
        drawn.enroll(which=0, bank=0, codes=frozenset({1, 2}))
        drawn.check_all()
        drawn.withdraw(which=0, number=0)
        with pytest.raises(AssertionError):
            drawn.check_all()
    finally:
        drawn.teardown()
