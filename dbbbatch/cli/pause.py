"""`dbb pause`: keep passes from working without editing the crontab."""

from __future__ import annotations

from datetime import datetime, timedelta

import click

from dbbbatch.cli import options, output
from dbbbatch.cli.operator import Operator
from dbbbatch.config import fields


@click.command()
@click.argument("label", metavar="[KIND.NAME]", required=False)
@click.option(
    "--until",
    "end",
    metavar="TIME",
    callback=options.parsed(lambda text: options.until(text, options.utc_now())),
    help="When it ends by itself: HH:MM or a date, UTC.",
)
@click.option(
    "--for",
    "length",
    metavar="DURATION",
    callback=options.parsed(fields.duration),
    help="After how long it ends by itself: 90min, 2h.",
)
@click.option("--reason", default="", help="Shown by dbb status.")
@click.option("--json", "as_json", is_flag=True, help="List the pauses for programs.")
@click.pass_obj
def command(
    operator: Operator,
    label: str | None,
    end: datetime | None,
    length: float | None,
    reason: str,
    as_json: bool,
) -> None:
    """Keep the passes of KIND.NAME, or of a whole KIND, from working; or list the pauses.

    KIND is handoff, finder, target, janitor or auditor. A running pass ends as usual; later ones
    end at once, with exit code 0. Without --until or --for the pause lasts until `dbb resume`.
    """
    if label is None:
        if end or length or reason:
            raise click.UsageError("what is to be paused? Name KIND.NAME, or a whole KIND")
        _list_pauses(operator, as_json)
        return
    if end and length:
        raise click.UsageError("--until and --for exclude each other")
    labels = operator.passes_of(label)
    operator.connect()
    from dbbbatch.database import connect
    from dbbbatch.database.models.run import Pause

    now = connect.read(connect.now)
    if length is not None:
        end = now + timedelta(seconds=length)
    if end is not None and end <= now:
        raise click.UsageError(f"{end:%Y-%m-%d %H:%M} UTC is past")

    def begin() -> None:
        for each in labels:
            Pause.begin(operator.site, each, connect.now(), end, reason)

    connect.write(begin)
    for each in labels:
        output.line(f"{each} is paused {_when(end)}")


def _list_pauses(operator: Operator, as_json: bool) -> None:
    operator.connect(readonly=True)
    from dbbbatch.database import connect
    from dbbbatch.database.models.run import Pause

    pauses = connect.read(lambda: list(Pause.standing(connect.now())))
    if as_json:
        output.show_json(pauses)
        return
    for pause in pauses:
        where = pause.label if pause.site == operator.site else f"{pause.site} {pause.label}"
        reason = f": {pause.reason}" if pause.reason else ""
        output.line(f"{where} is paused {_when(pause.until)}{reason}")
    if not pauses:
        output.line("nothing is paused")


def _when(end: datetime | None) -> str:
    return f"until {end:%Y-%m-%d %H:%M} UTC" if end else "until `dbb resume`"
