"""`dbb target`: the targets of the database, and what waits for them."""

from __future__ import annotations

import click

from dbbbatch.cli import output
from dbbbatch.cli.operator import Operator
from dbbbatch.errors import UsageError
from dbbbatch.report.words import time_for_people


@click.group()
def command() -> None:
    """List or retire targets."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def list_targets(operator: Operator, as_json: bool) -> None:
    """Show all targets, also retired ones, and what waits for each."""
    operator.connect(readonly=True)
    from dbbbatch.database import connect
    from dbbbatch.database.models.target import TargetRow

    found = connect.read(TargetRow.backlogs)
    if as_json:
        output.show_json(found)
        return
    output.show_table(
        "Targets",
        [
            "site",
            "target",
            "plugin",
            "storage",
            ">new",
            ">tried again",
            ">claimed",
            ">for a person",
            "oldest new file",
            "retired",
        ],
        [
            [
                one.site,
                one.target,
                one.plugin,
                one.storage,
                str(one.new_files),
                str(one.tried_again),
                str(one.in_hand),
                str(one.for_a_person),
                time_for_people(one.oldest_new_file),
                time_for_people(one.retired_at),
            ]
            for one in found
        ],
    )


@command.command("retire")
@click.argument("name")
@click.option("--undo", is_flag=True, help="Offer it files again, also those stored since.")
@click.pass_obj
def retire(operator: Operator, name: str, undo: bool) -> None:
    """Offer no further files to a target. The history of its files is kept."""
    operator.connect()
    from dbbbatch.database import connect
    from dbbbatch.database.models.target import TargetRow

    name = name.removeprefix("target.")
    target = connect.read(TargetRow.named, operator.site, name)
    if target is None:
        raise UsageError(f"no target {name} of site {operator.site}; `dbb target list` shows them")
    (connect.long_write if undo else connect.write)(target.restore if undo else target.retire)
    output.line(f"target.{name} is {'in use again' if undo else 'retired; its history stays'}")
