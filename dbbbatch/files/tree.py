"""A directory and what is below it, reached by descriptors: no swapped name leads elsewhere.

A path is looked up by the kernel each time that it is used, and whoever may write to a directory on
the way can exchange a part of it for a link meanwhile. A `Tree` opens its root once. What lies
below is reached from there by openat2(2), which follows no link and leaves no root (on kernels
before 5.6: one component at a time), and every change is made relative to the descriptor of a
directory, under a single name that is never followed. Such a name is an `Entry`.

A directory that is renamed while it is open is still the same directory: `Tree.require_same` looks
at its name again, and raises if another one has it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Self

from dbbbatch.files import checksum, names
from dbbbatch.files.fence import fence

#: To look names up in a directory takes the permission to search it, not to read it.
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: openat2(2); the number is the same on all machines that Linux has had it on.
_SYS_OPENAT2 = 437
_RESOLVE = 0x02 | 0x04 | 0x08  # RESOLVE_NO_MAGICLINKS, _NO_SYMLINKS and _BENEATH

#: Errors of a kernel, or of a filter of system calls, that does not know openat2.
_UNKNOWN_CALL = (errno.ENOSYS, errno.EPERM, errno.E2BIG)

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1

_c_library = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    """The third argument of openat2."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_HOW = _OpenHow(_DIRECTORY, 0, _RESOLVE)


class Directory:
    """An open directory; it is closed when nothing refers to it any longer.

    Attributes
    ----------
    fd : `int`
        Its descriptor, for calls that look names up in it; `readable` has one for all others.
        Whoever uses it keeps the object meanwhile, in a variable: another thread may have the tree
        forget the directory, and the descriptor would be that of another file soon.
    """

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @contextmanager
    def readable(self) -> Iterator[int]:
        """Lend a descriptor with which it can be read, synchronized and changed itself."""
        opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            yield opened
        finally:
            os.close(opened)

    def __del__(self) -> None:
        """Close it."""
        if self.fd >= 0:
            os.close(self.fd)


