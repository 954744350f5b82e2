"""Outcomes of files that cannot be read, or that differ from what a repository holds."""

from __future__ import annotations

import filecmp
import os

from dbbbatch.files.names import counted
from dbbbatch.targets.butler import fits
from dbbbatch.targets.failures import disk_away, first_line, is_unreadable
from dbbbatch.targets.plugin import Outcome, Result, StoredFile


def error_text(error: BaseException) -> str:
    """Return the kind of an error and its first line, for a message."""
    return f"{type(error).__name__}: {first_line(error)}"


def failed(file: StoredFile, error: Exception | None, message: str) -> Outcome:
    """Return that a file was not ingested: only for now, if the repository's disk is to blame.

    A bad sector of the file itself gives the same error as a failing disk of the repository.
    """
    later = error is not None and disk_away(error) and not is_unreadable(file)
    return Outcome(file.number, Result.LATER if later else Result.FAILED, message)


def unreadable(file: StoredFile, error: Exception) -> Outcome:
    """Return what an error means for the file that was being read."""
    if isinstance(error, fits.Unusable):
        return Outcome(file.number, error.result, str(error))
    text = error_text(error)
    if isinstance(error, OSError):
        text = error.strerror or str(error)
    return failed(file, error, f"cannot be read: {text}")


def same_content(one: str, other: str) -> bool:
    """Return whether two paths lead to one file, or to files of the same bytes."""
    return os.path.samefile(one, other) or filecmp.cmp(one, other, shallow=False)


def difference(path: str, file: StoredFile) -> str | None:
    """Return how a file differs from the one that a repository holds; None if it does not.

    Raises
    ------
    OSError
        If a disk is away.
    """
    try:
        if path == file.path or same_content(path, file.path):
            return None
        size = os.stat(path).st_size
    except FileNotFoundError:
        return f"from {path}, which is gone; here it is {file.path}"
    except OSError as error:
        if disk_away(error):
            raise
        return f"from {path}, which cannot be read ({error.strerror}); here it is {file.path}"
    return (
        f"from {path} ({counted(size, 'byte')}), and differs from {file.path} ({file.size_bytes:,})"
    )
