"""Files of the buffer as one tar stream: read once, for sending and for their checksums.

The length of the stream is said before it begins, and kept whatever happens to the files meanwhile:
one that turns out to be shorter, or unreadable, is filled up with zeros. It counts as not sent, is
never verified, and so never placed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import NamedTuple, Protocol, Self

from dbbbatch.files import checksum, names, place, tar

#: The most bytes that are read and yielded at once: small files go together, and what is hashed is
#: still in the processor's cache when it is written.
MOST_AT_ONCE = 1 << 18

_ZEROS = bytes(1 << 16)


class Outgoing(NamedTuple):
    """A file to be sent.

    Attributes
    ----------
    raw : `bytes`
        Its relative path there.
    open : `~collections.abc.Callable`
        Returns a descriptor, positioned at the beginning, which is closed after use; or raises
        `OSError`.
    size_bytes, mtime_ns : `int`
        As it was looked at; if it is another now, it is not sent.
    mode : `int`
        Its permissions, of which those to write do not arrive: it is complete.
    digest : `str`
        Its hexadecimal checksum, if it is known already.
    """

    raw: bytes
    open: Callable[[], int]
    size_bytes: int
    mode: int
    mtime_ns: int
    digest: str = ""

    @property
    def shown_mode(self) -> int:
        """Its permissions there."""
        return place.masked(self.mode) & 0o555

    @property
    def member(self) -> tar.Member:
        """What it is in an archive."""
        return tar.Member(self.raw, self.size_bytes, self.shown_mode, self.mtime_ns)


class Stream(Protocol):
    """What is sent through a session.

    Attributes
    ----------
    size_bytes : `int`
        The length of the stream.
    outcomes : `dict` [ `bytes`, `str` or `OSError` ]
        Of each file that was read, by its relative path: the checksum of the whole, or why what was
        sent is not the file (`checksum.Changed` if it changed).
    """

    size_bytes: int
    outcomes: dict[bytes, str | OSError]

    def blocks(self) -> Generator[memoryview, None, None]:
        """Yield the stream in blocks, each of which the next one overwrites."""


class TarStream:
    """Files as a tar archive: a `Stream`.

    Parameters
    ----------
    files : `~collections.abc.Sequence` [ `Outgoing` ]
    algorithm : `str`
        Of their checksums.
    most_at_once : `int`
        The length of a block.
    """

    def __init__(
        self, files: Sequence[Outgoing], algorithm: str, most_at_once: int = MOST_AT_ONCE
    ) -> None:
        self._files = [(file, file.member) for file in files]
        self._algorithm = algorithm
        content = sum(
            tar.header_size(member) + member.size_bytes + tar.padding(member.size_bytes)
            for _, member in self._files
        )
        self._end = tar.ending(content)
        self.size_bytes = content + self._end
        self.outcomes: dict[bytes, str | OSError] = {}
        self._buffer = memoryview(bytearray(most_at_once))
        self._filled = 0

    def blocks(self) -> Generator[memoryview, None, None]:
        """Yield the archive."""
        for file, member in self._files:
            yield from self._add(tar.header(member))
            with _Read(file, self._algorithm) as reading:
                missing = file.size_bytes
                while missing and (count := reading.read(self._room[:missing])):
                    missing -= count
                    yield from self._fill(count)
                yield from self._add_zeros(missing + tar.padding(file.size_bytes))
                self.outcomes[file.raw] = reading.outcome()
        yield from self._add_zeros(self._end)
        if self._filled:
            yield self._buffer[: self._filled]

    @property
    def _room(self) -> memoryview:
        return self._buffer[self._filled :]

    def _fill(self, count: int) -> Iterator[memoryview]:
        """Count bytes that were put into the buffer; yield it when it is full."""
        self._filled += count
        if self._filled == len(self._buffer):
            yield self._buffer
            self._filled = 0

    def _add(self, data: bytes) -> Iterator[memoryview]:
        rest = memoryview(data)
        while rest:
            part = rest[: len(self._room)]
            self._room[: len(part)] = part
            rest = rest[len(part) :]
            yield from self._fill(len(part))

    def _add_zeros(self, count: int) -> Iterator[memoryview]:
        while count:
            part = min(count, len(_ZEROS))
            yield from self._add(_ZEROS[:part])
            count -= part


class Rest:
    """What is missing there of a file of which a part arrived before: a `Stream`.

    Parameters
    ----------
    file : `Outgoing`
    algorithm : `str`
        Of its checksum.
    most_at_once : `int`
        The length of a block.
    """

    def __init__(self, file: Outgoing, algorithm: str, most_at_once: int = MOST_AT_ONCE) -> None:
        self._file = file
        self._reading = _Read(file, algorithm)
        self._buffer = memoryview(bytearray(MOST_AT_ONCE))
        self._most_at_once = most_at_once
        self.size_bytes = file.size_bytes
        self.outcomes: dict[bytes, str | OSError] = {}

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the file."""
        self._reading.__exit__(*exception)

    def skip(self, size_bytes: int, digest: str) -> bool:
        """Read the part that is there; return whether it is the beginning of the file."""
        if size_bytes > self.size_bytes:
            return False
        while size_bytes and (count := self._reading.read(self._buffer[:size_bytes])):
            size_bytes -= count
            self.size_bytes -= count
        return not size_bytes and self._reading.digest == digest

    def blocks(self) -> Generator[memoryview, None, None]:
        """Yield the rest."""
        missing, room = self.size_bytes, self._buffer[: self._most_at_once]
        while missing and (count := self._reading.read(room[:missing])):
            missing -= count
            yield room[:count]
        while missing:
            part = memoryview(_ZEROS)[: min(missing, self._most_at_once)]
            missing -= len(part)
            yield part
        self.outcomes[self._file.raw] = self._reading.outcome()


