"""The files of storage areas: the single source of truth about what storage holds."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import peewee
from peewee import SQL

from dbbbatch.database import bulk
from dbbbatch.database.base import Table, TimeField
from dbbbatch.database.connect import execute, for_update, now, on_postgresql
from dbbbatch.database.models.changes import change
from dbbbatch.database.models.statuses import FileStatus, IngestStatus, require_possible

ARRIVING, STORED, MISSING, CORRUPT, QUARANTINED, FORGOTTEN = FileStatus

#: A path in a table: relpath and filename, as `dbbbatch.files.names.to_text` writes them.
Name = tuple[str, str]


class FileRow(NamedTuple):
    """One path of a storage area, as the table has it or is to have it.

    `verified_at` is as the driver reads it.
    """

    relpath: str
    filename: str
    size_bytes: int
    checksum: str
    mtime_ns: int | None
    inode: int | None
    status: str = ""
    finder: str = ""
    id: int = 0
    verified_at: Any = None

    @property
    def content(self) -> tuple[object, ...]:
        """The columns of which at least one changes when a file is stored, verified or marked."""
        return self.id, self.size_bytes, self.checksum, self.status, self.verified_at


_ROW = ", ".join(FileRow._fields)

#: What distinguishes a version of a file from another.
_CONTENT = ("size_bytes", "checksum", "mtime_ns", "inode")

#: What is recorded of a file when it is found.
_FOUND = ("relpath", "filename", *_CONTENT)

#: What a row gives up when its file arrives again, and gets back if the intent is withdrawn.
_KEPT = ("status", "finder", *_CONTENT, "copy_of", "error")

#: What should be in storage, or was there once.
_AUDITED = (STORED, MISSING, CORRUPT)

#: What may arrive once more.
_REPLACEABLE = (*_AUDITED, FORGOTTEN)


class File(Table):
    """A file in storage, or on its way there.

    Attributes
    ----------
    storage : `str`
        The storage area's directory.
    relpath, filename : `str`
        As `dbbbatch.files.names.to_text` writes them.
    size_bytes : `int`
        Its size.
    checksum : `str`
        ``algorithm:hex``.
    status : `str`
        One of `FileStatus`.
    finder : `str`
        Which finder stored it, or "backfill", "rebuild", "auditor".
    added_on : `datetime.datetime` or `None`
        When it was stored for the first time.
    copy_of : `int` or `None`
        An earlier file that had the same content under another path when this one was recorded. It
        may have other content by now: compare the checksums.
    verified_at : `datetime.datetime` or `None`
        When its checksum was last found to be right.
    error : `str` or `None`
        Why it is MISSING, CORRUPT, QUARANTINED or FORGOTTEN.
    was : `str` or `None`
        While it arrives again: the row before, as JSON.
    """

    id = peewee.BigAutoField()
    storage = peewee.TextField()
    relpath = peewee.TextField()
    filename = peewee.TextField()
    size_bytes = peewee.BigIntegerField()
    checksum = peewee.TextField()
    status = peewee.TextField()
    finder = peewee.TextField()
    added_on = TimeField(null=True)
    mtime_ns = peewee.BigIntegerField(null=True)
    inode = peewee.BigIntegerField(null=True)
    copy_of = peewee.BigIntegerField(null=True)
    verified_at = TimeField(null=True)
    error = peewee.TextField(null=True)
    was = peewee.TextField(null=True)

    @classmethod
    def known(cls, storage: str, paths: Collection[Name]) -> dict[Name, FileRow]:
        """Return the rows of those of the paths that have one."""
        where, values = among_paths(paths)
        rows = execute(
            f"SELECT {_ROW} FROM file WHERE storage = ? AND (relpath, filename) {where}",
            (storage, *values),
        )
        return {(row[0], row[1]): FileRow(*row) for row in rows.fetchall()}

    @classmethod
    def was_in(cls, storage: str, relpath: str) -> bool:
        """Return whether any file of a directory has a row."""
        sql = "SELECT 1 FROM file WHERE storage = ? AND relpath = ? LIMIT 1"
        return execute(sql, (storage, relpath)).fetchone() is not None

    @classmethod
    def intend(cls, storage: str, finder: str, rows: Collection[FileRow]) -> None:
        """Record that files are about to be placed, except where a path has a row already."""
        require_possible("file", None, ARRIVING)
        bulk.insert(
            cls,
            ("storage", "finder", "status", *_FOUND),
            [(storage, finder, ARRIVING, *row[:6]) for row in rows],
            "ON CONFLICT (storage, relpath, filename) DO NOTHING",
        )

    @classmethod
    def note_copies(cls, arriving: Sequence[FileRow]) -> None:
        """Record which earlier file has the content of an arriving one, unless that is empty."""
        rows = [row for row in arriving if row.size_bytes]
        where, value = bulk.among([row.checksum for row in rows])
        first = dict(
            execute(
                f"SELECT checksum, min(id) FROM file WHERE checksum {where}"
                " AND status = 'STORED' GROUP BY checksum",
                (value,),
            ).fetchall()
        )
        copies = []
        for row in rows:
            original = first.setdefault(row.checksum, row.id)
            if original < row.id:
                copies.append((row.id, original))
        change(cls, copies, sets=["copy_of"])

    @classmethod
    def intend_again(cls, finder: str, rows: Sequence[tuple[FileRow, FileRow]]) -> None:
        """Record that files arrive again that are lost, forgotten, or have new content.

        Of each pair the first is the row as it was read. A row that another finder has changed
        since stays as it is.
        """
        pairs = ", ".join(f"'{name}', file.{name}" for name in _KEPT)
        kept = f"{'json_build_object' if on_postgresql() else 'json_object'}({pairs})"
        change(
            cls,
            [(known.id, known.status, known.checksum, *row[2:6]) for known, row in rows],
            ("id", "status", "checksum"),
            _CONTENT,
            before=_REPLACEABLE,
            becomes=ARRIVING,
            was=SQL(f"CAST({kept} AS TEXT)"),
            finder=finder,
            copy_of=None,
            error=None,
        )
        FileChecksum.drop([known.id for known, row in rows if known.checksum != row.checksum])

    @classmethod
    def arriving(cls, storage: str, finder: str, limit: int = -1, after: int = 0) -> list[FileRow]:
        """Return the unfinished intents of a finder in the order of their ids, after an id."""
        rows = execute(
            f"SELECT {_ROW} FROM file"
            " WHERE storage = ? AND finder = ? AND status = 'ARRIVING' AND id > ? ORDER BY id"
            + (f" LIMIT {limit:d}" if limit >= 0 else ""),
            (storage, finder, after),
        ).fetchall()
        return [FileRow(*row) for row in rows]

    @classmethod
    def returned(cls, ids: Sequence[int]) -> dict[int, tuple[list[int], list[int]]]:
        """Return which of the arriving files were FORGOTTEN before.

        Returns
        -------
        files : `dict` [ `int`, `tuple` ]
            By target: ids of files that arrive with other content, and ids of files that are
            IGNORED because they were forgotten.
        """
        where, value = bulk.among(ids)
        rows = execute(
            "SELECT f.id, f.checksum, f.was, s.target_id, s.status, s.message FROM file f"
            " JOIN ingest_state s ON s.file_id = f.id"
            " JOIN target t ON t.id = s.target_id AND t.retired_at IS NULL"
            f" WHERE f.id {where} AND f.status = 'ARRIVING' AND f.was IS NOT NULL",
            (value,),
        )
        found: dict[int, tuple[list[int], list[int]]] = {}
        for number, digest, text, target, status, message in rows.fetchall():
            was = json.loads(text)
            if was["status"] == FORGOTTEN:
                changed, put_off = found.setdefault(target, ([], []))
                if was["checksum"] != digest:
                    changed.append(number)
                if status == IngestStatus.IGNORED and message == was["error"]:
                    put_off.append(number)
        return found

    @classmethod
    def stored(cls, ids: Sequence[int]) -> int:
        """Record that files are in storage, whole and durable.

        Returns
        -------
        count : `int`
            How many of the files are STORED now.
        """
        when = now()
        changed = change(
            cls,
            ids,
            before=[ARRIVING],
            becomes=STORED,
            added_on=SQL("coalesce(added_on, ?)", [when]),
            verified_at=when,
            error=None,
            was=None,
        )
        if changed == len(ids):
            return changed
        where, value = bulk.among(ids)
        return int(
            execute(
                f"SELECT count(*) FROM file WHERE id {where} AND status = 'STORED'", (value,)
            ).fetchone()[0]
        )

    @classmethod
    def corrected(cls, rows: Sequence[tuple[int, FileRow]]) -> None:
        """Record the content that arriving files turned out to have when they had been placed."""
        found = [(number, *row[2:6]) for number, row in rows]
        change(cls, found, sets=_CONTENT, before=[ARRIVING], copy_of=None)
        FileChecksum.drop([number for number, _ in rows])

    @classmethod
    def own_entries(cls, rows: Sequence[tuple[int, int, int]]) -> None:
        """Record time and inode of files in storage: id, mtime_ns, inode.

        They differ from those that were read where a file was copied, or a disk restored.
        """
        change(
            cls,
            rows,
            (
                "id",
                SQL(
                    "(COALESCE(file.inode, -1) <> new.inode"
                    " OR COALESCE(file.mtime_ns, -1) <> new.mtime_ns)"
                ),
            ),
            ("mtime_ns", "inode"),
        )

    @classmethod
    def forget(cls, ids: Sequence[int], why: str) -> None:
        """Record that files are forgotten; their rows and their history stay."""
        change(cls, ids, before=(*_AUDITED, QUARANTINED), becomes=FORGOTTEN, error=bulk.clean(why))

    @classmethod
    def keep(cls, number: int, status: str, error: str | None) -> None:
        """Take back that a file was forgotten, with the status and error that it had before."""
        before = [FORGOTTEN]
        change(cls, [number], before=before, becomes=FileStatus(status), error=error)

    @classmethod
    def withdraw(cls, ids: Sequence[int]) -> None:
        """Take intents back: restore the rows that existed before, and delete the others.

        A row that was offered to a target has a history, so it stays, as MISSING.
        """
        if not ids:
            return
        where, value = bulk.among(ids)
        rows = execute(
            f"SELECT id, checksum, was FROM file WHERE id {where} AND status = 'ARRIVING'"
            " AND was IS NOT NULL",
            (value,),
        ).fetchall()
        before = [(number, digest, json.loads(was)) for number, digest, was in rows]
        FileChecksum.drop([number for number, digest, was in before if was["checksum"] != digest])
        kept = [(number, *(was[name] for name in _KEPT)) for number, _, was in before]
        why = "its arrival is taken back"
        change(cls, kept, sets=_KEPT, before=[ARRIVING], was=None, why=why)
        new = f"(SELECT id FROM file WHERE id {where} AND status = 'ARRIVING')"
        offered = execute(f"SELECT file_id FROM ingest_state WHERE file_id IN {new}", (value,))
        lost = [row[0] for row in offered.fetchall()]
        change(cls, lost, before=[ARRIVING], becomes=MISSING, error=why)
        execute(f"UPDATE file SET copy_of = NULL WHERE copy_of IN {new}", (value,))
        execute(f"DELETE FROM file_checksum WHERE file_id IN {new}", (value,))
        execute(f"DELETE FROM file WHERE id IN {new}", (value,))

    @classmethod
    def unfinished(cls, site: str, storage: str) -> list[tuple[str, int, datetime | None]]:
        """Return the finders that have intents, how many, and when the last pass of each began."""
        rows = execute(
            "SELECT finder, count(*), (SELECT max(started) FROM run WHERE run.site = ?"
            " AND run.script = 'finder' AND run.name = file.finder) FROM file"
            " WHERE storage = ? AND status = 'ARRIVING' GROUP BY finder ORDER BY finder",
            (site, storage),
        ).fetchall()
        return [(finder, count, bulk.read_moment(started)) for finder, count, started in rows]

    @classmethod
    def storages(cls) -> list[str]:
        """Return the storage areas that have rows, by one search of an index for each."""
        found: list[str] = []
        while True:
            row = execute(
                "SELECT min(storage) FROM file WHERE storage > ?", (found[-1] if found else "",)
            ).fetchone()
            if row[0] is None:
                return found
            found.append(row[0])

    @classmethod
    def some_finder(cls, storage: str) -> str:
        """Return a finder that recorded files of a storage area; '' if it has none."""
        sql = "SELECT finder FROM file WHERE storage = ? ORDER BY relpath, filename LIMIT 1"
        row = execute(sql, (storage,)).fetchone()
        return row[0] if row else ""

    @classmethod
    def finders(cls, storage: str) -> list[str]:
        """Return the finders that recorded the files of a storage area."""
        rows = execute("SELECT DISTINCT finder FROM file WHERE storage = ?", (storage,))
        return [name for (name,) in rows.fetchall()]

    @classmethod
    def stored_page(cls, storage: str, after: int, most: int) -> list[File]:
        """Return the next stored files in the order of their ids."""
        return list(
            cls.select()
            .where(cls.storage == storage, cls.status == STORED, cls.id > after)
            .order_by(cls.id)
            .limit(most)
        )

    @classmethod
    def in_both(cls, storage: str, other: str) -> str:
        """Return a path (as in the table) that two storage areas have in common, or ''."""
        row = execute(
            "SELECT one.relpath, one.filename FROM file one JOIN file two"
            " ON two.relpath = one.relpath AND two.filename = one.filename"
            " WHERE one.storage = ? AND two.storage = ? LIMIT 1",
            (storage, other),
        ).fetchone()
        return "/".join(filter(None, row)) if row else ""

    @classmethod
    def moved(cls, storage: str, new: str, *, keep_inodes: bool) -> None:
        """Record that a storage area has another path."""
        inode = "" if keep_inodes else ", inode = NULL"
        execute(f"UPDATE file SET storage = ?{inode} WHERE storage = ?", (new, storage))

    @classmethod
    def by_directory(cls, storage: str) -> list[tuple[str, int]]:
        """Return each directory of a storage area, and the number of files that it should hold."""
        rows = execute(
            "SELECT relpath, count(*) FROM file WHERE storage = ? AND status = 'STORED'"
            " GROUP BY relpath",
            (storage,),
        )
        return [(relpath, count) for relpath, count in rows.fetchall()]

    @classmethod
    def below(cls, storage: str, directory: str, most: int) -> int:
        """Return how many files should be below a directory (as in the table), at most `most`."""
        path = 'relpath COLLATE "C"' if on_postgresql() else "relpath"
        stored = f"SELECT 1 FROM file WHERE status = 'STORED' AND storage = ? AND {path}"
        # "0" comes after "/".
        rows = execute(
            f"{stored} = ? UNION ALL {stored} > ? AND {path} < ? LIMIT ?",
            [storage, directory, storage, directory + "/", directory + "0", most],
        )
        return len(rows.fetchall())

    @classmethod
    def how_many(cls, storage: str) -> int:
        """Return how many files a storage area should hold."""
        row = execute(
            "SELECT count(*) FROM file WHERE storage = ? AND status = 'STORED'", (storage,)
        ).fetchone()
        return int(row[0])

    @classmethod
    def page(cls, storage: str, after: int, most: int) -> list[FileRow]:
        """Return files that should be in storage, or were once, in the order of their ids."""
        rows = execute(
            f"SELECT {_ROW} FROM file WHERE storage = ? AND id > ?"
            " AND status IN ('STORED', 'MISSING', 'CORRUPT') ORDER BY id LIMIT ?",
            (storage, after, most),
        )
        return [FileRow(*row) for row in rows.fetchall()]

    @classmethod
    def ingested(cls, target: int, after: int, most: int) -> list[FileRow]:
        """Return stored files that a target has ingested, in the order of their ids."""
        columns = ", ".join(f"f.{column}" for column in FileRow._fields)
        rows = execute(
            f"SELECT {columns} FROM ingest_state s JOIN file f ON f.id = s.file_id"
            " WHERE s.target_id = ? AND s.status = 'SUCCESS' AND s.file_id > ?"
            " AND f.status = 'STORED' ORDER BY s.file_id LIMIT ?",
            (target, after, most),
        )
        return [FileRow(*row) for row in rows.fetchall()]

    @classmethod
    def longest_unverified(
        cls, storage: str, before: datetime, after: tuple[Any, int] | None, most: int
    ) -> tuple[list[FileRow], tuple[Any, int] | None]:
        """Return stored files in the order of their last verification, the oldest first.

        Parameters
        ----------
        before : `datetime.datetime`
            Only files that were last verified before.
        after : `tuple` or `None`
            The position that an earlier call returned.

        Returns
        -------
        files : `list` [ `FileRow` ]
            At most `most`.
        after : `tuple` or `None`
            The position after them.
        """
        time = "TIMESTAMP" if on_postgresql() else "TEXT"
        rows = execute(
            f"SELECT {_ROW} FROM file WHERE storage = ? AND status = 'STORED'"
            f" AND verified_at < CAST(? AS {time})"
            + (f" AND (verified_at, id) > (CAST(? AS {time}), ?)" if after else "")
            + " ORDER BY verified_at, id LIMIT ?",
            (storage, bulk.time_value(before), *(after or ()), most),
        ).fetchall()
        files = [FileRow(*row) for row in rows]
        return files, (files[-1].verified_at, files[-1].id) if files else None

    @classmethod
    def verified_by_now(cls, storage: str, now: datetime) -> None:
        """Replace times of verification that are in the future, from a clock that was ahead."""
        when = bulk.time_value(now)
        execute(
            "UPDATE file SET verified_at = ? WHERE storage = ? AND status = 'STORED'"
            " AND verified_at > ?",
            (when, storage, when),
        )

    @classmethod
    def verified(cls, rows: Sequence[FileRow]) -> set[int]:
        """Record that files have the right content, also those that were MISSING or CORRUPT.

        Returns
        -------
        ids : `set` [ `int` ]
            Of the files whose row was still as it had been read; the others are left.
        """
        ids = _still_so(rows)
        change(cls, list(ids), before=_AUDITED, becomes=STORED, error=None, verified_at=now())
        return ids

    @classmethod
    def wrong(cls, files: Sequence[tuple[FileRow, FileStatus, str]]) -> set[int]:
        """Record that files are MISSING or CORRUPT, and what was found.

        Returns
        -------
        ids : `set` [ `int` ]
            As for `verified`.
        """
        ids = _still_so([row for row, _, _ in files])
        wrong = [(row.id, status, bulk.clean(why)) for row, status, why in files if row.id in ids]
        change(cls, wrong, sets=("status", "error"), before=_AUDITED)
        return ids


def _still_so(rows: Sequence[FileRow]) -> set[int]:
    """Return the ids of the rows that nobody has changed since they were read, and lock them."""
    where, value = bulk.among([row.id for row in rows])
    found = execute(
        f"SELECT {_ROW} FROM file WHERE id {where} ORDER BY id{for_update()}", (value,)
    ).fetchall()
    now = {FileRow(*each).content for each in found}
    return {row.id for row in rows if row.content in now}


class FileChecksum(Table):
    """A further checksum of a file, so that a target need not read the file for it."""

    file_id = peewee.BigIntegerField()
    algorithm = peewee.TextField()
    value = peewee.TextField()

    class Meta:
        """For Peewee."""

        primary_key = peewee.CompositeKey("file_id", "algorithm")

    @classmethod
    def keep(cls, rows: Sequence[tuple[int, str, str]]) -> None:
        """Record checksums: id of the file, algorithm, hexadecimal digest."""
        bulk.insert(
            cls,
            ("file_id", "algorithm", "value"),
            rows,
            "ON CONFLICT (file_id, algorithm) DO UPDATE SET value = excluded.value",
        )

    @classmethod
    def of(cls, ids: Sequence[int]) -> dict[int, dict[str, str]]:
        """Return the further checksums of files: algorithm to digest, by id."""
        where, value = bulk.among(ids)
        found: dict[int, dict[str, str]] = {}
        for number, algorithm, digest in execute(
            f"SELECT file_id, algorithm, value FROM file_checksum WHERE file_id {where}", (value,)
        ).fetchall():
            found.setdefault(number, {})[algorithm] = digest
        return found

    @classmethod
    def drop(cls, ids: Sequence[int]) -> None:
        """Delete the checksums of arriving files: they are of other content."""
        if not ids:
            return
        where, value = bulk.among(ids)
        execute(
            "DELETE FROM file_checksum WHERE file_id IN"
            f" (SELECT id FROM file WHERE id {where} AND status = 'ARRIVING')",
            (value,),
        )


def among_paths(paths: Collection[Name]) -> tuple[str, tuple[Any, ...]]:
    """Return the end of a condition that (relpath, filename) is among many, and its values.

    Both databases search an index for each of them, however many rows there are: SQLite would scan
    the table for ``IN (VALUES …)``.
    """
    everything = list(paths)
    if on_postgresql():
        columns = ([path[part] for path in everything] for part in (0, 1))
        return "IN (SELECT * FROM unnest(?::text[], ?::text[]))", tuple(columns)
    return (
        "IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))",
        (json.dumps(everything),),
    )
