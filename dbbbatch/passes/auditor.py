"""The auditor: compares storage with the table, in both directions, and targets with the table.

It reports and marks. What it repairs is what it can prove: a file that is there again with the
right content, and, where asked to, a file without a row.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from functools import partial

from dbbbatch.areas.storage.mounted import storage_area
from dbbbatch.areas.storage.store import Arrival, adopt
from dbbbatch.config.sections import Finder
from dbbbatch.database import connect, retry
from dbbbatch.database.models.file import File, FileRow
from dbbbatch.database.models.finder import Remembered
from dbbbatch.database.models.ingest import IngestState
from dbbbatch.database.models.statuses import FileStatus
from dbbbatch.database.models.statuses import WhyRemembered as Memory
from dbbbatch.errors import Interrupted, TryLater
from dbbbatch.files import checksum, clock, faults, names, place
from dbbbatch.files.batches import batched
from dbbbatch.files.identity import Version
from dbbbatch.files.scan import Found, scan
from dbbbatch.passes.audit_rows import Rows, require_storage
from dbbbatch.passes.audit_targets import compare_targets
from dbbbatch.passes.finder.complaints import Complaints
from dbbbatch.passes.finder.work import name_of
from dbbbatch.passes.runner import PassContext, Work

#: Rows read at a time, and files verified between two looks at whether to stop.
_AUDITED_PAGE = 5000
_VERIFIED_TOGETHER = 100

#: Seconds for which nobody has touched a copy, so that nobody can be at work on it any more.
_COPY_ABANDONED = 7 * 86400.0

#: What rsync has not finished: its temporary files, and where it keeps parts and delayed updates.
_UNFINISHED = re.compile(r"(^|/)(\.~tmp~/|\.rsync-[^/]*/|\.[^/]+\.[A-Za-z0-9]{6}$)")

#: Seconds for which a file that rsync brought must not have changed: a log may tell of it yet.
_SETTLED = 3600.0

#: Digits of a checksum that are shown.
_SHOWN_DIGITS = 16

#: For so long a finder may have made no pass before it is said what that leaves unfinished.
_LONG = 86400.0


class AuditorWork(Work):
    """A pass of the auditor over the storage area of a finder.

    Parameters
    ----------
    finder : `dbbbatch.config.sections.Finder`
        The section.
    adopt : `bool`
        Record files without a row that a finder would have stored under their name.
    share : `float`, optional
        Share of the stored files to read, instead of the section's.
    missing : `float`, optional
        Share of missing files up to which they are marked, instead of the section's.
    """

    kind = "auditor"

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
        self._complaints = Complaints()

    def recover(self, p: PassContext) -> None:
        """Leave where storage looks unmounted: nothing is left half-done."""
        self._complaints = Complaints()
        require_storage(self._finder, p)

    def work(self, p: PassContext) -> None:
        """Compare rows with files, files with rows, content with checksums, targets with rows."""
        rows = Rows(self._finder, self._missing)
        try:
            rows.compare(p)
            rows.mark(p, self._complaints)
            skipped = []
            for what, duty in (
                ("files on their way", self._report_what_waits),
                ("files without a row", self._compare_files),
                ("files that are there again", partial(self._verify, rows=rows.back)),
                ("checksums", partial(self._verify_a_share, rows=rows)),
                (
                    "targets",
                    partial(compare_targets, finder=self._finder, complaints=self._complaints),
                ),
                ("what left the source", self._forget_what_left),
            ):
                if p.stopping:
                    skipped.append(what)
                else:
                    duty(p)
            if skipped and p.out_of_time and not p.interrupted:
                p.warn(
                    f"{self._finder.storage}: --max-time was over before these were looked at: "
                    f"{', '.join(skipped)}; the next pass begins anew, so give it more time",
                    key="max-time",
                )
        finally:
            self._complaints.say(p)
        if away := rows.say_away():
            raise TryLater(away)

    def plan(self, p: PassContext) -> Iterator[str]:
        """Yield what is wrong as far as it can be seen without reading files."""
        self.recover(p)
        rows = Rows(self._finder, self._missing)
        rows.compare(p)
        for row, status, why in rows.wrong:
            yield f"would mark {names.join(row.relpath, row.filename)} {status}: {why}"
        for row in rows.back:
            yield f"would verify {names.join(row.relpath, row.filename)}, which is there again"
        for rel, why in rows.unseen:
            yield f"{names.printable(rel)}: {why}"
        for orphans in self._orphans(p):
            for orphan in orphans:
                verb = "adopt" if self._adopt else "report"
                yield f"would {verb} {names.join(*orphan.name)}, which the table does not know"
        if away := rows.say_away():
            raise TryLater(away)

    def due(self, p: PassContext) -> bool:
        """Tell that there is always something to audit, so nothing to wait for."""
        return False

    # ---- files without a row ---------------------------------------------------------------------

    def _compare_files(self, p: PassContext) -> None:
        """Report files without a row, and adopt them where asked to."""
        area = storage_area(self._finder, p.settings.site.name, p.run_id, p.roots)._replace(
            finder="auditor"
        )
        for orphans in self._orphans(p):
            p.counts["orphans"] += len(orphans)
            ready = []
            if self._adopt:
                orphans = orphans[: p.take(len(orphans))]
                ready = self._read(p, orphans, area.algorithms)
            # What is in an empty mount point is no file of storage.
            require_storage(self._finder, p)
            if self._adopt:
                p.counts["adopted"] += adopt(area, ready)
            else:
                p.counts["failed"] += len(orphans)
                for orphan in orphans:
                    self._complaints.orphan(orphan.rel)
            if p.stopping:
                break

    def _read(
        self, p: PassContext, orphans: Sequence[Arrival], algorithms: Sequence[str]
    ) -> list[Arrival]:
        """Read files that are to be adopted; return those that did not change meanwhile."""
        ready = []
        for orphan in orphans:
            try:
                orphan.status, orphan.sums = checksum.read(orphan.source, algorithms)
                ready.append(orphan)
            except Interrupted:
                break
            except (FileNotFoundError, checksum.Changed):
                continue  # no orphan any more, or being replaced
            except OSError as error:
                faults.raise_if_general(error, orphan.source)
                self._complaints.failed(orphan.rel, f"cannot be adopted: {error.strerror}")
                p.counts["failed"] += 1
        return ready

    def _orphans(self, p: PassContext) -> Iterator[list[Arrival]]:
        by_rsync = any(
            finder.storage == self._finder.storage and finder.search == "rsync-logs"
            for finder in (self._finder, *p.settings.finder.values())
        )
        # Nobody knows what a section that is wrong is about.
        by_rsync = by_rsync or any(label.startswith("finder.") for label in p.settings.wrong)
        found = scan(
            self._finder.storage,
            self._finder.exclude,
            self._finder.settle,
            odd=self._complaints.odd,
            unfinished=self._remove_abandoned,
        )
        ours = (f for f in found if f.rel != self._finder.sentinel and p.matches(f.rel))
        with faults.as_try_later(self._finder.storage):
            for batch in batched(ours, self._finder.batch_files):
                yield self._unknown(batch, by_rsync)

    def _unknown(self, batch: Sequence[Found], by_rsync: bool) -> list[Arrival]:
        paths = [name_of(found.rel) for found in batch]
        known = connect.read(File.known, self._finder.storage, paths)
        orphans = []
        for found, name in zip(batch, paths, strict=True):
            before = known.get(name)
            if before is None or before.status == FileStatus.FORGOTTEN:
                path = os.path.join(self._finder.storage, found.rel)
                if by_rsync and self._may_be_unfinished(found.rel, path):
                    continue
                orphan = Arrival(found.rel, name, path, path, found.size_bytes)
                orphan.known = before
                orphans.append(orphan)
        return orphans

    def _may_be_unfinished(self, rel: str, path: str) -> bool:
        """Return whether rsync may be about to finish a file, or a finder to find it in a log."""
        if _UNFINISHED.search(rel):
            return True
        try:
            # Its mtime is that of the original once it is whole.
            status = os.lstat(path)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        settle = max(self._finder.settle, _SETTLED)
        return clock.of(self._finder.storage).is_new(status, settle)

    def _remove_abandoned(self, rel: str) -> None:
        """Remove a copy of ours that nobody finishes: what it was a copy of is gone."""
        path = os.path.join(self._finder.storage, rel)
        try:
            # A copy has the mtime of its original from early on.
            if not clock.of(self._finder.storage).is_new(os.lstat(path), _COPY_ABANDONED):
                place.remove_if_there(path)
        except OSError as error:
            self._complaints.odd(rel, f"an unfinished copy, not to be removed: {error.strerror}")

    # ---- content ---------------------------------------------------------------------------------

    def _verify_a_share(self, p: PassContext, rows: Rows) -> None:
        """Verify the share, of the files that --match lets through, that was not for longest."""
        most = math.ceil(self._share * rows.looked)
        begun = connect.read(connect.now)
        if most > 0:
            connect.write(File.verified_by_now, self._finder.storage, begun)
        after = None
        while most > 0 and not p.stopping:
            size = _AUDITED_PAGE if p.options.match else min(most, _AUDITED_PAGE)
            page, after = connect.read(
                File.longest_unverified, self._finder.storage, begun, after, size
            )
            if not page:
                break
            some = [row for row in p.sound(page, "file") if p.matches(names.rel_of(row))][:most]
            self._verify(p, some)
            most -= len(some)

    def _verify(self, p: PassContext, rows: Sequence[FileRow]) -> None:
        """Read files and mark those whose content is not what it was, no faster than is allowed."""
        begun, read = time.monotonic(), 0
        for start in range(0, len(rows), _VERIFIED_TOGETHER):
            if p.stopping:
                break
            some = rows[start : start + _VERIFIED_TOGETHER]
            some = some[: p.take(len(some))]
            right: dict[FileRow, os.stat_result] = {}
            wrong: list[tuple[FileRow, FileStatus, str]] = []
            for row in some:
                self._verify_one(p, row, right, wrong)
                read += row.size_bytes
                self._keep_pace(p, begun, read)
            require_storage(self._finder, p)

            def mark(
                right: dict[FileRow, os.stat_result] = right,
                wrong: list[tuple[FileRow, FileStatus, str]] = wrong,
            ) -> tuple[set[int], set[int]]:
                verified = File.verified(list(right))
                File.own_entries(
                    [
                        (row.id, *Version.of_file(status)[1:])
                        for row, status in right.items()
                        if row.id in verified
                    ]
                )
                # What targets gave up because it was not there is due again.
                again = {row.id for row in right if row.status != FileStatus.STORED} & verified
                IngestState.arrive(sorted(again), self._finder.storage, p.run_id)
                return verified, File.wrong(wrong)

            verified, corrupt = connect.write(mark)
            for row, _, why in wrong:
                if row.id in corrupt:
                    self._complaints.failed(
                        names.rel_of(row), f"its content is not what was stored: {why}"
                    )
            p.counts["verified"] += len(verified)
            p.counts["corrupt"] += len(corrupt)
            p.counts["failed"] += len(corrupt)
            p.progress(start + len(some), len(rows), "files verified")

    def _verify_one(
        self,
        p: PassContext,
        row: FileRow,
        right: dict[FileRow, os.stat_result],
        wrong: list[tuple[FileRow, FileStatus, str]],
    ) -> None:
        path = names.below(self._finder.storage, names.rel_of(row))
        algorithm, digest = checksum.parse(row.checksum)
        try:
            status, sums = checksum.read(path, [algorithm])
        except Interrupted:
            return
        except (FileNotFoundError, NotADirectoryError, checksum.Changed):
            return  # it was there a moment ago, or is being replaced; the next pass tells
        except OSError as error:
            faults.raise_if_general(error, path)
            p.counts["failed"] += 1
            self._complaints.failed(names.rel_of(row), f"cannot be read: {error.strerror}")
            return
        found = sums[algorithm]
        if found == digest:
            right[row] = status
        else:
            why = f"has {algorithm} {found[:_SHOWN_DIGITS]}… instead of {digest[:_SHOWN_DIGITS]}…"
            wrong.append((row, FileStatus.CORRUPT, why))

    def _keep_pace(self, p: PassContext, begun: float, read: int) -> None:
        if not self._finder.audit_rate:
            return
        end = begun + read / self._finder.audit_rate
        while (left := end - time.monotonic()) > 0 and not p.stopping:
            time.sleep(min(left, 0.5))

    # ---- what a finder has begun, and has in mind ------------------------------------------------

    def _report_what_waits(self, p: PassContext) -> None:
        """Report files on their way to storage whose finder makes no passes: nobody else may."""
        now = connect.read(connect.now)
        for name, count, begun in connect.read(
            File.unfinished, p.settings.site.name, self._finder.storage
        ):
            if not retry.is_due(begun, _LONG, now):
                continue
            since = f"its pass of {begun:%Y-%m-%d %H:%M} UTC" if begun else "a pass long ago"
            p.counts["failed"] += count
            self._complaints.failed(
                f"finder.{name}",
                f"{count} files are on their way since {since}: run `dbb-finder {name}` once more, "
                "which finishes each or takes it back (if it was renamed or removed, with its "
                "old section put back for that pass)",
            )

    def _forget_what_left(self, p: PassContext) -> None:
        """Forget what a finder remembers about files that somebody took out of its source."""
        finder, site = self._finder, p.settings.site.name
        if finder.search != "scan" or not os.path.isdir(finder.source):
            return
        for verdict in (Memory.DUPLICATE, Memory.FAILED):
            remembered = partial(Remembered.all_with, site, finder.name, verdict, _AUDITED_PAGE)
            for page in connect.pages(remembered, ("", ""), "relpath", "filename"):
                gone = [
                    (left.relpath, left.filename)
                    for left in page
                    if not names.fault(left)
                    and not place.is_there(names.below(finder.source, names.rel_of(left)))
                ]
                connect.write(lambda gone=gone: Remembered.drop(site, finder.name, gone))
