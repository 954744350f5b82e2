"""How many streams, and how large a batch, follow from what was measured."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from dbbbatch.passes.handoff.pace import (
    MOST_STREAMS,
    BatchSize,
    first_size,
    first_streams,
    next_size,
    wanted_streams,
)


@pytest.mark.parametrize(
    ("round_trip", "streams"), [(0.0, 1), (0.005, 1), (0.02, 2), (0.15, 4), (1.0, 4)]
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


LIMIT = BatchSize(2000, 1 << 30)


def test_the_first_batch_is_small() -> None:
    assert first_size(LIMIT) == (64, 32 << 20)
    assert first_size(BatchSize(3, 1000)) == (3, 1000)


@pytest.mark.parametrize(
    ("size", "seconds", "full", "then"),
    [
        ((64, 32 << 20), 0.5, True, (128, 64 << 20)),
        ((64, 32 << 20), 0.5, False, (64, 32 << 20)),
        ((64, 32 << 20), 4.0, True, (64, 32 << 20)),
        ((1500, 750 << 20), 1.0, True, (2000, 1 << 30)),
        ((1000, 500 << 20), 9.0, True, (500, 250 << 20)),
        ((1000, 500 << 20), 9.0, False, (500, 250 << 20)),
        # however slow it is
        ((64, 32 << 20), 900.0, True, (64, 32 << 20)),
    ],
)
def test_a_batch_is_as_large_as_takes_some_seconds(
    size: tuple[int, int], seconds: float, full: bool, then: tuple[int, int]
) -> None:
    assert next_size(BatchSize(*size), seconds, LIMIT, full=full) == then
