"""The current status of each (file, target), and its history.

Only the methods here and in `dbbbatch.database.models.claim` change a status. Each of them writes
state and event together, and is called inside a transaction (`connect.write`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

import peewee
from peewee import SQL

from dbbbatch.database import bulk, connect
from dbbbatch.database.base import Table, TimeField
from dbbbatch.database.models.changes import change
from dbbbatch.database.models.statuses import ImpossibleTransition, IngestStatus, require_possible

#: PostgreSQL's advisory lock: shared by transactions that store files, exclusive to add a target.
ARRIVALS = 0x646262_02

#: What a row is found by.
KEY = ("file_id", "target_id")

#: Message of a claimed file whose content changed: the attempt is with the old one. Rows of older
#: versions have it, too.
OTHER_CONTENT = "other content came while it was in hand"

#: Where an ingest starts again when the file has other content.
_OVER = (
    IngestStatus.SUCCESS,
    IngestStatus.FAILURE,
    IngestStatus.UNKNOWN,
    IngestStatus.INVALID,
    IngestStatus.BACKFILL,
)

#: What the index `ingest_state_trouble` holds.
_TROUBLED = "status IN ('FAILURE', 'UNKNOWN', 'INVALID')"
_TROUBLES = {IngestStatus.FAILURE, IngestStatus.UNKNOWN, IngestStatus.INVALID}


class IngestState(Table):
    """Where one file stands with one target.

    Attributes
    ----------
    attempts : `int`
        Attempts that count, since a person last made it due.
    next_try_at : `datetime.datetime` or `None`
        When it is tried again.
    claim : `int` or `None`
        The run that has claimed it; set while it is PENDING.
    parts_done : `str`
        JSON list of the parts that a plugin has finished, or ''.
    changed_at : `datetime.datetime`
        When its status last changed.
    message : `str`
        That of the last event, or `OTHER_CONTENT`.
    """

    file_id = peewee.BigIntegerField()
    target_id = peewee.BigIntegerField()
    status = peewee.TextField()
    attempts = peewee.IntegerField(default=0)
    next_try_at = TimeField(null=True)
    claim = peewee.BigIntegerField(null=True)
    parts_done = peewee.TextField(default="")
    changed_at = TimeField()
    message = peewee.TextField(default="")

    class Meta:
        """For Peewee."""

        primary_key = peewee.CompositeKey("file_id", "target_id")

    @classmethod
    def arrive(
        cls,
        file_ids: Sequence[int],
        storage: str,
        run_id: int | None = None,
        status: IngestStatus = IngestStatus.UNTRIED,
        targets: Sequence[int] | None = None,
    ) -> None:
        """Make files due for each target of their storage, in the transaction that stores them.

        A file that is in storage again is due again where it was INVALID, and at once where it
        waited.

        Parameters
        ----------
        file_ids : sequence of `int`
            Files that become STORED in this transaction.
        storage : `str`
            Their storage area.
        run_id : `int`, optional
            The pass that stores them, for the history.
        status : `IngestStatus`
            UNTRIED, or BACKFILL for files that the targets are assumed to have.
        targets : sequence of `int`, optional
            Only for these targets.
        """
        if not file_ids:
            return
        if connect.on_postgresql():
            connect.execute("SELECT pg_advisory_xact_lock_shared(?)", [ARRIVALS])
        files, values = bulk.listed(file_ids)
        only, those = "", []
        if targets is not None:
            where, value = bulk.among(targets)
            only, those = f" AND t.id {where}", [value]
        add_states(
            f"SELECT f.number AS file_id, t.id AS target_id FROM {files} f"
            f" CROSS JOIN target t WHERE t.storage = ? AND t.retired_at IS NULL{only}",
            [values, storage, *those],
            status,
            run_id,
        )
        if status is IngestStatus.UNTRIED:
            _revive(file_ids, run_id)

    @classmethod
    def page(
        cls, target_id: int, statuses: Sequence[str], since: datetime | None, after: int, count: int
    ) -> list[tuple[int, str, str, str]]:
        """Return files of a target by status, in order of their ids.

        Parameters
        ----------
        since : `datetime.datetime` or `None`
            Only those whose status changed then or later.
        after : `int`
            Only ids above this one.

        Returns
        -------
        files : `list`
            Id, relpath, filename, message.
        """
        marks = ", ".join("?" for _ in statuses)
        # With its condition word for word, the partial index is used whatever the history.
        troubled = f" AND s.{_TROUBLED}" if set(statuses) <= _TROUBLES else ""
        found = connect.execute(
            "SELECT s.file_id, f.relpath, f.filename, s.message FROM ingest_state s"
            " JOIN file f ON f.id = s.file_id"
            f" WHERE s.target_id = ? AND s.status IN ({marks}){troubled} AND s.file_id > ?"
            + (" AND s.changed_at >= ?" if since else "")
            + " ORDER BY s.file_id LIMIT ?",
            [target_id, *statuses, after, *([bulk.time_value(since)] if since else []), count],
        ).fetchall()
        return [(row[0], row[1], row[2], row[3]) for row in found]

    @classmethod
    def rerun(
        cls, target_id: int, file_ids: Sequence[int], statuses: Iterable[str], why: str
    ) -> int:
        """Make files due again that have one of the statuses; attempts count from 0.

        Returns
        -------
        count : `int`
            Number of files made due.
        """
        return cls._by_hand(target_id, file_ids, statuses, IngestStatus.RERUN, why)

    @classmethod
    def offer_anew(cls, target_id: int, file_ids: Sequence[int], why: str) -> None:
        """Make files due again that have other content, in the transaction that records it.

        Parts that were done of the old content no longer count. A claimed file becomes due again
        when its pass has recorded the result of the old content (`OTHER_CONTENT`). Files that are
        due already, or ignored, stay so.
        """
        if not file_ids:
            return
        where, values = bulk.among(file_ids)
        # Locked whatever their status, so that none is claimed or released unnoticed.
        found = connect.execute(
            f"SELECT file_id, status FROM ingest_state WHERE target_id = ? AND file_id {where}"
            f" ORDER BY file_id{connect.for_update()}",
            [target_id, values],
        ).fetchall()
        partly = ("file_id", SQL(f"target_id = {target_id:d}"), SQL("parts_done <> ''"))
        change(cls, [number for number, _ in found], partly, parts_done="")
        claimed = [(number, target_id) for number, was in found if was == IngestStatus.PENDING]
        change(cls, claimed, KEY, before=[IngestStatus.PENDING], message=OTHER_CONTENT)
        cls.rerun(target_id, [number for number, was in found if was in _OVER], _OVER, why)

    @classmethod
    def ignore(
        cls, target_id: int, file_ids: Sequence[int], statuses: Iterable[str], why: str
    ) -> int:
        """Ignore files that have one of the statuses; `rerun` undoes it.

        Returns
        -------
        count : `int`
            Number of files ignored.
        """
        return cls._by_hand(target_id, file_ids, statuses, IngestStatus.IGNORED, why)

    @classmethod
    def _by_hand(
        cls,
        target_id: int,
        file_ids: Sequence[int],
        statuses: Iterable[str],
        becomes: IngestStatus,
        why: str,
    ) -> int:
        asked = [IngestStatus(status) for status in statuses]
        if IngestStatus.PENDING in asked:
            raise ImpossibleTransition("only the pass that claimed a file may change its status")
        where, values = bulk.among(file_ids)
        marks = ", ".join("?" for _ in asked)
        found = connect.execute(
            f"SELECT file_id, status FROM ingest_state WHERE target_id = ? AND file_id {where}"
            f" AND status IN ({marks}) ORDER BY file_id{connect.for_update()}",
            [target_id, values, *asked],
        ).fetchall()
        now = connect.now()
        due = now if becomes is IngestStatus.RERUN else None
        pairs = [(file_id, target_id) for file_id, _ in found]
        cls.become(becomes, pairs, asked, now, why, attempts=0, next_try_at=due)
        return len(found)

    @classmethod
    def become(
        cls,
        becomes: IngestStatus,
        pairs: Sequence[tuple[int, int]],
        before: Collection[IngestStatus],
        when: datetime,
        why: str,
        *,
        events_of: tuple[int | None, int] = (None, 0),
        **values: Any,
    ) -> None:
        """Change the status of rows that the current transaction has locked, and record events.

        Parameters
        ----------
        pairs : sequence
            File and target of each row.
        before : collection of `IngestStatus`
            The statuses that they may have.
        events_of : `tuple`
            The pass, if one does it, and the number of its first event.
        **values
            Further columns that change.
        """
        why = bulk.clean(why)
        change(
            cls, pairs, KEY, before=before, becomes=becomes, changed_at=when, message=why, **values
        )
        run_id, number = events_of
        IngestEvent.record(
            [
                (*pair, becomes, when, None, "", why, run_id, number + at if run_id else 0)
                for at, pair in enumerate(pairs)
            ]
        )


class IngestEvent(Table):
    """One change of status: append-only history.

    Attributes
    ----------
    start_time : `datetime.datetime`
        When the attempt or change began (UTC).
    duration : `float` or `None`
        Seconds of the attempt.
    version : `str`
        What ingested it.
    run_id : `int` or `None`
        The pass; `None` for a command of an operator.
    number : `int`
        Unique within the pass, so that a repeated transaction writes once.
    """

    id = peewee.BigAutoField()
    file_id = peewee.BigIntegerField()
    target_id = peewee.BigIntegerField()
    status = peewee.TextField()
    start_time = TimeField()
    duration = peewee.DoubleField(null=True)
    version = peewee.TextField(default="")
    message = peewee.TextField(default="")
    run_id = peewee.BigIntegerField(null=True)
    number = peewee.IntegerField()

    @classmethod
    def record(cls, rows: Sequence[tuple[object, ...]]) -> None:
        """Append events: tuples of all columns but ``id``, in their order."""
        bulk.insert(
            cls,
            (
                *("file_id", "target_id", "status", "start_time", "duration", "version"),
                *("message", "run_id", "number"),
            ),
            rows,
            # Of any index: in partitions, each has one of its own for (run_id, number).
            "ON CONFLICT DO NOTHING",
        )

    @classmethod
    def last_messages(cls, target_id: int, file_ids: Sequence[int]) -> dict[int, str]:
        """Return the last message of files before they were claimed."""
        where, values = bulk.among(file_ids)
        return dict(
            connect.execute(
                f"SELECT file_id, message FROM ingest_event WHERE file_id {where}"
                " AND target_id = ? AND status <> 'PENDING' ORDER BY id",
                [values, target_id],
            ).fetchall()
        )

    @classmethod
    def thin(cls, before: datetime, most: int) -> tuple[int, bool]:
        """Delete old events that later ones, as old, have replaced; in the current transaction.

        Of each file and target the latest event stays, and every event since `before`.

        Parameters
        ----------
        before : `datetime.datetime`
        most : `int`
            How many events to look at, after those that an earlier call looked at.

        Returns
        -------
        count : `int`
            How many were deleted.
        more : `bool`
            Whether further events may be as old.
        """
        row = Thinned.get_or_none(Thinned.history == cls._meta.table_name)
        after = row.position if row else 0
        page = connect.execute(
            "SELECT id, start_time FROM ingest_event WHERE id > ? ORDER BY id LIMIT ?",
            [after, most],
        ).fetchall()
        old = [number for number, start in page if bulk.read_moment(start) < before]
        if not old:
            return 0, False
        when = bulk.time_value(before)
        count = connect.execute(
            "DELETE FROM ingest_event WHERE id IN (SELECT e.id FROM (SELECT file_id, target_id,"
            " max(id) AS newest FROM ingest_event WHERE id > ? AND id <= ? AND start_time < ?"
            " GROUP BY file_id, target_id) AS last JOIN ingest_event AS e"
            " ON e.file_id = last.file_id AND e.target_id = last.target_id AND e.id < last.newest"
            " AND e.start_time < ?)",
            [after, old[-1], when, when],
        ).rowcount
        Thinned.replace_position(cls._meta.table_name, old[-1])
        return int(count), len(page) == most

    @classmethod
    def last_number(cls, run_id: int) -> int:
        """Return the highest number of a pass's events; 0 if it has none."""
        return int(
            connect.execute(
                "SELECT coalesce(max(number), 0) FROM ingest_event WHERE run_id = ?", [run_id]
            ).fetchone()[0]
        )


