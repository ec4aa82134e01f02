"""Arguments of calls that several clients take."""

from __future__ import annotations

from datetime import timedelta

from ...durations import as_seconds
from ...errors import ClientError


def seconds_of(name: str, duration: float | timedelta) -> float:
    """Seconds of a duration. Raises ClientError for what is neither a number nor a ``timedelta``."""
    if type(duration) is float and duration >= 0:  # what nearly every send with a timeout gives
        return duration
    try:
        return as_seconds(duration)
    except ValueError as error:
        raise ClientError(f"{name}: {error}") from None
