"""`dbb retry`: make files due again."""

import click

from dbbbatch.cli import by_hand, output
from dbbbatch.cli.operator import Operator


@click.command()
@by_hand.selecting
@click.pass_obj
def command(operator: Operator, label: str, selection: by_hand.Selection, dry_run: bool) -> None:
    """Make files of KIND.NAME (target.gen3, handoff.latiss) due again, and show how many.

    Of a target: files that failed or are unknown or invalid; --status SUCCESS, IGNORED, BACKFILL
    or UNTRIED selects others. Their attempts begin anew. Of a handoff: files that wait for another
    attempt, or vanished; --status IGNORED selects ignored files, and those in the holding area are
    held again. Of a finder: files that wait for another attempt. Quarantined files come back by
    `dbb quarantine release`.
    """
    operator.connect(readonly=dry_run)
    files = by_hand.files_of(operator, label)
    statuses = selection.chosen(files.retried, files.retried_if_named)
    changes = files.retry(selection, statuses, f"`dbb retry` by {by_hand.user_and_host()}")
    count = by_hand.apply(changes, dry_run)
    output.line(by_hand.summary(count, label, dry_run, "due again"))
