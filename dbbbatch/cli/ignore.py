"""`dbb ignore`: leave files alone."""

from __future__ import annotations

from datetime import datetime

import click

from dbbbatch.cli import by_hand, output
from dbbbatch.cli.dbb import Operator


@click.command()
@by_hand.options
@click.option("--remark", default="", metavar="TEXT", help="Why; kept in the history.")
@click.pass_obj
def command(
    operator: Operator,
    label: str,
    statuses: tuple[str, ...],
    match: tuple[str, ...],
    reason: str | None,
    since: datetime | None,
    dry_run: bool,
    remark: str,
) -> None:
    """Leave files of KIND.NAME (target.gen3, handoff.latiss) alone, and say how many.

    Which ones must be said by --match, --reason, --status or --since. `dbb retry --status IGNORED`
    undoes it. Files of a handoff that were moved aside, or are held, must be asked for by --status
    QUARANTINED or HELD, and those that a finder moved aside are meant anyhow: they stay where they
    are and are left to you. With --status GIVEN_UP a finder awaits what it gave up no more.
    """
    if not (statuses or match or reason or since):
        raise click.UsageError(
            "which files? Give --match, --reason, --status or --since ('*' matches all)"
        )
    operator.connect(readonly=dry_run)
    side = by_hand.files_of(operator, label)
    selection = by_hand.Selection(match, reason, statuses, since)
    meant = by_hand.chosen(selection, side.left_alone, side.left_alone_if_named)
    why = f"`dbb ignore` by {by_hand.who()}" + (f": {remark}" if remark else "")
    count = by_hand.apply(side.ignore(selection, meant, why), dry_run)
    output.line(f"{count} files of {label} {'would be' if dry_run else 'are'} ignored")
    section = operator.settings.labelled(label)
    for status, area in (("QUARANTINED", "quarantine"), ("HELD", "holding")):
        if status in meant and count:
            output.line(f"those in {getattr(section, area)} stay there; remove them by hand")
