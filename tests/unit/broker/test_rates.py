"""Averages of a total over 10, 60 and 600 seconds."""

from __future__ import annotations

import time

import pytest

from rmq_redis.broker.rates import Rates


class Source:
    """A clock and a total that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.total = 0
        self.rates = Rates(lambda: self.total, lambda: self.now)

    def run(self, seconds: int, per_s: int) -> None:
        for _ in range(seconds):
            self.now += 1
            self.total += per_s
            if self.now % 10 == 0:
                self.rates.sample()


def test_averages_follow_the_rate_of_their_window() -> None:
    source = Source()
    assert source.rates.averages() == (0.0, 0.0, 0.0)
    source.run(5, 100)
    assert source.rates.averages() == (100.0, 100.0, 100.0)
    source.run(595, 100)
    assert source.rates.averages() == (100.0, 100.0, 100.0)
    source.run(30, 400)
    assert source.rates.averages() == (400.0, 250.0, 115.0)
    source.run(700, 0)
    assert source.rates.averages() == (0.0, 0.0, 0.0)


def test_window_starts_at_the_last_sample_before_it() -> None:
    source = Source()
    source.run(10, 0)
    source.run(15, 100)
    ten, _, _ = source.rates.averages()
    assert ten == pytest.approx(100.0)


def test_morning_totals_change_with_the_date(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    source.run(10, 5)
    assert (source.rates.yesterday_morning, source.rates.today_morning) == (0, 0)
    now_s = time.time()
    mornings = [time.localtime(now_s + days * 86_400) for days in (1, 2)]
    for morning, expected in zip(mornings, ((0, 100), (100, 150)), strict=True):
        monkeypatch.setattr(time, "localtime", lambda morning=morning: morning)
        source.run(10, 5)
        assert (source.rates.yesterday_morning, source.rates.today_morning) == expected