class Tree:
    """An open directory; what lies below it is named by relative paths, '' is the root itself.

    Paths are as `os.fsdecode` returns them; every error names the whole path. Several threads may
    use a tree.

    Parameters
    ----------
    path : `str`
        The root. It is the only path that may lead through links.
    keep : `int`
        The most descriptors of directories that stay open.
    opened : `int`, optional
        A descriptor of the root, which the tree closes; without it, the root is opened.

    Raises
    ------
    OSError
        The root is no directory.
    """

    def __init__(self, path: str, keep: int = 64, opened: int | None = None) -> None:
        self.path = path
        self._keep = keep
        self._held: dict[str, Directory] = {}
        #: Device and inode of each directory since `forget`, also of those that were closed.
        self._found: dict[str, tuple[int, int]] = {}
        self._changing = threading.Lock()
        if opened is None:
            opened = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._root = Directory(opened)

    def __str__(self) -> str:
        """Return the path of the root."""
        return self.path

    def __enter__(self) -> Self:
        """Return the tree."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close all directories that nobody uses now."""
        self.forget()
        self._root = Directory(-1)

    def forget(self) -> None:
        """Look every directory up again when it is used next."""
        with self._changing:
            self._held.clear()
            self._found.clear()

    def directory(self, rel: str = "") -> Directory:
        """Return a directory, the same one until `forget`.

        Raises
        ------
        NotADirectoryError
            A part of the path is no directory, or a link.
        OSError
            It is not there, or may not be looked for; `errno.ESTALE`: it did not stay open, and
            another directory has its path by now.
        """
        if not rel:
            return self._root
        if (held := self._held.get(rel)) is None:
            held = Directory(self._open_directory(rel))
            which = _which(held)
            with self._changing:
                if self._found.setdefault(rel, which) != which:
                    raise self._stale(rel)
                self._held[rel] = held
                while len(self._held) > self._keep:
                    del self._held[next(iter(self._held))]
        return held

    def entry(self, rel: str) -> Entry:
        """Return what has, or may get, a relative path.

        Raises
        ------
        OSError
            `errno.EINVAL`: it leads elsewhere.
        """
        if names.is_astray(rel):
            raise OSError(errno.EINVAL, "is no path of a file below it", self._whole(rel))
        return Entry(self, *names.split(rel))

    def at(self, path: str) -> Entry:
        """Return what has, or may get, an absolute path below the root, as `entry` does."""
        if not names.stays_inside(path, self.path):
            raise OSError(errno.EINVAL, f"is no path of a file below {self.path}", path)
        return self.entry(path[len(self.path.rstrip("/")) + 1 :])

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
            return self.entry(rel).lstat()
        except FileNotFoundError:
            return None

    def obstacle(self, rel: str) -> tuple[str, os.stat_result] | None:
        """Return the first part of the path of a directory that is none, and what that is."""
        here = ""
        for part in rel.split("/") if rel else ():
            here = names.join(here, part)
            if (status := self.status(here)) is None:
                return None
            if not stat.S_ISDIR(status.st_mode):
                return here, status
        return None

    def nearest(self, rel: str) -> str:
        """Return the path of a directory, or of the nearest one above it that can be reached."""
        while rel:
            with suppress(OSError):
                self.directory(rel)
                break
            rel = names.split(rel)[0]
        return rel

    def is_writable(self, rel: str) -> bool:
        """Return whether this user may make and remove names in a directory."""
        directory = self.directory(rel)
        return os.access(".", os.W_OK | os.X_OK, dir_fd=directory.fd)

    def has_no_files(self, rel: str) -> bool:
        """Return whether the path of a directory leads to none because a file is in the way.

        A link may have been exchanged for the moment.
        """
        obstacle = self.obstacle(rel)
        return obstacle is not None and stat.S_ISREG(obstacle[1].st_mode)

    def names(self, rel: str = "") -> list[str]:
        """Return the names in a directory, in no order."""
        with Naming(self._whole(rel)), self.directory(rel).readable() as opened:
            return os.listdir(opened)

    def scan(self, rel: str = "") -> Iterator[os.DirEntry[str]]:
        """Yield the entries of a directory, each without a path, and to be asked at once.

        It is looked up anew, and not kept.
        """
        with Naming(self._whole(rel)):
            found = Directory(self._open_directory(rel)) if rel else self._root
            with found.readable() as opened, os.scandir(opened) as entries:
                yield from entries

    def open(self, rel: str) -> int:
        """Return a descriptor of a regular file, as `Entry.open`."""
        return self.entry(rel).open()

    def create(self, rel: str, mode: int = 0o600) -> int:
        """Return a descriptor of a new file, as `Entry.create`."""
        return self.entry(rel).create(mode)

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
        entry = self.entry(rel)
        directory = entry.where()
        above = os.fstat(directory.fd).st_mode
        wanted = above & 0o777 | 0o700 if mode is None else mode
        with Naming(entry.path):
            os.mkdir(entry.name, wanted, dir_fd=directory.fd)
            if mode is None and above & stat.S_ISVTX:
                with self.directory(rel).readable() as made:
                    os.fchmod(made, wanted | above & (stat.S_ISVTX | stat.S_ISGID))

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
        entry = self.entry(rel)
        directory = entry.where()
        with Naming(entry.path):
            os.symlink(target, entry.name, dir_fd=directory.fd)

    def move(self, rel: str, to: Tree, destination: str) -> None:
        """Move a file or a directory, as `Entry.move_to`."""
        self.entry(rel).move_to(to.entry(destination))

    def remove(self, rel: str) -> None:
        """Remove a file or a link, unless it, or its directory, is gone already."""
        with suppress(FileNotFoundError):
            self.entry(rel).unlink()

    def remove_tree(self, rel: str) -> None:
        """Remove a directory with all that is below it, unless it is gone already."""
        self.forget()
        entry = self.entry(rel)
        with suppress(FileNotFoundError), Naming(entry.path), fence:
            directory = entry.where()
            shutil.rmtree(entry.name, dir_fd=directory.fd)

    def sync(self, directories: Iterable[str]) -> None:
        """Make the names in directories durable, and see that these are still where they were.

        Raises
        ------
        OSError
            `errno.ESTALE`, as `require_same`.
        """
        directories = list(directories)
        for rel in directories:
            with Naming(self._whole(rel)), self.directory(rel).readable() as opened:
                sync_names(opened)
        self.require_same(directories)

    def require_same(self, directories: Iterable[str]) -> None:
        """See that directories that were used are still those that have their paths.

        Raises
        ------
        OSError
            `errno.ESTALE`: another directory has the path of one by now.
        """
        for rel in directories:
            if not rel:
                continue
            there = Directory(self._open_directory(rel))
            here = self.directory(rel)
            if _which(there) != _which(here):
                raise self._stale(rel)

    def sync_file_system(self, rel: str = "") -> None:
        """Make everything that was written to the file system of a directory durable, also names.

        A file system that is mounted below the root is another one.
        """
        with Naming(self._whole(rel)), self.directory(rel).readable() as opened:
            sync_everything(opened)

    def _stale(self, rel: str) -> OSError:
        why = "is another directory than a moment ago"
        return OSError(errno.ESTALE, why, self._whole(rel))

    def _whole(self, rel: str) -> str:
        return os.path.join(self.path, rel) if rel else self.path

    def _open_directory(self, rel: str) -> int:
        whole = self._whole(rel)
        if names.is_astray(rel):
            raise OSError(errno.EINVAL, "is no path of a directory below it", whole)
        with Naming(whole):
            found = _open_beneath(self._root.fd, rel)
            return _open_by_parts(self._root.fd, rel) if found is None else found


