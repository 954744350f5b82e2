"""The one way to change columns of rows that exist, among them every status."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from peewee import SQL

from dbbbatch.database import bulk, connect
from dbbbatch.database.base import Table
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

    Returns
    -------
    count : `int`
        Number of rows changed.

    Raises
    ------
    ImpossibleTransition
        If the state machine of the table lists no change from one of `before` to a new status.
    """
    name = table._meta.table_name
    keys = [column for column in where if isinstance(column, str)]
    new = {str(becomes)} if becomes else set()
    if "status" in sets:
        new = {row[len(keys) + list(sets).index("status")] for row in rows}
    if new and name in TRANSITIONS:
        _require_all_possible(name, before, new)
    if not rows:
        return 0

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
    conditions = [condition.sql for condition in where if isinstance(condition, SQL)]
    if before:
        statuses = ", ".join(f"'{status}'" for status in before)
        conditions.append(f"{name}.status IN ({statuses})")
    update = f"UPDATE {name} SET {', '.join(assignments)}"

    if len(keys) == 1 and not sets:
        among, numbers = bulk.among(rows)
        conditions.insert(0, f"{keys[0]} {among}")
        sql = f"{update} WHERE {' AND '.join(conditions)}"
        return int(connect.execute(sql, [*first, numbers]).rowcount)
    # What a row was found by may get a new value, too.
    fields = bulk.fields_of(table, keys)
    columns = {f"old_{key}": field for key, field in fields.items()} | bulk.fields_of(table, sets)
    conditions[:0] = [f"{name}.{key} = new.old_{key}" for key in keys]
    return bulk.for_each(
        f"{update} FROM {{new}} WHERE {' AND '.join(conditions)}", columns, rows, first
    )


def _require_all_possible(table: str, before: Collection[str], new: Collection[str]) -> None:
    if not before:
        raise ValueError(f"{table}: the statuses that a row may come from are not given")
    for was in before:
        for becomes in new:
            require_possible(table, was, becomes)


def _as_value(value: Any) -> Any:
    return bulk.time_value(value) if isinstance(value, datetime) else value
