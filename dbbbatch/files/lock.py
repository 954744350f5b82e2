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
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from dbbbatch.errors import LockHeld, TryLater
from dbbbatch.files import faults, processes, state

#: Seconds between two looks at a lock that is waited for.
POLL = 0.2

#: struct flock of fcntl(2) on 64-bit Linux: type, whence, start, length, pid.
_FLOCK = "hhqqi"


class Holder(NamedTuple):
    """The process that holds a lock.

    Attributes
    ----------
    pid : `int`
    since : `float`
        When it took the lock, seconds since 1970 by the clock of then.
    seconds : `float`
        For how long it has held it.
    command : `str`
        Its command line.
    """

    pid: int
    since: float
    seconds: float
    command: str

    def __str__(self) -> str:
        """Return it for a message."""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self.since))
        return f"pid {self.pid} since {since} UTC: {self.command}"


class Lock:
    """The lock of one script and section on this host; as a context manager it does not wait.

    Parameters
    ----------
    directory : `pathlib.Path`
        Where its files are; made when absent. They are never removed: removing one would let two
        holders in.
    label : `str`
        The script and section, such as ``handoff.latiss``.
    count : `int`
        How many passes may hold it at a time (``passes`` of a target).
    """

    def __init__(self, directory: Path, label: str, count: int = 1) -> None:
        self.label = label
        self._paths = [
            directory / (f"{label}~{n}.lock" if n else f"{label}.lock") for n in range(count)
        ]
        self._descriptor = -1

    def __enter__(self) -> Lock:
        """Acquire the lock, without waiting."""
        self.acquire()
        return self

    def __exit__(self, *exception: object) -> None:
        """Release the lock."""
        self.release()

    def acquire(
        self,
        wait: float = 0,
        stopping: Callable[[], bool] = lambda: False,
        waits: Callable[[str], None] = lambda holders: None,
    ) -> None:
        """Acquire the lock.

        Parameters
        ----------
        wait : `float`
            Seconds to wait for another holder to leave.
        stopping : `~collections.abc.Callable`
            Ends the waiting when it returns true.
        waits : `~collections.abc.Callable`
            Called once, when the waiting begins, with who holds the lock.

        Raises
        ------
        LockHeld
            Others still hold it; the message names them.
        TryLater
            Something that is no pass is in the way: it holds a lock for reading.
        OSError
            A file cannot be opened.
        """
        end = time.monotonic() + wait
        waiting = False
        while not any(self._try(path) for path in self._paths):
            if stopping() or time.monotonic() >= end:
                self.require_passes()
                raise LockHeld(f"{self.label} is at work: {'; '.join(self.holders())}")
            if not waiting:
                waiting = True
                waits("; ".join(self.holders()))
            time.sleep(POLL)

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def identity(self) -> str:
        """The kernel and the file of this lock, which is held: who else has both is excluded."""
        status = os.fstat(self._descriptor)
        return f"{processes.boot()} {status.st_dev}:{status.st_ino}"

    def remove(self) -> None:
        """Remove the files of a lock whose label nobody else has, or will have."""
        for path in self._paths:
            with suppress(OSError):
                path.unlink()

    def holders(self) -> list[str]:
        """Return who holds the lock, since when and from which command line."""
        found = (_holder(path) for path in self._paths if _lock_type(path) != fcntl.F_UNLCK)
        return [str(one) if one else "a process that started or left just now" for one in found]

    def held_for(self, seconds: float) -> list[Holder]:
        """Return the other processes that have held the lock for so long, also beside us."""
        if self._descriptor >= 0 and len(self._paths) == 1:
            return []
        found = []
        for path in self._paths:
            with suppress(OSError):  # of a file that this user may not read
                holder = _holder(path) if _lock_type(path) != fcntl.F_UNLCK else None
                if holder and holder.pid != os.getpid() and holder.seconds >= seconds:
                    found.append(holder)
        return found

    def require_passes(self) -> None:
        """Raise unless what holds a lock, if anything does, is a pass.

        Raises
        ------
        TryLater
            It is no pass, and so would never end by itself.
        """
        for path in self._paths:
            if _lock_type(path) == fcntl.F_RDLCK:
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
            _write_holder(descriptor, path)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True


def held_locks(directory: Path) -> Iterator[tuple[str, Holder]]:
    """Yield the label and the holder of each lock of this host that is held, as far as is known."""
    for path in sorted(directory.glob("*.lock")):
        with suppress(OSError):  # of a file that this user may not read
            if _lock_type(path) != fcntl.F_UNLCK and (holder := _holder(path)):
                yield path.stem.partition("~")[0], holder


def _write_holder(descriptor: int, path: Path) -> None:
    """Record in a locked file that this process holds it."""
    holder = {
        "pid": os.getpid(),
        "ticks": processes.start_ticks(),
        "since": time.time(),
        "uptime": time.clock_gettime(time.CLOCK_BOOTTIME),
    }
    text = json.dumps(holder).encode()
    with faults.naming(str(path)):
        os.pwrite(descriptor, text, 0)
        os.ftruncate(descriptor, len(text))


def _lock_type(path: Path) -> int:
    """Return the type of lock that keeps us from a file: F_UNLCK, F_RDLCK or F_WRLCK."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
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
    """Read who holds a lock; return `None` while its holder changes."""
    held = state.read_json(path) or {}
    with suppress(OSError, ValueError, KeyError, TypeError, OverflowError):
        pid, since = int(held["pid"]), state.read_time(held["since"])
        # The number of a process that is gone may be another's by now.
        if not processes.lives(pid, held.get("ticks"), since):
            return None
        if "uptime" in held:
            # The other clock may have been set since, by days.
            seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - float(held["uptime"])
        else:  # of an earlier version
            seconds = time.time() - since
        command = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
        return Holder(pid, since, seconds, os.fsdecode(command))
    return None
