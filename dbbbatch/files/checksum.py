"""Checksums of files, and the commands that compute the same at a far end."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import threading
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Protocol

from dbbbatch.errors import Interrupted
from dbbbatch.files import mounts, names
from dbbbatch.files.faults import naming

#: What a file is hashed with unless the configuration names another algorithm.
DEFAULT = "blake2b"


class Changed(OSError):
    """The file changed while it was read: a later pass tries again."""


class NotRegular(OSError):
    """A link, a FIFO or another thing that is never read."""


class Openable(Protocol):
    """What names a file and can open it, such as `dbbbatch.files.tree.Entry`."""

    @property
    def path(self) -> str:
        """The whole path."""

    def open(self) -> int:
        """Return a descriptor, as `open_regular`."""

    def lstat(self) -> os.stat_result:
        """Return what it is, without following it."""


class Hash(Protocol):
    """A checksum in the making, as those of `hashlib`."""

    def update(self, block: bytes | memoryview, /) -> None:
        """Add a block of data."""

    def hexdigest(self) -> str:
        """Return the sum of all blocks so far."""


class Adler32:
    """Adler-32, an algorithm that Rucio uses, with the interface of `hashlib`."""

    def __init__(self) -> None:
        self._value = 1

    def update(self, block: bytes | memoryview) -> None:
        """Add a block of data."""
        self._value = zlib.adler32(block, self._value)

    def hexdigest(self) -> str:
        """Return the sum of all blocks so far, eight digits."""
        return f"{self._value:08x}"


ALGORITHMS: dict[str, Callable[[], Hash]] = {
    "blake2b": hashlib.blake2b,
    "sha256": hashlib.sha256,
    "sha512": hashlib.sha512,
    "sha1": hashlib.sha1,
    "md5": hashlib.md5,
    "adler32": Adler32,
}

#: The programs of coreutils that read ``--check`` lists of an algorithm.
COMMANDS = {
    "blake2b": "b2sum",
    "sha256": "sha256sum",
    "sha512": "sha512sum",
    "sha1": "sha1sum",
    "md5": "md5sum",
}


#: What a file is, and its digests.
Reading = tuple[os.stat_result, Mapping[str, str]]

#: Bytes read at a time: what is hashed and copied is still in the processor's own cache.
_BLOCK = 1 << 16


class _Buffer(threading.local):
    """A thread's buffer: a new one for each file would cost more than hashing a small file."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(_BLOCK))


_buffer = _Buffer()


def _never() -> bool:
    return False


def _no_note(_: int) -> None:
    pass


#: Whether reading must end, and what hears how many bytes were read; see `heeding`.
_must_end: Callable[[], bool] = _never
_note_read: Callable[[int], None] = _no_note


@contextmanager
def heeding(
    must_end: Callable[[], bool], note_read: Callable[[int], None] = _no_note
) -> Iterator[None]:
    """Ask between two blocks of each file that is read within whether reading must end.

    Parameters
    ----------
    must_end : `~collections.abc.Callable`
        Returns whether reading must end.
    note_read : `~collections.abc.Callable`, optional
        Called with the bytes of each block, in the thread that reads.
    """
    global _must_end, _note_read
    before = _must_end, _note_read
    _must_end, _note_read = must_end, note_read
    try:
        yield
    finally:
        _must_end, _note_read = before


def heed(count: int) -> None:
    """Note that bytes of a file were read.

    Raises
    ------
    Interrupted
        The pass must end (`heeding`): no fault of the file's.
    """
    if _must_end():
        raise Interrupted("interrupted while a file was read; the next pass reads it again")
    _note_read(count)


def format(algorithm: str, digest: str) -> str:
    """Return a checksum as it is stored: ``algorithm:hex``."""
    return f"{algorithm}:{digest}"


def parse(text: str) -> tuple[str, str]:
    """Return algorithm and digest of a stored checksum.

    Raises
    ------
    ValueError
        It is none, or its algorithm is not known.
    """
    algorithm, colon, digest = text.partition(":")
    if not colon or algorithm not in ALGORITHMS:
        raise ValueError(f"not a checksum: {text!r}")
    return algorithm, digest


def compute(
    file: Openable, algorithms: Collection[str] = (DEFAULT,), *, written: bool = True
) -> dict[str, str]:
    """Read a file once and return its digests.

    Parameters
    ----------
    file : `Openable`
        Not followed if it is a symbolic link.
    algorithms : `~collections.abc.Collection` [ `str` ]
        Names in `ALGORITHMS`.
    written : `bool`
        Read it also while somebody has it open for writing.

    Raises
    ------
    Changed
        Size, time or inode changed while the file was read.
    OSError
        It cannot be read as a whole, or is no regular file.
    """
    with opened(file, written=written) as descriptor:
        before = os.fstat(descriptor)
        sums = stream(descriptor, algorithms)
        same(before, os.fstat(descriptor), file)
    return sums


def read_file(file: Openable, algorithms: Collection[str]) -> Reading:
    """Return what a file is, and its digests, if the path led to this version all the time.

    Raises
    ------
    Changed, OSError
        As `compute`.
    """
    before = file.lstat()
    sums = compute(file, algorithms)
    status = file.lstat()
    same(before, status, file)
    return status, sums


