"""A directory and what is below it, reached by descriptors: no swapped name leads elsewhere.

A path is looked up by the kernel each time that it is used, and whoever may write to a directory on
the way can exchange a part of it for a link meanwhile. A `Tree` opens its root once. What lies
below is reached from there by openat2(2), which follows no link and leaves no root (on kernels
before 5.6: one component at a time), and every change is made relative to the descriptor of a
directory, under a single name that is never followed.

A directory that is renamed while it is open is still the same directory: `Tree.sync` looks at its
name again, and raises if another one has it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Self

from dbbbatch.files import checksum, names, place

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: openat2(2); the number is the same on all machines that Linux has had it on.
_SYS_OPENAT2 = 437
_RESOLVE = 0x02 | 0x04 | 0x08  # RESOLVE_NO_MAGICLINKS, _NO_SYMLINKS and _BENEATH

#: Errors of a kernel, or of a filter of system calls, that does not know openat2.
_UNKNOWN_CALL = (errno.ENOSYS, errno.EPERM, errno.E2BIG)

_c_library = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    """The third argument of openat2."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_HOW = _OpenHow(_DIRECTORY, 0, _RESOLVE)


class Tree:
    """An open directory; what lies below it is named by relative paths, '' is the root itself.

    Paths are as `os.fsdecode` returns them; every error names the whole path. One thread uses a
    tree at a time.

    Parameters
    ----------
    path : `str`
        The root. It is the only path that may lead through links.
    keep : `int`
        The most descriptors of directories that stay open, two at least.

    Raises
    ------
    OSError
        The root is no directory, or cannot be read.
    """

    def __init__(self, path: str, keep: int = 64) -> None:
        self.path = path
        self._keep = keep
        self._held: OrderedDict[str, int] = OrderedDict()
        self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        """Return the tree."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close all descriptors."""
        self.forget()
        os.close(self._root)

    def forget(self) -> None:
        """Look every directory up again when it is used next."""
        while self._held:
            os.close(self._held.popitem()[1])

    def directory(self, rel: str = "") -> int:
        """Return the descriptor of a directory, which stays open at least until the next but one.

        Raises
        ------
        NotADirectoryError
            A part of the path is no directory, or a link.
        OSError
            It is not there, or cannot be read.
        """
        if not rel:
            return self._root
        if rel in self._held:
            self._held.move_to_end(rel)
        else:
            self._held[rel] = self._open_directory(rel)
            if len(self._held) > self._keep:
                os.close(self._held.popitem(last=False)[1])
        return self._held[rel]

    def status(self, rel: str) -> os.stat_result | None:
        """Return what has a name, without following it; `None` if nothing has.

        Raises
        ------
        NotADirectoryError
            As `directory`, of a directory above it.
        OSError
            It cannot be looked at.
        """
        try:
            directory, name = self._entry(rel)
            with self._naming(rel):
                return os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def names(self, rel: str = "") -> list[str]:
        """Return the names in a directory, in no order."""
        return os.listdir(self.directory(rel))

    def open(self, rel: str) -> int:
        """Return a descriptor of a regular file for reading, which the caller closes.

        Raises
        ------
        checksum.NotRegular
            It is a link, or anything else that is no regular file.
        OSError
            It cannot be opened.
        """
        return self._opened(rel, os.O_RDONLY | os.O_NONBLOCK)

    def create(self, rel: str, mode: int = 0o600) -> int:
        """Return a descriptor of a new file for writing, which the caller closes.

        Raises
        ------
        FileExistsError
            Something has the name.
        """
        return self._opened(rel, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)

    def make_directory(self, rel: str, mode: int | None = None) -> None:
        """Make a directory; those above it exist.

        Parameters
        ----------
        rel : `str`
        mode : `int`, optional
            Its permissions, less the umask; without it, those of the directory above, though its
            owner may always use it.

        Raises
        ------
        FileExistsError
            Something has the name.
        """
        directory, name = self._entry(rel)
        above = os.fstat(directory).st_mode
        wanted = above & 0o777 | 0o700 if mode is None else mode
        with self._naming(rel):
            os.mkdir(name, wanted, dir_fd=directory)
            if mode is None and above & stat.S_ISVTX:
                os.chmod(name, wanted | above & (stat.S_ISVTX | stat.S_ISGID), dir_fd=directory)

    def make_directories(self, rel: str, mode: int | None = None) -> None:
        """Make a directory and those above it, as `make_directory`, where they are not there.

        Raises
        ------
        NotADirectoryError
            Something else, or a link, has the name of one.
        """
        with suppress(FileNotFoundError):
            self.directory(rel)
            return
        self.make_directories(names.split(rel)[0], mode)
        try:
            self.make_directory(rel, mode)
        except FileExistsError:
            self.directory(rel)

    def link_to(self, target: str, rel: str) -> None:
        """Make a symbolic link; raise `FileExistsError` if something has its name."""
        directory, name = self._entry(rel)
        with self._naming(rel):
            os.symlink(target, name, dir_fd=directory)

    def move(self, rel: str, to: Tree, destination: str) -> None:
        """Move a file, or a directory, to a free name below this root or another one.

        As `place.place`: durable after `sync`; never over something else, and if an earlier call
        was killed between its link and its unlink, this one makes up for the unlink.

        Raises
        ------
        FileExistsError
            Something else has the name.
        OSError
            `errno.EXDEV` across file systems.
        """
        source_in, name = self._entry(rel)
        destination_in, other = to._entry(destination)
        try:
            with to._naming(destination):
                if not place.rename_at(name, source_in, other, destination_in):
                    _move_otherwise(name, source_in, other, destination_in)
        except FileExistsError:
            one, two = self.status(rel), to.status(destination)
            # Two names of one file, and not one name that two paths lead to.
            if (
                one is None
                or two is None
                or not (os.path.samestat(one, two) and stat.S_ISREG(one.st_mode))
                or one.st_nlink < 2
                or os.path.samestat(os.fstat(source_in), os.fstat(destination_in))
            ):
                raise
            self.remove(rel)

    def remove(self, rel: str) -> None:
        """Remove a file or a link, unless it, or its directory, is gone already."""
        with suppress(FileNotFoundError):
            directory, name = self._entry(rel)
            with self._naming(rel):
                os.unlink(name, dir_fd=directory)

    def remove_tree(self, rel: str) -> None:
        """Remove a directory with all that is below it, unless it is gone already."""
        self.forget()
        directory, name = self._entry(rel)
        with suppress(FileNotFoundError), self._naming(rel):
            shutil.rmtree(name, dir_fd=directory)

    def sync(self, directories: Iterable[str]) -> None:
        """Make the names in directories durable, and see that these are still where they were.

        Raises
        ------
        OSError
            `errno.ESTALE`: another directory has the name of one by now.
        """
        for rel in directories:
            descriptor = self.directory(rel)
            with self._naming(rel):
                try:
                    os.fsync(descriptor)
                except OSError as error:
                    # Some network file systems do not sync directories; their server does.
                    if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                        raise
            if rel:
                there = self._open_directory(rel)
                try:
                    same = os.path.samestat(os.fstat(there), os.fstat(descriptor))
                finally:
                    os.close(there)
                if not same:
                    why = "is another directory than a moment ago"
                    raise OSError(errno.ESTALE, why, self._whole(rel))

    def sync_file_system(self) -> None:
        """Make everything that was written to the root's file system durable, also names."""
        with self._naming(""):
            place.sync_file_system(f"/proc/self/fd/{self._root}")

    def _whole(self, rel: str) -> str:
        return os.path.join(self.path, rel) if rel else self.path

    @contextmanager
    def _naming(self, rel: str) -> Iterator[None]:
        """Name the whole path in an `OSError` that is raised within."""
        try:
            yield
        except OSError as error:
            error.filename, error.filename2 = self._whole(rel), None
            raise

    def _entry(self, rel: str) -> tuple[int, str]:
        """Return the descriptor of a directory and the single name in it that a path means."""
        if names.is_astray(rel):
            raise OSError(errno.EINVAL, "is no path of a file below it", self._whole(rel))
        above, name = names.split(rel)
        return self.directory(above), name

    def _opened(self, rel: str, flags: int, mode: int = 0) -> int:
        directory, name = self._entry(rel)
        with self._naming(rel):
            try:
                opened = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=directory)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENXIO):
                    raise checksum.NotRegular(error.errno, "not a regular file") from None
                raise
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                os.close(opened)
                raise checksum.NotRegular(errno.EINVAL, "not a regular file")
        return opened

    def _open_directory(self, rel: str) -> int:
        if names.is_astray(rel):
            raise OSError(errno.EINVAL, "is no path of a directory below it", self._whole(rel))
        with self._naming(rel):
            found = _open_beneath(self._root, rel)
            return _open_by_parts(self._root, rel) if found is None else found


