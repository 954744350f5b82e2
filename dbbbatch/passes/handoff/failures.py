"""Files of a buffer that failed: those that failed too often are moved to quarantine."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dbbbatch.areas import buffer as buffers
from dbbbatch.areas.endpoint.batch import FileFate, Prepared, SendStatus
from dbbbatch.areas.quarantine import QuarantineArea, Rejected
from dbbbatch.config.sections import Handoff
from dbbbatch.database import connect, retry
from dbbbatch.database.models.handoff import HandoffFile, HandoffRow
from dbbbatch.errors import TryLater
from dbbbatch.files import faults, names
from dbbbatch.files.identity import Version
from dbbbatch.passes.context import PassContext


class Failures:
    """Records failures of files, and gives files up."""

    def __init__(self, context: PassContext, section: Handoff) -> None:
        self.context = context
        self._section = section
        self._quarantine = QuarantineArea(context.settings.site.name, section, context.roots)

    def given_up(self, failed: Sequence[tuple[HandoffRow, str]]) -> list[tuple[HandoffRow, str]]:
        """Return the files that have failed too often, with the reason for the quarantine.

        Where a file goes to several endpoints it stays for the others, and is tried on.
        """
        if self._section.siblings:
            return []
        return [
            (row, f"gave up after attempt {row.attempts + 1}: {why}")
            for row, why in failed
            if row.attempts + 1 >= self._section.max_attempts
        ]

    def write(
        self, failed: Sequence[tuple[HandoffRow, str]], given_up: Sequence[tuple[HandoffRow, str]]
    ) -> None:
        """Write failures that count and the decisions to quarantine, in the current transaction."""
        first, most = self._section.retry_wait, self._section.retry_wait_max
        HandoffFile.failed(
            [
                (row.id, why, retry.backoff(row.attempts + 1, first, most), row.attempts + 1)
                for row, why in failed
            ]
        )
        HandoffFile.quarantined([(row.id, why) for row, why in given_up])

    def record_prepared(
        self, rows: Sequence[HandoffRow], found: Sequence[Prepared | FileFate | None]
    ) -> None:
        """Record what was found out about files before they are sent."""
        gone, failed, changed = [], [], []
        for row, item in zip(rows, found, strict=True):
            if isinstance(item, Prepared):
                if item.row != row:
                    changed.append((row.id, item.row.checksum or "", item.row.inode))
            elif item and item.status is SendStatus.VANISHED:
                gone.append((row.id, item.reason))
            elif item:
                failed.append((row, item.reason))
        if gone:
            # Nothing is in the bare mount point of a buffer.
            self.context.roots.require(self._section.buffer)
        given_up = self.given_up(failed)
        if changed or gone or failed:

            def write() -> None:
                HandoffFile.hashed(changed)
                HandoffFile.vanished(gone)
                self.write(failed, given_up)

            connect.write(write)
        self.count_gone(gone)
        self.context.counts["failed"] += len(failed)
        self.quarantine(given_up)

    def count_gone(self, gone: Sequence[tuple[int, str]]) -> None:
        """Count versions that are no longer in the buffer; a file that was written to is there."""
        replaced = sum(why == buffers.REPLACED for _, why in gone)
        self.context.counts["replaced"] += replaced
        self.context.counts["vanished"] += len(gone) - replaced

    def quarantine(self, rows: Sequence[tuple[HandoffRow, str]]) -> None:
        """Move files that are recorded as QUARANTINED out of the buffer, if still there."""
        files = []
        stayed: list[tuple[str, OSError]] = []
        tree = self.context.roots.tree(self._section.buffer)
        tree.forget()
        for row, why in rows:
            file = buffers.entry_of(tree, row)
            try:
                status = file.status()
            except OSError as error:
                stayed.append((file.rel, error))
                continue
            if status is not None and Version.of_file(status) == Version.of_row(row):
                files.append(Rejected(file, status, row.checksum, why))
        not_moved = self._quarantine.quarantine(files)
        self.context.counts["quarantined"] += len(files) - len(not_moved)
        stayed += [(file.rel, why) for file, why in not_moved]
        for rel, fault in stayed:
            if faults.affects_every_file(fault, writing=True):
                raise TryLater(f"{self._section.quarantine}: {fault.strerror}; nothing is lost")
            shown = names.printable(os.path.join(self._section.buffer, rel))
            why = self._quarantine.why_stays(tree.entry(rel), fault)
            self.context.warn(f"{shown}: cannot be moved to quarantine: {why}", key="aside", of=rel)

    def recover(self) -> None:
        """Finish the moves to quarantine that an earlier pass decided on."""
        self._quarantine.recover(self.context.refuse)
        site = self.context.settings.site.name
        rows = connect.read(HandoffFile.in_buffer, site, self._section.name, "QUARANTINED")
        rows = self.context.sound(rows, "handoff_file")
        if rows:
            reasons = connect.read(HandoffFile.reasons, [row.id for row in rows])
            self.quarantine([(row, reasons[row.id]) for row in rows])
