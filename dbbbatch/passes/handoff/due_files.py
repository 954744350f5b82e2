"""The files of the table that wait to be sent, in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection

from dbbbatch.config.sections import Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.handoff import FIRST, HandoffFile, HandoffRow
from dbbbatch.passes.context import PassContext

#: The most files that wait while others go before them.
_MOST_WAITING = 1000


class DueFiles:
    """Files that are due, read page by page.

    Parameters
    ----------
    failed_before : `bool`
        Those that failed before, alone or with others; else those that did not.
    may_go : `~collections.abc.Callable`
        Returns whether a file may be sent now; if not, it is left to a later pass, or to `rewind`.
    largest : `~collections.abc.Callable`
        Returns the most bytes of a file that may be sent now; a larger one waits for a moment,
        while those after it go.
    counted : `~collections.abc.Collection` [ `int` ]
        Ids that --limit has counted already: these were sent before in this pass.
    """

    def __init__(
        self,
        context: PassContext,
        section: Handoff,
        failed_before: bool,
        may_go: Callable[[HandoffRow], bool],
        largest: Callable[[], float],
        counted: Collection[int] = (),
    ) -> None:
        self.context = context
        self._section = section
        self._failed_before = failed_before
        self._may_go = may_go
        self._largest = largest
        self._counted = counted
        self._page: deque[HandoffRow] = deque()
        self._waiting: deque[HandoffRow] = deque()
        self.rewind()

    def rewind(self) -> None:
        """Begin again: what was recorded just now may come before what was returned last."""
        self._page.clear()
        self._waiting.clear()
        self._cursor = FIRST
        self._exhausted = False

    def peek(self) -> HandoffRow | None:
        """Return the next file, which stays the next one."""
        queue = self._next(self._largest())
        return queue[0] if queue else None

    def _next(self, largest: float) -> deque[HandoffRow] | None:
        """Return the queue that begins with the next file, if there is one."""
        if self.context.remaining == 0 and not self._counted:
            return None
        while self._waiting and self._is_left_out(self._waiting[0]):
            self._waiting.popleft()
        if self._waiting and self._waiting[0].size_bytes <= largest:
            return self._waiting
        while True:
            while self._page:
                row = self._page[0]
                if self._is_left_out(row):
                    self._page.popleft()
                elif row.size_bytes <= largest:
                    return self._page
                elif len(self._waiting) < _MOST_WAITING:
                    self._waiting.append(self._page.popleft())
                else:
                    return None
            if self._exhausted:
                return None
            page = connect.read(
                HandoffFile.due,
                self.context.settings.site.name,
                self._section.name,
                self._cursor,
                self._section.batch_files,
                self._failed_before,
                longest=self._section.longest_wait,
            )
            if page:
                self._cursor = (page[-1].priority, page[-1].rank, page[-1].id)
                self._page.extend(self.context.sound(page, "handoff_file"))
            else:
                self._exhausted = True

    def _is_left_out(self, row: HandoffRow) -> bool:
        limited = self.context.remaining == 0 and row.id not in self._counted
        return limited or not self._may_go(row)

    def take(self, files: int, size_bytes: int) -> list[HandoffRow]:
        """Return the next files: at least one if there is one, and as --limit allows."""
        rows: list[HandoffRow] = []
        room, largest = size_bytes, self._largest()
        while len(rows) < files and (queue := self._next(largest)):
            row = queue[0]
            if rows and row.size_bytes > room:
                break
            if row.id not in self._counted and not self.context.take(1):
                break
            rows.append(queue.popleft())
            room -= row.size_bytes
        return rows

    def drop(self, ids: Collection[int]) -> None:
        """Forget files that may have been read while they were under way, and no longer are."""
        for queue in (self._page, self._waiting):
            kept = [row for row in queue if row.id not in ids]
            queue.clear()
            queue.extend(kept)
