"""A few drawn histories; benchmarks/history.py plays tens of thousands of operations."""

import pytest
from hypothesis import Phase
from postgres import Postgres

from benchmarks import history


def test_what_was_drawn_is_answered_as_the_model_says() -> None:
    before = sum(history.done.values())
    history.play(12, lambda: "", steps=25, derandomize=True)
    assert sum(history.done.values()) > before + 150


@pytest.mark.slow
def test_on_postgresql_too(postgres: Postgres) -> None:
    history.play(4, postgres.new_database, steps=25, derandomize=True)


def test_a_lost_withdrawal_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is no mirror of the store: an engine that forgets to withdraw is found out."""
    monkeypatch.setattr("service.engine.Engine.withdraw", lambda *_, **__: [])
    with pytest.raises(AssertionError):
        history.play(60, lambda: "", steps=25, derandomize=True, phases=[Phase.generate])