def matches(file: Openable, stored: str) -> bool:
    """Return whether a file has a stored checksum; raise what `parse` and `compute` raise."""
    algorithm, digest = parse(stored)
    return compute(file, [algorithm])[algorithm] == digest


@contextmanager
def opened(source: int | Openable, *, written: bool = True) -> Iterator[int]:
    """Open a regular file for reading, without following a link or waiting for a FIFO.

    Parameters
    ----------
    source : `Openable` or `int`
        A file, or an open descriptor, which is read from its beginning and left open.
    written : `bool`
        Open it also while somebody has it open for writing.
    """
    if isinstance(source, int):
        os.lseek(source, 0, os.SEEK_SET)
        yield source
        return
    descriptor = source.open() if written else open_closed(source)
    try:
        with naming(source):
            yield descriptor
    finally:
        os.close(descriptor)


def is_being_written(file: Openable) -> bool:
    """Return whether somebody has a file open for writing, as far as the kernel knows."""
    try:
        os.close(open_closed(file))
    except Changed:
        return True
    except OSError:
        return False
    return False


def open_closed(file: Openable) -> int:
    """Return a descriptor of a regular file that its writer has closed, as far as we can know.

    Raises
    ------
    Changed
        Somebody has it open for writing.
    OSError
        As `open_regular`.
    """
    descriptor = file.open()
    try:
        require_closed(descriptor, file)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def require_closed(descriptor: int, file: Openable) -> None:
    """Raise if somebody has an open file open for writing, as far as we can know.

    The kernel knows it of files on disks of this machine that belong to this user, or any where
    this user has CAP_LEASE (fcntl(2), F_SETLEASE). The lease is returned at once: while it is
    held, somebody who opens the file for writing has to wait. `dbbbatch.passes.signals` catches the
    signal that such an open sends us.

    Raises
    ------
    Changed
        Somebody has it open for writing.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        # NFS and CIFS give this error for any file that their server has not delegated to us.
        if error.errno == errno.EAGAIN and mounts.kind_of(descriptor) not in mounts.NETWORK:
            raise Changed(error.errno, "somebody has it open for writing", file.path) from None
        return
    with suppress(OSError):  # it ends when the descriptor is closed
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def open_regular(path: str, directory: int | None = None) -> int:
    """Return a descriptor of a regular file.

    Parameters
    ----------
    path : `str`
    directory : `int`, optional
        The descriptor of the directory that a relative path is relative to.

    Raises
    ------
    Changed
        Somebody else's lease keeps it from being opened now.
    NotRegular
        It is a symbolic link, or anything else that is no regular file.
    OSError
        It cannot be opened.
    """
    # O_NONBLOCK: a FIFO put in the file's place since the scan must not block.
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise NotRegular(error.errno, "not a regular file", path) from None
        if error.errno == errno.EAGAIN:
            raise Changed(error.errno, "somebody holds a lease of it", path) from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotRegular(errno.EINVAL, "not a regular file", path)
    except OSError as error:
        os.close(descriptor)
        error.filename = path
        raise
    return descriptor


def stream(
    descriptor: int,
    algorithms: Collection[str],
    consume: Callable[[memoryview], None] | None = None,
) -> dict[str, str]:
    """Read a descriptor to its end and return the digests of what came.

    Parameters
    ----------
    descriptor : `int`
        Of a regular file.
    algorithms : `~collections.abc.Collection` [ `str` ]
        Names in `ALGORITHMS`.
    consume : `~collections.abc.Callable`, optional
        Called with each block, which is overwritten when it returns.

    Raises
    ------
    Changed
        The file has become longer or shorter.
    OSError
        It cannot be read, or ends before its size: what came is not the file.
    Interrupted
        The pass must end (`heeding`): no fault of the file's.
    """
    view = _buffer.view
    hashes = {name: ALGORITHMS[name]() for name in algorithms}
    updates = [each.update for each in hashes.values()]
    came = 0
    while count := os.readv(descriptor, (view,)):
        came += count
        heed(count)
        block = view[:count]
        for update in updates:
            update(block)
        if consume is not None:
            consume(block)
    if came != (size := os.fstat(descriptor).st_size):
        if came > size or os.readv(descriptor, (view,)):
            raise Changed(errno.EAGAIN, "the file changed while it was read")
        raise OSError(errno.EIO, f"only {came:,} of {names.counted(size, 'byte')} can be read")
    return {name: each.hexdigest() for name, each in hashes.items()}


def same(before: os.stat_result, after: os.stat_result, source: Openable | str | int = "") -> None:
    """Raise `Changed` if a file was written to between two looks at it."""
    if (before.st_size, before.st_mtime_ns, before.st_ino, before.st_dev) != (
        after.st_size,
        after.st_mtime_ns,
        after.st_ino,
        after.st_dev,
    ):
        where = source if isinstance(source, str | int) else source.path
        raise Changed(errno.EAGAIN, "the file changed while it was read", where)
