"""The tar format, as far as GNU tar and that of busybox both read it: regular files of any name.

A member is a header of 512 bytes and the content, filled up with zeros to a multiple of that. A
name that is too long for the header comes before it, in a member of its own (GNU's kind ``L``), and
so does a time that is no whole second (POSIX's kind ``x``, which busybox skips). Large numbers are
written in base 256.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

#: Headers and content are written in whole blocks, an archive in whole records.
UNIT = 512
RECORD = 128 * UNIT

#: The longest name in a header; it ends with a NUL byte.
_LONGEST_NAME = 99

#: The most bytes of what precedes a header: more than a path can have.
_MOST_BEFORE = 1 << 16

#: Where the checksum of a header is, which is computed as if these were blanks.
_SUM = slice(148, 156)

_TIME = re.compile(rb"\d+ mtime=(\d{1,18})(?:\.(\d{1,9})\d*)?\n")

_PIECE = 1 << 16


class NoArchive(ValueError):
    """What is read is not an archive as `header` begins each of its members."""


class Member(NamedTuple):
    """A regular file in an archive.

    Attributes
    ----------
    raw : `bytes`
        Its name.
    size_bytes : `int`
    mode : `int`
        Its permissions.
    mtime_ns : `int`
        Its time of modification, in nanoseconds; one before 1970 becomes that year's beginning.
    """

    raw: bytes
    size_bytes: int
    mode: int
    mtime_ns: int


def padding(size_bytes: int, unit: int = UNIT) -> int:
    """Return how many bytes are missing to a multiple of a unit."""
    return -size_bytes % unit


def header(member: Member) -> bytes:
    """Return what precedes the content of a file."""
    seconds, rest = divmod(max(0, member.mtime_ns), 10**9)
    before = b""
    if rest:
        before += _preceding(b"x", b"mtime", _pax(b"mtime", b"%d.%09d" % (seconds, rest)))
    if len(member.raw) > _LONGEST_NAME:
        before += _preceding(b"L", b"././@LongLink", member.raw + b"\0")
    name = member.raw[:_LONGEST_NAME]
    return before + _block(name, member.size_bytes, member.mode, seconds, b"0")


def header_size(member: Member) -> int:
    """Return the length of what `header` returns."""
    before = 2 * UNIT if member.mtime_ns > 0 and member.mtime_ns % 10**9 else 0
    if len(member.raw) > _LONGEST_NAME:
        length = len(member.raw) + 1
        before += UNIT + length + padding(length)
    return before + UNIT


def ending(size_bytes: int) -> int:
    """Return how many zeros end an archive with so many bytes before them."""
    return 2 * UNIT + padding(size_bytes + 2 * UNIT, RECORD)


class Reader:
    """The files of an archive, which is read from a stream to its known end and no further.

    Iterating yields the files; `content` yields the blocks of the last one, as far as they were not
    read yet, and what nobody reads is skipped.

    Parameters
    ----------
    source : `~collections.abc.Callable`
        Returns so many bytes of the stream, or fewer at its end.
    size_bytes : `int`
        The length of the archive.

    Raises
    ------
    NoArchive
        It holds anything else than `header` describes, or is longer or shorter.
    EOFError
        The stream ends before.
    """

    def __init__(self, source: Callable[[int], bytes], size_bytes: int) -> None:
        self._source = source
        self._left = size_bytes
        self._content = 0
        self._padding = 0

    def __iter__(self) -> Iterator[Member]:
        """Yield the files."""
        mtime_ns: int | None = None
        name = b""
        while any(head := self._next_header()):
            kind, size = head[156:157], _number(head[124:136])
            if kind in (b"L", b"x"):
                content = self._small(size)
                if kind == b"L":
                    name = content.rstrip(b"\0")
                else:
                    mtime_ns = _time_in(content)
                continue
            if kind != b"0":
                raise NoArchive(f"a member is no regular file but of the kind {kind!r}")
            self._content, self._padding = size, padding(size)
            seconds = _number(head[136:148])
            yield Member(
                raw=name or head[:100].partition(b"\0")[0],
                size_bytes=size,
                mode=_number(head[100:108]),
                mtime_ns=seconds * 10**9 if mtime_ns is None else mtime_ns,
            )
            mtime_ns, name = None, b""
        while self._left:
            if any(self._read(min(self._left, _PIECE))):
                raise NoArchive("something follows the end of the archive")

    def content(self) -> Iterator[bytes]:
        """Yield what is left of the content of the file that was yielded last."""
        while self._content:
            size = min(self._content, _PIECE)
            self._content -= size
            yield self._read(size)

    def _next_header(self) -> bytes:
        for _ in self.content():
            pass
        self._read(self._padding)
        self._padding = 0
        head = self._read(UNIT)
        if any(head) and _number(head[_SUM]) != _sum(head):
            raise NoArchive("the checksum of a header is wrong")
        return head

    def _small(self, size: int) -> bytes:
        if size > _MOST_BEFORE:
            raise NoArchive("a name is too long")
        return self._read(size + padding(size))[:size]

    def _read(self, size: int) -> bytes:
        if size > self._left:
            raise NoArchive("it is longer than was said")
        data = self._source(size)
        if len(data) < size:
            raise EOFError
        self._left -= size
        return data


def _preceding(kind: bytes, name: bytes, content: bytes) -> bytes:
    """Return a member that tells something about the next one."""
    size = len(content)
    return _block(name, size, 0o644, 0, kind) + content + bytes(padding(size))


def _block(name: bytes, size: int, mode: int, seconds: int, kind: bytes) -> bytes:
    fields = (
        name.ljust(100, b"\0"),
        b"%07o\0" % mode,
        b"0000000\0" * 2,  # no owner: that is who unpacks it
        _field(size),
        _field(seconds),
        b" " * 8,
        kind,
        bytes(100),
        b"ustar\x0000",
    )
    block = b"".join(fields)
    whole = block[: _SUM.start] + b"%06o\0 " % sum(block) + block[_SUM.stop :]
    return whole.ljust(UNIT, b"\0")


def _sum(block: bytes) -> int:
    return sum(block) - sum(block[_SUM]) + 8 * ord(" ")


def _field(number: int) -> bytes:
    """Return a number in twelve bytes."""
    if number < 8**11:
        return b"%011o\0" % number
    return b"\x80" + number.to_bytes(11, "big")


def _number(field: bytes) -> int:
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        digits = field.strip(b" \0")
        return int(digits, 8) if digits.isdigit() else int(digits or b"0", 8)
    except ValueError:
        raise NoArchive("a field of a header is no number") from None


def _pax(key: bytes, value: bytes) -> bytes:
    """Return a record of a header of kind ``x``, which begins with its own length."""
    rest = b" %s=%s\n" % (key, value)
    length = len(rest) + len(str(len(rest)))
    if len(str(length)) > len(str(len(rest))):
        length += 1
    return b"%d" % length + rest


def _time_in(content: bytes) -> int:
    found = _TIME.fullmatch(content)
    if not found:
        raise NoArchive("a header has something else than a time")
    seconds, fraction = found.groups()
    return int(seconds) * 10**9 + int((fraction or b"").ljust(9, b"0"))
