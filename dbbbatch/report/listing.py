"""The files behind each number of `dbb status`: of a section or a storage area, by what they are.

Each list is read from the index that counts it, so that its cost does not grow with history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dbbbatch.database import connect
from dbbbatch.database.bulk import read_moment
from dbbbatch.files import names
from dbbbatch.report.health import Waiting
from dbbbatch.report.queries import HELD_LONGEST, UNFINISHED
from dbbbatch.report.whereabouts import Directories


@dataclass(frozen=True)
class ListedFile:
    """A file of a list.

    Attributes
    ----------
    path : `str`
        Where it is, or should be, as tables write names; relative if the directory is only in the
        configuration of another host.
    what : `str`
        The list: one of `LISTS`.
    status : `str`
        In its table.
    since : `datetime.datetime` or `None`
        Since when it waits, or is so; of what a finder remembers, its last try. UTC.
    next_try_at : `datetime.datetime` or `None`
        When the next attempt is due; UTC.
    """

    path: str
    what: str
    status: str
    size_bytes: int
    reason: str = ""
    since: datetime | None = None
    attempts: int = 0
    next_try_at: datetime | None = None


@dataclass(frozen=True)
class FileList:
    """One list: its first files, and how many there are in all.

    Attributes
    ----------
    count : `int`
        How many are recorded.
    unrecorded : `Waiting` or `None`
        What lies in the buffer or source besides, and no pass has recorded; `None` if that is not
        looked at.
    """

    what: str
    files: list[ListedFile]
    count: int
    unrecorded: Waiting | None = None


@dataclass(frozen=True)
class _Query:
    """Where a list comes from.

    Attributes
    ----------
    columns : `str`
        Relpath, filename, status, size, reason, since, attempts, next try; and for a handoff the
        name in holding, for a quarantine the path.
    source : `str`
        FROM and WHERE.
    order : `str`
    values : sequence
    root : `str`
        The key of the section whose directory it is in; or the directory.
    """

    columns: str
    source: str
    order: str
    values: Sequence[Any]
    root: str = ""


_HANDOFF = "relpath, filename, status, size_bytes, error, discovered_at, attempts, next_try_at"
_OF_HANDOFF = f"FROM handoff_file WHERE {UNFINISHED} AND site = ? AND handoff = ?"


def _from_handoff(site: str, name: str, what: str) -> Iterator[_Query]:
    key = (site, name)
    order = "priority, rank, id"
    if what in ("waiting", "failing"):
        error = "error IS NULL" if what == "waiting" else "error IS NOT NULL"
        for status in ("FOUND", "DELIVERED"):
            source = f"{_OF_HANDOFF} AND status = '{status}' AND {error}"
            yield _Query(_HANDOFF, source, order, key, "buffer")
    elif what == "not-confirmed":
        columns = "relpath, held_as, 'HELD', size_bytes, error, held_at, 0, NULL"
        yield _Query(columns, HELD_LONGEST, "held_at, id", key, "holding")
    else:
        yield from _quarantine(site, f"handoff.{name}")


def _quarantine(site: str, label: str) -> Iterator[_Query]:
    yield _Query(
        "'', path, 'QUARANTINED', size_bytes, reason, quarantined_at, 0, NULL",
        "FROM quarantine WHERE site = ? AND label = ? AND released_at IS NULL"
        " AND quarantined_at IS NOT NULL",
        "id",
        (site, label),
    )


#: What a finder remembers, by the name of the list.
_VERDICTS = {
    "failing": "FAILED",
    "not-removed": "MOVED",
    "gave-up": "GIVEN_UP",
    "awaited": "AWAITED",
    "duplicates": "DUPLICATE",
}


def _from_finder(site: str, name: str, what: str) -> Iterator[_Query]:
    if verdict := _VERDICTS.get(what):
        yield _Query(
            "relpath, filename, verdict, size_bytes, message, seen_at, tries, NULL",
            "FROM finder_left WHERE site = ? AND finder = ? AND verdict = ?",
            "relpath, filename",
            (site, name, verdict),
            "source",
        )
    elif what == "waiting":
        yield _Query(
            "relpath, filename, status, size_bytes, '', NULL, 0, NULL",
            "FROM file WHERE status = 'ARRIVING' AND finder = ?",
            "id",
            (name,),
            "source",
        )
    else:
        yield from _quarantine(site, f"finder.{name}")


def _storage(storage: str, what: str) -> Iterator[_Query]:
    status = what.upper()
    since = (
        "(SELECT MAX(at) FROM file_event AS e WHERE e.filename = file.filename"
        " AND e.relpath = file.relpath AND e.label = file.storage AND e.becomes = file.status)"
    )
    yield _Query(
        f"relpath, filename, status, size_bytes, error, {since}, 0, NULL",
        "FROM file WHERE status IN ('MISSING', 'CORRUPT') AND storage = ? AND status = ?",
        "id",
        (storage, status),
        storage,
    )


_NOT_INGESTED = "s.status IN ('FAILURE', 'UNKNOWN', 'INVALID')"

#: Conditions of the lists of a target, each with that of one of the table's partial indexes.
_CONDITIONS = {
    "failing": [f"{_NOT_INGESTED} AND s.status <> 'INVALID' AND s.next_try_at IS NOT NULL"],
    "gave-up": [f"{_NOT_INGESTED} AND s.status <> 'INVALID' AND s.next_try_at IS NULL"],
    "invalid": [f"{_NOT_INGESTED} AND s.status = 'INVALID'"],
    "claimed": ["s.claim IS NOT NULL"],
    "waiting": [
        "s.status = 'UNTRIED' AND s.next_try_at IS NULL",
        "s.next_try_at IS NOT NULL AND s.status NOT IN ('FAILURE', 'UNKNOWN', 'UNTRIED')",
    ],
    "put-off": ["s.next_try_at IS NOT NULL AND s.status = 'UNTRIED'"],
}


def _from_target(site: str, name: str, what: str) -> Iterator[_Query]:
    for condition in _CONDITIONS[what]:
        yield _Query(
            "f.relpath, f.filename, s.status, f.size_bytes, s.message, s.changed_at, s.attempts,"
            " s.next_try_at",
            "FROM ingest_state s JOIN file f ON f.id = s.file_id WHERE s.target_id ="
            f" (SELECT id FROM target WHERE site = ? AND name = ?) AND {condition}",
            "s.file_id",
            (site, name),
            "storage",
        )


#: The lists of each kind of section, in the order in which they are shown; `file` is of storage.
LISTS: dict[str, tuple[str, ...]] = {
    "handoff": ("quarantined", "failing", "not-confirmed", "waiting"),
    "finder": (
        *("missing", "corrupt", "quarantined", "gave-up", "not-removed", "failing"),
        *("awaited", "waiting", "duplicates"),
    ),
    "target": ("gave-up", "invalid", "failing", "put-off", "claimed", "waiting"),
    "storage": ("missing", "corrupt"),
}


@dataclass(frozen=True)
class ListedComponent:
    """What a list is of.

    Attributes
    ----------
    kind : `str`
        A key of `LISTS`.
    name : `str`
        Of the section; or the storage area.
    storage : `str`
        Where the files of a finder or target are stored.
    """

    site: str
    kind: str
    name: str
    storage: str = ""


def file_list(
    component: ListedComponent, what: str, directories: Directories, limit: int
) -> FileList:
    """Return the files of a component that are what a list is of.

    Parameters
    ----------
    component : `ListedComponent`
    what : `str`
        One of the `LISTS` of its kind.
    directories : `Directories`
    limit : `int`
        How many files to return; all are counted.
    """
    return connect.long_read(_read_list, component, what, directories, limit)


def _read_list(
    component: ListedComponent, what: str, directories: Directories, limit: int
) -> FileList:
    files: list[ListedFile] = []
    count = 0
    for query in _queries(component, what):
        ((number,),) = connect.execute(f"SELECT COUNT(*) {query.source}", query.values).fetchall()
        count += number
        room = limit - len(files)
        if number and room:
            rows = connect.execute(
                f"SELECT {query.columns} {query.source} ORDER BY {query.order} LIMIT {room}",
                query.values,
            ).fetchall()
            files += [_listed_file(component, what, query, directories, row) for row in rows]
    return FileList(what, files, count)


def _queries(component: ListedComponent, what: str) -> Iterator[_Query]:
    kinds: dict[str, Callable[[str, str, str], Iterator[_Query]]] = {
        "handoff": _from_handoff,
        "finder": _from_finder,
        "target": _from_target,
    }
    if what in LISTS["storage"]:
        return _storage(component.storage, what)
    return kinds[component.kind](component.site, component.name, what)


def _listed_file(
    component: ListedComponent,
    what: str,
    query: _Query,
    directories: Directories,
    row: Sequence[Any],
) -> ListedFile:
    relpath, filename, status, size, reason, since, attempts, due = row
    path = rel = names.join(relpath, filename)
    if query.root.startswith("/"):
        path = f"{names.to_text(query.root)}/{rel}"
    elif query.root:
        label = f"{component.kind}.{component.name}"
        path = directories.below(component.site, label, query.root, relpath, filename) or rel
    return ListedFile(
        path, what, status, size, reason or "", read_moment(since), attempts, read_moment(due)
    )
