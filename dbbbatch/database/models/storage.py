"""The single source of truth about what storage areas hold."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import peewee

from dbbbatch.database.base import Table, TimeField
from dbbbatch.database.connect import MOST_VALUES, execute, execute_many, now

#: A path in a table: relpath and filename, as `dbbbatch.files.names.to_text` writes them.
Name = tuple[str, str]

#: Inodes may use 64 bits, columns hold 63.
INODE = (1 << 63) - 1


class FileStatus(StrEnum):
    """What the table says about a file of a storage area."""

    #: Intent only: entered before it is placed, left for STORED, or given up by recovery.
    ARRIVING = "ARRIVING"
    #: In storage, whole and durable; the only status that ingesters are offered.
    STORED = "STORED"
    #: Was stored; the auditor did not find it. Left when it is found or arrives again.
    MISSING = "MISSING"
    #: Was stored; the auditor found other content. Left when a later look finds the right one.
    CORRUPT = "CORRUPT"
    #: A person moved it out of storage because it must not be touched.
    QUARANTINED = "QUARANTINED"
    #: A person took it out of the truth (`dbb forget`); its history stays.
    FORGOTTEN = "FORGOTTEN"


class Known(NamedTuple):
    """What the table says about one path."""

    id: int
    size_bytes: int
    checksum: str
    status: str
    finder: str


class Row(NamedTuple):
    """What is recorded about a file when it is found."""

    relpath: str
    filename: str
    size_bytes: int
    checksum: str
    mtime_ns: int
    inode: int


class Arriving(NamedTuple):
    """An intent that was recorded."""

    id: int
    relpath: str
    filename: str
    size_bytes: int
    checksum: str
    mtime_ns: int
    inode: int
    was_stored: bool


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
        An earlier file with the same content under another path.
    verified_at : `datetime.datetime` or `None`
        When its checksum was last found right.
    error : `str` or `None`
        Why it is MISSING, CORRUPT, QUARANTINED or FORGOTTEN.
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

    @classmethod
    def known(cls, storage: str, paths: Collection[Name]) -> dict[Name, Known]:
        """Return what the table says about the paths that it knows."""
        found = {}
        for some in chunks(paths, 2):
            rows = execute(
                "SELECT relpath, filename, id, size_bytes, checksum, status, finder FROM file"
                f" WHERE storage = ? AND (relpath, filename) IN (VALUES {pairs(some)})",
                (storage, *(part for path in some for part in path)),
            )
            for relpath, filename, *rest in rows.fetchall():
                found[relpath, filename] = Known(*rest)
        return found

    @classmethod
    def intend(cls, storage: str, finder: str, rows: Collection[Row]) -> None:
        """Record that files are about to be placed, where the paths are free in the table.

        A file whose content is stored under another path is noted as a copy of it.
        """
        execute_many(
            "INSERT INTO file (storage, relpath, filename, size_bytes, checksum, status, finder,"
            " mtime_ns, inode, copy_of) VALUES (?, ?, ?, ?, ?, 'ARRIVING', ?, ?, ?,"
            " (SELECT min(id) FROM file"
            "   WHERE checksum = ? AND status IN ('STORED', 'ARRIVING')))"
            " ON CONFLICT (storage, relpath, filename) DO NOTHING",
            [
                (
                    storage,
                    row.relpath,
                    row.filename,
                    row.size_bytes,
                    row.checksum,
                    finder,
                    row.mtime_ns,
                    row.inode & INODE,
                    # Empty files are alike without being copies.
                    row.checksum if row.size_bytes else None,
                )
                for row in rows
            ],
        )

    @classmethod
    def intend_again(cls, finder: str, rows: Iterable[tuple[int, Row]]) -> None:
        """Record that files which storage has lost, or which were forgotten, arrive once more."""
        execute_many(
            "UPDATE file SET status = 'ARRIVING', finder = ?, size_bytes = ?, checksum = ?,"
            " mtime_ns = ?, inode = ?, error = NULL"
            " WHERE id = ? AND status IN ('STORED', 'MISSING', 'FORGOTTEN')",
            [
                (finder, row.size_bytes, row.checksum, row.mtime_ns, row.inode & INODE, number)
                for number, row in rows
            ],
        )

    @classmethod
    def arriving(cls, storage: str, finder: str, limit: int = -1) -> list[Arriving]:
        """Return the intents of a finder that no pass has finished, the first ones of them."""
        rows = execute(
            "SELECT id, relpath, filename, size_bytes, checksum, mtime_ns, inode,"
            " added_on IS NOT NULL FROM file"
            " WHERE storage = ? AND finder = ? AND status = 'ARRIVING' ORDER BY id"
            + (f" LIMIT {limit:d}" if limit >= 0 else ""),
            (storage, finder),
        ).fetchall()
        return [Arriving(*row) for row in rows]

    @classmethod
    def stored(cls, ids: Collection[int]) -> int:
        """Record that files are in storage, whole and durable.

        Returns
        -------
        count : `int`
            How many of them are STORED now.
        """
        count = 0
        when = moment()
        for some in chunks(ids):
            execute(
                "UPDATE file SET status = 'STORED', added_on = coalesce(added_on, ?),"
                f" verified_at = ?, error = NULL WHERE id IN ({marks(some)})"
                " AND status = 'ARRIVING'",
                (when, when, *some),
            )
            count += execute(
                f"SELECT count(*) FROM file WHERE id IN ({marks(some)}) AND status = 'STORED'",
                tuple(some),
            ).fetchone()[0]
        return count

    @classmethod
    def corrected(cls, rows: Iterable[tuple[int, Row]]) -> None:
        """Record what files on their way turned out to be when they had been placed."""
        execute_many(
            "UPDATE file SET size_bytes = ?, checksum = ?, mtime_ns = ?, inode = ?, copy_of = NULL"
            " WHERE id = ? AND status = 'ARRIVING'",
            [
                (row.size_bytes, row.checksum, row.mtime_ns, row.inode & INODE, number)
                for number, row in rows
            ],
        )

    @classmethod
    def withdraw(cls, ids: Collection[int]) -> None:
        """Take intents back: what was stored before is MISSING again, the rest never was."""
        for some in chunks(ids):
            among = marks(some)
            execute(
                "UPDATE file SET status = 'MISSING', error = 'did not arrive again'"
                f" WHERE id IN ({among}) AND status = 'ARRIVING' AND added_on IS NOT NULL",
                tuple(some),
            )
            new = f"id IN ({among}) AND status = 'ARRIVING' AND added_on IS NULL"
            execute(
                f"UPDATE file SET copy_of = NULL WHERE copy_of IN (SELECT id FROM file WHERE {new})",
                tuple(some),
            )
            execute(
                f"DELETE FROM file_checksum WHERE file_id IN (SELECT id FROM file WHERE {new})",
                tuple(some),
            )
            execute(f"DELETE FROM file WHERE {new}", tuple(some))


class FileChecksum(Table):
    """A further checksum of a file, so that no target reads it again."""

    file_id = peewee.BigIntegerField()
    algorithm = peewee.TextField()
    value = peewee.TextField()

    class Meta:
        primary_key = peewee.CompositeKey("file_id", "algorithm")

    @classmethod
    def keep(cls, rows: Sequence[tuple[int, str, str]]) -> None:
        """Record checksums: id of the file, algorithm, hexadecimal digest."""
        execute_many(
            "INSERT INTO file_checksum (file_id, algorithm, value) VALUES (?, ?, ?)"
            " ON CONFLICT (file_id, algorithm) DO UPDATE SET value = excluded.value",
            rows,
        )


def moment() -> Any:
    """Return the present moment as it is given to a statement."""
    return TimeField().db_value(now())


def chunks(items: Collection[Any], values_each: int = 1) -> Iterator[list[Any]]:
    """Split what goes into one statement, a few values being left for its other conditions."""
    everything = list(items)
    size = (MOST_VALUES - 100) // values_each
    for start in range(0, len(everything), size):
        yield everything[start : start + size]


def marks(items: Sequence[Any]) -> str:
    """Return placeholders for single values."""
    return ", ".join("?" * len(items))


def pairs(items: Sequence[Any]) -> str:
    """Return placeholders for pairs of values."""
    return ", ".join(["(?, ?)"] * len(items))
