"""`dbb pause`: keep passes from working without editing the crontab."""

from datetime import datetime

import click

from dbbbatch.cli import options, output
from dbbbatch.cli.operator import Operator


@click.command()
@click.argument("label", metavar="KIND.NAME")
@click.option(
    "--until",
    "end",
    metavar="TIME",
    callback=options.parsed(lambda text: options.until(text, options.utc_now())),
    help="When it ends by itself: HH:MM or a date, UTC.",
)
@click.option("--reason", default="", help="Shown by dbb status.")
@click.pass_obj
def command(operator: Operator, label: str, end: datetime | None, reason: str) -> None:
    """Keep the passes of KIND.NAME (handoff.latiss, janitor.latiss, target.gen3) from working.

    A running pass ends as usual; later ones end at once, with exit code 0. Without --until the
    pause lasts until `dbb resume`.
    """
    operator.must_run(label)
    operator.connect()
    from dbbbatch.database import connect
    from dbbbatch.database.models.run import Pause

    if end is not None and end <= connect.read(connect.now):
        raise click.UsageError(f"--until {end:%Y-%m-%d %H:%M} UTC is past")
    connect.write(lambda: Pause.begin(operator.site, label, connect.now(), end, reason))
    when = f"until {end:%Y-%m-%d %H:%M} UTC" if end else "until `dbb resume`"
    output.line(f"{label} is paused {when}")
