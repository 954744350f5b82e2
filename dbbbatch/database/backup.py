"""Copies of an SQLite database, made while others write to it."""

import os
import sqlite3
import stat

from dbbbatch.database import connect
from dbbbatch.errors import TryLater
from dbbbatch.files.tree import outside

#: Files of SQLite beside a database: those of a killed process would be read into the next one.
_BESIDE = ("", "-journal", "-wal", "-shm")


def copy_database(source: str, target: str, patience: float) -> None:
    """Write a consistent copy of a database file to a new file, in one piece without its log.

    Parameters
    ----------
    source, target : `str`
        Paths; the target must not exist. It gets the mode of the source.
    patience : `float`
        Seconds to wait for a lock.

    Raises
    ------
    TryLater
        It could not be read or written.
    ConfigError
        This user may not write the source, beside which SQLite would leave files.
    OSError
        The target cannot be made.
    """
    connect.require_writable(source)
    mode = stat.S_IMODE(os.stat(source).st_mode)
    # SQLite fills an empty file: this one nobody else may read before it is complete.
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(source, timeout=patience)
    try:
        # One read transaction: writers are not blocked, and what they write is not in the copy.
        connection.execute("VACUUM INTO ?", (target,))
        copied = sqlite3.connect(target)
        copied.execute("PRAGMA journal_mode = wal")  # kept in the file, as `dbb init` does
        copied.close()
    except sqlite3.Error as error:
        raise TryLater(f"{source}: cannot be copied to {target}: {error}") from None
    finally:
        connection.close()
    os.chmod(target, mode)


def remove_copy(target: str) -> None:
    """Remove the files of a copy, which may be incomplete."""
    for suffix in _BESIDE:
        outside(target + suffix).remove()
