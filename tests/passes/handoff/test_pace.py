"""How many streams, and how large a batch, follow from what was measured."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from dbbbatch.passes.handoff.pace import (
    BYTES_PER_FILE,
    MOST_STREAMS,
    BatchSize,
    Pace,
    first_size,
    first_streams,
    next_size,
    wanted_streams,
)


@pytest.mark.parametrize(
    ("round_trip", "streams"), [(0.0, 1), (0.01, 1), (0.03, 2), (0.07, 4), (0.15, 6), (1.0, 6)]
)
def test_a_long_line_begins_with_more_streams(round_trip: float, streams: int) -> None:
    assert first_streams(round_trip) == streams


@pytest.mark.parametrize(
    ("streams", "rates", "busy", "wanted"),
    [
        # nothing is known
        (1, {}, 0.1, 1),
        (3, {2: 10}, 0.1, 3),
        # the first one, and each that brought more, is followed by another
        (1, {1: 10}, 0.1, 2),
        (4, {4: 10}, 0.1, 5),
        (5, {4: 10, 5: 12}, 0.1, 6),
        # one that brought little is the last
        (2, {1: 10, 2: 10.5}, 0.1, 2),
        # one that brought less goes, and is not tried again
        (2, {1: 10, 2: 9}, 0.1, 1),
        (1, {1: 10, 2: 9}, 0.1, 1),
        (2, {1: 5, 2: 10, 3: 10.5}, 0.1, 2),
        # the processors are busy
        (1, {1: 10}, 0.9, 1),
        (2, {1: 10, 2: 20}, 0.9, 2),
        # enough
        (MOST_STREAMS, {MOST_STREAMS - 1: 10, MOST_STREAMS: 20}, 0.1, MOST_STREAMS),
    ],
)
def test_a_further_stream_is_used_while_that_brings_more(
    streams: int, rates: Mapping[int, float], busy: float, wanted: int
) -> None:
    assert wanted_streams(streams, rates, busy) == wanted


class Measuring:
    """A pace on a line whose rate is told, and processors that are as busy as is told."""

    def __init__(self) -> None:
        self.busy = 0.1
        self._pace = Pace(1, lambda: self.busy)
        self._now, self._sent = 100.0, 0

    def after(self, rate: float, files: int = 0, *, starved: bool = False) -> int:
        """Send at a rate for some seconds; return how many streams follow."""
        if not self._sent:
            self._pace.streams(0, self._now)
        self._now += 3
        self._sent += round(rate * 3)
        self._pace.count(files, starved=starved)
        return self._pace.streams(self._sent, self._now)


def test_streams_are_added_while_the_rate_grows() -> None:
    line = Measuring()
    assert [line.after(rate) for rate in (10e6, 20e6, 30e6, 31e6, 31e6)] == [2, 3, 4, 4, 4]


def test_a_rate_says_nothing_where_no_batch_was_ready() -> None:
    line = Measuring()
    assert [line.after(rate, starved=True) for rate in (10e6, 20e6, 30e6)] == [1, 1, 1]


def test_small_files_count_for_more_than_their_bytes() -> None:
    line = Measuring()
    assert [line.after(1.0, files) for files in (1000, 2000, 2000)] == [2, 3, 3]
    assert BYTES_PER_FILE > 1000


def test_busy_processors_get_no_further_stream() -> None:
    line = Measuring()
    line.busy = 0.95
    assert [line.after(rate) for rate in (10e6, 20e6)] == [1, 1]


LIMIT = BatchSize(2000, 1 << 30)


def test_the_first_batch_is_small() -> None:
    assert first_size(LIMIT) == (64, 32 << 20)
    assert first_size(BatchSize(3, 1000)) == (3, 1000)


@pytest.mark.parametrize(
    ("size", "ended", "seconds", "then"),
    [
        ((64, 32 << 20), (64, 20 << 20), 1.0, (256, 80 << 20)),
        # in small steps, and what is not full says little
        ((64, 32 << 20), (64, 4 << 20), 0.0, (512, 32 << 20)),
        ((64, 32 << 20), (3, 4 << 20), 0.1, (64, 32 << 20)),
        # one that was smaller than others may be by now
        ((512, 32 << 20), (64, 4 << 20), 1.0, (512, 32 << 20)),
        ((64, 32 << 20), (64, 32 << 20), 4.0, (64, 32 << 20)),
        ((64, 32 << 20), (64, 32 << 20), 7.0, (64, 32 << 20)),
        ((1500, 75 << 20), (1500, 75 << 20), 1.0, (2000, 128 << 20)),
        ((1000, 100 << 20), (1000, 100 << 20), 9.0, (500, 50 << 20)),
        ((1000, 100 << 20), (1, 50 << 20), 9.0, (500, 50 << 20)),
        # however slow it is
        ((64, 32 << 20), (64, 32 << 20), 900.0, (64, 32 << 20)),
    ],
)
def test_a_batch_is_as_large_as_takes_some_seconds(
    size: tuple[int, int], ended: tuple[int, int], seconds: float, then: tuple[int, int]
) -> None:
    assert next_size(BatchSize(*size), BatchSize(*ended), seconds, LIMIT) == then
