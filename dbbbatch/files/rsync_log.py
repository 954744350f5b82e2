r"""Read from the logs of rsync which files it transferred.

Supported are the itemized lines of ``rsync --log-file=FILE`` (its default format, ``%i %n%L``) and
of ``rsync --itemize-changes > FILE``, as rsync(1) describes them under --itemize-changes and
--8-bit-output: a letter for what is done, one for the kind of file, seven to nine for what differs,
a space, and the name up to the end of the line, with odd bytes as ``\#ooo``. The letters of a new
file are all ``+``; those of a link to something that is the same already are all blank.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fnmatch
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple, cast

from dbbbatch.files.identity import inode_of
from dbbbatch.files.tree import Entry, Tree

#: Begins each line of a log file, and (without the process) of ``--out-format='%t %i %n%L'``.
_WHEN = rb"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d (?:\[\d+\] )?"
_LINE = re.compile(rb"(?:" + _WHEN + rb")?([<>ch])f([.+?a-zA-Z]{7,9}| {7,9}) (.+)", re.DOTALL)

#: Lines about no file that was transferred: itemized ones about other things, the messages and sums
#: of rsync, its progress, and messages of the remote shell.
_OTHER = re.compile(
    rb"(?:" + _WHEN + rb")?(?:"
    rb"[<>ch.*][fdLDS.][.+?a-zA-Z ]{7,9} .*|\*[a-z]+ .*|\s.*|.*\r.*|"
    rb"(?:rsync|ssh|mux_\w+|client_\w+|kex_\w+|packet_\w+|Connection|Warning|WARNING|Host|ERROR|"
    rb"IO error|file has vanished|skipping|cannot|deleting|ignoring|created|building|sending|"
    rb"receiving|sent [\d,.]|received [\d,.]|total(?: size|:)|total: matched|Total |Number of |"
    rb"Literal data|Matched data|File list|delta-transmission|opening connection|connect from|"
    rb"connect to|name lookup|unpack request|daemon |auth failed|max connections|done|wrote |"
    rb"client: |server: |\d+ files(?: to consider|\.\.\.)|link_stat|backed up|-?\d+ bytes)"
    rb".*)?",
    re.DOTALL,
)
_FROM_RSYNC = re.compile(rb"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[\d+\] ")

#: Separates the words of a line.
_BETWEEN = re.compile(r"""[\s"',;:|=<>(){}\[\]]+""")
_OCTAL_BYTE = re.compile(rb"\\#([0-7]{3})")
_DAY = re.compile(r"\d{8}")

#: Letters for what differs, of a file that did not exist before.
_NOT_UPDATED = frozenset(b"+ ")

#: The names of logs.
_LOGS = "rsync*.log"

#: Most bytes of a line.
_LONGEST = 1 << 20

#: Bytes by which a log is recognized.
_TAIL = 4096


class Broken(OSError):
    """A compressed log is cut off or damaged."""


class LogLine(NamedTuple):
    """A complete line of a log.

    Attributes
    ----------
    end : `int`
        Offset of the next line, bytes.
    name : `str` or `None`
        The path of a file that was sent, received or linked, as rsync printed it, decoded with
        surrogateescape. `None` if the line is about anything else: directories, links, deletions,
        changes of attributes alone, messages and sums.
    updated : `bool`
        The file existed before, with another content.
    damaged : `bool`
        A part of the line, or lines before it, are lost.
    ways : `tuple` [ `tuple` [ `str`, `str` ] ]
        All ways to read a line about a hard link, if there are several because a name contains
        `` => ``: its name, and the name of the file that it is a link to. The first has `name`.
    unknown : `str`
        The line, if it is in none of the supported formats.
    """

    end: int
    name: str | None = None
    updated: bool = False
    damaged: bool = False
    ways: tuple[tuple[str, str], ...] = ()
    unknown: str = ""


class LogPiece(NamedTuple):
    """A log, or an older one of which a part is still to be read.

    Attributes
    ----------
    file : `Entry`
    status : `os.stat_result`
    position : `int`
        Where the part that is still to be read begins, bytes of its content.
    """

    file: Entry
    status: os.stat_result
    position: int


def parse_line(line: bytes, end: int = 0) -> LogLine:
    """Return what a line, without its end, is about."""
    # A power cut leaves NULs in place of data; no path contains one.
    whole = line.rpartition(b"\0")[2]
    damaged = len(whole) < len(line)
    # rsync escapes a carriage return in a name, so this one belongs to the end of the line.
    whole = whole.removesuffix(b"\r")
    match = _LINE.fullmatch(whole)
    if match is None:
        known = damaged or _OTHER.fullmatch(whole)
        return LogLine(end, damaged=damaged, unknown="" if known else os.fsdecode(whole))
    what, flags, name = match.groups()
    ways: tuple[tuple[str, str], ...] = ()
    if what == b"h":
        # The name of the file that it is a link to follows.
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
        return LogLine(end, damaged=True)
    return LogLine(end, os.fsdecode(name), not set(flags) <= _NOT_UPDATED, damaged, ways)


def _unescaped(name: bytes) -> bytes:
    return _OCTAL_BYTE.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), name)


