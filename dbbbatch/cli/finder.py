"""The `dbb-finder` script."""

from datetime import datetime
from typing import Any

import click

from dbbbatch.cli.script import Script
from dbbbatch.errors import UsageError
from dbbbatch.passes.runner import Work


def _finder(section: Any, since: datetime | None = None) -> Work:
    if section.search == "rsync-logs":
        from dbbbatch.passes.finder.rsync_logs import RsyncWork

        return RsyncWork(section, since.date() if since else None)
    if since:
        raise UsageError(f"--since: [{section.label}] reads no logs; it scans its whole source")
    from dbbbatch.passes.finder.scan import FinderWork

    return FinderWork(section)


main = Script(
    "dbb-finder",
    "finder",
    _finder,
    "Discover new files at one location, move them to storage and record them.",
    [
        click.Option(
            ["--since"],
            type=click.DateTime(["%Y-%m-%d", "%Y%m%d"]),
            metavar="DATE",
            help='With search = "rsync-logs": read the logs of every day from DATE on.',
        )
    ],
)
