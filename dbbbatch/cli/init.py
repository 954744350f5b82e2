"""`dbb init`: make the database fit this version, and mark storage areas as mounted."""

import os
from pathlib import Path

import click

from dbbbatch.cli import output
from dbbbatch.cli.dbb import Operator
from dbbbatch.config import fields
from dbbbatch.config.load import Settings
from dbbbatch.errors import ConfigError, DbbError, TryLater, user
from dbbbatch.files import state


@click.command()
@click.pass_obj
def command(operator: Operator) -> None:
    """Create or upgrade the database of the configuration; can be run any number of times.

    Also makes the state directory, and in each storage area of a finder the file that proves that
    it is mounted. Make sure that it is. Where `storage` of a finder and its targets has changed,
    and all files of the old storage area are in the new one, the table follows.
    """
    from dbbbatch.database import connect

    settings = operator.settings
    operator.must_own_state()
    try:
        # What is above it is none of ours.
        os.makedirs(settings.site.state, state.DIRECTORY_MODE, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{settings.path}: [site] state: {settings.site.state} cannot be made by user "
            f"{user()}: {error.strerror}; make it for the user that runs the scripts"
        ) from None
    applied = connect.upgrade(settings.database)
    what = f"applied {', '.join(applied)}" if applied else "is up to date"
    output.line(f"{fields.without_password(settings.database.url)}: {what}")
    from dbbbatch.passes import relocate

    for old, new in relocate.candidates(settings):
        try:
            files = relocate.relocate(settings, old, new)
            output.line(f"{old}: is {new} now, as the configuration says: {files} files")
        except DbbError as error:
            # It may be another storage area, and not the same one elsewhere.
            output.line(
                f"{old}: the table knows it, and no section has it; it is not taken for {new} "
                f"({error.problems[-1]})"
            )
    for path in _sentinels(settings):
        output.line(f"{path}: made; its presence says that this storage area is mounted")
    if wrong := [
        problem
        for label, problems in settings.wrong.items()
        if label.startswith("finder.")
        for problem in problems
    ]:
        raise ConfigError(*dict.fromkeys(wrong))


def _sentinels(settings: Settings) -> list[Path]:
    from dbbbatch.database import connect

    made = []
    for finder in settings.finder.values():
        path = Path(finder.storage, finder.sentinel)
        if path.exists():
            continue
        if connect.execute(
            "SELECT 1 FROM file WHERE storage = ? LIMIT 1", [finder.storage]
        ).fetchone():
            raise TryLater(
                f"[finder.{finder.name}] storage {finder.storage}: the database knows files of it, "
                f"but {finder.sentinel} is not there: it looks unmounted (if it is not, make an "
                "empty file of that name)"
            )
        try:
            path.touch(exist_ok=False)
        except FileNotFoundError:
            raise TryLater(
                f"[finder.{finder.name}] storage {finder.storage}: not there; make or mount it, "
                "and run `dbb init` again"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"[finder.{finder.name}] storage {finder.storage}: {error.strerror}"
            ) from None
        made.append(path)
    return made
