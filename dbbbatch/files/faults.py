"""Which faults of a disk concern one file, and which every file of a pass."""

from __future__ import annotations

import errno
import os

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
UNFIT = frozenset({errno.ENOTDIR, errno.ENAMETOOLONG, errno.EISDIR, errno.EILSEQ, errno.EINVAL})

#: A directory that this user may not write to, or that is not there: no file can help that.
FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.ENOENT})


def is_general(error: OSError, *, writing: bool = False) -> bool:
    """Tell whether an error is one of the disk, the mount or this host, not of a file.

    A failing disk shows at one bad file when it is read, and at any when it
    is written.
    """
    return error.errno in _GENERAL or (writing and error.errno == errno.EIO)


def away(storage: str, sentinel: str) -> str:
    """Say why a storage area must not be used now, or nothing if it is mounted.

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
