"""Leases: which host runs a component, where several share a PostgreSQL database.

A row belongs to a holder until a time by the database's clock, and has another number each time
that a pass takes it. Whoever records something locks the row by its number in the same transaction
(`dbbbatch.database.postgresql`), so it is never taken meanwhile; to renew it needs no such lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import peewee

from dbbbatch.database import connect
from dbbbatch.database.base import Table, TimeField

_NOW = "clock_timestamp() AT TIME ZONE 'UTC'"
_LATER = f"{_NOW} + ? * interval '1 second'"
_HAS_ENDED = f"expires_at + ? * interval '1 second' <= {_NOW}"


class LeaseRow(NamedTuple):
    """Who holds a lease, on which host, and whether it has ended."""

    holder: str
    host: str
    ended: bool


class ComponentLease(Table):
    """The lease of one component of a site.

    Attributes
    ----------
    label : `str`
        KIND.NAME.
    number : `int`
        Of the pass that took it last.
    holder : `str`
        The lock that keeps the passes of a host apart: whoever has that may have the lease at once.
    host : `str`
        The name of that host, for people.
    expires_at : `datetime.datetime`
        When others may take it, unless it is renewed.
    """

    site = peewee.TextField()
    label = peewee.TextField()
    number = peewee.BigIntegerField()
    holder = peewee.TextField()
    host = peewee.TextField()
    expires_at = TimeField()

    class Meta:
        """For Peewee."""

        primary_key = peewee.CompositeKey("site", "label")

    @classmethod
    def take(
        cls, site: str, label: str, holder: str, host: str, seconds: float, spare: float
    ) -> int | None:
        """Take a lease for so many seconds; return its number, `None` if another holder has it.

        Parameters
        ----------
        spare : `float`
            For so many seconds after it ended, the lease of another holder is left to that one.
        """
        # A row that is locked is in use; but if it is ours, by a pass that has died.
        for locking in (" SKIP LOCKED", ""):
            row = connect.execute(
                "WITH found AS (SELECT site, label FROM component_lease WHERE site = ? AND"
                f" label = ? AND (holder = ? OR {_HAS_ENDED})"
                f" FOR UPDATE{locking})"
                " UPDATE component_lease l SET number = DEFAULT, holder = ?, host = ?,"
                f" expires_at = {_LATER} FROM found"
                " WHERE l.site = found.site AND l.label = found.label RETURNING l.number",
                [site, label, holder, spare, holder, host, seconds],
            ).fetchone()
            if row is None and (other := cls.of(site, label)) is None:
                row = connect.execute(
                    "INSERT INTO component_lease (site, label, holder, host, expires_at)"
                    f" VALUES (?, ?, ?, ?, {_LATER}) ON CONFLICT DO NOTHING RETURNING number",
                    [site, label, holder, host, seconds],
                ).fetchone()
            if row is not None:
                return int(row[0])
            if other is not None and other.holder != holder:
                break
        return None

    @classmethod
    def of(cls, site: str, label: str, spare: float = 0) -> LeaseRow | None:
        """Return who holds a lease, or held it last; `None` if nobody has ever.

        Parameters
        ----------
        spare : `float`
            Seconds after its end for which it has not ended.
        """
        row = connect.execute(
            f"SELECT holder, host, {_HAS_ENDED} FROM component_lease WHERE site = ? AND label = ?",
            [spare, site, label],
        ).fetchone()
        return None if row is None else LeaseRow(*row)

    @classmethod
    def renew(cls, numbers: Sequence[int], seconds: float) -> bool:
        """Extend leases to so many seconds from now; return whether all are still held."""
        renewed = connect.execute(
            f"UPDATE component_lease SET expires_at = {_LATER} WHERE number = ANY(?)",
            [seconds, list(numbers)],
        )
        return int(renewed.rowcount) == len(numbers)
