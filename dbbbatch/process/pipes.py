"""The pipes between us and a program, and waiting for what happens to them and to it."""

from __future__ import annotations

import fcntl
import os
import select
import time
from collections.abc import Mapping
from contextlib import suppress

#: What the kernel lets a pipe of any user hold, unless it is configured otherwise.
_WIDE = 1 << 20

#: Seconds after which a wait shows that this process is not stuck (`dbbbatch.passes.lease`).
_LONGEST_POLL = 2.0


class Ends:
    """The three pipes between us and a program: our ends and its ends."""

    def __init__(self) -> None:
        self.their_input = self.input = -1
        self.output = self.their_output = -1
        self.error = self.their_error = -1
        try:
            self.their_input, self.input = os.pipe()
            self.output, self.their_output = os.pipe()
            self.error, self.their_error = os.pipe()
        except BaseException:
            self.close()
            raise
        os.set_blocking(self.input, False)

    def widen(self) -> None:
        """Let the pipe to the program hold as much as any user may, if that is possible."""
        if self.input >= 0:
            with suppress(OSError):
                fcntl.fcntl(self.input, fcntl.F_SETPIPE_SZ, _WIDE)

    def close_theirs(self) -> None:
        """Close the ends of the program, which has its own descriptors of them."""
        for name in ("their_input", "their_output", "their_error"):
            self._close(name)

    def close_input(self) -> None:
        """Close our end of the program's stdin."""
        self._close("input")

    def close(self) -> None:
        """Close all ends that are open."""
        for name in list(vars(self)):
            self._close(name)

    def _close(self, name: str) -> None:
        if (descriptor := getattr(self, name)) >= 0:
            setattr(self, name, -1)
            os.close(descriptor)


class Descriptor:
    """A file for `sh`, which hands the descriptor to the program and starts no thread to copy."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor


def watch(pid: int) -> int:
    """Return a descriptor that becomes readable when a program ends; -1 where there is none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # an old kernel, or it has ended already
        return -1


def poll(wanted: Mapping[int, int], deadline: float, short: float | None = None) -> set[int]:
    """Wait for events of descriptors; return the descriptors that are ready.

    Parameters
    ----------
    wanted : `~collections.abc.Mapping` [ `int`, `int` ]
        Of each descriptor the events of `select.poll`.
    deadline : `float`
        When to return at the latest, a time of `time.monotonic`.
    short : `float`, optional
        Most seconds to wait.
    """
    poller = select.poll()
    for descriptor, events in wanted.items():
        poller.register(descriptor, events)
    left = max(0.0, deadline - time.monotonic())
    if short is not None:
        left = min(left, short)
    return {descriptor for descriptor, _ in poller.poll(min(left, _LONGEST_POLL) * 1000)}
