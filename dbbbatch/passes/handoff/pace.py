"""How much of the built-in stream at a time: how many streams, and how large a batch.

Functions of what was measured; `Pace` measures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

#: The most streams that a pass chooses by itself.
MOST_STREAMS = 8

#: Round trips (seconds) from which on a pass begins with more than one stream: one ssh channel
#: carries 2 MiB in each, so that it alone does not fill a long line.
_FIRST_STREAMS = ((0.1, 6), (0.05, 4), (0.02, 2), (0.0, 1))

#: A further stream must bring so much more, or it is not worth its connection.
_WORTHWHILE = 1.1

#: The share of the processors' time from which on a further stream only takes from the others.
_BUSY = 0.85

#: Seconds for which a rate is measured.
_MEASURED_SECONDS = 2.0

#: What the work for one more file is worth in bytes, where rates are compared.
BYTES_PER_FILE = 64 << 10

#: Seconds that a batch should take: enough that its round trips, and the programs that it needs at
#: the far end, do not matter, and not so long that what was sent waits for its place.
_BATCH_SECONDS = 4.0

#: The first batch is small, so that the first file is delivered soon.
_FIRST_FILES, _FIRST_BYTES = 64, 32 << 20

#: How many times as much as in one batch may go into another.
_MOST_GROWTH = 8


class BatchSize(NamedTuple):
    """The most that goes into one batch."""

    files: int
    size_bytes: int


#: More at once gains nothing: the disk of the far end waits for it, and at the end we for the disk.
_LARGEST_BATCH = BatchSize(1 << 62, 128 << 20)


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


def _busy_processors() -> float:
    """Return which share of their time the processors here were busy since this was asked last."""
    import psutil

    return float(psutil.cpu_percent()) / 100


class Pace:
    """How many streams a pass uses, by the rates that it finds.

    Parameters
    ----------
    streams : `int`
        How many at first.
    busy : `~collections.abc.Callable`, optional
        Returns which share of their time the processors were busy since it was called last.
    """

    def __init__(self, streams: int, busy: Callable[[], float] = _busy_processors) -> None:
        self._streams = streams
        self._busy = busy
        self._rates: dict[int, float] = {}
        self._files = 0
        self._starved = True
        self._since, self._sent = 0.0, 0

    def begin(self, round_trip: float) -> int:
        """Choose and return how many streams to begin with, by the seconds that an answer takes."""
        self._streams = first_streams(round_trip)
        return self._streams

    def count(self, files: int, *, starved: bool) -> None:
        """Count the files of a batch that has ended.

        If the line was `starved` because no batch was ready, its rate says nothing about the line.
        """
        self._files += files
        self._starved = self._starved or starved

    def streams(self, sent: int, now: float) -> int:
        """Return how many streams to use from now on.

        Parameters
        ----------
        sent : `int`
            Bytes that were sent in all.
        now : `float`
            Seconds, of any clock that never goes back.
        """
        spent = now - self._since
        if not self._starved and spent < _MEASURED_SECONDS:
            return self._streams
        busy = self._busy()
        if not self._starved:
            work = sent - self._sent + self._files * BYTES_PER_FILE
            self._rates[self._streams] = work / spent
            self._streams = wanted_streams(self._streams, self._rates, busy)
        self._files, self._starved = 0, False
        self._since, self._sent = now, sent
        return self._streams


def first_size(limit: BatchSize) -> BatchSize:
    """Return the most that goes into the first batch, within a limit."""
    return _limited_to(BatchSize(_FIRST_FILES, _FIRST_BYTES), limit)


def next_size(size: BatchSize, ended: BatchSize, seconds: float, limit: BatchSize) -> BatchSize:
    """Return the most that goes into the next batch.

    Parameters
    ----------
    size : `BatchSize`
        The most that went into one so far.
    ended : `BatchSize`
        What was in one that has ended.
    seconds : `float`
        How long that took.
    limit : `BatchSize`
        The most in any case.
    """
    if seconds < _BATCH_SECONDS:
        times = min(_MOST_GROWTH, _BATCH_SECONDS / max(seconds, 0.01))
        size = BatchSize(*map(max, size, (int(was * times) for was in ended)))
    elif seconds > _BATCH_SECONDS * 2:
        size = BatchSize(size.files // 2, size.size_bytes // 2)
    limit, smallest = _limited_to(limit, _LARGEST_BATCH), first_size(limit)
    return _limited_to(BatchSize(*map(max, size, smallest)), limit)


def _limited_to(size: BatchSize, limit: BatchSize) -> BatchSize:
    return BatchSize(*map(min, size, limit))
