"""Free space at the far end, shared by the batches that are under way at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable


class SpaceBudget:
    """What batches under way were promised of the free space, and may not have filled yet."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._promised: dict[str, int] = {}

    def reserve(self, attempt: str, wanted: int, free: int, look: Callable[[], int]) -> int:
        """Promise room to a batch; wait for the others where it has room but for their promises.

        Parameters
        ----------
        attempt : `str`
            Whose it is, until `release`.
        wanted, free : `int`
            Bytes; `free` was found just now.
        look : `~collections.abc.Callable`
            Finds it again.

        Returns
        -------
        free : `int`
            As it was found last. Less than `wanted`: nothing was promised.
        """
        while wanted <= free:
            with self._changed:
                others = sum(self._promised.values())
                if others + wanted <= free:
                    self._promised[attempt] = wanted
                    break
                self._changed.wait()
            # What they filled is no longer free.
            free = look()
        return free

    def release(self, attempt: str) -> None:
        """Take back what was promised, if anything was: it is filled, or not wanted."""
        with self._changed:
            self._promised.pop(attempt, None)
            self._changed.notify_all()
