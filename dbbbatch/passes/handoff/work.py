"""The handoff: files of a buffer go to the endpoint, and the originals to the holding area."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from dbbbatch.areas import buffer
from dbbbatch.config.sections import Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.handoff import FIRST, ORDER, HandoffFile, HandoffRow
from dbbbatch.database.models.statuses import BatchStatus
from dbbbatch.database.models.transfer import TransferBatch
from dbbbatch.files import checksum, faults, names
from dbbbatch.files.tree import Entry, Tree
from dbbbatch.passes.context import PassContext
from dbbbatch.passes.handoff.delivery import Delivery
from dbbbatch.passes.handoff.scanning import scanned
from dbbbatch.passes.handoff.scheduler import Scheduler
from dbbbatch.passes.handoff.siblings import MOVING, Siblings
from dbbbatch.passes.handoff.streams import KeptSession
from dbbbatch.passes.runner import Work

#: Files at a time that are looked at before a lingering pass begins again.
_LOOKED_AT = 100

#: Files at a time that a dry run lists.
_PLANNED = 5000


class HandoffWork(Work):
    """What `dbb-handoff` does for one section."""

    kind = "handoff"
    did = "delivered"
    reads = False

    def __init__(self, section: Handoff) -> None:
        self._section = section
        self._delivery: Delivery
        self._kept = KeptSession()

    def recover(self, context: PassContext) -> None:
        """Finish what earlier passes left."""
        buffer.require_areas(self._section, context.roots)
        self._delivery = Delivery(context, self._section)
        self._delivery.failures.recover()
        self._delivery.originals.recover()
        self._delivery.recover()

    def work(self, context: PassContext) -> None:
        """Record what is in the buffer, and send it."""
        kept = self._kept if context.options.linger else None
        Scheduler(context, self._section, self._delivery, kept).run()
        if self._section.siblings:  # that of another endpoint may have been moving others
            self._delivery.originals.recover(wait=MOVING)
        buffer.remove_sent_directories(context.settings.site.name, self._section)

    def plan(self, context: PassContext) -> Iterator[str]:
        """Yield what would be recovered first, then what would be sent; nothing is connected to."""
        site, section = context.settings.site.name, self._section
        buffer.require_areas(section, context.roots)
        tree = context.roots.tree(section.buffer)
        for batch in connect.read(TransferBatch.unfinished, site, section.name):
            what = "ask the endpoint about" if batch.status == BatchStatus.OPEN else "tidy up after"
            files = f"{names.counted(batch.files, 'file')} of {batch.started} UTC"
            yield f"recover: {what} batch {batch.id}, {files}"
        for status, what in (("DELIVERED", "holding"), ("QUARANTINED", "quarantine")):
            for row in self._unfinished(context, status):
                if why := names.fault(row):
                    yield f"refuse: row {row.id} of handoff_file: {why}"
                elif _is_seen(buffer.entry_of(tree, row)):
                    yield f"recover: move to {what} {names.printable(names.rel_of(row))}"
        count = size = 0
        for chunk in scanned(context, section, tree):
            for seen in connect.read(HandoffFile.unknown, site, section.name, chunk):
                count, size = count + 1, size + seen.size_bytes
                yield f"send: {names.printable(names.rel_of(seen))} (new)"
        for row in self._due(context, _PLANNED):
            if why := names.fault(row):
                yield f"refuse: row {row.id} of handoff_file: {why}"
                continue
            rel = names.rel_of(row)
            if context.matches(rel) and _is_seen(tree.entry(rel)):
                count, size = count + 1, size + row.size_bytes
                again = f" (after {names.counted(row.attempts, 'failure')})" if row.attempts else ""
                yield f"send: {names.printable(rel)}{again}"
        endpoint = section.endpoint.placeholders.get("host", section.endpoint.buffer)
        yield f"in all {names.counted(count, 'file')}, {names.counted(size, 'byte')}, to {endpoint}"

    def due(self, context: PassContext) -> bool:
        """Return whether there is a file that is new or may be tried again."""
        section = self._section
        rows = (row for row in self._due(context, _LOOKED_AT) if not names.fault(row))
        try:
            # Between two looks nothing keeps the disk from being unmounted.
            tree = Tree(section.buffer)
        except OSError:
            return any(True for _ in rows)  # the pass says what is wrong
        with tree:
            # Else one that a writer keeps open would have pass follow upon pass.
            if not all(checksum.is_being_written(buffer.entry_of(tree, row)) for row in rows):
                return True
            return any(
                connect.read(HandoffFile.unknown, context.settings.site.name, section.name, chunk)
                for chunk in scanned(context, section, tree)
            )

    def close(self) -> None:
        """End the session that was left open for a next pass."""
        self._kept.close()

    def watched(self) -> list[str]:
        """Return the buffer."""
        return [self._section.buffer]

    def _unfinished(self, context: PassContext, status: str) -> Iterator[HandoffRow]:
        """Yield the files that recovery would move out of the buffer."""
        if self._section.siblings and status == "DELIVERED":
            for rows in Siblings(context, self._section).complete():
                yield from rows
            return
        site = context.settings.site.name
        yield from connect.read(HandoffFile.in_buffer, site, self._section.name, status)

    def _due(self, context: PassContext, together: int) -> Iterator[HandoffRow]:
        """Yield the files that are due, in their order, read so many at a time."""
        section = self._section
        due = partial(
            HandoffFile.due,
            context.settings.site.name,
            section.name,
            limit=together,
            longest=section.longest_wait,
        )
        for rows in connect.pages(lambda after: due(after=after), FIRST, *ORDER):
            yield from rows


def _is_seen(file: Entry) -> bool:
    """Return whether something has a path; one that cannot be looked at does not end the plan."""
    try:
        return file.status() is not None
    except OSError as error:
        faults.raise_if_general(error, file.path)
        return False
