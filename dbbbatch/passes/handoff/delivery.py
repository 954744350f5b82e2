"""The delivery of batches to the endpoint.

intend   Insert the batch and its files, with the name of a directory in staging, never used twice.
act      Send the files to that directory, verify them there, place them in the endpoint's buffer.
         What the built-in stream reads of a file is recorded between sending and placing.
record   What came of each file. Those that are DELIVERED now are the intent of `holding`.
recover  Is the directory in staging? It is the receipt: what was verified there and has left it was
         placed, what arrived is verified and placed, and the rest is sent again. All is sent again
         if it is not recorded what was read: nothing was placed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Sequence

from dbbbatch.areas.endpoint.batch import (
    Batch,
    Prepared,
    SendStatus,
    TransferResult,
    kept_name,
)
from dbbbatch.areas.endpoint.session import Refused
from dbbbatch.areas.endpoint.transfer import Sender, probe_of, probe_of_directory
from dbbbatch.config.sections import Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.handoff import HandoffFile, HandoffRow
from dbbbatch.database.models.statuses import BatchStatus
from dbbbatch.database.models.transfer import TransferBatch
from dbbbatch.errors import DbbError
from dbbbatch.files import checksum, names
from dbbbatch.files.tree import outside
from dbbbatch.passes.context import PassContext
from dbbbatch.passes.handoff.failures import Failures
from dbbbatch.passes.handoff.holding import Originals
from dbbbatch.passes.handoff.siblings import Siblings
from dbbbatch.process import family

#: The outcomes that `transfer_attempt` records under another name.
_RECORDED_AS = {
    SendStatus.UNREADABLE: "FAILED",
    SendStatus.UNPLACED: "FAILED",
    SendStatus.POSTPONED: "LATER",
}


#: The outcomes of files that failed.
_FAILURES = (SendStatus.FAILED, SendStatus.UNREADABLE, SendStatus.UNPLACED)


def lists_directory(state: str) -> str:
    """Return the directory of the lists that ``{files_from}`` names."""
    return os.path.join(state, "lists")


def attempt_prefix(site: str, handoff: str) -> str:
    """Return what the names of a handoff's directories in staging begin with, and no other's do."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in site)
    whole = hashlib.blake2b(f"{site}\0{handoff}".encode(), digest_size=4).hexdigest()
    return f"dbb-{safe}-{handoff}-{whole}-"


