"""The handoff: everything in a buffer goes to the endpoint, and the originals to the holding area.

A pass first finishes what an earlier one left (`recovery`). Then the scan records what is
in the buffer, and batches go out in the order that an index of the database gives: while `streams`
of them are under way (`transfer`), this thread hashes the next one and moves the originals
of the last one to holding. Only this thread uses the database.

Of files that failed together one is the culprit, or a few are, and they are looked for by halves,
each half to its end before the other. That is done when nothing else is left to send, and now and
then before.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from functools import partial

from dbbbatch.areas import buffer
from dbbbatch.areas.endpoint.batch import Batch, Item, TransferResult, Unrecovered
from dbbbatch.config.sections import Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.handoff import FIRST, ORDER, HandoffFile, HandoffRow
from dbbbatch.database.models.transfer import TransferBatch
from dbbbatch.errors import TryLater
from dbbbatch.files import checksum, faults, names
from dbbbatch.passes.handoff.due_files import DueFiles
from dbbbatch.passes.handoff.outcomes import Outcomes, attempt_prefix
from dbbbatch.passes.handoff.scanning import scanned
from dbbbatch.passes.handoff.streams import Streams
from dbbbatch.passes.runner import PassContext, Work

#: Seconds of scanning before the first batch goes, in whatever order is known by then.
HEAD_START = 10.0

#: The buffer is scanned again while what the first scan found is still being sent: at most every so
#: many seconds, within which a new night may wait behind an old one, and for a tenth of the time.
RESCAN = 60.0
RESCAN_SHARE = 0.1

#: Files at a time that are looked at before a lingering pass begins again.
_LOOKED_AT = 100

#: Batches of which nothing arrives, one after the other, until it is hardly the fault of each file.
FRUITLESS = 16

#: Batches for which there is no room, one after the other, until the far end counts as full.
FULL_AFTER = 8

#: Files of a batch that failed before, alone or with others: halved four times they are alone. It
#: doubles while they arrive, since then it was not they.
TRIED = 16

#: Batches of files that failed together that are kept in memory; the others are for the next pass.
MOST_SUSPECTS = 16

#: Batches of other files between two in which a culprit is looked for.
OTHERS_FIRST = 8


class HandoffWork(Work):
    """What `dbb-handoff` does for one section."""

    kind = "handoff"

    def __init__(self, section: Handoff) -> None:
        self._section = section
        self._left = Unrecovered()

    def recover(self, p: PassContext) -> None:
        """Finish what an earlier pass left."""
        from dbbbatch.passes.handoff.recovery import recover_handoff

        buffer.require_areas(self._section, p.roots)
        self._left = recover_handoff(p, self._section)

    def work(self, p: PassContext) -> None:
        """Record what is in the buffer, and send it."""
        Scheduler(p, self._section, self._left).run()
        buffer.remove_sent_directories(p.settings.site.name, self._section)

    def plan(self, p: PassContext) -> Iterator[str]:
        """Yield what would be recovered and sent."""
        from dbbbatch.passes.handoff.plan import plan_handoff

        buffer.require_areas(self._section, p.roots)
        yield from plan_handoff(p, self._section)

    def due(self, p: PassContext) -> bool:
        """Return whether there is a file that is new or may be tried again."""
        site, section = p.settings.site.name, self._section
        due = partial(HandoffFile.due, site, section.name, longest=section.longest_wait)
        for rows in connect.pages(lambda after: due(after, _LOOKED_AT), FIRST, *ORDER):
            paths = (buffer.path_of(section, row)[1] for row in rows if not names.fault(row))
            # Else one that a writer keeps open would have pass follow upon pass.
            if not all(map(checksum.is_being_written, paths)):
                return True
        if not os.path.isdir(section.buffer):
            return False
        return any(
            connect.read(HandoffFile.unknown, site, section.name, chunk)
            for chunk in scanned(p, section)
        )

    def watched(self) -> list[str]:
        """Return the buffer."""
        return [self._section.buffer]


class Scheduler:
    """One pass over the buffer: scan, batches, and what comes of them."""

    def __init__(self, p: PassContext, section: Handoff, left: Unrecovered) -> None:
        self._p = p
        self._section = section
        self._site = p.settings.site.name
        self._left = left
        self._outcomes = Outcomes(p, section)
        self._streams = Streams(p, section)
        # Nothing is sent while the far end cannot be asked what it has; the scan is recorded.
        self._streams.trouble = left.trouble
        self._scan: Iterator[list[HandoffRow]] | None = scanned(p, section)
        self._scanned = 0
        self._scanning = 0.0
        self._total: int | None = None
        self._next_scan = float("inf")
        self._backlog = 0
        self._backlog_goes = False
        # Also those that are not to be sent in this pass, or not again.
        self._under_way = set(left.files)
        # Of these directories nothing can be sent, or placed, in this pass.
        refused = self._streams.evidence.refused
        self._new = DueFiles(p, section, False, self._under_way, refused)
        self._tried = DueFiles(p, section, True, self._under_way, refused)
        self._most_tried = TRIED
        self._others = 0
        # The next one is the last.
        self._failed_before: list[list[Item]] = []
        self._smaller: list[list[Item]] = []
        self._fruitless = 0
        self._failure = ""
        self._out_of_space = 0
        self._no_room: TryLater | None = None
        self._postponed: TryLater | None = None

    def run(self) -> None:
        """Scan and send until nothing is left to send, or the pass is to stop."""
        try:
            self._run()
        finally:
            self._streams.close()

    def _run(self) -> None:
        head_start = time.monotonic() + HEAD_START
        while self._scan and not self._p.stopping and time.monotonic() < head_start:
            self._scan_on()
        while True:
            for sent in self._streams.finished():
                self._settle(sent)
            if self._may_send() and self._streams.wants_more and self._send_next():
                continue
            if self._scan_due() and not self._p.stopping:
                self._scan_on()
            elif self._streams.busy:
                self._streams.wait()
            elif not self._may_send() or not self._more():
                break
        self._outcomes.suspected(self._failed_before, self._failure)
        self._outcomes.cleaned(self._streams.finish())
        if self._p.interrupted:
            return
        if trouble := self._streams.trouble or self._no_room or self._left.refused:
            raise trouble
        if self._fruitless >= FRUITLESS:
            raise TryLater(
                f"of {FRUITLESS} batches in a row no file arrived, the last time: {self._failure}"
            )
        if self._postponed:
            raise self._postponed

    def _may_send(self) -> bool:
        return (
            not self._p.out_of_time
            and not self._streams.trouble
            and self._fruitless < FRUITLESS
            and self._out_of_space < FULL_AFTER
        )

    def _scan_due(self) -> bool:
        """Return whether there is something to scan; begin to scan again if it is time.

        Only if something of the first scan has gone since: a writer that is faster than we must
        not keep the pass from ending.
        """
        due = self._backlog_goes and time.monotonic() >= self._next_scan
        if not self._scan and due and self._may_send():
            self._backlog_goes = False
            self._scan = scanned(self._p, self._section)
            self._scanned, self._scanning = self._p.counts["delivered"], 0.0
        return self._scan is not None

    def _scan_on(self) -> None:
        """Record the next chunk of the buffer."""
        assert self._scan is not None
        began = time.monotonic()
        with faults.as_try_later(self._section.buffer):
            chunk = next(self._scan, None)
        if chunk is not None:
            connect.write(HandoffFile.found, self._site, self._section.name, chunk)
            self._scanned += len(chunk)
        now = time.monotonic()
        self._scanning += now - began
        if chunk is None:
            self._scan, self._total = None, self._scanned
            self._backlog = self._backlog or connect.read(HandoffFile.newest)
            self._next_scan = now + max(RESCAN, self._scanning / RESCAN_SHARE)
            self._tried.rewind()
        # What was just found may come before what was sent last.
        self._new.rewind()

    def _more(self) -> bool:
        """Return whether there is something left to send."""
        return bool(self._smaller or self._failed_before or self._peek(self._new, self._tried))

    def _peek(self, *queues: DueFiles) -> bool:
        """Return whether one has a file that is to be taken."""
        return not self._p.stopping and any(queue.peek() for queue in queues)

    def _send_next(self) -> bool:
        """Put together the next batch and send it off; False if there is none."""
        if not self._more():
            return False
        try:
            self._p.must_have_room()
        except TryLater as error:
            self._streams.trouble = error  # what is under way is still settled
            return False
        self._streams.start()
        items, tried = self._choose()
        if not items or not self._streams.connected():
            return False
        prefix = attempt_prefix(self._site, self._section.name)
        batch = Batch(f"{prefix}{secrets.token_hex(8)}", items, tried=tried)
        ids = [item.row.id for item in items]
        size = batch.size_bytes
        batch.number = connect.write(
            TransferBatch.begin,
            self._p.run_id,
            self._site,
            self._section.name,
            batch.attempt,
            ids,
            size,
        )
        self._under_way.update(ids)
        self._streams.send(batch)
        return True

    def _choose(self) -> tuple[list[Item], bool]:
        """Choose the files of the next batch; also tell whether they failed before."""
        if self._smaller:
            return self._smaller.pop(), False
        others = self._peek(self._new)
        if others and self._others < OTHERS_FIRST:
            self._others += 1
            return self._take(self._new, self._section.batch_files), False
        self._others = 0
        if self._failed_before:
            return self._failed_before.pop(), True
        if self._peek(self._tried):
            return self._take(self._tried, self._fewer()), True
        return self._take(self._new, self._section.batch_files), False

    def _fewer(self) -> int:
        """Return how many that failed before go together: a search goes on where a pass left it."""
        most = min(self._most_tried, self._section.batch_files)
        row = self._tried.peek()
        together = connect.read(TransferBatch.failed_with, row.id) if row else 0
        return min(most, together // 2) if together > 1 else most

    def _take(self, queue: DueFiles, files: int) -> list[Item]:
        """Take the next files, in order, until a batch is full; look at them and hash them."""
        rows = queue.take(files, self._section.batch_bytes)
        # Those of a conflict come back again and again.
        if any(row.id <= self._backlog and not row.conflict_since for row in rows):
            self._backlog_goes = self._backlog_goes or queue is self._new
        taken = buffer.take(self._section, rows)
        self._outcomes.note_taken(taken, rows)
        # Where reading them took all the time they are not sent now; their checksums are kept.
        return [] if self._p.out_of_time else taken.items

    def _settle(self, sent: TransferResult) -> None:
        """Record what came of a batch, and move delivered originals on; divide what failed."""
        again: list[list[Item]] = []
        if sent.no_room:
            left = [item for item, _ in sent.later]
            self._out_of_space += 1
            if len(left) > 1:
                again = _halves(left)
                self._smaller += reversed(again)
            if len(left) == 1 or self._out_of_space == FULL_AFTER:
                self._no_room = self._no_room or TryLater(sent.error)
        elif sent.transfer_started:
            self._out_of_space = 0
        elif sent.batch.tried and sent.later:  # the pass ends
            self._failed_before.append([item for item, _ in sent.later])
        if len(sent.batch.items) > 1 and sent.failed:
            items = [item for item, _ in sent.failed]
            again = [items] if sent.delivered else _halves(items)
            self._failed_before += reversed(again)
            self._outcomes.suspected(self._failed_before[:-MOST_SUSPECTS], sent.failed[0][1])
            del self._failed_before[:-MOST_SUSPECTS]
        if sent.postponed:
            self._failure = sent.postponed[0][1]
            self._postponed = self._postponed or TryLater(f"{self._failure}; no file is charged")
        if sent.delivered:
            self._fruitless = 0
        elif sent.failed or sent.postponed:
            self._fruitless += 1
        if sent.failed:
            self._failure = sent.failed[0][1]
            self._most_tried = TRIED
        elif sent.delivered and sent.batch.tried:
            self._most_tried *= 2
        ids = {item.row.id for items in again for item in items}
        self._outcomes.settle(sent, ids)
        done = {item.row.id for item in sent.batch.items} - ids
        if not sent.no_room:
            self._under_way -= done
        # They may have been read once more while they were under way.
        self._new.drop(done)
        self._tried.drop(done)
        if not sent.unknown:
            self._streams.clean(sent.batch)
        self._p.progress(self._p.counts["delivered"], self._total)


def _halves(items: list[Item]) -> list[list[Item]]:
    """Divide files in two, or one file in itself."""
    middle = len(items) // 2
    return [some for some in (items[:middle], items[middle:]) if some]
