"""What happened to files that no column keeps, written with the change that it tells of."""

from __future__ import annotations

from collections.abc import Collection

import peewee

from dbbbatch.database import bulk
from dbbbatch.database.base import Table, TimeField
from dbbbatch.database.models.statuses import TRANSITIONS

#: Changes of which a column, or another table, keeps when they happened and why.
_KEPT_ELSEWHERE = {
    "handoff_file": {
        ("FOUND", "FOUND"),
        ("FOUND", "DELIVERED"),
        ("FOUND", "QUARANTINED"),
        ("DELIVERED", "HELD"),
        ("HELD", "PURGED"),
        ("QUARANTINED", "FOUND"),
        ("QUARANTINED", "IGNORED"),
    },
    "file": {
        ("ARRIVING", "STORED"),
        ("STORED", "STORED"),
        ("MISSING", "MISSING"),
        ("CORRUPT", "CORRUPT"),
    },
}

#: Of which site and section, or storage area, the file of a row is.
_ORIGIN = {
    "handoff_file": "handoff_file.site, 'handoff.' || handoff_file.handoff",
    "file": "'', file.storage",
    "finder_left": "finder_left.site, 'finder.' || finder_left.finder",
}


class FileEvent(Table):
    """A change of a file's status; append-only.

    Attributes
    ----------
    label : `str`
        The section; of a file in storage, the storage area.
    was, becomes : `str`
        Statuses of the table that the row is of; '' for what is no longer remembered.
    """

    id = peewee.BigAutoField()
    site = peewee.TextField()
    label = peewee.TextField()
    relpath = peewee.TextField()
    filename = peewee.TextField()
    at = TimeField()
    was = peewee.TextField()
    becomes = peewee.TextField()
    message = peewee.TextField()


def noted(
    table: str, before: Collection[str], new: Collection[str], *, every: bool = False
) -> set[tuple[str, str]]:
    """Return which changes of a status get an event: those that nothing else keeps.

    Parameters
    ----------
    table : `str`
    before, new : collection of `str`
        What the status may be now, and what it becomes.
    every : `bool`
        Also those that are kept elsewhere, because this time there is a reason of its own.
    """
    if table not in _KEPT_ELSEWHERE:
        return set()
    pairs = {(str(was), str(becomes)) for was in before for becomes in new}
    return pairs & (TRANSITIONS[table].keys() - (set() if every else _KEPT_ELSEWHERE[table]))


def append_events(table: str, becomes: str, message: str) -> str:
    """Return the begin of a statement that appends events, up to what follows its FROM.

    The values of its ``?`` are the time, and those of `message`.

    Parameters
    ----------
    table : `str`
        The table of the files: the first of the FROM.
    becomes, message : `str`
        Expressions of SQL.
    """
    status = "verdict" if table == "finder_left" else "status"
    return (
        "INSERT INTO file_event (site, label, relpath, filename, at, was, becomes, message)"
        f" SELECT {_ORIGIN[table]}, {table}.relpath, {table}.filename, {bulk.time_mark()},"
        f" {table}.{status}, {becomes}, {message} FROM {table}"
    )
