"""How much of the built-in stream at a time: how many streams, and how large a batch.

Pure functions: what was measured goes in, what follows comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

#: The most streams that a pass chooses by itself.
MOST_STREAMS = 8

#: Round trips (seconds) from which on a pass begins with more than one stream: one ssh channel
#: carries 2 MiB in each, so that it alone does not fill a long line.
_FIRST_STREAMS = ((0.05, 4), (0.01, 2), (0.0, 1))

#: A further stream must bring so much more, or it is not worth its connection.
_WORTHWHILE = 1.1

#: The share of the processors' time from which on a further stream only takes from the others.
_BUSY = 0.85

#: What the work for one more file is worth in bytes, where rates are compared.
BYTES_PER_FILE = 64 << 10

#: Seconds that a batch should take: enough that its round trips do not matter, and not so long
#: that what was sent waits for its place.
_BATCH_SECONDS = 4.0

#: The first batch is small, so that the first file is delivered soon.
_FIRST_FILES, _FIRST_BYTES = 64, 32 << 20


class BatchSize(NamedTuple):
    """The most that goes into one batch."""

    files: int
    size_bytes: int


def first_streams(round_trip: float) -> int:
    """Return with how many streams to begin where question and answer take so many seconds."""
    return next(streams for least, streams in _FIRST_STREAMS if round_trip >= least)


def wanted_streams(streams: int, rates: Mapping[int, float], busy: float) -> int:
    """Return how many streams to use from now on: one more, one less, or as many.

    Parameters
    ----------
    streams : `int`
        How many are used.
    rates : `~collections.abc.Mapping` [ `int`, `float` ]
        The rate that was last measured with a number of streams.
    busy : `float`
        Share of the time of this machine's processors that was used meanwhile.
    """
    rate = rates.get(streams)
    if rate is None:
        return streams
    fewer = rates.get(streams - 1)
    if fewer is not None and rate < fewer:
        return streams - 1
    if busy >= _BUSY or streams >= MOST_STREAMS:
        return streams
    if fewer is not None and rate < fewer * _WORTHWHILE:
        return streams
    more = rates.get(streams + 1)
    return streams + 1 if more is None or more >= rate * _WORTHWHILE else streams


def first_size(limit: BatchSize) -> BatchSize:
    """Return the most that goes into the first batch, within a limit."""
    return _limited_to(BatchSize(_FIRST_FILES, _FIRST_BYTES), limit)


def next_size(size: BatchSize, seconds: float, limit: BatchSize, *, full: bool) -> BatchSize:
    """Return the most that goes into the next batch.

    Parameters
    ----------
    size : `BatchSize`
        The most that went into the one that has ended.
    seconds : `float`
        How long that took.
    limit : `BatchSize`
        The most in any case.
    full : `bool`
        Whether there was so much in it: else it says little.
    """
    if full and seconds < _BATCH_SECONDS / 2:
        size = BatchSize(size.files * 2, size.size_bytes * 2)
    elif seconds > _BATCH_SECONDS * 2:
        size = BatchSize(size.files // 2, size.size_bytes // 2)
    smallest = first_size(limit)
    return _limited_to(BatchSize(*map(max, size, smallest)), limit)


def _limited_to(size: BatchSize, limit: BatchSize) -> BatchSize:
    return BatchSize(*map(min, size, limit))
