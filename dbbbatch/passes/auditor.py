"""The auditor: compares storage with the table, in both directions, and targets with the table.

It reports and marks. What it repairs is what it can prove: a file that is there again with the
right content, and, where asked to, a file without a row.
"""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Iterator, Sequence
from functools import partial

from dbbbatch.config import Finder
from dbbbatch.database import connect
from dbbbatch.database.models.finder import FinderLeft, Left
from dbbbatch.database.models.finder import Verdict as Memory
from dbbbatch.database.models.ingest import IngestState
from dbbbatch.database.models.storage import Audited, File, FileStatus, Name
from dbbbatch.errors import TryLater
from dbbbatch.files import checksum, faults, names, place
from dbbbatch.files.scan import Found, scan
from dbbbatch.passes.audit_targets import compare_targets
from dbbbatch.passes.base import Pass, Work
from dbbbatch.passes.finder.arrival import Arrival, adopt
from dbbbatch.passes.finder.complaints import Complaints
from dbbbatch.passes.finder.places import area_of
from dbbbatch.passes.finder.work import name_of

#: Rows compared, or files verified, between two looks at whether to stop.
_PAGE = 5000
_TOGETHER = 100

#: Age in seconds of an unfinished copy that nobody can be at work on any more.
_ABANDONED = 86400.0


