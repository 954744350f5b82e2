"""Free space at the far end, shared by the batches that are under way at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable


class SpaceBudget:
    """The free space that was promised to batches under way, and may not be filled yet.

    Attributes
    ----------
    filled : `int`
        Bytes of all promises that ended: read it before free space is looked at.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._promised: dict[str, int] = {}
        self.filled = 0

    def reserve(
        self, attempt: str, wanted: int, free: int, since: int, look: Callable[[], int]
    ) -> int:
        """Promise room to a batch; wait for the others where only their promises leave too little.

        Parameters
        ----------
        attempt : `str`
            Has the room until `release`.
        wanted, free : `int`
            Bytes.
        since : `int`
            `filled`, before `free` was found: what was filled since may have been counted as free.
        look : `~collections.abc.Callable`
            Finds `free` again.

        Returns
        -------
        free : `int`
            As it was found last. Less than `wanted`: nothing was promised.
        """
        while wanted <= free:
            with self._changed:
                others = sum(self._promised.values())
                if others + self.filled - since + wanted <= free:
                    self._promised[attempt] = wanted
                    break
                if self.filled == since:
                    self._changed.wait()
                since = self.filled
            free = look()
        return free

    def release(self, attempt: str) -> None:
        """Withdraw the promise to a batch, if there was one: it is filled, or no longer needed."""
        with self._changed:
            self.filled += self._promised.pop(attempt, 0)
            self._changed.notify_all()
