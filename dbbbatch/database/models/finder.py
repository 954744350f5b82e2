"""What finders remember from one pass to the next: paths of the source, and logs of rsync."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import peewee

from dbbbatch.database import bulk, retry
from dbbbatch.database.base import Table, TimeField
from dbbbatch.database.connect import execute, now
from dbbbatch.database.models.event import append_events
from dbbbatch.database.models.file import Name, among_paths
from dbbbatch.database.models.statuses import WhyRemembered
from dbbbatch.files.identity import Version


class RememberedFile(NamedTuple):
    """What a finder remembers about one path of its source."""

    relpath: str
    filename: str
    size_bytes: int
    mtime_ns: int
    inode: int
    verdict: str
    tries: int = 0
    message: str = ""
    seen_at: datetime | None = None
    checksum: str = ""


#: The columns of a `RememberedFile`, in its order.
_REMEMBERED_COLUMNS = ", ".join(RememberedFile._fields)


def _read_remembered(row: Any) -> RememberedFile:
    remembered = RememberedFile._make(row)
    return remembered._replace(seen_at=bulk.read_moment(remembered.seen_at))


class Remembered(Table):
    """A path that a finder has not stored, or whose original it must remove.

    Attributes
    ----------
    verdict : `str`
        One of `WhyRemembered`.
    tries : `int`
        Number of passes that tried it.
    checksum : `str`
        Of an original that is to be removed, when it was read.
    """

    site = peewee.TextField()
    finder = peewee.TextField()
    relpath = peewee.TextField()
    filename = peewee.TextField()
    size_bytes = peewee.BigIntegerField()
    mtime_ns = peewee.BigIntegerField()
    inode = peewee.BigIntegerField()
    verdict = peewee.TextField()
    tries = peewee.IntegerField(default=0)
    message = peewee.TextField(default="")
    seen_at = TimeField()
    checksum = peewee.TextField(default="")

    class Meta:
        """For Peewee."""

        table_name = "finder_left"
        primary_key = peewee.CompositeKey("site", "finder", "relpath", "filename")

    @classmethod
    def among(cls, site: str, finder: str, paths: Collection[Name]) -> dict[Name, RememberedFile]:
        """Return what a finder remembers about the given paths."""
        where, values = among_paths(paths)
        rows = execute(
            f"SELECT {_REMEMBERED_COLUMNS} FROM finder_left WHERE site = ? AND finder = ?"
            f" AND (relpath, filename) {where}",
            (site, finder, *values),
        )
        return {(row[0], row[1]): _read_remembered(row) for row in rows.fetchall()}

    @classmethod
    def all_with(
        cls, site: str, finder: str, verdict: WhyRemembered, most: int, after: Name = ("", "")
    ) -> list[RememberedFile]:
        """Return the first `most` paths with a verdict after a path, in their order."""
        rows = execute(
            f"SELECT {_REMEMBERED_COLUMNS} FROM finder_left"
            " WHERE site = ? AND finder = ? AND verdict = ?"
            " AND (relpath, filename) > (?, ?) ORDER BY relpath, filename LIMIT ?",
            (site, finder, verdict, *after, most),
        )
        return [_read_remembered(row) for row in rows.fetchall()]

    @classmethod
    def given_up(
        cls, site: str, finder: str, storage: str, wait: float, most: int, after: Name = ("", "")
    ) -> list[RememberedFile]:
        """Return the first `most` paths after a path that were given up and are to be looked for.

        Parameters
        ----------
        storage : `str`
            The finder's storage area: a path that was STORED there since is to be looked for.
        wait : `float`
            Seconds between two looks for the same path.
        """
        when = now()
        rows = execute(
            f"SELECT {_REMEMBERED_COLUMNS} FROM finder_left"
            " WHERE site = ? AND finder = ? AND verdict = ?"
            f" AND (relpath, filename) > (?, ?) AND ({retry.due_sql('seen_at')} OR EXISTS"
            " (SELECT 1 FROM file f WHERE f.storage = ? AND f.relpath = finder_left.relpath"
            " AND f.filename = finder_left.filename AND f.status = 'STORED'"
            " AND f.verified_at >= finder_left.seen_at)) ORDER BY relpath, filename LIMIT ?",
            (
                site,
                finder,
                WhyRemembered.GIVEN_UP,
                *after,
                bulk.time_value(when - timedelta(seconds=wait)),
                bulk.time_value(when),
                storage,
                most,
            ),
        )
        return [_read_remembered(row) for row in rows.fetchall()]

    @classmethod
    def awaits(cls, site: str, finder: str, message: str) -> bool:
        """Return whether a file that a log named is still awaited."""
        return bool(
            execute(
                "SELECT 1 FROM finder_left WHERE site = ? AND finder = ? AND verdict = ?"
                " AND message = ? LIMIT 1",
                (site, finder, WhyRemembered.AWAITED, message),
            ).fetchone()
        )

    @classmethod
    def remember(cls, site: str, finder: str, rows: Collection[RememberedFile]) -> None:
        """Record or replace what a finder remembers about paths."""
        when = now()
        bulk.insert(
            cls,
            ("site", "finder", *RememberedFile._fields),
            [
                (*(site, finder), *row._replace(message=bulk.clean(row.message), seen_at=when))
                for row in rows
            ],
            "ON CONFLICT (site, finder, relpath, filename) DO UPDATE SET"
            " size_bytes = excluded.size_bytes, mtime_ns = excluded.mtime_ns,"
            " inode = excluded.inode, verdict = excluded.verdict, tries = excluded.tries,"
            " message = excluded.message, seen_at = excluded.seen_at,"
            " checksum = excluded.checksum",
        )

    @classmethod
    def drop(cls, site: str, finder: str, paths: Collection[Name]) -> None:
        """Forget paths."""
        where, values = among_paths(paths)
        execute(
            "DELETE FROM finder_left WHERE site = ? AND finder = ?"
            f" AND (relpath, filename) {where}",
            (site, finder, *values),
        )

    @classmethod
    def drop_those(
        cls,
        site: str,
        finder: str,
        verdict: WhyRemembered,
        paths: Collection[Name],
        why: str = "",
    ) -> int:
        """Forget the paths that still have a verdict, and return how many.

        With a reason, the history keeps what was remembered.
        """
        where, values = among_paths(paths)
        if why:
            execute(
                f"{append_events('finder_left', repr(''), 'CAST(? AS TEXT)')} WHERE site = ?"
                f" AND finder = ? AND verdict = ? AND (relpath, filename) {where}",
                (bulk.time_value(now()), why, site, finder, verdict, *values),
            )
        return int(
            execute(
                "DELETE FROM finder_left WHERE site = ? AND finder = ? AND verdict = ?"
                f" AND (relpath, filename) {where}",
                (site, finder, verdict, *values),
            ).rowcount
        )


class RsyncLog(Table):
    """How far a finder has read a log of rsync.

    Attributes
    ----------
    position : `int`
        Offset (bytes) of the first line that is still to be read.
    tail : `str`
        Digest of what is before it, by which the log is recognised.
    """

    site = peewee.TextField()
    finder = peewee.TextField()
    path = peewee.TextField()
    inode = peewee.BigIntegerField()
    size_bytes = peewee.BigIntegerField()
    position = peewee.BigIntegerField()
    tail = peewee.TextField()
    read_at = TimeField()

    class Meta:
        """For Peewee."""

        primary_key = peewee.CompositeKey("site", "finder", "path")

    @classmethod
    def among(cls, site: str, finder: str, paths: Collection[str]) -> dict[str, RsyncLog]:
        """Return how far those of the given logs were read that were read at all, by path."""
        where, value = bulk.among(list(paths))
        rows = execute(
            "SELECT path, inode, position, tail FROM rsync_log WHERE site = ? AND finder = ?"
            f" AND path {where}",
            (site, finder, value),
        ).fetchall()
        return {
            path: cls(path=path, inode=inode, position=position, tail=tail)
            for path, inode, position, tail in rows
        }

    @classmethod
    def keep(
        cls, site: str, finder: str, path: str, version: Version, position: int, tail: str
    ) -> None:
        """Record how far a log has been read: up to a position (bytes), before which is a tail."""
        cls.insert(
            site=site,
            finder=finder,
            path=path,
            inode=version.inode,
            size_bytes=version.size_bytes,
            position=position,
            tail=tail,
            read_at=now(),
        ).on_conflict(
            conflict_target=(cls.site, cls.finder, cls.path),
            preserve=(cls.inode, cls.size_bytes, cls.position, cls.tail, cls.read_at),
        ).execute()
