"""The files that one ingester pass has in hand: taking them, and telling what became of them."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from dbbbatch.config.sections import Target as TargetSection
from dbbbatch.database import connect, retry
from dbbbatch.database.models.claim import IngestClaim, StateChange
from dbbbatch.database.models.due import ClaimedFile, DueQueue
from dbbbatch.database.models.ingest import IngestEvent
from dbbbatch.database.models.statuses import IngestStatus
from dbbbatch.database.models.target import TargetRow
from dbbbatch.files import names, processes
from dbbbatch.files.processes import machine
from dbbbatch.passes.ingester import rules
from dbbbatch.passes.runner import PassContext
from dbbbatch.targets.plugin import MISSING, Outcome, Result

#: Seconds for which a claim is good, and between two times that a pass renews its own.
CLAIM = 300.0
RENEWAL = 60.0

_COUNTS = {
    IngestStatus.SUCCESS: "ingested",
    IngestStatus.FAILURE: "failed",
    IngestStatus.UNKNOWN: "failed",
    IngestStatus.INVALID: "failed",
}


class Claims:
    """What a pass holds of its target.

    Parameters
    ----------
    p : `dbbbatch.passes.runner.PassContext`
        The pass.
    section : `dbbbatch.config.sections.Target`
        The target's section.
    target : `dbbbatch.database.models.target.TargetRow`
        The target.
    """

    def __init__(self, p: PassContext, section: TargetSection, target: TargetRow) -> None:
        self._p = p
        self._section = section
        self._target = target
        self._policy = rules.policy_of(section)
        self._held: dict[int, ClaimedFile] = {}
        self._number = connect.read(IngestEvent.last_number, p.run_id) + 1
        # All times are the database's: its time once, and how long that is ago.
        self._clock = time.monotonic()
        self._began = connect.read(connect.now)
        self._renewed = float("-inf")
        self._queue = DueQueue(target.id, self._began, self._began)
        self._turn = 0

    def recover(self) -> int:
        """Make due what passes hold that have died, and say how many files that is."""
        count = connect.write(
            lambda: IngestClaim.take_from_the_dead(
                self._p.run_id, self._target.id, machine(), pass_lives, self._number, CLAIM
            )
        )
        self._number += count
        # What has just been made due is due to this pass.
        self._clock, self._began = time.monotonic(), connect.read(connect.now)
        return count

    def take(self, count: int) -> list[ClaimedFile]:
        """Take so many due files in hand; none means that nothing is due."""
        while True:
            queue = replace(
                self._queue,
                until=self._began,
                latest=retry.due_range(self._policy.longest, self._now())[1],
            )
            held, ignored, after = self._take(count, queue)
            if ignored:
                self._p.counts["ignored"] += ignored
            if self._p.options.match:
                # What --match leaves stays due, so the next look must begin behind it.
                self._queue = after
            if held or after == queue:
                self._held |= {one.file_id: one for one in held}
                return held

    def tell(self, outcomes: Iterable[Outcome]) -> None:
        """Record what became of files."""
        outcomes = list(outcomes)
        missing = [outcome.number for outcome in outcomes if outcome.result is Result.MISSING]
        missed = self._missed_before(missing) if missing else set()
        now = self._now()
        written = self._write(
            [
                rules.next_state(
                    outcome,
                    self._held[outcome.number],
                    self._policy,
                    number=self._number + at,
                    start_time=self._moment(outcome.started),
                    now=now,
                    chance=random.random(),
                    missed_before=outcome.number in missed,
                )
                for at, outcome in enumerate(outcomes)
            ]
        )
        for judgement in written:
            count = _COUNTS.get(judgement.status, "later")
            self._p.counts[count] += 1

    def _missed_before(self, file_ids: Sequence[int]) -> set[int]:
        """Return which files were not in storage when they were looked for the last time."""
        last = connect.read(IngestEvent.last_messages, self._target.id, file_ids)
        return {number for number, message in last.items() if message.startswith(MISSING)}

    def give_back(self, file_ids: Iterable[int], why: str) -> None:
        """Record that files were not offered after all."""
        now = self._now()
        self._write(
            [
                rules.give_back(self._held[file_id], why, number=self._number + at, now=now)
                for at, file_id in enumerate(file_ids)
            ]
        )

    def let_go(self, file_ids: Iterable[int], why: str) -> None:
        """Record that nobody knows what became of files."""
        now = self._now()
        self._write(
            [
                rules.let_go(self._held[file_id], why, number=self._number + at, now=now)
                for at, file_id in enumerate(file_ids)
            ]
        )

    def renew(self) -> None:
        """Say from time to time that the pass lives."""
        if self._held and time.monotonic() - self._renewed >= RENEWAL:
            connect.write(self._renew)
            self._renewed = time.monotonic()

    def leave(self) -> None:
        """Hold nothing any more."""
        if self._renewed > 0:
            connect.write(IngestClaim.leave, self._p.run_id)

    def _take(self, count: int, queue: DueQueue) -> tuple[list[ClaimedFile], int, DueQueue]:
        new, again = rules.share_of_batch(count, self._turn)
        tries = 0

        def transaction() -> tuple[list[ClaimedFile], int, DueQueue]:
            nonlocal tries
            tries += 1
            if tries > 1:
                found = IngestClaim.held_besides(self._p.run_id, self._held)
                if found:
                    return found, 0, queue
            taken = IngestClaim.take(
                self._p.run_id, queue, new, again, self._number, self._status_of
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

    def _renew(self) -> None:
        IngestClaim.renew(self._p.run_id, self._target.id, machine(), CLAIM)

    def _write(self, judgements: Sequence[StateChange]) -> list[StateChange]:
        """Write them, and give those that this pass was still entitled to write."""
        if not judgements:
            return []
        lost = connect.write(IngestClaim.tell, self._p.run_id, self._target.id, judgements)
        self._number += len(judgements)
        for judgement in judgements:
            held = self._held.pop(judgement.file_id)
            name = names.join(held.relpath, held.filename)
            if judgement.file_id in lost:
                self._p.counts["lost"] += 1
                self._p.log.warning("%s: another pass has taken it meanwhile", name)
                continue
            if judgement.status is not IngestStatus.SUCCESS:
                self._p.log.info("%s: %s: %s", name, judgement.status, judgement.message)
        return [judgement for judgement in judgements if judgement.file_id not in lost]

    def _now(self) -> datetime:
        return self._moment(time.monotonic())

    def _moment(self, clock: float) -> datetime:
        return self._began + timedelta(seconds=clock - self._clock)

    def _status_of(self, file: ClaimedFile) -> IngestStatus | None:
        """Return what becomes of a due file; `None` if --match does not let it through."""
        if not (self._p.options.match or self._section.include or self._section.exclude):
            return IngestStatus.PENDING
        rel = names.readable(names.join(file.relpath, file.filename))
        if self._p.options.match and not self._p.matches(rel):
            return None
        wanted = is_wanted(self._section, rel)
        return IngestStatus.PENDING if wanted else IngestStatus.IGNORED


def is_wanted(section: TargetSection, rel: str) -> bool:
    """Return whether ``include`` and ``exclude`` let a relative path through."""
    included = not section.include or any(found.search(rel) for found in section.include)
    return included and not any(found.search(rel) for found in section.exclude)


def pass_lives(pid: int, ticks: int | None, born: float) -> bool:
    """Return whether another pass's process lives, as `processes.lives` does.

    A lingering script passes again in the same process: its earlier pass is over.
    """
    return pid != os.getpid() and processes.lives(pid, ticks, born)
