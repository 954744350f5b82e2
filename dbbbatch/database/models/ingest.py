"""The current status of each (file, target), and the history of it.

A status is changed only by the methods here and in `dbbbatch.database.models.claim`, each of which
writes state and event together and is called inside a transaction (`connect.write`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import peewee

from dbbbatch.database import bulk, connect
from dbbbatch.database.base import Table, TimeField
from dbbbatch.database.models.statuses import ImpossibleTransition, IngestStatus, must_be_possible

#: PostgreSQL's advisory lock: shared by transactions that store files, whole for adding a target.
ARRIVALS = 0x646262_02

#: Message of a file in hand whose content changed: what is attempted is the old one.
OTHER_CONTENT = "other content came while it was in hand"

#: Where an ingest begins anew once the file has other content.
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
        Attempts that the file was charged with since it was last made due by a person.
    next_try_at : `datetime.datetime` or `None`
        When it is tried again.
    claim : `int` or `None`
        The run that has it in hand; set while it is PENDING.
    parts_done : `str`
        JSON list of the parts that a plugin has finished, or ''.
    changed_at : `datetime.datetime`
        When its status last changed.
    message : `str`
        What the last event said; `OTHER_CONTENT` on a file in hand whose content changed.
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
        """Make files due for each target of their storage; in the transaction that stores them.

        A file that storage had before and has again is due again where it was INVALID, and at once
        where it waited.

        Parameters
        ----------
        file_ids : sequence of `int`
            Files that become STORED in this transaction. Doing it twice equals doing it once.
        storage : `str`
            Their storage area.
        run_id : `int`, optional
            The pass that stores them, for the history.
        status : `IngestStatus`
            UNTRIED, or BACKFILL for files that are taken to be ingested.
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
        cls,
        target_id: int,
        statuses: Sequence[str],
        since: datetime | None,
        after: int,
        count: int,
    ) -> list[tuple[int, str, str, str]]:
        """Give files of a target by status, in order of their ids.

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
        # Said in its own words, the partial index of the troubled is used whatever the history.
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
        """Make files due again because a person asked for it, or for `why`; attempts begin anew.

        Returns
        -------
        count : `int`
            How many it is that had one of the statuses.
        """
        return cls._by_hand(target_id, file_ids, statuses, IngestStatus.RERUN, why)

    @classmethod
    def offer_anew(cls, target_id: int, file_ids: Sequence[int], why: str) -> None:
        """Make files due again that have other content, in the transaction that records it.

        What parts were done of the old content counts no more. A file in hand stays so, and is due
        again when its pass has told what became of the old content (`OTHER_CONTENT`). What was to
        be offered anyhow, and what is ignored, stays so.
        """
        if not file_ids:
            return
        where, values = bulk.among(file_ids)
        lock = " FOR UPDATE" if connect.on_postgresql() else ""
        # Locked whatever their status, so that none can be taken, or told of, unnoticed.
        found = connect.execute(
            f"SELECT file_id, status FROM ingest_state WHERE target_id = ? AND file_id {where}"
            f" ORDER BY file_id{lock}",
            [target_id, values],
        ).fetchall()
        where, values = bulk.among([file_id for file_id, _ in found])
        connect.execute(
            "UPDATE ingest_state SET parts_done = ''"
            f" WHERE target_id = ? AND file_id {where} AND parts_done <> ''",
            [target_id, values],
        )
        where, values = bulk.among([number for number, was in found if was == IngestStatus.PENDING])
        connect.execute(
            f"UPDATE ingest_state SET message = ? WHERE target_id = ? AND file_id {where}",
            [OTHER_CONTENT, target_id, values],
        )
        cls.rerun(target_id, [number for number, was in found if was in _OVER], _OVER, why)

    @classmethod
    def ignore(
        cls, target_id: int, file_ids: Sequence[int], statuses: Iterable[str], why: str
    ) -> int:
        """Offer files no more because a person asked for it; `rerun` undoes it.

        Returns
        -------
        count : `int`
            How many it is that had one of the statuses.
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
        why = bulk.clean(why)
        asked = [IngestStatus(status) for status in statuses]
        for status in asked:
            must_be_possible(status, becomes)
            if status is IngestStatus.PENDING:
                raise ImpossibleTransition("a pass has it in hand: only that pass may change it")
        where, values = bulk.among(file_ids)
        marks = ", ".join("?" for _ in asked)
        lock = " FOR UPDATE" if connect.on_postgresql() else ""
        found = connect.execute(
            f"SELECT file_id, status FROM ingest_state WHERE target_id = ? AND file_id {where}"
            f" AND status IN ({marks}) ORDER BY file_id{lock}",
            [target_id, values, *asked],
        ).fetchall()
        now = connect.now()
        bulk.for_each(
            "UPDATE ingest_state SET status = new.status, attempts = 0, next_try_at = new.due,"
            " changed_at = new.at, message = new.message FROM {new}"
            " WHERE ingest_state.file_id = new.file_id AND ingest_state.target_id = new.target_id",
            {
                "file_id": "bigint",
                "target_id": "bigint",
                "status": "text",
                "due": "timestamp",
                "at": "timestamp",
                "message": "text",
            },
            [
                (
                    file_id,
                    target_id,
                    becomes,
                    now if becomes is IngestStatus.RERUN else None,
                    now,
                    why,
                )
                for file_id, _ in found
            ],
        )
        IngestEvent.record(
            [(file_id, target_id, becomes, now, None, "", why, None, 0) for file_id, _ in found]
        )
        return len(found)


