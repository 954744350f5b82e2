"""One statement for many rows, on either database: what makes thousands of files a second possible.

PostgreSQL is sent one statement with an array for each column, which it reads as a table named
``new``; SQLite runs a prepared statement for each row, with the row's values where the statement
has columns of ``new``. The columns have the types of Peewee fields.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import peewee

from dbbbatch.database import connect
from dbbbatch.database.base import Table, TimeField, time_text
from dbbbatch.errors import ConfigError

#: Name to field of each column of ``new``.
Columns = Mapping[str, "peewee.Field[Any]"]

#: PostgreSQL's name for the type of a field.
_ARRAY_TYPES = {
    "BIGAUTO": "bigint",
    "BIGINT": "bigint",
    "DATETIME": "timestamp",
    "DOUBLE": "double precision",
    "INT": "integer",
    "TEXT": "text",
}


def for_each(
    statement: str, columns: Columns, rows: Sequence[Sequence[Any]], first: Sequence[Any] = ()
) -> int:
    """Run a statement for many rows, in the current transaction.

    Parameters
    ----------
    statement : `str`
        An INSERT or UPDATE in which ``{new}`` stands where its FROM names the rows, alone or last,
        with a WHERE or nothing after it, as in
        ``UPDATE file SET error = new.error FROM {new} WHERE file.id = new.id``.
    columns : mapping
        Name to Peewee field of each column of ``new``.
    rows : sequence
        Values in the order of the columns.
    first : sequence
        Values of the ``?`` before ``{new}``.

    Returns
    -------
    count : `int`
        Number of rows inserted or changed.
    """
    if not rows:
        return 0
    if connect.on_postgresql():
        types = [_ARRAY_TYPES[field.field_type] for field in columns.values()]
        arrays = ", ".join(f"?::{kind}[]" for kind in types)
        new = f"unnest({arrays}) AS new ({', '.join(columns)})"
        lists = zip(*rows, strict=True)
        values = [_array(kind, values) for kind, values in zip(types, lists, strict=True)]
        return int(connect.execute(statement.format(new=new), [*first, *values]).rowcount)
    one, used = _of_one_row(statement, columns)
    ready = _with_texts(columns, rows)
    if len(used) < len(columns):
        ready = ([row[at] for at in used] for row in ready)
    if first:
        ready = ((*first, *row) for row in ready)
    return connect.execute_many(one, ready)


def insert(
    table: type[Table], columns: Sequence[str], rows: Sequence[Sequence[Any]], end: str = ""
) -> None:
    """Insert many rows, in the current transaction.

    Parameters
    ----------
    table : `type` [ `dbbbatch.database.base.Table` ]
        Into which table.
    columns : sequence of `str`
        Names of the columns that get a value.
    rows : sequence
        Values in the order of the columns.
    end : `str`
        What follows, such as ``ON CONFLICT (id) DO NOTHING``.
    """
    into = f"INSERT INTO {table._meta.table_name} ({', '.join(columns)})"
    fields = fields_of(table, columns)
    if connect.on_postgresql():
        values = ", ".join(f"new.{name}" for name in columns)
        for_each(f"{into} SELECT {values} FROM {{new}} WHERE true {end}", fields, rows)
    else:
        # Half the time of a SELECT for each row.
        marks = ", ".join("?" for _ in columns)
        connect.execute_many(f"{into} VALUES ({marks}) {end}", _with_texts(fields, rows))


def fields_of(table: type[Table], columns: Sequence[str]) -> dict[str, peewee.Field[Any]]:
    """Return the fields of columns, by their names."""
    return {name: table._meta.fields[name] for name in columns}


def among(numbers: Sequence[int] | Sequence[str]) -> tuple[str, Any]:
    """Return the end of a condition that a number (or text) is among many, and its one value.

    As in ``where, value = among(ids)`` and ``f"SELECT … WHERE id {where}"``.
    """
    if connect.on_postgresql():
        return "= ANY(?)", list(numbers)
    return "IN (SELECT value FROM json_each(?))", json.dumps(list(numbers))


def listed(numbers: Sequence[int]) -> tuple[str, Any]:
    """Return a table of numbers, with the column ``number``, for a FROM, and its one value."""
    if connect.on_postgresql():
        return "(SELECT unnest(?::bigint[]) AS number)", list(numbers)
    return "(SELECT value AS number FROM json_each(?))", json.dumps(list(numbers))


def time_value(value: datetime | None) -> Any:
    """Return a time (UTC) as a value of a statement."""
    return value if value is None or connect.on_postgresql() else time_text(value)


def time_mark() -> str:
    """Return a mark for a time in a SELECT: there PostgreSQL does not know what a ``?`` is."""
    return f"CAST(? AS {'TIMESTAMP' if connect.on_postgresql() else 'TEXT'})"


def read_moment(value: Any) -> Any:
    """Return a time (UTC) from a row of a statement, or `None`.

    Raises
    ------
    ConfigError
        It is none: in SQLite a column may hold anything.
    """
    if value is None or isinstance(value, datetime):
        return value
    try:
        found = datetime.fromisoformat(value)
    except (ValueError, TypeError):
        found = None
    if found is None or found.tzinfo:
        raise ConfigError(f"the database has {str(value)[:80]!r} where a time (UTC) must be")
    return found


def read_counts(text: str) -> dict[str, int]:
    """Return what a pass counted, from its row of `run`; nothing where that makes no sense."""
    try:
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {what: number for what, number in found.items() if type(number) is int}


def clean(message: str, most: int = 2000) -> str:
    """Return a text fit for a column, whatever is in it: UTF-8, without NUL, at most so long."""
    text = message.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    return text if len(text) <= most else text[: most - 1] + "…"


def _of_one_row(statement: str, columns: Columns) -> tuple[str, list[int]]:
    """Return a statement for many rows as one for SQLite, and which values of a row it takes.

    As a table in the FROM, a row would cost more than all the rest of an UPDATE: SQLite stores what
    it joins before it changes anything.
    """
    begin, end = re.split(r"(?: FROM|,) \{new\}(?= WHERE |$)", statement)
    names = set(re.findall(r"\bnew\.(\w+)", statement))
    numbers = itertools.count(1)
    begin = re.sub(r"\?", lambda _: f"?{next(numbers)}", begin)
    number_of = {name: next(numbers) for name in columns if name in names}
    one = re.sub(r"\bnew\.(\w+)", lambda column: f"?{number_of[column[1]]}", begin + end)
    return one, [at for at, name in enumerate(columns) if name in names]


def _array(kind: str, values: Sequence[Any]) -> str:
    """Return PostgreSQL's literal for an array: psycopg takes ten times as long to write one."""
    if kind == "text":
        elements = (
            "NULL"
            if value is None
            else '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
            for value in values
        )
    else:
        elements = ("NULL" if value is None else str(value) for value in values)
    return "{" + ",".join(elements) + "}"


def _with_texts(columns: Columns, rows: Sequence[Sequence[Any]]) -> Iterable[Sequence[Any]]:
    """Replace times by SQLite's texts; most rows of a batch share theirs."""
    times = [at for at, field in enumerate(columns.values()) if isinstance(field, TimeField)]
    if not times:
        return rows
    texts: dict[Any, Any] = {None: None}

    def replaced(row: Sequence[Any]) -> list[Any]:
        values = list(row)
        for at in times:
            moment = values[at]
            if moment not in texts:
                texts[moment] = time_text(moment)
            values[at] = texts[moment]
        return values

    return map(replaced, rows)
