"""What SIGTERM, SIGINT and SIGHUP do to a pass, or to several at the same time.

The first ends it after the current batch, a second one stops the transfer at once.
"""

import os
import signal
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Any, Self

_CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Signals:
    """A context manager that catches the signals.

    Attributes
    ----------
    seen : `int`
        How many have arrived.
    """

    def __init__(self) -> None:
        self.seen = 0
        self._callbacks: list[Callable[[], None]] = []
        self._copies: list[int] = []
        self._before: dict[int, Any] = {}

    def on_second(self, callback: Callable[[], None]) -> None:
        """Call a function when a second signal arrives; it must only set or kill something."""
        self._callbacks.append(callback)

    def at_once(self, names: Sequence[str]) -> tuple[str, list[int]]:
        """Go on in a copy of this process for each name, and wait here until they have ended.

        Each signal is passed on to them. Where this process is killed, they go on.

        Returns
        -------
        name : `str`
            The one that a copy is for; here "".
        codes : `list` [`int`]
            Here the exit codes of the copies.
        """
        from dbbbatch.process.run import fork

        # Those that come now are passed on to all copies.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _CAUGHT)
        try:
            for name in names:
                if not (number := fork()):
                    self._copies.clear()
                    return name, []
                self._copies.append(number)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        codes = []
        while self._copies:
            # It keeps its number until it is no longer among those that get signals.
            os.waitid(os.P_PID, number := self._copies[0], os.WEXITED | os.WNOWAIT)
            self._copies.remove(number)
            code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
            codes.append(code if code >= 0 else 128 - code)
        return "", codes

    def __enter__(self) -> Self:
        """Catch the signals from now on."""
        from dbbbatch.database import waiting  # here: what only prints a help needs no database

        # What is ignored from the start stays ignored: nohup, or a job in the background.
        caught = [number for number in _CAUGHT if signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._handle) for number in caught}
        # Sent when somebody opens for writing a file on which `checksum.open_closed` has a lease.
        # By default it kills; a handler of ours, unlike SIG_IGN, ends with an exec.
        self._before[signal.SIGIO] = signal.signal(signal.SIGIO, lambda *_: None)
        outer = filter(None, map(_around, self._before.values()))
        self.seen = max((each.seen for each in outer), default=0)
        waiting.seen = lambda: self.seen
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the signals to whoever caught them before."""
        from dbbbatch.database import waiting

        waiting.seen = waiting.no_signals
        for number, before in self._before.items():
            signal.signal(number, before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Around the pass of one section there may be the passes of several.
        if outer := _around(self._before.get(number)):
            outer.seen += 1
        self.seen += 1
        for copy in self._copies:
            os.kill(copy, number)
        if self.seen > 1:
            for callback in self._callbacks:
                callback()


def _around(handler: Any) -> Signals | None:
    """Return whose handler of a signal it is."""
    owner = getattr(handler, "__self__", None)
    return owner if isinstance(owner, Signals) else None
