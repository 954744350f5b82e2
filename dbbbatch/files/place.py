"""All operations on a disk that can lose data.

None of them replaces an existing file. On one file system a file is placed by
renameat2(RENAME_NOREPLACE); where the file system does not know that flag, by link(2) and
unlink(2); else not at all. Across file systems it is copied to a hidden temporary name beside its
destination, made durable, then placed.

What lies below a configured root is an `Entry` of its `Tree`. A path stands for a file of our own,
in a place that nobody else can write to.

Every function may be killed between any two system calls. Called again it finishes the work, or
raises FileExistsError because the file is there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator

from dbbbatch.files import checksum, clock, faults, names
from dbbbatch.files.fence import fence
from dbbbatch.files.temporary import (
    PROBE_PREFIX,
    hidden_path,
    is_temporary,
    probe_path,
    temporary_path,
)
from dbbbatch.files.tree import (
    Entry,
    Naming,
    Tree,
    link,
    refusal,
    rename,
    sync_names,
)

#: The content of a probe.
PROBE = b"Written by dbbbatch to see what can be done with a file here; may be removed.\n"

#: Bytes to leave free on the disk of the state directory and on that of a quarantine.
RESERVE = 16 << 20

_NAME_MAX = 255

#: Errors of a file system, or a full disk, on which a file cannot be renamed and may be removed.
_CANNOT_RENAME = faults.FULL | {errno.ENOTSUP}

#: What a version's name ends with.
_VERSION = re.compile(r"\.~\d+~$")

_FALLOC_FL_KEEP_SIZE = 1
_SYNC_FILE_RANGE_WRITE = 2

#: Bytes of a copy after which the disk begins to write them, while the next are hashed.
_WRITE_BACK = 4 << 20

_libc = ctypes.CDLL(None, use_errno=True)
if hasattr(_libc, "sync_file_range"):
    _libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
# The first has sizes of 64 bits on every machine; a C library without it has them in the second.
_fallocate = getattr(_libc, "fallocate64", None) or getattr(_libc, "fallocate", None)
if _fallocate is not None:
    _fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class WriteError(OSError):
    """The copy could not be written: no fault of what was read."""


class ModeError(WriteError):
    """Permissions or group of a file could not be set."""


def place(source: Entry, destination: Entry) -> None:
    """Move a file to a free name on the same file system, as `tree.Entry.move_to`."""
    source.move_to(destination)


def place_copy(destination: Entry, owner: str = "") -> None:
    """Place what `copy_beside` wrote, as `place`."""
    place(temporary_of(destination, owner), destination)


def temporary_of(destination: Entry, owner: str = "") -> Entry:
    """Return the hidden name beside a destination to which `copy_beside` copies."""
    return destination.beside(os.path.basename(temporary_path(destination.path, owner)))


def copy_into(
    source: Entry | int,
    destination: Entry,
    algorithms: Collection[str] = (),
    *,
    owner: str = "",
    mode: int | None = None,
    group: int | None = None,
) -> dict[str, str]:
    """Copy a file to a free name, as `copy_beside`; leave nothing behind on an error.

    The copy is durable, but for its directory's entry (see `sync_directory`).

    Raises
    ------
    FileExistsError
        Another file has the name.
    OSError
        As `copy_beside`.
    """
    sums = copy_beside(source, destination, algorithms, owner=owner, mode=mode, group=group)
    temporary = temporary_of(destination, owner)
    try:
        sync_file(temporary)
        place(temporary, destination)
    except BaseException:
        remove_if_there(temporary)
        raise
    return sums


def copy_beside(
    source: Entry | int,
    destination: Entry,
    algorithms: Collection[str] = (),
    *,
    owner: str = "",
    mode: int | None = None,
    group: int | None = None,
) -> dict[str, str]:
    """Copy a file, as `copy_to`, to the `temporary_of` its destination.

    Parameters
    ----------
    source, algorithms, mode, group
        As of `copy_to`.
    destination : `Entry`
        The final name; its directory exists.
    owner : `str`
        The label of the lock under which this runs, such as "finder.latiss". Callers at one time
        differ in it or in their destination.
    """
    temporary = temporary_of(destination, owner)
    return copy_to(source, temporary, algorithms, mode=mode, group=group)


def copy_to(
    source: Entry | int,
    temporary: Entry,
    algorithms: Collection[str] = (),
    *,
    mode: int | None = None,
    group: int | None = None,
) -> dict[str, str]:
    """Copy a file to a temporary name of ours; return the digests of what was read.

    The caller makes the copy durable (`sync_file`, or `Tree.sync_file_system` for many), then
    places it. It has the time of modification of the source. An error leaves nothing behind.

    Parameters
    ----------
    source : `Entry` or `int`
        A file, or an open descriptor, which is read from its beginning.
    temporary : `Entry`
        What a killed copy left under this name is removed first.
    algorithms : `~collections.abc.Collection` [ `str` ]
        Names in `checksum.ALGORITHMS`.
    mode, group : `int`, optional
        Permissions (by default the source's, `masked`) and group of the copy.

    Raises
    ------
    checksum.Changed
        The source changed while it was read.
    WriteError
        The copy cannot be written.
    OSError
        The source cannot be read.
    """
    shown = temporary.path
    with checksum.opened(source) as descriptor:
        before = os.fstat(descriptor)
        with writing(shown):
            target = _create(temporary)
        begun = written = 0

        def write(block: memoryview) -> None:
            nonlocal begun, written
            written += len(block)
            with writing(shown):
                write_block(target, block)
            if written - begun >= _WRITE_BACK:
                _begin_write_back(target, begun, written - begun)
                begun = written

        with _removed_on_error(target, temporary):
            if before.st_size >= _WRITE_BACK:
                _reserve(target, before.st_size)
            sums = checksum.stream(descriptor, algorithms, write)
            checksum.same(before, os.fstat(descriptor), source)
            with setting_mode(shown):
                if group is not None:
                    os.fchown(target, -1, group)
                os.fchmod(target, masked(before.st_mode) if mode is None else mode)
            with writing(shown):
                os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
                if begun:
                    # An error of an early write may be reported for this descriptor only.
                    with fence.long_wait():
                        os.fsync(target)
    return sums


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Raise an `OSError` that is met within as a `WriteError` that names the path."""
    try:
        yield
    except OSError as error:
        raise WriteError(error.errno, error.strerror, error.filename or path) from None


@contextlib.contextmanager
def setting_mode(path: str) -> Iterator[None]:
    """Raise an `OSError` that is met within as a `ModeError` that names the path."""
    try:
        yield
    except OSError as error:
        what = f"permissions or group cannot be set (chmod: {error.strerror})"
        raise ModeError(error.errno, what, error.filename or path) from None


def remove_temporary(destination: Entry, owner: str = "") -> None:
    """Remove what a killed copy with these arguments may have left."""
    temporary_of(destination, owner).remove()


def is_there(path: Entry) -> bool:
    """Return whether a file of any kind has a path; raise `OSError` where that cannot be seen.

    `os.path.lexists` returns false there.
    """
    return path.certain_status() is not None


def is_gone(path: Entry) -> bool:
    """Return whether it is certain that nothing has the path of a row; the other rows go on.

    Raises
    ------
    TryLater
        Nothing can be looked at now, whatever its path.
    """
    try:
        return not is_there(path)
    except OSError as error:
        faults.raise_if_general(error, path.path)
        return False


def masked(mode: int) -> int:
    """Return the permissions of a file that its copy at an endpoint or in storage may have.

    Set-id bits would run a stranger's program as the owner of the copy, and with write permission
    others could change what was verified.
    """
    return mode & 0o777 & ~0o022


def mask(path: Entry, status: os.stat_result) -> None:
    """Remove the permissions of a file that `masked` removes, if we may.

    Raises
    ------
    OSError
        The path no longer leads to a regular file.
    """
    if stat.S_IMODE(status.st_mode) == masked(status.st_mode) and not status.st_mode & 0o111:
        return
    descriptor = path.open()
    try:
        # The file of another user runs as that user, who could run it without us.
        with contextlib.suppress(PermissionError):
            set_mode(descriptor, masked(os.fstat(descriptor).st_mode))
    finally:
        os.close(descriptor)


def set_mode(descriptor: int, mode: int) -> None:
    """Set the permissions of an open file; one that stays executable loses its capabilities."""
    os.fchmod(descriptor, mode)
    if mode & 0o111:
        # Without CAP_SETFCAP this removes them, and changes nothing else.
        with contextlib.suppress(OSError):
            os.chown(descriptor, -1, -1)


def set_mtime(descriptor: int, mtime_ns: int) -> None:
    """Set the time at which an open file was written; it is read now."""
    os.utime(descriptor, ns=(time.time_ns(), mtime_ns))


def remove_if_there(path: Entry) -> None:
    """Remove a file, unless it, or its directory, is gone already."""
    path.remove()


def take(file: Entry, owner: str = "") -> Entry:
    """Rename a file to a hidden name, and return that: what is looked at next is what was taken.

    What a kill leaves under it gets its name back by `give_back`.
    """
    hidden = taken(file, owner)
    file.move_to(hidden)
    return hidden


def give_back(file: Entry, owner: str = "") -> str:
    """Rename a file that was taken back, or to its next version.

    Returns
    -------
    filename : `str`
        The name that it has now; '' if none was taken.
    """
    return _give_back(taken(file, owner), file)


def taken(file: Entry, owner: str = "") -> Entry:
    """Return the hidden name that `take` gives a file."""
    return file.beside(os.path.basename(hidden_path("", "taken", owner, file.name)))


def remove_same(file: Entry, status: os.stat_result, hidden: Entry) -> None:
    """Remove a file, unless it was exchanged for another one since it was looked at.

    Parameters
    ----------
    file : `Entry`
    status : `os.stat_result`
        What it was.
    hidden : `Entry`
        The name beside it that it gets first.

    Raises
    ------
    checksum.Changed
        It was. The other one has the name, or that of its next version.
    FileNotFoundError
        It is gone.
    OSError
        It cannot be removed.
    """
    try:
        file.move_to(hidden)
    except OSError as error:
        if error.errno not in _CANNOT_RENAME:
            raise
        # Here nothing can be renamed without the risk of overwriting, or a full disk has no room
        # for the name, and what is removed makes room: look, and remove.
        checksum.same(status, file.lstat(), file.path)
        file.unlink()
        return
    try:
        checksum.same(status, hidden.lstat(), file.path)
        hidden.unlink()
    except OSError as error:
        if _give_back(hidden, file) and isinstance(error, FileNotFoundError):
            raise OSError(errno.EAGAIN, "was not found for a moment", file.path) from error
        raise


def _give_back(hidden: Entry, file: Entry) -> str:
    return place_versioned(hidden, file) if is_there(hidden) else ""


def write_new(path: Entry, text: str) -> None:
    """Write a small text file as a whole; raise `FileExistsError` if a file has the name."""
    temporary = temporary_of(path, "text")
    descriptor = _create(temporary)
    with _removed_on_error(descriptor, temporary):
        os.fchmod(descriptor, 0o644)
        write_block(descriptor, memoryview(text.encode("utf-8", "surrogateescape")))
        place(temporary, path)


def write_probe(probe: Entry) -> None:
    """Write a file with the content `PROBE`; one that a killed pass left is removed first."""
    descriptor = _create(probe)
    with _removed_on_error(descriptor, probe):
        os.fchmod(descriptor, 0o644)
        write_block(descriptor, memoryview(PROBE))


def touch(path: Entry) -> None:
    """Make an empty file, unless a file has the name."""
    with contextlib.suppress(FileExistsError):
        os.close(path.create(0o644))


def next_version(file: Entry) -> Entry:
    """Return the first of NAME.~1~, NAME.~2~, … that is free in the directory of a file."""
    number = 1
    while is_there(version := file.beside(versioned(os.path.basename(file.name), number))):
        number += 1
    return version


def versioned(filename: str, number: int) -> str:
    """Return NAME.~N~, with NAME shortened where a file system would refuse the length."""
    suffix = f".~{number}~"
    raw = os.fsencode(filename)
    most = _NAME_MAX - len(suffix)
    if len(raw) > most:
        cut = most
        while cut and raw[cut] & 0xC0 == 0x80:  # not within a character of UTF-8
            cut -= 1
        filename = os.fsdecode(raw[: cut or most])
    return filename + suffix


def without_version(filename: str) -> str:
    """Return a name without what `versioned` adds to it."""
    return _VERSION.sub("", filename)


def place_versioned(source: Entry, destination: Entry) -> str:
    """Place a file under a name or, if that is taken, under its next version.

    Returns
    -------
    filename : `str`
        Its name there.
    """
    there = destination
    while True:
        try:
            place(source, there)
            return os.path.basename(there.name)
        except FileExistsError:
            there = next_version(destination)


def make_directories(
    root: str | Tree,
    relpath: str,
    mode: int | None = None,
    group: int | None = None,
    *,
    durable: bool = True,
) -> None:
    """Make the directories of `relpath` below `root`, which must exist.

    A root that is missing is a file system that is not mounted, and is never made. New directories
    get `mode` (else what the umask leaves) and `group`. They are durable, unless the caller ensures
    that (`Tree.sync_file_system`).

    Raises
    ------
    FileNotFoundError
        There is no root.
    NotADirectoryError
        One of the names is not that of a directory.
    """
    with opened_tree(root) as tree:
        with contextlib.suppress(FileNotFoundError):
            tree.directory(relpath)
            return
        here = ""
        for part in relpath.split("/"):
            here, above = names.join(here, part), tree.directory(here)
            entry = tree.entry(here)
            try:
                with Naming(entry):
                    os.mkdir(part, dir_fd=above.fd)
            except FileExistsError:
                # Raises another error if it is something else.
                tree.directory(here)
            else:
                with setting_mode(entry.path), tree.directory(here).readable() as made:
                    if group is not None:
                        os.fchown(made, -1, group)
                    if mode is not None:
                        os.fchmod(made, mode)
                if durable:
                    with Naming(entry), above.readable() as opened:
                        sync_names(opened)


@contextlib.contextmanager
def opened_tree(root: str | Tree) -> Iterator[Tree]:
    """Lend the tree of a root, which is opened for the while if it is given by its path."""
    if isinstance(root, Tree):
        yield root
        return
    with Tree(root) as tree:
        yield tree


def sync_file(file: Entry) -> None:
    """Make the content of a file durable."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with Naming(file):
        directory = file.where()
        descriptor = os.open(file.name, flags, dir_fd=directory.fd)
        try:
            with fence.long_wait():
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_directory(path: str) -> None:
    """Make the names in a directory of our own, outside all roots, durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with Naming(path):
            sync_names(descriptor)
    finally:
        os.close(descriptor)


def remove_empty_directories(
    root: str | Tree,
    older_than: float,
    keep: Iterable[str] = (),
    may_go: Callable[[str], bool] | None = None,
) -> int:
    """Remove old empty directories below `root`, and probes that a killed pass left there.

    Parameters
    ----------
    root : `str` or `Tree`
        Never removed itself.
    older_than : `float`
        Seconds since a directory last changed. A directory that held only such directories is
        removed with them.
    keep : `~collections.abc.Iterable` [ `str` ]
        Relative paths of directories that are not removed.
    may_go : `~collections.abc.Callable`, optional
        Returns whether a directory may be removed. It is not called for one of which a directory
        was removed here.

    Returns
    -------
    count : `int`
        Directories removed.
    """
    kept = {path.strip("/") for path in keep}
    removed = 0
    emptied = set()
    with opened_tree(root) as tree:
        tree.forget()
        stamps = clock.of(tree.path)
        candidates = [
            path
            for path, status in _fileless(tree, older_than)
            if not stamps.is_young(status, older_than)
        ]
        for path in reversed(candidates):  # children before their parents
            if path not in kept and (may_go is None or path in emptied or may_go(path)):
                above, name = names.split(path)
                try:
                    directory = tree.directory(above)
                    with fence:
                        os.rmdir(name, dir_fd=directory.fd)
                except OSError:
                    continue  # no longer empty
                removed += 1
                emptied.add(above)
        tree.forget()
    return removed


def free_bytes(path: str) -> int:
    """Return how many bytes this user may still write to the file system of `path`."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def can_rename(first: str, second: str) -> bool:
    """Return whether a probe can be renamed from one directory to another.

    Raises
    ------
    OSError
        It fails for another reason than different file systems.
    """
    with Tree(first) as one, Tree(second) as two:
        here, there = _probe(one, "a"), _probe(two, "b")
        try:
            there.remove()
            os.close(_create(here))
            place(here, there)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return False
        finally:
            here.remove()
            there.remove()
    return True


def can_place(directory: str) -> str:
    """Return how a file can be placed in `directory`, as two probes show: "rename" or "link".

    Raises
    ------
    OSError
        It cannot be, or it would overwrite.
    """
    with Tree(directory) as tree:
        first, second = _probe(tree, "a"), _probe(tree, "b")
        where = tree.directory().fd  # which stays open as long as the tree
        try:
            for probe in (first, second):
                os.close(_create(probe))
            for how, move in (("rename", rename), ("link", link)):
                try:
                    with Naming(directory):
                        overwritten = move(first.name, where, second.name, where) is not False
                except FileExistsError:
                    return how
                if overwritten:
                    raise OSError(errno.ENOTSUP, "a file was overwritten in a trial", directory)
            raise refusal(directory)
        finally:
            first.remove()
            second.remove()


def can_set_mode(directory: str, mode: int | None, group: int | None) -> None:
    """Raise `ModeError` if mode and group of a probe in `directory` cannot be set."""
    with Tree(directory) as tree:
        probe = _probe(tree, "mode")
        try:
            descriptor = _create(probe)
            try:
                with setting_mode(probe.path):
                    if group is not None:
                        os.fchown(descriptor, -1, group)
                    os.fchmod(descriptor, 0o644 if mode is None else mode)
            finally:
                os.close(descriptor)
        finally:
            probe.remove()


def _probe(tree: Tree, *whose: str) -> Entry:
    return tree.entry(os.path.basename(probe_path(tree.path, *whose)))


def _create(file: Entry) -> int:
    """Return a descriptor of a new file of ours; one that a killed pass left is removed first."""
    try:
        return file.create()
    except FileExistsError:
        file.unlink()
        return file.create()


@contextlib.contextmanager
def _removed_on_error(descriptor: int, file: Entry) -> Iterator[None]:
    """Close a new file of ours at the end, and remove it if an error is met within."""
    try:
        yield
    except BaseException:
        file.remove()
        raise
    finally:
        os.close(descriptor)


def write_block(descriptor: int, block: memoryview) -> None:
    """Write a whole block to an open file."""
    while block:
        block = block[os.write(descriptor, block) :]


def _reserve(descriptor: int, count: int) -> None:
    """Reserve the blocks of a large file at once; errors do not matter.

    The size remains what was written, so that a copy that ends early does not look whole. Nothing
    is reserved where the space is less than that: a file with holes may need little of it.
    """
    space = os.fstatvfs(descriptor)
    if _fallocate is not None and count < space.f_bavail * space.f_frsize:
        _fallocate(descriptor, _FALLOC_FL_KEEP_SIZE, 0, count)


def _begin_write_back(descriptor: int, start: int, count: int) -> None:
    """Begin to write a part of a file to the disk; errors do not matter."""
    if hasattr(_libc, "sync_file_range"):
        _libc.sync_file_range(descriptor, start, count, _SYNC_FILE_RANGE_WRITE)


def _fileless(tree: Tree, older_than: float) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the directories of a tree that hold nothing but directories, parents first.

    Their status is from before their own children are removed, which changes it. Probes that have
    not changed for so many seconds are removed.
    """
    stamps = clock.of(tree.path)
    pending: list[tuple[str, os.stat_result | None]] = [("", None)]
    while pending:
        relpath, found = pending.pop()
        bare = True
        try:
            for entry in tree.scan(relpath):
                if entry.is_dir(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    pending.append((os.path.join(relpath, entry.name), status))
                    continue
                bare = False
                probe = entry.name.startswith(PROBE_PREFIX) and is_temporary(entry.name)
                if probe and not stamps.is_young(entry.stat(follow_symlinks=False), older_than):
                    tree.entry(names.join(relpath, entry.name)).unlink()
        except OSError:
            continue  # gone, or we may not read it
        if bare and found is not None:
            yield relpath, found
