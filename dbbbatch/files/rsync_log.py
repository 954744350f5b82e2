r"""Read which files rsync transferred from the logs that it wrote.

Understood are the itemized lines of ``rsync --log-file=FILE`` (its default
format, ``%i %n%L``) and of ``rsync --itemize-changes > FILE``, as rsync(1)
describes them under --itemize-changes and --8-bit-output: a letter for what
is done, one for the kind of file, seven to nine for what differs, a space, and
the name up to the end of the line, with odd bytes as ``\#ooo``. The letters of
a new file are all ``+``; those of a link to something that is the same already
are all blank.
"""

from __future__ import annotations

import contextlib
import datetime
import fnmatch
import hashlib
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

_LINE = re.compile(
    rb"(?:\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[\d+\] )?"  # only in a log file
    rb"([<>ch])f([.+?a-zA-Z]{7,9}| {7,9}) (.+)",
    re.DOTALL,
)
_ESCAPED = re.compile(rb"\\#([0-7]{3})")
_DAY = re.compile(r"\d{8}")

#: Letters for what differs, of a file of which nothing else was there before.
_NOT_UPDATED = frozenset(b"+ ")

#: Bytes by which a log is known again.
_TAIL = 4096


class Entry(NamedTuple):
    """A complete line of a log.

    Attributes
    ----------
    end : `int`
        Offset of the next line, bytes.
    name : `str` or `None`
        Path of the file that it says was sent, received or linked, as rsync printed it, decoded
        with surrogateescape. None if it is about anything else: directories, links, deletions,
        mere changes of attributes, messages and sums.
    updated : `bool`
        Whether it says that the file was there before, with another content.
    damaged : `bool`
        Whether something is lost that the line, or lines before it, told.
    ways : `tuple` [ `tuple` [ `str`, `str` ] ]
        Every way to read a line about a hard link if there are several, since names may hold
        `` => ``: its name, and the one that it is a further link of. The first is that of `name`.
    """

    end: int
    name: str | None = None
    updated: bool = False
    damaged: bool = False
    ways: tuple[tuple[str, str], ...] = ()


def parse(line: bytes, end: int = 0) -> Entry:
    """Tell what a line, without its end, is about."""
    # A power cut leaves NULs where something had been written; no path holds one.
    whole = line.rpartition(b"\0")[2]
    damaged = len(whole) < len(line)
    match = _LINE.fullmatch(whole)
    if match is None:
        return Entry(end, damaged=damaged)
    what, flags, name = match.groups()
    ways: tuple[tuple[str, str], ...] = ()
    if what == b"h":
        # Followed by the name that it is a further link of.
        parts = [_unescaped(part) for part in name.split(b" => ")]
        name = parts[0]
        if len(parts) > 2:
            ways = tuple(
                (os.fsdecode(b" => ".join(parts[:at])), os.fsdecode(b" => ".join(parts[at:])))
                for at in range(1, len(parts))
            )
    else:
        name = _unescaped(name)
    if b"\0" in name:
        return Entry(end, damaged=True)
    return Entry(end, os.fsdecode(name), not set(flags) <= _NOT_UPDATED, damaged, ways)


def _unescaped(name: bytes) -> bytes:
    return _ESCAPED.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), name)


def read(path: str, offset: int = 0) -> Iterator[Entry]:
    """Yield the complete lines of a log, from an offset on.

    A last line without its end is left for the next time.
    """
    with open(path, "rb") as log:
        log.seek(offset)
        for line in log:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield parse(line[:-1], offset)


def complete(path: str) -> int:
    """Return the offset behind the last complete line."""
    with open(path, "rb") as log:
        position = log.seek(0, os.SEEK_END)
        while position:
            start = max(0, position - 65536)
            log.seek(start)
            block = log.read(position - start)
            found = block.rfind(b"\n")
            if found >= 0:
                return start + found + 1
            position = start
    return 0


def tail(path: str, position: int) -> str:
    """Return a digest of the last bytes before a position: one log's are not another's."""
    with open(path, "rb") as log:
        start = max(0, position - _TAIL)
        log.seek(start)
        return hashlib.blake2b(log.read(position - start), digest_size=16).hexdigest()


def days(source: str) -> list[tuple[datetime.date, str]]:
    """Return date and path of the directories ``source/YYYYMMDD``, the oldest first.

    Raises
    ------
    OSError
        The source cannot be read.
    """
    found = []
    for name in sorted(os.listdir(source)):
        if _DAY.fullmatch(name):
            with contextlib.suppress(ValueError):
                day = datetime.datetime.strptime(name, "%Y%m%d").date()
                found.append((day, os.path.join(source, name)))
    return found


def logs(directory: str, pattern: str = "rsync*.log") -> list[str]:
    """Return the paths of what is named as a log in the directory of a day.

    Raises
    ------
    OSError
        The directory cannot be read.
    """
    files = sorted(os.listdir(directory))
    return [os.path.join(directory, file) for file in fnmatch.filter(files, pattern)]


def inside(root: str, rel: str) -> bool:
    """Tell whether a path named in a log lies in the storage area, for certain.

    Refused are absolute paths, ``..``, and a path that leaves through a
    symbolic link.
    """
    if not rel or rel.startswith("/") or ".." in rel.split("/") or "\0" in rel:
        return False
    top = os.path.realpath(root)
    return os.path.realpath(os.path.join(top, rel)).startswith(top.rstrip("/") + "/")


def directory(root: str, relpath: str) -> str:
    """Return the relative path by which a scan meets a directory that a log names.

    Links to other directories of the storage area are followed, as by
    ``rsync --keep-dirlinks``. A path that leads out is returned as it is.
    """
    if not relpath or relpath.startswith("/") or ".." in relpath.split("/"):
        return relpath
    top = os.path.realpath(root).rstrip("/")
    path = os.path.realpath(os.path.join(root, relpath))
    if path != top and not path.startswith(top + "/"):
        return relpath
    return path[len(top) + 1 :]


def normal(rel: str) -> str:
    """Return a relative path without empty and ``.`` parts: one name for one file."""
    return "/".join(part for part in rel.split("/") if part not in ("", "."))
