"""`dbb retry`: make files due again."""

from __future__ import annotations

from datetime import datetime

import click

from dbbbatch.cli import by_hand
from dbbbatch.cli.dbb import Operator
from dbbbatch.database.models.status import Status


@click.command()
@by_hand.options
@click.pass_obj
def command(
    operator: Operator,
    label: str,
    statuses: tuple[str, ...],
    match: tuple[str, ...],
    since: datetime | None,
    dry_run: bool,
) -> None:
    """Make files of KIND.NAME (target.gen3, handoff.latiss) due again, and say how many.

    Of a target: those that failed or are unknown or invalid; --status SUCCESS, IGNORED or BACKFILL
    must be asked for. Their attempts begin anew. Of a handoff: those that wait for a further try,
    are ignored, or vanished; what was moved aside comes back by `dbb quarantine release`.
    """
    operator.connect(readonly=dry_run)
    side = by_hand.side(operator, label)
    selection = by_hand.Selection(statuses, match, since, dry_run)
    usual: tuple[str, ...] = side.retried
    if isinstance(side, by_hand.OfTarget) and statuses:
        usual = (*usual, Status.SUCCESS, Status.IGNORED, Status.BACKFILL, Status.UNTRIED)
    meant = by_hand.chosen(selection, usual)
    why = f"`dbb retry` by {by_hand.who()}"
    count = by_hand.apply(
        side.pages(selection, meant), dry_run, lambda ids: side.retry(ids, meant, why)
    )
    click.echo(f"{count} files of {label} {'would be' if dry_run else 'are'} due again")
