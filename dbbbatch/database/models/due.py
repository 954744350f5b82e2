"""Reading what is due for a target: new files in order of arrival, others in order of their time.

Each question is a look into a partial index that holds due files only, whatever the history.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dbbbatch.database import bulk, connect, retry
from dbbbatch.database.models.file import FileChecksum
from dbbbatch.database.models.statuses import IngestStatus


@dataclass(frozen=True, slots=True)
class ClaimedFile:
    """A file in hand: what a plugin must know of it, and what it was before.

    Attributes
    ----------
    relpath, filename : `str`
        As the database writes names.
    file_status : `str`
        Whether storage still holds it (STORED).
    was : `IngestStatus`
        Its status before it was taken.
    """

    file_id: int
    relpath: str
    filename: str
    size_bytes: int
    checksums: Mapping[str, str]
    file_status: str
    added_on: datetime
    was: IngestStatus
    attempts: int
    parts_done: frozenset[str]


@dataclass(frozen=True, slots=True)
class DuePosition:
    """How far the two queues were read: after this file, and after this time and file."""

    new: int = 0
    again: tuple[datetime, int] = (datetime.min, 0)


#: The rows of a target that are tried again by a time, and those whose time a clock that was ahead
#: has written: two ranges of one index.
_BY = "ingest_state WHERE target_id = ? AND next_try_at IS NOT NULL AND next_try_at <= ?"
_AHEAD = "ingest_state WHERE target_id = ? AND next_try_at IS NOT NULL AND next_try_at > ?"


def due_now(target_id: int, longest: float) -> bool:
    """Return whether anything of a target is due, or held beyond its time.

    Parameters
    ----------
    longest : `float`
        The longest wait between two tries (seconds).
    """
    now, latest = map(bulk.time_value, retry.due_range(longest, connect.now()))
    questions: tuple[tuple[str, list[Any]], ...] = (
        (
            "SELECT 1 FROM ingest_state WHERE target_id = ? AND status = 'UNTRIED'"
            " AND next_try_at IS NULL LIMIT 1",
            [target_id],
        ),
        (
            f"SELECT 1 WHERE EXISTS (SELECT 1 FROM {_BY}) OR EXISTS (SELECT 1 FROM {_AHEAD})",
            [target_id, now, target_id, latest],
        ),
        (
            "SELECT 1 FROM ingest_claim WHERE target_id = ? AND expires_at <= ? LIMIT 1",
            [target_id, now],
        ),
    )
    return any(connect.execute(sql, values).fetchone() for sql, values in questions)


def due_count(target_id: int, longest: float) -> int:
    """Count what is due of a target now, as `due_now`."""
    now, latest = map(bulk.time_value, retry.due_range(longest, connect.now()))
    found = connect.execute(
        "SELECT (SELECT count(*) FROM ingest_state WHERE target_id = ? AND status = 'UNTRIED'"
        f" AND next_try_at IS NULL) + (SELECT count(*) FROM {_BY})"
        f" + (SELECT count(*) FROM {_AHEAD})",
        [target_id, target_id, now, target_id, latest],
    ).fetchone()
    return int(found[0])


#: A row found: file, status, attempts, parts done.
DueRow = tuple[int, str, int, str]


def due(
    target_id: int,
    new: int,
    again: int,
    until: datetime,
    latest: datetime,
    place: DuePosition,
    *,
    lock: bool = True,
) -> tuple[list[DueRow], DuePosition]:
    """Find due files.

    Parameters
    ----------
    new, again : `int`
        How many new files, and how many further tries; what one cannot fill, the other may.
    until : `datetime.datetime`
        Tries that are due by then.
    latest : `datetime.datetime`
        What is due later than then is due, too: a clock was ahead when it was put off.
    place : `DuePosition`
        Where to begin.
    lock : `bool`
        Pass over what another transaction is taking, and keep others from taking these.

    Returns
    -------
    found : `list`
        Rows found, new files first.
    place : `DuePosition`
        Where to go on.
    """
    locking = " FOR UPDATE SKIP LOCKED" if lock and connect.on_postgresql() else ""
    fresh = _fresh(target_id, new, place.new, locking)
    wanted = again + new - len(fresh)
    old = _again(target_id, wanted, _BY, until, place.again, locking)
    if len(old) < wanted:
        last = (bulk.read_moment(old[-1][4]), old[-1][0]) if old else place.again
        old += _again(target_id, wanted - len(old), _AHEAD, latest, last, locking)
    if len(fresh) == new and len(old) < again:
        last = fresh[-1][0] if fresh else place.new
        fresh += _fresh(target_id, again - len(old), last, locking)
    return [*fresh, *(row[:4] for row in old)], DuePosition(
        fresh[-1][0] if fresh else place.new,
        (bulk.read_moment(old[-1][4]), old[-1][0]) if old else place.again,
    )


def _fresh(target_id: int, count: int, after: int, locking: str) -> list[DueRow]:
    return connect.execute(
        "SELECT file_id, status, attempts, parts_done FROM ingest_state"
        " WHERE target_id = ? AND status = 'UNTRIED' AND next_try_at IS NULL AND file_id > ?"
        f" ORDER BY file_id LIMIT ?{locking}",
        [target_id, after, count],
    ).fetchall()


def _again(
    target_id: int,
    count: int,
    which: str,
    limit: datetime,
    after: tuple[datetime, int],
    locking: str,
) -> list[tuple[Any, ...]]:
    time = bulk.time_value(after[0])
    return connect.execute(
        f"SELECT file_id, status, attempts, parts_done, next_try_at FROM {which}"
        " AND next_try_at >= ? AND (next_try_at > ? OR file_id > ?)"
        f" ORDER BY next_try_at, file_id LIMIT ?{locking}",
        [target_id, bulk.time_value(limit), time, time, after[1], count],
    ).fetchall()


def with_names(found: Sequence[DueRow]) -> list[ClaimedFile]:
    """Add to rows found what storage knows of their files."""
    where, values = bulk.among([row[0] for row in found])
    files = {
        row[0]: row[1:]
        for row in connect.execute(
            "SELECT id, relpath, filename, size_bytes, checksum, status, added_on FROM file"
            f" WHERE id {where}",
            [values],
        ).fetchall()
    }
    checksums = FileChecksum.of([row[0] for row in found])
    held = []
    for file_id, was, attempts, parts in found:
        relpath, filename, size, checksum, status, added = files[file_id]
        algorithm, _, digits = checksum.partition(":")
        held.append(
            ClaimedFile(
                file_id,
                relpath,
                filename,
                size,
                # The recorded one comes first, and is right where both tables have one.
                {algorithm: digits} | checksums.get(file_id, {}) | {algorithm: digits},
                status,
                bulk.read_moment(added),
                IngestStatus(was),
                attempts,
                frozenset(json.loads(parts)) if parts else frozenset(),
            )
        )
    return held
