"""What a site looks like, for comparison: its disk, and its tables but for ids, times, attempts."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

#: what two runs may tell differently of the same end; a message tells of the last attempt ("was
#: there already")
PASSING = re.compile(r"^(id|inode|mtime_ns|attempts|message)$|_id$|_at$|_on$|_since$|_expires$")

#: table -> the query that gives its rows, with names in place of ids
TABLES = {
    "handoff_file": "SELECT * FROM handoff_file",
    "file": "SELECT f.*, c.relpath AS copied_relpath, c.filename AS copied_filename"
    " FROM file f LEFT JOIN file c ON c.id = f.copy_of",
    "ingest_state": "SELECT t.name AS target, f.storage, f.relpath, f.filename, s.*"
    " FROM ingest_state s JOIN file f ON f.id = s.file_id JOIN target t ON t.id = s.target_id",
}


def disk(root: Path, *, without: tuple[str, ...] = ("state",)) -> dict[str, str]:
    """Everything below `root`: directories, files with mode and content, links.

    `without` are relative paths that are left out with all below them: locks and what was said.
    The files of an SQLite database and the configuration are left out too.
    """
    found = {}
    for top, directories, files in os.walk(root):
        directories[:] = [
            name
            for name in directories
            if os.path.relpath(os.path.join(top, name), root) not in without
        ]
        for name in directories + files:
            path = os.path.join(top, name)
            rel = os.path.relpath(path, root)
            if top == os.fspath(root) and re.search(r"\.sqlite(-wal|-shm)?$|\.toml$", name):
                continue
            found[rel] = _entry(path).replace(os.fspath(root), "ROOT")
    return found


def tables(
    database_url: str, root: Path, queries: Mapping[str, str] = TABLES
) -> dict[str, dict[str, Any]]:
    """Every row of the tables that a kill must not change, by what it is about."""
    rows: dict[str, dict[str, Any]] = {}
    with _connected(database_url) as connection:
        for table, sql in queries.items():
            found = [_kept(dict(row), os.fspath(root)) for row in connection.execute(sql)]
            numbers: Counter[str] = Counter()
            for row in sorted(found, key=repr):
                about = f"{table} {row.get('target', '')} {row['relpath']}/{row['filename']}"
                numbers[about] += 1
                rows[f"{about} ({numbers[about]})"] = row
    return rows


def execute(database_url: str, statements: Iterable[str]) -> None:
    """Put rows into a database, past what would have written them."""
    with _connected(database_url) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What distinguishes two pictures, a line each; nothing if they are alike."""
    lines = []
    for key in sorted(expected.keys() | found.keys()):
        one, other = expected.get(key, "nothing"), found.get(key, "nothing")
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            columns = [column for column in one if one[column] != other[column]]
            one, other = ({column: row[column] for column in columns} for row in (one, other))
        if one != other:
            lines.append(f"{key}: expected {one}, found {other}")
    return lines


def _kept(row: dict[str, Any], root: str) -> dict[str, Any]:
    kept = {key: value for key, value in row.items() if not PASSING.search(key)}
    kept.pop("copy_of", None)  # by its name instead
    if "claim" in kept:  # by which pass, does not matter
        kept["claim"] = kept["claim"] is not None
    return {
        key: value.replace(root, "ROOT") if isinstance(value, str) else value
        for key, value in kept.items()
    }


def _entry(path: str) -> str:
    status = os.lstat(path)
    mode = stat.filemode(status.st_mode)
    if stat.S_ISREG(status.st_mode):
        content = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
        return f"{mode} {status.st_size} bytes {content}"
    if stat.S_ISLNK(status.st_mode):
        return f"{mode} -> {os.readlink(path)}"
    return mode


@contextmanager
def _connected(url: str) -> Iterator[Any]:
    if url.startswith("sqlite:"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.row_factory = sqlite3.Row
            yield connection
    else:
        import psycopg
        from psycopg.rows import dict_row

        with psycopg.connect(url, row_factory=dict_row) as connection:
            yield connection
