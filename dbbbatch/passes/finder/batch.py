"""What a finder does with the files of one batch."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from dbbbatch.areas.quarantine import Rejected
from dbbbatch.areas.storage import duplicates, store
from dbbbatch.areas.storage.incoming import NOT_READ, Fate, Incoming
from dbbbatch.areas.storage.missing import MissingDirectories, if_it_is_lost
from dbbbatch.database import connect
from dbbbatch.database.models.file import File, Name
from dbbbatch.database.models.finder import Remembered, RememberedFile
from dbbbatch.database.models.statuses import FileStatus, WhyRemembered
from dbbbatch.errors import LeaseLost, TryLater, key_of_missing
from dbbbatch.files import checksum, faults, names, place
from dbbbatch.files.identity import Version
from dbbbatch.files.parallel import useful_threads
from dbbbatch.files.scan import detour
from dbbbatch.files.tree import why_refused
from dbbbatch.passes.finder.examine import Examiner
from dbbbatch.passes.finder.job import FinderJob

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

#: Gone, being written, or something else since the scan came by: the next pass looks again.
_NOT_YET = (FileNotFoundError, FileExistsError, checksum.Changed, checksum.NotRegular)


class FinderBatch:
    """The files of one batch, from reading to the last record about them.

    Parameters
    ----------
    job : `FinderJob`
    files : `~collections.abc.Sequence` [ `Incoming` ]
        What to store.
    remembered : `~collections.abc.Mapping` [ `Name`, `RememberedFile` ]
        What is remembered about their paths.

    Attributes
    ----------
    trouble : `TryLater` or `None`
        Why the quarantine, or a part of storage, takes nothing now; other files do not need it.
    """

    def __init__(
        self, job: FinderJob, files: Sequence[Incoming], remembered: Mapping[Name, RememberedFile]
    ) -> None:
        self._job = job
        self._section = job.section
        self._area = job.area
        self._counts = job.context.counts
        self._log = job.context.log
        self._files = list(files)
        self._before = {
            each.name: remembered[each.name] for each in files if each.name in remembered
        }
        self.trouble: TryLater | None = None
        self._examined: Future[list[Incoming]]
        #: Names about which something is remembered that stays so.
        self._settled: set[Name] = set()
        self._rejected: list[tuple[Incoming, Rejected]] = []
        self._remembered: list[RememberedFile] = []

    def read(self, reader: Executor, overlap: Callable[[str], str]) -> None:
        """Let another thread, which does not use the database, read and examine the files."""
        self._area.forget()
        self._leave_unmounted_directories()
        known = connect.read(File.known, self._section.storage, [each.name for each in self._files])
        files = [
            each._replace(known=known[each.name]) if each.name in known else each
            for each in self._files
        ]
        examiner = Examiner(self._area, overlap, self._job.ahead)
        jobs = useful_threads(files, self._section.jobs)
        self._examined = reader.submit(lambda: list(examiner.examine(files, jobs)))

    def _leave_unmounted_directories(self) -> None:
        """Leave out what would go into a part of storage that looks unmounted, below its mount."""
        missing = MissingDirectories(self._area.storage)
        tops = {each.name: missing.unmounted(each.destination.relpath) for each in self._files}
        if not (away := {top for top in tops.values() if top}):
            return
        top = min(away)
        where = names.printable(os.path.join(self._section.storage, top))
        self.trouble = TryLater(
            f"{where}: not there or empty, though the table has files in it; that looks unmounted, "
            f"and what is to go there waits ({if_it_is_lost(self._section, top)})",
            key=f"parts of {key_of_missing(self._section.storage)}",
        )
        self._settled = {name for name, top in tops.items() if top}
        self._files = [each for each in self._files if each.name not in self._settled]

    def store(self) -> None:
        """Do with each file what was decided, as far as it can be done now."""
        by_fate: dict[Fate, list[Incoming]] = {}
        for file in self._examined.result():
            by_fate.setdefault(file.decision.fate, []).append(file)
        duplicate = by_fate.pop(Fate.DUPLICATE, [])
        orphans = by_fate.pop(Fate.ORPHAN, [])
        ready = by_fate.pop(Fate.ARRIVES, []) + by_fate.pop(Fate.RETURNS, [])
        for files in by_fate.values():
            self._put_off(files)
        if ready:
            stored, failed = store.store(self._area, ready)
            self._job.context.did("stored", len(stored), sum(each.size_bytes for each in stored))
            # What was copied is remembered, or was dropped, with its own record.
            self._settled |= {each.name for each in stored if each.copied}
            self._put_off(failed)
        self._deal_with_duplicates(duplicate + self._adopt(orphans))
        self._quarantine()
        self._remember()

    def discard(self) -> None:
        """Remove the copies of files that are not stored now: they would only fill the disk."""
        self._examined.exception()  # which waits for the other thread
        for file in self._files:
            with suppress(OSError, LeaseLost):  # the next pass copies over what stays
                place.remove_temporary(file.destination, self._area.owner)

    def _put_off(self, files: Sequence[Incoming]) -> None:
        """Deal with files that are not to be stored, or not now."""
        for file in files:
            fate, reason, error = file.decision
            if fate is Fate.CONFLICT:
                self._reject(file, reason)
            elif fate is Fate.SAME_FILE:
                self._leave(file, reason)
            elif fate is Fate.BUSY and file.known is not None:
                self._job.busy[file.known.finder] += 1
            elif error is None or isinstance(error, _NOT_YET):
                self._log.info("%s: not yet", names.printable(file.rel))
            elif directory := self._keeps_out(file, error):
                self._job.note_no_permission(directory, error)
            elif self._has_invalid_name(file, error):
                self._reject(file, f"cannot be stored under this name: {error.strerror}")
            elif error.errno == errno.ENOTDIR:
                self._log.info("%s: not yet: %s", names.printable(file.rel), error.strerror)
            else:
                self._fail(file, why_refused(error, file.source))

    def _keeps_out(self, file: Incoming, error: OSError) -> str:
        """Return the directory of storage that keeps a file out, if it is not the file itself."""
        storage, relpath = self._area.storage, file.destination.relpath
        if isinstance(error, place.ModeError):
            return storage.path
        if error.errno == errno.ENOTDIR:
            return self._link_on_the_way(relpath)
        if error.errno not in faults.NO_PERMISSION:
            return ""
        directory = storage.nearest(relpath)
        if storage.is_writable(directory) and not isinstance(error, place.WriteError):
            return ""
        return os.path.join(storage.path, directory) if directory else storage.path

    def _link_on_the_way(self, relpath: str) -> str:
        """Return the path of the first part of a directory of storage that is a link, or ''."""
        storage = self._area.storage
        with suppress(OSError):
            found = storage.obstacle(relpath)
            if found is not None and stat.S_ISLNK(found[1].st_mode):
                return os.path.join(storage.path, found[0])
        return ""

    def _has_invalid_name(self, file: Incoming, error: OSError) -> bool:
        """Return whether storage cannot have a file of this name, which lasts.

        An error of the source says nothing of that; nor does one that passes.
        """
        if error.errno not in faults.INVALID_NAME:
            return False
        if error.errno == errno.ENOTDIR:
            with suppress(OSError):
                return bool(detour(self._area.storage, file.destination.relpath))
            return False
        paths = (error.filename, error.filename2)
        return any(str(path).startswith(f"{self._section.storage}/") for path in paths if path)

    def _adopt(self, orphans: Sequence[Incoming]) -> list[Incoming]:
        """Record what storage has; return those whose stored file was still there."""
        found, in_storage = [], []
        for orphan in orphans:
            try:
                status = orphan.destination.lstat()
            except OSError as error:
                self._put_off([orphan.failed(error)])
                continue
            found.append(orphan)
            in_storage.append(orphan._replace(status=status))
        if in_storage:
            self._counts["adopted"] += store.adopt(self._area, in_storage)
        return found

    def _deal_with_duplicates(self, files: Sequence[Incoming]) -> None:
        self._counts["duplicates"] += len(files)
        self._job.context.bar.advance(len(files), sum(each.size_bytes for each in files))
        if self._section.alternative == "delete":
            self._remove(files)
            return
        for file in files:
            if self._section.alternative == "quarantine":
                self._reject(file, "storage has the same file already")
            else:
                self._remember_that(
                    file, WhyRemembered.DUPLICATE, "storage has the same file already"
                )

    def _remove(self, files: Sequence[Incoming]) -> None:
        if not files:
            return
        by_name = {each.name: each for each in files}
        originals = [store.to_be_removed(each, self._recorded_checksum(each)) for each in files]
        for original, error in duplicates.remove_duplicates(self._area, originals):
            file = by_name[original.relpath, original.filename]
            if isinstance(error, duplicates.SameFile):
                self._leave(file, f"a duplicate, not removed: {error}")
            elif isinstance(error, duplicates.NotVerified):
                self._fail(file, f"a duplicate, not removed: {error}")
            elif not isinstance(error, _NOT_YET):
                why = why_refused(error, file.source)
                self._fail(file, f"a duplicate, cannot be removed: {why}")

    def _recorded_checksum(self, file: Incoming) -> str:
        """Return the checksum of a duplicate as the row of the stored file has it."""
        if file.known is not None and file.known.status == FileStatus.STORED:
            return file.known.checksum
        return file.row(self._area.algorithms[0]).checksum

    def _reject(self, file: Incoming, reason: str) -> None:
        """Note that a file is to be quarantined."""
        if (status := _status_of_source(file)) is None:
            return
        algorithm = self._area.algorithms[0]
        digest = file.sums.get(algorithm)
        stored_as = checksum.format(algorithm, digest) if digest else None
        self._rejected.append((file, Rejected(file.source, status, stored_as, reason)))

    def _fail(self, file: Incoming, message: str) -> None:
        """Count a try that went wrong; after the last one the file is quarantined."""
        if self._tries(file) >= self._section.max_attempts:
            self._counts["failed"] += 1
            self._reject(
                file, f"after {names.counted(self._section.max_attempts, 'attempt')}: {message}"
            )
        else:
            self._leave(file, message)

    def _leave(self, file: Incoming, message: str) -> None:
        """Count a try that went wrong; the file stays where it is."""
        self._counts["failed"] += 1
        self._remember_that(file, WhyRemembered.FAILED, message)

    def _tries(self, file: Incoming) -> int:
        """Return how many times this version was tried, with this time."""
        return self._before[file.name].tries + 1 if file.name in self._before else 1

    def _remember_that(self, file: Incoming, why: WhyRemembered, message: str) -> None:
        if (status := _status_of_source(file)) is None:
            return
        if why is WhyRemembered.FAILED:
            self._job.context.warn_of("failed", file.rel, message)
        version = Version.of_file(status)
        self._remembered.append(
            RememberedFile(*file.name, *version, why, self._tries(file), message)
        )

    def _quarantine(self) -> None:
        """Move the rejected files to the quarantine."""
        if not self._rejected:
            return
        by_rel = {file.rel: file for file, _ in self._rejected}
        failed = self._job.quarantine().quarantine([rejected for _, rejected in self._rejected])
        for rejected, error in failed:
            if faults.affects_every_file(error, writing=True):
                self.trouble = TryLater(
                    f"{self._section.quarantine}: {error.strerror}; nothing is lost"
                )
            elif not isinstance(error, _NOT_YET):
                why = self._job.quarantine().why_stays(rejected.source, error)
                self._leave(
                    by_rel[rejected.rel], f"{rejected.reason}; and cannot be moved aside: {why}"
                )
        moved = len(self._rejected) - len(failed)
        self._counts["quarantined"] += moved
        self._counts["failed"] += moved

    def _remember(self) -> None:
        """Remember what stays, and no longer what has gone."""
        stays = {(each.relpath, each.filename) for each in self._remembered} | self._settled
        gone = [name for name in self._before if name not in stays]
        if not self._remembered and not gone:
            return

        def write() -> None:
            Remembered.drop(self._area.site, self._area.finder, gone)
            Remembered.remember(self._area.site, self._area.finder, self._remembered)

        connect.write(write)


def _status_of_source(file: Incoming) -> os.stat_result | None:
    """Return a file as it was when it was read, or else is now; `None` if it is gone."""
    if file.status is not NOT_READ:
        return file.status
    try:
        return file.source.lstat()
    except OSError:
        return None
