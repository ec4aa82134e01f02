"""Durations and points in time as users give them."""

from __future__ import annotations

import math
from datetime import timedelta
from numbers import Real

LAST_MS = 253_402_300_799_999
"""The end of the year 9999, in ms since 1970."""


def as_seconds(duration: object) -> float:
    """Seconds of a number or a ``timedelta``. Raises ValueError for anything else, and for NaN."""
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    return _as_number(duration, "seconds or a timedelta")


def as_timestamp_ms(moment: object) -> int:
    """Whole ms since 1970 of a number. Raises ValueError for anything else, or outside the years 1970 to 9999."""
    number = _as_number(moment, "ms since 1970")
    if not 0 <= number <= LAST_MS:
        raise ValueError(f"{moment!r:.80} is not in the years 1970 to 9999 (ms since 1970)")
    return round(number)


def _as_number(value: object, wanted: str) -> float:
    if not isinstance(value, Real) or isinstance(value, bool) or math.isnan(value):
        raise ValueError(f"{value!r:.80} is not {wanted}")
    return float(value)
