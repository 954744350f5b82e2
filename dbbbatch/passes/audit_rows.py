"""Comparing the rows of a storage area with what is there under their names, without reading it.

Files that are not there are lost, or on a disk that is not mounted. So that the one is not taken
for the other, no more than a share of the rows is marked, and no directory that is bare.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from dbbbatch.areas.storage.missing import FEW, MissingDirectories, if_it_is_lost
from dbbbatch.config.sections import Finder
from dbbbatch.database import connect
from dbbbatch.database.models.file import File, FileRow
from dbbbatch.database.models.statuses import FileStatus
from dbbbatch.errors import TryLater
from dbbbatch.files import faults, names
from dbbbatch.files.batches import batched
from dbbbatch.passes.finder.complaints import MOST_SAID, Complaints
from dbbbatch.passes.runner import PassContext

#: Rows read at a time, and marked at a time.
_ROWS_PAGE = 5000
_MARKED_TOGETHER = 100


class Contradicted(NamedTuple):
    """A row that storage contradicts, what becomes of it, and what was found."""

    row: FileRow
    becomes: FileStatus
    why: str


class Rows:
    """The rows of a finder's storage area, compared with what is there.

    Parameters
    ----------
    finder : `dbbbatch.config.sections.Finder`
        The section.
    share : `float`
        Share of missing files up to which they are marked; 1 believes everything.

    Attributes
    ----------
    wrong : `list` [ `Contradicted` ]
        What is to be marked.
    back : `list` [ `FileRow` ]
        Files that are there again, to be verified.
    unseen : `list` [ `tuple` [ `str`, `str` ] ]
        Relative paths that cannot be looked at, and why.
    away : `dict` [ `str`, `int` ]
        Directories that look unmounted, and how many files they should hold.
    looked : `int`
        Stored files that were looked at: all that --match lets through.
    """

    def __init__(self, finder: Finder, share: float) -> None:
        self._finder = finder
        self._share = share
        self.looked = 0
        self.wrong: list[Contradicted] = []
        self.back: list[FileRow] = []
        self.unseen: list[tuple[str, str]] = []
        self.away: dict[str, int] = {}

    def compare(self, p: PassContext) -> None:
        """Look at everything that the table knows and --match lets through.

        Raises
        ------
        TryLater
            So many of the files looked at are missing that storage looks unmounted.
        """
        total = connect.long_read(File.how_many, self._finder.storage)
        missing = done = 0
        storage = self._finder.storage
        for page in connect.pages(lambda after: File.page(storage, after, _ROWS_PAGE), 0, "id"):
            if p.stopping:
                break
            for row in p.sound(page, "file"):
                if p.matches(names.rel_of(row)):
                    self.looked += row.status == FileStatus.STORED
                    missing += self._compare(row)
            if missing > self._share * total:
                raise self._unmounted(missing, total)
            done += len(page)
            p.progress(done, total, "rows compared")
        whole = not p.stopping
        if missing > self._share * self.looked:
            raise self._unmounted(missing, self.looked)
        if not whole and self.looked < _ROWS_PAGE:
            # Broken off before it could tell a lost file from an unmounted disk.
            self.wrong.clear()
        if self._share < 1:
            self._leave_what_is_away()

    def mark(self, p: PassContext, complaints: Complaints) -> None:
        """Mark what is still as it was seen, on the disk and in the table; say what is wrong."""
        for wrong in batched(self.wrong, _MARKED_TOGETHER):
            some = list(self._again(wrong))
            require_storage(self._finder, p)
            marked = connect.write(lambda some=some: File.wrong(some))
            for row, becomes, why in some:
                if row.id in marked:
                    p.counts[becomes.lower()] += 1
                    p.counts["failed"] += 1
                    complaints.failed(names.rel_of(row), why)
        for rel, why in self.unseen:
            p.counts["failed"] += 1
            complaints.failed(rel, why)

    def say_away(self) -> str:
        """Return which directories look unmounted and what an operator may do, or nothing."""
        if not self.away:
            return ""
        some = [
            f"{names.printable(directory)} ({count} files)"
            for directory, count in sorted(self.away.items())[:MOST_SAID]
        ]
        more = f" and {len(self.away) - len(some)} more" if len(self.away) > len(some) else ""
        advice = if_it_is_lost(self._finder, min(self.away))
        return (
            f"{self._finder.storage}: not there or empty: {', '.join(some)}{more}; that looks "
            f"unmounted, and nothing in it was marked ({advice})"
        )

    def _compare(self, row: FileRow) -> bool:
        """Note what storage says of a row; tell whether it has lost the file."""
        try:
            becomes, why = _compare_row(self._finder.storage, row)
        except OSError as error:
            self.unseen.append((names.rel_of(row), f"cannot be looked at: {error.strerror}"))
            return False
        if becomes is not None:
            self.wrong.append(Contradicted(row, becomes, why))
        elif row.status != FileStatus.STORED:
            self.back.append(row)
        return becomes == FileStatus.MISSING and row.status == FileStatus.STORED

    def _again(self, some: list[Contradicted]) -> Iterator[Contradicted]:
        """Look once more: a file may have been stored while the other rows were compared."""
        for row, before, _ in some:
            try:
                becomes, why = _compare_row(self._finder.storage, row)
            except OSError:
                continue  # the next pass tells
            if becomes is before:
                yield Contradicted(row, becomes, why)

    def _leave_what_is_away(self) -> None:
        """Leave out what is missing with its whole directory, unless that had few files."""
        bare = MissingDirectories(self._finder.storage)
        tops = {
            each.row.id: bare.outermost(names.from_text(each.row.relpath))
            for each in self.wrong
            if each.becomes == FileStatus.MISSING and each.row.status == FileStatus.STORED
        }
        gone = set(tops.values()) - {""}
        if not gone:
            return
        held: Counter[str] = Counter()
        for relpath, count in connect.long_read(File.by_directory, self._finder.storage):
            directory = names.readable(relpath)
            if names.is_astray(directory):
                continue
            while directory:
                if directory in gone:
                    held[directory] += count
                directory = names.split(directory)[0]
        self.away = {directory: count for directory, count in held.items() if count > FEW}
        self.wrong = [each for each in self.wrong if tops.get(each.row.id, "") not in self.away]

    def _unmounted(self, missing: int, total: int) -> TryLater:
        return TryLater(
            f"{self._finder.storage}: {missing} of {total} files are not there, more than "
            f"[{self._finder.label}] audit_missing: it looks unmounted, and nothing was "
            "changed (if they are lost, run dbb-auditor with --missing 1)"
        )


def require_storage(finder: Finder, p: PassContext) -> None:
    """Leave where storage looks unmounted; also just before rows are marked."""
    p.roots.require(finder.storage, finder.sentinel)


def _compare_row(storage: str, row: FileRow) -> tuple[FileStatus | None, str]:
    """Compare a row with what storage has under its name.

    Raises
    ------
    TryLater
        The disk cannot be looked at.
    OSError
        This file cannot.
    """
    try:
        status = os.lstat(names.below(storage, names.rel_of(row)))
    except (FileNotFoundError, NotADirectoryError):
        return FileStatus.MISSING, "is not in storage"
    except OSError as error:
        faults.raise_if_general(error, storage)
        raise
    if not stat.S_ISREG(status.st_mode):
        return FileStatus.CORRUPT, "is no regular file in storage"
    if status.st_size != row.size_bytes:
        return FileStatus.CORRUPT, f"has {status.st_size} bytes instead of {row.size_bytes}"
    return None, ""
