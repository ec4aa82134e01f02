"""A clock that the simulation sets, in place of the machine's, and random numbers from a seed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_START_S = 1_000.0
_START_OF_TIME_S = 1_767_225_600.0  # 2026-01-01T00:00Z: what time.time() says at the beginning


class VirtualClock:
    """Seconds since the simulation began; what strategies call to know the time is ``monotonic``."""

    def __init__(self) -> None:
        self.now = 0.0
        self.is_running = False

    def monotonic(self) -> float:
        return _START_S + self.now


@contextmanager
def virtual_time(clock: VirtualClock) -> Iterator[None]:
    """Has the functions of ``time`` tell the clock's time while it is running.

    The built-in strategies take ``ClientContext.clock``; this is for plugins that call ``time``. A plugin that is
    imported within (also ``from time import monotonic``) gets functions that tell the real time when no clock runs.
    """

    def told(real: Callable[[], float], start_s: float, unit: int) -> Callable[[], float]:
        def function() -> float:
            if not clock.is_running:
                return real()
            seconds = start_s + clock.now
            return round(seconds * unit) if unit > 1 else seconds

        return function

    starts = {"monotonic": _START_S, "perf_counter": _START_S, "time": _START_OF_TIME_S}
    real = {name + suffix: getattr(time, name + suffix) for name in starts for suffix in ("", "_ns")}
    try:
        for name, function in real.items():
            is_ns = name.endswith("_ns")
            setattr(time, name, told(function, starts[name.removesuffix("_ns")], 1_000_000_000 if is_ns else 1))
        yield
    finally:
        for name, function in real.items():
            setattr(time, name, function)


@contextmanager
def run_from(seed: int | str, clock: VirtualClock) -> Iterator[None]:
    """Starts the clock at 0 and the random numbers of ``random`` from a seed; both are as before afterwards."""
    state = random.getstate()
    clock.now, clock.is_running = 0.0, True
    random.seed(f"strategy {seed}")
    try:
        with virtual_time(clock):
            yield
    finally:
        clock.is_running = False
        random.setstate(state)
