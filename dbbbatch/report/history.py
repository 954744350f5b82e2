"""Everything that happened to a file, at every site that uses the database."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dbbbatch.database import connect
from dbbbatch.database.bulk import read_moment
from dbbbatch.files import names

#: Most relative paths that one name may mean.
_MOST_PATHS = 20


@dataclass(frozen=True)
class Event:
    """One thing that happened to a file.

    Attributes
    ----------
    at : `datetime.datetime`
        When it happened, or began if it has a duration; UTC.
    where : `str`
        KIND.NAME, with the site before it.
    duration : `float` or `None`
        Seconds.
    """

    at: datetime
    where: str
    what: str
    duration: float | None = None
    message: str = ""


@dataclass(frozen=True)
class FileVersion:
    """A file as one table has it, with its status there."""

    where: str
    status: str
    size_bytes: int
    checksum: str
    detail: str = ""


@dataclass
class History:
    """What is known of one relative path.

    Attributes
    ----------
    path : `str`
        Relative, written as in the database.
    versions : `list` [`FileVersion`]
        At the handoff site and in storage.
    targets : `dict` [`str`, `str`]
        Where it is ingested now: target to status.
    events : `list` [`Event`]
        In order of time.
    """

    path: str
    versions: list[FileVersion] = field(default_factory=list)
    targets: dict[str, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)


def history(name: str, roots: Iterable[str]) -> list[History]:
    """Return everything that happened to a file.

    Parameters
    ----------
    name : `str`
        A path below one of ``roots``, a relative path, or only a file name; as in the file system
        or as in the database.
    roots : iterable of `str`
        The directories to which paths are relative: buffers, holding and storage areas.

    Returns
    -------
    found : `list` [`History`]
        One for each relative path, at most 20.
    """
    rel = name
    for root in sorted(roots, key=len, reverse=True):
        if name.startswith(root + "/"):
            rel = name[len(root) + 1 :]
            break
    spellings = {names.to_text(rel.removeprefix("./")), rel.removeprefix("./")}
    return connect.read(lambda: [_history(*place) for place in _places(spellings)])


def _places(spellings: Iterable[str]) -> list[tuple[str, str]]:
    """Return the (relpath, filename) that a name may mean."""
    found: set[tuple[str, str]] = set()
    for spelling in spellings:
        if spelling.encode("utf-8", "replace").decode() != spelling:
            continue
        relpath, filename = names.split(spelling)
        for table in ("handoff_file", "file", "quarantine", "finder_left"):
            where, values = "filename = ?", [filename]
            if relpath:
                where, values = "relpath = ? AND filename = ?", [relpath, filename]
            rows = connect.execute(
                f"SELECT DISTINCT relpath, filename FROM {table} WHERE {where} LIMIT {_MOST_PATHS}",
                values,
            )
            found |= {tuple(row) for row in rows.fetchall()}
    return sorted(found)[:_MOST_PATHS]


def _history(relpath: str, filename: str) -> History:
    result = History(names.join(relpath, filename))
    _add_handoff(result, relpath, filename)
    _add_storage(result, relpath, filename)
    _add_remembered(result, relpath, filename)
    _add_quarantine(result, relpath, filename)
    result.events.sort(key=lambda event: event.at)
    return result


def _add_handoff(result: History, relpath: str, filename: str) -> None:
    for row in _rows_of("handoff_file", relpath, filename):
        where = f"{row['site']} handoff.{row['handoff']}"
        was_held = row["held_as"] and row["status"] in ("HELD", "PURGED", "IGNORED")
        detail = row["error"] or (f"held as {row['held_as']}" if was_held else "")
        result.versions.append(
            FileVersion(where, row["status"], row["size_bytes"], row["checksum"] or "", detail)
        )
        for column, what in {
            "discovered_at": "found in the buffer",
            "delivered_at": "delivered, verified",
            "held_at": "moved to holding",
            "confirmed_at": "confirmed as stored",
            "purged_at": "purged from holding",
        }.items():
            if at := read_moment(row[column]):
                result.events.append(Event(at, where, what))
        if at := read_moment(row["resent_at"]):
            what = "to be sent again"
            result.events.append(Event(at, where, what, None, row["resent_by"] or ""))
        _add_transfers(result, row["id"], where)


def _add_transfers(result: History, handoff_file: int, where: str) -> None:
    for started, transfer_started, duration, files, outcome, error, exit_status in connect.execute(
        "SELECT b.started, b.transfer_started, b.transfer_duration, b.files, a.outcome,"
        " COALESCE(a.error, b.error), b.exit_status FROM transfer_attempt AS a"
        " JOIN transfer_batch AS b ON b.id = a.batch_id WHERE a.handoff_file_id = ?"
        " ORDER BY b.id",
        (handoff_file,),
    ).fetchall():
        others = f" with {names.counted(files - 1, 'other')}" if files > 1 else ""
        what = f"transfer{others}: {outcome.lower() if outcome else 'not finished'}"
        message = error or (f"exit code {exit_status}" if exit_status else "")
        at = read_moment(transfer_started or started)
        result.events.append(Event(at, where, what, duration, message))


def _add_storage(result: History, relpath: str, filename: str) -> None:
    for row in _rows_of("file", relpath, filename):
        where, detail = row["storage"], row["error"] or ""
        result.versions.append(
            FileVersion(where, row["status"], row["size_bytes"], row["checksum"], detail)
        )
        added, verified = read_moment(row["added_on"]), read_moment(row["verified_at"])
        if added:
            result.events.append(Event(added, f"finder.{row['finder']}", f"stored in {where}"))
        if verified and verified != added:
            result.events.append(Event(verified, where, "last verified by its checksum"))
        _add_ingests(result, row["id"])


#: Why a finder remembers a file.
_WHY_REMEMBERED = {
    "DUPLICATE": "left in the source, storage has it already",
    "MOVED": "stored, original not yet removed",
    "FAILED": "could not be stored",
    "AWAITED": "named by a log, not there yet",
    "GIVEN_UP": "given up",
}


def _add_remembered(result: History, relpath: str, filename: str) -> None:
    for row in _rows_of("finder_left", relpath, filename, order="site, finder"):
        where, verdict = f"{row['site']} finder.{row['finder']}", row["verdict"]
        result.versions.append(FileVersion(where, verdict, row["size_bytes"], "", row["message"]))
        what = _WHY_REMEMBERED[verdict] + (f" (try {row['tries']})" if row["tries"] > 1 else "")
        at = read_moment(row["seen_at"])
        result.events.append(Event(at, where, what, None, row["message"]))


def _add_ingests(result: History, file: int) -> None:
    states = connect.execute(
        "SELECT target.name, state.status FROM ingest_state AS state"
        " JOIN target ON target.id = state.target_id WHERE state.file_id = ? ORDER BY target.name",
        (file,),
    )
    result.targets |= dict(states.fetchall())
    for site, name, status, start, duration, message, version in connect.execute(
        "SELECT target.site, target.name, event.status, event.start_time, event.duration,"
        " event.message, event.version FROM ingest_event AS event"
        " JOIN target ON target.id = event.target_id WHERE event.file_id = ? ORDER BY event.id",
        (file,),
    ).fetchall():
        shown = f"{message} ({version})" if message and version else message or version
        where = f"{site} target.{name}"
        result.events.append(Event(read_moment(start), where, status, duration, shown))


def _add_quarantine(result: History, relpath: str, filename: str) -> None:
    for row in _rows_of("quarantine", relpath, filename):
        where = f"{row['site']} {row['label']}"
        at, released = read_moment(row["quarantined_at"]), read_moment(row["released_at"])
        if at:
            result.events.append(Event(at, where, "quarantined", None, row["reason"]))
        if released:
            what = "released" if row["released_as"] else "ignored"
            result.events.append(Event(released, where, what, None, row["released_as"] or ""))
            continue
        # The row of a handoff is about the same file, but lacks its path.
        same = (where, "QUARANTINED", row["size_bytes"])
        result.versions[:] = [
            version
            for version in result.versions
            if (version.where, version.status, version.size_bytes) != same
        ]
        result.versions.append(FileVersion(*same, row["checksum"] or "", row["path"]))


def _rows_of(table: str, relpath: str, filename: str, order: str = "id") -> list[dict[str, Any]]:
    found = connect.execute(
        f"SELECT * FROM {table} WHERE relpath = ? AND filename = ? ORDER BY {order}",
        (relpath, filename),
    )
    columns = [column[0] for column in found.description]
    return [dict(zip(columns, row, strict=True)) for row in found.fetchall()]
