"""The finder: discover new files at one location, move them to storage, record each."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import NamedTuple

from dbbbatch.config import Finder
from dbbbatch.database import connect
from dbbbatch.database.models.finder import FinderLeft, Left
from dbbbatch.database.models.finder import Verdict as Memory
from dbbbatch.database.models.storage import INODE, File, Name
from dbbbatch.errors import ConfigError, TryLater
from dbbbatch.files import checksum, faults, names, place
from dbbbatch.files.scan import Found, scan
from dbbbatch.passes import arrival as arriving
from dbbbatch.passes import duplicate
from dbbbatch.passes.arrival import Area, Arrival
from dbbbatch.passes.base import Pass, Work
from dbbbatch.passes.complaints import Complaints
from dbbbatch.passes.examine import Examined, Examiner
from dbbbatch.passes.judge import Verdict, wait_before_try
from dbbbatch.passes.quarantine import Aside, Quarantining

#: The name itself is what storage cannot take: trying again would not help.
_UNFIT = {errno.ENOTDIR, errno.ENAMETOOLONG, errno.EISDIR, errno.EILSEQ, errno.EINVAL}

#: Gone, or being written, since the scan came by: the next pass looks again.
_NOT_YET = (FileNotFoundError, FileExistsError, checksum.Changed)


class Fresh(NamedTuple):
    """A file to be stored, and what earlier passes met with it."""

    found: Found
    name: Name
    memory: Left | None = None


class FinderWork(Work):
    """A pass of a finder that scans its source and moves what it finds to storage.

    Parameters
    ----------
    finder : `dbbbatch.config.Finder`
        The section.
    """

    kind = "finder"

    def __init__(self, finder: Finder) -> None:
        self._finder = finder
        self._complaints = Complaints()

    def recover(self, p: Pass) -> None:
        """Finish or take back what an earlier pass had begun to store or to move aside."""
        self._complaints = Complaints()
        self._must_be_there()
        count = arriving.recover(self._area(p), self._finder.batch_files)
        count += self._quarantining(p).recover()
        if count:
            p.counts["recovered"] += count

    def work(self, p: Pass) -> None:
        """Store what the source holds, in batches."""
        try:
            for batch in self._batches(p, self._complaints):
                fresh = self._fresh(p, batch, self._complaints)
                fresh = fresh[: p.take(len(fresh))]
                if fresh:
                    self._must_be_there()
                    self._leave_room(sum(found.size_bytes for found, _, _ in fresh))
                    _Batch(self, p, fresh).store()
                    p.progress(p.counts["stored"])
                if p.stopping:
                    break
            place.remove_empty_directories(self._finder.source, self._finder.expiration)
            self._complaints.about_quarantine(p.settings.site.name, self._finder.label)
        finally:
            self._complaints.say(p)

    def plan(self, p: Pass) -> Iterator[str]:
        """Say what would be finished, then what would be looked at."""
        self._must_be_there()
        for row in connect.look(lambda: File.arriving(self._finder.storage, self._finder.name)):
            yield f"would finish {names.join(row.relpath, row.filename)}"
        unsaid = Complaints()
        for batch in self._batches(p, unsaid):
            fresh = self._fresh(p, batch, unsaid)
            for found, _, before in fresh[: p.take(len(fresh))]:
                again = f" (again: {before.message})" if before else ""
                yield f"would store {names.to_text(found.rel)}, {found.size_bytes} bytes{again}"
            if p.stopping:
                break
        unsaid.say(p)

    def due(self, p: Pass) -> bool:
        """Tell whether the source holds a file that is ready and not known to be left there."""
        unsaid = Complaints()
        return any(self._fresh(p, batch, unsaid) for batch in self._batches(p, unsaid))

    def watched(self) -> list[str]:
        """Give the source: what appears there may be a file."""
        return [self._finder.source]

    # ---- what a batch needs --------------------------------------------------------------------

    def _area(self, p: Pass) -> Area:
        finder = self._finder
        return Area(
            site=p.settings.site.name,
            finder=finder.name,
            source=finder.source,
            storage=finder.storage,
            algorithms=tuple(dict.fromkeys((finder.checksum, *finder.checksums))),
            mode=finder.file_mode,
            dir_mode=finder.dir_mode,
            group=_group(finder),
            run_id=p.run_id,
        )

    def _quarantining(self, p: Pass) -> Quarantining:
        finder = self._finder
        return Quarantining(p.settings.site.name, finder.label, finder.quarantine, finder.source)

    def _must_be_there(self) -> None:
        """Leave with TryLater where source or storage is not mounted."""
        if not os.path.isdir(self._finder.source):
            raise TryLater(f"{self._finder.source}: the source is not there; is it mounted?")
        if why := faults.away(self._finder.storage, self._finder.sentinel):
            raise TryLater(why)

    def _leave_room(self, needed: int) -> None:
        """Leave with TryLater where a copy of so many bytes would fill storage."""
        if not self._apart:
            return
        free = place.free_bytes(self._finder.storage)
        if free - needed < self._finder.min_free:
            raise TryLater(
                f"{self._finder.storage}: {free} bytes are free and {needed} are to come, but "
                f"{self._finder.min_free} must stay free ([{self._finder.label}] min_free)"
            )

    @property
    def _apart(self) -> bool:
        return not place.same_file_system(self._finder.source, self._finder.storage)

    # ---- what is there to do -------------------------------------------------------------------

    def _batches(self, p: Pass, complaints: Complaints) -> Iterator[list[Found]]:
        finder = self._finder
        files: list[Found] = []
        size = 0
        found_ones = scan(finder.source, finder.exclude, finder.settle, time.time(), complaints.odd)
        try:
            for found in found_ones:
                if not p.matches(found.rel):
                    continue
                files.append(found)
                size += found.size_bytes
                if len(files) >= finder.batch_files or size >= finder.batch_bytes:
                    yield files
                    files, size = [], 0
        except OSError as error:
            raise TryLater(f"{finder.source}: {error.strerror}; is it mounted?") from None
        if files:
            yield files

    def _fresh(self, p: Pass, batch: Sequence[Found], complaints: Complaints) -> list[Fresh]:
        """Leave out what is known to stay where it is, or to be tried later."""
        site = p.settings.site.name
        keys = [name_of(found.rel) for found in batch]
        left = connect.look(lambda: FinderLeft.among(site, self._finder.name, keys))
        if not left:
            return [Fresh(found, key) for found, key in zip(batch, keys, strict=True)]
        now = connect.look(connect.now)
        fresh = []
        for found, key in zip(batch, keys, strict=True):
            memory = left.get(key)
            if memory is None or not _is_version(memory, found):
                fresh.append(Fresh(found, key))
            elif memory.verdict == Memory.FAILED:
                wait = wait_before_try(
                    memory.tries, self._finder.retry_wait, self._finder.retry_wait_max
                )
                if memory.seen_at is None or memory.seen_at + timedelta(seconds=wait) <= now:
                    fresh.append(Fresh(found, key, memory))
                else:
                    complaints.failed(found.rel, memory.message)
            elif memory.verdict == Memory.MOVED:
                complaints.failed(found.rel, "its copy is stored, but it cannot be removed")
        return fresh


class _Batch:
    """The files of one batch, from reading to the last record about them."""

    def __init__(self, work: FinderWork, p: Pass, files: Sequence[Fresh]) -> None:
        self._work = work
        self._p = p
        self._finder = work._finder
        self._area = work._area(p)
        self._arrivals = []
        self._tries: dict[Name, int] = {}
        for found, name, memory in files:
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
        self._asides: list[Aside] = []
        self._memories: list[Left] = []

    def store(self) -> None:
        """Take every file of the batch as far as it can go."""
        names_ = [arrival.name for arrival in self._arrivals]
        known = connect.look(lambda: File.known(self._area.storage, names_))
        for arrival in self._arrivals:
            arrival.known = known.get(arrival.name)
        ready, same, orphans = [], [], []
        examiner = Examiner(self._area, self._work._apart)
        for examined in examiner.examine(self._arrivals, self._finder.jobs):
            if examined.verdict in (Verdict.ARRIVES, Verdict.RETURNS):
                ready.append(examined.arrival)
            elif examined.verdict is Verdict.DUPLICATE:
                same.append(examined.arrival)
            elif examined.verdict is Verdict.ORPHAN:
                orphans.append(examined.arrival)
            else:
                self._put_off(examined)
        if ready:
            stored, obstacles = arriving.store(self._area, ready)
            self._p.counts["stored"] += len(stored)
            for arrival, error in obstacles:
                self._put_off(Examined(arrival, None, error=error))
        if orphans:
            self._adopt(orphans)
        for arrival in same + orphans:
            self._set_aside_duplicate(arrival)
        self._move_aside()
        self._remember()

    def _put_off(self, examined: Examined) -> None:
        """Deal with a file that is not to be stored, or not now."""
        arrival, verdict, reason, error = examined
        if verdict is Verdict.CONFLICT:
            self._quarantine(arrival, reason)
        elif error is None or isinstance(error, _NOT_YET):
            self._p.log.info("%s: not yet", names.printable(arrival.rel))
        elif error.errno in _UNFIT:
            self._quarantine(arrival, f"cannot be stored under this name: {error.strerror}")
        else:
            self._fail(arrival, error.strerror or str(error))

    def _adopt(self, orphans: Sequence[Arrival]) -> None:
        found = []
        for orphan in orphans:
            here = Arrival(orphan.rel, orphan.name, orphan.source, orphan.destination)
            here.status = os.lstat(orphan.destination)
            here.sums = orphan.sums
            here.known = orphan.known
            found.append(here)
        arriving.adopt(self._area, found)
        self._p.counts["adopted"] += len(found)

    def _set_aside_duplicate(self, arrival: Arrival) -> None:
        action = self._finder.alternative
        self._p.counts["duplicates"] += 1
        if action == "quarantine":
            self._quarantine(arrival, "storage has the same file already")
        elif action == "delete":
            algorithm = self._area.algorithms[0]
            try:
                duplicate.remove(arrival, algorithm, arrival.sums[algorithm])
            except duplicate.NotProved as doubt:
                self._fail(arrival, f"a duplicate, not removed: {doubt}")
            except _NOT_YET:
                pass
            except OSError as error:
                self._fail(arrival, f"a duplicate, cannot be removed: {error.strerror}")
        else:
            self._memorize(arrival, Memory.DUPLICATE, "storage has the same file already")

    def _quarantine(self, arrival: Arrival, reason: str) -> None:
        try:
            status = arrival.status or os.lstat(arrival.source)
        except OSError:
            return
        algorithm = self._area.algorithms[0]
        digest = arrival.sums.get(algorithm)
        self._asides.append(
            Aside(
                arrival.source,
                arrival.rel,
                status,
                checksum.format(algorithm, digest) if digest else None,
                reason,
            )
        )

    def _fail(self, arrival: Arrival, message: str) -> None:
        """Count a try that went wrong; after the last one the file is moved aside."""
        self._p.counts["failed"] += 1
        if self._tries.get(arrival.name, 0) + 1 >= self._finder.max_attempts:
            self._quarantine(arrival, f"after {self._finder.max_attempts} attempts: {message}")
        else:
            self._memorize(arrival, Memory.FAILED, message)

    def _memorize(self, arrival: Arrival, verdict: Memory, message: str) -> None:
        try:
            status = arrival.status or os.lstat(arrival.source)
        except OSError:
            return
        if verdict is Memory.FAILED:
            self._work._complaints.failed(arrival.rel, message)
        self._memories.append(
            Left(
                *arrival.name,
                status.st_size,
                status.st_mtime_ns,
                status.st_ino & INODE,
                verdict,
                self._tries.get(arrival.name, 0) + 1,
                message,
            )
        )

    def _move_aside(self) -> None:
        if not self._asides:
            return
        by_rel = {arrival.rel: arrival for arrival in self._arrivals}
        failed = self._work._quarantining(self._p).move(self._asides)
        for aside, error in failed:
            if faults.is_general(error, writing=True):
                raise TryLater(f"{self._finder.quarantine}: {error.strerror}; nothing is lost")
            if not isinstance(error, _NOT_YET):
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
        gone = [name for name in self._tries if name not in kept]
        if not self._memories and not gone:
            return

        def write() -> None:
            FinderLeft.drop(self._area.site, self._area.finder, gone)
            FinderLeft.remember(self._area.site, self._area.finder, self._memories)

        connect.transact(write)


def name_of(rel: str) -> Name:
    """Return a relative path as the tables have it."""
    relpath, filename = names.split(rel)
    return names.to_text(relpath), names.to_text(filename)


def _is_version(memory: Left, found: Found) -> bool:
    return (memory.size_bytes, memory.mtime_ns, memory.inode) == (
        found.size_bytes,
        found.mtime_ns,
        found.inode & INODE,
    )


def _group(finder: Finder) -> int | None:
    if not finder.group:
        return None
    if finder.group.isdigit():
        return int(finder.group)
    import grp

    try:
        return grp.getgrnam(finder.group).gr_gid
    except KeyError:
        raise ConfigError(f"[{finder.label}] group: no group {finder.group!r} here") from None