class _Read:
    """A file while it is read; errors are kept for `outcome`."""

    def __init__(self, file: Outgoing, algorithm: str) -> None:
        self._file = file
        self._hash = checksum.ALGORITHMS[algorithm]()
        self._came = 0
        self._descriptor = -1
        self._error: OSError | None = None
        try:
            self._descriptor = file.open()
        except OSError as error:
            self._keep(error)

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def read(self, room: memoryview) -> int:
        """Read a part and return its length; 0 at the end, and after an error."""
        if self._error is not None:
            return 0
        try:
            count = os.readv(self._descriptor, (room,))
        except OSError as error:
            self._keep(error)
            return 0
        self._came += count
        self._hash.update(room[:count])
        return count

    @property
    def digest(self) -> str:
        """The checksum of what was read so far."""
        return self._hash.hexdigest()

    def outcome(self) -> str | OSError:
        """Return the checksum of what was read, or why that is not the file."""
        if self._error is None:
            try:
                return self._checked()
            except OSError as error:
                self._keep(error)
        assert self._error is not None
        return self._error

    def _checked(self) -> str:
        file, after = self._file, os.fstat(self._descriptor)
        if (after.st_size, after.st_mtime_ns) != (file.size_bytes, file.mtime_ns):
            raise checksum.Changed(errno.EAGAIN, "the file changed before or while it was read")
        if self._came < file.size_bytes:
            what = names.counted(file.size_bytes, "byte")
            raise OSError(errno.EIO, f"only {self._came:,} of {what} can be read")
        digest = self.digest
        if file.digest not in ("", digest):
            raise checksum.Changed(errno.EAGAIN, "its content changed, though not its time")
        if not after.st_nlink:
            raise checksum.Changed(errno.EAGAIN, "the file was removed while it was read")
        return digest

    def _keep(self, error: OSError) -> None:
        if error.filename is None:
            error.filename = os.fsdecode(self._file.raw)
        self._error = error
