"""Which errors of the system are about one file, which about every file, and which are our bugs."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from dbbbatch.errors import DbbError, TryLater, user, without_numbers
from dbbbatch.files import mountinfo, names

#: Neither a disk nor a directory is to blame.
_OF_THE_HOST = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})

#: The next file will meet them too: nothing is wrong with this one.
_GENERAL = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.ESTALE,
        errno.ENOTCONN,
        errno.ENODEV,
        errno.ENXIO,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
    }
    # EAGAIN also says that a file is being written (`dbbbatch.files.checksum.Changed`).
    | (_OF_THE_HOST - {errno.EAGAIN})
)

#: There is no space, though there may be for something smaller.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

#: The disk cannot have such a name: trying again would not help.
INVALID_NAME = frozenset(
    {errno.ENOTDIR, errno.ENAMETOOLONG, errno.EISDIR, errno.EILSEQ, errno.EINVAL}
)

#: This user may not write to a directory, or it does not exist: no fault of a file.
NO_PERMISSION = frozenset({errno.EACCES, errno.EPERM, errno.ENOENT})


def affects_every_file(error: OSError, *, writing: bool = False) -> bool:
    """Return whether an error is about the disk, the mount or this host, not about a file.

    A failing disk affects one file when it is read, and any when it is written to.
    """
    return error.errno in _GENERAL or (writing and error.errno == errno.EIO)


#: Errors of a call without a path that only a bug of ours can cause.
_BUGS = frozenset(
    {None, errno.EBADF, errno.EFAULT, errno.EINVAL, errno.ENOTTY, errno.ENOTSOCK, errno.ENOSYS}
)

#: What an operator does about an error of the machine.
_IS_IT_MOUNTED = "is it mounted?"
_ADVICE = {
    errno.ENOENT: _IS_IT_MOUNTED,
    errno.ENOTDIR: _IS_IT_MOUNTED,
    errno.ENOTCONN: _IS_IT_MOUNTED,
    errno.ENODEV: _IS_IT_MOUNTED,
    errno.ENXIO: _IS_IT_MOUNTED,
    errno.ESTALE: "mount it anew if this lasts",
    errno.EHOSTDOWN: "is its server up?",
    errno.EHOSTUNREACH: "is its server up?",
    errno.ETIMEDOUT: "is its server up?",
    errno.EROFS: "mount it for writing",
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room, or have the quota raised",
    errno.EIO: "see the kernel's log",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENOMEM: "see what uses the memory of this machine",
    errno.EAGAIN: "see what uses the processes and the memory of this machine",
}


def of_the_machine(error: BaseException, path: str = "") -> TryLater | None:
    """Return what an error means to an operator; `None` if it is a bug of ours.

    An error of the system that names a path, or that only a disk, a mount or a machine at its
    limits causes, is never a bug: a later pass carries on from what is recorded.

    Parameters
    ----------
    error : `BaseException`
    path : `str`, optional
        What was worked on: any `OSError` is then one of the machine.
    """
    if isinstance(error, MemoryError):
        return TryLater(f"out of memory; nothing is lost; {_ADVICE[errno.ENOMEM]}")
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return TryLater(f"no further thread can be started; {_ADVICE[errno.EAGAIN]}")
    if not isinstance(error, OSError):
        return None
    found = path or error.filename
    if found is None and error.errno in _BUGS:
        return None
    where = names.printable(os.fsdecode(found)) if isinstance(found, str | bytes) else "a file"
    what = error.strerror or str(error) or type(error).__name__
    advice = _ADVICE.get(error.errno or 0, "")
    if error.errno in (errno.EACCES, errno.EPERM):
        advice = f"user {user()} must be allowed to do this"
    later = TryLater("; ".join(filter(None, (f"{where}: {what}", "nothing is lost", advice))))
    later.key = _key_of_place(error, found, what)
    return later


def of_a_thread(error: BaseException, work: str) -> DbbError:
    """Return what ends the pass for an error that ends the work of a thread, wherever it is from.

    Parameters
    ----------
    error : `BaseException`
    work : `str`
        What the thread did, for the message about a bug of ours.
    """
    found = of_the_machine(error) or DbbError(f"{work} failed: {type(error).__name__}: {error}")
    found.__cause__ = error
    return found


#: What keys of such troubles begin with.
_MACHINE = "the machine: "


def _key_of_place(error: OSError, path: object, what: str) -> str:
    """Return the key of an error of the machine: '' where it is not known what is to blame.

    Whatever works on a disk that fails has the same trouble; on another disk it is another one.
    """
    if error.errno in _OF_THE_HOST:
        return f"{_MACHINE}{what}"
    if not isinstance(path, str | bytes) or not os.path.isabs(where := os.fsdecode(path)):
        return ""
    if error.errno == errno.EIO or error.errno in _GENERAL:
        # What is seen to be on the root file system may be a link to another one.
        where = mountinfo.mount_above(where)[0].rstrip("/") or where
    return f"{_MACHINE}{where}: {what}"


def key_within(key: str, roots: Iterable[str]) -> str:
    """Return a key in which a root is to blame for what was met at any of its files.

    Parameters
    ----------
    key : `str`
        Of any error.
    roots : iterable of `str`
        The directories in which a component works.
    """
    before, _, what = key.rpartition(": ")
    if not before.startswith(f"{_MACHINE}/"):
        return key
    path = before.removeprefix(_MACHINE)
    for root in sorted(roots, key=len, reverse=True):
        if f"{path}/".startswith(f"{root.rstrip('/')}/"):
            return f"{_MACHINE}{root}: {what}"
    # Of a mount, or of a file elsewhere, such as one that is named anew by each pass.
    return key if path == mountinfo.mount_above(path)[0] else without_numbers(key)


@contextmanager
def naming(path: object) -> Iterator[None]:
    """Make an `OSError` raised within name a path, as a call on a descriptor does not.

    What has a path as its text is asked for it only then.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def as_try_later(path: object = "") -> Iterator[None]:
    """Raise an error of the machine (see `of_the_machine`) that is met within as a `TryLater`.

    What has a path as its text is asked for it only then.
    """
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        later = of_the_machine(error, str(path))
        if later is None:
            raise
        raise later from error


def raise_if_general(error: OSError, path: str, *, writing: bool = False) -> None:
    """Raise `TryLater` if an error `affects_every_file`: else the caller charges one file."""
    if affects_every_file(error, writing=writing) and (later := of_the_machine(error, path)):
        raise later from error
