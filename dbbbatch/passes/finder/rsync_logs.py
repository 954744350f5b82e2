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

from dbbbatch.config.sections import Finder
from dbbbatch.database import connect
from dbbbatch.database.models.finder import Remembered, RsyncLog
from dbbbatch.files import clock, faults, names, place, rsync_log
from dbbbatch.files.identity import inode_of
from dbbbatch.files.scan import kind
from dbbbatch.files.tree import Entry, Tree
from dbbbatch.passes.context import PassContext
from dbbbatch.passes.finder.job import FinderJob
from dbbbatch.passes.finder.log_reader import Log, LogReader, record_position
from dbbbatch.passes.finder.logged import LoggedFiles
from dbbbatch.passes.job import JobWork

#: Days before the first one that is read in which unread logs are warned of.
_DAYS_BEFORE = 31


class RsyncWork(JobWork):
    """Passes of a finder that reads rsync's logs.

    Parameters
    ----------
    finder : `dbbbatch.config.sections.Finder`
    since : `datetime.date`, optional
        Read the logs of all days from this one on, instead of ``past_days``.
    """

    kind = "finder"
    did = "stored"

    def __init__(self, finder: Finder, since: datetime.date | None = None) -> None:
        self._finder = finder
        self._since = since

    def job(self, context: PassContext) -> FinderJob:
        """Return a new pass."""
        return _LogsJob(self._finder, context, self._since)

    def watched(self) -> list[str]:
        """Return the directory of logs."""
        return [self._finder.source]


