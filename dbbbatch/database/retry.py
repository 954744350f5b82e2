"""When something is tried again: how long the wait is, and whether it is over.

Waits are recorded as times, and clocks are set. So a time is believed only where a clock that was
right can have written it: a wait that ends later than the longest one would, and one that began in
the future, were recorded while a clock was ahead, and are over.
"""

from __future__ import annotations

from datetime import datetime, timedelta


def backoff(tries: int, first: float, most: float) -> float:
    """Return the seconds to wait after so many tries: doubled each time, up to `most`."""
    return min(most, first * 2.0 ** min(tries - 1, 60))


def is_due(at: datetime | None, longest: float, now: datetime) -> bool:
    """Return whether something is due that was put off until `at`, by `longest` seconds at most."""
    return at is None or not now < at <= _later(now, longest)


def is_over(since: datetime | None, seconds: float, now: datetime) -> bool:
    """Return whether a wait of so many seconds is over that began at `since`."""
    return since is None or is_due(_later(since, seconds), seconds, now)


def due_sql(column: str) -> str:
    """Return the condition of `is_due` on a column that is not null, for values of `due_range`.

    Where the rows that are due come from an index on the column each side is a range of its own.
    """
    return f"({column} <= ? OR {column} > ?)"


def due_range(longest: float, now: datetime) -> tuple[datetime, datetime]:
    """Return the values of `due_sql`: what lies between the two is not due."""
    return now, _later(now, longest)


def _later(moment: datetime, seconds: float) -> datetime:
    """Return a moment so much later, or the last one that there is."""
    try:
        return moment + timedelta(seconds=seconds)
    except OverflowError:
        return datetime.max
