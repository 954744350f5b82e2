"""How old a file is, by the clock that stamped it: a file server has a clock of its own.

A time in the future does not give the age of a file. A writer may set any time of modification:
if that is in the future, the time at which the inode changed counts. If that is in the future too,
the file is from before the clock was set back, so it is old.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from dbbbatch.files.temporary import temporary_path
from dbbbatch.files.tree import Tree

#: Seconds by which our clock may differ from that of a file server whose time is not known.
_MOST_SKEW = 86400.0

#: Seconds for which an answer is used: each question changes the directory for a moment, which
#: wakes those who watch it. It is asked again sooner if the answer makes no sense, or if there was
#: none.
_GOOD = 60.0
_SOON = 1.0


class Clock:
    """The clock that stamps the files of a directory; ours, where this user may not write there."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._ask()

    def now_ns(self) -> int:
        """Return the time (nanoseconds since 1970)."""
        elapsed = time.monotonic_ns() - self._asked
        ours_was_set = abs(time.time_ns() - self._ours - elapsed) > _SOON * 1e9
        good = _GOOD if self._is_theirs else _SOON
        if elapsed > good * 1e9 or ours_was_set:
            self._ask()
            elapsed = 0
        return self._theirs + elapsed

    def is_young(self, status: os.stat_result, seconds: float) -> bool:
        """Return whether a file changed within the last so many seconds."""
        now, modified = self.now_ns(), status.st_mtime_ns
        if modified <= now:
            return modified > now - seconds * 1e9
        return self._is_within(status.st_ctime_ns, seconds)

    def is_new(self, status: os.stat_result, seconds: float) -> bool:
        """Return whether a file's inode changed within the last so many seconds."""
        return self._is_within(status.st_ctime_ns, seconds)

    def _is_within(self, changed: int, seconds: float) -> bool:
        now = self.now_ns()
        if changed > now + seconds * 1e9 and time.monotonic_ns() - self._asked > _SOON * 1e9:
            self._ask()
            now = self.now_ns()
        ahead = seconds if self._is_theirs else max(seconds, _MOST_SKEW)
        return now - seconds * 1e9 < changed <= now + ahead * 1e9

    def _ask(self) -> None:
        self._asked, self._ours = time.monotonic_ns(), time.time_ns()
        try:
            self._theirs, self._is_theirs = _stamp(self._directory), True
        except OSError:
            self._theirs, self._is_theirs = self._ours, False


_clocks: dict[str, Clock] = {}


def of(directory: str) -> Clock:
    """Return the clock of a directory, the same one each time."""
    if directory not in _clocks:
        _clocks[directory] = Clock(directory)
    return _clocks[directory]


def _stamp(directory: str) -> int:
    """Return the time that a new file gets (nanoseconds)."""
    with Tree(directory) as root:
        with suppress(OSError):
            # A file without a name, where the file system has such.
            flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
            where = root.directory()
            return _time_of(os.open(".", flags, 0o600, dir_fd=where.fd))
        file = root.entry(os.path.basename(temporary_path("clock", f"clock {os.getpid()}")))
        descriptor = file.create()
        try:
            return _time_of(descriptor)
        finally:
            file.remove()


def _time_of(descriptor: int) -> int:
    try:
        # Nobody but the server sets this one, whatever the file was made with.
        return os.fstat(descriptor).st_ctime_ns
    finally:
        os.close(descriptor)