def read_lines(file: Entry, offset: int = 0) -> Iterator[LogLine]:
    """Yield the complete lines of a log from an offset on; it may be compressed.

    A last line that is not complete is left for the next time.
    """
    with _opened(file) as log:
        log.seek(offset)
        line = b""
        while piece := log.readline(_LONGEST):
            offset += len(piece)
            if not piece.endswith(b"\n"):
                if len(piece) < _LONGEST:
                    return
                # No name is so long, but a power cut may leave that many NULs before a name.
                line = b"\0" + piece[-_LONGEST // 2 :]
                continue
            yield parse_line(line + piece[:-1] if line else piece[:-1], offset)
            line = b""


def complete(file: Entry) -> int:
    """Return the offset behind the last complete line."""
    with open(file.open(), "rb") as log:
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


def tail(file: Entry, position: int) -> str:
    """Return a digest of the last bytes before a position, by which a log is recognized."""
    with _opened(file) as log:
        start = max(0, position - _TAIL)
        log.seek(start)
        return hashlib.blake2b(log.read(position - start), digest_size=16).hexdigest()


def replaced(file: Entry, inode: int, position: int, known: str) -> list[LogPiece]:
    """Return what is still to be read of a log that was rotated, so that its path leads to another.

    That log is the file of the directory with its inode, or with the same content up to where it
    was read. The logs that had its path after it and before the present one follow, unless `logs`
    returns them.

    Parameters
    ----------
    file : `Entry`
        What has the path that the log had.
    inode, position, known : `int`, `int`, `str`
        Its inode, how far it was read, and the `tail` there or "".

    Returns
    -------
    pieces : `list` [ `LogPiece` ]
        In the order in which they were written; empty if the log is not found.

    Raises
    ------
    OSError
        The directory cannot be read.
    """
    is_version = _versions(file.name)
    found: list[tuple[bool, os.stat_result, Entry]] = []
    for entry in file.tree.scan(file.relpath):
        if entry.name != file.name and (is_version(entry.name) or inode_of(entry.inode()) == inode):
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    other = inode_of(status.st_ino) != inode
                    found.append((other, status, file.beside(entry.name)))
    # The same file first, then the one that was rotated last.
    for other, status, where in sorted(found, key=lambda each: (each[0], -each[1].st_mtime_ns)):
        if other and not (position and known):
            continue
        with contextlib.suppress(OSError):
            if not known or tail(where, position) == known:
                later = [
                    LogPiece(each, its, 0)
                    for _, its, each in found
                    if its.st_mtime_ns > status.st_mtime_ns
                    and is_version(each.name)
                    and not fnmatch.fnmatch(each.name, _LOGS)
                ]
                later.sort(key=lambda piece: piece.status.st_mtime_ns)
                return [LogPiece(where, status, position), *later]
    return []


def _versions(name: str) -> Callable[[str], object]:
    """Return a test for the names that programs such as logrotate give to a log of this name."""
    stem, suffix = os.path.splitext(name)
    return re.compile(
        rf"{re.escape(name)}[-._~].+"
        rf"|{re.escape(stem)}[-._]\d{{1,3}}{re.escape(suffix)}(?:\.\w+)?"
        rf"|{re.escape(stem)}[-._]\d{{8}}[-\d]*{re.escape(suffix)}(?:\.\w+)?",
        re.DOTALL,
    ).fullmatch


@contextlib.contextmanager
def _opened(file: Entry) -> Iterator[BinaryIO]:
    """Open a log for reading, also a compressed one."""
    with open(file.open(), "rb") as log:
        if not file.name.endswith(".gz"):
            yield log
            return
        import gzip
        import zlib

        try:
            with gzip.open(log) as packed:
                yield cast(BinaryIO, packed)
        except (EOFError, zlib.error) as error:
            raise Broken(errno.EINVAL, f"cannot be decompressed: {error}", file.path) from None


def days(source: Tree) -> list[tuple[datetime.date, str]]:
    """Return date and name of the directories YYYYMMDD of the source, the oldest first."""
    found = []
    for name in sorted(source.names()):
        if _DAY.fullmatch(name):
            with contextlib.suppress(ValueError):
                found.append((datetime.datetime.strptime(name, "%Y%m%d").date(), name))
    return found


def logs(source: Tree, relpath: str, pattern: str = _LOGS) -> list[Entry]:
    """Return the logs in the directory of a day."""
    found = sorted(source.names(relpath))
    return [Entry(source, relpath, name) for name in fnmatch.filter(found, pattern)]


def may_name(line: str, is_there: Callable[[str], bool]) -> bool:
    """Return whether a line of an unknown format may be about a file that was transferred.

    Any line of a log file, with the time and the process, may be. Other programs may write to the
    same file as rsync's stdout: a line there counts if a word of it, or all of it, is the path of a
    file, or ends in one.
    """
    if _FROM_RSYNC.match(os.fsencode(line)):
        return True
    for word in (line, *_BETWEEN.split(line)):
        parts = [part for part in word.split("/") if part not in ("", ".", "..")]
        if any(is_there("/".join(parts[at:])) for at in range(max(0, len(parts) - 8), len(parts))):
            return True
    return False


def inside(root: str, rel: str) -> bool:
    """Return whether a path that a log names is in the storage area, also through links."""
    return bool(_resolved(root, rel))


def scan_directory(root: str, relpath: str) -> str:
    """Return the relative path by which a scan meets a directory that a log names.

    Links to other directories of the storage area are followed, as by ``rsync --keep-dirlinks``. A
    path that leads out is returned as it is.
    """
    found = _resolved(root, relpath)
    return relpath if found is None else found


def _resolved(root: str, rel: str) -> str | None:
    """Return a relative path without links; `None` if it is absolute or leads out of `root`."""
    if rel.startswith("/") or ".." in rel.split("/") or "\0" in rel:
        return None
    top = os.path.realpath(root).rstrip("/")
    path = os.path.realpath(os.path.join(root, rel))
    return path[len(top) + 1 :] if f"{path}/".startswith(f"{top}/") else None


def normal(rel: str) -> str:
    """Return a relative path without empty and ``.`` parts: one name for one file."""
    return "/".join(part for part in rel.split("/") if part not in ("", "."))
