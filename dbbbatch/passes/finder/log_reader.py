"""Read one log of rsync from where it was left, and record the files that it names."""

from __future__ import annotations

import contextlib
import os
import stat
from itertools import islice
from typing import NamedTuple

from dbbbatch.database.models.finder import RememberedFile, RsyncLog
from dbbbatch.files import names, rsync_log, temporary
from dbbbatch.files.identity import Version
from dbbbatch.files.tree import Entry
from dbbbatch.passes.finder.job import FinderJob
from dbbbatch.passes.finder.logged import LoggedFiles, given_up

#: Lines that are not understood by which a log is judged.
_LINES = 100


class Log(NamedTuple):
    """A log that may hold something new.

    Attributes
    ----------
    file : `Entry`
    status : `os.stat_result`
    position : `int`
        From where it is to be read (bytes).
    key : `str`
        The path that it has, or had, as tables have it.
    before : `RsyncLog` or `None`
        How far another log was read that had its path.
    """

    file: Entry
    status: os.stat_result
    position: int
    key: str
    before: RsyncLog | None = None


def record_position(job: FinderJob, log: Log, position: int, tail: str) -> None:
    """Record how far a log was read (bytes), and the digest of what stands before."""
    version = Version.of_file(log.status)
    RsyncLog.keep(job.site, job.section.name, log.key, version, position, tail)


class LogReader:
    """One reading of a log, in batches of the files that it names.

    Parameters
    ----------
    job : `FinderJob`
    logged : `LoggedFiles`
    log : `Log`
    """

    def __init__(self, job: FinderJob, logged: LoggedFiles, log: Log) -> None:
        self._section = job.section
        self._job = job
        self._logged = logged
        self._log = log
        self._begin = log.position
        #: Files that are to be recorded: the end of the line that named each first, and how many
        #: lines say that it was updated.
        self._batch: dict[str, tuple[int, int]] = {}
        #: Directories of storage, as the log names them and as a scan would find them.
        self._directories: dict[str, str] = {}
        self._damage: list[RememberedFile] = []
        self._prefix = self._section.prefix.replace("{date}", os.path.basename(log.file.relpath))

    def read(self) -> bool:
        """Record what the log names from its position on; return False if a limit came first."""
        end = self._log.position
        understood = False
        unknown: list[str] = []
        for entry in rsync_log.read_lines(self._log.file, self._log.position):
            end = entry.end
            if entry.damaged:
                self._damage = [self._damaged(end)]
            if entry.name is not None:
                understood = True
                self._add(entry)
                if len(self._batch) >= self._section.batch_files and not self._record(end):
                    return False
            elif entry.unknown and not understood and len(unknown) < _LINES:
                unknown.append(entry.unknown)
        if unknown and not understood and not self._damage and self._may_name_files(unknown):
            self._damage = [self._misunderstood(end)]
        return self._record(end)

    def _add(self, entry: rsync_log.LogLine) -> None:
        """Add the file that a line names to the batch, unless it is passed over."""
        relpath, filename = names.split(self._named(entry))
        if relpath not in self._directories:
            self._directories[relpath] = rsync_log.scan_directory(self._section.storage, relpath)
        rel = names.join(self._directories[relpath], filename)
        if not self._is_passed_over(rel) and self._job.context.matches(rel):
            first, updates = self._batch.get(rel, (entry.end, 0))
            self._batch[rel] = first, updates + entry.updated

    def _record(self, end: int) -> bool:
        """Record the batch, which was read up to `end`; return False if a limit came first."""
        allowed = self._job.context.take(len(self._batch))
        named = {rel: updates for rel, (_, updates) in islice(self._batch.items(), allowed)}
        ends = [self._begin, *(at for at, _ in self._batch.values())]
        # Also where lines after the last one that named a file first were read.
        ends[-1] = end
        self._begin = end

        def record_dealt_with(dealt: int) -> None:
            # What --match left out is still to be read.
            if not self._job.context.options.match:
                tail = rsync_log.tail(self._log.file, ends[dealt])
                record_position(self._job, self._log, ends[dealt], tail)

        whole = self._logged.record(named, self._log.key, self._damage, record_dealt_with)
        whole = whole and allowed == len(self._batch)
        self._batch = {}
        self._directories = {}
        self._damage = []
        return whole and not self._job.context.stopping

    def _is_passed_over(self, rel: str) -> bool:
        """Return whether a file is not to be recorded, as for a scan."""
        return (
            rel == self._section.sentinel
            or f"/{temporary.TEMPORARY_PREFIX}" in f"/{rel}"
            or any(pattern.search(rel) for pattern in self._section.exclude)
        )

    def _damaged(self, end: int) -> RememberedFile:
        """Return what is remembered of a log in which something is lost."""
        return given_up(
            self._log.file.path,
            f"NUL bytes before byte {end}, as a power cut leaves them: what this log said there is "
            f"lost; `dbb-auditor {self._section.name} --adopt` records files that no log names, "
            f"and `dbb forget {self._section.label} FILE` ends this message",
        )

    def _misunderstood(self, end: int) -> RememberedFile:
        """Return what is remembered of a log whose lines are none that rsync writes for us."""
        return given_up(
            self._log.file.path,
            f"its lines from byte {self._log.position} to {end} are in a format that is not "
            "understood, and what they name is not recorded: let rsync write it with --log-file "
            "alone, without --log-file-format, or its stdout with --itemize-changes, without "
            f"--out-format; `dbb-auditor {self._section.name} --adopt` records files that no log "
            f"names, and `dbb forget {self._section.label} FILE` ends this message",
        )

    def _may_name_files(self, lines: list[str]) -> bool:
        """Return whether lines that are not understood may be about files of storage."""

        def is_there(rel: str) -> bool:
            below = rsync_log.normal(names.join(self._prefix, rel))
            found = map(self._look, dict.fromkeys((rel, below)))
            return any(status is not None and stat.S_ISREG(status.st_mode) for status in found)

        return any(rsync_log.may_name(line, is_there) for line in lines)

    def _named(self, entry: rsync_log.LogLine) -> str:
        """Return the path of a line; of several ways to read it, the one that storage confirms."""

        def evidence(way: tuple[str, str]) -> int:
            link, other = map(self._look, way)
            if link is None:
                return 0
            return 2 if other is not None and os.path.samestat(link, other) else 1

        if not entry.ways:
            return self._rel(entry.name or "")
        ways = [(self._rel(name), self._rel(other)) for name, other in entry.ways]
        return max(ways, key=evidence)[0]

    def _look(self, rel: str) -> os.stat_result | None:
        """Return what storage has under a name of a log; `None` if nothing can be seen there."""
        relpath, filename = names.split(rel)
        with contextlib.suppress(OSError):
            directory = rsync_log.scan_directory(self._section.storage, relpath)
            return self._job.area.storage.entry(names.join(directory, filename)).status()
        return None

    def _rel(self, name: str) -> str:
        """Return a logged name relative to storage; one that leads out of it still does."""
        rel = rsync_log.normal(name)
        if name.startswith("/"):
            return "/" + rel
        return rel if ".." in rel.split("/") else names.join(self._prefix, rel) or name
