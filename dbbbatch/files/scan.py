"""Find the files of a directory tree that have not changed for a while."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from dbbbatch.files import names
from dbbbatch.files.clock import Clock
from dbbbatch.files.clock import of as clock_of
from dbbbatch.files.identity import Version
from dbbbatch.files.temporary import TEMPORARY_PREFIX, is_temporary
from dbbbatch.files.tree import Tree


class Found(NamedTuple):
    """A regular file, as the scan met it.

    Attributes
    ----------
    rel : `str`
        Path relative to the root of the scan, decoded with surrogateescape.
    size_bytes, mtime_ns, inode : `int`
        As in `Version`.
    device : `int`
        Its file system.
    changed_ns : `int`
        When the inode changed last, as when the file came under its name; nanoseconds since 1970.
    """

    rel: str
    size_bytes: int
    mtime_ns: int
    inode: int
    device: int
    changed_ns: int


#: The name under which a client of NFS keeps a file that was removed while a program has it open.
_REMOVED = re.compile(r"\.nfs[0-9a-f]{16,}\Z")


def _ignore(*_: str) -> None:
    pass


def scan(
    root: Tree,
    exclude: Sequence[re.Pattern[str]] = (),
    settle: float = 0,
    clock: Clock | None = None,
    odd: Callable[[str, str], None] = _ignore,
    unfinished: Callable[[str], None] = _ignore,
) -> Iterator[Found]:
    """Yield the regular files of a tree.

    The memory needed grows with the number of directories, not of files. Files may be removed
    while the scan goes on. Directories come in the order of their names, so that dated ones come
    oldest first. Only directories are opened, and symbolic links below the root are not followed.

    Parameters
    ----------
    root : `Tree`
        Where to begin.
    exclude : `~collections.abc.Sequence` [ `re.Pattern` ]
        Searched in the relative path of each file, and in that of each directory with a slash at
        the end: a directory in which one is found is not entered.
    settle : `float`
        Seconds for which a file must not have changed.
    clock : `dbbbatch.files.clock.Clock`, optional
        The clock for `settle`; by default, that of the root.
    odd : `~collections.abc.Callable`
        Called with relative path and description of what is neither a regular file nor a
        directory, or cannot be read, or has a name that our scripts reserve.
    unfinished : `~collections.abc.Callable`
        Called with the relative path of each unfinished copy of ours.

    Raises
    ------
    OSError
        The root itself cannot be read.
    """
    if settle and clock is None:
        clock = clock_of(root.path)
    pending = [""]
    while pending:
        relpath = pending.pop()
        below = []
        for rel, entry in _directory_entries(root, relpath, odd):
            if entry.name.startswith(TEMPORARY_PREFIX):
                if is_temporary(entry.name):
                    unfinished(rel)
                elif not _is_excluded(rel, exclude):
                    odd(rel, f"begins with {TEMPORARY_PREFIX}, as unfinished copies do")
            elif entry.is_dir(follow_symlinks=False):
                if not _is_excluded(rel + "/", exclude):
                    below.append(rel)
            elif not _is_excluded(rel, exclude) and not _REMOVED.match(entry.name):
                status = _file_status(entry, rel, odd)
                if status and not (settle and clock and clock.is_young(status, settle)):
                    version = Version.of_file(status)
                    yield Found(rel, *version, status.st_dev, status.st_ctime_ns)
        below.sort(reverse=True)
        pending.extend(below)


def _directory_entries(
    root: Tree, relpath: str, odd: Callable[[str, str], None]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield the entries of a directory with their relative paths."""
    prefix = relpath + "/" if relpath else ""
    entries = root.scan(relpath)
    while True:
        try:
            entry = next(entries, None)
        except OSError as error:
            if not relpath:
                raise
            if not isinstance(error, FileNotFoundError):  # removed since its parent was read
                odd(relpath, f"directory cannot be read: {error.strerror}")
            return
        if entry is None:
            return
        yield prefix + entry.name, entry


def _file_status(
    entry: os.DirEntry[str], rel: str, odd: Callable[[str, str], None]
) -> os.stat_result | None:
    """Return the status of a regular file; `None` of anything else."""
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        odd(rel, f"cannot be looked at: {error.strerror}")
        return None
    if not stat.S_ISREG(status.st_mode):
        odd(rel, kind(status.st_mode))
        return None
    return status


def _is_excluded(rel: str, exclude: Sequence[re.Pattern[str]]) -> bool:
    return bool(exclude) and any(pattern.search(rel) for pattern in exclude)


def detour(root: Tree, relpath: str) -> str:
    """Return which part of a relative path below `root` is not a real directory; '' if all are.

    A scan enters real directories only, and this asks whether they still are.
    """
    if (found := root.obstacle(relpath)) is None:
        return ""
    mode = found[1].st_mode
    return f"{names.printable(found[0])} is {'a file' if stat.S_ISREG(mode) else kind(mode)}"


def kind(mode: int) -> str:
    """Return what a mode other than that of a regular file is the mode of, such as "a FIFO"."""
    for test, what in (
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
        (stat.S_ISDIR, "a directory"),
    ):
        if test(mode):
            return what
    return "no regular file"
