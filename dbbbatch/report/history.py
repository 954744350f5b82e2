"""Everything that happened to a file, at every site that uses the database."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dbbbatch.database import connect
from dbbbatch.files import names
from dbbbatch.report.queries import time_read

#: Most places (directories) that a bare file name may be found in.
MOST_EVENTS = 20


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
    """A file as one table knows it: what it is, and its status there."""

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
    """Find a file and everything that happened to it.

    Parameters
    ----------
    name : `str`
        A path below one of ``roots``, a relative path, or only a file name; as the file system
        has it or as the database writes it.
    roots : iterable of `str`
        The directories that relative paths begin at: buffers, holding and storage areas.

    Returns
    -------
    found : `list` [`History`]
        One for each relative path, at most `MOST_EVENTS`.
    """
    rel = name
    for root in sorted(roots, key=len, reverse=True):
        if name.startswith(root + "/"):
            rel = name[len(root) + 1 :]
            break
    spellings = {names.to_text(rel.removeprefix("./")), rel.removeprefix("./")}
    return connect.read(lambda: [_history(*place) for place in _places(spellings)])


def _places(spellings: Iterable[str]) -> list[tuple[str, str]]:
    """Find the (relpath, filename) that a name may mean."""
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
                f"SELECT DISTINCT relpath, filename FROM {table} WHERE {where} LIMIT {MOST_EVENTS}",
                values,
            )
            found |= {tuple(row) for row in rows.fetchall()}
    return sorted(found)[:MOST_EVENTS]


def _history(relpath: str, filename: str) -> History:
    result = History(names.join(relpath, filename))
    _add_handoff(result, relpath, filename)
    _add_storage(result, relpath, filename)
    _add_left(result, relpath, filename)
    _add_quarantine(result, relpath, filename)
    result.events.sort(key=lambda event: event.at)
    return result


def _add_handoff(result: History, relpath: str, filename: str) -> None:
    columns = (
        "id, site, handoff, size_bytes, checksum, status, discovered_at, delivered_at,"
        " confirmed_at, held_at, purged_at, held_as, error, attempts"
    )
    for row in _rows("handoff_file", columns, "relpath = ? AND filename = ?", (relpath, filename)):
        where = f"{row['site']} handoff.{row['handoff']}"
        was_held = row["held_as"] and row["status"] in ("HELD", "PURGED", "IGNORED")
        detail = row["error"] or (f"held as {row['held_as']}" if was_held else "")
        result.versions.append(
            FileVersion(where, row["status"], row["size_bytes"], row["checksum"] or "", detail)
        )
        steps = {"discovered": "found in the buffer", "delivered": "delivered, verified"}
        steps |= {"held": "moved to holding", "confirmed": "confirmed as stored"}
        steps |= {"purged": "purged from holding"}
        for step, what in steps.items():
            if at := time_read(row[f"{step}_at"]):
                result.events.append(Event(at, where, what))
        _add_transfers(result, row["id"], where)


def _add_transfers(result: History, handoff_file: int, where: str) -> None:
    rows = connect.execute(
        "SELECT b.started, b.transfer_started, b.transfer_duration, b.files, a.outcome,"
        " COALESCE(a.error, b.error), b.exit_status FROM transfer_attempt AS a"
        " JOIN transfer_batch AS b ON b.id = a.batch_id WHERE a.handoff_file_id = ?"
        " ORDER BY b.id",
        (handoff_file,),
    )
    for started, transfer_started, duration, files, outcome, error, exit_status in rows.fetchall():
        what = f"transfer with {files - 1} others" if files > 1 else "transfer"
        message = error or (f"exit code {exit_status}" if exit_status else "")
        what += f": {outcome.lower()}" if outcome else ": not finished"
        at = time_read(transfer_started) or time_read(started)
        assert at is not None
        result.events.append(Event(at, where, what, duration, message))


def _add_storage(result: History, relpath: str, filename: str) -> None:
    columns = "id, storage, size_bytes, checksum, status, finder, added_on, verified_at, error"
    for row in _rows("file", columns, "relpath = ? AND filename = ?", (relpath, filename)):
        result.versions.append(
            FileVersion(
                row["storage"],
                row["status"],
                row["size_bytes"],
                row["checksum"],
                row["error"] or "",
            )
        )
        added, verified = time_read(row["added_on"]), time_read(row["verified_at"])
        if added:
            result.events.append(
                Event(added, f"finder.{row['finder']}", f"stored in {row['storage']}")
            )
        if verified and verified != added:
            result.events.append(Event(verified, row["storage"], "last verified by its checksum"))
        _add_ingests(result, row["id"])


#: What it means that a finder has a file in mind.
_WHY_LEFT = {
    "DUPLICATE": "left in the source, storage has it already",
    "MOVED": "stored, original not yet removed",
    "FAILED": "could not be stored",
    "AWAITED": "named by a log, not there yet",
    "GIVEN_UP": "given up",
}


def _add_left(result: History, relpath: str, filename: str) -> None:
    rows = connect.execute(
        "SELECT site, finder, verdict, size_bytes, tries, message, seen_at FROM finder_left"
        " WHERE relpath = ? AND filename = ? ORDER BY site, finder",
        (relpath, filename),
    )
    for site, finder, verdict, size, tries, message, seen in rows.fetchall():
        where = f"{site} finder.{finder}"
        result.versions.append(FileVersion(where, verdict, size, "", message))
        at = time_read(seen)
        assert at is not None
        what = f"{_WHY_LEFT[verdict]} (try {tries})" if tries > 1 else _WHY_LEFT[verdict]
        result.events.append(Event(at, where, what, None, message))


def _add_ingests(result: History, file: int) -> None:
    states = connect.execute(
        "SELECT target.name, state.status FROM ingest_state AS state"
        " JOIN target ON target.id = state.target_id WHERE state.file_id = ? ORDER BY target.name",
        (file,),
    )
    result.targets |= dict(states.fetchall())
    events = connect.execute(
        "SELECT target.site, target.name, event.status, event.start_time, event.duration,"
        " event.message, event.version FROM ingest_event AS event"
        " JOIN target ON target.id = event.target_id WHERE event.file_id = ? ORDER BY event.id",
        (file,),
    )
    for site, name, status, start, duration, message, version in events.fetchall():
        at = time_read(start)
        assert at is not None
        said = f"{message} ({version})" if message and version else message or version
        result.events.append(Event(at, f"{site} target.{name}", status, duration, said))


def _add_quarantine(result: History, relpath: str, filename: str) -> None:
    columns = (
        "id, site, label, path, size_bytes, checksum, reason, quarantined_at, released_at,"
        " released_as"
    )
    for row in _rows("quarantine", columns, "relpath = ? AND filename = ?", (relpath, filename)):
        where = f"{row['site']} {row['label']}"
        at, released = time_read(row["quarantined_at"]), time_read(row["released_at"])
        if at:
            result.events.append(Event(at, where, "quarantined", None, row["reason"]))
        if released:
            what = "released" if row["released_as"] else "ignored"
            result.events.append(Event(released, where, what, None, row["released_as"] or ""))
        else:
            # The row of a handoff tells of the same file, and not where it is.
            result.versions[:] = [
                version
                for version in result.versions
                if (version.where, version.status, version.size_bytes)
                != (where, "QUARANTINED", row["size_bytes"])
            ]
            result.versions.append(
                FileVersion(
                    where, "QUARANTINED", row["size_bytes"], row["checksum"] or "", row["path"]
                )
            )


def _rows(table: str, columns: str, where: str, values: Sequence[Any]) -> list[dict[str, Any]]:
    rows = connect.execute(f"SELECT {columns} FROM {table} WHERE {where} ORDER BY id", values)
    wanted = [column.strip() for column in columns.split(",")]
    return [dict(zip(wanted, row, strict=True)) for row in rows.fetchall()]
