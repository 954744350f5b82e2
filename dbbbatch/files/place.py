"""All operations on a disk that can lose data.

None of them replaces an existing file. On one file system a file is placed by
renameat2(RENAME_NOREPLACE); where the file system does not know that flag, by link(2) and
unlink(2); else not at all. Across file systems it is copied to a hidden temporary name beside its
destination, made durable, then placed.

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
from collections.abc import Callable, Collection, Iterable, Iterator

from dbbbatch.files import checksum, clock, faults, identity
from dbbbatch.files.temporary import PROBE_PREFIX, is_temporary, probe_path, temporary_path

#: The content of a probe.
PROBE = b"Written by dbbbatch to see what can be done with a file here; may be removed.\n"

#: Bytes to leave free on the disk of the state directory and on that of a quarantine.
RESERVE = 16 << 20

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_NAME_MAX = 255

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


def place(source: str, destination: str) -> None:
    """Move a file to a free name on the same file system.

    Durable only after `sync_directory` of both directories, or `sync_file_system`. If an earlier
    call was killed between its link and its unlink, this one makes up for the unlink.

    Raises
    ------
    FileExistsError
        Another file has the name. Both files are as they were.
    OSError
        `errno.EXDEV` across file systems; `errno.ENOTSUP` where the file system has no way to place
        a file without the risk of overwriting.
    """
    try:
        if not _rename(source, destination):
            _link(source, destination)
    except FileExistsError:
        if not _two_names_of_one_file(source, destination):
            raise
        remove_if_there(source)


def copy_into(
    source: str | int,
    destination: str,
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
    temporary = temporary_path(destination, owner)
    try:
        sync_file(temporary)
        place(temporary, destination)
    except BaseException:
        remove_if_there(temporary)
        raise
    return sums


def copy_beside(
    source: str | int,
    destination: str,
    algorithms: Collection[str] = (),
    *,
    owner: str = "",
    mode: int | None = None,
    group: int | None = None,
) -> dict[str, str]:
    """Copy a file to the `temporary_path` of its destination; return the digests of what was read.

    The caller makes the copy durable (`sync_file`, or `sync_file_system` for many), then places it.
    It has the time of modification of the source. An error leaves nothing behind.

    Parameters
    ----------
    source : `str` or `int`
        A path, or an open descriptor, which is read from its beginning.
    destination : `str`
        The final path; its directory exists.
    algorithms : `~collections.abc.Collection` [ `str` ]
        Names in `checksum.ALGORITHMS`.
    owner : `str`
        The label of the lock under which this runs, such as "finder.latiss". Callers at one time
        differ in it or in their destination.
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
    temporary = temporary_path(destination, owner)
    with checksum.opened(source) as descriptor:
        before = os.fstat(descriptor)
        with writing(temporary):
            target = _create(temporary)
        begun = written = 0

        def write(block: memoryview) -> None:
            nonlocal begun, written
            written += len(block)
            with writing(temporary):
                write_block(target, block)
            if written - begun >= _WRITE_BACK:
                _begin_write_back(target, begun, written - begun)
                begun = written

        with _removed_on_error(target, temporary):
            if before.st_size >= _WRITE_BACK:
                _reserve(target, before.st_size)
            sums = checksum.stream(descriptor, algorithms, write)
            checksum.same(before, os.fstat(descriptor), source)
            with setting_mode(temporary):
                if group is not None:
                    os.fchown(target, -1, group)
                os.fchmod(target, masked(before.st_mode) if mode is None else mode)
            with writing(temporary):
                os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
                if begun:
                    # An error of an early write may be reported for this descriptor only.
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


def remove_temporary(destination: str, owner: str = "") -> None:
    """Remove what a killed copy with these arguments may have left."""
    remove_if_there(temporary_path(destination, owner))


def is_there(path: str) -> bool:
    """Return whether a file of any kind has a path; raise `OSError` where that cannot be seen.

    `os.path.lexists` returns false there.
    """
    return identity.status_of(path) is not None


def masked(mode: int) -> int:
    """Return the permissions of a file that its copy at an endpoint or in storage may have.

    Set-id bits would run a stranger's program as the owner of the copy, and with write permission
    others could change what was verified.
    """
    return mode & 0o777 & ~0o022


