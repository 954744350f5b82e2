"""Walk a directory tree for files that are ready to be taken."""

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


class Found(NamedTuple):
    """A regular file, as it was when the scan came by.

    Attributes
    ----------
    rel : `str`
        Path relative to the root of the scan, decoded with surrogateescape.
    size_bytes, mtime_ns, inode : `int`
        As in `Version`.
    device : `int`
        Its file system.
    """

    rel: str
    size_bytes: int
    mtime_ns: int
    inode: int
    device: int


#: How a client of NFS keeps a file that was removed while a program has it open.
_REMOVED = re.compile(r"\.nfs[0-9a-f]{16,}\Z")


def _ignore(rel: str, what: str) -> None:
    pass


def _pass_over(rel: str) -> None:
    pass


def scan(
    root: str,
    exclude: Sequence[re.Pattern[str]] = (),
    settle: float = 0,
    clock: Clock | None = None,
    odd: Callable[[str, str], None] = _ignore,
    unfinished: Callable[[str], None] = _pass_over,
) -> Iterator[Found]:
    """Yield the regular files below a directory.

    Memory is that of the directories' names, not of the files: files may be
    taken away while the scan goes on. Directories come in the order of their
    names, so that dated ones come oldest first. Nothing is opened but
    directories, and symbolic links are not followed below the root.

    Parameters
    ----------
    root : `str`
        Where to begin.
    exclude : `~collections.abc.Sequence` [ `re.Pattern` ]
        Searched in the relative path of each file; a directory is not
        entered if one is found in its relative path with a slash at the end.
    settle : `float`
        Seconds for which a file must not have changed; younger ones are
        passed over.
    clock : `dbbbatch.files.clock.Clock`, optional
        By which `settle` is reckoned; by default, that of the root.
    odd : `~collections.abc.Callable`
        Called with relative path and description of what is neither a
        regular file nor a directory, or cannot be read, or has a name of
        those that our scripts keep for themselves.
    unfinished : `~collections.abc.Callable`
        Called with the relative path of each unfinished copy of ours.

    Raises
    ------
    OSError
        The root itself cannot be read.
    """
    if settle and clock is None:
        clock = clock_of(root)
    pending = [""]
    while pending:
        relpath = pending.pop()
        below = []
        try:
            entries = os.scandir(os.path.join(root, relpath) if relpath else root)
        except FileNotFoundError:
            if not relpath:
                raise
            continue  # taken away since its parent was read
        except OSError as error:
            if not relpath:
                raise
            odd(relpath, f"directory cannot be read: {error.strerror}")
            continue
        prefix = relpath + "/" if relpath else ""
        with entries:
            for entry in entries:
                name = entry.name
                rel = prefix + name
                if name.startswith(TEMPORARY_PREFIX):
                    if is_temporary(name):
                        unfinished(rel)
                    elif not any(pattern.search(rel) for pattern in exclude):
                        odd(rel, f"begins with {TEMPORARY_PREFIX}, as unfinished copies do")
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if not any(pattern.search(rel + "/") for pattern in exclude):
                        below.append(rel)
                    continue
                if exclude and any(pattern.search(rel) for pattern in exclude):
                    continue
                if _REMOVED.match(name):
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    odd(rel, f"cannot be looked at: {error.strerror}")
                    continue
                if not stat.S_ISREG(status.st_mode):
                    odd(rel, kind(status.st_mode))
                    continue
                if settle and clock is not None and clock.is_young(status, settle):
                    continue
                yield Found(rel, *Version.of_file(status), status.st_dev)
        below.sort(reverse=True)
        pending.extend(below)


def detour(root: str, relpath: str) -> str:
    """Return which part of a relative path below `root` is no directory itself, or nothing.

    A scan enters none but real directories; this asks whether they still are.
    """
    path = root
    for part in relpath.split("/") if relpath else ():
        path = os.path.join(path, part)
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return ""
        if not stat.S_ISDIR(mode):
            what = "a file" if stat.S_ISREG(mode) else kind(mode)
            return f"{names.printable(os.path.relpath(path, root))} is {what}"
    return ""


def kind(mode: int) -> str:
    """Return what an entry is that is neither file nor directory."""
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
