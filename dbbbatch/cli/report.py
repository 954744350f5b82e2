"""The `dbb-report` script: what all sites that use a database do, as pages or as text."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace

import click

from dbbbatch import __version__
from dbbbatch.cli import output
from dbbbatch.cli.operator import Operator, absolute, leave
from dbbbatch.errors import ConfigError, LockHeld, TryLater, UsageError
from dbbbatch.files.state import is_ours
from dbbbatch.report import night_rows, verdict
from dbbbatch.report.health import Health
from dbbbatch.report.night_files import NightFiles
from dbbbatch.report.nights import Night
from dbbbatch.report.text import as_text


@click.command("dbb-report", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("directory", metavar="[DIR]", required=False)
@click.option("-c", "--config", metavar="FILE", help="Configuration file.")
@click.option("--text", is_flag=True, help="Print it as plain text, for a mail.")
@click.version_option(__version__)
@click.pass_obj
def command(operator: Operator, directory: str | None, config: str | None, text: bool) -> int:
    """Write the state of all sites that use the database: to DIR, as pages for a browser.

    It changes nothing but its own pages. Without the database, it reports what this host knows.
    The exit code is 0 also where not all is well.
    """
    operator.given = config or operator.given
    if not (directory or text):
        raise UsageError("nothing to do: give the directory of the pages, or --text")
    health = verdict.examine(operator.settings)
    files = NightFiles()
    nights: Sequence[Night] | None = None
    if not health.database:
        try:
            nights = night_rows.nights(operator.settings, each=files.add if directory else None)
        except TryLater as error:
            health = replace(health, database=str(error))
    if text:
        for line in as_text(health, nights or ()):
            output.line(line)
    if directory:
        _write_pages(operator, absolute(directory), health, nights, files)
    return 0


def _write_pages(
    operator: Operator,
    directory: str,
    health: Health,
    nights: Sequence[Night] | None,
    files: NightFiles,
) -> None:
    # Where the library that plots keeps what it knows of fonts: cron's user has no home. But what
    # another user left there would stop that one.
    if is_ours(state := operator.settings.site.state):
        os.environ.setdefault("MPLCONFIGDIR", os.path.join(state, "matplotlib"))
    try:
        from dbbbatch.report.page.site import write_site
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is not installed, which pages need: pip install 'dbbbatch[report]'"
        ) from None
    with contextlib.suppress(LockHeld):  # that one writes the same
        write_site(directory, health, nights, files)


def main() -> None:
    """Run the script and exit with its code."""
    leave("dbb-report", command, Operator(program="dbb-report"))
