"""The finder that learns from rsync's logs what rsync itself has put in storage.

Nothing is moved. How far a log was read is recorded together with the files that it named, so that
a log that grew is continued and a file is never recorded twice.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from dbbbatch.config import Finder
from dbbbatch.database import connect
from dbbbatch.database.models.finder import FinderLeft, RsyncLog
from dbbbatch.errors import TryLater
from dbbbatch.files import names, place, rsync_log
from dbbbatch.passes.base import Pass, Work
from dbbbatch.passes.finder.complaints import Complaints
from dbbbatch.passes.finder.logged import Logged, tries_due
from dbbbatch.passes.finder.places import must_be_there


class Log(NamedTuple):
    """A log that may hold something new."""

    day: datetime.date
    path: str
    status: os.stat_result
    position: int

    @property
    def key(self) -> str:
        """Its path as the tables have it."""
        return names.to_text(self.path)


class RsyncWork(Work):
    """A pass of a finder that reads rsync's logs.

    Parameters
    ----------
    finder : `dbbbatch.config.Finder`
        The section.
    since : `datetime.date`, optional
        Read the logs of all days from this one on, instead of ``past_days``.
    """

    kind = "finder"

    def __init__(self, finder: Finder, since: datetime.date | None = None) -> None:
        self._finder = finder
        self._since = since
        self._complaints = Complaints()

    def recover(self, p: Pass) -> None:
        """Nothing is left half-done: logs are read again from where their reading was recorded."""
        self._complaints = Complaints()
        must_be_there(self._finder)

    def work(self, p: Pass) -> None:
        """Look again for what is awaited, then read what the logs have new."""
        logged = Logged(p, self._finder, self._complaints)
        try:
            logged.look_again()
            for log in self._logs(p):
                if p.stopping:
                    break
                p.must_have_room()
                try:
                    self._read(p, log, logged)
                    self._mark_done(p, log)
                except OSError as error:
                    p.counts["failed"] += 1
                    self._complaints.failed(log.path, f"log cannot be read: {error.strerror}")
            logged.complain()
        finally:
            self._complaints.say(p)

    def plan(self, p: Pass) -> Iterator[str]:
        """Say which files would be looked for again, and which logs would be read."""
        must_be_there(self._finder)
        for left in tries_due(p, self._finder):
            yield f"would look again for {names.join(left.relpath, left.filename)}"
        for log in self._logs(p):
            count = sum(1 for _ in rsync_log.read(log.path, log.position))
            if count:
                yield f"would read {log.key} from byte {log.position}: {count} files"

    def due(self, p: Pass) -> bool:
        """Tell whether a log has grown, or a file is to be looked for again."""
        return any(log.position < rsync_log.complete(log.path) for log in self._logs(p)) or any(
            tries_due(p, self._finder)
        )

    def watched(self) -> list[str]:
        """Give the directory of logs."""
        return [self._finder.source]

    def _logs(self, p: Pass) -> Iterator[Log]:
        """Yield the logs of the days asked for that have not changed for a while."""
        finder = self._finder
        today = datetime.datetime.now(datetime.UTC).date()
        if finder.date:
            today = datetime.datetime.strptime(finder.date, "%Y%m%d").date()
        first = self._since or today - datetime.timedelta(finder.past_days)
        last = today + datetime.timedelta(finder.future_days)
        try:
            for day, path in rsync_log.logs(finder.source, first, last):
                try:
                    status = os.stat(path)
                except FileNotFoundError:
                    continue
                if time.time() - status.st_mtime < finder.delay:
                    continue
                yield Log(day, path, status, self._position(p, path, status))
        except OSError as error:
            raise TryLater(f"{finder.source}: {error.strerror}; is it mounted?") from None

    def _position(self, p: Pass, path: str, status: os.stat_result) -> int:
        """Return from where a log is to be read: its beginning if it is another one by now."""
        site, finder = p.settings.site.name, self._finder.name
        position, tail = connect.look(
            lambda: RsyncLog.read_so_far(
                site, finder, names.to_text(path), status.st_ino, status.st_size
            )
        )
        # One that cannot be read is told of when there is something new to read.
        with contextlib.suppress(OSError):
            if tail and tail != rsync_log.tail(path, position):
                return 0
        return position

    def _read(self, p: Pass, log: Log, logged: Logged) -> None:
        """Record, in batches, what a log tells from its position on."""
        if log.position >= log.status.st_size:
            return
        prefix = self._finder.prefix.replace("{date}", os.path.basename(os.path.dirname(log.path)))
        batch: dict[str, int] = {}

        def flush(end: int) -> bool:
            """Deal with the batch; False if a limit did not let it be dealt with as a whole."""
            allowed = p.take(len(batch))
            rels = list(batch)[:allowed]
            whole = allowed == len(batch)
            position = end if whole else ([log.position, *batch.values()][allowed])
            # What --match left out is still to be read.
            skipping = bool(p.options.match)
            tail = rsync_log.tail(log.path, position)
            logged.record(
                rels,
                log.key,
                lambda: (
                    None
                    if skipping
                    else RsyncLog.keep(
                        p.settings.site.name,
                        self._finder.name,
                        log.key,
                        log.status.st_ino,
                        log.status.st_size,
                        position,
                        tail,
                    )
                ),
            )
            batch.clear()
            return whole and not p.stopping

        end = log.position
        for entry in rsync_log.read(log.path, log.position):
            end = entry.end
            rel = self._rel(prefix, entry.name)
            if any(pattern.search(rel) for pattern in self._finder.exclude) or not p.matches(rel):
                continue
            batch.setdefault(rel, end)
            if len(batch) >= self._finder.batch_files and not flush(end):
                return
        flush(max(end, rsync_log.complete(log.path)))

    def _rel(self, prefix: str, name: str) -> str:
        """Return a logged name relative to storage; one that leads out keeps what gives it away."""
        if name.startswith("/") or ".." in name.split("/"):
            return name
        return names.join(prefix, rsync_log.normal(name))

    def _mark_done(self, p: Pass, log: Log) -> None:
        """Write a mark beside a log of which nothing is left to do, where a site relies on it."""
        suffix = self._finder.done_suffix
        if not suffix or os.path.exists(log.path + suffix):
            return
        site, finder = p.settings.site.name, self._finder.name
        if self._position(p, log.path, log.status) < log.status.st_size:
            return
        if not connect.look(lambda: FinderLeft.awaits(site, finder, log.key)):
            place.touch(log.path + suffix)
