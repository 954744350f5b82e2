"""Sending held files again: they go back to the buffer, and the next pass takes them as new ones.

intend   The history tells who asked for it; the rows stay HELD.
act      Move each original from the holding area to its name in the buffer, if that is free.
record   The rows are FOUND, unless a pass has seen the files in the buffer and gone on.
recover  Is it in the buffer, and no longer in the holding area? A scan records such a file as
         FOUND, too. What is still in the holding area is HELD, and the command can be given again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from dbbbatch.areas import buffer as buffers
from dbbbatch.areas.release import excluded_by
from dbbbatch.config.sections import Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.handoff import HandoffFile, HandoffRow
from dbbbatch.errors import TryLater
from dbbbatch.files import faults, names, place, scan
from dbbbatch.files.roots import Roots
from dbbbatch.files.tree import Entry, why_refused


class Resending:
    """The way back to the buffer for files in the holding area of a handoff.

    Parameters
    ----------
    section : `Handoff`
    roots : `dbbbatch.files.roots.Roots`
        Knows whether the buffer is still the directory of the first look.
    why : `str`
        Who asked for it, for the history.

    Raises
    ------
    TryLater
        Buffer or holding area look unmounted.
    """

    def __init__(self, section: Handoff, roots: Roots, why: str) -> None:
        self._section = section
        self._roots = roots
        self._why = why
        buffers.require_areas(section, roots)
        self._buffer = roots.tree(section.buffer)
        self._holding = roots.tree(section.holding)

    def send_again(self, rows: Sequence[HandoffRow]) -> list[str]:
        """Move held files back to the buffer; return why some were not.

        Raises
        ------
        TryLater
            Buffer or holding area are full or broken, or are others by now.
        """
        for tree in (self._buffer, self._holding):
            tree.forget()
        back = self.recover(rows)
        faulty = {row.id: why for row in rows if row.id not in back and (why := self.why_not(row))}
        rest = [row for row in rows if row.id not in back and row.id not in faulty]
        self.intend(rest)
        moved, refused, trouble = self.act(rest)
        self.record(moved)
        if trouble:
            raise TryLater(*faulty.values(), *refused, trouble)
        return [*faulty.values(), *refused]

    def why_not(self, row: HandoffRow) -> str:
        """Return why a held file cannot go back to the buffer, or nothing if it can."""
        if why := names.fault(row, row.held_as):
            return f"row {row.id} of handoff_file: {why}: refused; find out who writes there"
        held, file = self._held(row), self._file(row)
        shown, goes_to = names.printable(held.path), names.printable(file.path)
        try:
            if (here := held.status()) is None:
                return f"{shown}: is not there"
            if buffers.why_gone(held, row) and not buffers.with_new_inode(held, row):
                return f"{shown}: is not the file that was delivered, by its size, time or content"
            if why := scan.detour(self._buffer, file.relpath):
                return f"{goes_to}: {why}, and no pass would enter it"
            if (there := file.status()) and not os.path.samestat(here, there):
                return (
                    f"{goes_to}: the buffer has another file of this name, "
                    "which goes first; try again after the next pass"
                )
        except OSError as error:
            faults.raise_if_general(error, held.path)
            return f"{shown}: {error.strerror}"
        if pattern := excluded_by(self._section, file.rel):
            return f"{goes_to}: no pass would take it: {pattern}"
        return ""

    def intend(self, rows: Sequence[HandoffRow]) -> None:
        """Write to the history that a person asked for this."""
        if rows:
            why = f"to be sent again: {self._why}"
            connect.write(HandoffFile.asked_for, [row.id for row in rows], why)

    def act(self, rows: Sequence[HandoffRow]) -> tuple[list[HandoffRow], list[str], str]:
        """Move originals to the buffer, durably; return those, why not others, and what ends it."""
        moved: list[HandoffRow] = []
        refused: list[str] = []
        trouble = ""
        for row in rows:
            held, file = self._held(row), self._file(row)
            try:
                place.make_directories(self._buffer, file.relpath)
                held.move_to(file)
            except OSError as error:
                refused_by = why_refused(error, held, file)
                why = f"{names.printable(file.path)}: cannot be put back: {refused_by}"
                if faults.affects_every_file(error, writing=True):
                    trouble = why
                    break
                refused.append(why)
            else:
                moved.append(row)
        # Where it is not, they are where the next command finds them, as soon as that is back.
        self._roots.require(self._section.buffer)
        relpaths = {names.split(row.rel)[0] for row in moved}
        self._buffer.sync(relpaths)
        self._holding.sync(relpaths)
        return moved, refused, trouble

    def record(self, rows: Sequence[HandoffRow]) -> None:
        """Record that files are to be sent, unless a pass has taken them already."""
        if rows:
            connect.write(HandoffFile.back_again, [(row.id, row.held_at) for row in rows])

    def recover(self, rows: Sequence[HandoffRow]) -> set[int]:
        """Record the files that a command which was killed has moved; return their ids."""
        back = []
        for row in rows:
            if names.fault(row, row.held_as):
                continue
            with suppress(OSError):  # `why_not` tells of what cannot be looked at
                if not place.is_there(self._held(row)) and not buffers.why_gone(
                    self._file(row), row
                ):
                    back.append(row)
        self.record(back)
        return {row.id for row in back}

    def _held(self, row: HandoffRow) -> Entry:
        return self._holding.entry(row.held_rel)

    def _file(self, row: HandoffRow) -> Entry:
        return self._buffer.entry(row.rel)
