"""Which process is which: by the boot of its machine, its number, and the tick at which it began.

Ticks count from the boot (proc(5), field 22 of ``/proc/PID/stat``), so they stay what they were
when the clock is set. A time of day at which a process began does not: it is reckoned from the time
of the boot, which moves with the clock.
"""

from __future__ import annotations

import os
from contextlib import suppress

#: States of proc(5) of a process that has ended, and of one that no signal ends for now.
_ENDED_STATES = ("Z", "X")
_WAITS = {
    "T": "is stopped; `kill -CONT {pid}` lets it go on",
    "t": "is stopped by a debugger",
    "D": "waits for a disk, or for a file server that does not answer",
}

#: Seconds by which a time of day may have moved, for what older versions recorded: that alone.
_BIRTH_TOLERANCE = 2.0


def machine() -> str:
    """Return the name of the running system whose processes we see.

    That is its boot, and our namespace of processes.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        import socket

        return socket.gethostname()


def same_boot(one: str, other: str) -> bool:
    """Return whether two names of `machine` are of one boot, perhaps seen from two containers."""
    return one.partition(" ")[0] == other.partition(" ")[0]


def start_ticks(pid: int | None = None) -> int | None:
    """Return the tick at which a process began; ours, by default.

    Returns
    -------
    ticks : `int` or `None`
        None: there is no such process, or it has ended and only waits to be asked how; or it is
        not shown to this user.
    """
    with suppress(OSError):
        state, ticks = _stat(pid or os.getpid())
        return None if state in _ENDED_STATES else ticks
    return None


def waits_for(pid: int) -> str:
    """Return, for an operator, why a process does not get on and heeds no signal, or nothing."""
    with suppress(OSError):
        return _WAITS.get(_stat(pid)[0], "").format(pid=pid)
    return ""


def lives(pid: int, ticks: int | None, born: float) -> bool:
    """Return whether a process of this machine lives, and is not another one of the same number.

    Parameters
    ----------
    pid : `int`
        Its number.
    ticks : `int` or `None`
        The tick at which it began; None where an older version recorded it.
    born : `float`
        When it began, seconds since 1970: only looked at where the tick is not known.
    """
    try:
        state, found = _stat(pid)
    except OSError:
        return _is_hidden(pid)
    if state in _ENDED_STATES:
        return False
    if ticks is not None:
        return found == ticks
    import psutil

    try:
        return bool(abs(psutil.Process(pid).create_time() - born) < _BIRTH_TOLERANCE)
    except psutil.Error:
        return False


def _stat(pid: int) -> tuple[str, int]:
    """Return the state of a process and the tick at which it began."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        # The second field is its name in parentheses, which may hold anything.
        fields = file.read().rpartition(b")")[2].split()
    return fields[0].decode(), int(fields[19])


def _is_hidden(pid: int) -> bool:
    """Return whether there is a process that this user is not shown (hidepid of proc(5))."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return False
