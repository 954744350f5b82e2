"""What a pass of a finder does, whether it scans its source or reads logs of rsync."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from dbbbatch.areas.quarantine import QuarantineArea
from dbbbatch.areas.storage import duplicates, store
from dbbbatch.areas.storage.mounted import StorageArea
from dbbbatch.config.sections import Finder
from dbbbatch.database import connect, retry
from dbbbatch.database.models.file import File
from dbbbatch.database.models.quarantine import Quarantine
from dbbbatch.database.models.run import Run
from dbbbatch.files import names, place
from dbbbatch.passes.context import PassContext
from dbbbatch.passes.job import Job
from dbbbatch.passes.notices import MOST_NAMED

if TYPE_CHECKING:
    from dbbbatch.passes.finder.ahead import CopiesAhead

#: Seconds without a pass after which a finder is taken for switched off.
_SWITCHED_OFF = 86400.0


class FinderJob(Job):
    """One pass of a finder.

    Parameters
    ----------
    section : `dbbbatch.config.sections.Finder`
    context : `dbbbatch.passes.context.PassContext`

    Attributes
    ----------
    area : `dbbbatch.areas.storage.mounted.StorageArea`
    busy : `collections.Counter`
        Files whose names other finders are storing, by finder.
    """

    def __init__(self, section: Finder, context: PassContext) -> None:
        super().__init__(context)
        self.section = section
        self.site: str = context.settings.site.name
        self.area = StorageArea(section, self.site, context.run_id, context.roots)
        self.busy: Counter[str] = Counter()

    @cached_property
    def ahead(self) -> CopiesAhead | None:
        """The workers that copy files ahead of the pass; `None` where threads do all."""
        if self.context.engine is None:
            return None
        from dbbbatch.passes.finder.ahead import CopiesAhead

        return CopiesAhead(self.area, self.context.engine)

    def recover(self) -> None:
        """Finish or take back what earlier passes had begun to store, remove or quarantine."""
        self.area.require_mounted()
        if self.ahead is not None:
            self.ahead.sweep()
        most = self.section.batch_files
        refuse = self.context.refuse
        count = store.recover(self.area, most, self.note_failed, self._note_vanished, refuse)
        count += duplicates.recover(self.area, most, self.context.sound)
        count += self.quarantine().recover(refuse)
        if count:
            self.context.counts["recovered"] += count

    def unfinished(self) -> list[str]:
        """Return what a pass would finish first, a line for each file."""
        rows = connect.read(File.arriving, self.section.storage, self.section.name)
        return [f"would finish {names.join(row.relpath, row.filename)}" for row in rows]

    def quarantine(self) -> QuarantineArea:
        """Return the finder's quarantine."""
        return QuarantineArea(self.site, self.section, self.context.roots)

    def note_failed(self, path: str, why: str) -> None:
        """Count a file that failed, and warn of it."""
        self.context.counts["failed"] += 1
        self.context.warn_of("failed", path, why)

    def note_odd(self, rel: str, what: str) -> None:
        """Warn of something in the source that is not a file to be stored."""
        self.context.warn_of("odd", rel, f"{what}; it is left where it is")

    def note_no_permission(self, directory: str, error: OSError) -> None:
        """Count a file that a directory of storage keeps out, and warn of the directory."""
        self.context.counts["failed"] += 1
        if isinstance(error, place.ModeError):
            advice = (
                "; files wait: mount it so that permissions can be set, and see to `file_mode`, "
                "`dir_mode` and `group`"
            )
        elif isinstance(error, NotADirectoryError):
            advice = (
                ": a link is no directory of storage; files wait: put a directory there, or a mount"
            )
        else:
            advice = ": this user cannot store files there; they wait, so see to its owner and mode"
        self.context.warn_of("forbidden", directory, f"{error.strerror}{advice}")

    def note_waiting(self) -> None:
        """Warn of files that wait for a finder which was switched off, or in quarantine."""
        for finder, count in self.busy.items():
            section = self.context.settings.finder.get(finder)
            if section is not None and section.storage == self.section.storage:
                continue
            run = connect.read(Run.last, self.site, "finder", finder)
            now = connect.read(connect.now)
            if run is None or retry.is_due(run.started, _SWITCHED_OFF, now):
                self.context.warn_of(
                    "busy",
                    f"finder.{finder}",
                    f"{names.counted(count, 'file waits', 'files wait')} for it: it began to "
                    "store files of these names and has "
                    "made no pass for a day; one more pass of it helps, also if it has another "
                    f"name now: of a section [finder.{finder}] with the same source and storage",
                )
        label = self.section.label
        waiting = connect.read(
            lambda: list(islice(Quarantine.waiting(self.site, label), MOST_NAMED + 1))
        )
        for row in waiting:
            self.context.warn_of(
                "quarantine",
                names.readable(names.join(row.relpath, row.filename)),
                f"in quarantine: {row.reason}; see `dbb quarantine list {label}`",
            )

    def _note_vanished(self, rel: str) -> None:
        path = names.printable(f"{self.section.storage}/{rel}")
        self.context.warn(
            f"{path}: was on its way there, and is neither there nor in the source any more; if "
            "storage was unmounted or replaced meanwhile, look below its mount point",
            key="nowhere",
        )