class IngestEvent(Table):
    """One change of status: append-only history.

    Attributes
    ----------
    start_time : `datetime.datetime`
        When what it tells began (UTC).
    duration : `float` or `None`
        Seconds that the file was in hand.
    version : `str`
        What ingested it.
    run_id : `int` or `None`
        The pass; none where an operator's command did it.
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
        bulk.for_each(
            "INSERT INTO ingest_event (file_id, target_id, status, start_time, duration, version,"
            " message, run_id, number) SELECT new.file_id, new.target_id, new.status,"
            " new.start_time, new.duration, new.version, new.message, new.run_id, new.number"
            " FROM {new} WHERE true ON CONFLICT (run_id, number) DO NOTHING",
            {
                "file_id": "bigint",
                "target_id": "bigint",
                "status": "text",
                "start_time": "timestamp",
                "duration": "double precision",
                "version": "text",
                "message": "text",
                "run_id": "bigint",
                "number": "integer",
            },
            rows,
        )

    @classmethod
    def last_messages(cls, target_id: int, file_ids: Sequence[int]) -> dict[int, str]:
        """Return what was said of files last, before they were taken in hand."""
        where, values = bulk.among(file_ids)
        return dict(
            connect.execute(
                f"SELECT file_id, message FROM ingest_event WHERE file_id {where}"
                " AND target_id = ? AND status <> 'PENDING' ORDER BY id",
                [values, target_id],
            ).fetchall()
        )

    @classmethod
    def last_number(cls, run_id: int) -> int:
        """Return the highest number of a pass's events; 0 if it has none."""
        return int(
            connect.execute(
                "SELECT coalesce(max(number), 0) FROM ingest_event WHERE run_id = ?", [run_id]
            ).fetchone()[0]
        )


def add_states(pairs: str, values: list[object], status: IngestStatus, run_id: int | None) -> None:
    """Insert states, and events, for the (file_id, target_id) of a query that have none."""
    must_be_possible(None, status)
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
    """Make due what was given up or put off because storage did not have it."""
    must_be_possible(IngestStatus.INVALID, IngestStatus.UNTRIED)
    where, values = bulk.among(file_ids)
    now = connect.now()
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
    why = "storage has the file again"
    first = 0 if run_id is None else IngestEvent.last_number(run_id) + 1
    bulk.for_each(
        "UPDATE ingest_state SET status = new.status, attempts = 0, changed_at = new.at,"
        " message = new.message FROM {new}"
        " WHERE ingest_state.file_id = new.file_id AND ingest_state.target_id = new.target_id",
        {
            "file_id": "bigint",
            "target_id": "bigint",
            "status": "text",
            "at": "timestamp",
            "message": "text",
        },
        [(*pair, IngestStatus.UNTRIED, now, why) for pair in found],
    )
    IngestEvent.record(
        [
            (*pair, IngestStatus.UNTRIED, now, None, "", why, run_id, first + at if first else 0)
            for at, pair in enumerate(found)
        ]
    )
