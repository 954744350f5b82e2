"""What all tables share: their database, their fields of times, and Peewee's untyped edges."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeAlias

import peewee

#: Bound once, by `dbbbatch.database.connect.connect`.
database = peewee.DatabaseProxy()

#: A `peewee.Database`, most of whose methods have no types in Peewee's stubs.
AnyDatabase: TypeAlias = Any

#: Context in which errors of the driver become Peewee's; not in Peewee's type stubs.
driver_errors: Any = vars(peewee)["__exception_wrapper__"]


@contextmanager
def errors_of_rows() -> Iterator[None]:
    """Turn errors of the driver that come from reading rows into Peewee's, which stay as they are.

    Peewee itself does so only while a statement is carried out.
    """
    try:
        yield
    except peewee.PeeweeException:
        raise
    except Exception:
        with driver_errors:
            raise


def is_postgresql(database: AnyDatabase) -> bool:
    """Return whether a database is PostgreSQL, and not SQLite."""
    return isinstance(database, peewee.PostgresqlDatabase)


class Table(peewee.Model):
    """Base of every table."""

    class Meta:
        """For Peewee."""

        database = database
        legacy_table_names = False

    @classmethod
    def get_or_create(cls, **values: Any) -> tuple[Any, bool]:
        """Return the row of these values, and whether it was made now: Peewee's, with types."""
        untyped: Any = super()
        found: tuple[Any, bool] = untyped.get_or_create(**values)
        return found


class TimeField(peewee.DateTimeField):
    """A time: UTC without a time zone, on both databases.

    SQLite keeps it as text of one form and width, so that the order of texts is that of times.
    """

    def db_value(self, value: datetime | None) -> Any:
        """Return a time as the database keeps it; one with a zone is converted to UTC."""
        if value is None:
            return None
        if value.tzinfo is not None:
            value = value.astimezone(UTC).replace(tzinfo=None)
        if is_postgresql(database.obj):
            return value
        return time_text(value)


def time_text(value: datetime) -> str:
    """Return the text as which SQLite keeps a time: ``YYYY-MM-DD HH:MM:SS.ffffff``."""
    return value.isoformat(sep=" ", timespec="microseconds")
