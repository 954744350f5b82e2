"""What comes of the files of a handoff, in the table and on the disk of the near end."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Sequence
from datetime import UTC
from functools import partial
from typing import Any

from dbbbatch.areas import buffer as buffers
from dbbbatch.areas.endpoint.batch import Item, TransferResult
from dbbbatch.areas.quarantine import QuarantineArea, Rejected
from dbbbatch.config.sections import Handoff
from dbbbatch.database import connect, retry
from dbbbatch.database.models.handoff import HandoffFile, HandoffRow
from dbbbatch.database.models.transfer import TransferBatch
from dbbbatch.errors import TryLater
from dbbbatch.files import faults, names
from dbbbatch.files.roots import MovedFile
from dbbbatch.passes.runner import PassContext

#: Seconds by which the clocks of the database and of the disk may differ.
_CLOCK_TOLERANCE = 300.0


class Outcomes:
    """Records outcomes, and does what follows from them."""

    def __init__(self, p: PassContext, section: Handoff) -> None:
        self._p = p
        self._section = section
        self._site = p.settings.site.name
        self._quarantine = QuarantineArea(self._site, section, p.roots)

    def note_taken(self, taken: buffers.PreparedFiles, rows: Sequence[HandoffRow]) -> None:
        """Record what was found out about files before they are sent."""
        by_id = {row.id: row for row in rows}
        if taken.gone:
            # In the mount point of a buffer nothing is there any more.
            self._p.roots.require(self._section.buffer)
        failed = [(by_id[number], reason) for number, reason in taken.failed]
        given_up = self._given_up(failed)
        if taken.hashed or taken.gone or failed:

            def write() -> None:
                HandoffFile.hashed(taken.hashed)
                HandoffFile.vanished(taken.gone)
                self._record_failures(failed, given_up)

            connect.write(write)
        self._p.counts["vanished"] += len(taken.gone)
        self._p.counts["failed"] += len(failed)
        self.quarantine(given_up)

    def settle(self, sent: TransferResult, again: Collection[int]) -> None:
        """Record what came of a batch; those in `again` are sent again in this pass."""
        self._log(sent)
        values = {name: getattr(sent, name) for name in _TIMINGS}
        told = partial(TransferBatch.note, sent.batch.number, sent.error, rate=sent.rate, **values)
        if sent.unknown:
            self._p.counts["unknown"] += len(sent.batch.items)
            connect.write(told)
            return
        delivered = [(i.row.id, i.row.inode, i.row.checksum) for i in sent.delivered]
        gone = [(item.row.id, reason) for item, reason in sent.gone]
        wait = self._section.retry_wait
        conflicts = [(item.row.id, reason, wait) for item, reason in sent.conflicts]
        postponed = [(item.row.id, reason, wait) for item, reason in sent.postponed]
        failed = [(item.row, why) for item, why in sent.failed if item.row.id not in again]
        failed += [(item.row, why) for item, why in sent.unplaced]
        old_conflicts = self._old_conflicts(sent)
        given_up = self._given_up(failed) + old_conflicts
        outcomes = [(item.row.id, "DELIVERED", "") for item in sent.delivered]
        for name in _OUTCOME:
            outcomes += [(item.row.id, _OUTCOME[name], why) for item, why in getattr(sent, name)]

        def write() -> set[int]:
            recorded = HandoffFile.delivered(delivered)
            HandoffFile.vanished(gone)
            HandoffFile.conflicting(conflicts)
            HandoffFile.postponed(postponed)
            self._record_failures(failed, given_up)
            told()
            TransferBatch.settle(sent.batch.number, outcomes)
            return recorded

        recorded = connect.write(write)
        for name, count in (
            ("delivered", len(recorded)),
            ("vanished", len(gone)),
            ("conflicts", len(conflicts)),
            ("postponed", len(postponed)),
            ("failed", len(failed) + len(old_conflicts)),
        ):
            self._p.counts[name] += count
        self.quarantine(given_up)
        self.hold([item.row for item in sent.delivered if item.row.id in recorded])

    def suspected(self, batches: Sequence[Sequence[Item]], why: str) -> None:
        """Record that files failed together, and will not go alone in this pass."""
        ids = [item.row.id for items in batches for item in items]
        if ids:
            connect.write(HandoffFile.suspected, ids, why)
            self._p.counts["failed"] += len(ids)

    def cleaned(self, batches: Sequence[int]) -> None:
        """Record that nothing of some batches is left in staging."""
        if batches:
            connect.write(TransferBatch.done, batches)

    def hold(self, rows: Sequence[HandoffRow]) -> None:
        """Move delivered originals to the holding area."""
        if not rows:
            return
        result = buffers.hold(self._section, rows)
        self._must_be_held(result, rows)
        if result.strays:
            self._put_back(result)
        kept = {row.id: self._remove_copies(row, name) for row, name in result.again}
        result.held = [
            (number, kept.get(number, name), inode) for number, name, inode in result.held
        ]
        stuck = {row.id for row, _ in result.stuck}
        gone = [(number, why) for number, why in result.gone if number not in stuck]

        reasons = [(row, error, self._why_stuck(row, error)) for row, error in result.stuck]

        def write() -> None:
            HandoffFile.held(result.held)
            HandoffFile.vanished(gone)
            HandoffFile.stuck([(row.id, why) for row, _, why in reasons])

        if result.held or gone or reasons:
            connect.write(write)
        self._p.counts["held"] += len(result.held)
        for row, error, why in reasons:
            if faults.affects_every_file(error, writing=True):
                raise TryLater(why)
            self._p.counts["failed"] += 1
            self._p.warn(why, key=f"hold {names.join(row.relpath, row.filename)}")

    def _must_be_held(self, result: buffers.Holding, rows: Sequence[HandoffRow]) -> None:
        """Raise `TryLater` if holding area or buffer is another one by now; nothing is recorded."""
        holding, buffer = self._section.holding, self._section.buffer
        if not (why := self._p.roots.why_not(holding)):
            if result.gone:
                self._p.roots.require(buffer)
            return
        by_id = {row.id: buffers.path_of(self._section, row) for row in rows}
        back = [
            MovedFile(os.path.join(os.path.dirname(rel), names.from_text(name)), path)
            for (rel, path), name in ((by_id[number], name) for number, name, _ in result.held)
        ]
        told = self._p.roots.take_back(holding, back)
        raise TryLater(f"{why}; {told}" if told else why)

    def _remove_copies(self, row: HandoffRow, name: str) -> str:
        """Leave one copy in holding of a version that was sent again; return its name as recorded.

        Before it is recorded, so that a kill leaves none that nobody knows.
        """
        copies = buffers.earlier_names(row, name)
        filenames = [row.filename, *map(names.to_text, copies)]
        others = connect.read(
            HandoffFile.others_like, row.id, row.relpath, filenames, row.size_bytes
        )
        try:
            name = buffers.remove_copies(self._section, row, name, copies, others)
        except OSError as error:
            self._p.log.info("%s: an earlier copy in holding stays: %s", row.filename, error)
        return names.to_text(name)

    def _why_stuck(self, row: HandoffRow, error: OSError) -> str:
        rel, _ = buffers.path_of(self._section, row)
        where = names.printable(os.path.join(self._section.holding, rel))
        return f"{where}: delivered, but cannot be moved to holding: {error.strerror}"

    def _put_back(self, result: buffers.Holding) -> None:
        """Put back what was moved to holding instead of a delivered original, and is not delivered.

        A writer may replace a file in the moment in which it is moved; the pass that moved it was
        killed before it saw that.
        """
        handoffs = self._p.settings.names("handoff")
        times = connect.read(
            lambda: HandoffFile.delivered_times([stray.row.id for stray in result.strays])
        )
        delivered: dict[str, set[tuple[int, int, int]]] = {}
        for stray in result.strays:
            row = stray.row
            when = times.get(row.id)
            if when and stray.since + _CLOCK_TOLERANCE < when.replace(tzinfo=UTC).timestamp():
                continue
            if row.relpath not in delivered:
                delivered[row.relpath] = connect.read(
                    HandoffFile.delivered_versions, self._site, handoffs, row.relpath
                )
            if stray.version in delivered[row.relpath]:
                continue
            try:
                buffers.put_back(self._section, row, stray.name)
            except OSError as error:
                result.stuck.append((row, error))

    def quarantine(self, rows: Sequence[tuple[HandoffRow, str]]) -> None:
        """Move quarantined files out of the buffer, those of them that are still there."""
        files = []
        stayed: list[tuple[str, OSError]] = []
        buffer = buffers.Buffer(self._section)
        for row, why in rows:
            rel, path = buffers.path_of(self._section, row)
            try:
                if not buffer.gone(row, rel):
                    files.append(Rejected(path, rel, os.lstat(path), row.checksum, why))
            except FileNotFoundError:
                pass
            except OSError as error:
                stayed.append((rel, error))
        not_moved = self._quarantine.quarantine(files)
        self._p.counts["quarantined"] += len(files) - len(not_moved)
        stayed += [(file.rel, why) for file, why in not_moved]
        for rel, fault in stayed:
            if faults.affects_every_file(fault, writing=True):
                raise TryLater(f"{self._section.quarantine}: {fault.strerror}; nothing is lost")
            shown = names.printable(os.path.join(self._section.buffer, rel))
            self._p.warn(
                f"{shown}: cannot be moved to quarantine: {fault.strerror}", key=f"aside {rel}"
            )

    def recover_quarantine(self) -> None:
        """Finish moving aside what an earlier pass decided about."""
        self._quarantine.recover(self._p.refuse)
        rows = connect.read(HandoffFile.in_buffer, self._site, self._section.name, "QUARANTINED")
        rows = self._p.sound(rows, "handoff_file")
        if rows:
            reasons = connect.read(lambda: HandoffFile.reasons([row.id for row in rows]))
            self.quarantine([(row, reasons[row.id]) for row in rows])

    def _record_failures(
        self, failed: Sequence[tuple[HandoffRow, str]], given_up: Sequence[tuple[HandoffRow, str]]
    ) -> None:
        """Record failures that count and, with them, the decision to move files aside."""
        first, most = self._section.retry_wait, self._section.retry_wait_max
        HandoffFile.failed(
            [
                (row.id, why, retry.backoff(row.attempts + 1, first, most), row.attempts + 1)
                for row, why in failed
            ]
        )
        HandoffFile.quarantined([(row.id, why) for row, why in given_up])

    def _given_up(self, failed: Sequence[tuple[HandoffRow, str]]) -> list[tuple[HandoffRow, str]]:
        """Choose the files that have failed too often."""
        return [
            (row, f"gave up after attempt {row.attempts + 1}: {why}")
            for row, why in failed
            if row.attempts + 1 >= self._section.max_attempts
        ]

    def _old_conflicts(self, sent: TransferResult) -> list[tuple[HandoffRow, str]]:
        """Choose the files whose name the endpoint's buffer has had for too long."""
        if not sent.conflicts:
            return []
        now = connect.read(connect.now)
        return [
            (item.row, f"{why}, since {item.row.conflict_since:%Y-%m-%d %H:%M} UTC")
            for item, why in sent.conflicts
            if item.row.conflict_since
            and (now - item.row.conflict_since).total_seconds() >= self._section.conflict_after
        ]

    def _log(self, sent: TransferResult) -> None:
        self._p.log.info(
            "batch %d: %d files, %d bytes: %d delivered, %d failed%s%s",
            sent.batch.number,
            len(sent.batch.items),
            sent.batch.size_bytes,
            len(sent.delivered),
            len(sent.failed) + len(sent.unplaced),
            f", {sent.rate / 1e6:.1f} MB/s" if sent.rate else "",
            f": {sent.error}" if sent.error else "",
        )


#: Columns of a batch that a `TransferResult` has under the same name.
_TIMINGS: Sequence[str] = (
    "prepare_duration",
    "transfer_started",
    "transfer_duration",
    "place_started",
    "place_duration",
    "exit_status",
)

_OUTCOME: dict[str, Any] = {
    "failed": "FAILED",
    "unplaced": "FAILED",
    "gone": "VANISHED",
    "conflicts": "CONFLICT",
    "postponed": "LATER",
    "later": "LATER",
}


def attempt_prefix(site: str, handoff: str) -> str:
    """Return what the names of a handoff's directories in staging begin with, and no other's do."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in site)
    whole = hashlib.blake2b(f"{site}\0{handoff}".encode(), digest_size=4).hexdigest()
    return f"dbb-{safe}-{handoff}-{whole}-"


def is_attempt(site: str, handoff: str, attempt: str) -> bool:
    """Return whether a name is that of one of a handoff's attempts."""
    return bool(re.fullmatch(rf"{re.escape(attempt_prefix(site, handoff))}[0-9a-f]{{16}}", attempt))
