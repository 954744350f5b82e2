"""`dbb backup`: a consistent copy of an SQLite database, while passes run."""

from __future__ import annotations

import os

import click

from dbbbatch.cli.dbb import Operator
from dbbbatch.errors import TryLater, UsageError


@click.command()
@click.argument("file", type=click.Path())
@click.pass_obj
def command(operator: Operator, file: str) -> None:
    """Copy the SQLite database to FILE, which must not exist, while passes run.

    FILE is whole and durable when it appears. To restore, stop the passes, put a copy of it where
    the database was, and run `dbb rebuild`. For PostgreSQL use pg_dump.
    """
    from dbbbatch.database import backup, connect
    from dbbbatch.files import place

    settings = operator.settings.database
    if not connect.is_sqlite(settings.url):
        raise UsageError("the database is PostgreSQL: use pg_dump, which copies it while in use")
    target = os.path.abspath(file)
    if os.path.lexists(target):
        raise UsageError(f"{target}: is there already; nothing is overwritten")
    temporary = place.temporary_path(target, f"backup {os.getpid()}")
    try:
        operator.connect(readonly=True)
        backup.copy(connect.sqlite_path(settings.url), temporary, settings.busy_timeout)
        place.sync_file(temporary)
        place.place(temporary, target)
        place.sync_directory(os.path.dirname(target))
    except OSError as error:
        raise TryLater(f"{target}: {error.strerror}; there is no backup") from None
    finally:
        place.remove_if_there(temporary)
    click.echo(f"{target}: {os.path.getsize(target)} bytes")
