"""`dbb storage`: storage areas, and where they are."""

from __future__ import annotations

import os
from contextlib import closing

import click

from dbbbatch.cli import output
from dbbbatch.cli.operator import Operator
from dbbbatch.files import names


@click.group()
def command() -> None:
    """Record that a storage area has moved."""


@command.command("move")
@click.argument("old")
@click.argument("new")
@click.option("--dry-run", is_flag=True, help="Only check whether all files are there.")
@click.pass_obj
def move_command(operator: Operator, old: str, new: str, dry_run: bool) -> None:
    """Record that the storage area OLD is now under the path NEW.

    Change `storage` in the configuration first. All files that the table calls stored must be
    there; nothing is offered again, and all history is kept. Targets follow.
    """
    operator.connect(readonly=dry_run)
    from dbbbatch.passes import relocate
    from dbbbatch.passes.progress import ProgressBar

    old, new = (os.path.normpath(path) for path in (old, new))
    if not dry_run:
        operator.must_own_state()
    with closing(ProgressBar("storage", {}, True)) as bar:
        bar.step(f"look for the files of {old} in {new}")
        if dry_run:
            files = relocate.compare(operator.settings, old, new, bar.advance)[0]
        else:
            files = relocate.relocate(operator.settings, old, new, bar.advance)
    are = "would be" if dry_run else "is"
    output.line(f"{old} {are} {new} now: {names.counted(files, 'file')}")
