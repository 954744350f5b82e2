"""The handoff: everything in a buffer goes to the endpoint, and the originals to the holding area.

A pass first finishes what an earlier one left (`recovery`). Then the scan records what is
in the buffer, and batches go out in the order that an index of the database gives: while `streams`
of them are under way (`transfer`), this thread hashes the next one and moves the originals
of the last one to holding. Only this thread uses the database.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import deque
from collections.abc import Iterator
from functools import partial

from dbbbatch.config import Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.handoff import (
    FIRST,
    HandoffFile,
    Seen,
    TransferBatch,
    Waiting,
)
from dbbbatch.errors import DbbError, TryLater
from dbbbatch.files import place
from dbbbatch.passes.base import Pass, Work
from dbbbatch.passes.handoff import sources
from dbbbatch.passes.handoff.batch import Batch, Item, Sent
from dbbbatch.passes.handoff.outcomes import Outcomes, attempt_prefix
from dbbbatch.passes.handoff.scanning import scanned
from dbbbatch.passes.handoff.streams import Streams

#: Seconds of scanning before the first batch goes, in whatever order is known by then.
HEAD_START = 10.0

#: Batches of which nothing arrives, one after the other, until the transfer command is to blame.
FRUITLESS = 16


class HandoffWork(Work):
    """What `dbb-handoff` does for one section."""

    kind = "handoff"

    def __init__(self, section: Handoff) -> None:
        self._section = section
        self._trouble: DbbError | None = None

    def recover(self, p: Pass) -> None:
        """Finish what an earlier pass left."""
        from dbbbatch.passes.handoff.recovery import recover

        sources.check(self._section)
        self._trouble = recover(p, self._section)

    def work(self, p: Pass) -> None:
        """Record what is in the buffer, and send it."""
        Line(p, self._section, self._trouble).run()
        place.remove_empty_directories(self._section.buffer, self._section.expiration)

    def plan(self, p: Pass) -> Iterator[str]:
        """Say what would be recovered and sent."""
        from dbbbatch.passes.handoff.plan import plan

        sources.check(self._section)
        yield from plan(p, self._section)

    def due(self, p: Pass) -> bool:
        """Tell whether there is a file that is new or may be tried again."""
        site, section = p.settings.site.name, self._section
        if connect.look(lambda: HandoffFile.due(site, section.name, FIRST, 1)):
            return True
        if not os.path.isdir(section.buffer):
            return False
        return any(
            connect.look(partial(HandoffFile.unknown, site, section.name, chunk))
            for chunk in scanned(p, section)
        )

    def watched(self) -> list[str]:
        """Give the buffer."""
        return [self._section.buffer]


class Line:
    """One pass over the buffer: scan, batches, and what comes of them."""

    def __init__(self, p: Pass, section: Handoff, trouble: DbbError | None) -> None:
        self._p = p
        self._section = section
        self._site = p.settings.site.name
        self._outcomes = Outcomes(p, section)
        self._streams = Streams(p, section)
        # Nothing is sent while the far end cannot be asked what it has; the scan is recorded.
        self._streams.trouble = trouble
        self._scan: Iterator[list[Seen]] | None = scanned(p, section)
        self._scanned = 0
        self._cursor = FIRST
        self._page: deque[Waiting] = deque()
        self._exhausted = False
        self._again: deque[list[Item]] = deque()
        self._fruitless = 0
        self._under_way: set[int] = set()

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
            if self._may_send() and self._streams.hungry and self._send_next():
                continue
            if self._scan and not self._p.stopping:
                self._scan_on()
            elif self._streams.busy:
                self._streams.wait()
            elif not self._may_send() or not self._more():
                break
        self._outcomes.cleaned(self._streams.finish())
        if self._streams.trouble and not self._p.interrupted:
            raise self._streams.trouble
        if self._fruitless >= FRUITLESS:
            raise TryLater("the transfer command fails for every file; `dbb status` says why")

    def _may_send(self) -> bool:
        return not self._p.stopping and not self._streams.trouble and self._fruitless < FRUITLESS

    def _scan_on(self) -> None:
        """Record the next chunk of the buffer."""
        assert self._scan is not None
        try:
            chunk = next(self._scan, None)
        except OSError as error:
            raise TryLater(f"{self._section.buffer}: {error.strerror}") from None
        if chunk is None:
            self._scan = None
        else:
            connect.transact(lambda: HandoffFile.found(self._site, self._section.name, chunk))
            self._scanned += len(chunk)
        # What was just found may come before what was sent last.
        self._cursor, self._exhausted = FIRST, False
        self._page.clear()

    def _more(self) -> bool:
        """Tell whether there may be something left to send."""
        return bool(self._again or self._page or not self._exhausted)

    def _send_next(self) -> bool:
        """Put together the next batch and send it off; False if there is none."""
        if not self._again and not self._peek():
            return False
        try:
            self._p.must_have_room()
        except TryLater as error:
            self._streams.trouble = error  # what is under way is still settled
            return False
        self._streams.start()
        items = self._again.popleft() if self._again else self._take()
        if not items or not self._streams.connected():
            return False
        prefix = attempt_prefix(self._site, self._section.name)
        batch = Batch(f"{prefix}{secrets.token_hex(8)}", items)
        ids = [item.row.id for item in items]
        size = batch.size_bytes
        batch.number = connect.transact(
            lambda: TransferBatch.begin(
                self._p.run_id, self._site, self._section.name, batch.attempt, ids, size
            )
        )
        self._under_way.update(ids)
        self._streams.send(batch)
        return True

    def _peek(self) -> bool:
        """Tell whether there is a file to send."""
        row = self._next()
        if row is not None:
            self._page.appendleft(row)
        return row is not None

    def _take(self) -> list[Item]:
        """Choose the next files, in order, until a batch is full; look at them and hash them."""
        rows: list[Waiting] = []
        size = 0
        while len(rows) < self._section.batch_files:
            row = self._next()
            if row is None:
                break
            # What failed before goes apart from what is only new.
            if rows and (
                size + row.size_bytes > self._section.batch_bytes
                or bool(row.attempts) != bool(rows[0].attempts)
            ):
                self._page.appendleft(row)
                break
            if not self._p.take(1):
                break
            rows.append(row)
            size += row.size_bytes
        taken = sources.take(self._section, rows)
        self._outcomes.note_taken(taken, rows)
        return taken.items

    def _next(self) -> Waiting | None:
        """Give the next file that is due and not under way."""
        while True:
            while self._page:
                row = self._page.popleft()
                if row.id not in self._under_way and self._matches(row):
                    return row
            if self._exhausted:
                return None
            page = connect.look(
                lambda: HandoffFile.due(
                    self._site, self._section.name, self._cursor, self._section.batch_files
                )
            )
            if not page:
                self._exhausted = True
                return None
            self._cursor = (page[-1].priority, page[-1].rank, page[-1].id)
            self._page.extend(page)

    def _matches(self, row: Waiting) -> bool:
        return not self._p.options.match or self._p.matches(sources.path_of(self._section, row)[0])

    def _settle(self, sent: Sent) -> None:
        """Record what came of a batch, and move delivered originals on; split what failed."""
        retry = self._split(sent) if len(sent.batch.items) > 1 else []
        if sent.delivered:
            self._fruitless = 0
        elif sent.failed:
            self._fruitless += 1
        again = {item.row.id for some in retry for item in some}
        self._outcomes.settle(sent, again)
        self._again.extend(retry)
        done = {item.row.id for item in sent.batch.items} - again
        self._under_way -= done
        # They may have been read once more while they were under way.
        self._page = deque(row for row in self._page if row.id not in done)
        if not sent.unknown:
            self._streams.clean(sent.batch)
        self._p.progress(self._p.counts["delivered"], None if self._scan else self._scanned)

    def _split(self, sent: Sent) -> list[list[Item]]:
        """Look for the culprit among files that failed together: halve what did not arrive."""
        items = [item for item, _ in sent.failed]
        if sent.delivered or len(items) < 2:
            return [items] if items else []
        middle = len(items) // 2
        return [items[:middle], items[middle:]]
