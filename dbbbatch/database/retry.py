"""When something is tried again: how long the wait is, and whether it is over.

Waits are recorded as times, and clocks are set. A recorded time counts only if a clock that was
right can have written it: a wait that began in the future, or that ends later than the longest
wait would, was recorded while a clock was ahead, and is over.
"""

from __future__ import annotations

from datetime import datetime, timedelta


def backoff(tries: int, first: float, most: float) -> float:
    """Return the seconds to wait after so many tries: doubled each time, up to `most`."""
    return min(most, first * 2.0 ** min(tries - 1, 60))


def is_due(since: datetime | None, wait: float, now: datetime) -> bool:
    """Return whether a wait of so many seconds that began at `since` is over."""
    return since is None or not since <= now < _later(since, wait)


def due_sql(column: str) -> str:
    """Return the condition that a wait is over whose end is in a column, for `due_range`.

    Where an index on the column finds the rows, each side is a range of its own.
    """
    return f"({column} <= ? OR {column} > ?)"


def due_range(longest: float, now: datetime) -> tuple[datetime, datetime]:
    """Return the values of `due_sql`, from the longest wait (seconds): between them none is due."""
    return now, _later(now, longest)


def _later(moment: datetime, seconds: float) -> datetime:
    """Return a time so much later, or the last one that there is."""
    try:
        return moment + timedelta(seconds=seconds)
    except OverflowError:
        return datetime.max
