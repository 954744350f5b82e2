"""Files of our own that readers may open at any moment: replaced whole, by a rename."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from dbbbatch.files import faults
from dbbbatch.files.temporary import TEMPORARY_PREFIX, is_temporary

#: Seconds after which an unfinished file is what a killed process left.
_ABANDONED = 3600

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def replace_whole(path: str, content: bytes, mode: int = 0o644) -> None:
    """Write a file of ours, or replace it: a reader sees the old content or the new.

    Killed at any moment, it leaves the old file complete, and at most an unfinished one beside it
    (see `remove_abandoned`).

    Parameters
    ----------
    path : `str`
    content : `bytes`
    mode : `int`
        Permissions, whatever the umask is.

    Raises
    ------
    OSError
        It cannot be written; the old file is as it was.
    """
    name = f"{TEMPORARY_PREFIX}{os.getpid():016x}"
    temporary = os.path.join(os.path.dirname(path), name)
    with suppress(FileNotFoundError):
        # Of a killed process with this number; or somebody else's, who could write to it.
        os.unlink(temporary)
    try:
        descriptor = os.open(temporary, _FLAGS, 0o600)
        with os.fdopen(descriptor, "wb") as file, faults.naming(path):
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fdatasync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def remove_abandoned(directory: str) -> None:
    """Remove the unfinished files that processes left in a directory when they were killed."""
    oldest = time.time() - _ABANDONED
    with os.scandir(directory) as entries:
        for entry in entries:
            if is_temporary(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_mtime < oldest:
                        os.unlink(entry.path)
