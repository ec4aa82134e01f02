"""Counters that remember their last minute, hour and day, and how long appends took.

A counter writes its history down when it is used, so that thousands of idle ones cost nothing. Time is counted in slots
of ten seconds. Source: RocketMQ 5.3 ``StatsItem`` (windows), ``StoreStatsService`` (times of appends).
"""

from __future__ import annotations

import math
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import NamedTuple

SLOT_S = 10.0
"""Source: ``StatsItemSet``, which samples every 10 s."""
DAY_SLOTS = 24 * 360
"""An hour has 360 slots."""
_PERIODS = (1, 60, 360)
"""Slots between two samples of the minute, the hour and the day."""
_SAMPLES = (6, 6, 24)
"""Samples of the minute, the hour and the day."""
_FIELDS = 5
"""Numbers of one sample: which one it is, and the fields of ``Total``."""

Clock = Callable[[], float]


class Total(NamedTuple):
    """Something counted: messages, their bytes, milliseconds that they took, and how often that was added to."""

    nums: int = 0
    size: int = 0
    ms: int = 0
    times: int = 0


class Window(NamedTuple):
    """What a window of time holds, and how many seconds it spans (less than its name says for a young counter)."""

    total: Total
    elapsed_s: float

    def __sub__(self, other: Window) -> Window:
        """What of this window's total is not in another one's."""
        return Window(
            Total(*(ours - theirs for ours, theirs in zip(self.total, other.total, strict=True))), self.elapsed_s
        )


class Counter:
    """Totals that only grow, and samples of them. ``add`` costs a few integer additions."""

    __slots__ = ("_born", "_clock", "_history", "ms", "nums", "size", "slot", "times")

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._born = self.slot = int(clock() / SLOT_S)
        self.nums = self.size = self.ms = self.times = 0
        # Per window, flat: (sample number, the four totals when it began). Only samples in which something was added.
        self._history = [array("q", (self.slot // period, 0, 0, 0, 0)) for period in _PERIODS]

    def add(self, nums: int, size: int, ms: int = 0, times: int = 1) -> None:
        """Counts ``nums`` messages of ``size`` bytes that took ``ms`` milliseconds, as ``times`` additions."""
        slot = int(self._clock() / SLOT_S)
        if slot != self.slot:
            self._sample(slot)
        self.nums += nums
        self.size += size
        self.ms += ms
        self.times += times

    def _sample(self, slot: int) -> None:
        self.slot = slot
        for samples, period, history in zip(_SAMPLES, _PERIODS, self._history, strict=True):
            sample = slot // period
            if not history or history[-_FIELDS] != sample:
                history.extend((sample, self.nums, self.size, self.ms, self.times))
                while history[0] < sample - samples:
                    del history[:_FIELDS]

    def windows(self) -> tuple[Window, Window, Window]:
        """The last minute, hour and day, each up to one sample longer: the sample that is under way counts."""
        now_s = self._clock()
        of_each = zip(_SAMPLES, _PERIODS, self._history, strict=True)
        minute, hour, day = (self._window(now_s, *window) for window in of_each)
        return minute, hour, day

    def _window(self, now_s: float, samples: int, period: int, history: array[int]) -> Window:
        first = int(now_s / SLOT_S) // period - samples
        now = before = Total(self.nums, self.size, self.ms, self.times)
        for index in range(0, len(history), _FIELDS):
            if history[index] >= first:
                before = Total(*history[index + 1 : index + _FIELDS])
                break
        total = Total(*(after - then for after, then in zip(now, before, strict=True)))
        began_s = max(first * period, self._born) * SLOT_S
        return Window(total, max(now_s - began_s, SLOT_S))

    def is_idle(self) -> bool:
        """Whether nothing was counted for a day."""
        return int(self._clock() / SLOT_S) - self.slot > DAY_SLOTS


def add_up(windows: Iterable[Window]) -> Window:
    """One window over several counters."""
    total, elapsed_s = Total(), SLOT_S
    for window in windows:
        total = Total(*map(sum, zip(total, window.total, strict=True)))
        elapsed_s = max(elapsed_s, window.elapsed_s)
    return Window(total, elapsed_s)


# --- how long appends took -------------------------------------------------------------------------------------------

_EDGES_MS = (
    *range(20),
    *range(20, 50, 2),
    *range(50, 100, 5),
    *range(100, 200, 10),
    *range(200, 500, 50),
    *range(500, 1000, 100),
    *range(1000, 11_000, 1000),
)
"""Upper edges of the buckets. Source: ``PUT_MESSAGE_ENTIRE_TIME_BUCKETS``."""
_RANGES = {
    "[<=0ms]": 0,
    "[0~10ms]": 10,
    "[10~50ms]": 50,
    "[50~100ms]": 100,
    "[100~200ms]": 200,
    "[200~500ms]": 500,
    "[500ms~1s]": 1000,
    "[1~2s]": 2000,
    "[2~3s]": 3000,
    "[3~4s]": 4000,
    "[4~5s]": 5000,
    "[5~10s]": 10_000,
}
_LONGER = "[10s~]"
_PERIOD_S = 60.0
"""Source: ``StoreStatsService``, which reports the last minute."""


class AppendTimes:
    """How long appends took, by minute.

    Attributes:
        failed: appends that the store refused, since start.
        longest_ms: the longest since start.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._minute = int(clock() / _PERIOD_S)
        self._counts = [0] * (len(_EDGES_MS) + 1)
        self._last: list[int] | None = None
        self.failed = 0
        self.longest_ms = 0

    def add(self, ms: int, times: int) -> None:
        """Counts ``times`` appends that took ``ms`` milliseconds each."""
        self._turn()
        self._counts[bisect_left(_EDGES_MS, ms)] += times
        self.longest_ms = max(self.longest_ms, ms)

    def _turn(self) -> None:
        minute = int(self._clock() / _PERIOD_S)
        if minute != self._minute:
            empty = [0] * len(self._counts)
            self._last = self._counts if minute == self._minute + 1 else empty
            self._counts, self._minute = [0] * len(self._counts), minute

    def _complete(self) -> list[int]:
        """The last whole minute; before there is one, the first so far."""
        self._turn()
        return self._counts if self._last is None else self._last

    def distribution(self) -> dict[str, int]:
        """Appends by range of time, in RocketMQ's names for the ranges."""
        counts = self._complete()
        result = dict.fromkeys((*_RANGES, _LONGER), 0)
        for edge, count in zip((*_EDGES_MS, math.inf), counts, strict=True):
            name = next((name for name, end in _RANGES.items() if edge <= end), _LONGER)
            result[name] += count
        return result

    def percentile_ms(self, share: float) -> float:
        """The time in which ``share`` (0 to 1) of the appends were done, by upper edges of buckets; 0 without any."""
        counts = self._complete()
        wanted = share * sum(counts)
        for edge, count in zip((*_EDGES_MS, self.longest_ms), counts, strict=True):
            wanted -= count
            if count and wanted <= 0:
                return float(edge)
        return 0.0