def mask(path: str, status: os.stat_result) -> None:
    """Remove the permissions of a file that `masked` removes, if we may.

    Raises
    ------
    OSError
        The path no longer leads to a regular file.
    """
    if stat.S_IMODE(status.st_mode) == masked(status.st_mode) and not status.st_mode & 0o111:
        return
    descriptor = checksum.open_regular(path)
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


def remove_if_there(path: str) -> None:
    """Remove a file, unless it, or its directory, is gone already."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(path)


def write_new(path: str, text: str) -> None:
    """Write a small text file as a whole; raise `FileExistsError` if a file has the name."""
    temporary = temporary_path(path, "text")
    descriptor = _create(temporary)
    with _removed_on_error(descriptor, temporary):
        os.fchmod(descriptor, 0o644)
        write_block(descriptor, memoryview(text.encode("utf-8", "surrogateescape")))
        place(temporary, path)


def write_probe(path: str) -> None:
    """Write a file with the content `PROBE`; one that a killed pass left is removed first."""
    descriptor = _create(path)
    with _removed_on_error(descriptor, path):
        os.fchmod(descriptor, 0o644)
        write_block(descriptor, memoryview(PROBE))


def touch(path: str) -> None:
    """Make an empty file, unless a file has the name."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))


def next_version(directory: str, filename: str) -> str:
    """Return the first of NAME.~1~, NAME.~2~, … that is free in `directory`."""
    number = 1
    while True:
        name = versioned(filename, number)
        if not os.path.lexists(os.path.join(directory, name)):
            return name
        number += 1


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


def place_versioned(source: str, directory: str, filename: str) -> str:
    """Place a file in `directory` under its name or, if that is taken, the next version.

    Returns
    -------
    filename : `str`
        Its name there.
    """
    name = filename
    while True:
        try:
            place(source, os.path.join(directory, name))
            return name
        except FileExistsError:
            name = next_version(directory, filename)


def make_directories(
    root: str,
    relpath: str,
    mode: int | None = None,
    group: int | None = None,
    *,
    durable: bool = True,
) -> None:
    """Make the directories of `relpath` below `root`, which must exist.

    A root that is missing is a file system that is not mounted, and is never made. New directories
    get `mode` (else what the umask leaves) and `group`. They are durable, unless the caller ensures
    that (`sync_file_system`).

    Raises
    ------
    FileNotFoundError
        There is no root.
    NotADirectoryError
        One of the names is not that of a directory.
    """
    path = os.path.join(root, relpath) if relpath else root
    if os.path.isdir(path):
        return
    parent = root
    if not os.path.isdir(root):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), root)
    for part in relpath.split("/"):
        path = os.path.join(parent, part)
        try:
            os.mkdir(path)
        except FileExistsError:
            # Raises another error if it cannot be examined.
            if not stat.S_ISDIR(_mode(path)):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
        else:
            with setting_mode(path):
                if group is not None:
                    os.chown(path, -1, group)
                if mode is not None:
                    os.chmod(path, mode)
            if durable:
                sync_directory(parent)
        parent = path


def _mode(path: str) -> int:
    """Return the mode of the file to which a path leads; 0 of a dangling link."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return 0


def sync_file(path: str) -> None:
    """Make the content of a file durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with faults.naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems do not sync directories; their server does.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            error.filename = path
            raise
    finally:
        os.close(descriptor)


def sync_file_system(path: str) -> None:
    """Make everything that was written to the file system of `path` durable, also names."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not hasattr(_libc, "syncfs"):
            os.sync()
        elif _libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(descriptor)


def remove_empty_directories(
    root: str,
    older_than: float,
    keep: Iterable[str] = (),
    may_go: Callable[[str], bool] | None = None,
) -> int:
    """Remove old empty directories below `root`, and probes that a killed pass left there.

    Parameters
    ----------
    root : `str`
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
    candidates = [
        path
        for path, status in _fileless(root, older_than)
        if not clock.of(root).is_young(status, older_than)
    ]
    removed = 0
    emptied = set()
    for path in reversed(candidates):  # children before their parents
        if path not in kept and (may_go is None or path in emptied or may_go(path)):
            try:
                os.rmdir(os.path.join(root, path))
                removed += 1
                emptied.add(os.path.dirname(path))
            except OSError:
                pass  # no longer empty
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
    here, there = probe_path(first, "a"), probe_path(second, "b")
    try:
        remove_if_there(there)
        os.close(_create(here))
        place(here, there)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    finally:
        remove_if_there(here)
        remove_if_there(there)
    return True


