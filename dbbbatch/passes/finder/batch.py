"""What a finder does with the files of one batch."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from dbbbatch.areas.quarantine import QuarantineArea, Rejected
from dbbbatch.areas.storage import duplicates
from dbbbatch.areas.storage.missing import MissingDirectories, if_it_is_lost
from dbbbatch.areas.storage.mounted import needs_copy, storage_area
from dbbbatch.areas.storage.store import Arrival, adopt, store, to_be_removed
from dbbbatch.config.sections import Finder
from dbbbatch.database import connect
from dbbbatch.database.models.file import File, Name
from dbbbatch.database.models.finder import Remembered, RememberedFile
from dbbbatch.database.models.statuses import FileStatus
from dbbbatch.database.models.statuses import WhyRemembered as Memory
from dbbbatch.errors import TryLater
from dbbbatch.files import checksum, faults, names, place
from dbbbatch.files.identity import Version
from dbbbatch.files.parallel import useful_threads
from dbbbatch.files.scan import Found, detour
from dbbbatch.passes.finder.complaints import Complaints
from dbbbatch.passes.finder.decide import Fate
from dbbbatch.passes.finder.examine import Examined, Examiner
from dbbbatch.passes.runner import PassContext

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

#: Gone, being written, or something else since the scan came by: the next pass looks again.
_NOT_YET = (FileNotFoundError, FileExistsError, checksum.Changed, checksum.NotRegular)


class Fresh(NamedTuple):
    """A file to be stored, and what earlier passes met with it, or with another of its name."""

    found: Found
    name: Name
    memory: RememberedFile | None = None
    stale: bool = False


class FinderBatch:
    """The files of one batch, from reading to the last record about them.

    Parameters
    ----------
    p : `PassContext`
        Whose counts and log tell of them.
    finder : `dbbbatch.config.sections.Finder`
        The section.
    complaints : `Complaints`
        Is told of what fails.
    files : `~collections.abc.Sequence` [ `Fresh` ]
        What to store.
    entangled : `~collections.abc.Callable`
        Says of a directory's relative path why nothing there may be moved, or nothing.

    Attributes
    ----------
    trouble : `TryLater` or `None`
        Why quarantine, or a part of storage, takes nothing now; other files need it not.
    """

    def __init__(
        self,
        p: PassContext,
        finder: Finder,
        complaints: Complaints,
        files: Sequence[Fresh],
        entangled: Callable[[str], str],
    ) -> None:
        self._p = p
        self._finder = finder
        self._complaints = complaints
        self._entangled = entangled
        self.trouble: TryLater | None = None
        self._area = storage_area(finder, p.settings.site.name, p.run_id, p.roots)
        self._arrivals: list[Arrival] = []
        self._tries: dict[Name, int] = {}
        self._stale = [fresh.name for fresh in files if fresh.stale]
        for found, name, memory, _ in files:
            self._arrivals.append(
                Arrival(
                    found.rel,
                    name,
                    f"{self._area.source}/{found.rel}",
                    f"{self._area.storage}/{found.rel}",
                    found.size_bytes,
                )
            )
            if memory is not None:
                self._tries[name] = memory.tries
        self._examined: Future[list[Examined]]
        self._moved: set[Name] = set()
        self._waiting: set[Name] = set()
        self._asides: list[Rejected] = []
        self._memories: list[RememberedFile] = []

    def read(self, reader: Executor) -> None:
        """Have the files read by another thread, which does not use the database."""
        self._leave_what_is_away()
        asked = [arrival.name for arrival in self._arrivals]
        known = connect.read(File.known, self._area.storage, asked)
        for arrival in self._arrivals:
            arrival.known = known.get(arrival.name)
        examiner = Examiner(self._area, needs_copy(self._finder), self._entangled)
        jobs = useful_threads(self._arrivals, self._area.jobs)
        self._examined = reader.submit(lambda: list(examiner.examine(self._arrivals, jobs)))

    def _leave_what_is_away(self) -> None:
        """Leave out what would go into a part of storage that looks unmounted, under its mount."""
        bare = MissingDirectories(self._area.storage)
        directories = {arrival.relpath for arrival in self._arrivals}
        away = {each: top for each in directories if (top := bare.unmounted(each))}
        if not away:
            return
        top = min(away.values())
        where = names.printable(os.path.join(self._area.storage, top))
        self.trouble = TryLater(
            f"{where}: not there or empty, though the table has files in it; that looks unmounted, "
            f"and what is to go there waits ({if_it_is_lost(self._finder, top)})"
        )
        self._waiting = {each.name for each in self._arrivals if each.relpath in away}
        self._arrivals = [each for each in self._arrivals if each.relpath not in away]

    def store(self) -> None:
        """Take every file of the batch, which was given to be read, as far as it can go."""
        ready, same, orphans = [], [], []
        for examined in self._examined.result():
            if examined.verdict in (Fate.ARRIVES, Fate.RETURNS):
                ready.append(examined.arrival)
            elif examined.verdict is Fate.DUPLICATE:
                same.append(examined.arrival)
            elif examined.verdict is Fate.ORPHAN:
                orphans.append(examined.arrival)
            else:
                self._put_off(examined)
        if ready:
            stored, obstacles = store(self._area, ready)
            self._p.counts["stored"] += len(stored)
            self._moved = {arrival.name for arrival in stored if arrival.copied}
            for arrival, error in obstacles:
                self._put_off(Examined(arrival, None, error=error))
        if orphans:
            same += self._adopt(orphans)
        self._set_aside_duplicates(same)
        self._move_aside()
        self._remember()

    def discard(self) -> None:
        """Remove the copies of files that are not stored now: they would only fill the disk."""
        self._examined.exception()
        for arrival in self._arrivals:
            if arrival.copied:
                with suppress(OSError):
                    place.remove_temporary(arrival.destination, self._area.owner)

    def _put_off(self, examined: Examined) -> None:
        """Deal with a file that is not to be stored, or not now."""
        arrival, verdict, reason, error = examined
        if verdict is Fate.CONFLICT:
            self._quarantine(arrival, reason)
        elif verdict is Fate.ITSELF:
            self._leave(arrival, reason)
        elif verdict is Fate.BUSY and arrival.known is not None:
            self._complaints.busy(arrival.known.finder)
        elif error is None or isinstance(error, _NOT_YET):
            self._p.log.info("%s: not yet", names.printable(arrival.rel))
        elif directory := self._forbidden(arrival, error):
            self._p.counts["failed"] += 1
            self._complaints.forbidden(directory, error)
        elif self._is_unfit(arrival, error):
            self._quarantine(arrival, f"cannot be stored under this name: {error.strerror}")
        elif error.errno == errno.ENOTDIR:
            self._p.log.info("%s: not yet: %s", names.printable(arrival.rel), error.strerror)
        else:
            self._fail(arrival, error.strerror or str(error))

    def _is_unfit(self, arrival: Arrival, error: OSError) -> bool:
        """Return whether storage cannot have a file of this name, which lasts.

        An error of the source says nothing of that; nor does one that a disk gives for a moment.
        """
        if error.errno not in faults.INVALID_NAME:
            return False
        if error.errno == errno.ENOTDIR:
            with suppress(OSError):
                return bool(detour(self._area.storage, arrival.relpath))
            return False
        paths = (error.filename, error.filename2)
        return any(str(path).startswith(f"{self._area.storage}/") for path in paths if path)

    def _forbidden(self, arrival: Arrival, error: OSError) -> str:
        """Name the directory of storage that keeps a file out, if it is not the file itself."""
        if isinstance(error, place.ModeError):
            return self._area.storage
        if error.errno not in faults.NO_PERMISSION:
            return ""
        directory = os.path.dirname(arrival.destination)
        while not os.path.isdir(directory) and directory != self._area.storage:
            directory = os.path.dirname(directory)
        writable = os.access(directory, os.W_OK | os.X_OK)
        return "" if writable and not isinstance(error, place.WriteError) else directory

    def _adopt(self, orphans: Sequence[Arrival]) -> list[Arrival]:
        """Record what storage has; return those whose stored file was still there."""
        ours, found = [], []
        for orphan in orphans:
            here = Arrival(orphan.rel, orphan.name, orphan.source, orphan.destination)
            try:
                here.status = os.lstat(orphan.destination)
            except OSError as error:
                self._put_off(Examined(orphan, None, error=error))
                continue
            here.sums = orphan.sums
            here.known = orphan.known
            found.append(here)
            ours.append(orphan)
        self._p.counts["adopted"] += adopt(self._area, found)
        return ours

    def _set_aside_duplicates(self, arrivals: Sequence[Arrival]) -> None:
        self._p.counts["duplicates"] += len(arrivals)
        if self._finder.alternative == "delete":
            self._remove(arrivals)
            return
        for arrival in arrivals:
            if self._finder.alternative == "quarantine":
                self._quarantine(arrival, "storage has the same file already")
            else:
                self._memorize(arrival, Memory.DUPLICATE, "storage has the same file already")

    def _remove(self, arrivals: Sequence[Arrival]) -> None:
        """Remove duplicates: recorded first, for the pass after a kill."""
        if not arrivals:
            return
        lefts = [to_be_removed(each.name, each.status, self._digest(each)) for each in arrivals]
        site, finder = self._area.site, self._area.finder
        connect.write(Remembered.remember, site, finder, lefts)
        by_name = {arrival.name: arrival for arrival in arrivals}
        for left, error in duplicates.remove_duplicates(self._area, lefts):
            arrival = by_name[left.relpath, left.filename]
            if isinstance(error, duplicates.SameFile):
                self._leave(arrival, f"a duplicate, not removed: {error}")
            elif isinstance(error, duplicates.NotVerified):
                self._fail(arrival, f"a duplicate, not removed: {error}")
            elif not isinstance(error, _NOT_YET):
                self._fail(arrival, f"a duplicate, cannot be removed: {error.strerror}")

    def _digest(self, arrival: Arrival) -> str:
        """Return the checksum of a file as its row has it."""
        if arrival.known is not None and arrival.known.status == FileStatus.STORED:
            return arrival.known.checksum
        algorithm = self._area.algorithms[0]
        return checksum.format(algorithm, arrival.sums[algorithm])

    def _quarantine(self, arrival: Arrival, reason: str) -> None:
        try:
            status = arrival.status or os.lstat(arrival.source)
        except OSError:
            return
        algorithm = self._area.algorithms[0]
        digest = arrival.sums.get(algorithm)
        self._asides.append(
            Rejected(
                arrival.source,
                arrival.rel,
                status,
                checksum.format(algorithm, digest) if digest else None,
                reason,
            )
        )

    def _fail(self, arrival: Arrival, message: str) -> None:
        """Count a try that went wrong; after the last one the file is moved aside."""
        if self._tries.get(arrival.name, 0) + 1 >= self._finder.max_attempts:
            self._p.counts["failed"] += 1
            self._quarantine(arrival, f"after {self._finder.max_attempts} attempts: {message}")
        else:
            self._leave(arrival, message)

    def _leave(self, arrival: Arrival, message: str) -> None:
        """Count a try that went wrong; the file stays where it is."""
        self._p.counts["failed"] += 1
        self._memorize(arrival, Memory.FAILED, message)

    def _memorize(self, arrival: Arrival, verdict: Memory, message: str) -> None:
        try:
            status = arrival.status or os.lstat(arrival.source)
        except OSError:
            return
        if verdict is Memory.FAILED:
            self._complaints.failed(arrival.rel, message)
        self._memories.append(
            RememberedFile(
                *arrival.name,
                *Version.of_file(status),
                verdict,
                self._tries.get(arrival.name, 0) + 1,
                message,
            )
        )

    def _move_aside(self) -> None:
        if not self._asides:
            return
        by_rel = {arrival.rel: arrival for arrival in self._arrivals}
        failed = QuarantineArea(self._p.settings.site.name, self._finder, self._p.roots).quarantine(
            self._asides
        )
        for aside, error in failed:
            if faults.affects_every_file(error, writing=True):
                self.trouble = TryLater(
                    f"{self._finder.quarantine}: {error.strerror}; nothing is lost"
                )
            elif not isinstance(error, _NOT_YET):
                self._p.counts["failed"] += 1
                self._memorize(
                    by_rel[aside.rel],
                    Memory.FAILED,
                    f"{aside.reason}; and cannot be moved aside: {error.strerror}",
                )
        moved = len(self._asides) - len(failed)
        self._p.counts["quarantined"] += moved
        self._p.counts["failed"] += moved

    def _remember(self) -> None:
        """Keep in mind what stays, and no more what has gone."""
        kept = {(memory.relpath, memory.filename) for memory in self._memories}
        # What was copied is remembered, or was dropped, with its own record.
        kept |= self._moved | self._waiting
        gone = [name for name in (*self._tries, *self._stale) if name not in kept]
        if not self._memories and not gone:
            return

        def write() -> None:
            Remembered.drop(self._area.site, self._area.finder, gone)
            Remembered.remember(self._area.site, self._area.finder, self._memories)

        connect.write(write)
