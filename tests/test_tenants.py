"""What a tenant may have: a rate, places, a day's quota; none of it taken from another tenant."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import QuotaUsedUp, TooManyRequests
from service.settings import Settings
from service.tenants import Tenants


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.at = datetime(2026, 1, 1, 23, 59, 0, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.at.timestamp()

    def utc(self) -> datetime:
        return self.at

    def add(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


def tenants(clock: Time, **settings: Any) -> Tenants:
    return Tenants(Settings(home=Path("/h"), **settings), clock.monotonic, clock.utc)


def admitted(found: Tenants, tenant: str, times: int) -> int:
    """Ask so many times, and return how often it was admitted."""
    count = 0
    for _ in range(times):
        try:
            with found.admitted(tenant):
                count += 1
        except TooManyRequests:
            pass
    return count


def test_without_limits_everything_is_admitted() -> None:
    assert admitted(tenants(Time()), "a", 1000) == 1000


def test_a_rate_is_a_bucket_of_one_second() -> None:
    clock = Time()
    found = tenants(clock, tenant_requests_per_s=10)
    assert admitted(found, "a", 50) == 10
    with pytest.raises(TooManyRequests) as caught, found.admitted("a"):
        pass
    assert caught.value.retry_after_s == 1
    clock.add(0.35)
    assert admitted(found, "a", 50) == 3
    assert admitted(found, "b", 50) == 10, "another tenant has its own"
    clock.add(3600)
    assert admitted(found, "a", 50) == 10


def test_a_rate_below_one_a_second_says_how_long_to_wait() -> None:
    clock = Time()
    found = tenants(clock, tenant_requests_per_s=0.1)
    assert admitted(found, "a", 3) == 1
    with pytest.raises(TooManyRequests) as caught, found.admitted("a"):
        pass
    assert caught.value.retry_after_s == 10
    clock.add(10)
    assert admitted(found, "a", 3) == 1


@given(rate=st.floats(0.5, 50), pauses=st.lists(st.floats(0, 3), max_size=80))
def test_no_pattern_gets_more_than_the_rate(rate: float, pauses: list[float]) -> None:
    clock = Time()
    found = tenants(clock, tenant_requests_per_s=rate)
    count, passed = 0, 0.0
    for pause in pauses:
        clock.add(pause)
        passed += pause
        count += admitted(found, "a", 2)
        assert count <= max(1.0, rate) + rate * passed + 1e-3


def test_places_are_given_back_whatever_happens() -> None:
    found = tenants(Time(), tenant_max_in_flight=2)
    with found.admitted("a"), found.admitted("a"):
        assert admitted(found, "a", 5) == 0
        assert admitted(found, "b", 5) == 5
    with pytest.raises(ZeroDivisionError), found.admitted("a"):
        raise ZeroDivisionError
    with found.admitted("a"), found.admitted("a"):
        assert admitted(found, "a", 1) == 0


def test_a_day_has_a_quota_and_the_next_day_another() -> None:
    clock = Time()
    found = tenants(clock, tenant_requests_per_day=5)
    assert admitted(found, "a", 9) == 5
    with pytest.raises(QuotaUsedUp) as caught, found.admitted("a"):
        pass
    assert caught.value.retry_after_s == 60, "until midnight"
    assert admitted(found, "b", 2) == 2
    clock.add(61)
    assert admitted(found, "a", 9) == 5


def test_a_rescan_spends_its_items() -> None:
    found = tenants(Time(), tenant_requests_per_day=100)
    found.spend("a", 90)
    with pytest.raises(QuotaUsedUp):
        found.spend("a", 11)
    found.spend("a", 10)
    with pytest.raises(QuotaUsedUp):
        found.spend("a", 1)


def test_what_other_processes_counted_is_learnt_and_nothing_is_counted_twice() -> None:
    clock, store = Time(), {"a": 0}
    one, two = (tenants(clock, tenant_requests_per_day=10) for _ in range(2))

    def add(day: str, requests: dict[str, int]) -> dict[str, int]:
        assert day == "2026-01-01"
        for tenant, count in requests.items():
            store[tenant] = store.get(tenant, 0) + count
        return dict(store)

    def broken(day: str, requests: dict[str, int]) -> dict[str, int]:
        raise ZeroDivisionError

    assert admitted(one, "a", 4) == 4
    with pytest.raises(ZeroDivisionError):
        one.settle(broken)
    for _ in range(3):
        one.settle(add)
    assert store == {"a": 4}
    two.settle(add)
    assert admitted(two, "a", 20) == 6
    two.settle(add)
    one.settle(add)
    assert store == {"a": 10}
    assert admitted(one, "a", 1) == 0
