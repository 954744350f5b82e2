r"""Read which files rsync transferred from the logs that it wrote.

Understood are the itemized lines of ``rsync --log-file=FILE`` (its default
format, ``%i %n%L``) and of ``rsync --itemize-changes > FILE``, as rsync(1)
describes them under --itemize-changes and --8-bit-output: a letter for what
is done, one for the kind of file, seven to nine for what differs, a space, and
the name up to the end of the line, with odd bytes as ``\#ooo``.
"""

from __future__ import annotations

import datetime
import fnmatch
import hashlib
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

_LINE = re.compile(
    rb"(?:\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[\d+\] )?"  # only in a log file
    rb"([<>ch])f[.+?a-zA-Z ]{7,9} (.+)",
    re.DOTALL,
)
_ESCAPED = re.compile(rb"\\#([0-7]{3})")
_DAY = re.compile(r"\d{8}")

#: Bytes by which a log is known again.
_TAIL = 4096


class Entry(NamedTuple):
    """A line of a log that tells of a file.

    Attributes
    ----------
    name : `str`
        Path as rsync printed it, decoded with surrogateescape.
    end : `int`
        Offset of the next line, bytes.
    """

    name: str
    end: int


def parse(line: bytes) -> str | None:
    """Return the name of the file that a line says was sent, received or linked.

    None for a line about anything else: directories, links, deletions, mere
    changes of attributes, messages and sums.
    """
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    what, name = match.groups()
    if what == b"h":
        # Followed by the name that it is a further link of.
        name = name.partition(b" => ")[0]
    return os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), name))


def read(path: str, offset: int = 0) -> Iterator[Entry]:
    """Yield what the complete lines of a log tell, from an offset on.

    A last line without its end is left for the next time.
    """
    with open(path, "rb") as log:
        log.seek(offset)
        for line in log:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            name = parse(line[:-1])
            if name is not None:
                yield Entry(name, offset)


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


def logs(
    source: str, first: datetime.date, last: datetime.date, pattern: str = "rsync*.log"
) -> Iterator[tuple[datetime.date, str]]:
    """Yield date and path of the logs in ``source/YYYYMMDD/``, oldest day first.

    Raises
    ------
    OSError
        The source cannot be read.
    """
    days = []
    for name in os.listdir(source):
        if _DAY.fullmatch(name):
            try:
                day = datetime.datetime.strptime(name, "%Y%m%d").date()
            except ValueError:
                continue
            if first <= day <= last:
                days.append((day, name))
    for day, name in sorted(days):
        directory = os.path.join(source, name)
        try:
            files = sorted(os.listdir(directory))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for file in fnmatch.filter(files, pattern):
            yield day, os.path.join(directory, file)


def inside(root: str, rel: str) -> bool:
    """Tell whether a path named in a log lies in the storage area, for certain.

    Refused are absolute paths, ``..``, and a path that leaves through a
    symbolic link.
    """
    if not rel or rel.startswith("/") or ".." in rel.split("/") or "\0" in rel:
        return False
    top = os.path.realpath(root)
    return os.path.realpath(os.path.join(top, rel)).startswith(top.rstrip("/") + "/")


def normal(rel: str) -> str:
    """Return a relative path without empty and ``.`` parts: one name for one file."""
    return "/".join(part for part in rel.split("/") if part not in ("", "."))