def can_place(directory: str) -> str:
    """Return how a file can be placed in `directory`, as two probes show: "rename" or "link".

    Raises
    ------
    OSError
        It cannot be, or it would overwrite.
    """
    first, second = probe_path(directory, "a"), probe_path(directory, "b")
    try:
        for path in (first, second):
            os.close(_create(path))
        for how, move in (("rename", _rename), ("link", _link)):
            try:
                overwritten = move(first, second)
            except FileExistsError:
                return how
            if overwritten:
                raise OSError(errno.ENOTSUP, "a file was overwritten in a trial", directory)
        raise _refusal(directory)
    finally:
        remove_if_there(first)
        remove_if_there(second)


def can_set_mode(directory: str, mode: int | None, group: int | None) -> None:
    """Raise `ModeError` if mode and group of a probe in `directory` cannot be set."""
    path = probe_path(directory, "mode")
    try:
        descriptor = _create(path)
        try:
            with setting_mode(path):
                if group is not None:
                    os.fchown(descriptor, -1, group)
                os.fchmod(descriptor, 0o644 if mode is None else mode)
        finally:
            os.close(descriptor)
    finally:
        remove_if_there(path)


def _rename(source: str, destination: str) -> bool:
    """Rename without replacing; return whether the file system can do that."""
    return rename_at(source, _AT_FDCWD, destination, _AT_FDCWD)


def rename_at(source: str, source_in: int, destination: str, destination_in: int) -> bool:
    """Rename without replacing, from one open directory to another.

    Returns
    -------
    able : `bool`
        Whether the file system can do that; if not, nothing was done.
    """
    if not hasattr(_libc, "renameat2"):
        return False
    done = _libc.renameat2(
        source_in, os.fsencode(source), destination_in, os.fsencode(destination), _RENAME_NOREPLACE
    )
    if done == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), source, None, destination)


def _link(source: str, destination: str) -> bool:
    """Add the new name of a file, then remove the old one."""
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise _refusal(destination) from error
        raise
    # It may be gone: a server did this once already, and its answer was lost.
    remove_if_there(source)
    return True


def _two_names_of_one_file(source: str, destination: str) -> bool:
    """Return whether a link was made and its unlink is still to come.

    Two paths to one directory entry look the same, but to unlink one of them would remove the file.
    """
    one, two = os.lstat(source), os.lstat(destination)
    return (
        os.path.samestat(one, two)
        and stat.S_ISREG(one.st_mode)
        and one.st_nlink > 1
        and not identity.same_entry(source, destination)
    )


def _create(path: str) -> int:
    """Return a descriptor of a new file of ours; one that a killed pass left is removed first."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileExistsError:
        os.unlink(path)
        return os.open(path, flags, 0o600)


@contextlib.contextmanager
def _removed_on_error(descriptor: int, path: str) -> Iterator[None]:
    """Close a new file of ours at the end, and remove it if an error is met within."""
    try:
        yield
    except BaseException:
        remove_if_there(path)
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


def _fileless(root: str, older_than: float) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the directories below `root` that hold nothing but directories, parents first.

    Their status is from before their own children are removed, which changes it. Probes that have
    not changed for so many seconds are removed.
    """
    pending: list[tuple[str, os.stat_result | None]] = [("", None)]
    while pending:
        relpath, found = pending.pop()
        bare = True
        try:
            with os.scandir(os.path.join(root, relpath)) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        status = entry.stat(follow_symlinks=False)
                        pending.append((os.path.join(relpath, entry.name), status))
                        continue
                    bare = False
                    probe = entry.name.startswith(PROBE_PREFIX) and is_temporary(entry.name)
                    if probe and not clock.of(root).is_young(
                        entry.stat(follow_symlinks=False), older_than
                    ):
                        os.unlink(entry.path)
        except OSError:
            continue  # gone, or we may not read it
        if bare and found is not None:
            yield relpath, found


def _refusal(path: str) -> OSError:
    return OSError(
        errno.ENOTSUP,
        "this file system can neither rename without overwriting nor link this file, "
        "so nothing is placed here",
        path,
    )
