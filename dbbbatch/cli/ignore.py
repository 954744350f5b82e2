"""`dbb ignore`: leave files alone."""

from __future__ import annotations

from datetime import datetime

import click

from dbbbatch.cli import by_hand
from dbbbatch.cli.dbb import Operator


@click.command()
@by_hand.options
@click.option("--reason", default="", help="Kept in the history.")
@click.pass_obj
def command(
    operator: Operator,
    label: str,
    statuses: tuple[str, ...],
    match: tuple[str, ...],
    since: datetime | None,
    dry_run: bool,
    reason: str,
) -> None:
    """Leave files of KIND.NAME (target.gen3, handoff.latiss) alone, and say how many.

    Which ones must be said by --match, --status or --since. `dbb retry --status IGNORED` undoes it.
    """
    if not (statuses or match or since):
        raise click.UsageError("which files? Give --match, --status or --since ('*' matches all)")
    operator.connect(readonly=dry_run)
    side = by_hand.side(operator, label)
    selection = by_hand.Selection(statuses, match, since, dry_run)
    meant = by_hand.chosen(selection, side.left_alone)
    why = f"`dbb ignore` by {by_hand.who()}" + (f": {reason}" if reason else "")
    count = by_hand.apply(
        side.pages(selection, meant), dry_run, lambda ids: side.ignore(ids, meant, why)
    )
    click.echo(f"{count} files of {label} {'would be' if dry_run else 'are'} ignored")
