"""When a file that failed is tried again."""

import math
from datetime import datetime, timedelta

import pytest

from dbbbatch.database.retry import backoff, is_due, is_over

NOW = datetime(2026, 11, 24, 12)


def test_waits_double_up_to_the_longest():
    waits = [backoff(tries, 60, 300) for tries in (1, 2, 3, 4, 1000)]
    assert waits == [60, 120, 240, 300, 300]


@pytest.mark.parametrize(
    ("before", "over"), [(None, True), (59, False), (60, True), (0, False), (-3600, True)]
)
def test_a_wait_is_over_when_its_seconds_are_or_a_clock_was_ahead(before, over):
    since = None if before is None else NOW - timedelta(seconds=before)
    assert is_over(since, 60, NOW) is over


@pytest.mark.parametrize(
    ("ahead", "due"), [(None, True), (-1, True), (0, True), (1, False), (60, False), (61, True)]
)
def test_what_waits_for_longer_than_it_can_is_due(ahead, due):
    at = None if ahead is None else NOW + timedelta(seconds=ahead)
    assert is_due(at, 60, NOW) is due


def test_a_wait_without_end_is_no_error():
    assert not is_due(NOW + timedelta(days=10000), 1e300, NOW)
    assert not is_over(NOW, math.inf, NOW)
