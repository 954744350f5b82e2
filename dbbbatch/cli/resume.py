"""`dbb resume`: end a pause."""

import click

from dbbbatch.cli import output
from dbbbatch.cli.operator import Operator


@click.command()
@click.argument("label", metavar="KIND.NAME")
@click.pass_obj
def command(operator: Operator, label: str) -> None:
    """Let the passes of KIND.NAME, or of a whole KIND, work again."""
    labels = operator.passes_of(label)
    operator.connect()
    from dbbbatch.database import connect
    from dbbbatch.database.models.run import Pause

    for each in labels:
        ended = connect.write(Pause.end, operator.site, each)
        output.line(f"{each} works again" if ended else f"{each} was not paused")
