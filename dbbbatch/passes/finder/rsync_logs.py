"""The finder that learns from rsync's logs what rsync itself has put in storage.

Nothing is moved. How far a log was read is recorded together with the files that it named, so that
a log that grew is continued and a file is never recorded twice.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import stat
import time
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from dbbbatch.areas.storage.mounted import require_mounted
from dbbbatch.config.sections import Finder
from dbbbatch.database import connect
from dbbbatch.database.models.file import File
from dbbbatch.database.models.finder import Remembered, RememberedFile, RsyncLog
from dbbbatch.files import clock, faults, names, place, rsync_log, temporary
from dbbbatch.files.identity import Version, inode_of
from dbbbatch.files.scan import kind
from dbbbatch.passes.finder.complaints import Complaints
from dbbbatch.passes.finder.logged import Logged, given_up, tries_due
from dbbbatch.passes.finder.work import finish
from dbbbatch.passes.runner import PassContext, Work

#: Days before the first one that is read in which logs that are not read to their end are told of.
_DAYS_BEFORE = 31

#: Lines that are not understood of which a log is judged by.
_LINES = 100


class Log(NamedTuple):
    """A log that may hold something new.

    Attributes
    ----------
    path : `str`
        Where it is.
    status : `os.stat_result`
        Of the file.
    position : `int`
        From where it is to be read, bytes.
    key : `str`
        The path that it has, or had, as the tables have it.
    before : `dbbbatch.database.models.finder.RsyncLog` or `None`
        How far another log was read that had its path.
    """

    path: str
    status: os.stat_result
    position: int
    key: str
    before: RsyncLog | None = None


class RsyncWork(Work):
    """A pass of a finder that reads rsync's logs.

    Parameters
    ----------
    finder : `dbbbatch.config.sections.Finder`
        The section.
    since : `datetime.date`, optional
        Read the logs of all days from this one on, instead of ``past_days``.
    """

    kind = "finder"

    def __init__(self, finder: Finder, since: datetime.date | None = None) -> None:
        self._finder = finder
        self._since = since
        self._complaints = Complaints()

    def recover(self, p: PassContext) -> None:
        """Finish what passes left that still scanned; logs are read on from where they were."""
        self._complaints = Complaints()
        require_mounted(self._finder, p.roots)
        finish(p, self._finder, self._complaints)

    def work(self, p: PassContext) -> None:
        """Look again for what is awaited, then read what the logs have new."""
        logged = Logged(p, self._finder, self._complaints)
        try:
            logged.look_again()
            for log in self._logs(p):
                if p.stopping:
                    break
                p.must_have_room()
                try:
                    if log.before is None or self._finish(p, log, log.before, logged):
                        self._read(p, log, logged)
                    self._mark_done(p, log)
                except OSError as error:
                    self._cannot_be_read(p, log.path, error)
            logged.complain()
            self._tell_of_logs_elsewhere()
            self._tell_of_days_before(p)
        finally:
            self._complaints.say(p)

    def plan(self, p: PassContext) -> Iterator[str]:
        """Yield which files would be looked for again, and which logs would be read."""
        require_mounted(self._finder, p.roots)
        for row in connect.read(File.arriving, self._finder.storage, self._finder.name):
            yield f"would finish {names.join(row.relpath, row.filename)}"
        for left in tries_due(p, self._finder):
            yield f"would look again for {names.join(left.relpath, left.filename)}"
        for log in self._logs(p):
            try:
                pieces = _replaced(log.path, log.before) if log.before else []
                pieces.append(rsync_log.LogPiece(log.path, log.status, log.position))
                for path, _, position in pieces:
                    count = sum(
                        entry.name is not None for entry in rsync_log.read_lines(path, position)
                    )
                    if count:
                        shown = names.to_text(path)
                        yield f"would read {shown} from byte {position}: {count} files"
            except OSError as error:
                yield f"cannot read {log.key}: {error.strerror}"

    def due(self, p: PassContext) -> bool:
        """Return whether a log has grown, or a file is to be looked for again."""
        return any(map(_has_grown, self._logs(p))) or any(tries_due(p, self._finder))

    def watched(self) -> list[str]:
        """Return the directory of logs."""
        return [self._finder.source]

    def _logs(self, p: PassContext) -> Iterator[Log]:
        """Yield the logs of the days asked for that have not changed for a while."""
        finder = self._finder
        now = time.time()
        with faults.as_try_later(finder.source):
            days = rsync_log.days(finder.source)
        for day, directory in days:
            if not self._is_asked_for(day, now):
                continue
            for path, status in self._files(p, directory):
                if self._is_quiet(status):
                    yield self._log(p, path, status)

    def _is_quiet(self, status: os.stat_result) -> bool:
        """Return whether a log has not changed for a while."""
        finder = self._finder
        return not finder.delay or not clock.of(finder.source).is_young(status, finder.delay)

    def _first_day(self, now: float) -> datetime.date:
        """Return the first day whose logs are to be read."""
        days = min(self._finder.past_days, (self._today(now) - datetime.date.min).days)
        return self._since or self._today(now) - datetime.timedelta(days)

    def _today(self, now: float) -> datetime.date:
        if self._finder.date:
            return datetime.datetime.strptime(self._finder.date, "%Y%m%d").date()
        return datetime.datetime.fromtimestamp(now, datetime.UTC).date()

    def _is_asked_for(self, day: datetime.date, now: float) -> bool:
        """Return whether the logs of a day are to be read."""
        ahead = (day - self._today(now)).days
        return day >= self._first_day(now) and ahead <= self._finder.future_days

    def _tell_of_logs_elsewhere(self) -> None:
        """Say that logs are not read because they lie in no directory of a day."""
        for path in _logs_of(self._finder.source):
            if os.path.isfile(path):
                self._complaints.unread(
                    path,
                    "is not read: logs are looked for in a directory for each day, named like "
                    f"{self._today(time.time()):%Y%m%d}",
                )

    def _tell_of_days_before(self, p: PassContext) -> None:
        """Say that logs of days before those that are read are not read to their end.

        So it is after the finder was off for some days, and where a transfer goes on for as long.
        """
        finder = self._finder
        if finder.date or self._since or p.options.match:
            return
        first = self._first_day(time.time())
        paths: dict[str, str] = {}
        days: dict[str, datetime.date] = {}
        with contextlib.suppress(OSError):
            for day, directory in rsync_log.days(finder.source):
                if 0 < (first - day).days <= _DAYS_BEFORE:
                    logs = _logs_of(directory)
                    paths |= {names.to_text(path): path for path in logs}
                    days |= dict.fromkeys(logs, day)
        if not paths:
            return
        read = connect.read(lambda: RsyncLog.among(p.settings.site.name, finder.name, list(paths)))
        unread = [path for key, path in paths.items() if _is_unread(path, read.get(key))]
        if unread:
            day = min(days[path] for path in unread)
            self._complaints.unread(
                finder.source,
                f"{len(unread)} logs of days before past_days are not read to their end, the first "
                f"of {day:%Y%m%d}: `dbb-finder {finder.name} --since {day}` reads them",
            )

    def _files(self, p: PassContext, directory: str) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the logs of a day; what cannot be read there keeps nobody from the others."""
        try:
            paths = rsync_log.logs(directory)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            self._cannot_be_read(p, directory, error)
            return
        for path in paths:
            try:
                status = os.stat(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._cannot_be_read(p, path, error)
                continue
            if stat.S_ISREG(status.st_mode):
                yield path, status
            else:
                self._complaints.odd(path, f"{kind(status.st_mode)}, not a log")

    def _cannot_be_read(self, p: PassContext, path: str, error: OSError) -> None:
        p.counts["failed"] += 1
        self._complaints.failed(path, f"cannot be read: {error.strerror}")

    def _log(self, p: PassContext, path: str, status: os.stat_result) -> Log:
        """Return from where a log is to be read: its beginning if it is another one by now."""
        key = names.to_text(path)
        site, finder = p.settings.site.name, self._finder.name
        read = connect.read(RsyncLog.among, site, finder, [key]).get(key)
        if read is None:
            return Log(path, status, 0, key)
        if read.inode != inode_of(status.st_ino) or read.position > status.st_size:
            return Log(path, status, 0, key, read)
        # One that cannot be read is told of when there is something new to read.
        with contextlib.suppress(OSError):
            if read.tail and read.tail != rsync_log.tail(path, read.position):
                return Log(path, status, 0, key, read)
        return Log(path, status, read.position, key)

    def _finish(self, p: PassContext, log: Log, before: RsyncLog, logged: Logged) -> bool:
        """Read to its end what had the path of a log before; False if that is for later."""
        pieces = _replaced(log.path, before)
        if not all(self._is_quiet(piece.status) for piece in pieces):
            return False
        lost = "" if pieces else "nothing in its directory is what it was"
        for piece in pieces:
            try:
                if not self._read(p, Log(*piece, log.key), logged, archived=True):
                    return False
            except rsync_log.Broken as error:
                lost = f"{piece.path} {error.strerror}"
            except OSError as error:
                self._cannot_be_read(p, piece.path, error)
                return False
        if lost:
            p.log.warning("%s: replaced after byte %d: %s", log.key, before.position, lost)
            self._complaints.unread(
                log.path,
                f"was emptied or replaced after it had been read up to byte {before.position}, and "
                f"{lost}: what rsync added to it meanwhile is lost; `dbb-auditor "
                f"{self._finder.name} --adopt` records files that no log names",
            )
        if not p.options.match:
            connect.write(self._keep, p, log, 0, "")
        return True

    def _keep(self, p: PassContext, log: Log, position: int, tail: str) -> None:
        site, finder = p.settings.site.name, self._finder.name
        RsyncLog.keep(site, finder, log.key, Version.of_file(log.status), position, tail)

    def _read(self, p: PassContext, log: Log, logged: Logged, *, archived: bool = False) -> bool:
        """Record, in batches, what a log tells from its position on; False if a limit came first.

        The size of one that was `archived` tells nothing: it may be compressed.
        """
        if log.position >= log.status.st_size and not archived:
            return True
        prefix = self._finder.prefix.replace("{date}", os.path.basename(os.path.dirname(log.path)))
        itemized = False
        unknown: list[str] = []
        # The end of the line that named a file first, and how many lines say that it was updated.
        batch: dict[str, tuple[int, int]] = {}
        directories: dict[str, str] = {}
        damage: list[RememberedFile] = []
        begin = log.position

        def flush(end: int) -> bool:
            """Deal with the batch; False if a limit did not let it be dealt with as a whole."""
            nonlocal begin
            allowed = p.take(len(batch))
            named = {rel: updates for rel, (_, updates) in islice(batch.items(), allowed)}
            ends = [begin, *(at for at, _ in batch.values())]
            # Also where lines after the last one that named a file first were read.
            ends[-1] = end
            begin = end

            def keep(dealt: int) -> None:
                # What --match left out is still to be read.
                if not p.options.match:
                    self._keep(p, log, ends[dealt], rsync_log.tail(log.path, ends[dealt]))

            whole = logged.record(named, log.key, damage, keep) and allowed == len(batch)
            batch.clear()
            directories.clear()
            damage.clear()
            return whole and not p.stopping

        end = log.position
        for entry in rsync_log.read_lines(log.path, log.position):
            end = entry.end
            if entry.damaged:
                damage[:] = [self._damage(log, end)]
            if entry.unknown and not itemized and len(unknown) < _LINES:
                unknown.append(entry.unknown)
            if entry.name is None:
                continue
            itemized = True
            relpath, filename = names.split(self._named(prefix, entry))
            if relpath not in directories:
                directories[relpath] = rsync_log.scan_directory(self._finder.storage, relpath)
            rel = names.join(directories[relpath], filename)
            if self._is_passed_over(rel) or not p.matches(rel):
                continue
            first, updates = batch.get(rel, (end, 0))
            batch[rel] = first, updates + entry.updated
            if len(batch) >= self._finder.batch_files and not flush(end):
                return False
        if unknown and not itemized and not damage and self._may_name(prefix, unknown):
            damage.append(self._misunderstood(log, end))
        return flush(end)

    def _is_passed_over(self, rel: str) -> bool:
        """Return whether a file is none to be recorded, as for a scan."""
        return (
            rel == self._finder.sentinel
            or f"/{temporary.TEMPORARY_PREFIX}" in f"/{rel}"
            or any(pattern.search(rel) for pattern in self._finder.exclude)
        )

    def _damage(self, log: Log, end: int) -> RememberedFile:
        """Return what is to be told of a log in which something is lost."""
        return given_up(
            log.path,
            f"NUL bytes before byte {end}, as a power cut leaves them: what this log said there is "
            f"lost; `dbb-auditor {self._finder.name} --adopt` records files that no log names, and "
            f"`dbb forget {self._finder.label} FILE` ends this message",
        )

    def _may_name(self, prefix: str, lines: list[str]) -> bool:
        """Return whether lines that are not understood may be about files of storage."""
        tops = {self._finder.storage, os.path.join(self._finder.storage, prefix.lstrip("/"))}

        def is_there(rel: str) -> bool:
            return any(os.path.isfile(os.path.join(top, rel)) for top in tops)

        return any(rsync_log.may_name(line, is_there) for line in lines)

    def _misunderstood(self, log: Log, end: int) -> RememberedFile:
        """Return what is to be told of a log whose lines are none that rsync writes for us."""
        return given_up(
            log.path,
            f"its lines from byte {log.position} to {end} are in a format that is not understood, "
            "and what they name is not recorded: let rsync write it with --log-file alone, without "
            "--log-file-format, or its stdout with --itemize-changes, without --out-format; "
            f"`dbb-auditor {self._finder.name} --adopt` records files that no log names, and "
            f"`dbb forget {self._finder.label} FILE` ends this message",
        )

    def _named(self, prefix: str, entry: rsync_log.LogLine) -> str:
        """Return the path of a line; of several ways to read it, the one that storage bears out."""

        def look(rel: str) -> os.stat_result | None:
            if rsync_log.inside(self._finder.storage, rel):
                with contextlib.suppress(OSError):
                    return os.lstat(os.path.join(self._finder.storage, rel))
            return None

        def evidence(way: tuple[str, str]) -> int:
            link, other = map(look, way)
            if link is None:
                return 0
            return 2 if other is not None and os.path.samestat(link, other) else 1

        if not entry.ways:
            return self._rel(prefix, entry.name or "")
        ways = [(self._rel(prefix, name), self._rel(prefix, other)) for name, other in entry.ways]
        return max(ways, key=evidence)[0]

    def _rel(self, prefix: str, name: str) -> str:
        """Return a logged name relative to storage; one that leads out keeps what gives it away."""
        rel = rsync_log.normal(name)
        if name.startswith("/"):
            return "/" + rel
        return rel if ".." in rel.split("/") else names.join(prefix, rel) or name

    def _mark_done(self, p: PassContext, log: Log) -> None:
        """Write a mark beside a log of which nothing is left to do, where a site relies on it."""
        suffix = self._finder.done_suffix
        if not suffix or os.path.exists(log.path + suffix):
            return
        site, finder = p.settings.site.name, self._finder.name
        now = self._log(p, log.path, log.status)
        if now.before is not None or now.position < log.status.st_size:
            return
        if connect.read(Remembered.awaits, site, finder, log.key):
            return
        try:
            place.touch(log.path + suffix)
        except OSError as error:
            p.counts["failed"] += 1
            self._complaints.failed(
                log.path + suffix,
                f"cannot be written: {error.strerror}; all of the log was read: let the finder's "
                f"user write there, or take done_suffix out of [{self._finder.label}]",
            )


def _logs_of(directory: str) -> list[str]:
    """Return the logs of a day; none if it cannot be read."""
    try:
        return rsync_log.logs(directory)
    except OSError:
        return []


def _replaced(path: str, before: RsyncLog) -> list[rsync_log.LogPiece]:
    return rsync_log.replaced(path, before.inode, before.position, before.tail)


def _is_unread(path: str, read: RsyncLog | None) -> bool:
    """Return whether there is a line in a log that was not read."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return False
        position = read.position if read and read.inode == inode_of(status.st_ino) else 0
        return position < status.st_size and position < rsync_log.complete(path)
    except OSError:
        return False


def _has_grown(log: Log) -> bool:
    """Return whether there is something new to read in a log; one that cannot be read waits."""
    try:
        return log.position < rsync_log.complete(log.path)
    except OSError:
        return False
