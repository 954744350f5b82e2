"""Clocks that tests set."""

import time

import pytest

from dbbbatch.files import clock


def set_clock_of_files(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set the clock that stamps files ahead of what it stamped so far by so many seconds."""
    monkeypatch.setattr(clock, "_clocks", {})
    monkeypatch.setattr(clock, "_stamp", lambda directory: time.time_ns() + int(seconds * 1e9))
