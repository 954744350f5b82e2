"""The files of the table that wait to be sent, in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from dbbbatch.areas import buffer
from dbbbatch.config.sections import Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.handoff import FIRST, HandoffFile, HandoffRow
from dbbbatch.files import names
from dbbbatch.passes.runner import PassContext


class DueFiles:
    """Files that are due, read page by page.

    Parameters
    ----------
    p : `dbbbatch.passes.runner.PassContext`
    section : `dbbbatch.config.sections.Handoff`
    tried : `bool`
        Those that failed before; else those that did not.
    under_way : `~collections.abc.Collection` [ `int` ]
        Those that are not given.
    refused : `~collections.abc.Collection` [ `str` ]
        Directories whose files are not given either.
    """

    def __init__(
        self,
        p: PassContext,
        section: Handoff,
        tried: bool,
        under_way: Collection[int],
        refused: Collection[str],
    ) -> None:
        self._p = p
        self._section = section
        self._tried = tried
        self._under_way = under_way
        self._refused = refused
        self._page: deque[HandoffRow] = deque()
        self.rewind()

    def rewind(self) -> None:
        """Begin anew: what was found just now may come before what was given last."""
        self._page.clear()
        self._cursor = FIRST
        self._exhausted = False

    def peek(self) -> HandoffRow | None:
        """Return the next file and keep it."""
        while True:
            while self._page:
                row = self._page[0]
                if row.id not in self._under_way and self._matches(row):
                    return row
                self._page.popleft()
            if self._exhausted:
                return None
            page = connect.read(
                HandoffFile.due,
                self._p.settings.site.name,
                self._section.name,
                self._cursor,
                self._section.batch_files,
                self._tried,
                longest=self._section.longest_wait,
            )
            if page:
                self._cursor = (page[-1].priority, page[-1].rank, page[-1].id)
                self._page.extend(self._p.sound(page, "handoff_file"))
            else:
                self._exhausted = True

    def take(self, files: int, size_bytes: int) -> list[HandoffRow]:
        """Return the next files: at least one if there is one, and as --limit allows."""
        rows: list[HandoffRow] = []
        room = size_bytes
        while len(rows) < files and (row := self.peek()):
            if (rows and row.size_bytes > room) or not self._p.take(1):
                break
            rows.append(self._page.popleft())
            room -= row.size_bytes
        return rows

    def drop(self, ids: Collection[int]) -> None:
        """Forget files that may have been read while they were under way, and no longer are."""
        self._page = deque(row for row in self._page if row.id not in ids)

    def _matches(self, row: HandoffRow) -> bool:
        if self._refused and names.from_text(row.relpath) in self._refused:
            return False
        return not self._p.options.match or self._p.matches(buffer.path_of(self._section, row)[0])
