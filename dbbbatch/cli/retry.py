"""`dbb retry`: make files due again."""

from __future__ import annotations

from datetime import datetime

import click

from dbbbatch.cli import by_hand, output
from dbbbatch.cli.dbb import Operator


@click.command()
@by_hand.options
@click.pass_obj
def command(
    operator: Operator,
    label: str,
    statuses: tuple[str, ...],
    match: tuple[str, ...],
    reason: str | None,
    since: datetime | None,
    dry_run: bool,
) -> None:
    """Make files of KIND.NAME (target.gen3, handoff.latiss) due again, and say how many.

    Of a target: those that failed or are unknown or invalid; --status SUCCESS, IGNORED or BACKFILL
    must be asked for. Their attempts begin anew. Of a handoff: those that wait for a further try,
    or vanished; --status IGNORED must be asked for, and those of them in holding are held again. Of
    a finder: those that wait for a further try. What was moved aside comes back by `dbb quarantine
    release`.
    """
    operator.connect(readonly=dry_run)
    side = by_hand.files_of(operator, label)
    selection = by_hand.Selection(match, reason, statuses, since)
    meant = by_hand.chosen(selection, side.retried, side.retried_if_named)
    why = f"`dbb retry` by {by_hand.who()}"
    count = by_hand.apply(side.retry(selection, meant, why), dry_run)
    output.line(f"{count} files of {label} {'would be' if dry_run else 'are'} due again")
