"""The ingester: offers stored files to one target and records every attempt.

intend   One transaction for a batch: its files are claimed (PENDING, with this run's number).
act      The batch goes to the plugin in a child process, which may be killed at any moment.
record   One transaction for all outcomes since the last: status and event of each file.
recover  Files that dead passes had claimed are UNKNOWN and due; the disk is not asked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dbbbatch.config.sections import Target
from dbbbatch.database import connect, retry
from dbbbatch.database.models.claim import IngestClaim
from dbbbatch.database.models.due import ClaimedFile, DueQueue, due_count, due_now
from dbbbatch.database.models.statuses import IngestStatus
from dbbbatch.database.models.target import TargetRow
from dbbbatch.errors import ConfigError, DbbError, TryLater, key_of_missing
from dbbbatch.files import mounts, names
from dbbbatch.files.processes import machine
from dbbbatch.passes.context import PassContext
from dbbbatch.passes.ingester import rules
from dbbbatch.passes.ingester.claims import Claims, pass_lives
from dbbbatch.passes.runner import Work
from dbbbatch.targets.plugin import Misconfigured, NotReady, Outcome, Result, StoredFile

if TYPE_CHECKING:
    from dbbbatch.targets.pool import WorkerPool

#: Outcomes are recorded when there are so many, or after so many seconds.
MOST_WAITING = 1000
LONGEST_WAITING = 1.0

#: Seconds between two looks for due files while some workers have nothing to do.
LOOKING = 1.0

#: After so many `Result.LATER` in a row the pass gives up.
MOST_LATER = 50

_PLANNED_PAGE = 1000


class IngesterWork(Work):
    """Offers what is due for one target to its plugin.

    Parameters
    ----------
    section : `dbbbatch.config.sections.Target`
    """

    kind = "target"
    alone = False
    did = "ingested"
    interval = 1.0

    def __init__(self, section: Target) -> None:
        self.section = section
        self.passes = section.passes

    def recover(self, context: PassContext) -> None:
        """Add the target, the first time, and take over files from passes that have died."""
        self._offer = Offer(context, self.section)
        self._offer.recover()

    def work(self, context: PassContext) -> None:
        """Offer all that is due."""
        self._offer.run()

    def due(self, context: PassContext) -> bool:
        """Return whether anything is due."""
        target = self._target(context)
        return target is None or connect.read(due_now, target.id, rules.longest_wait(self.section))

    def plan(self, context: PassContext) -> Iterator[str]:
        """Yield what would be taken over from dead passes, and which files would be offered."""
        section, target = self.section, self._target(context)
        if away := mounts.why_unmounted(section.storage, section.sentinel):
            yield f"would leave with exit code 75: {away}"
        elif target is None:
            sql = "SELECT count(*) FROM file WHERE storage = ? AND status = 'STORED'"
            ((count,),) = connect.read(lambda: connect.execute(sql, [section.storage]).fetchall())
            files = names.counted(count, "file")
            yield f"would add {section.label} and make due {files} of {section.storage}"
        else:
            for run, why in connect.read(
                IngestClaim.dead, 0, target.id, machine(), pass_lives, lock=False
            ):
                yield f"would make due what run {run} had claimed: {why}"
            yield from self._planned_files(context, target.id)

    def _planned_files(self, context: PassContext, target_id: int) -> Iterator[str]:
        longest = rules.longest_wait(self.section)
        queue = DueQueue(target_id, *retry.due_range(longest, connect.read(connect.now)))
        while not context.stopping:
            found, queue = connect.read(queue.next, _PLANNED_PAGE, _PLANNED_PAGE, lock=False)
            if not found:
                return
            for file in found:
                name = names.readable(names.join(file.relpath, file.filename))
                if context.matches(name) and context.take(1):
                    does = "offer" if rules.is_wanted(self.section, name) else "ignore"
                    yield f"would {does} {names.printable(name)}"

    def _target(self, context: PassContext) -> TargetRow | None:
        return connect.read(TargetRow.named, context.settings.site.name, self.section.name)


class Offer:
    """One pass: files go to the plugin, outcomes to the database."""

    def __init__(self, context: PassContext, section: Target) -> None:
        self.context = context
        self.section = section
        site = context.settings.site.name
        new = connect.read(TargetRow.named, site, section.name) is None
        self._target = (connect.long_write if new else connect.write)(
            TargetRow.ensure, site, section.name, section.storage, section.plugin, context.run_id
        )
        self._claims = Claims(context, section, self._target.id)
        self._batch_size = min(rules.SMALLEST, section.batch_files)
        self._outcomes: list[Outcome] = []
        self._oldest_outcome = 0.0
        self._ingested = 0
        self._measured_since = time.monotonic()
        self._found_nothing = float("-inf")
        self._laters = 0
        self._error: DbbError | None = None

    def run(self) -> None:
        """Offer all that is due."""
        longest = rules.longest_wait(self.section)
        if not connect.read(due_now, self._target.id, longest):
            return
        self.context.roots.require(self.section.storage, self.section.sentinel)
        if self.context.options.progress:
            due = connect.read(due_count, self._target.id, longest)
            self.context.bar.step("offering files", due)
        if claimed := self.intend():
            from dbbbatch.targets.pool import WorkerPool
            from dbbbatch.targets.worker import Launch

            launch = Launch.of(self.section, self.context.settings.site)
            pool = WorkerPool(launch, self.section.workers, self.context.log)
            self.context.on_second_signal(pool.interrupt)
            try:
                self._loop(pool, claimed)
                pool.close()
            finally:
                pool.end()
        self._claims.end()
        if self._error is not None:
            raise self._error

    def _loop(self, pool: WorkerPool, claimed: Sequence[ClaimedFile]) -> None:
        while claimed or pool.busy:
            if claimed:
                while claimed:
                    self.act(pool, claimed)
                    # What the plugin is not offered leaves the pool free, for ever if all is such.
                    if self._is_time_to_record():
                        self.record()
                    claimed = self._next(pool)
                # While the plugin has the next batch, the last one is recorded.
                self.record()
            self._collect(pool)
            if self._is_time_to_record():
                self.record()
            self._claims.renew()
            if self._error is not None or self.context.out_of_time:
                pool.stop()
            claimed = self._next(pool)
        self.record()
        self._claims.release(pool.unoffered, "the pass ended before it was offered")
        self._claims.release(
            pool.interrupted, "the pass was interrupted during the ingest", IngestStatus.UNKNOWN
        )

    def _next(self, pool: WorkerPool) -> Sequence[ClaimedFile]:
        """Claim a batch for a free worker; while others work, look only now and then."""
        if not pool.free or self._error is not None or self.context.stopping:
            return []
        if pool.busy and time.monotonic() - self._found_nothing < LOOKING:
            return []
        return self.intend()

    def intend(self) -> Sequence[ClaimedFile]:
        """Claim a batch of due files, as large as the target is fast."""
        try:
            self.context.must_have_room()
        except TryLater as error:
            self._error = error  # what the plugin has is still recorded
            return []
        now = time.monotonic()
        if self._ingested:
            rate = self._ingested / (now - self._measured_since) / self.section.workers
            self._batch_size = rules.next_count(self._batch_size, rate, self.section.batch_files)
        self._ingested, self._measured_since = 0, now
        remaining = self.context.remaining
        most = self._batch_size if remaining is None else min(self._batch_size, remaining)
        claimed = self._claims.take(most)
        self.context.take(len(claimed))
        if not claimed:
            self._found_nothing = now
        return claimed

    def act(self, pool: WorkerPool, claimed: Sequence[ClaimedFile]) -> None:
        """Offer a batch to the plugin, but for files that no plugin should see."""
        together = []
        for file in claimed:
            if file.file_status != "STORED":
                # A file that is stored again later is then due again.
                result = Result.LATER if file.file_status == "ARRIVING" else Result.NEVER
                self._refuse(file, result, f"is {file.file_status} in the storage area")
            elif why := names.fault(file):
                self.context.refuse("file", file.file_id, why)
                self._refuse(file, Result.FAILED, why)
            elif rules.must_go_alone(file):
                pool.offer([self._stored(file)])
            else:
                together.append(self._stored(file))
        pool.offer(together)

    def _refuse(self, file: ClaimedFile, result: Result, why: str) -> None:
        self._note([Outcome(file.file_id, result, why, started=time.monotonic())])

    def _note(self, outcomes: Sequence[Outcome]) -> None:
        """Keep outcomes until it is time to record them."""
        if outcomes and not self._outcomes:
            self._oldest_outcome = time.monotonic()
        self._outcomes += outcomes

    def _stored(self, file: ClaimedFile) -> StoredFile:
        relpath, filename = names.from_text(file.relpath), names.from_text(file.filename)
        return StoredFile(
            number=file.file_id,
            path=f"{self.section.storage}/{names.join(relpath, filename)}",
            relpath=relpath,
            filename=filename,
            size_bytes=file.size_bytes,
            checksums=file.checksums,
            parts_done=file.parts_done,
            attempt=file.attempts + 1,
            added_on=file.added_on,
        )

    def _collect(self, pool: WorkerPool) -> None:
        try:
            outcomes = pool.collect(LONGEST_WAITING)
        except NotReady as error:
            self._error = TryLater(str(error), key=self._not_ready)
            return
        except Misconfigured as error:
            key = f"{self.section.label} is not set up"
            self._error = ConfigError(*str(error).splitlines(), key=key)
            return
        self._note(outcomes)
        self._ingested += len(outcomes)
        for outcome in outcomes:
            self._laters = self._laters + 1 if outcome.result is Result.LATER else 0
            if self._laters == MOST_LATER:
                why = outcome.message or "the target asks to try later"
                self._error = TryLater(why, key=self._not_ready)

    @property
    def _not_ready(self) -> str:
        """The key of the trouble that the target takes nothing now, in whatever words."""
        return f"{self.section.label} is not ready"

    def _is_time_to_record(self) -> bool:
        return len(self._outcomes) >= MOST_WAITING or (
            bool(self._outcomes) and time.monotonic() - self._oldest_outcome >= LONGEST_WAITING
        )

    def record(self) -> None:
        """Record what became of files."""
        outcomes, self._outcomes = self._outcomes, []
        if any(map(rules.is_charged, outcomes)):
            outcomes = self._without_storage_trouble(outcomes)
        self._claims.record(outcomes)

    def _without_storage_trouble(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Charge no file with a failure, or with being missing, that storage is to blame for."""
        storage, missing = self.section.storage, rules.missing(outcomes)
        if away := self.context.roots.why_not(storage, self.section.sentinel):
            self._error = TryLater(away, key=key_of_missing(storage))
            return rules.try_charged_later(outcomes, "the storage area was not there")
        if rules.storage_is_in_trouble(outcomes):
            self._error = TryLater(
                f"{len(missing):,} of {names.counted(len(outcomes), 'file')} not in {storage}, "
                "too many "
                "to have been lost one by one; if they are gone, `dbb-auditor` says so",
                key=key_of_missing(storage),
            )
            return rules.try_missing_later(outcomes, missing)
        return outcomes

    def recover(self) -> None:
        """Take over the files of passes that have died."""
        if count := self._claims.take_over():
            self.context.counts["recovered"] += count
            self.context.log.info(
                "%s claimed by passes that have ended",
                names.counted(count, "file was", "files were"),
            )
