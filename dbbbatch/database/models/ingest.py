"""Targets, the current status of each (file, target), and the history of it.

A status is changed only by the methods here and in `dbbbatch.database.models.claim`, each of which
writes state and event together and is called inside a transaction (`connect.transact`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

import peewee

from dbbbatch.database import bulk, connect
from dbbbatch.database.base import Table, TimeField
from dbbbatch.errors import ConfigError

#: PostgreSQL's advisory lock: shared by transactions that store files, whole for adding a target.
_TARGETS_LOCK = 0x646262_02


class Status(StrEnum):
    """Where a file stands with a target."""

    #: Stored, and never offered to this target; or offered, when the target was not to be had.
    UNTRIED = "UNTRIED"
    #: A pass has it in hand (`IngestState.claim`).
    PENDING = "PENDING"
    #: The target holds it.
    SUCCESS = "SUCCESS"
    #: Went wrong; tried again at `next_try_at`, or waits for a person where that is empty.
    FAILURE = "FAILURE"
    #: The plugin or the pass died with it in hand: whether the target holds it is not known.
    UNKNOWN = "UNKNOWN"
    #: Not wanted: by the patterns of the configuration, or by an operator.
    IGNORED = "IGNORED"
    #: Can never be ingested: empty, gone from storage, or so says the plugin.
    INVALID = "INVALID"
    #: To be offered again because an operator asked for it.
    RERUN = "RERUN"
    #: Was in storage, and in the target as far as anybody knows, before this database was.
    BACKFILL = "BACKFILL"


#: Every change of status that there is, and what causes it. `docs/ingests.md` shows this table.
TRANSITIONS: dict[tuple[Status | None, Status], str] = {
    (None, Status.UNTRIED): "the file is stored, or the target is added",
    (None, Status.BACKFILL): "`dbb backfill` records a file that was there before",
    (Status.UNTRIED, Status.PENDING): "a pass takes it",
    (Status.RERUN, Status.PENDING): "a pass takes it",
    (Status.FAILURE, Status.PENDING): "a pass takes it, once its wait is over",
    (Status.UNKNOWN, Status.PENDING): "a pass takes it, once its wait is over",
    (Status.PENDING, Status.SUCCESS): "ingested now, or the target held it already",
    (Status.PENDING, Status.FAILURE): "refused, or partly done, or attempts are used up",
    (Status.PENDING, Status.UNKNOWN): "the plugin or the pass ended with the file in hand",
    (Status.PENDING, Status.INVALID): "never to be ingested",
    (Status.PENDING, Status.UNTRIED): "the target was not to be had, or the pass stopped before it",
    (Status.PENDING, Status.RERUN): "the target was not to be had, or the pass stopped before it",
    (Status.UNTRIED, Status.IGNORED): "`include` and `exclude`, or `dbb ignore`",
    (Status.RERUN, Status.IGNORED): "`include` and `exclude`, or `dbb ignore`",
    (Status.FAILURE, Status.IGNORED): "`include` and `exclude`, or `dbb ignore`",
    (Status.UNKNOWN, Status.IGNORED): "`include` and `exclude`, or `dbb ignore`",
    (Status.INVALID, Status.IGNORED): "`dbb ignore`",
    (Status.BACKFILL, Status.IGNORED): "`dbb ignore`",
    (Status.UNTRIED, Status.RERUN): "`dbb retry`",
    (Status.SUCCESS, Status.RERUN): "`dbb retry`",
    (Status.FAILURE, Status.RERUN): "`dbb retry`",
    (Status.UNKNOWN, Status.RERUN): "`dbb retry`",
    (Status.INVALID, Status.RERUN): "`dbb retry`",
    (Status.IGNORED, Status.RERUN): "`dbb retry`",
    (Status.BACKFILL, Status.RERUN): "`dbb retry`",
}


class ImpossibleTransition(Exception):
    """A change of status that the state machine does not know: a mistake in this program."""


def must_be_possible(was: str | None, becomes: str) -> None:
    """Refuse a change of status that `TRANSITIONS` does not list."""
    if (was, becomes) not in TRANSITIONS:
        raise ImpossibleTransition(f"{was} cannot become {becomes}")


class Target(Table):
    """One ingester, with the storage area that it reads.

    Attributes
    ----------
    retired_at : `datetime.datetime` or `None`
        Since when no file is offered to it any more. Its history stays.
    """

    id = peewee.BigAutoField()
    site = peewee.TextField()
    name = peewee.TextField()
    storage = peewee.TextField()
    plugin = peewee.TextField()
    created_at = TimeField()
    retired_at = TimeField(null=True)

    @classmethod
    def named(cls, site: str, name: str) -> Target | None:
        """Give a target of a site, if it was ever added."""
        found: Target | None = cls.get_or_none(site=site, name=name)
        return found

    @classmethod
    def ensure(cls, site: str, name: str, storage: str, plugin: str, run_id: int) -> Target:
        """Give a target; the first time, add it, and make due all that its storage holds already.

        Raises
        ------
        ConfigError
            If it is retired, or was added with another storage area.
        """
        target = cls.named(site, name)
        if target is None:
            _exclude_arrivals()
            target, _ = cls.get_or_create(
                site=site,
                name=name,
                defaults={"storage": storage, "plugin": plugin, "created_at": connect.now()},
            )
            target.catch_up(run_id)
        target._must_fit(storage)
        if target.plugin != plugin:
            target.plugin = plugin
            target.save()
        return target

    def _must_fit(self, storage: str) -> None:
        if self.retired_at is not None:
            raise ConfigError(
                f"target.{self.name} was retired on {self.retired_at:%Y-%m-%d}: take its ingester "
                f"out of the crontab, or bring it back by `dbb target retire --undo {self.name}`"
            )
        if self.storage != storage:
            raise ConfigError(
                f"[target.{self.name}] storage: is {storage}, but this target was added for "
                f"{self.storage}; another storage area needs a target of another name"
            )

    def catch_up(self, run_id: int | None) -> None:
        """Make due all files of its storage that it knows nothing of.

        Called under the lock that keeps transactions away which store files.
        """
        _add_states(
            "SELECT f.id AS file_id, t.id AS target_id FROM target t"
            " JOIN file f ON f.storage = t.storage AND f.status = 'STORED' WHERE t.id = ?",
            [self.id],
            Status.UNTRIED,
            run_id,
        )

    def retire(self) -> None:
        """Offer no more files to it; its states and history stay."""
        if self.retired_at is None:
            self.retired_at = connect.now()
            self.save()

    def restore(self) -> None:
        """Undo `retire`; what was stored meanwhile becomes due."""
        _exclude_arrivals()
        self.retired_at = None
        self.save()
        self.catch_up(None)


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
        What the last event said.
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
        status: Status = Status.UNTRIED,
    ) -> None:
        """Make files due for each target of their storage; in the transaction that stores them.

        Parameters
        ----------
        file_ids : sequence of `int`
            Files that become STORED in this transaction. Doing it twice equals doing it once.
        storage : `str`
            Their storage area.
        run_id : `int`, optional
            The pass that stores them, for the history.
        status : `Status`
            UNTRIED, or BACKFILL for files that are taken to be ingested.
        """
        if not file_ids:
            return
        if connect.on_postgresql():
            connect.execute("SELECT pg_advisory_xact_lock_shared(?)", [_TARGETS_LOCK])
        files, values = bulk.listed(file_ids)
        _add_states(
            f"SELECT f.number AS file_id, t.id AS target_id FROM {files} f"
            " CROSS JOIN target t WHERE t.storage = ? AND t.retired_at IS NULL",
            [values, storage],
            status,
            run_id,
        )

    @classmethod
    def rerun(
        cls, target: Target, file_ids: Sequence[int], statuses: Iterable[str], why: str
    ) -> int:
        """Make files due again because a person asked for it; their attempts begin anew.

        Returns
        -------
        count : `int`
            How many it is that had one of the statuses.
        """
        return cls._by_hand(target, file_ids, statuses, Status.RERUN, why)

    @classmethod
    def ignore(
        cls, target: Target, file_ids: Sequence[int], statuses: Iterable[str], why: str
    ) -> int:
        """Offer files no more because a person asked for it; `rerun` undoes it.

        Returns
        -------
        count : `int`
            How many it is that had one of the statuses.
        """
        return cls._by_hand(target, file_ids, statuses, Status.IGNORED, why)

    @classmethod
    def _by_hand(
        cls,
        target: Target,
        file_ids: Sequence[int],
        statuses: Iterable[str],
        becomes: Status,
        why: str,
    ) -> int:
        asked = [Status(status) for status in statuses]
        for status in asked:
            must_be_possible(status, becomes)
            if status is Status.PENDING:
                raise ImpossibleTransition("a pass has it in hand: only that pass may change it")
        where, values = bulk.among(file_ids)
        marks = ", ".join("?" for _ in asked)
        lock = " FOR UPDATE" if connect.on_postgresql() else ""
        found = connect.execute(
            f"SELECT file_id, status FROM ingest_state WHERE target_id = ? AND file_id {where}"
            f" AND status IN ({marks}) ORDER BY file_id{lock}",
            [target.id, values, *asked],
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
                (file_id, target.id, becomes, now if becomes is Status.RERUN else None, now, why)
                for file_id, _ in found
            ],
        )
        IngestEvent.record(
            [(file_id, target.id, becomes, now, None, "", why, None, 0) for file_id, _ in found]
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
    def last_number(cls, run_id: int) -> int:
        """Give the highest number of a pass's events; 0 if it has none."""
        return int(
            connect.execute(
                "SELECT coalesce(max(number), 0) FROM ingest_event WHERE run_id = ?", [run_id]
            ).fetchone()[0]
        )


