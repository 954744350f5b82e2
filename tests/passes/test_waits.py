"""When a file that failed is tried again."""

from datetime import datetime, timedelta

import pytest

from dbbbatch.passes.waits import is_over, wait_before_try

NOW = datetime(2026, 11, 24, 12)


def test_waits_double_up_to_the_longest():
    waits = [wait_before_try(tries, 60, 300) for tries in (1, 2, 3, 4, 1000)]
    assert waits == [60, 120, 240, 300, 300]


@pytest.mark.parametrize(
    ("before", "over"), [(None, True), (59, False), (60, True), (0, False), (-3600, True)]
)
def test_a_wait_is_over_when_its_seconds_are_or_a_clock_was_ahead(before, over):
    since = None if before is None else NOW - timedelta(seconds=before)
    assert is_over(since, 60, NOW) is over
