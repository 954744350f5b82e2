"""Runs of the scripts, and pauses that an operator asked for."""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime

import peewee

from dbbbatch.database import bulk
from dbbbatch.database.base import Table, TimeField

#: Number of rows of its script and section that a pass reads and may remove.
_FEW = 10


class Run(Table):
    """One pass of one script.

    Attributes
    ----------
    script : `str`
        "handoff", "finder", "target", "janitor", …
    name : `str`
        The section's name.
    outcome : `str`
        "running" until the pass ends; then "ok", "failed", "later", "interrupted", "error".
        A pass that was killed stays "running".
    machine, start_ticks : `str`, `int` or `None`
        Which process it was, by `dbbbatch.files.processes`: independent of clocks, unlike
        `process_started`. Older versions left it out.
    counts : `str`
        JSON object: name of what was counted to number.
    """

    id = peewee.BigAutoField()
    site = peewee.TextField()
    script = peewee.TextField()
    name = peewee.TextField()
    host = peewee.TextField()
    pid = peewee.IntegerField()
    process_started = peewee.DoubleField()
    machine = peewee.TextField(default="")
    start_ticks = peewee.BigIntegerField(null=True)
    version = peewee.TextField()
    started = TimeField()
    finished = TimeField(null=True)
    outcome = peewee.TextField()
    exit_code = peewee.IntegerField(null=True)
    counts = peewee.TextField(default="{}")
    message = peewee.TextField(default="")

    def finish(
        self,
        when: datetime,
        outcome: str,
        exit_code: int,
        counts: Mapping[str, int],
        message: str,
        keep: float,
    ) -> None:
        """Record how the pass ended, and remove old rows of its script and section.

        Parameters
        ----------
        keep : `float`
            Seconds for which the rows of passes are kept.
        """
        self.finished = when
        self.outcome = outcome
        self.exit_code = exit_code
        self.counts = json.dumps(dict(counts), sort_keys=True)
        self.message = bulk.clean(message)
        self.save()
        self._forget_old(when, keep)

    @classmethod
    def sites(cls) -> set[str]:
        """Return the sites that have made passes with this database, by one search for each."""
        found: set[str] = set()
        last = ""
        while row := cls.select(cls.site).where(cls.site > last).order_by(cls.site).first():
            found.add(last := row.site)
        return found

    @classmethod
    def last(cls, site: str, script: str, name: str) -> "Run | None":
        """Return the latest pass of a script and section."""
        found: Run | None = (
            cls.select()
            .where(cls.site == site, cls.script == script, cls.name == name)
            .order_by(cls.id.desc())
            .first()
        )
        return found

    def _forget_old(self, now: datetime, keep: float) -> None:
        """Remove a few of the oldest rows: more than the one that each pass adds.

        A row from the future, made while a clock was ahead, goes as one of the past does: when it
        is that far away. A pass that is at work may have it, and this clock may be behind.
        """
        table = type(self)
        mine = (table.site == self.site) & (table.script == self.script) & (table.name == self.name)
        oldest = table.select(table.id, table.started).where(mine).order_by(table.id).limit(_FEW)
        old = [row.id for row in oldest if abs((now - row.started).total_seconds()) >= keep]
        if old := [number for number in old if number != self.id]:
            table.delete().where(table.id.in_(old)).execute()


class Pause(Table):
    """A script and section that an operator has paused.

    Attributes
    ----------
    label : `str`
        KIND.NAME.
    until : `datetime.datetime` or `None`
        When it ends by itself.
    """

    site = peewee.TextField()
    label = peewee.TextField()
    since = TimeField()
    until = TimeField(null=True)
    reason = peewee.TextField(default="")

    class Meta:
        """For Peewee."""

        primary_key = peewee.CompositeKey("site", "label")

    @classmethod
    def begin(
        cls, site: str, label: str, now: datetime, until: datetime | None, reason: str
    ) -> None:
        """Pause a script and section, or change how long it is paused and why."""
        values = {"since": now, "until": until, "reason": reason}
        cls.insert(site=site, label=label, **values).on_conflict(
            conflict_target=[cls.site, cls.label], update=values
        ).execute()

    @classmethod
    def standing(cls, now: datetime) -> Iterable["Pause"]:
        """Return the pauses of all sites that have not ended by themselves."""
        standing: Iterable[Pause] = (
            cls.select()
            .where(cls.until.is_null() | (cls.until > now))
            .order_by(cls.site, cls.label)
        )
        return standing

    @classmethod
    def end(cls, site: str, label: str) -> bool:
        """End a pause, and return whether there was one."""
        return bool(cls.delete().where(cls.site == site, cls.label == label).execute())
