"""`dbb ignore`: leave files alone."""

import click

from dbbbatch.cli import by_hand, output
from dbbbatch.cli.operator import Operator


@click.command()
@by_hand.selecting
@click.option("--remark", default="", metavar="TEXT", help="Why; kept in the history.")
@click.pass_obj
def command(
    operator: Operator, label: str, selection: by_hand.Selection, dry_run: bool, remark: str
) -> None:
    """Leave files of KIND.NAME (target.gen3, handoff.latiss) alone, and show how many.

    Select them by --match, --reason, --status or --since. `dbb retry --status IGNORED` undoes it.
    Held or quarantined files of a handoff are selected only by --status HELD or QUARANTINED;
    quarantined files of a finder always. They stay where they are, for you to dispose of. With
    --status GIVEN_UP a finder no longer waits for files that it gave up.
    """
    if not (selection.match or selection.reason or selection.statuses or selection.since):
        raise click.UsageError(
            "which files? Give --match, --reason, --status or --since ('*' matches all)"
        )
    operator.connect(readonly=dry_run)
    files = by_hand.files_of(operator, label)
    statuses = selection.chosen(files.left_alone, files.left_alone_if_named)
    why = f"`dbb ignore` by {by_hand.user_and_host()}" + (f": {remark}" if remark else "")
    count = by_hand.apply(files.ignore(selection, statuses, why), dry_run)
    output.line(by_hand.summary(count, label, dry_run, "ignored"))
    section = operator.settings.labelled(label)
    for status, area in (("QUARANTINED", "quarantine"), ("HELD", "holding")):
        if status in statuses and count:
            output.line(f"those in {getattr(section, area)} stay there; remove them by hand")
