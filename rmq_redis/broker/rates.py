"""Messages per second, from a sample of the totals every ten seconds.

Source: RocketMQ 5.3 ``StoreStatsService`` (averages of 10, 60 and 600 seconds), ``BrokerStats`` (totals at midnight).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from ..background import Every

SAMPLE_PERIOD_S = 10.0
"""The shortest of the windows."""
_WINDOWS_S = (10.0, 60.0, 600.0)


class Rates:
    """Averages of a total that only grows.

    Attributes:
        yesterday_morning, today_morning: the total at the last two midnights, local time; 0 before this process.
    """

    def __init__(self, total: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque([(clock(), total())], int(_WINDOWS_S[-1] / SAMPLE_PERIOD_S) + 1)
        self._day = time.localtime().tm_yday
        self.yesterday_morning = 0
        self.today_morning = 0

    def sample(self) -> None:
        """Takes a sample; to be called every ``SAMPLE_PERIOD_S``."""
        total = self._total()
        self._samples.append((self._clock(), total))
        day = time.localtime().tm_yday
        if day != self._day:
            self._day = day
            self.yesterday_morning, self.today_morning = self.today_morning, total

    def averages(self) -> tuple[float, float, float]:
        """Per second, of the last 10, 60 and 600 seconds, or of the time since start if that is shorter."""
        now, total = self._clock(), self._total()
        ten, sixty, six_hundred = (self._average(now, total, window_s) for window_s in _WINDOWS_S)
        return ten, sixty, six_hundred

    def text(self) -> str:
        """The averages as tools read them: ``10.00 9.50 8.25``."""
        return " ".join(f"{average:.2f}" for average in self.averages())

    def _average(self, now: float, total: int, window_s: float) -> float:
        began, before = self._samples[0]
        for at, value in self._samples:
            if at > now - window_s:
                break
            began, before = at, value
        return (total - before) / (now - began) if now > began else 0.0


class RateSampler:
    """Samples some rates in the background, and calls ``also`` with every sample."""

    def __init__(self, *rates: Rates, also: Callable[[], None]) -> None:
        self._rates = rates
        self._also = also
        self._sampling = Every(SAMPLE_PERIOD_S, self._sample, "sampling the rates")

    def start(self) -> None:
        self._sampling.start()

    async def _sample(self) -> None:
        for rates in self._rates:
            rates.sample()
        self._also()

    def close(self) -> None:
        self._sampling.cancel()
