"""The right to change what lies below configured roots, and what ends with it.

Where several hosts share a database, a component belongs to the host that holds its lease, until a
time before which no other host can take it. What moves or removes files enters the `fence`, which
refuses that later; what records files names the leases (`Fence.numbers`) in its transaction.

A process may be stopped after it was let in, and wake when another host has the lease. Therefore
the kernel has orders to kill it at that time, if it is still inside: a stopped process dies, too,
and never finishes what it was let in for. A process that is outside only learns that its time is
over. Times are of CLOCK_BOOTTIME, which nobody can set and which runs while a machine sleeps.

Where there is no lease everything is let in, and nothing of this costs a system call.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from dbbbatch.errors import LeaseLost

_TIMER_ABSTIME = 1
_SIGEV_SIGNAL = 0


class _SignalEvent(ctypes.Structure):
    """struct sigevent of timer_create(2)."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_char * 48),
    )


class _TimerSpec(ctypes.Structure):
    """struct itimerspec: interval and expiration, each in seconds and nanoseconds."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("every", "every_ns", "at", "at_ns"))


class _Execution:
    """The order to the kernel to kill this process at a time."""

    def __init__(self) -> None:
        self._library: Any = ctypes.CDLL(None, use_errno=True)
        if not hasattr(self._library, "timer_create"):  # before glibc 2.34
            self._library = ctypes.CDLL("librt.so.1", use_errno=True)
        event = _SignalEvent(None, signal.SIGKILL, _SIGEV_SIGNAL)
        self._timer = ctypes.c_void_p()
        if self._library.timer_create(
            time.CLOCK_BOOTTIME, ctypes.byref(event), ctypes.byref(self._timer)
        ):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), "timer_create")

    def order(self, at: float) -> None:
        """Order the death of this process at a time; at once if it is past, never if it is 0."""
        seconds = int(at)
        spec = _TimerSpec(0, 0, seconds, int((at - seconds) * 1e9))
        self._library.timer_settime(self._timer, _TIMER_ABSTIME, ctypes.byref(spec), None)


class Fence:
    """What lets in whoever moves or removes files; a context manager around each such call.

    Attributes
    ----------
    numbers : `tuple` [`int`]
        The leases without which nothing may be recorded.
    seconds : `float`
        After how long without a renewal others may take them.
    syncing : `int`
        How many threads wait for a disk to make something durable, which may take minutes.
    """

    def __init__(self) -> None:
        self.numbers: tuple[int, ...] = ()
        self.seconds = 0.0
        self.syncing = 0
        self._until = math.inf
        self._kill_at = 0.0
        self._inside = 0
        self._changing = threading.Lock()
        self._execution: _Execution | None = None

    def __enter__(self) -> None:
        """Let the caller in.

        Raises
        ------
        LeaseLost
            It is not certain that this host still has its leases.
        """
        if self._until == math.inf:
            return
        self.require()  # whoever is late only leaves
        with self._changing:
            self._inside += 1
            if self._inside == 1 and self._execution is not None:
                self._execution.order(self._kill_at)
        try:
            self.require()  # whoever is stopped after this dies in time
        except LeaseLost:
            self._leave()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the caller out."""
        if self._inside:
            self._leave()

    def extend(self, numbers: tuple[int, ...], asked: float, seconds: float) -> None:
        """Let in until shortly before others may have the leases.

        Parameters
        ----------
        numbers : `tuple` [`int`]
        asked : `float`
            A time (`since_boot`) before the database was asked to renew them.
        seconds : `float`
            After how long others may have them.
        """
        with self._changing:
            if self._execution is None:
                self._execution = _Execution()
            self.numbers, self.seconds = numbers, seconds
            self._until, self._kill_at = asked + 0.7 * seconds, asked + 0.9 * seconds
            if self._inside:
                self._execution.order(self._kill_at)

    def require(self) -> None:
        """Raise as at the entrance, where what follows is refused elsewhere if it comes late."""
        if since_boot() >= self._until:
            raise LeaseLost("this pass was stopped, or the database did not answer, for too long")

    def close(self) -> None:
        """Let nobody in: another host has the leases."""
        with self._changing:
            self._until = -math.inf

    def concede(self) -> None:
        """Let nobody in, and let it be recorded how that ended."""
        if self.numbers:
            self.close()
            self.numbers = ()

    def remove(self) -> None:
        """Let everything in: there are no leases any longer."""
        with self._changing:
            self.numbers, self._until = (), math.inf

    @contextmanager
    def long_wait(self) -> Iterator[None]:
        """Note that a thread waits for a disk to make something durable."""
        with self._changing:
            self.syncing += 1
        try:
            yield
        finally:
            with self._changing:
                self.syncing -= 1

    def _leave(self) -> None:
        with self._changing:
            self._inside -= 1
            if not self._inside and self._execution is not None:
                self._execution.order(0)


def since_boot() -> float:
    """Return the time by which leases end here: seconds since the boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


#: The fence of this process.
fence = Fence()
