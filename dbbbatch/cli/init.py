"""`dbb init`: make the database fit this version, and mark storage areas as mounted."""

import os
from collections.abc import Iterator
from pathlib import Path

import click

from dbbbatch.cli import output
from dbbbatch.cli.operator import Operator
from dbbbatch.config import fields
from dbbbatch.config.sections import Finder
from dbbbatch.errors import ConfigError, DbbError, TryLater, user
from dbbbatch.files import names, state
from dbbbatch.files.tree import Tree


@click.command()
@click.option(
    "--partition-events",
    is_flag=True,
    help="Divide the history of ingests by years, or add the next years (PostgreSQL).",
)
@click.pass_obj
def command(operator: Operator, partition_events: bool) -> None:
    """Create or upgrade the database of the configuration; can be run any number of times.

    Also makes the state directory, and in each storage area of a finder the file that proves that
    it is mounted. Make sure that it is. Where `storage` of a finder and its targets has changed,
    and all files of the old storage area are in the new one, the table follows.
    """
    from dbbbatch.database import connect

    settings = operator.settings
    operator.must_own_state()
    try:
        # The directories above it get the usual permissions.
        os.makedirs(settings.site.state, state.DIRECTORY_MODE, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{settings.path}: [site] state: {settings.site.state} cannot be made by user "
            f"{user()}: {error.strerror}; make it for the user that runs the scripts"
        ) from None
    applied = connect.upgrade(settings.database)
    what = f"applied {', '.join(applied)}" if applied else "is up to date"
    output.line(f"{fields.without_password(settings.database.url)}: {what}")
    if partition_events:
        from dbbbatch.database import partitions

        output.line(f"ingest_event: {', '.join(partitions.partition_events())}")
    from dbbbatch.passes import relocate

    for old, new in relocate.candidates(settings):
        try:
            files = names.counted(relocate.relocate(settings, old, new), "file")
            output.line(f"{old}: is {new} now, as the configuration says: {files}")
        except DbbError as error:
            # It may be another storage area, not the same one under a new path.
            output.line(
                f"{old}: the table knows this storage area, and no section has it; {new} is not "
                f"assumed to be the same ({error.problems[-1]})"
            )
    for finder in settings.finder.values():
        for path in _mark_mounted(finder):
            output.line(f"{path}: made; it marks this storage area as mounted")
    if wrong := [
        problem
        for label, problems in settings.wrong.items()
        if label.startswith("finder.")
        for problem in problems
    ]:
        raise ConfigError(*dict.fromkeys(wrong))


def _mark_mounted(finder: Finder) -> Iterator[Path]:
    """Make the sentinel of a storage area, unless it is there; yield it if it was made."""
    from dbbbatch.database import connect

    path = Path(finder.storage, finder.sentinel)
    if os.path.lexists(path):
        return
    where = f"[{finder.label}] storage {finder.storage}"
    known = connect.execute("SELECT 1 FROM file WHERE storage = ? LIMIT 1", [finder.storage])
    if known.fetchone():
        raise TryLater(
            f"{where}: the database knows files of it, but {finder.sentinel} is not there: it "
            "looks unmounted (if it is not, make an empty file of that name)"
        )
    try:
        with Tree(finder.storage) as storage:
            os.close(storage.create(finder.sentinel, 0o666))
    except FileNotFoundError:
        raise TryLater(
            f"{where}: does not exist; make or mount it, and run `dbb init` again"
        ) from None
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror}") from None
    yield path
