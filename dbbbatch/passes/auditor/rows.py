"""Compare the rows of a storage area with the files under their names, without reading these.

Files that are not there are lost, or on a disk that is not mounted. So that the one is not taken
for the other, no more than a share of the rows is marked, and none below a directory that is
missing or empty.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dbbbatch.areas.storage.missing import FEW, MissingDirectories, if_it_is_lost
from dbbbatch.config.sections import Finder
from dbbbatch.database import connect
from dbbbatch.database.models.file import File, FileRow
from dbbbatch.database.models.statuses import FileStatus
from dbbbatch.errors import TryLater, key_of_missing
from dbbbatch.files import faults, names
from dbbbatch.files.batches import batched
from dbbbatch.files.tree import Tree
from dbbbatch.passes.context import PassContext
from dbbbatch.passes.notices import MOST_NAMED

#: Rows read at a time, and marked at a time.
_ROWS_PAGE = 5000
_MARKED_TOGETHER = 100


class Contradicted(NamedTuple):
    """A row that storage contradicts, what it becomes, and why."""

    row: FileRow
    becomes: FileStatus
    why: str


class RowComparison:
    """The rows of a finder's storage area; missing files are marked up to a share of them, or 1.

    Attributes
    ----------
    wrong : `list` [ `Contradicted` ]
        What is to be marked.
    back : `list` [ `FileRow` ]
        Files that are there again, to be verified.
    unseen : `list` [ `tuple` [ `str`, `str` ] ]
        Relative paths that cannot be looked at, and why.
    stored : `int`
        How many stored files were looked at: all that --match lets through.
    """

    def __init__(self, context: PassContext, finder: Finder, share: float) -> None:
        self._context = context
        self._finder = finder
        self._share = share
        self._storage = context.roots.tree(finder.storage)
        self.wrong: list[Contradicted] = []
        self.back: list[FileRow] = []
        self.unseen: list[tuple[str, str]] = []
        self.stored = 0
        #: Directories that look unmounted, and how many files they should hold.
        self._unmounted: dict[str, int] = {}

    def compare(self) -> None:
        """Look for all files that the table knows and --match lets through.

        Raises
        ------
        TryLater
            So many of them are missing that storage looks unmounted.
        """
        context, storage = self._context, self._finder.storage
        total = connect.long_read(File.how_many, storage)
        context.bar.step("comparing files with the table", total)
        missing = 0
        for page in connect.pages(lambda after: File.page(storage, after, _ROWS_PAGE), 0, "id"):
            if context.stopping:
                break
            self._storage.forget()
            for row in context.sound(page, "file"):
                if context.matches(names.rel_of(row)):
                    self.stored += row.status == FileStatus.STORED
                    missing += self._compare(row)
            self._require_most(missing, total)
            context.bar.advance(len(page))
        self._require_most(missing, self.stored)
        if context.stopping and self.stored < _ROWS_PAGE:
            # Stopped before a lost file and an unmounted disk could be told apart.
            self.wrong.clear()
        if self._share < 1:
            self._leave_out_unmounted()

    def mark(self) -> None:
        """Mark the rows that are still as they were read, and their files as they were seen."""
        counts = self._context.counts
        for batch in batched(self.wrong, _MARKED_TOGETHER):
            self._storage.forget()
            some = list(self._compare_again(batch))
            self._context.roots.require(self._finder.storage, self._finder.sentinel)
            marked = connect.write(File.wrong, some)
            for row, becomes, why in some:
                if row.id in marked:
                    counts[becomes.lower()] += 1
                    counts["failed"] += 1
                    self._context.warn_of("failed", names.rel_of(row), why)
        for rel, why in self.unseen:
            counts["failed"] += 1
            self._context.warn_of("failed", rel, why)

    def require_directories(self) -> None:
        """Raise `TryLater`, with what an operator may do, if directories look unmounted."""
        if not self._unmounted:
            return
        some = [
            f"{names.printable(directory)} ({names.counted(count, 'file')})"
            for directory, count in sorted(self._unmounted.items())[:MOST_NAMED]
        ]
        if len(self._unmounted) > len(some):
            some[-1] += f" and {len(self._unmounted) - len(some)} more"
        advice = if_it_is_lost(self._finder, min(self._unmounted))
        raise TryLater(
            f"{self._finder.storage}: not there or empty: {', '.join(some)}; that looks unmounted, "
            f"and nothing in it was marked ({advice})",
            key=f"parts of {key_of_missing(self._finder.storage)}",
        )

    def _compare(self, row: FileRow) -> bool:
        """Compare a row, and return whether storage has lost its file since the last pass."""
        try:
            becomes, why = _compare_row(self._storage, row)
        except OSError as error:
            self.unseen.append((names.rel_of(row), f"cannot be looked at: {error.strerror}"))
            return False
        if becomes is not None:
            self.wrong.append(Contradicted(row, becomes, why))
        elif row.status != FileStatus.STORED:
            self.back.append(row)
        return becomes == FileStatus.MISSING and row.status == FileStatus.STORED

    def _compare_again(self, some: Sequence[Contradicted]) -> Iterator[Contradicted]:
        """Yield what is as before: a file may have been stored while other rows were compared."""
        for row, before, _ in some:
            try:
                becomes, why = _compare_row(self._storage, row)
            except OSError:
                continue  # the next pass looks at it
            if becomes is before:
                yield Contradicted(row, becomes, why)

    def _leave_out_unmounted(self) -> None:
        """Leave out the files that are missing with their directory, if these are many."""
        directories = MissingDirectories(self._storage)
        tops = {
            each.row.id: directories.outermost(names.from_text(each.row.relpath))
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
        self._unmounted = {directory: count for directory, count in held.items() if count > FEW}
        self.wrong = [
            each for each in self.wrong if tops.get(each.row.id, "") not in self._unmounted
        ]

    def _require_most(self, missing: int, total: int) -> None:
        if missing > self._share * total:
            raise TryLater(
                f"{self._finder.storage}: {missing:,} of "
                f"{names.counted(total, 'file is', 'files are')} not there, more than "
                f"[{self._finder.label}] audit_missing: it looks unmounted, and nothing was "
                "changed (if they are lost, run dbb-auditor with --missing 1)",
                key=key_of_missing(self._finder.storage),
            )


def _compare_row(storage: Tree, row: FileRow) -> tuple[FileStatus | None, str]:
    """Return what a row becomes, by what storage has under its name, and why.

    Raises
    ------
    TryLater
        The disk cannot be looked at.
    OSError
        This file cannot.
    """
    try:
        status = storage.entry(names.rel_of(row)).certain_status()
    except OSError as error:
        faults.raise_if_general(error, storage.path)
        raise
    if status is None:
        return FileStatus.MISSING, "is not in storage"
    if not stat.S_ISREG(status.st_mode):
        return FileStatus.CORRUPT, "is no regular file in storage"
    if status.st_size != row.size_bytes:
        return (
            FileStatus.CORRUPT,
            f"has {names.counted(status.st_size, 'byte')} instead of {row.size_bytes:,}",
        )
    return None, ""
