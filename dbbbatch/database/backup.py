"""Copying an SQLite database while others write to it."""

import sqlite3

from dbbbatch.errors import TryLater


def copy(source: str, target: str, patience: float) -> None:
    """Write a consistent copy of a database file to a new file, in one piece without its log.

    Parameters
    ----------
    source, target : `str`
        Paths; the target does not exist.
    patience : `float`
        Seconds to wait for a lock.

    Raises
    ------
    TryLater
        If it could not be read or written.
    """
    connection = sqlite3.connect(source, timeout=patience)
    try:
        # One read transaction: writers go on, and what they write meanwhile is not in the copy.
        connection.execute("VACUUM INTO ?", (target,))
        copied = sqlite3.connect(target)
        copied.execute("PRAGMA journal_mode = wal")  # kept in the file, as `dbb init` does
        copied.close()
    except sqlite3.Error as error:
        raise TryLater(f"{source}: cannot be copied to {target}: {error}") from None
    finally:
        connection.close()