class Thinned(Table):
    """How far a history was thinned.

    Attributes
    ----------
    history : `str`
        The table.
    position : `int`
        The id of the last row that was looked at.
    """

    history = peewee.TextField(primary_key=True)
    position = peewee.BigIntegerField()

    @classmethod
    def replace_position(cls, history: str, position: int) -> None:
        """Record how far a history was thinned."""
        cls.insert(history=history, position=position).on_conflict(
            conflict_target=[cls.history], update={cls.position: position}
        ).execute()


def add_states(pairs: str, values: list[object], status: IngestStatus, run_id: int | None) -> None:
    """Insert states and events for the (file_id, target_id) of a query that have none."""
    require_possible("ingest_state", None, status)
    now = bulk.time_value(connect.now())
    first = 0 if run_id is None else IngestEvent.last_number(run_id)
    time = "TIMESTAMP" if connect.on_postgresql() else "TEXT"
    number = (
        "0"
        if run_id is None
        else "CAST(? AS BIGINT) + row_number() OVER (ORDER BY p.target_id, p.file_id)"
    )
    connect.execute(
        "INSERT INTO ingest_state (file_id, target_id, status, changed_at)"
        f" SELECT p.file_id, p.target_id, ?, CAST(? AS {time}) FROM ({pairs}) p WHERE true"
        " ON CONFLICT (file_id, target_id) DO NOTHING",
        [status, now, *values],
    )
    connect.execute(
        "INSERT INTO ingest_event (file_id, target_id, status, start_time, run_id, number)"
        f" SELECT p.file_id, p.target_id, ?, CAST(? AS {time}), CAST(? AS BIGINT), {number}"
        f" FROM ({pairs}) p"
        " WHERE NOT EXISTS (SELECT 1 FROM ingest_event e"
        " WHERE e.file_id = p.file_id AND e.target_id = p.target_id)"
        " ORDER BY p.target_id, p.file_id",
        [status, now, run_id, *([] if run_id is None else [first]), *values],
    )


def _revive(file_ids: Sequence[int], run_id: int | None) -> None:
    """Make due what was INVALID or waited because storage did not have it."""
    now = connect.now()
    where, values = bulk.among(file_ids)
    connect.execute(
        f"UPDATE ingest_state SET next_try_at = ? WHERE file_id {where} AND next_try_at > ?",
        [bulk.time_value(now), values, bulk.time_value(now)],
    )
    found = connect.execute(
        f"SELECT file_id, target_id FROM ingest_state WHERE file_id {where}"
        " AND status = 'INVALID' AND target_id IN"
        " (SELECT id FROM target WHERE retired_at IS NULL) ORDER BY target_id, file_id",
        [values],
    ).fetchall()
    if not found:
        return
    IngestState.become(
        IngestStatus.UNTRIED,
        found,
        [IngestStatus.INVALID],
        now,
        "storage has the file again",
        events_of=(run_id, 0 if run_id is None else IngestEvent.last_number(run_id) + 1),
        attempts=0,
    )
