"""Everything that happened to a file, at every site that uses the database."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dbbbatch.database import connect
from dbbbatch.database.bulk import read_moment
from dbbbatch.database.models.statuses import TRANSITIONS
from dbbbatch.files import names
from dbbbatch.report.whereabouts import Directories, Whereabouts, rows_of, whereabouts


@dataclass(frozen=True)
class Event:
    """One thing that happened to a file.

    Attributes
    ----------
    at : `datetime.datetime`
        When it happened, or began if it has a duration; UTC.
    where : `str`
        KIND.NAME, with the site before it; or the storage area.
    duration : `float` or `None`
        Seconds.
    """

    at: datetime
    where: str
    what: str
    duration: float | None = None
    message: str = ""


@dataclass
class History(Whereabouts):
    """What is known of one relative path.

    Attributes
    ----------
    events : `list` [`Event`]
        In order of time.
    elsewhere : `dict` [`str`, `History`]
        What endpoints say that have a database of their own, by the label of the handoff.
    """

    events: list[Event] = field(default_factory=list)
    elsewhere: dict[str, "History"] = field(default_factory=dict)


def histories(places: Sequence[tuple[str, str]], directories: Directories) -> list[History]:
    """Return where files are, and everything that happened to them.

    Parameters
    ----------
    places : sequence
        Relpath and filename of each, as in the tables.
    directories : `Directories`
    """
    found = [History(**vars(one)) for one in whereabouts(places, directories)]
    for place, one in zip(places, found, strict=True):
        events = connect.read(_events, *place)
        one.events = sorted(events, key=lambda event: event.at)
    return found


def _events(relpath: str, filename: str) -> list[Event]:
    return [
        *_of_handoffs(relpath, filename),
        *_of_storage(relpath, filename),
        *_of_finders_memory(relpath, filename),
        *_of_quarantine(relpath, filename),
        *map(_change, rows_of("file_event", relpath, filename)),
    ]


def _of_handoffs(relpath: str, filename: str) -> Iterable[Event]:
    for row in rows_of("handoff_file", relpath, filename):
        where = f"{row['site']} handoff.{row['handoff']}"
        for column, what in {
            "discovered_at": "found in the buffer",
            "delivered_at": "delivered, verified",
            "held_at": "moved to holding",
            "confirmed_at": "confirmed as stored",
            "purged_at": "purged from holding",
        }.items():
            if at := read_moment(row[column]):
                yield Event(at, where, what)
        yield from _transfers(row["id"], where)


def _transfers(handoff_file: int, where: str) -> Iterable[Event]:
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
        yield Event(read_moment(transfer_started or started), where, what, duration, message)


#: How a file came into the table, if no finder stored it.
_RECORDED_BY = {
    "backfill": "recorded by `dbb backfill`",
    "rebuild": "recorded by `dbb rebuild`",
    "auditor": "adopted by the auditor",
}


def _of_storage(relpath: str, filename: str) -> Iterable[Event]:
    for row in rows_of("file", relpath, filename):
        where, finder = row["storage"], row["finder"]
        added, verified = read_moment(row["added_on"]), read_moment(row["verified_at"])
        if added and finder in _RECORDED_BY:
            yield Event(added, where, _RECORDED_BY[finder])
        elif added:
            yield Event(added, f"finder.{finder}", f"stored in {where}")
        if verified and verified != added:
            yield Event(verified, where, "last verified by its checksum")
        yield from _ingests(row["id"])


#: Why a finder remembers a file.
_WHY_REMEMBERED = {
    "DUPLICATE": "left in the source, storage has it already",
    "MOVED": "stored, original not yet removed",
    "FAILED": "could not be stored",
    "AWAITED": "named by a log, not there yet",
    "GIVEN_UP": "given up",
}


def _of_finders_memory(relpath: str, filename: str) -> Iterable[Event]:
    for row in rows_of("finder_left", relpath, filename, order="site, finder"):
        where, verdict = f"{row['site']} finder.{row['finder']}", row["verdict"]
        what = _WHY_REMEMBERED[verdict] + (f" (try {row['tries']})" if row["tries"] > 1 else "")
        yield Event(read_moment(row["seen_at"]), where, what, None, row["message"])


def _ingests(file: int) -> Iterable[Event]:
    for site, name, status, start, duration, message, version in connect.execute(
        "SELECT target.site, target.name, event.status, event.start_time, event.duration,"
        " event.message, event.version FROM ingest_event AS event"
        " JOIN target ON target.id = event.target_id WHERE event.file_id = ? ORDER BY event.id",
        (file,),
    ).fetchall():
        shown = f"{message} ({version})" if message and version else message or version
        yield Event(read_moment(start), f"{site} target.{name}", status, duration, shown)


def _of_quarantine(relpath: str, filename: str) -> Iterable[Event]:
    for row in rows_of("quarantine", relpath, filename):
        where = f"{row['site']} {row['label']}"
        at, released = read_moment(row["quarantined_at"]), read_moment(row["released_at"])
        if at:
            yield Event(at, where, "quarantined", None, row["reason"])
        if released:
            what = f"released as {row['released_as']}" if row["released_as"] else "ignored"
            yield Event(released, where, what)


def _change(row: dict[str, Any]) -> Event:
    """Return a change of the status, and what caused it."""
    was, becomes, label = row["was"], row["becomes"], row["label"]
    table = "handoff_file" if label.startswith("handoff.") else "file"
    cause = TRANSITIONS[table].get((was, becomes), "")
    what = f"{was} → {becomes}" if becomes else f"{was}: no longer remembered"
    where = f"{row['site']} {label}".strip()
    return Event(read_moment(row["at"]), where, what, None, row["message"] or cause)
