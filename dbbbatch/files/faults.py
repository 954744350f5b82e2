"""Which faults of a disk concern one file, which every file of a pass, and which are our bugs."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from dbbbatch.errors import TryLater, user
from dbbbatch.files import names

#: Met once, they will be met by the next file too: nothing was wrong with this one.
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
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
    }
)

#: There is no room, though there may be for something smaller.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

#: The name itself is what a disk cannot take: trying again would not help.
INVALID_NAME = frozenset(
    {errno.ENOTDIR, errno.ENAMETOOLONG, errno.EISDIR, errno.EILSEQ, errno.EINVAL}
)

#: A directory that this user may not write to, or that is not there: no file can help that.
NO_PERMISSION = frozenset({errno.EACCES, errno.EPERM, errno.ENOENT})


def affects_every_file(error: OSError, *, writing: bool = False) -> bool:
    """Return whether an error is one of the disk, the mount or this host, not of a file.

    A failing disk shows at one bad file when it is read, and at any when it
    is written.
    """
    return error.errno in _GENERAL or (writing and error.errno == errno.EIO)


#: What the system says of a call that only a bug of ours makes: never of what a path leads to.
_BUGS = frozenset(
    {None, errno.EBADF, errno.EFAULT, errno.EINVAL, errno.ENOTTY, errno.ENOTSOCK, errno.ENOSYS}
)

#: What an operator does about an error of the machine, whatever it was met at.
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
    """Return what an error that nobody expected means to an operator, or `None` if it is a bug.

    The one place that decides it: an error of the system that names a path, or that only a disk, a
    mount or a machine at its limits gives, is never a bug. Everything is as the last record has
    it, and a later pass carries on.
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
    # It is met at another file each time, and is the same trouble.
    later.key = f"the machine: {what}"
    return later


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Let an error of a call on a descriptor name the path, as one of a call on the path does."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = path
        raise


@contextmanager
def as_try_later(path: str = "") -> Iterator[None]:
    """Make an error of the machine that is met within a `TryLater`; a bug stays what it is.

    Parameters
    ----------
    path : `str`, optional
        What is worked on: any `OSError` is then one of the machine, and the message names it.
    """
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        later = of_the_machine(error, path)
        if later is None:
            raise
        raise later from error


def raise_if_general(error: OSError, path: str, *, writing: bool = False) -> None:
    """Raise `TryLater` if `affects_every_file`, so that the caller may charge it to one file."""
    if affects_every_file(error, writing=writing) and (later := of_the_machine(error, path)):
        raise later from error


def why_unmounted(storage: str, sentinel: str) -> str:
    """Return why a storage area must not be used now, or nothing if it is mounted.

    An empty mount point looks like a storage area that lost everything, and
    takes files which the mount then hides: the sentinel tells them apart.
    """
    if not os.path.isdir(storage):
        return f"{storage}: the storage area is not there; is it mounted?"
    if sentinel and not os.path.lexists(os.path.join(storage, sentinel)):
        return (
            f"{storage}: {sentinel} is not there, so this looks like an empty mount point; mount "
            "the storage area, or run `dbb init` if it is new"
        )
    return ""
