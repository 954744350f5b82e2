"""One pass at a time: a kernel lock that dies with its holder.

The lock belongs to an open descriptor (an "open file description lock", fcntl(2)), so a killed
process can leave no stale lock behind. The descriptor is closed on exec, so no child keeps it.
The file's text only says who holds the lock. The state directory must be on a local disk: locks
over NFS may be of this host only, or fail.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from dbbbatch.errors import LockHeld, TryLater
from dbbbatch.files import processes, state

#: Seconds between two looks at a lock that is waited for.
POLL = 0.2

#: struct flock of fcntl(2) on 64-bit Linux: type, whence, start, length, pid.
_FLOCK = "hhqqi"


class Holder(NamedTuple):
    """Who holds a lock.

    Attributes
    ----------
    pid : `int`
    since : `float`
        When it took it, seconds since 1970 by the clock of then.
    seconds : `float`
        For how long it has had it.
    command : `str`
        Its command line.
    """

    pid: int
    since: float
    seconds: float
    command: str

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self.since))
        return f"pid {self.pid} since {since} UTC: {self.command}"


class Lock:
    """The lock of one script and section on this host; ``count`` passes may hold it at a time.

    Parameters
    ----------
    directory : `pathlib.Path`
        Where its files are; made when absent. They are never removed: removing one would let two
        holders in.
    label : `str`
        The script and section, such as ``handoff.latiss``.
    count : `int`
        How many passes may be at work at a time (``passes`` of a target).
    """

    def __init__(self, directory: Path, label: str, count: int = 1) -> None:
        self.label = label
        self._paths = [
            directory / (f"{label}~{n}.lock" if n else f"{label}.lock") for n in range(count)
        ]
        self._descriptor = -1

    def acquire(self, wait: float = 0, stopping: Callable[[], bool] = lambda: False) -> None:
        """Take the lock.

        Parameters
        ----------
        wait : `float`
            Seconds to wait for another holder to leave.
        stopping : callable
            Ends the waiting early when it answers true.

        Raises
        ------
        LockHeld
            If others still hold it; the message says who.
        TryLater
            If something that is no pass stands in the way: it reads a file under a lock.
        OSError
            If a file cannot be opened.
        """
        end = time.monotonic() + wait
        while not any(self._try(path) for path in self._paths):
            if stopping() or time.monotonic() >= end:
                self._must_be_passes()
                raise LockHeld(f"{self.label} is at work: {'; '.join(self.holders())}")
            time.sleep(POLL)

    def release(self) -> None:
        """Let the lock go; nothing happens if it is not held."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def holders(self) -> list[str]:
        """Return who holds the lock, since when and from which command line; takes nothing."""
        held = (path for path in self._paths if _held(path) != fcntl.F_UNLCK)
        found = (_holder(path) for path in held)
        return [str(one) if one else "a process that started or left just now" for one in found]

    def held_for(self, seconds: float) -> list[Holder]:
        """Return the others that have held the lock for so long, also beside us; takes nothing."""
        if self._descriptor >= 0 and len(self._paths) == 1:
            return []
        found = []
        for path in self._paths:
            with suppress(OSError):  # of a file that this user may not read
                holder = _holder(path) if _held(path) != fcntl.F_UNLCK else None
                if holder and holder.pid != os.getpid() and holder.seconds >= seconds:
                    found.append(holder)
        return found

    def _must_be_passes(self) -> None:
        """Raise if what holds a lock is no pass, which would never end by itself."""
        for path in self._paths:
            if _held(path) == fcntl.F_RDLCK:
                raise TryLater(
                    f"{path}: some program holds a lock for reading on it, which no pass does; "
                    f"`sudo fuser -v {path}` says which: end it",
                    key=f"read lock {path}",
                )

    def _try(self, path: Path) -> bool:
        state.make(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, state.FILE_MODE)
        try:
            if os.fstat(descriptor).st_mode & 0o077:
                # Of an earlier version. Who can open it could hold it.
                with suppress(PermissionError):
                    os.fchmod(descriptor, state.FILE_MODE)
            fcntl.fcntl(
                descriptor, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, 0, 0, 0, 0)
            )
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        said = {
            "pid": os.getpid(),
            "ticks": processes.start_ticks(),
            "since": time.time(),
            "uptime": time.clock_gettime(time.CLOCK_BOOTTIME),
        }
        text = json.dumps(said).encode()
        try:
            os.pwrite(descriptor, text, 0)
            os.ftruncate(descriptor, len(text))
        except OSError as error:
            os.close(descriptor)
            raise OSError(error.errno, error.strerror, str(path)) from None
        self._descriptor = descriptor
        return True


def _held(path: Path) -> int:
    """Return the type of lock that keeps us from a file: F_UNLCK, F_RDLCK or F_WRLCK."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return fcntl.F_UNLCK
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, 0, 0, 0, 0)
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked)
    finally:
        os.close(descriptor)
    kind: int = struct.unpack(_FLOCK, answer)[0]
    return kind


def _holder(path: Path) -> Holder | None:
    """Read who holds a lock; None while its holder changes."""
    with suppress(OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        said = json.loads(path.read_text())
        pid, since = int(said["pid"]), float(said["since"])
        uptime, seconds = time.clock_gettime(time.CLOCK_BOOTTIME), time.time() - since
        # The number of a process that is gone may be another's by now.
        ticks = processes.start_ticks(pid)
        if ticks is None:
            return None
        if "ticks" not in said:
            # A pass of an earlier version. What began after the lock was taken is another one.
            if uptime - ticks / os.sysconf("SC_CLK_TCK") < seconds - 1:
                return None
        elif ticks != said["ticks"]:
            return None
        # The clock may have been set since: the longer of both is right where it was set back, and
        # where it was set forward somebody looks for nothing.
        seconds = max(seconds, uptime - float(said.get("uptime", uptime)))
        command = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
        return Holder(pid, since, seconds, os.fsdecode(command))
    return None
