"""Counters with a last minute, hour and day, and the times of appends."""

from __future__ import annotations

import random

from rmq_redis.store.group.counters import SLOT_S, AppendTimes, Counter, add_up


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_windows_of_a_young_counter_hold_everything() -> None:
    clock = Clock()
    counter = Counter(clock)
    counter.add(5, 500, ms=20, times=2)
    for window in counter.windows():
        assert tuple(window.total) == (5, 500, 20, 2)
        assert window.elapsed_s == SLOT_S  # a rate over less would be a guess


def test_window_drops_older_additions() -> None:
    clock = Clock()
    counter = Counter(clock)
    counter.add(1, 10)
    clock.now += 80
    counter.add(2, 10)
    assert [window.total.nums for window in counter.windows()] == [2, 3, 3]
    clock.now += 2 * 3600
    counter.add(4, 10)
    assert [window.total.nums for window in counter.windows()] == [4, 4, 7]
    clock.now += 26 * 3600
    assert [window.total.nums for window in counter.windows()] == [0, 0, 0]
    assert counter.nums == 7
    assert counter.is_idle()


def test_windows_of_a_steady_rate_show_it() -> None:
    clock = Clock()
    counter = Counter(clock)
    for _ in range(30 * 3600):
        clock.now += 1
        counter.add(3, 300)
    for window in counter.windows():
        assert abs(window.total.nums / window.elapsed_s - 3) < 0.2


def test_windows_agree_with_a_list_of_all_additions() -> None:
    rng = random.Random(7)
    for _ in range(50):
        clock = Clock(rng.uniform(0, 10_000))
        counter = Counter(clock)
        added: list[tuple[float, int]] = []
        for _ in range(100):
            clock.now += rng.choice((0.5, 7, 65, 700, 4000, 20_000))
            nums = rng.randrange(1, 9)
            counter.add(nums, 1)
            added.append((clock.now, nums))
        for window, samples, period in zip(counter.windows(), (6, 6, 24), (1, 60, 360), strict=True):
            begin_s = (int(clock.now / SLOT_S) // period - samples) * period * SLOT_S
            assert window.total.nums == sum(nums for at, nums in added if at >= begin_s)


def test_windows_of_several_counters_add_up() -> None:
    clock = Clock()
    old, young = Counter(clock), Counter(clock)
    old.add(1, 10, ms=5)
    clock.now += 30
    young.add(2, 20, times=4)
    window = add_up([old.windows()[0], young.windows()[0]])
    assert tuple(window.total) == (3, 30, 5, 5)
    assert window.elapsed_s >= 30


def test_append_times_are_counted_by_range_and_percentile() -> None:
    clock = Clock()
    times = AppendTimes(clock)
    assert times.percentile_ms(0.99) == 0
    times.add(0, 90)
    times.add(7, 9)
    times.add(60_000, 1)
    assert times.distribution() | {"[<=0ms]": 90, "[0~10ms]": 9, "[10s~]": 1} == times.distribution()
    assert sum(times.distribution().values()) == 100
    assert (times.percentile_ms(0.9), times.percentile_ms(0.99), times.percentile_ms(0.999)) == (0, 7, 60_000)
    assert times.longest_ms == 60_000


def test_append_times_are_those_of_the_last_whole_minute() -> None:
    clock = Clock(6000)
    times = AppendTimes(clock)
    times.add(1, 5)
    clock.now += 60
    times.add(15, 7)
    assert times.distribution()["[0~10ms]"] == 5
    assert times.distribution()["[10~50ms]"] == 0
    clock.now += 60
    assert times.distribution()["[10~50ms]"] == 7
    clock.now += 600
    assert sum(times.distribution().values()) == 0
