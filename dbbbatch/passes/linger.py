"""Waiting for work between two passes, with the lock free: a poll that inotify may cut short."""

import ctypes
import os
import select
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self

#: IN_CREATE, IN_MOVED_TO, IN_CLOSE_WRITE of inotify(7): something may be ready.
_EVENTS = 0x100 | 0x80 | 0x8

#: Most directories watched; those beyond are found by the poll.
MOST_WATCHES = 4096


class Watch:
    """Watches directories for changes where the kernel can (not over NFS); else it only waits.

    Three calls of inotify(7), by ctypes: a library for them would need a thread of its own.
    """

    def __init__(self, roots: Iterable[str]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._descriptor < 0:
            return
        watched = 0
        for root in roots:
            for directory, _, _ in os.walk(root):
                if watched >= MOST_WATCHES:
                    return
                self._libc.inotify_add_watch(self._descriptor, os.fsencode(directory), _EVENTS)
                watched += 1

    def __enter__(self) -> Self:
        """Watch from now on."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop watching."""
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def wait(self, seconds: float) -> None:
        """Wait for a change, for at most so many seconds."""
        if self._descriptor < 0:
            time.sleep(seconds)
            return
        ready, _, _ = select.select([self._descriptor], [], [], seconds)
        if ready:
            with suppress(BlockingIOError):
                os.read(self._descriptor, 65536)


def wait_for_work(
    due: Callable[[], bool],
    roots: Iterable[str],
    interval: float,
    end: float,
    stopping: Callable[[], bool],
) -> bool:
    """Wait until there is work.

    Parameters
    ----------
    due : callable
        Returns by a cheap look whether there is work now.
    roots : iterable of `str`
        Directories in which a change may mean work.
    interval : `float`
        Seconds between two looks.
    end : `float`
        When to give up, by `time.monotonic`.
    stopping : callable
        Returns whether to give up at once.

    Returns
    -------
    work : `bool`
        Whether there is work; `False` when the time is up.
    """
    with Watch(roots) as watch:
        while not stopping() and time.monotonic() < end:
            if due():
                return True
            # A signal does not end select (PEP 475), so no wait is longer than a second.
            look_again = min(time.monotonic() + interval, end)
            while not stopping() and (left := look_again - time.monotonic()) > 0:
                before = time.monotonic()
                watch.wait(min(left, 1.0))
                if time.monotonic() - before < min(left, 1.0) * 0.99:
                    break
    return False
