"""Which file it is: which version of it, and which entry of which directory."""

from __future__ import annotations

import os
from typing import NamedTuple, Protocol

from dbbbatch.files.tree import Entry

#: Columns of a database have 64 bits with a sign; inodes and times of a file system may need more.
_MOST = (1 << 63) - 1

#: What equals no time and no inode of a file.
_UNKNOWN = -_MOST - 1


class Recorded(Protocol):
    """A row that records which version of a file it is about."""

    @property
    def size_bytes(self) -> int:
        """Size of the file (bytes)."""

    @property
    def mtime_ns(self) -> int | None:
        """When its content changed last (nanoseconds since 1970), if known."""

    @property
    def inode(self) -> int | None:
        """Its inode, if known."""


class Version(NamedTuple):
    """What distinguishes one version of a file from another, as tables record it.

    Attributes
    ----------
    size_bytes : `int`
    mtime_ns : `int`
        When its content changed last, nanoseconds since 1970. A time that a column cannot hold
        (after 2262 or before 1677) counts as the last, or the first, that it can.
    inode : `int`
        The lower 63 bits of its inode.
    """

    size_bytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of_file(cls, status: os.stat_result) -> Version:
        """Return the version that a file is."""
        mtime_ns = status.st_mtime_ns
        if not -_MOST <= mtime_ns <= _MOST:
            mtime_ns = max(-_MOST, min(mtime_ns, _MOST))
        return cls(status.st_size, mtime_ns, status.st_ino & _MOST)

    @classmethod
    def of_row(cls, row: Recorded) -> Version:
        """Return the version that a row records: no file's, where it lacks a time or an inode."""
        mtime_ns, inode = row.mtime_ns, row.inode
        return cls(
            row.size_bytes,
            _UNKNOWN if mtime_ns is None else mtime_ns,
            _UNKNOWN if inode is None else inode,
        )

    def is_like(self, other: Version) -> bool:
        """Return whether size and time are equal: a copy has another inode than its original."""
        return self[:2] == other[:2]


def inode_of(number: int) -> int:
    """Return an inode as tables record it."""
    return number & _MOST


def may_be_same_file(first: Entry, second: Entry) -> bool:
    """Return whether two paths may lead to one entry of one directory.

    As `tree.Entry.is_same_entry`, and through mounts that show one file on two devices: an overlay
    and what lies below it, an export that is mounted twice. Files of two devices that have the same
    inode, size and times are one file.
    """
    if first.is_same_entry(second):
        return True
    one, two = first.lstat(), second.lstat()
    return (
        one.st_dev != two.st_dev
        and Version.of_file(one) == Version.of_file(two)
        and one.st_ctime_ns == two.st_ctime_ns
    )
