"""The line to the far end, which the streams of a pass share: who may use it, and how fast."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dbbbatch.errors import TryLater

#: Seconds of the bandwidth that may be sent at once after a pause: timers are not exact.
_BURST = 0.1


class Bandwidth:
    """A limit of the rate, shared by all that send: a token bucket.

    Parameters
    ----------
    rate : `float` or `None`
        Bytes a second; `None`: no limit.
    """

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._paid_until = 0.0

    def delay(self, size_bytes: int, now: float) -> float:
        """Count bytes that are about to be sent; return for how many seconds to wait before.

        Parameters
        ----------
        size_bytes : `int`
        now : `float`
            Seconds, of any clock that never goes back.
        """
        if self._rate is None:
            return 0.0
        begin = max(self._paid_until, now - _BURST)
        self._paid_until = begin + size_bytes / self._rate
        return max(0.0, begin - now)


class Line:
    """Lets a number of batches at a time onto the line, at a limited rate.

    A batch uses the line only while it is sent, not while the far end verifies and places it. A
    long file does not hold up the others: one batch of short files may always be sent beside it.

    Parameters
    ----------
    width : `int`
        How many batches may be sent at a time.
    bandwidth : `float` or `None`
        Most bytes a second of all of them.
    """

    def __init__(self, width: int, bandwidth: float | None = None) -> None:
        self._changed = threading.Condition()
        self._bandwidth = Bandwidth(bandwidth)
        self._width = width
        self._short = self._long = 0
        self._closed = False
        self._sent = 0

    @property
    def width(self) -> int:
        """How many batches may be sent at a time."""
        return self._width

    @property
    def sent(self) -> int:
        """How many bytes were sent so far."""
        return self._sent

    @property
    def is_full(self) -> bool:
        """Whether as many batches are being sent as may be."""
        return self._short + self._long >= self._width

    def widen(self, width: int) -> None:
        """Let another number of batches onto the line from now on."""
        with self._changed:
            self._width = width
            self._changed.notify_all()

    @contextmanager
    def use(self, *, long: bool) -> Iterator[None]:
        """Wait until a batch may be sent, and hold its place.

        Parameters
        ----------
        long : `bool`
            It is a single file that takes long by itself.

        Raises
        ------
        TryLater
            The pass ends.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_room(long))
            self._require_open()
            if long:
                self._long += 1
            else:
                self._short += 1
        try:
            yield
        finally:
            with self._changed:
                if long:
                    self._long -= 1
                else:
                    self._short -= 1
                self._changed.notify_all()

    def pace(self, size_bytes: int) -> None:
        """Wait until so many bytes may be sent, and count them.

        Raises
        ------
        TryLater
            The pass ends.
        """
        with self._changed:
            self._sent += size_bytes
            until = time.monotonic()
            until += self._bandwidth.delay(size_bytes, until)
            while not self._closed and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            self._require_open()

    def close(self) -> None:
        """Let nobody wait any longer: the pass ends."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _has_room(self, long: bool) -> bool:
        return self._short + self._long < self._width or (not long and not self._short)

    def _require_open(self) -> None:
        if self._closed:
            raise TryLater("the pass ends before this is sent")
