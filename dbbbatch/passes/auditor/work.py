"""A pass of the auditor: compare storage with the table in both directions, and targets with it.

It reports and marks. It repairs only what it can prove: a file that is there again with the right
content and, with --adopt, a file without a row. It thins the history, where `keep_events` is set.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial

from dbbbatch.config.sections import Finder
from dbbbatch.database import connect, retry
from dbbbatch.database.models.file import File
from dbbbatch.database.models.finder import Remembered
from dbbbatch.database.models.ingest import IngestEvent
from dbbbatch.database.models.statuses import WhyRemembered
from dbbbatch.files import names, place
from dbbbatch.passes.auditor.content import Verification
from dbbbatch.passes.auditor.orphans import OrphanSearch
from dbbbatch.passes.auditor.rows import RowComparison
from dbbbatch.passes.auditor.targets import compare_targets
from dbbbatch.passes.context import PassContext
from dbbbatch.passes.runner import Work

#: Remembered files that are read at a time.
_REMEMBERED_PAGE = 5000

#: Events that are looked at in one transaction: others write in between.
_THINNED_TOGETHER = 1000

#: Seconds without a pass of a finder after which its files that are on their way are reported.
_FINDER_STOPPED = 86400.0


class AuditorWork(Work):
    """A pass of the auditor over the storage area of a finder.

    Parameters
    ----------
    finder : `dbbbatch.config.sections.Finder`
    adopt : `bool`
        Record files without a row that a finder would have stored under their name.
    share : `float`, optional
        Share of the stored files to read, instead of the section's.
    missing : `float`, optional
        Share of missing files up to which they are marked, instead of the section's.
    """

    kind = "auditor"
    did = "verified"

    def __init__(
        self,
        finder: Finder,
        adopt: bool = False,
        share: float | None = None,
        missing: float | None = None,
    ) -> None:
        self._finder = finder
        self._adopt = adopt
        self._share = finder.audit_share if share is None else share
        self._missing = finder.audit_missing if missing is None else missing

    def recover(self, context: PassContext) -> None:
        """Raise `TryLater` if storage looks unmounted; no auditor leaves anything half-done."""
        context.roots.require(self._finder.storage, self._finder.sentinel)

    def work(self, context: PassContext) -> None:
        """Compare rows with files, files with rows, content with checksums, targets with rows."""
        finder = self._finder
        rows = RowComparison(context, finder, self._missing)
        orphans = OrphanSearch(context, finder)
        content = Verification(context, finder)
        rows.compare()
        context.counts["compared"] += rows.stored
        rows.mark()
        most = math.ceil(self._share * rows.stored)
        steps: dict[str, Callable[[], None]] = {
            "files on their way": partial(_report_unfinished, context, finder),
            "files without a row": orphans.adopt if self._adopt else orphans.report,
            "files that are there again": partial(content.verify, rows.back),
            "checksums": partial(content.verify_share, most),
            "targets": partial(compare_targets, context, finder),
            "what left the source": partial(_forget_what_left, context, finder),
        }
        if context.settings.site.keep_events:
            steps["old events"] = partial(_thin_events, context)
        skipped = []
        for what, step in steps.items():
            if context.stopping:
                skipped.append(what)
            else:
                context.bar.step(f"looking at {what}")
                step()
        if skipped and context.out_of_time and not context.interrupted:
            context.warn(
                f"{finder.storage}: --max-time was over before these were looked at: "
                f"{', '.join(skipped)}; the next pass begins anew, so give it more time",
                key="max-time",
            )
        rows.require_directories()

    def plan(self, context: PassContext) -> Iterator[str]:
        """Yield what is wrong, after reading what a pass would read, and what was not read."""
        self.recover(context)
        rows = RowComparison(context, self._finder, self._missing)
        rows.compare()
        for row, status, why in rows.wrong:
            yield f"would mark {names.join(row.relpath, row.filename)} {status}: {why}"
        for rel, why in rows.unseen:
            yield f"{names.printable(rel)}: {why}"
        verb = "adopt" if self._adopt else "report"
        for orphans in OrphanSearch(context, self._finder).find(dry_run=True):
            for orphan in orphans:
                yield f"would {verb} {names.join(*orphan.name)}, which the table does not know"
        most = math.ceil(self._share * rows.stored)
        yield from Verification(context, self._finder).look(rows, most)
        if any(one.storage == self._finder.storage for one in context.settings.target.values()):
            yield "targets were not asked, as a pass does"
        rows.require_directories()

    def due(self, context: PassContext) -> bool:
        """Return `False`: there is always something to audit, and so nothing to wait for."""
        return False


def _report_unfinished(context: PassContext, finder: Finder) -> None:
    """Report files on their way to storage whose finder makes no passes: it must finish them."""
    now = connect.read(connect.now)
    for name, count, begun in connect.read(
        File.unfinished, context.settings.site.name, finder.storage
    ):
        if not retry.is_due(begun, _FINDER_STOPPED, now):
            continue
        since = f"its pass of {begun:%Y-%m-%d %H:%M} UTC" if begun else "a pass long ago"
        context.counts["failed"] += count
        context.warn_of(
            "failed",
            f"finder.{name}",
            f"{names.counted(count, 'file is on its', 'files are on their')} way since "
            f"{since}: run `dbb-finder {name}` once more, "
            "which finishes each or takes it back (if the section was renamed or removed, with "
            "its old section put back for that pass)",
        )


def _thin_events(context: PassContext) -> None:
    """Delete events that are older than `keep_events` and not the latest ones."""
    keep = timedelta(seconds=context.settings.site.keep_events)
    before, more = connect.read(connect.now) - keep, True
    while more and not context.stopping:
        count, more = connect.write(IngestEvent.thin, before, _THINNED_TOGETHER)
        context.counts["events removed"] += count


def _forget_what_left(context: PassContext, finder: Finder) -> None:
    """Forget what a finder remembers about files that somebody took out of its source."""
    if finder.search != "scan" or not os.path.isdir(finder.source):
        return
    site, source = context.settings.site.name, context.roots.tree(finder.source)
    for why in (WhyRemembered.DUPLICATE, WhyRemembered.FAILED):
        remembered = partial(Remembered.all_with, site, finder.name, why, _REMEMBERED_PAGE)
        for page in connect.pages(remembered, ("", ""), "relpath", "filename"):
            source.forget()
            gone = [
                (row.relpath, row.filename)
                for row in page
                if not names.fault(row) and place.is_gone(source.entry(names.rel_of(row)))
            ]
            connect.write(Remembered.drop, site, finder.name, gone)