class _LogsJob(FinderJob):
    """One pass that reads logs."""

    def __init__(self, section: Finder, context: PassContext, since: datetime.date | None) -> None:
        super().__init__(section, context)
        self._since = since
        self._logged = LoggedFiles(self)

    def work(self) -> None:
        self.context.bar.step("recording what logs name")
        self._logged.look_again()
        for log in self._logs():
            if self.context.stopping:
                break
            self.context.must_have_room()
            try:
                grown = log.position < log.status.st_size
                if (log.before is None or self._finish(log, log.before)) and grown:
                    self._read(log)
                self._mark_done(log)
            except OSError as error:
                self._cannot_be_read(log.file.path, error)
        self._logged.note_given_up()
        self._note_logs_elsewhere()
        self._note_days_before()

    def plan(self) -> Iterator[str]:
        self.area.require_mounted()
        yield from self.unfinished()
        for left in self._logged.due():
            yield f"would look again for {names.join(left.relpath, left.filename)}"
        for log in self._logs():
            try:
                pieces = _replaced(log.file, log.before) if log.before else []
                pieces.append(rsync_log.LogPiece(log.file, log.status, log.position))
                for file, _, position in pieces:
                    count = sum(
                        entry.name is not None for entry in rsync_log.read_lines(file, position)
                    )
                    if count:
                        files = names.counted(count, "file")
                        shown = names.to_text(file.path)
                        yield f"would read {shown} from byte {position}: {files}"
            except OSError as error:
                yield f"cannot read {log.key}: {error.strerror}"

    def due(self) -> bool:
        logs = self._logs(warn=False)
        return any(map(_has_grown, logs)) or any(self._logged.due())

    def _logs(self, *, warn: bool = True) -> Iterator[Log]:
        """Yield the logs of the days asked for that have not changed for a while."""
        source = self.area.source
        source.forget()
        now = time.time()
        with faults.as_try_later(source.path):
            days = rsync_log.days(source)
        for day, relpath in days:
            if self._is_asked_for(day, now):
                for file, status in self._files(relpath, warn):
                    if self._is_quiet(status):
                        yield self._log(file, status)

    def _is_quiet(self, status: os.stat_result) -> bool:
        """Return whether a log has not changed for a while."""
        section = self.section
        return not section.delay or not clock.of(section.source).is_young(status, section.delay)

    def _first_day(self, now: float) -> datetime.date:
        """Return the first day whose logs are to be read."""
        days = min(self.section.past_days, (self._today(now) - datetime.date.min).days)
        return self._since or self._today(now) - datetime.timedelta(days)

    def _today(self, now: float) -> datetime.date:
        if self.section.date:
            return datetime.datetime.strptime(self.section.date, "%Y%m%d").date()
        return datetime.datetime.fromtimestamp(now, datetime.UTC).date()

    def _is_asked_for(self, day: datetime.date, now: float) -> bool:
        """Return whether the logs of a day are to be read."""
        ahead = (day - self._today(now)).days
        return day >= self._first_day(now) and ahead <= self.section.future_days

    def _note_logs_elsewhere(self) -> None:
        """Warn of logs that are not read because they are in no directory of a day."""
        for file in _logs_of(self.area.source, ""):
            if _is_regular(file):
                self._note_unread(
                    file.path,
                    "is not read: logs are looked for in a directory for each day, named like "
                    f"{self._today(time.time()):%Y%m%d}",
                )

    def _note_days_before(self) -> None:
        """Warn of logs that are not read to their end and are of days before those that are read.

        There are some after the finder was off for days, and where a transfer takes as long.
        """
        section = self.section
        if section.date or self._since or self.context.options.match:
            return
        first = self._first_day(time.time())
        files: dict[str, Entry] = {}
        days: dict[str, datetime.date] = {}
        with contextlib.suppress(OSError):
            for day, relpath in rsync_log.days(self.area.source):
                if 0 < (first - day).days <= _DAYS_BEFORE:
                    logs = {
                        names.to_text(file.path): file
                        for file in _logs_of(self.area.source, relpath)
                    }
                    files |= logs
                    days |= dict.fromkeys(logs, day)
        if not files:
            return
        read = connect.read(RsyncLog.among, self.site, section.name, list(files))
        unread = [key for key, file in files.items() if _is_unread(file, read.get(key))]
        if unread:
            day = min(days[key] for key in unread)
            self._note_unread(
                section.source,
                "of days before past_days, "
                f"{names.counted(len(unread), 'log is', 'logs are')} not read to the end, "
                f"the first of {day:%Y%m%d}: `dbb-finder {section.name} --since {day}` reads them",
            )

    def _note_unread(self, path: str, why: str) -> None:
        self.context.warn_of("unread", path, why)

    def _files(self, relpath: str, warn: bool) -> Iterator[tuple[Entry, os.stat_result]]:
        """Yield the logs of a day that can be read."""
        source = self.area.source
        cannot_be_read = self._cannot_be_read if warn else lambda path, error: None
        try:
            files = rsync_log.logs(source, relpath)
        except FileNotFoundError:
            return
        except OSError as error:
            if not (isinstance(error, NotADirectoryError) and source.has_no_files(relpath)):
                cannot_be_read(f"{source}/{relpath}", error)
            return
        for file in files:
            try:
                status = file.lstat()
            except FileNotFoundError:
                continue
            except OSError as error:
                cannot_be_read(file.path, error)
                continue
            if stat.S_ISREG(status.st_mode):
                yield file, status
            elif warn:
                self.note_odd(file.path, f"{kind(status.st_mode)}, not a log")

    def _cannot_be_read(self, path: str, error: OSError) -> None:
        self.note_failed(path, f"cannot be read: {error.strerror}")

    def _log(self, file: Entry, status: os.stat_result) -> Log:
        """Return from where a log is to be read: its beginning if it is another one by now."""
        key = names.to_text(file.path)
        read = connect.read(RsyncLog.among, self.site, self.section.name, [key]).get(key)
        if read is None:
            return Log(file, status, 0, key)
        if read.inode != inode_of(status.st_ino) or read.position > status.st_size:
            return Log(file, status, 0, key, read)
        # One that cannot be read is warned of when there is something new to read.
        with contextlib.suppress(OSError):
            if read.tail and read.tail != rsync_log.tail(file, read.position):
                return Log(file, status, 0, key, read)
        return Log(file, status, read.position, key)

    def _finish(self, log: Log, before: RsyncLog) -> bool:
        """Read to its end what had the path of a log before; return False if that is for later."""
        pieces = _replaced(log.file, before)
        if not all(self._is_quiet(piece.status) for piece in pieces):
            return False
        lost = "" if pieces else "nothing in its directory is what it was"
        for piece in pieces:
            try:
                if not self._read(Log(*piece, log.key)):
                    return False
            except rsync_log.Broken as error:
                lost = f"{piece.file.path} {error.strerror}"
            except OSError as error:
                self._cannot_be_read(piece.file.path, error)
                return False
        if lost:
            self.context.log.warning(
                "%s: replaced after byte %d: %s", log.key, before.position, lost
            )
            self._note_unread(
                log.file.path,
                f"was emptied or replaced after it had been read up to byte {before.position}, and "
                f"{lost}: what rsync added to it meanwhile is lost; `dbb-auditor "
                f"{self.section.name} --adopt` records files that no log names",
            )
        if not self.context.options.match:
            connect.write(record_position, self, log, 0, "")
        return True

    def _read(self, log: Log) -> bool:
        """Record what a log names from its position on; return False if a limit came first."""
        return LogReader(self, self._logged, log).read()

    def _mark_done(self, log: Log) -> None:
        """Write a mark beside a log that needs nothing more, where the site relies on marks."""
        suffix = self.section.done_suffix
        if not suffix:
            return
        mark = log.file.beside(log.file.name + suffix)
        if mark.status() is not None:
            return
        now = self._log(log.file, log.status)
        if now.before is not None or now.position < log.status.st_size:
            return
        if connect.read(Remembered.awaits, self.site, self.section.name, log.key):
            return
        try:
            place.touch(mark)
        except OSError as error:
            self.note_failed(
                mark.path,
                f"cannot be written: {error.strerror}; all of the log was read: let the finder's "
                f"user write there, or take done_suffix out of [{self.section.label}]",
            )


def _replaced(file: Entry, before: RsyncLog) -> list[rsync_log.LogPiece]:
    return rsync_log.replaced(file, before.inode, before.position, before.tail)


def _logs_of(source: Tree, relpath: str) -> list[Entry]:
    """Return the logs of a day; none if it cannot be read."""
    try:
        return rsync_log.logs(source, relpath)
    except OSError:
        return []


def _is_regular(file: Entry) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISREG(file.lstat().st_mode)
    return False


def _is_unread(file: Entry, read: RsyncLog | None) -> bool:
    """Return whether there is a line in a log that was not read."""
    try:
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode):
            return False
        position = read.position if read and read.inode == inode_of(status.st_ino) else 0
        return position < status.st_size and position < rsync_log.complete(file)
    except OSError:
        return False


def _has_grown(log: Log) -> bool:
    """Return whether there is something new to read in a log; one that cannot be read waits."""
    try:
        return log.position < rsync_log.complete(log.file)
    except OSError:
        return False
