"""Moving delivered originals from the buffer to the holding area.

intend   The row is DELIVERED, in the transaction that records the delivery.
act      Move the original to the holding area under a free name, durably.
record   The row is HELD, with that name and the inode.
recover  Is the file in the buffer? Or in the holding area, by its inode? What was moved there
         instead of it goes back; a file that is in neither has vanished.

Where the files of a buffer go to several endpoints, an original has a row for each of them. It is
moved once all that must have it are DELIVERED, and all these rows are HELD in one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC

from dbbbatch.areas import buffer as buffers
from dbbbatch.areas.endpoint.batch import Prepared
from dbbbatch.config.sections import Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.handoff import FIRST, ORDER, HandoffFile, HandoffRow
from dbbbatch.errors import TryLater
from dbbbatch.files import faults, names
from dbbbatch.files.identity import Version
from dbbbatch.files.tree import why_refused
from dbbbatch.passes.context import PassContext
from dbbbatch.passes.handoff.siblings import Siblings

#: Seconds by which the clocks of the database and of the disk may differ.
_CLOCK_TOLERANCE = 300.0

#: Why an endpoint does not get a file.
TOO_LATE = "moved to holding before this endpoint had it, which is not required"

#: Originals that recovery moves to holding in one transaction.
_HELD_TOGETHER = 2000


class Originals:
    """Moves the originals of delivered files to the holding area."""

    def __init__(self, context: PassContext, section: Handoff) -> None:
        self.context = context
        self._section = section
        self._site = context.settings.site.name
        self._buffer = context.roots.tree(section.buffer)
        self._holding = context.roots.tree(section.holding)
        self._siblings = Siblings(context, section)

    def intend(self, items: Sequence[Prepared]) -> set[int]:
        """Write that files are delivered, in the current transaction; return ids of those that are.

        One that is another version by now stays where it is, and is sent again.
        """
        return HandoffFile.delivered(
            [(item.row.id, item.row.inode, item.row.checksum) for item in items]
        )

    def act(self, rows: Sequence[HandoffRow]) -> buffers.Holding:
        """Move originals; put back what was moved instead of one, and remove earlier copies."""
        holding = buffers.hold(self._buffer, self._holding, rows)
        # Where it is not, the files are where recovery finds them, as soon as that is back.
        self.context.roots.require(self._section.holding)
        if holding.gone:
            self.context.roots.require(self._section.buffer)
        if holding.strays:
            self._put_back(holding)
        # Before it is recorded, so that a kill leaves no copy that no row knows.
        holding.held = [(row, self._remove_copies(row, name)) for row, name in holding.held]
        return holding

    def record(self, holding: buffers.Holding) -> None:
        """Record where the originals are, and why some are not in the holding area."""
        held = [(row.id, names.to_text(name), row.inode) for row, name in holding.held]
        stuck = [(row, error, self._why_stuck(row, error)) for row, error in holding.stuck]
        gone = holding.gone.keys() - {row.id for row, _ in holding.stuck}

        def write() -> None:
            HandoffFile.held(held)
            HandoffFile.vanished([(number, holding.gone[number]) for number in gone])
            if self._section.siblings:
                self._record_siblings(held, {number: holding.gone[number] for number in gone})
            HandoffFile.stuck([(row.id, why) for row, _, why in stuck])

        if held or gone or stuck:
            connect.write(write)
        self.context.counts["held"] += len(held)
        for row, error, why in stuck:
            if faults.affects_every_file(error, writing=True):
                raise TryLater(why)
            self.context.counts["failed"] += 1
            self.context.warn(why, key="hold", of=names.join(row.relpath, row.filename))

    def recover(self, wait: float = 0) -> None:
        """Move the originals whose delivery an earlier pass recorded.

        Parameters
        ----------
        wait : `float`, optional
            Seconds for which it waits while the pass of another endpoint does so.
        """
        if self._section.siblings:
            self._siblings.show()
            self._hold_complete(wait=wait)
            return
        site, name = self._site, self._section.name
        for rows in connect.pages(
            lambda after: HandoffFile.in_buffer(site, name, "DELIVERED", after, _HELD_TOGETHER),
            FIRST,
            *ORDER,
        ):
            self.hold(self.context.sound(rows, "handoff_file"))

    def hold(self, rows: Sequence[HandoffRow]) -> None:
        """Move originals that are recorded as DELIVERED, and record it."""
        if self._section.siblings:
            self._hold_complete([row.id for row in rows])
        elif rows:
            self.record(self.act(rows))

    def _hold_complete(self, ids: Sequence[int] | None = None, wait: float = 0) -> None:
        """Move the originals that all endpoints have, unless the pass of another one does so now.

        What that one does not see any more, the next pass of any of them does.
        """
        with self._siblings.alone("hold", wait) as alone:
            for rows in self._siblings.complete(ids) if alone else ():
                if known := self._without_returned(self.context.sound(rows, "handoff_file")):
                    self.record(self.act(known))

    def _without_returned(self, rows: Sequence[HandoffRow]) -> Sequence[HandoffRow]:
        """Return rows without those that a required endpoint is to send after all.

        One that has just seen such a file, or whose next scan will: it did not see it for a moment,
        or had it before, and the file is there.
        """
        ids = [row.id for row in rows]
        others = connect.read(HandoffFile.siblings, ids, self._section.siblings)
        return [row for row in rows if not self._is_returned(row, others[row.id])]

    def _is_returned(self, row: HandoffRow, others: Sequence[tuple[int, str, str, str]]) -> bool:
        required = self._section.required
        known = {status for _, name, status, _ in others if name in required}
        if "FOUND" in known or known.isdisjoint(("VANISHED", "HELD", "PURGED")):
            return "FOUND" in known
        return not buffers.why_gone(buffers.entry_of(self._buffer, row), row)

    def _record_siblings(self, held: Sequence[tuple[int, str, int]], gone: dict[int, str]) -> None:
        """Record the same for the other endpoints, in the current transaction."""
        names_of = self._section.siblings
        others = HandoffFile.siblings([*(number for number, _, _ in held), *gone], names_of)
        HandoffFile.held(
            [(each, name, inode) for number, name, inode in held for each, *_ in others[number]]
        )
        HandoffFile.vanished(
            [(each, why) for number, why in gone.items() for each, *_ in others[number]]
        )
        HandoffFile.vanished(
            [
                (each, TOO_LATE)
                for number, _, _ in held
                for each, name, status, _ in others[number]
                if status == "FOUND" and name not in self._section.required
            ]
        )

    def _put_back(self, holding: buffers.Holding) -> None:
        """Put back what was moved instead of a delivered original, and is not delivered.

        A writer may replace a file in the moment in which it is moved; the pass that moved it was
        killed before it noticed that.
        """
        lost = [row.id for row, _, _ in holding.strays]
        times = connect.read(HandoffFile.delivered_times, lost)
        delivered: dict[str, set[tuple[int, int, int]]] = {}
        for row, name, status in holding.strays:
            when = times.get(row.id)
            # It has had the name since then, or longer.
            since = status.st_ctime
            if when and since + _CLOCK_TOLERANCE < when.replace(tzinfo=UTC).timestamp():
                continue
            if row.relpath not in delivered:
                delivered[row.relpath] = connect.read(self._versions, row.relpath)
                delivered[row.relpath] |= {Version.of_row(held) for held, _ in holding.held}
            if Version.of_file(status) in delivered[row.relpath]:
                continue
            try:
                there = buffers.entry_of(self._holding, row).beside(name)
                buffers.put_back(there, buffers.entry_of(self._buffer, row))
            except OSError as error:
                holding.stuck.append((row, error))

    def _versions(self, relpath: str) -> set[tuple[int, int, int]]:
        """Return the versions of files of a directory that belong into the holding area.

        What one of several endpoints has does not: another one may need it.
        """
        siblings = self._section.siblings
        handoffs = [one for one in self.context.settings.names("handoff") if one not in siblings]
        found = HandoffFile.delivered_versions(self._site, handoffs, relpath)
        if siblings:
            found |= HandoffFile.delivered_versions(self._site, siblings, relpath, ["HELD"])
        return found

    def _remove_copies(self, row: HandoffRow, name: str) -> str:
        """Leave one copy in holding of a version that was sent again; return its name there."""
        copies = buffers.earlier_names(row, name)
        if not copies:
            return name
        filenames = [row.filename, *map(names.to_text, copies)]
        others = connect.read(
            HandoffFile.others_like, row.id, row.relpath, filenames, row.size_bytes
        )
        if self._section.siblings:  # the rows of the same file for other endpoints
            others.discard((None, row.size_bytes, row.mtime_ns))
        try:
            stays = buffers.entry_of(self._holding, row).beside(name)
            return buffers.remove_copies(stays, row, copies, others)
        except OSError as error:
            self.context.log.info("%s: an earlier copy in holding stays: %s", row.filename, error)
            return name

    def _why_stuck(self, row: HandoffRow, error: OSError) -> str:
        file, held = (buffers.entry_of(tree, row) for tree in (self._buffer, self._holding))
        why = why_refused(error, file, held)
        if not isinstance(error, PermissionError):  # such as too little room for the new name
            why = f"{names.printable(held.path)}: {why}"
        return f"{names.printable(file.path)}: delivered, but cannot be moved to holding: {why}"
