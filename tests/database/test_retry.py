"""When a file that failed is tried again."""

import math
from datetime import datetime, timedelta

import pytest

from dbbbatch.database.retry import backoff, due_range, is_due

NOW = datetime(2026, 11, 24, 12)


def test_waits_double_up_to_the_longest():
    waits = [backoff(tries, 60, 300) for tries in (1, 2, 3, 4, 1000)]
    assert waits == [60, 120, 240, 300, 300]


@pytest.mark.parametrize(
    ("before", "due"), [(None, True), (59, False), (60, True), (0, False), (-3600, True)]
)
def test_a_wait_is_over_after_its_seconds_or_if_a_clock_was_ahead(before, due):
    since = None if before is None else NOW - timedelta(seconds=before)
    assert is_due(since, 60, NOW) is due


def test_a_wait_without_end_is_no_error():
    assert not is_due(NOW, math.inf, NOW)
    assert not is_due(NOW - timedelta(days=10000), 1e300, NOW)
    assert due_range(1e300, NOW) == (NOW, datetime.max)
