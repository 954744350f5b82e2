"""`dbb resend`: send held files again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import click

from dbbbatch.cli import by_hand, output
from dbbbatch.cli.operator import Operator
from dbbbatch.config.sections import Handoff
from dbbbatch.errors import TryLater, UsageError
from dbbbatch.files.batches import batched

#: Files that go back to the buffer between two transactions.
_TOGETHER = 1000


@click.command()
@click.argument("label", metavar="handoff.NAME")
@by_hand.naming_files
@click.option("--dry-run", is_flag=True, help="Only list the files, and why some would stay.")
@click.pass_obj
def command(operator: Operator, label: str, files: Sequence[str], dry_run: bool) -> None:
    """Send files of the holding area again, because the endpoint has lost them.

    FILE is a path in the holding area, or relative to it, or a pattern in quotes. Each file goes
    back to the buffer, and the next pass sends it. Nothing is overwritten, here or at the far end:
    a file that the endpoint still has stays as it is.
    """
    section = operator.settings.labelled(label)
    if not isinstance(section, Handoff):
        raise UsageError(f"{label}: only handoffs have a holding area; expected handoff.NAME")
    if not dry_run:
        operator.must_own_state()
    operator.connect(readonly=dry_run)
    from dbbbatch.areas.resend import Resending
    from dbbbatch.files.roots import Roots

    rows, refused = by_hand.held_files(operator.site, section, files)
    count = 0
    with closing(Roots()) as roots:
        resending = Resending(section, roots, f"`dbb resend` by {by_hand.user_and_host()}")
        for some in batched(rows, _TOGETHER):
            if dry_run:
                faulty = list(filter(None, map(resending.why_not, some)))
                for row in some:
                    output.line(by_hand.shown_in_holding(section, row))
            else:
                try:
                    faulty = resending.send_again(some)
                except TryLater as error:
                    raise TryLater(*refused, *error.problems) from None
            refused += faulty
            count += len(some) - len(faulty)
    what = "back in the buffer, for the next pass"
    output.line(by_hand.summary(count, label, dry_run, what))
    if refused:
        raise UsageError(*refused)
