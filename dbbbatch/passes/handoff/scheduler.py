"""What the pass of a handoff does next: scan the buffer, send a batch, wait for one, or end.

The scan records what is in the buffer, and batches go out in the order that an index of the table
gives: while `streams` of them are under way, this thread hashes the next one and moves the
originals of the last one to holding. Only this thread uses the database.

Files that failed together are tried again in smaller batches, each half the size of the one that
failed, until those to blame are alone. What is new goes first, but the search has its turn now and
then. The table has all that it needs, so a later pass carries on where this one ends.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple

from dbbbatch.areas import buffer
from dbbbatch.areas.endpoint.batch import FileFate, Prepared, SendStatus, TransferResult
from dbbbatch.config.sections import Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.handoff import HandoffFile, HandoffRow
from dbbbatch.database.models.transfer import TransferBatch
from dbbbatch.errors import TryLater
from dbbbatch.files import faults, names
from dbbbatch.passes.context import PassContext
from dbbbatch.passes.handoff.delivery import Delivery
from dbbbatch.passes.handoff.due_files import DueFiles
from dbbbatch.passes.handoff.pace import BatchSize, first_size, next_size
from dbbbatch.passes.handoff.scanning import scanned
from dbbbatch.passes.handoff.streams import KeptSession, Streams

#: Seconds of scanning before the first batch goes, in whatever order is known by then.
HEAD_START = 10.0

#: The buffer is scanned again while what the first scan found is still being sent: at most every so
#: many seconds, within which a new night may wait behind an old one, and for a tenth of the time.
RESCAN = 60.0
RESCAN_SHARE = 0.1

#: Batches in a row of which nothing arrives, until it is hardly the fault of each file.
FRUITLESS = 16

#: Batches in a row for which there is no room, until the far end counts as full.
FULL_AFTER = 8

#: Files that failed before that go together at first: halved four times they are alone. The number
#: doubles while they arrive, since then they were not to blame.
RETRIED_TOGETHER = 16

#: Batches of other files between two of files that failed before.
OTHERS_FIRST = 8


class Action(Enum):
    """What a pass does next."""

    SCAN = auto()
    SEND = auto()
    WAIT = auto()
    END = auto()


class State(NamedTuple):
    """What decides what a pass does next.

    Attributes
    ----------
    scanning : `bool`
        A part of the buffer is still to be scanned.
    head_start : `bool`
        The pass began a moment ago: the scan goes first, for the sake of the order.
    ready : `bool`
        Files wait, and may be sent, and a stream is free for them or soon will be.
    under_way : `bool`
        A batch is being sent.
    """

    scanning: bool
    head_start: bool
    ready: bool
    under_way: bool


def next_action(state: State) -> Action:
    """Return what a pass does next."""
    if state.scanning and state.head_start:
        return Action.SCAN
    if state.ready:
        return Action.SEND
    if state.scanning:
        return Action.SCAN
    return Action.WAIT if state.under_way else Action.END


class Scheduler:
    """One pass over the buffer: scan, batches, and what comes of them."""

    def __init__(
        self,
        context: PassContext,
        section: Handoff,
        delivery: Delivery,
        kept: KeptSession | None = None,
    ) -> None:
        self.context = context
        self._section = section
        self._delivery = delivery
        self._streams = Streams(context, section, delivery.act, kept)
        # Nothing is sent while the far end cannot be asked what it has; the scan is recorded.
        self._streams.trouble = delivery.trouble
        self._buffer = context.roots.tree(section.buffer)
        self._scan: Iterator[list[HandoffRow]] | None = scanned(context, section, self._buffer)
        self._head_start = time.monotonic() + HEAD_START
        self._begin_count()
        self._next_scan = float("inf")
        self._backlog = 0
        self._backlog_goes = False
        # Also those that are not to be sent in this pass, or not again.
        self._under_way = set(delivery.unknown_files)
        # Those that failed together in this pass and have not been tried again since.
        self._suspects: set[int] = set()
        self._new = DueFiles(context, section, False, self._may_go, self._largest)
        self._failed_before = DueFiles(
            context, section, True, self._may_go, self._largest, self._suspects
        )
        self._most_retried = RETRIED_TOGETHER
        self._others = 0
        # Batches that had no room; the next one is the last.
        self._smaller: list[list[Prepared]] = []
        self._limit = BatchSize(section.batch_files, section.batch_bytes)
        self._size = first_size(self._limit) if section.has_stream else self._limit
        self._out_of_space = 0
        self._no_room: TryLater | None = None
        self._fruitless = 0
        self._failure = ""
        self._postponed: TryLater | None = None

    def run(self) -> None:
        """Scan and send until nothing is left to send, or the pass is to stop."""
        steps = {
            Action.SCAN: self._scan_on,
            Action.SEND: self._send_next,
            Action.WAIT: self._streams.wait,
        }
        try:
            while (action := next_action(self._state())) is not Action.END:
                steps[action]()
                self._record_read()
                for result in self._streams.finished():
                    # What was read is recorded before what came of it.
                    self._record_read()
                    self._settle(result)
            if done := self._streams.cleaned():
                connect.write(TransferBatch.done, done)
        finally:
            self._streams.close()
        self.context.counts["failed"] += len(self._suspects)
        if self.context.interrupted:
            return
        if trouble := self._streams.trouble or self._no_room or self._delivery.refused:
            raise trouble
        if self._fruitless >= FRUITLESS:
            raise TryLater(
                f"of {FRUITLESS} batches in a row no file arrived, the last time: {self._failure}",
                key=f"{self._section.label}: no file arrives",
            )
        if self._postponed:
            raise self._postponed

    def _state(self) -> State:
        scanning = self._scan_is_due() and not self.context.stopping
        head_start = time.monotonic() < self._head_start
        ready = (
            not (scanning and head_start)
            and self._may_send()
            and self._streams.wants_more
            and self._has_more()
        )
        return State(scanning, head_start, ready, self._streams.busy)

    def _may_send(self) -> bool:
        return (
            not self.context.out_of_time
            and not self._streams.trouble
            and self._fruitless < FRUITLESS
            and self._out_of_space < FULL_AFTER
        )

    def _may_go(self, row: HandoffRow) -> bool:
        """Return whether a file may be sent now."""
        # Of these directories nothing can be sent, or placed, in this pass.
        refused = self._streams.evidence.refused
        if row.id in self._under_way or (refused and names.from_text(row.relpath) in refused):
            return False
        return not self.context.options.match or self.context.matches(names.rel_of(row))

    def _largest(self) -> float:
        """Return the most bytes of a file that may be sent now: others wait until a long one is."""
        if not self._section.has_stream or self._streams.takes_long:
            return float("inf")
        return self._size.size_bytes

    def _has_more(self) -> bool:
        return bool(self._smaller or self._new.peek() or self._failed_before.peek())

    def _scan_is_due(self) -> bool:
        """Return whether there is something to scan; begin to scan again if it is time.

        Only if some of what the first scan found was sent since: a writer that is faster than the
        line must not keep the pass from ending.
        """
        due = self._backlog_goes and time.monotonic() >= self._next_scan
        if not self._scan and due and self._may_send():
            self._backlog_goes = False
            self._scan = scanned(self.context, self._section, self._buffer)
            self._begin_count()
        return self._scan is not None

    def _begin_count(self) -> None:
        """Begin to count what the pass has to do: what is delivered has left the buffer."""
        self._scanned, self._scanned_size = (
            self.context.counts["delivered"],
            self.context.size_bytes,
        )
        self._scanning = 0.0

    def _scan_on(self) -> None:
        """Record the next chunk of the buffer."""
        assert self._scan is not None
        self.context.bar.doing("looking at the buffer")
        began = time.monotonic()
        with faults.as_try_later(self._section.buffer):
            chunk = next(self._scan, None)
        if chunk is not None:
            self._delivery.siblings.record_found(self._section.name, chunk)
            self._scanned += len(chunk)
            self._scanned_size += sum(row.size_bytes for row in chunk)
        self.context.bar.expect(self._scanned, self._scanned_size, more=chunk is not None)
        now = time.monotonic()
        self._scanning += now - began
        if chunk is None:
            self._scan = None
            self._backlog = self._backlog or connect.read(HandoffFile.newest)
            self._next_scan = now + max(RESCAN, self._scanning / RESCAN_SHARE)
            self._failed_before.rewind()
        # What was just found may come before what was sent last.
        self._new.rewind()

    def _send_next(self) -> None:
        """Send the next batch."""
        try:
            self.context.must_have_room()
        except TryLater as error:
            self._streams.trouble = error  # what is under way is still recorded
            return
        self._streams.start()
        items, failed_before = self._choose()
        if not items or not self._streams.connected(more=self._has_more()):
            return
        batch = self._delivery.intend(items, failed_before=failed_before)
        batch.long = len(items) == 1 and batch.size_bytes > self._size.size_bytes
        self._under_way.update(item.row.id for item in items)
        self._streams.send(batch)
        self.context.bar.doing("sending", len(items), batch.size_bytes)

    def _choose(self) -> tuple[list[Prepared], bool]:
        """Choose the files of the next batch; return them, and whether they failed before."""
        if self._smaller:
            return self._smaller.pop(), False
        new, failed_before = self._new.peek(), self._failed_before
        if new and self._others < OTHERS_FIRST:
            self._others += 1
        else:
            self._others = 0
            if row := failed_before.peek():
                together = connect.read(TransferBatch.failed_with, row.id)
                most = min(self._most_retried, self._size.files)
                if together > 1:
                    most = min(most, together // 2)
                return self._take(failed_before, most), True
        return self._take(self._new, self._size.files), False

    def _take(self, queue: DueFiles, files: int) -> list[Prepared]:
        """Take the next files, in order, until a batch is full; prepare them."""
        rows = queue.take(files, self._size.size_bytes)
        # Those of a conflict come back again and again.
        if any(row.id <= self._backlog and not row.conflict_since for row in rows):
            self._backlog_goes = self._backlog_goes or queue is self._new
        read = not self._section.has_stream
        if read:
            self.context.bar.doing("reading", len(rows), sum(row.size_bytes for row in rows))
        with self._delivery.siblings.sums(rows, read=read) as known:
            found = list(buffer.prepare_files(self._section, self._buffer, known, read=read))
            self._delivery.failures.record_prepared(rows, found)
        self._suspects.difference_update(
            row.id for row, item in zip(rows, found, strict=True) if isinstance(item, FileFate)
        )
        # Where reading them took all the time they are not sent now; their checksums are kept.
        if self.context.out_of_time:
            return []
        return [item for item in found if isinstance(item, Prepared)]

    def _record_read(self) -> None:
        """Record what was read for batches under way, which wait for that before they place it."""
        for recording in self._streams.to_record():
            self._delivery.record_read(recording.result)
            recording.done.set_result(None)

    def _settle(self, result: TransferResult) -> None:
        """Record what came of a batch, move delivered originals on, and note what follows."""
        self._delivery.record(result)
        self._resize(result)
        ids = {item.row.id for item in result.batch.items}
        if result.no_room:
            self._divide(result)
        else:
            if result.transfer_started:
                self._out_of_space = 0
            self._under_way -= ids
        self._note_failures(result)
        # They may have been read once more while they were under way.
        self._new.drop(ids)
        self._failed_before.drop(ids)
        if result.suspects:
            self._failed_before.rewind()
        if not result.unknown:
            self._streams.clean(result.batch)

    def _resize(self, result: TransferResult) -> None:
        """Choose how much goes into the next batch, by the time that one took."""
        if not self._section.has_stream or not result.place_duration:
            return
        ended = BatchSize(len(result.batch.items), result.batch.size_bytes)
        spent = result.place_duration + (result.transfer_duration or 0)
        self._size = next_size(self._size, ended, spent, self._limit)

    def _divide(self, result: TransferResult) -> None:
        """Send a batch for which there was no room in two halves, unless it is one file."""
        left = [item for item, _ in result.having(SendStatus.LATER)]
        self._out_of_space += 1
        if len(left) > 1:
            middle = len(left) // 2
            self._smaller += [left[middle:], left[:middle]]
        if len(left) == 1 or self._out_of_space == FULL_AFTER:
            self._no_room = self._no_room or TryLater(
                result.error, key=self._section.endpoint.key_of_full
            )

    def _note_failures(self, result: TransferResult) -> None:
        delivered = any(result.having(SendStatus.DELIVERED))
        failed = [why for _, why in result.having(SendStatus.FAILED)]
        postponed = [why for _, why in result.having(SendStatus.POSTPONED)]
        if postponed:
            self._failure = postponed[0]
            self._postponed = self._postponed or TryLater(f"{self._failure}; no file is charged")
        if delivered:
            self._fruitless = 0
        elif failed or postponed:
            self._fruitless += 1
        if failed:
            self._failure = failed[0]
            self._most_retried = RETRIED_TOGETHER
        elif delivered and result.batch.failed_before:
            self._most_retried *= 2
        self._suspects.difference_update(
            number for number, fate in result.fate_of.items() if fate.status != SendStatus.LATER
        )
        self._suspects.update(item.row.id for item, _ in result.suspects)
