"""Which files are due for a target: new ones in order of arrival, others in order of their time.

Each question is a look into a partial index that holds due files only, whatever the history.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from dbbbatch.database import bulk, connect, retry
from dbbbatch.database.models.file import FileChecksum
from dbbbatch.database.models.statuses import IngestStatus


@dataclass(frozen=True, slots=True)
class ClaimedFile:
    """A file that is due, or that a pass has claimed.

    Attributes
    ----------
    relpath, filename : `str`
        As the database writes names.
    file_status : `str`
        Whether storage still holds it (STORED).
    was : `IngestStatus`
        Its status before it was claimed.
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


#: The rows of a target that are tried again by a time, and those whose time a clock that was ahead
#: has written: two ranges of one index. A row in which somebody else has set a time is left alone.
_TIMED = (
    "ingest_state WHERE target_id = ? AND next_try_at IS NOT NULL"
    " AND status IN ('UNTRIED', 'RERUN', 'FAILURE', 'UNKNOWN')"
)
_BY = f"{_TIMED} AND next_try_at <= ?"
_AHEAD = f"{_TIMED} AND next_try_at > ?"


def due_now(target_id: int, longest: float) -> bool:
    """Return whether any file of a target is due, or any claim on one has expired.

    Parameters
    ----------
    target_id : `int`
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
    """Return how many files of a target are due now, as for `due_now`."""
    now, latest = map(bulk.time_value, retry.due_range(longest, connect.now()))
    found = connect.execute(
        "SELECT (SELECT count(*) FROM ingest_state WHERE target_id = ? AND status = 'UNTRIED'"
        f" AND next_try_at IS NULL) + (SELECT count(*) FROM {_BY})"
        f" + (SELECT count(*) FROM {_AHEAD})",
        [target_id, target_id, now, target_id, latest],
    ).fetchone()
    return int(found[0])


#: A row found: file, status, attempts, parts done, and when it is tried again.
_DueRow = tuple[int, str, int, str, Any]


@dataclass(frozen=True, slots=True)
class DueQueue:
    """The due files of a target, from a position on.

    Attributes
    ----------
    until : `datetime.datetime`
        Tries that are due by then.
    latest : `datetime.datetime`
        What is due later than then is due, too: a clock was ahead when it was put off.
    after_new : `int`
        The position among new files: after this one.
    after_again : `tuple`
        The position among further tries: after this time and file.
    """

    target_id: int
    until: datetime
    latest: datetime
    after_new: int = 0
    after_again: tuple[datetime, int] = (datetime.min, 0)

    def next(
        self, new: int, again: int, *, lock: bool = True
    ) -> tuple[list[ClaimedFile], DueQueue]:
        """Find due files.

        Parameters
        ----------
        new, again : `int`
            How many new files, and how many further tries; what one cannot fill, the other may.
        lock : `bool`
            Skip what another transaction is claiming, and keep others from claiming these.

        Returns
        -------
        files : `list` [ `ClaimedFile` ]
            New files first; none if nothing is due from this position on.
        queue : `DueQueue`
            The position after them.
        """
        locking = connect.for_update(" SKIP LOCKED") if lock else ""
        queue, fresh = self._new(new, locking)
        wanted = again + new - len(fresh)
        queue, old = queue._again(wanted, _BY, self.until, locking)
        if len(old) < wanted:
            queue, ahead = queue._again(wanted - len(old), _AHEAD, self.latest, locking)
            old += ahead
        if len(fresh) == new and len(old) < again:
            queue, more = queue._new(again - len(old), locking)
            fresh += more
        return with_names([*fresh, *old]), queue

    def _new(self, count: int, locking: str) -> tuple[DueQueue, list[_DueRow]]:
        rows: list[_DueRow] = connect.execute(
            "SELECT file_id, status, attempts, parts_done, next_try_at FROM ingest_state"
            " WHERE target_id = ? AND status = 'UNTRIED' AND next_try_at IS NULL AND file_id > ?"
            f" ORDER BY file_id LIMIT ?{locking}",
            [self.target_id, self.after_new, count],
        ).fetchall()
        return replace(self, after_new=rows[-1][0]) if rows else self, rows

    def _again(
        self, count: int, which: str, limit: datetime, locking: str
    ) -> tuple[DueQueue, list[_DueRow]]:
        after, number = self.after_again
        time = bulk.time_value(after)
        rows: list[_DueRow] = connect.execute(
            f"SELECT file_id, status, attempts, parts_done, next_try_at FROM {which}"
            " AND next_try_at >= ? AND (next_try_at > ? OR file_id > ?)"
            f" ORDER BY next_try_at, file_id LIMIT ?{locking}",
            [self.target_id, bulk.time_value(limit), time, time, number, count],
        ).fetchall()
        if not rows:
            return self, rows
        return replace(self, after_again=(bulk.read_moment(rows[-1][4]), rows[-1][0])), rows


def with_names(found: Sequence[Sequence[Any]]) -> list[ClaimedFile]:
    """Return the files of rows that begin with file, status, attempts and parts done."""
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
    for file_id, was, attempts, parts, *_ in found:
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
