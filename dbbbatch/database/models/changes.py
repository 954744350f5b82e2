"""The one way to change columns of rows that exist, among them every status."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from peewee import SQL

from dbbbatch.database import bulk, connect
from dbbbatch.database.base import Table
from dbbbatch.database.models.event import append_events, noted
from dbbbatch.database.models.statuses import TRANSITIONS, require_possible


def change(
    table: type[Table],
    rows: Sequence[Any],
    where: Sequence[str | SQL] = ("id",),
    sets: Sequence[str] = (),
    *,
    before: Collection[StrEnum] = (),
    becomes: StrEnum | None = None,
    **values: Any,
) -> int:
    """Change columns of many rows by one statement, in the current transaction.

    A change of a file's status that no column keeps is also written down as a `FileEvent`.

    Parameters
    ----------
    table : `type` [ `dbbbatch.database.base.Table` ]
        The table.
    rows : sequence
        For each row to be changed its values of the columns of `where`, and then of `sets`; where
        that is one column, the bare value.
    where : sequence of `str` or `peewee.SQL`
        Columns by which a row is found, and further conditions.
    sets : sequence of `str`
        Columns that get a value of their own in each row.
    before : collection of `enum.StrEnum`
        Only rows with one of these statuses are changed; the others are left.
    becomes : `enum.StrEnum`, optional
        The new status of all rows; where it differs, ``status`` is one of `sets`.
    **values
        Columns that get the same value in all rows; a `peewee.SQL` is computed from the old row.
        And `why`, which is no column: the reason for the history; by default the new error.

    Returns
    -------
    count : `int`
        Number of rows changed.

    Raises
    ------
    ImpossibleTransition
        If the state machine of the table lists no change from one of `before` to a new status.
    """
    name, why = table._meta.table_name, str(values.pop("why", ""))
    keys = [column for column in where if isinstance(column, str)]
    new = {str(becomes)} if becomes else set()
    if "status" in sets:
        new = {row[len(keys) + list(sets).index("status")] for row in rows}
    if new and name in TRANSITIONS:
        _require_all_possible(name, before, new)
    if not rows:
        return 0

    conditions = [condition.sql for condition in where if isinstance(condition, SQL)]
    if before:
        statuses = ", ".join(f"'{status}'" for status in before)
        conditions.append(f"{name}.status IN ({statuses})")
    which = _Selected(table, rows, keys, sets, conditions)
    if pairs := noted(name, before, new, every=bool(why)):
        became = f"'{becomes}'" if becomes else "new.status"
        message: Any = why or values.get("error", "")
        from_row = "error" in sets and not why
        text = "COALESCE(new.error, '')" if from_row else "CAST(? AS TEXT)"
        told = [bulk.time_value(connect.now()), *([] if from_row else [message or ""])]
        cases = (f"({name}.status = '{was}' AND {became} = '{then}')" for was, then in pairs)
        which.run(append_events(name, became, text), ", ", told, f"({' OR '.join(sorted(cases))})")

    first: list[Any] = []
    assignments = [f"status = '{becomes}'"] if becomes else []
    assignments += [f"{column} = new.{column}" for column in sets]
    for column, value in values.items():
        if isinstance(value, SQL):
            assignments.append(f"{column} = {value.sql}")
            first += map(_as_value, value.params or ())
        else:
            assignments.append(f"{column} = ?")
            first.append(_as_value(value))
    return which.run(f"UPDATE {name} SET {', '.join(assignments)}", " FROM ", first)


@dataclass(frozen=True)
class _Selected:
    """The rows of a table that a change is about."""

    table: type[Table]
    rows: Sequence[Any]
    keys: Sequence[str]
    sets: Sequence[str]
    conditions: Sequence[str]

    def run(self, begin: str, joined: str, first: Sequence[Any], *further: str) -> int:
        """Run a statement for these rows; return how many it inserted or changed.

        Parameters
        ----------
        begin : `str`
            What comes before the condition, and before the values of each row.
        joined : `str`
            What connects the begin with those values.
        first : sequence
            Values of the ``?`` of the begin.
        *further : `str`
            Further conditions.
        """
        if len(self.keys) == 1 and not self.sets:
            among, numbers = bulk.among(self.rows)
            conditions = [f"{self.keys[0]} {among}", *self.conditions, *further]
            sql = f"{begin} WHERE {' AND '.join(conditions)}"
            return int(connect.execute(sql, [*first, numbers]).rowcount)
        # What a row was found by may get a new value, too.
        fields = bulk.fields_of(self.table, self.keys)
        columns = {f"old_{key}": field for key, field in fields.items()}
        columns |= bulk.fields_of(self.table, self.sets)
        name = self.table._meta.table_name
        conditions = [f"{name}.{key} = new.old_{key}" for key in self.keys]
        conditions += [*self.conditions, *further]
        where = " AND ".join(conditions)
        return bulk.for_each(f"{begin}{joined}{{new}} WHERE {where}", columns, self.rows, first)


def _require_all_possible(table: str, before: Collection[str], new: Collection[str]) -> None:
    if not before:
        raise ValueError(f"{table}: the statuses that a row may come from are not given")
    for was in before:
        for becomes in new:
            require_possible(table, was, becomes)


def _as_value(value: Any) -> Any:
    return bulk.time_value(value) if isinstance(value, datetime) else value
