"""When a file that failed is tried again."""

from __future__ import annotations

from datetime import datetime, timedelta


def wait_before_try(tries: int, first: float, most: float) -> float:
    """Return the seconds to wait after so many tries: doubled each time, up to `most`."""
    return min(most, first * 2.0 ** min(tries - 1, 60))


def is_over(since: datetime | None, seconds: float, now: datetime) -> bool:
    """Tell whether a wait is over; one that begins in the future is that of a clock once ahead."""
    return since is None or not since <= now < since + timedelta(seconds=seconds)