class _Everywhere(Tree):
    """What is named by whole paths, looked up by the kernel: files of our own outside all roots."""

    def __init__(self) -> None:
        self.path = ""
        self._root = Directory(_AT_FDCWD)

    def directory(self, rel: str = "") -> Directory:
        """Return no directory: the kernel goes the whole path."""
        return self._root


_everywhere = _Everywhere()


class Entry:
    """A name in a directory of a tree, whether something has it or not.

    Parameters
    ----------
    tree : `Tree`
    relpath : `str`
        The directory, relative to the root.
    name : `str`
        The name in it.
    """

    __slots__ = ("name", "relpath", "tree")

    def __init__(self, tree: Tree, relpath: str, name: str) -> None:
        self.tree = tree
        self.relpath = relpath
        self.name = name

    def __str__(self) -> str:
        """Return the whole path."""
        return self.path

    def __repr__(self) -> str:
        """Return what it is, for a person who looks for a fault."""
        return f"Entry({self.path!r})"

    def __eq__(self, other: object) -> bool:
        """Return whether two entries have one path."""
        return isinstance(other, Entry) and self.path == other.path

    def __hash__(self) -> int:
        """Return a number that is equal for equal entries."""
        return hash(self.path)

    @property
    def rel(self) -> str:
        """The path relative to the root."""
        return names.join(self.relpath, self.name)

    @property
    def path(self) -> str:
        """The whole path: for messages, for the database, and for programs that must open it."""
        return f"{self.tree.path.rstrip('/')}/{self.rel}" if self.tree.path else self.name

    def where(self) -> Directory:
        """Return its directory; raise as `Tree.directory`."""
        return self.tree.directory(self.relpath)

    def beside(self, name: str) -> Entry:
        """Return another name in the same directory."""
        if self.tree is _everywhere:
            return outside(os.path.join(os.path.dirname(self.name), name))
        return Entry(self.tree, self.relpath, name)

    def lstat(self) -> os.stat_result:
        """Return what has the name, without following it.

        Raises
        ------
        FileNotFoundError
            Nothing has it.
        NotADirectoryError
            Its directory is no directory, or a link.
        OSError
            It cannot be looked at.
        """
        with Naming(self):
            directory = self.where()
            return os.stat(self.name, dir_fd=directory.fd, follow_symlinks=False)

    def status(self) -> os.stat_result | None:
        """Return what has the name; `None` if nothing has, or if its directory is none.

        Raises
        ------
        OSError
            It cannot be looked at.
        """
        try:
            return self.certain_status()
        except NotADirectoryError:
            return None

    def certain_status(self) -> os.stat_result | None:
        """Return what has the name; `None` if it is certain that nothing has.

        A directory above it that is not there, or is a file by now, has no files.

        Raises
        ------
        OSError
            It cannot be looked at.
        """
        try:
            return self.lstat()
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            if self.tree is _everywhere or self.tree.has_no_files(self.relpath):
                return None
            raise
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return None  # no file system has such a name
            raise

    def open(self) -> int:
        """Return a descriptor of a regular file for reading, which the caller closes.

        Raises
        ------
        checksum.Changed
            Somebody else's lease keeps it from being opened now.
        checksum.NotRegular
            It is a link, or anything else that is no regular file.
        OSError
            It cannot be opened.
        """
        with Naming(self):
            directory = self.where()
            return checksum.open_regular(self.name, directory.fd)

    def create(self, mode: int = 0o600) -> int:
        """Return a descriptor of a new file for writing, which the caller closes.

        Raises
        ------
        FileExistsError
            Something has the name.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with Naming(self):
            directory = self.where()
            return os.open(self.name, flags, mode, dir_fd=directory.fd)

    def remove(self) -> None:
        """Remove a file or a link, unless it, or its directory, is gone already."""
        with suppress(FileNotFoundError, NotADirectoryError):
            self.unlink()

    def unlink(self) -> None:
        """Remove a file or a link; raise `FileNotFoundError` if there is none."""
        with Naming(self):
            directory = self.where()
            with fence:
                os.unlink(self.name, dir_fd=directory.fd)

    def move_to(self, destination: Entry) -> None:
        """Move what has the name, a file or a directory, to a free name on the same file system.

        Durable only after `Tree.sync` of both directories, or `Tree.sync_file_system`. If an
        earlier call was killed between its link and its unlink, this one makes up for the unlink.

        Raises
        ------
        FileExistsError
            Something else has the other name. Both are as they were.
        OSError
            `errno.EXDEV` across file systems; `errno.ENOTSUP` where the file system has no way to
            place a file without the risk of overwriting.
        """
        here, there = self.where(), destination.where()
        try:
            with Naming(self, destination), fence:
                if not rename(self.name, here.fd, destination.name, there.fd):
                    link(self.name, here.fd, destination.name, there.fd)
        except FileExistsError:
            if not self._is_second_name_of(destination):
                raise
            self.remove()

    def refusing(self) -> str | None:
        """Return the directory in which this user may not make or remove this name, if one is.

        Its path is relative to the root. It is the one above where that is to be made first.
        """
        nearest = self.tree.nearest(self.relpath)
        return None if self.tree.is_writable(nearest) else nearest

    def is_same_entry(self, other: Entry) -> bool:
        """Return whether two paths lead to one entry of one directory.

        True through symbolic links to directories and bind mounts as well, and where a file system
        does not distinguish upper and lower case: what is removed under one of these paths is then
        gone under the other.
        """
        one, two = self._directory_status(), other._directory_status()
        if not os.path.samestat(one, two):
            return False
        mine, theirs = os.path.basename(self.name), os.path.basename(other.name)
        if mine.casefold() != theirs.casefold():
            return False
        return mine == theirs or not {mine, theirs} <= set(self._siblings())

    def _is_second_name_of(self, other: Entry) -> bool:
        """Return whether a link was made and its unlink is still to come.

        Two paths to one directory entry look the same, but to unlink one of them would remove the
        file.
        """
        one, two = self.lstat(), other.lstat()
        return (
            os.path.samestat(one, two)
            and stat.S_ISREG(one.st_mode)
            and one.st_nlink > 1
            and not self.is_same_entry(other)
        )

    def _directory_status(self) -> os.stat_result:
        if self.tree is _everywhere:
            return os.stat(os.path.dirname(self.name) or ".")
        directory = self.where()
        return os.fstat(directory.fd)

    def _siblings(self) -> list[str]:
        if self.tree is _everywhere:
            return os.listdir(os.path.dirname(self.name) or ".")
        return self.tree.names(self.relpath)


def outside(path: str) -> Entry:
    """Return what has a path that the kernel looks up as a whole.

    For files of our own in places that nobody else can write to, such as the state directory. What
    lies in a buffer, a source, a storage area or any other configured root is an entry of its tree.
    """
    return Entry(_everywhere, "", path)


def why_refused(error: OSError, *entries: Entry) -> str:
    """Return the reason of a change of names that failed.

    Which of two directories refuses a rename the kernel does not say: it is named, if it is found.

    Parameters
    ----------
    error : `OSError`
    *entries : `Entry`
        The names that were to be made and removed.
    """
    why = error.strerror or str(error)
    if isinstance(error, PermissionError):
        for entry in entries:
            if (refusing := entry.refusing()) is not None:
                path = os.path.join(entry.tree.path, refusing).rstrip("/")
                return f"{names.printable(path)}: {why}"
    return why


class Naming:
    """Names the whole path, or two, in an `OSError` that is raised within."""

    __slots__ = ("_other", "_path")

    def __init__(self, path: Entry | str, other: Entry | None = None) -> None:
        self._path = path
        self._other = other

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        """Name the paths in an error."""
        if isinstance(error, OSError):
            error.filename = str(self._path)
            error.filename2 = None if self._other is None else str(self._other)


def rename(source: str, source_in: int, destination: str, destination_in: int) -> bool:
    """Rename without replacing, from one open directory to another.

    Returns
    -------
    able : `bool`
        Whether the file system can do that; if not, nothing was done.
    """
    if not hasattr(_c_library, "renameat2"):
        return False
    done = _c_library.renameat2(
        source_in, os.fsencode(source), destination_in, os.fsencode(destination), _RENAME_NOREPLACE
    )
    if done == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), source, None, destination)


def link(source: str, source_in: int, destination: str, destination_in: int) -> None:
    """Add the new name of a file, then remove the old one; a directory is renamed."""
    if stat.S_ISDIR(os.stat(source, dir_fd=source_in, follow_symlinks=False).st_mode):
        # It replaces nothing but an empty directory.
        os.rename(source, destination, src_dir_fd=source_in, dst_dir_fd=destination_in)
        return
    try:
        os.link(
            source,
            destination,
            src_dir_fd=source_in,
            dst_dir_fd=destination_in,
            follow_symlinks=False,
        )
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise refusal(destination) from error
        raise
    with suppress(FileNotFoundError):
        # It may be gone: a server did this once already, and its answer was lost.
        os.unlink(source, dir_fd=source_in)


def refusal(path: str) -> OSError:
    """Return the error of a file system on which nothing can be placed."""
    return OSError(
        errno.ENOTSUP,
        "this file system can neither rename without overwriting nor link this file, "
        "so nothing is placed here",
        path,
    )


def sync_names(descriptor: int) -> None:
    """Make the names in an open directory durable."""
    try:
        with fence.long_wait():
            os.fsync(descriptor)
    except OSError as error:
        # Some network file systems do not sync directories; their server does.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def sync_everything(descriptor: int) -> None:
    """Make everything durable that was written to the file system of an open file, also names."""
    with fence.long_wait():
        if not hasattr(_c_library, "syncfs"):
            os.sync()
        elif _c_library.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def _which(directory: Directory) -> tuple[int, int]:
    """Return device and inode of an open directory."""
    status = os.fstat(directory.fd)
    return status.st_dev, status.st_ino


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
