"""`dbb backup`: a consistent copy of an SQLite database, while passes run."""

from __future__ import annotations

import os

import click

from dbbbatch.cli import output
from dbbbatch.cli.operator import Operator, absolute
from dbbbatch.errors import TryLater, UsageError
from dbbbatch.files import names
from dbbbatch.files.tree import outside


@click.command()
@click.argument("file", type=click.Path())
@click.pass_obj
def command(operator: Operator, file: str) -> None:
    """Copy the SQLite database to FILE, which must not exist, while passes run.

    FILE is complete and durable when it appears, with the permissions of the database. To restore,
    stop the passes and move the database away, together with the files of its name and -wal or
    -shm: SQLite would apply those to the other file and damage it. Then put a copy of FILE there
    and run `dbb rebuild`. For PostgreSQL use pg_dump.
    """
    from pathlib import Path

    from dbbbatch.config.sections import is_sqlite, sqlite_path
    from dbbbatch.database import backup
    from dbbbatch.files import place, temporary
    from dbbbatch.files.lock import Lock

    settings = operator.settings
    if not is_sqlite(settings.database.url):
        raise UsageError("the database is PostgreSQL: use pg_dump, which copies it while in use")
    target = absolute(file)
    if os.path.lexists(target):
        raise UsageError(f"{target}: exists already; nothing is overwritten")
    operator.must_own_state()
    database = sqlite_path(settings.database.url)
    # One name for all targets: the next backup removes what a killed one left.
    hidden = temporary.hidden_path(target, os.uname().nodename, "backup", database)
    try:
        with Lock(Path(settings.site.state) / "locks", "backup"):
            operator.connect(readonly=True)
            backup.remove_copy(hidden)
            try:
                backup.copy_database(database, hidden, settings.database.busy_timeout)
                place.sync_file(outside(hidden))
                place.place(outside(hidden), outside(target))
                place.sync_directory(os.path.dirname(target))
            finally:
                backup.remove_copy(hidden)
    except OSError as error:
        where = error.filename or target
        raise TryLater(f"{where}: {error.strerror}; there is no backup") from None
    output.line(f"{target}: {names.counted(os.path.getsize(target), 'byte')}")
