"""`dbb pause`: keep passes from working without editing the crontab."""

from datetime import UTC, datetime, time, timedelta

import click

from dbbbatch.cli import output
from dbbbatch.cli.dbb import Operator


class Moment(click.ParamType):
    """A moment in UTC: HH:MM (the next such time), YYYY-MM-DD, or YYYY-MM-DD HH:MM."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Turn an argument into naive UTC."""
        if isinstance(value, datetime):
            return value
        moment = until(str(value), datetime.now(UTC).replace(tzinfo=None))
        if moment is None:
            self.fail(f"{value!r}: HH:MM, YYYY-MM-DD or 'YYYY-MM-DD HH:MM' is wanted, in UTC")
        return moment


def until(text: str, now: datetime) -> datetime | None:
    """Read a moment in UTC.

    Returns
    -------
    moment : `datetime.datetime` or `None`
        Without a time zone; a time of day is the next one after ``now``. `None` if the text is
        none.
    """
    text = text.strip().removesuffix("Z")
    try:
        moment = datetime.combine(now.date(), time.fromisoformat(text))
        return moment if moment > now else moment + timedelta(days=1)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


@click.command()
@click.argument("label", metavar="KIND.NAME")
@click.option("--until", "end", type=Moment(), help="When it ends by itself: HH:MM or a date, UTC.")
@click.option("--reason", default="", help="Shown by dbb status.")
@click.pass_obj
def command(operator: Operator, label: str, end: datetime | None, reason: str) -> None:
    """Keep the passes of KIND.NAME (handoff.latiss, janitor.latiss, target.gen3) from working.

    A pass at work ends as usual; later ones leave at once, with exit code 0. Without --until the
    pause lasts until `dbb resume`.
    """
    operator.must_run(label)
    operator.connect()
    from dbbbatch.database import connect
    from dbbbatch.database.models.run import Pause

    site = operator.settings.site.name

    if end is not None and end <= connect.read(connect.now):
        raise click.UsageError(f"--until {end:%Y-%m-%d %H:%M} UTC is past")
    connect.write(lambda: Pause.begin(site, label, connect.now(), end, reason))
    when = f"until {end:%Y-%m-%d %H:%M} UTC" if end else "until `dbb resume`"
    output.line(f"{label} is paused {when}")
