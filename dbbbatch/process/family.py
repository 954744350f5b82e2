"""The processes of a program that we started, also those that have left it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence

from dbbbatch.files import processes


def members(leader: int, *, running: bool) -> list[int]:
    """Return the processes of a program's session, and its descendants in other sessions.

    Parameters
    ----------
    leader : `int`
        The process number of the program, which is that of its session.
    running : `bool`
        Nobody has waited for it yet, so no other process can have its number.
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
    """Send a signal to processes, which may have ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, how)


def end_naming(name: bytes) -> int:
    """End a transfer that a killed pass left: processes of this user with `name` in an argument.

    The name of an attempt is a directory in its paths, or its list of files, and of no other
    transfer. A process that searches a log for the name is not ended.

    Returns
    -------
    count : `int`
        Processes that were ended.
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


def end_copies(seconds: float) -> None:
    """End children that are still copies of this process after so long: none became a program."""
    import psutil

    this = psutil.Process()
    line = this.cmdline()
    for child in this.children():
        with contextlib.suppress(psutil.Error, OSError):
            if child.cmdline() == line and processes.age(child.pid) >= seconds:
                child.kill()


def descends(pid: int, family: Sequence[int]) -> bool:
    """Return whether a process number still belongs to its family."""
    with contextlib.suppress(OSError):
        return os.getsid(pid) in family
    return False
