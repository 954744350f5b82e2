"""What SIGTERM, SIGINT and SIGHUP do to a pass.

The first ends it after the current batch, a second one stops the transfer at once.
"""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from dbbbatch.database import waiting

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
        self._before: dict[int, Any] = {}

    def on_second(self, callback: Callable[[], None]) -> None:
        """Call a function when a second signal arrives; it must only set or kill something."""
        self._callbacks.append(callback)

    def __enter__(self) -> Self:
        """Catch the signals from now on."""
        # What is ignored from the start stays ignored: nohup, or a job in the background.
        caught = [number for number in _CAUGHT if signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._handle) for number in caught}
        # Sent when somebody opens for writing a file on which `checksum.open_closed` has a lease.
        # By default it kills; a handler of ours, unlike SIG_IGN, ends with an exec.
        self._before[signal.SIGIO] = signal.signal(signal.SIGIO, lambda *_: None)
        waiting.seen = lambda: self.seen
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the signals to whoever caught them before."""
        waiting.seen = waiting.no_signals
        for number, before in self._before.items():
            signal.signal(number, before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Around the pass of one section there may be the passes of several.
        outer = getattr(self._before.get(number), "__self__", None)
        if isinstance(outer, Signals):
            outer.seen += 1
        self.seen += 1
        if self.seen > 1:
            for callback in self._callbacks:
                callback()
