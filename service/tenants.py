"""What a tenant may have of the service: so many requests a second, a day, and at a time.

Each process counts for itself; the day's sums are shared through the store, within seconds.
The rate is a token bucket that holds one second's requests.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from service.errors import QuotaUsedUp, TooManyRequests
from service.settings import Settings

BUSY_RETRY_S = 1


@dataclass(frozen=True, slots=True)
class _Bucket:
    left: float
    at_s: float


def _utc() -> datetime:
    return datetime.now(UTC)


class Tenants:
    """Counts what each tenant uses."""

    def __init__(
        self, settings: Settings, clock: Callable[[], float] = time.monotonic, utc: Callable[[], datetime] = _utc
    ) -> None:
        self._rate, self._most = settings.tenant_requests_per_s, settings.tenant_max_in_flight
        self._a_day = settings.tenant_requests_per_day
        self._clock, self._utc = clock, utc
        self._buckets: dict[str, _Bucket] = {}
        self._in_flight: Counter[str] = Counter()
        self._new: Counter[str] = Counter()  # counted here, and not in the store yet
        self._sums: dict[str, int] = {}  # of all processes, as the store has them
        self._day = ""

    @contextmanager
    def admitted(self, tenant: str) -> Iterator[None]:
        """Hold a place of a tenant's while the block runs; TooManyRequests, QuotaUsedUp at once if there is none."""
        if self._in_flight[tenant] >= self._most:
            raise TooManyRequests(retry_after_s=BUSY_RETRY_S)
        self._take(tenant)
        self.spend(tenant, 1)
        self._in_flight[tenant] += 1
        try:
            yield
        finally:
            self._in_flight[tenant] -= 1

    def _take(self, tenant: str) -> None:
        if not self._rate:
            return
        now, depth = self._clock(), max(1.0, self._rate)
        bucket = self._buckets.get(tenant, _Bucket(depth, now))
        left = min(depth, bucket.left + (now - bucket.at_s) * self._rate)
        if left < 1:
            self._buckets[tenant] = _Bucket(left, now)
            raise TooManyRequests(retry_after_s=math.ceil((1 - left) / self._rate))
        self._buckets[tenant] = _Bucket(left - 1, now)

    # The day's quota

    def spend(self, tenant: str, requests: int) -> None:
        """Count requests of a tenant; QuotaUsedUp if the day has no more."""
        if not self._a_day:
            return
        self._turn_day()
        if self._sums.get(tenant, 0) + self._new[tenant] + requests > self._a_day:
            raise QuotaUsedUp(retry_after_s=self._left_of_day_s())
        self._new[tenant] += requests

    def _turn_day(self) -> None:
        today = self._utc().date().isoformat()
        if today != self._day:
            self._day, self._sums = today, {}
            self._new.clear()

    def _left_of_day_s(self) -> int:
        now = self._utc()
        midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
        return math.ceil((midnight - now).total_seconds())

    def settle(self, add: Callable[[str, dict[str, int]], dict[str, int]]) -> None:
        """Bring what was counted to the store, and learn what others counted; what cannot be brought is kept."""
        if not self._a_day:
            return
        self._turn_day()
        day, brought = self._day, dict(self._new)
        sums = add(day, brought)
        if day == self._day:
            self._sums = sums
            self._new.subtract(brought)
