"""Which processes belong to a program that we started, also those that left it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence


def members(leader: int, *, running: bool) -> list[int]:
    """Find the processes of the session that we made for a program, and what left it.

    Parameters
    ----------
    leader : `int`
        The program's number, which is its session's.
    running : `bool`
        It has not been waited for, so its number is no other's.
    """
    import psutil

    found = set()
    if running:
        found.add(leader)
        with contextlib.suppress(psutil.Error):
            found |= {p.pid for p in psutil.Process(leader).children(recursive=True)}
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if os.getsid(pid) == leader:
                found.add(pid)
    return sorted(found, reverse=True)


def end(pids: Sequence[int], how: int = signal.SIGKILL) -> None:
    """Send a signal to processes, which may be gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, how)


def end_naming(name: bytes) -> int:
    """End the processes of this user whose command line has a path in `name`, or its list of files.

    So a transfer goes that a killed pass left behind: its arguments hold a path that no other
    transfer ever has. Who searches a log for the name is no such process.

    Returns
    -------
    count : `int`
        Processes ended.
    """
    count = 0
    tokens = (b"/%s/" % name, b"/%s.list" % name)
    for entry in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if not entry.isdecimal() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                line = file.read()
            if not any(token in line for token in tokens):
                continue
            os.kill(int(entry), signal.SIGKILL)
            count += 1
        except OSError:
            continue  # gone, or another user's
    return count


def descends(pid: int, family: Sequence[int]) -> bool:
    """Return whether a process number still belongs to the family that it was taken from."""
    with contextlib.suppress(OSError):
        return os.getsid(pid) in family
    return False
