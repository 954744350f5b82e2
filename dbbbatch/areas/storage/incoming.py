"""A file on its way to storage, and the decision what becomes of it. Nothing here uses a disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from dbbbatch.database.models.file import FileRow, Name
from dbbbatch.database.models.statuses import FileStatus
from dbbbatch.files import checksum, names
from dbbbatch.files.identity import Version
from dbbbatch.files.tree import Entry


class Fate(Enum):
    """What becomes of a file in a finder's source."""

    #: Its writer, another pass or the end of this one was faster: the next pass looks again.
    NOT_YET = "not yet"
    #: The table does not know its path: store it.
    ARRIVES = "arrives"
    #: The table knows it, and storage does not have it: store it again.
    RETURNS = "returns"
    #: Storage has the same file: the finder's `alternative` applies.
    DUPLICATE = "duplicate"
    #: It must not be stored under this name: quarantine it, with the reason.
    CONFLICT = "conflict"
    #: Storage has a file of this name that the table does not know as stored: compare the two.
    ORPHAN = "orphan"
    #: Another finder is storing a file of this name: the next pass looks again.
    BUSY = "busy"
    #: It is the stored file itself, which is never moved or removed.
    SAME_FILE = "same file"
    #: It could not be read, prepared or placed.
    FAILED = "failed"


class Decision(NamedTuple):
    """What becomes of a file, and why.

    Attributes
    ----------
    fate : `Fate`
    reason : `str`
        For an operator, where the fate is CONFLICT or SAME_FILE.
    error : `OSError` or `None`
        Why it FAILED.
    """

    fate: Fate
    reason: str = ""
    error: OSError | None = None


#: The status of a file that was not read.
NOT_READ = os.stat_result((0,) * 10)


class Incoming(NamedTuple):
    """A file on its way to storage, as far as a pass has come with it.

    Attributes
    ----------
    rel : `str`
        Its path relative to source and storage.
    name : `Name`
        The same as tables have it.
    source, destination : `Entry`
        Where it is, and where it is to be.
    size_bytes : `int`
        As the scan found it.
    known : `FileRow` or `None`
        The row of its path.
    decision : `Decision`
    status : `os.stat_result`
        As it was when it was read; `NOT_READ` before.
    sums : mapping [ `str`, `str` ]
        Its checksums: digest by algorithm.
    copied : `bool`
        What storage gets is a copy; until it is placed, it has a temporary name.
    device : `int`
        The file system of its destination.
    number : `int`
        The id of its row once that is ARRIVING; 0 if it is not.
    placed : `Version` or `None`
        What it is in storage, if that is not what its row says.
    """

    rel: str
    name: Name
    source: Entry
    destination: Entry
    size_bytes: int = 0
    known: FileRow | None = None
    decision: Decision = Decision(Fate.NOT_YET)
    status: os.stat_result = NOT_READ
    sums: Mapping[str, str] = MappingProxyType({})
    copied: bool = False
    device: int = 0
    number: int = 0
    placed: Version | None = None

    def row(self, algorithm: str) -> FileRow:
        """Return what the table records about it, with the checksum of an algorithm."""
        version = Version.of_file(self.status)
        digest = checksum.format(algorithm, self.sums[algorithm])
        return FileRow(
            *self.name, version.size_bytes, digest, mtime_ns=version.mtime_ns, inode=version.inode
        )

    def decided(self, fate: Fate, reason: str = "") -> Incoming:
        """Return it with a decision."""
        return self._replace(decision=Decision(fate, reason))

    def failed(self, error: OSError) -> Incoming:
        """Return it with the error that keeps it from being stored now."""
        return self._replace(decision=Decision(Fate.FAILED, error=error))


def decide(known: FileRow | None, same: bool, size_there: int | None) -> Decision:
    """Decide what becomes of a file.

    Parameters
    ----------
    known : `FileRow` or `None`
        The row of its path.
    same : `bool`
        Whether size and checksum are those of the row.
    size_there : `int` or `None`
        Size of the file that storage has at this path (bytes); `None` if it has none.
    """
    if known is None or known.status == FileStatus.FORGOTTEN:
        if size_there is not None:
            return Decision(Fate.ORPHAN)
        return Decision(Fate.RETURNS if known else Fate.ARRIVES)
    if known.status == FileStatus.ARRIVING:
        return Decision(Fate.BUSY)
    if known.status == FileStatus.QUARANTINED:
        return _conflict("a file of this name was taken out of storage; ask `dbb history`")
    if not same:
        verb = "holds" if size_there is not None else "has lost, but held"
        return _conflict(f"storage {verb} other content under this name")
    if known.status == FileStatus.CORRUPT:
        return _conflict("the stored file is corrupt; this one has the content it should have")
    if size_there is None:
        return Decision(Fate.RETURNS)
    if size_there != known.size_bytes:
        return _conflict(
            f"the stored file has {names.counted(size_there, 'byte')} instead of "
            f"{known.size_bytes:,}; this one has "
            "the content it should have"
        )
    if known.status == FileStatus.MISSING:
        return Decision(Fate.ORPHAN)
    return Decision(Fate.DUPLICATE)


def _conflict(reason: str) -> Decision:
    return Decision(Fate.CONFLICT, reason)
