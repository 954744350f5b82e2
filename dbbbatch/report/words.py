"""Sizes, times and spans in words for people."""

from __future__ import annotations

from datetime import datetime

from dbbbatch.config import fields


def size_for_people(number: int | None) -> str:
    """Write a number of bytes for people."""
    return "" if number is None else fields.size_text(number)


def time_for_people(value: datetime | None) -> str:
    """Write a time (UTC)."""
    return f"{value:%Y-%m-%d %H:%M:%S}" if value else ""


def ago(value: datetime | None, now: datetime) -> str:
    """Write how long ago a time was."""
    return f"{span_for_people((now - value).total_seconds())} ago" if value else "never"


def span_for_people(seconds: float) -> str:
    """Write a length of time for people, in its largest unit."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
