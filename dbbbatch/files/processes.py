"""Which process is which: by the boot of its machine, its number, and the tick at which it began.

Ticks count from the boot (proc(5), field 22 of ``/proc/PID/stat``), so they do not change when the
clock is set. The time of day at which a process began does.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

#: States of proc(5) of a process that has ended.
_ENDED_STATES = ("Z", "X")

#: States of proc(5) in which a process heeds no signal, and what an operator may do.
_WAITS = {
    "T": "is stopped; `kill -CONT {pid}` lets it go on",
    "t": "is stopped by a debugger",
    "D": "waits for a disk, or for a file server that does not answer",
}

#: Seconds by which a time of day may have moved since it was recorded.
_TOLERANCE = 2.0


def machine() -> str:
    """Return the name of the running system whose processes we see: its boot and our namespace."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        import socket

        return socket.gethostname()


def boot() -> str:
    """Return the name of the running kernel: what is the same in all its containers."""
    return machine().partition(" ")[0]


def same_boot(one: str, other: str) -> bool:
    """Return whether two names of `machine` are of one boot, perhaps seen from two containers."""
    return one.partition(" ")[0] == other.partition(" ")[0]


def start_ticks() -> int | None:
    """Return the tick at which this process began; `None` where there is no /proc."""
    with suppress(OSError):
        return _state_and_ticks(os.getpid())[1]
    return None


def waits_for(pid: int) -> str:
    """Return, for an operator, why a process heeds no signal, or nothing."""
    with suppress(OSError):
        return _WAITS.get(_state_and_ticks(pid)[0], "").format(pid=pid)
    return ""


def lives(pid: int, ticks: int | None, born: float) -> bool:
    """Return whether a process of this machine lives, and is not another one of the same number.

    Parameters
    ----------
    pid : `int`
        Its number.
    ticks : `int` or `None`
        The tick at which it began; `None` where an older version recorded it.
    born : `float`
        A time by which it had begun, seconds since 1970. Only used where the tick is not known: a
        process that began later is another one.
    """
    try:
        state, found = _state_and_ticks(pid)
    except OSError:
        return _is_hidden(pid)
    if state in _ENDED_STATES:
        return False
    if ticks is not None:
        return found == ticks
    return time.time() - _age(found) < born + _TOLERANCE


def age(pid: int) -> float:
    """Return how many seconds ago a process began; raise `OSError` if there is none."""
    return _age(_state_and_ticks(pid)[1])


def _age(ticks: int) -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _state_and_ticks(pid: int) -> tuple[str, int]:
    """Return the state of a process and the tick at which it began."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        # The second field is its name in parentheses, which may hold anything.
        fields = file.read().rpartition(b")")[2].split()
    return fields[0].decode(), int(fields[19])


def _is_hidden(pid: int) -> bool:
    """Return whether there is a process that this user is not shown (hidepid of proc(5))."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    except OverflowError:
        pass
    return False
