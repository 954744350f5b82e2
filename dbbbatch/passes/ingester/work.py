"""The ingester: offers stored files to one target and records every attempt.

Files are taken in hand in batches, offered to a plugin in a child process, and let go with their
outcomes; each of these steps is one transaction for a whole batch. A pass that is killed leaves
files in hand, which the next one finds by its dead process.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from dbbbatch.config.sections import Target as TargetSection
from dbbbatch.database import connect
from dbbbatch.database.models.due import ClaimedFile, due_count, due_now
from dbbbatch.database.models.target import TargetRow
from dbbbatch.errors import ConfigError, DbbError, TryLater
from dbbbatch.files import names
from dbbbatch.passes.ingester import rules
from dbbbatch.passes.ingester.claims import Claims
from dbbbatch.passes.runner import PassContext, Work
from dbbbatch.targets.plugin import Misconfigured, NotReady, Outcome, Result, StoredFile

if TYPE_CHECKING:
    from dbbbatch.targets.pool import WorkerPool

#: Verdicts are recorded at the latest when so many wait, or for so long (seconds).
MOST_WAITING = 1000
LONGEST_WAITING = 1.0

#: Seconds between two looks for more while some workers have nothing to do.
LOOKING = 1.0

#: After so many outcomes in a row that the target is not to be had, the pass gives up.
MOST_LATER = 50


class IngesterWork(Work):
    """Offers what is due for one target to its plugin.

    Parameters
    ----------
    section : `dbbbatch.config.sections.Target`
        The target.
    """

    kind = "target"
    interval = 1.0

    def __init__(self, section: TargetSection) -> None:
        self.section = section
        self.passes = section.passes

    def recover(self, p: PassContext) -> None:
        """Add the target, the first time, and take files from passes that have died."""
        site, section = p.settings.site.name, self.section
        new = connect.read(TargetRow.named, site, section.name) is None
        self._target = (connect.long_write if new else connect.write)(
            TargetRow.ensure, site, section.name, section.storage, section.plugin, p.run_id
        )
        self._claims = Claims(p, section, self._target)
        if count := self._claims.recover():
            p.counts["recovered"] += count
            p.log.info("%d files were in the hands of passes that have ended", count)

    def work(self, p: PassContext) -> None:
        """Offer all that is due."""
        _Offering(p, self.section, self._target, self._claims).work()

    def due(self, p: PassContext) -> bool:
        """Return whether anything is due."""
        longest = rules.policy_of(self.section).longest
        target = connect.read(TargetRow.named, p.settings.site.name, self.section.name)
        return target is None or connect.read(due_now, target.id, longest)

    def plan(self, p: PassContext) -> Iterator[str]:
        """Return what would be taken from dead passes, and which files would be offered."""
        from dbbbatch.passes.ingester.plan import plan_ingest

        target = connect.read(TargetRow.named, p.settings.site.name, self.section.name)
        return plan_ingest(p, self.section, target)


class _Offering:
    """The loop of one pass: files go to the plugin, outcomes to the database."""

    def __init__(
        self, p: PassContext, section: TargetSection, target: TargetRow, claims: Claims
    ) -> None:
        self._p = p
        self._section = section
        self._target = target
        self._claims = claims
        self._count = min(rules.SMALLEST, section.batch_files)
        self._waiting: list[Outcome] = []
        self._oldest = 0.0
        self._judged = 0
        self._measured = time.monotonic()
        self._found_nothing = float("-inf")
        self._laters = 0
        self._done = 0
        self._total: int | None = None
        self._trouble: DbbError | None = None

    def work(self) -> None:
        longest = rules.policy_of(self._section).longest
        if not connect.read(due_now, self._target.id, longest):
            return
        self._p.roots.require(self._section.storage, self._section.sentinel)
        if self._p.options.progress:
            self._total = connect.read(due_count, self._target.id, longest)
        held = self._take()
        if held:
            crew = self._crew()
            self._p.on_second_signal(crew.interrupt)
            try:
                self._loop(crew, held)
                crew.close()
            finally:
                crew.end()
        self._claims.leave()
        if self._trouble is not None:
            raise self._trouble

    def _loop(self, crew: WorkerPool, held: list[ClaimedFile]) -> None:
        while held or crew.busy:
            if held:
                while held:
                    self._offer(crew, held)
                    held = self._next(crew)
                # While the plugin has the next batch, the last one is recorded.
                self._record()
            self._hear(crew)
            if self._is_time_to_record():
                self._record()
            self._claims.renew()
            if self._trouble is not None or self._p.out_of_time:
                crew.stop()
            held = self._next(crew)
        self._record()
        self._claims.give_back(crew.unoffered, "the pass ended before it was offered")
        self._claims.let_go(crew.interrupted, "the pass was interrupted with it in hand")

    @property
    def _ending(self) -> bool:
        return self._trouble is not None or self._p.stopping

    # ---- to the plugin ---------------------------------------------------------------------------

    def _next(self, crew: WorkerPool) -> list[ClaimedFile]:
        """Take a batch for a worker that is free; while others work, look only now and then."""
        if not crew.free or self._ending:
            return []
        if crew.busy and time.monotonic() - self._found_nothing < LOOKING:
            return []
        return self._take()

    def _take(self) -> list[ClaimedFile]:
        try:
            self._p.must_have_room()
        except TryLater as error:
            self._trouble = error  # what the plugin has in hand is still recorded
            return []
        now = time.monotonic()
        if self._judged:
            self._count = rules.next_count(
                self._count,
                self._judged / (now - self._measured) / self._section.workers,
                self._section.batch_files,
            )
        self._judged, self._measured = 0, now
        remaining = self._p.remaining
        held = self._claims.take(self._count if remaining is None else min(self._count, remaining))
        self._p.take(len(held))
        if not held:
            self._found_nothing = now
        return held

    def _crew(self) -> WorkerPool:
        from dbbbatch.targets.pool import WorkerPool
        from dbbbatch.targets.worker import Launch

        launch = Launch.of(self._section, self._p.settings.site)
        return WorkerPool(launch, self._section.workers, self._p.log)

    def _offer(self, crew: WorkerPool, held: Sequence[ClaimedFile]) -> None:
        together = []
        for one in held:
            if one.file_status != "STORED":
                # On its way there once more, or no longer there: then it is due again when it is.
                result = Result.LATER if one.file_status == "ARRIVING" else Result.NEVER
                message = f"is {one.file_status} in the storage area"
                self._waiting.append(
                    Outcome(one.file_id, result, message, started=time.monotonic())
                )
            elif why := names.fault(one):
                self._p.refuse("file", one.file_id, why)
                outcome = Outcome(one.file_id, Result.FAILED, why, started=time.monotonic())
                self._waiting.append(outcome)
            elif rules.must_go_alone(one):
                crew.offer([self._stored(one)])
            else:
                together.append(self._stored(one))
        crew.offer(together)

    def _stored(self, held: ClaimedFile) -> StoredFile:
        relpath, filename = names.from_text(held.relpath), names.from_text(held.filename)
        return StoredFile(
            number=held.file_id,
            path=f"{self._section.storage}/{names.join(relpath, filename)}",
            relpath=relpath,
            filename=filename,
            size_bytes=held.size_bytes,
            checksums=held.checksums,
            parts_done=held.parts_done,
            attempt=held.attempts + 1,
            added_on=held.added_on,
        )

    # ---- and back --------------------------------------------------------------------------------

    def _hear(self, crew: WorkerPool) -> None:
        try:
            outcomes = crew.collect(LONGEST_WAITING)
        except NotReady as error:
            self._trouble = TryLater(str(error))
            return
        except Misconfigured as error:
            self._trouble = ConfigError(*str(error).splitlines())
            return
        if outcomes and not self._waiting:
            self._oldest = time.monotonic()
        self._waiting += outcomes
        self._judged += len(outcomes)
        for outcome in outcomes:
            self._laters = self._laters + 1 if outcome.result is Result.LATER else 0
            if self._laters == MOST_LATER:
                self._trouble = TryLater(outcome.message or "the target asks to try later")

    def _is_time_to_record(self) -> bool:
        return len(self._waiting) >= MOST_WAITING or (
            bool(self._waiting) and time.monotonic() - self._oldest >= LONGEST_WAITING
        )

    def _record(self) -> None:
        outcomes, self._waiting = self._waiting, []
        if any(outcome.result is Result.MISSING for outcome in outcomes):
            outcomes = self._without_storage_trouble(outcomes)
        self._claims.tell(outcomes)
        self._done += len(outcomes)
        self._p.progress(self._done, self._total)

    def _without_storage_trouble(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Charge no file with being missing where it is the storage area that is in trouble."""
        storage = self._section.storage
        missing = [outcome.number for outcome in outcomes if outcome.result is Result.MISSING]
        if away := self._p.roots.why_not(storage, self._section.sentinel):
            self._trouble = TryLater(away)
            self._claims.give_back(missing, "the storage area was not there")
            return [outcome for outcome in outcomes if outcome.result is not Result.MISSING]
        if rules.storage_is_in_trouble(outcomes):
            self._trouble = TryLater(
                f"{len(missing)} of {len(outcomes)} files are not in {storage}, too many "
                "to have been lost one by one; if they are gone, `dbb-auditor` says so"
            )
            return [
                replace(outcome, result=Result.LATER)
                if outcome.result is Result.MISSING
                else outcome
                for outcome in outcomes
            ]
        return outcomes
