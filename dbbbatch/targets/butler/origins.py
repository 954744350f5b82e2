"""Remember from which file a data id was registered, for a registry that keeps no paths."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing


class Origins:
    """A table of data ids and paths, in a database file of its own."""

    def __init__(self, path: str) -> None:
        self._path = path

    def intend(self, origins: Iterable[tuple[str, str]]) -> None:
        """Record that data ids are about to be registered from these paths.

        Raises
        ------
        OSError, sqlite3.Error
            If it cannot be written.
        """
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        with closing(sqlite3.connect(self._path)) as database, database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS origin (name TEXT PRIMARY KEY, path BLOB NOT NULL)"
            )
            database.executemany(
                "INSERT OR REPLACE INTO origin VALUES (?, ?)",
                [(name, os.fsencode(path)) for name, path in origins],
            )

    def of(self, name: str) -> str | None:
        """Return the path that a data id was last registered from, or None if that is not known.

        Raises
        ------
        sqlite3.Error
            If it cannot be read.
        """
        if not os.path.exists(self._path):
            return None
        with closing(sqlite3.connect(self._path)) as database:
            found = database.execute("SELECT path FROM origin WHERE name = ?", [name]).fetchone()
        return None if found is None else os.fsdecode(found[0])