def _exclude_arrivals() -> None:
    # SQLite's transactions exclude each other anyhow.
    if connect.on_postgresql():
        connect.execute("SELECT pg_advisory_xact_lock(?)", [_TARGETS_LOCK])


def _add_states(pairs: str, values: list[object], status: Status, run_id: int | None) -> None:
    """Insert states, and events, for the (file_id, target_id) of a query that have none."""
    must_be_possible(None, status)
    now = bulk.moment(connect.now())
    first = 0 if run_id is None else IngestEvent.last_number(run_id)
    time = "TIMESTAMP" if connect.on_postgresql() else "TEXT"
    number = (
        "0"
        if run_id is None
        else "CAST(? AS BIGINT) + row_number() OVER (ORDER BY p.target_id, p.file_id)"
    )
    connect.execute(
        "INSERT INTO ingest_event (file_id, target_id, status, start_time, run_id, number)"
        f" SELECT p.file_id, p.target_id, ?, CAST(? AS {time}), CAST(? AS BIGINT), {number}"
        f" FROM ({pairs}) p"
        " WHERE NOT EXISTS (SELECT 1 FROM ingest_state s"
        " WHERE s.file_id = p.file_id AND s.target_id = p.target_id)"
        " ORDER BY p.target_id, p.file_id",
        [status, now, run_id, *([] if run_id is None else [first]), *values],
    )
    connect.execute(
        "INSERT INTO ingest_state (file_id, target_id, status, changed_at)"
        f" SELECT p.file_id, p.target_id, ?, CAST(? AS {time}) FROM ({pairs}) p WHERE true"
        " ON CONFLICT (file_id, target_id) DO NOTHING",
        [status, now, *values],
    )