def _open_beneath(root: int, rel: str) -> int | None:
    """Open a directory by openat2; return `None` where that is not known."""
    path = os.fsencode(rel)
    found: int = _c_library.syscall(
        _SYS_OPENAT2, root, path, ctypes.byref(_HOW), ctypes.sizeof(_HOW)
    )
    if found >= 0:
        return found
    number = ctypes.get_errno()
    if number in _UNKNOWN_CALL:
        return None
    raise _as_no_directory(OSError(number, os.strerror(number)))


def _open_by_parts(root: int, rel: str) -> int:
    """Open a directory from the one above it, and so on; no part of the path is followed."""
    descriptor = os.dup(root)
    try:
        for part in rel.split("/"):
            above, descriptor = descriptor, os.open(part, _DIRECTORY, dir_fd=descriptor)
            os.close(above)
    except OSError as error:
        os.close(descriptor)
        raise _as_no_directory(error) from None
    return descriptor


def _as_no_directory(error: OSError) -> OSError:
    """Return the error of a link on the way as that of any other file there."""
    if error.errno in (errno.ELOOP, errno.EXDEV):
        return NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    return error


def _move_otherwise(name: str, source_in: int, other: str, destination_in: int) -> None:
    """Move what has a name where no rename refuses to replace."""
    if stat.S_ISDIR(os.stat(name, dir_fd=source_in, follow_symlinks=False).st_mode):
        # It replaces nothing but an empty directory.
        os.rename(name, other, src_dir_fd=source_in, dst_dir_fd=destination_in)
        return
    os.link(name, other, src_dir_fd=source_in, dst_dir_fd=destination_in, follow_symlinks=False)
    os.unlink(name, dir_fd=source_in)
