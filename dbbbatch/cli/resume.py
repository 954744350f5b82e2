"""`dbb resume`: end a pause."""

import click

from dbbbatch.cli import output
from dbbbatch.cli.operator import Operator


@click.command()
@click.argument("label", metavar="KIND.NAME")
@click.pass_obj
def command(operator: Operator, label: str) -> None:
    """Let the passes of KIND.NAME work again."""
    operator.must_run(label)
    operator.connect()
    from dbbbatch.database import connect
    from dbbbatch.database.models.run import Pause

    ended = connect.write(Pause.end, operator.site, label)
    output.line(f"{label} works again" if ended else f"{label} was not paused")