class AuditorWork(Work):
    """A pass of the auditor over the storage area of a finder.

    Parameters
    ----------
    finder : `dbbbatch.config.Finder`
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

    def recover(self, p: Pass) -> None:
        """Leave where storage looks unmounted: nothing is left half-done."""
        self._complaints = Complaints()
        self._must_be_there()

    def work(self, p: Pass) -> None:
        """Compare rows with files, files with rows, content with checksums, targets with rows."""
        try:
            back = self._compare_rows(p)
            for duty in (
                self._compare_files,
                partial(self._verify, rows=back),
                self._verify_a_share,
                partial(compare_targets, finder=self._finder, complaints=self._complaints),
                self._forget_what_left,
            ):
                if p.stopping:
                    break
                duty(p)
        finally:
            self._complaints.say(p)

    def plan(self, p: Pass) -> Iterator[str]:
        """Say what is wrong as far as it can be seen without reading files."""
        self.recover(p)
        wrong, back = self._look_at_rows(p)
        for row, status, why in wrong:
            yield f"would mark {names.join(row.relpath, row.filename)} {status}: {why}"
        for row in back:
            yield f"would verify {names.join(row.relpath, row.filename)}, which is there again"
        for orphans in self._orphans(p):
            for orphan in orphans:
                verb = "adopt" if self._adopt else "report"
                yield f"would {verb} {names.join(*orphan.name)}, which the table does not know"

    def due(self, p: Pass) -> bool:
        """Tell that there is always something to audit, so nothing to wait for."""
        return False

    # ---- rows without a file ---------------------------------------------------------------------

    def _compare_rows(self, p: Pass) -> list[Audited]:
        """Mark what storage does not have as the table says; return what is there again."""
        wrong, back = self._look_at_rows(p)
        self._must_be_there()
        for status in (FileStatus.MISSING, FileStatus.CORRUPT):
            files = [(row.id, why) for row, becomes, why in wrong if becomes == status]
            connect.transact(lambda status=status, files=files: File.wrong(status, files))
            p.counts[status.lower()] += len(files)
        p.counts["failed"] += len(wrong)
        for row, _, why in wrong:
            self._complaints.failed(_rel(row), why)
        return back

    def _must_be_there(self) -> None:
        """Leave where storage looks unmounted; also just before rows are marked."""
        if why := faults.away(self._finder.storage, self._finder.sentinel):
            raise TryLater(why)

    def _look_at_rows(self, p: Pass) -> tuple[list[tuple[Audited, FileStatus, str]], list[Audited]]:
        """Return the rows that storage contradicts, and those of files that are there again.

        Raises
        ------
        TryLater
            So many are missing that storage looks unmounted.
        """
        total = connect.look(lambda: File.how_many(self._finder.storage))
        wrong: list[tuple[Audited, FileStatus, str]] = []
        back: list[Audited] = []
        missing = done = after = 0
        while not p.stopping:
            page = connect.look(lambda after=after: File.page(self._finder.storage, after, _PAGE))
            if not page:
                break
            after = page[-1].id
            for row in page:
                if not p.matches(_rel(row)):
                    continue
                becomes, why = self._look(row)
                if becomes is not None:
                    wrong.append((row, becomes, why))
                    missing += becomes == FileStatus.MISSING and row.status == FileStatus.STORED
                elif row.status != FileStatus.STORED:
                    back.append(row)
            if missing > self._missing * total:
                raise TryLater(
                    f"{self._finder.storage}: {missing} of {total} files are not there, more than "
                    f"[{self._finder.label}] audit_missing: it looks unmounted, and nothing was "
                    "changed (if they are lost, run dbb-auditor with --missing 1)"
                )
            done += len(page)
            p.progress(done, total, "rows compared")
        return wrong, back

    def _look(self, row: Audited) -> tuple[FileStatus | None, str]:
        """Compare a row with what storage has under its name, without reading it."""
        try:
            status = os.lstat(os.path.join(self._finder.storage, _rel(row)))
        except (FileNotFoundError, NotADirectoryError):
            return FileStatus.MISSING, "is not in storage"
        except OSError as error:
            if faults.is_general(error):
                raise TryLater(f"{self._finder.storage}: {error.strerror}") from None
            return None, ""
        if not stat.S_ISREG(status.st_mode):
            return FileStatus.CORRUPT, "is no regular file in storage"
        if status.st_size != row.size_bytes:
            return FileStatus.CORRUPT, f"has {status.st_size} bytes instead of {row.size_bytes}"
        return None, ""

    # ---- files without a row ---------------------------------------------------------------------

    def _compare_files(self, p: Pass) -> None:
        """Report files without a row, and adopt them where asked to."""
        area = area_of(self._finder, p)._replace(finder="auditor")
        for orphans in self._orphans(p):
            p.counts["orphans"] += len(orphans)
            if not self._adopt:
                p.counts["failed"] += len(orphans)
                for orphan in orphans:
                    self._complaints.orphan(orphan.rel)
                continue
            ready = []
            for orphan in orphans:
                try:
                    before = os.lstat(orphan.source)
                    orphan.sums = checksum.compute(orphan.source, area.algorithms)
                    orphan.status = os.lstat(orphan.source)
                    checksum.same(before, orphan.status, orphan.source)
                    ready.append(orphan)
                except OSError as error:
                    self._complaints.failed(orphan.rel, f"cannot be adopted: {error.strerror}")
                    p.counts["failed"] += 1
            p.counts["adopted"] += adopt(area, ready)
            if p.stopping:
                break

    def _orphans(self, p: Pass) -> Iterator[list[Arrival]]:
        batch: list[Found] = []
        for found in scan(
            self._finder.storage,
            self._finder.exclude,
            self._finder.settle,
            time.time(),
            self._complaints.odd,
            self._remove_abandoned,
        ):
            if found.rel != self._finder.sentinel and p.matches(found.rel):
                batch.append(found)
            if len(batch) >= self._finder.batch_files:
                yield self._unknown(batch)
                batch = []
        yield self._unknown(batch)

    def _unknown(self, batch: Sequence[Found]) -> list[Arrival]:
        paths = [name_of(found.rel) for found in batch]
        known = connect.look(lambda: File.known(self._finder.storage, paths))
        orphans = []
        for found, name in zip(batch, paths, strict=True):
            before = known.get(name)
            if before is None or before.status == FileStatus.FORGOTTEN:
                path = os.path.join(self._finder.storage, found.rel)
                orphan = Arrival(found.rel, name, path, path, found.size_bytes)
                orphan.known = before
                orphans.append(orphan)
        return orphans

    def _remove_abandoned(self, rel: str) -> None:
        """Remove a copy of ours that nobody finishes: what it was a copy of is gone."""
        path = os.path.join(self._finder.storage, rel)
        try:
            if time.time() - os.lstat(path).st_mtime > _ABANDONED:
                place.remove_if_there(path)
        except OSError as error:
            self._complaints.odd(rel, f"an unfinished copy, not to be removed: {error.strerror}")

    # ---- content ---------------------------------------------------------------------------------

    def _verify_a_share(self, p: Pass) -> None:
        """Verify the share that was not for longest."""
        storage = self._finder.storage
        most = math.ceil(self._share * connect.look(lambda: File.how_many(storage)))
        begun = connect.look(connect.now)
        after = None
        while most > 0 and not p.stopping:
            rows, after = connect.look(
                partial(File.longest_unverified, storage, begun, after, min(most, _PAGE))
            )
            if not rows:
                break
            self._verify(p, rows)
            most -= len(rows)

    def _verify(self, p: Pass, rows: Sequence[Audited]) -> None:
        """Read files and mark those whose content is not what it was, no faster than is allowed."""
        begun, read = time.monotonic(), 0
        rows = [row for row in rows if p.matches(_rel(row))]
        for start in range(0, len(rows), _TOGETHER):
            if p.stopping:
                break
            some = rows[start : start + _TOGETHER]
            some = some[: p.take(len(some))]
            right: list[int] = []
            wrong: list[tuple[int, str]] = []
            for row in some:
                self._verify_one(p, row, right, wrong)
                read += row.size_bytes
                self._keep_pace(p, begun, read)
            self._must_be_there()

            again = [row.id for row in some if row.status != FileStatus.STORED and row.id in right]

            def mark(
                right: list[int] = right,
                wrong: list[tuple[int, str]] = wrong,
                again: list[int] = again,
            ) -> None:
                File.verified(right)
                File.wrong(FileStatus.CORRUPT, wrong)
                # What targets gave up because it was not there is due again.
                IngestState.arrive(again, self._finder.storage, p.run_id)

            connect.transact(mark)
            p.counts["verified"] += len(right)
            p.counts["corrupt"] += len(wrong)
            p.counts["failed"] += len(wrong)
            p.progress(start + len(some), len(rows), "files verified")

    def _verify_one(
        self, p: Pass, row: Audited, right: list[int], wrong: list[tuple[int, str]]
    ) -> None:
        path = os.path.join(self._finder.storage, _rel(row))
        algorithm, digest = checksum.parse(row.checksum)
        try:
            found = checksum.compute(path, [algorithm])[algorithm]
        except FileNotFoundError:
            return  # it was there a moment ago; the next pass tells
        except OSError as error:
            if faults.is_general(error):
                raise TryLater(f"{names.printable(path)}: {error.strerror}") from None
            p.counts["failed"] += 1
            self._complaints.failed(_rel(row), f"cannot be read: {error.strerror}")
            return
        if found == digest:
            right.append(row.id)
        else:
            why = f"has {algorithm} {found} instead of {digest}"
            wrong.append((row.id, why))
            self._complaints.failed(_rel(row), f"its content is not what was stored: {why}")

    def _keep_pace(self, p: Pass, begun: float, read: int) -> None:
        if not self._finder.audit_rate:
            return
        end = begun + read / self._finder.audit_rate
        while (left := end - time.monotonic()) > 0 and not p.stopping:
            time.sleep(min(left, 0.5))

    # ---- what a finder has in mind ---------------------------------------------------------------

    def _forget_what_left(self, p: Pass) -> None:
        """Forget what a finder remembers about files that somebody took out of its source."""
        finder, site = self._finder, p.settings.site.name
        if finder.search != "scan" or not os.path.isdir(finder.source):
            return
        for verdict in (Memory.DUPLICATE, Memory.FAILED):
            after: Name = ("", "")
            while page := connect.look(
                lambda verdict=verdict, after=after: FinderLeft.all_with(
                    site, finder.name, verdict, _PAGE, after
                )
            ):
                after = (page[-1].relpath, page[-1].filename)
                gone = [
                    (left.relpath, left.filename)
                    for left in page
                    if not os.path.lexists(os.path.join(finder.source, _rel(left)))
                ]
                connect.transact(lambda gone=gone: FinderLeft.drop(site, finder.name, gone))


def _rel(row: Audited | Left) -> str:
    return names.join(names.from_text(row.relpath), names.from_text(row.filename))
