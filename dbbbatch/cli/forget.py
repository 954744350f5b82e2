"""`dbb forget`: record that a file is no longer in storage."""

from __future__ import annotations

import sys

import click

from dbbbatch.cli import by_hand, output
from dbbbatch.cli.operator import Operator
from dbbbatch.errors import TryLater, UsageError
from dbbbatch.files import names


@click.command()
@click.argument("label", metavar="finder.NAME")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--remove", is_flag=True, help="Also remove it from storage, for good.")
@click.option("--yes", is_flag=True, help="Do not ask before removing.")
@click.pass_obj
def command(
    operator: Operator, label: str, files: tuple[str, ...], remove: bool, yes: bool
) -> None:
    """Record that FILE, a path in the storage of finder.NAME or relative to it, is gone for good.

    Storage must no longer have it, or --remove removes it; a link or a directory in its place is
    not followed, and stays. Its history is kept. It is offered to no ingester again; what a target
    holds of it is not changed.
    """
    finder = operator.finder(label)
    if remove and not yes:
        if not sys.stdin.isatty():
            raise UsageError("--remove asks before it removes; without a terminal, add --yes")
        shown = ", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
        click.confirm(names.harmless(f"Remove {shown} from {finder.storage} for good?"), abort=True)
    operator.connect()
    from dbbbatch.passes.forget import NotNow, forget

    why = f"`dbb forget` by {by_hand.user_and_host()}"
    refused, later = [], []
    for file in files:
        rel = file.removeprefix(f"{finder.storage}/")
        try:
            output.line(forget(operator.site, finder, rel, remove, why))
        except UsageError as error:
            refused.append(str(error))
        except NotNow as error:
            later.append(str(error))
        except TryLater as error:
            later.append(f"{error}; {names.printable(file)} and the files after it were not tried")
            break
    if later:
        raise TryLater(*refused, *later)
    if refused:
        raise UsageError(*refused)
