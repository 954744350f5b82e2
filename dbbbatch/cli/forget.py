"""`dbb forget`: take a file out of the truth about storage."""

from __future__ import annotations

import sys

import click

from dbbbatch.cli import by_hand, output
from dbbbatch.cli.backfill import finder_of
from dbbbatch.cli.dbb import Operator
from dbbbatch.errors import TryLater, UsageError
from dbbbatch.files import names


@click.command()
@click.argument("label", metavar="finder.NAME")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--remove", is_flag=True, help="Remove it from storage as well, for good.")
@click.option("--yes", is_flag=True, help="Do not ask before removing.")
@click.pass_obj
def command(
    operator: Operator, label: str, files: tuple[str, ...], remove: bool, yes: bool
) -> None:
    """Take each FILE, a path in the storage of finder.NAME or relative to it, out of the truth.

    Storage must not have it any more, or --remove takes it away; a link or a directory in its place
    is not followed, and stays. What happened to it stays in the history. No ingester is offered it
    any more; that a target holds it is not changed.
    """
    finder = finder_of(operator, label)
    if remove and not yes:
        if not sys.stdin.isatty():
            raise UsageError("--remove asks before it removes: without a terminal add --yes")
        shown = ", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
        click.confirm(names.harmless(f"Remove {shown} from {finder.storage} for good?"), abort=True)
    operator.connect()
    from dbbbatch.passes.forget import NotNow, forget

    why = f"`dbb forget` by {by_hand.who()}"
    refused, later = [], []
    for file in files:
        rel = file.removeprefix(f"{finder.storage}/")
        try:
            output.line(forget(operator.settings.site.name, finder, rel, remove, why))
        except UsageError as error:
            refused.append(str(error))
        except NotNow as error:
            later.append(str(error))
        except TryLater as error:
            later.append(f"{error}; {names.printable(file)} and what follows it were left")
            break
    if later:
        raise TryLater(*refused, *later)
    if refused:
        raise UsageError(*refused)
