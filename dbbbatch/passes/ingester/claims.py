"""The files that a pass has claimed: each method that changes the database is one transaction.

intend   `Claims.take`: the files become PENDING and name this run; its claim expires.
act      The plugin ingests them; see `dbbbatch.passes.ingester.offer`.
record   `Claims.record`, `Claims.release`: each file's new status, its event, the end of its claim.
recover  `Claims.take_over`: what runs that are dead had claimed is UNKNOWN and due.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from dbbbatch.config.sections import Target
from dbbbatch.database import connect, retry
from dbbbatch.database.models.claim import TAKEN_OVER_TOGETHER, IngestClaim, StateChange
from dbbbatch.database.models.due import ClaimedFile, DueQueue
from dbbbatch.database.models.ingest import IngestEvent
from dbbbatch.database.models.statuses import IngestStatus
from dbbbatch.files import names, processes
from dbbbatch.passes.context import PassContext
from dbbbatch.passes.ingester import rules
from dbbbatch.targets.plugin import MISSING, Outcome

#: Seconds for which a claim holds, and between two renewals.
CLAIM = 300.0
RENEWAL = 60.0

_COUNTS = {
    IngestStatus.FAILURE: "failed",
    IngestStatus.UNKNOWN: "failed",
    IngestStatus.INVALID: "failed",
}


class Claims:
    """The claims of a pass on files of its target.

    Parameters
    ----------
    context : `dbbbatch.passes.context.PassContext`
    section : `dbbbatch.config.sections.Target`
    target_id : `int`
        The target's row.
    """

    def __init__(self, context: PassContext, section: Target, target_id: int) -> None:
        self.context = context
        self.section = section
        self._target_id = target_id
        self._claimed: dict[int, ClaimedFile] = {}
        self._number = connect.read(IngestEvent.last_number, context.run_id) + 1
        self._read_clock()
        self._renewed = float("-inf")
        self._queue = DueQueue(target_id, self._began, self._began)
        self._turn = 0

    def take(self, count: int) -> list[ClaimedFile]:
        """Claim so many due files at most; none means that nothing is due.

        A file that the plugin has still, and whose claim another pass had taken over meanwhile, is
        claimed again and not returned: its outcome is on its way.
        """
        while True:
            latest = retry.due_range(rules.longest_wait(self.section), self._now())[1]
            queue = replace(self._queue, until=self._began, latest=latest)
            files, ignored, after = self._take(count, queue)
            if ignored:
                self.context.counts["ignored"] += ignored
            if self.context.options.match:
                # What --match leaves stays due, so the next look must begin behind it.
                self._queue = after
            if files or after == queue:
                offered = self._claimed.keys()
                fresh = [file for file in files if file.file_id not in offered]
                self._claimed |= {file.file_id: file for file in files}
                return fresh

    def _take(self, count: int, queue: DueQueue) -> tuple[list[ClaimedFile], int, DueQueue]:
        new, again = rules.share_of_batch(count, self._turn)
        tries = 0

        def transaction() -> tuple[list[ClaimedFile], int, DueQueue]:
            nonlocal tries
            tries += 1
            if tries > 1:
                self._number_anew()
                found = IngestClaim.held_besides(self.context.run_id, self._claimed)
                if found:
                    return found, 0, queue
            taken = IngestClaim.take(
                self.context.run_id, queue, new, again, self._number, self._status_of
            )
            if taken[0]:
                self._renew()
            return taken

        taken = connect.write(transaction)
        self._number += count
        self._turn += 1
        if taken[0]:
            self._renewed = time.monotonic()
        return taken

    def _number_anew(self) -> None:
        """Let further events have numbers behind those of a commit whose answer was lost."""
        self._number = IngestEvent.last_number(self.context.run_id) + 1

    def _status_of(self, file: ClaimedFile) -> IngestStatus | None:
        """Return what becomes of a due file; `None` if --match does not let it through."""
        match = self.context.options.match
        if not (match or self.section.include or self.section.exclude):
            return IngestStatus.PENDING
        rel = names.readable(names.join(file.relpath, file.filename))
        if match and not self.context.matches(rel):
            return None
        wanted = rules.is_wanted(self.section, rel)
        return IngestStatus.PENDING if wanted else IngestStatus.IGNORED

    def renew(self) -> None:
        """Extend the claims from time to time."""
        if self._claimed and time.monotonic() - self._renewed >= RENEWAL:
            connect.write(self._renew)
            self._renewed = time.monotonic()

    def _renew(self) -> None:
        run_id = self.context.run_id
        IngestClaim.renew(run_id, self._target_id, processes.machine(), CLAIM)

    def record(self, outcomes: Sequence[Outcome]) -> None:
        """Record what became of files."""
        if missing := rules.missing(outcomes):
            # The first time costs nothing: another host may have just moved the file there, and
            # caches lag behind.
            last = connect.read(IngestEvent.last_messages, self._target_id, missing)
            before = {number for number, message in last.items() if message.startswith(MISSING)}
            outcomes = rules.try_missing_later(outcomes, {*missing} - before)
        now = self._now()
        changes = [
            rules.next_state(
                outcome,
                self._claimed[outcome.number],
                self.section,
                started=self._moment(outcome.started),
                now=now,
                chance=random.random(),
            )
            for outcome in outcomes
        ]
        sizes = {change.file_id: self._claimed[change.file_id].size_bytes for change in changes}
        for change in self._write(changes):
            if change.status is IngestStatus.SUCCESS:
                self.context.did("ingested", 1, sizes[change.file_id])
            else:
                self.context.counts[_COUNTS.get(change.status, "later")] += 1

    def release(
        self, file_ids: Iterable[int], why: str, status: IngestStatus | None = None
    ) -> None:
        """Make files due again at once: as they were, or with another status."""
        now = self._now()
        files = [self._claimed[file_id] for file_id in file_ids]
        self._write([rules.released(file, status or file.was, why, now) for file in files])

    def _write(self, changes: Sequence[StateChange]) -> list[StateChange]:
        """Write changes; return those of files that this pass had still claimed."""
        if not changes:
            return []
        changes = [replace(change, number=self._number + at) for at, change in enumerate(changes)]
        lost = connect.write(IngestClaim.record, self.context.run_id, self._target_id, changes)
        self._number += len(changes)
        for change in changes:
            file = self._claimed.pop(change.file_id)
            name = names.join(file.relpath, file.filename)
            if change.file_id in lost:
                self.context.counts["lost"] += 1
                self.context.log.warning("%s: another pass has taken it meanwhile", name)
            elif change.status is not IngestStatus.SUCCESS:
                self.context.log.info("%s: %s: %s", name, change.status, change.message)
        return [change for change in changes if change.file_id not in lost]

    def take_over(self) -> int:
        """Make due what dead passes had claimed, piece by piece; return the number of files."""

        def transaction() -> int:
            self._number_anew()
            run_id, target_id, machine = self.context.run_id, self._target_id, processes.machine()
            return IngestClaim.take_over(
                run_id, target_id, machine, pass_lives, self._number, CLAIM
            )

        count = some = connect.write(transaction)
        while some == TAKEN_OVER_TOGETHER:
            some = connect.write(transaction)
            count += some
        self._number += some
        # What has just been made due must count as due in this pass.
        self._read_clock()
        return count

    def end(self) -> None:
        """Delete the claim of a pass that no longer has files."""
        if self._renewed > 0:
            connect.write(IngestClaim.end, self.context.run_id)

    def _read_clock(self) -> None:
        # All times are the database's: its time once, and the seconds since.
        self._clock, self._began = time.monotonic(), connect.read(connect.now)

    def _now(self) -> datetime:
        return self._moment(time.monotonic())

    def _moment(self, clock: float) -> datetime:
        return self._began + timedelta(seconds=clock - self._clock)


def pass_lives(pid: int, ticks: int | None, born: float) -> bool:
    """Return whether the process of another pass lives, as `processes.lives` does.

    A lingering script makes its passes in one process: its earlier pass is over.
    """
    return pid != os.getpid() and processes.lives(pid, ticks, born)
