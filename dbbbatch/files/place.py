"""The one door to operations on a disk that can lose data.

Nothing here replaces an existing file. On one file system a file is placed by
renameat2(RENAME_NOREPLACE); where the file system does not know that flag, by
link(2) and unlink(2); else not at all. Across file systems it is copied to a
hidden temporary name beside its destination, made durable, then placed.

Every function may be killed between any two system calls. Called again it
finishes the work, or says with FileExistsError that the file is there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator

from dbbbatch.files import checksum, clock, faults, identity
from dbbbatch.files.temporary import PROBE_PREFIX, is_temporary, probe_path, temporary_path

PROBE = b"Written by dbbbatch to see what can be done with a file here; may be removed.\n"

#: Bytes to leave free wherever a pass keeps its notes, or copies what nobody awaits.
RESERVE = 16 << 20


_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_NAME_MAX = 255

_FALLOC_FL_KEEP_SIZE = 1
_SYNC_FILE_RANGE_WRITE = 2

#: Bytes of a copy after which the disk is given them, so that it works while the next are hashed.
_WRITE_BACK = 4 << 20

_libc = ctypes.CDLL(None, use_errno=True)
if hasattr(_libc, "sync_file_range"):
    _libc.sync_file_range.argtypes = (
        ctypes.c_int,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_uint,
    )
# The first has 64 bits for sizes on every machine; where it is not known, the other one has them.
_fallocate = getattr(_libc, "fallocate64", None) or getattr(_libc, "fallocate", None)
if _fallocate is not None:
    _fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class WriteError(OSError):
    """What was to be written could not be; nothing is wrong with what was read."""


class ModeError(WriteError):
    """Permissions or group of what was written could not be set."""


def place(source: str, destination: str) -> None:
    """Move a file to a name that is free, on one file system.

    Durable only after `sync_directory` of both directories or
    `sync_file_system`. Where an earlier call was killed between its link and
    its unlink, the unlink is made up for.

    Raises
    ------
    FileExistsError
        The name is taken. Both files are as they were.
    OSError
        `errno.EXDEV` across file systems; `errno.ENOTSUP` where the file
        system offers no way to place a file without the risk of overwriting.
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
    """Copy a file to a name that is free, hashing it while it is read.

    The copy is durable when this returns, but for its directory's entry (see
    `sync_directory`). The source is left where it is.

    Parameters
    ----------
    source, destination, algorithms, owner, mode, group
        As for `copy_beside`.

    Returns
    -------
    checksums : `dict` [ `str`, `str` ]
        Algorithm and hexadecimal digest.

    Raises
    ------
    FileExistsError
        The name is taken; nothing was left behind.
    checksum.Changed
        The source changed while it was read; nothing was left behind.
    OSError
        The copy failed; nothing was left behind.
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
    """Copy a file to the `temporary_path` of its destination, hashing it while it is read.

    To be made durable (`sync_file`, or `sync_file_system` for many), then
    placed. The source is left where it is; its time of modification is kept.

    Parameters
    ----------
    source : `str` or `int`
        A path, or an open descriptor, read from its beginning.
    destination : `str`
        The name to fill in the end; its directory exists.
    algorithms : `~collections.abc.Collection` [ `str` ]
        Names in `checksum.ALGORITHMS`.
    owner : `str`
        Who holds the lock under which this runs, such as "finder.latiss". Two
        callers at one time differ in it or in their destination.
    mode, group : `int`, optional
        Permission bits (the source's, as `masked` lets them through, by default) and group of the
        copy.

    Returns
    -------
    checksums : `dict` [ `str`, `str` ]
        Algorithm and hexadecimal digest.

    Raises
    ------
    checksum.Changed
        The source changed while it was read; nothing was left behind.
    WriteError
        The copy failed; nothing was left behind.
    OSError
        The source cannot be read; nothing was left behind.
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
            try:
                _write_block(target, block)
            except OSError as error:
                raise _write_error(error, temporary) from None
            if written - begun >= _WRITE_BACK:
                _begin_write_back(target, begun, written - begun)
                begun = written

        try:
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
                    # An error of what the disk was given early may be told to this descriptor only.
                    os.fsync(target)
        except BaseException:
            remove_if_there(temporary)
            raise
        finally:
            os.close(target)
    return sums


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Make an error of what is done within a `WriteError` that names the path."""
    try:
        yield
    except OSError as error:
        raise _write_error(error, path) from None


@contextlib.contextmanager
def setting_mode(path: str) -> Iterator[None]:
    """Make an error of what is done within a `ModeError` that names the path."""
    try:
        yield
    except OSError as error:
        what = f"permissions or group cannot be set (chmod: {error.strerror})"
        raise ModeError(error.errno, what, error.filename or path) from None


def remove_temporary(destination: str, owner: str = "") -> None:
    """Remove what a killed `copy_into` with these arguments may have left."""
    remove_if_there(temporary_path(destination, owner))


def is_there(path: str) -> bool:
    """Return whether anything has a name; `os.path.lexists` takes what cannot be seen for nothing.

    Raises
    ------
    OSError
        It cannot be told.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False  # no file system has such a name
        raise
    return True


def masked(mode: int) -> int:
    """Return the permission bits of a file that may go along to an endpoint or to storage.

    Set-id bits would run a stranger's program as whoever owns the copy, and bits that let others
    write would let them change what was verified.
    """
    return mode & 0o777 & ~0o022


def mask(path: str, status: os.stat_result) -> None:
    """Take from a file what `masked` does not let through, if it is ours to take.

    Raises
    ------
    OSError
        The path is no longer that of a regular file.
    """
    if stat.S_IMODE(status.st_mode) == masked(status.st_mode) and not status.st_mode & 0o111:
        return
    descriptor = checksum.open_regular(path)
    try:
        # A file that is another user's runs as that user, who could do so without us.
        with contextlib.suppress(PermissionError):
            set_mode(descriptor, masked(os.fstat(descriptor).st_mode))
    finally:
        os.close(descriptor)


def set_mode(descriptor: int, mode: int) -> None:
    """Return an open file permission bits; one that stays executable loses its capabilities."""
    os.fchmod(descriptor, mode)
    if mode & 0o111:
        # Whoever may not set them loses them by this, which changes nothing else.
        with contextlib.suppress(OSError):
            os.chown(descriptor, -1, -1)


def remove_if_there(path: str) -> None:
    """Unlink a file, which may be gone already, and its directory too."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(path)


def write_new(path: str, text: str) -> None:
    """Write a small text file as a whole, under a name that is free.

    Raises
    ------
    FileExistsError
        The name is taken.
    """
    temporary = temporary_path(path, "text")
    descriptor = _create(temporary)
    try:
        os.fchmod(descriptor, 0o644)
        _write_block(descriptor, memoryview(text.encode("utf-8", "surrogateescape")))
        place(temporary, path)
    except BaseException:
        remove_if_there(temporary)
        raise
    finally:
        os.close(descriptor)


def write_probe(path: str) -> None:
    """Write a file that is only there to be tried with; what a killed pass left goes first."""
    descriptor = _create(path)
    try:
        os.fchmod(descriptor, 0o644)
        _write_block(descriptor, memoryview(PROBE))
    except BaseException:
        remove_if_there(path)
        raise
    finally:
        os.close(descriptor)


def touch(path: str) -> None:
    """Make an empty file, if there is none of that name."""
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
    """Return NAME.~N~, its middle cut where a file system would refuse the length."""
    suffix = f".~{number}~"
    raw = os.fsencode(filename)
    room = _NAME_MAX - len(suffix)
    if len(raw) > room:
        cut = raw[:room]
        # Not within a character of UTF-8.
        while cut and len(cut) < len(raw) and raw[len(cut)] & 0xC0 == 0x80:
            cut = cut[:-1]
        filename = os.fsdecode(cut or raw[:room])
    return filename + suffix


def place_versioned(source: str, directory: str, filename: str) -> str:
    """Place a file in `directory` under its name or, where taken, the next version.

    Returns
    -------
    filename : `str`
        The name that it got.
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
    """Make the directories of `relpath` below `root`, which itself must be there.

    A root that is missing is a file system that is not mounted, and is never
    made. New directories get `mode` (else what the umask leaves) and `group`;
    they are durable, unless the caller will see to that (`sync_file_system`).

    Raises
    ------
    FileNotFoundError
        There is no root.
    NotADirectoryError
        Something that is no directory has one of the names.
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
            # What cannot be looked at is not known to be no directory.
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
    """Return what a path leads to; 0 where it is a link that leads nowhere."""
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
    """Make all that was written to the file system of `path` durable, names too."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not hasattr(_libc, "syncfs"):
            os.sync()
        elif _libc.syncfs(descriptor) != 0:
            raise _error(path)
    finally:
        os.close(descriptor)


def remove_empty_directories(
    root: str,
    older_than: float,
    keep: Iterable[str] = (),
    may_go: Callable[[str], bool] | None = None,
) -> int:
    """Remove directories below `root` that are empty and have long been unchanged.

    So are the probes of ours that a killed pass left (see `probe_path`).

    Parameters
    ----------
    root : `str`
        Never removed itself.
    older_than : `float`
        Seconds since a directory last changed. A directory that held only
        such directories goes with them.
    keep : `~collections.abc.Iterable` [ `str` ]
        Relative paths of directories that stay.
    may_go : `~collections.abc.Callable`, optional
        Asked whether one may go; one that lost a directory here may.

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
                pass  # not empty, or a writer was faster
    return removed


def free_bytes(path: str) -> int:
    """Return the bytes that this user may still write to the file system of `path`."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def can_rename(first: str, second: str) -> bool:
    """Try, with a small file of ours, whether a rename leads from one directory to another.

    Raises
    ------
    OSError
        Something else is in the way.
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
    """Try in `directory`, with two small files of ours, whether a file can be placed there.

    Returns
    -------
    how : `str`
        "rename" or "link".

    Raises
    ------
    OSError
        It cannot, or it would overwrite; the message says why.
    """
    first, second = probe_path(directory, "a"), probe_path(directory, "b")
    try:
        for path in (first, second):
            os.close(_create(path))
        for how, move in (("rename", _rename), ("link", _link)):
            try:
                answered = move(first, second)
            except FileExistsError:
                return how
            if answered:
                raise OSError(errno.ENOTSUP, "a file was overwritten in a trial", directory)
        raise _refusal(directory)
    finally:
        remove_if_there(first)
        remove_if_there(second)


def can_set_mode(directory: str, mode: int | None, group: int | None) -> None:
    """Try in `directory`, with a small file of ours, whether its mode and group can be set.

    Raises
    ------
    ModeError
        They cannot.
    OSError
        Something else is in the way.
    """
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
    """Rename without replacing; False where the file system does not know how."""
    if not hasattr(_libc, "renameat2"):
        return False
    done = _libc.renameat2(
        _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(destination), _RENAME_NOREPLACE
    )
    if done == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), source, None, destination)


def _link(source: str, destination: str) -> bool:
    """Return the file its new name, then take the old one."""
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise _refusal(destination) from error
        raise
    # Not there: a server removed it when it was asked first, and its answer was lost.
    remove_if_there(source)
    return True


def _two_names_of_one_file(source: str, destination: str) -> bool:
    """Return whether a link was made and its unlink is still to come.

    Two paths to one entry look the same but for this: to unlink one of them
    would remove the file.
    """
    one, two = os.lstat(source), os.lstat(destination)
    return (
        os.path.samestat(one, two)
        and stat.S_ISREG(one.st_mode)
        and one.st_nlink > 1
        and not identity.same_entry(source, destination)
    )


def _create(path: str) -> int:
    """Open a new file of ours; what a killed pass left under its name goes first."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileExistsError:
        os.unlink(path)
        return os.open(path, flags, 0o600)


def _write_block(descriptor: int, block: memoryview) -> None:
    while block:
        block = block[os.write(descriptor, block) :]


def _reserve(descriptor: int, count: int) -> None:
    """Have the file system choose the blocks of a large file at once; advice, as a write-back is.

    The size stays what was written: a copy that ends early does not look whole. Where there is no
    room for all of it nothing is asked for: the file system would give what there is to a file that
    may need little of it.
    """
    space = os.fstatvfs(descriptor)
    if _fallocate is not None and count < space.f_bavail * space.f_frsize:
        _fallocate(descriptor, _FALLOC_FL_KEEP_SIZE, 0, count)


def _begin_write_back(descriptor: int, start: int, count: int) -> None:
    """Have the disk begin with a part of a file; it is advice, so that what comes of it is not."""
    if hasattr(_libc, "sync_file_range"):
        _libc.sync_file_range(descriptor, start, count, _SYNC_FILE_RANGE_WRITE)


def _fileless(root: str, older_than: float) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the directories below `root` that hold nothing but directories, parents first.

    Their times are those of before their own children go, which changes them. Probes that have not
    changed for so many seconds are removed.
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
            continue  # not ours to read, or gone
        if bare and found is not None:
            yield relpath, found


def _refusal(path: str) -> OSError:
    return OSError(
        errno.ENOTSUP,
        "this file system can neither rename without overwriting nor link this file, "
        "so nothing is placed here",
        path,
    )


def _write_error(error: OSError, path: str) -> WriteError:
    return WriteError(error.errno, error.strerror, error.filename or path)


def _error(path: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)