class Delivery:
    """Sends batches, and records what came of them.

    Attributes
    ----------
    trouble : `DbbError` or `None`
        Recovery could not ask the far end: nothing may be sent.
    refused : `DbbError` or `None`
        The far end could not do what recovery asked for some batches.
    unknown_files : `set` [ `int` ]
        Ids of the files of these batches; it is not known whether they are there.
    """

    def __init__(self, context: PassContext, section: Handoff) -> None:
        self.context = context
        self.failures = Failures(context, section)
        self.originals = Originals(context, section)
        self.siblings = Siblings(context, section)
        self._section = section
        self._site = context.settings.site.name
        self._buffer = context.roots.tree(section.buffer)
        self._prefix = attempt_prefix(self._site, section.name)
        # The first versions left out the digest.
        own = rf"({re.escape(self._prefix)}|{re.escape(self._prefix[:-9])})[0-9a-f]{{16}}"
        self._own_attempt = re.compile(own)
        self.trouble: DbbError | None = None
        self.refused: DbbError | None = None
        self.unknown_files: set[int] = set()

    def intend(self, items: list[Prepared], *, failed_before: bool) -> Batch:
        """Record that files are about to be sent together."""
        batch = Batch(f"{self._prefix}{secrets.token_hex(8)}", items, failed_before=failed_before)
        batch.number = connect.write(
            TransferBatch.begin,
            self.context.run_id,
            self._site,
            self._section.name,
            batch.attempt,
            [item.row.id for item in items],
            batch.size_bytes,
        )
        return batch

    def act(self, sender: Sender, batch: Batch) -> TransferResult:
        """Send a batch, unless the pass is to end; in a thread, and without the database."""
        if not self.context.interrupted:
            return sender.send(batch)
        result = TransferResult(batch, error="the pass was asked to end")
        result.settle_rest(SendStatus.LATER, result.error)
        return result

    def record_read(self, result: TransferResult) -> None:
        """Record what was read of the files of a batch while they were sent."""
        batch = result.batch
        read = [item.row for item in batch.items if item.digest]
        sent = {item.row.id for item in result.unsettled()}
        sums = [
            (item.row.id, (item.row.checksum or "") if item.row.id in sent else "")
            for item in batch.items
        ]

        def write() -> None:
            HandoffFile.read([(row.id, row.inode, row.checksum) for row in read])
            TransferBatch.read(batch.number, sums)

        connect.write(write)

    def record(self, result: TransferResult) -> None:
        """Record what came of a batch; move delivered originals on, and give files up."""
        batch, counts = result.batch, self.context.counts
        self._log(result)
        if result.unknown:
            counts["unknown"] += len(batch.items)
            connect.write(TransferBatch.note, batch.number, result.error, **result.timings)
            return
        delivered = [item for item, _ in result.having(SendStatus.DELIVERED)]
        gone = [(item.row.id, why) for item, why in result.having(SendStatus.VANISHED)]
        wait = self._section.retry_wait
        conflicts = [(item.row.id, why, wait) for item, why in result.having(SendStatus.CONFLICT)]
        postponed = [(item.row.id, why, wait) for item, why in result.having(SendStatus.POSTPONED)]
        suspects = result.suspects
        charged = [SendStatus.UNREADABLE, SendStatus.UNPLACED]
        charged += [] if suspects else [SendStatus.FAILED]
        failed = [(item.row, why) for item, why in result.having(*charged)]
        old_conflicts = self._old_conflicts(result)
        if self._section.siblings:  # another endpoint may take them: they stay in the buffer
            failed, old_conflicts = failed + old_conflicts, []
        read = [item.row for item in delivered] if self._section.has_stream else []
        given_up = self.failures.given_up(failed) + old_conflicts
        outcomes = [
            (number, _RECORDED_AS.get(fate.status, fate.status.value), fate.reason)
            for number, fate in result.fate_of.items()
        ]

        def write() -> set[int]:
            if not result.recorded:  # those that the endpoint's buffer has were read
                HandoffFile.read([(row.id, row.inode, row.checksum) for row in read])
            recorded = self.originals.intend(delivered)
            HandoffFile.vanished(gone)
            HandoffFile.conflicting(conflicts)
            HandoffFile.postponed(postponed)
            self.failures.write(failed, given_up)
            if suspects:
                HandoffFile.suspected([item.row.id for item, _ in suspects], suspects[0][1])
            TransferBatch.note(batch.number, result.error, **result.timings)
            TransferBatch.settle(batch.number, outcomes)
            return recorded

        recorded = connect.write(write)
        size = sum(item.size_bytes for item in delivered if item.row.id in recorded)
        self.context.did("delivered", len(recorded), size)
        for name, count in (
            ("conflicts", len(conflicts)),
            ("postponed", len(postponed)),
            ("failed", len(failed) + len(old_conflicts)),
        ):
            counts[name] += count
        self.failures.count_gone(gone)
        self.failures.quarantine(given_up)
        self.originals.hold([item.row for item in delivered if item.row.id in recorded])

    def recover(self) -> None:
        """Finish the batches of earlier passes, and note what could not be finished."""
        self._remove_lists()
        batches = []
        for batch in connect.read(TransferBatch.unfinished, self._site, self._section.name):
            # What runs with this name is killed, and what lies under it is removed.
            if self._own_attempt.fullmatch(batch.attempt):
                batches.append(batch)
            else:
                why = f"{batch.attempt!r} is no attempt of ours"
                self.context.refuse("transfer_batch", batch.id, why)
        if not batches:
            return
        try:
            lists = lists_directory(self.context.settings.site.state)
            sender = Sender(self._section, self._buffer, lists)
            with sender.session:
                sender.session.open()
                for batch in batches:
                    self._recover_batch(sender, batch)
        except DbbError as error:
            self.trouble = error

    def clean(self, sender: Sender, batch: TransferBatch) -> None:
        """Remove what is left of a batch in staging; if that is refused, it does no harm."""
        try:
            sender.clean(batch.attempt)
            sender.clean(probe_of(batch.attempt))
        except Refused as error:
            where = f"{self._section.endpoint.staging}/{batch.attempt}*"
            self.context.warn(
                f"{where} cannot be removed, which is tried again: {error}", key="tidy"
            )
        else:
            connect.write(TransferBatch.done, [batch.id])

    def _recover_batch(self, sender: Sender, batch: TransferBatch) -> None:
        if batch.status == BatchStatus.OPEN:
            rows = connect.read(HandoffFile.of_batch, batch.id)
            rows = self.context.sound(rows, "handoff_file")
            try:
                result = self._take_over(sender, batch, rows)
            except Refused as error:
                self.refused = self.refused or error
                self.unknown_files.update(row.id for row in rows)
                return
            self.context.counts["recovered"] += len(list(result.having(SendStatus.DELIVERED)))
            self.record(result)
        self.clean(sender, batch)

    def _take_over(
        self, sender: Sender, row: TransferBatch, rows: Sequence[HandoffRow]
    ) -> TransferResult:
        """Find out how far a batch came, and finish what has arrived."""
        family.end_naming(row.attempt.encode())
        items = []
        for file in rows:  # it is known what was sent of them, so they have a checksum
            _, digest = checksum.parse(file.checksum or "")
            items.append(Prepared(file, names.rel_of(file), digest))
        for directory in {"", *(item.directory for item in items)}:
            with contextlib.suppress(OSError):  # the janitor removes it
                probe_of_directory(self._section, self._buffer, directory).remove()
        result = TransferResult(Batch(row.attempt, items, row.id), error="the pass was interrupted")
        sender.session.end(row.attempt)
        state = sender.session.take_over(row.attempt)
        taken_over = f"{row.attempt}.r"
        was_read = connect.read(TransferBatch.was_read, row.id)
        if was_read and state == "verified":
            receipt = sender.session.receipt(taken_over)
            sender.place(taken_over, [item for item in items if item.raw in receipt], result)
        elif was_read and state == "arrived" and items:
            sender.verify_and_place(taken_over, items, result, cut_off=True)
        # A checksum may be known from an earlier delivery: not all of the file need have arrived.
        if state == "arrived" and not result.fate_of and (items or not was_read):
            self._keep_part(sender, row)
        result.settle_rest(SendStatus.LATER, result.error)
        return result

    def _keep_part(self, sender: Sender, batch: TransferBatch) -> None:
        """Keep what arrived of a long file, so that the next batch continues it."""
        section = self._section
        if section.has_stream and batch.files == 1 and batch.size_bytes >= section.resume_from:
            (number,) = connect.read(TransferBatch.files_of, batch.id)
            sender.session.keep(f"{batch.attempt}.r", kept_name(batch.attempt, number))

    def _remove_lists(self) -> None:
        """Remove the lists of killed passes: no other pass of this section is at work here."""
        directory = lists_directory(self.context.settings.site.state)
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(directory):
                if name.startswith(self._prefix):
                    outside(os.path.join(directory, name)).unlink()

    def _old_conflicts(self, result: TransferResult) -> list[tuple[HandoffRow, str]]:
        """Return the files whose name the endpoint's buffer has had for too long."""
        conflicts = [
            (item.row, item.row.conflict_since, why)
            for item, why in result.having(SendStatus.CONFLICT)
            if item.row.conflict_since
        ]
        if not conflicts:
            return []
        now = connect.read(connect.now)
        return [
            (row, f"{why}, since {since:%Y-%m-%d %H:%M} UTC")
            for row, since, why in conflicts
            if (now - since).total_seconds() >= self._section.conflict_after
        ]

    def _log(self, result: TransferResult) -> None:
        rate = result.timings["rate"]
        self.context.log.info(
            "batch %d: %s, %s: %d delivered, %d failed%s%s",
            result.batch.number,
            names.counted(len(result.batch.items), "file"),
            names.counted(result.batch.size_bytes, "byte"),
            len(list(result.having(SendStatus.DELIVERED))),
            len(list(result.having(*_FAILURES))),
            f", {rate / 1e6:.1f} MB/s" if rate else "",
            f": {result.error}" if result.error else "",
        )
