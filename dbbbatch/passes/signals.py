"""What SIGTERM, SIGINT and SIGHUP do to a pass: the first ends it after the batch in hand, a second
one stops the transfer at once."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from dbbbatch.database import waiting

_CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Signals:
    """Catches the signals while it is entered.

    Attributes
    ----------
    seen : `int`
        How many have come.
    """

    def __init__(self) -> None:
        self.seen = 0
        self._callbacks: list[Callable[[], None]] = []
        self._before: dict[signal.Signals, Any] = {}

    def on_second(self, callback: Callable[[], None]) -> None:
        """Have a function called when a second signal comes; it must only set or kill something."""
        self._callbacks.append(callback)

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._handle) for number in _CAUGHT}
        waiting.seen = lambda: self.seen
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        waiting.seen = waiting.no_signals
        for number, before in self._before.items():
            signal.signal(number, before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.seen += 1
        if self.seen > 1:
            for callback in self._callbacks:
                callback()
