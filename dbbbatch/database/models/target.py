"""Targets: one row an ingester, with the storage area that it reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import peewee

from dbbbatch.database import bulk, connect
from dbbbatch.database.base import Table, TimeField
from dbbbatch.database.models.ingest import ARRIVALS, add_states
from dbbbatch.database.models.statuses import IngestStatus
from dbbbatch.errors import ConfigError


@dataclass(frozen=True)
class TargetBacklog:
    """How many files wait for a target."""

    site: str
    target: str
    plugin: str
    storage: str
    retired_at: datetime | None
    new_files: int
    tried_again: int
    in_hand: int
    for_a_person: int
    oldest_new_file: datetime | None


class TargetRow(Table):
    """One ingester, with the storage area that it reads.

    Attributes
    ----------
    retired_at : `datetime.datetime` or `None`
        Since when no file is offered to it. Its history stays.
    """

    id = peewee.BigAutoField()
    site = peewee.TextField()
    name = peewee.TextField()
    storage = peewee.TextField()
    plugin = peewee.TextField()
    created_at = TimeField()
    retired_at = TimeField(null=True)

    class Meta:
        """For Peewee."""

        table_name = "target"

    @classmethod
    def named(cls, site: str, name: str) -> TargetRow | None:
        """Return a target of a site, or `None` if it was never added."""
        found: TargetRow | None = cls.get_or_none(site=site, name=name)
        return found

    @classmethod
    def ensure(cls, site: str, name: str, storage: str, plugin: str, run_id: int) -> TargetRow:
        """Return a target; the first time, add it and make due what its storage holds already.

        Raises
        ------
        ConfigError
            It is retired, or was added with another storage area.
        """
        target = cls.named(site, name)
        if target is None:
            cls.exclude_arrivals()
            target = cls.named(site, name) or cls.create(
                site=site, name=name, storage=storage, plugin=plugin, created_at=connect.now()
            )
            target.catch_up(run_id)
        target.must_fit(storage)
        if target.plugin != plugin:
            target.plugin = plugin
            target.save()
        return target

    def must_fit(self, storage: str) -> None:
        """Raise `ConfigError` if it is retired, or was added with another storage area."""
        if self.retired_at is not None:
            raise ConfigError(
                f"was retired on {self.retired_at:%Y-%m-%d}: remove its crontab line and its "
                f"section, or bring it back by `dbb target retire --undo {self.name}`"
            )
        if self.storage != storage:
            raise ConfigError(
                f"storage is {storage}, but this target was added for {self.storage}; if that has "
                f"moved, `dbb storage move {self.storage} {storage}` records that; another storage "
                "area needs a target of another name"
            )

    def catch_up(self, run_id: int | None) -> None:
        """Make due all stored files of its storage area that have no state for it.

        Called under the lock that excludes transactions that store files.
        """
        add_states(
            "SELECT f.id AS file_id, t.id AS target_id FROM target t"
            " JOIN file f ON f.storage = t.storage AND f.status = 'STORED' WHERE t.id = ?",
            [self.id],
            IngestStatus.UNTRIED,
            run_id,
        )

    @classmethod
    def backlogs(cls) -> list[TargetBacklog]:
        """Return all targets, also retired ones, with the number of files that wait for each."""
        rows = connect.execute(
            "SELECT t.site, t.name, t.plugin, t.storage, t.retired_at, COALESCE(b.new_files, 0),"
            " COALESCE(b.tried_again, 0), COALESCE(b.in_hand, 0), COALESCE(b.for_a_person, 0),"
            " b.oldest_new_file FROM target t"
            " LEFT JOIN ingest_backlog b ON b.site = t.site AND b.target = t.name ORDER BY t.id"
        ).fetchall()
        return [
            replace(
                backlog,
                retired_at=bulk.read_moment(backlog.retired_at),
                oldest_new_file=bulk.read_moment(backlog.oldest_new_file),
            )
            for backlog in (TargetBacklog(*row) for row in rows)
        ]

    @classmethod
    def reading(cls, site: str, storage: str) -> list[str]:
        """Return the targets of a site that read a storage area."""
        return [one.name for one in cls.select().where(cls.site == site, cls.storage == storage)]

    @classmethod
    def readers(cls, storage: str) -> list[tuple[str, str]]:
        """Return site and name of the targets that read a storage area."""
        return [(one.site, one.name) for one in cls.select().where(cls.storage == storage)]

    @classmethod
    def any_reads(cls, storage: str) -> bool:
        """Return whether a target of any site reads a storage area."""
        return bool(cls.select().where(cls.storage == storage).exists())

    @classmethod
    def moved(cls, storage: str, new: str) -> None:
        """Record that a storage area has another path; what is due stays due."""
        cls.update(storage=new).where(cls.storage == storage).execute()

    @staticmethod
    def exclude_arrivals() -> None:
        """Exclude other transactions that store files until this one ends."""
        # Transactions of SQLite exclude each other anyhow.
        if connect.on_postgresql():
            connect.execute("SELECT pg_advisory_xact_lock(?)", [ARRIVALS])

    def retire(self) -> None:
        """Stop offering files to it; its states and history stay."""
        if self.retired_at is None:
            self.retired_at = connect.now()
            self.save()

    def restore(self) -> None:
        """Undo `retire`; what was stored meanwhile becomes due."""
        self.exclude_arrivals()
        self.retired_at = None
        self.save()
        self.catch_up(None)
