"""The `dbb-auditor` script."""

from typing import Any

import click

from dbbbatch.cli.script import script
from dbbbatch.passes.runner import Work


def _auditor(section: Any, **asked: Any) -> Work:
    from dbbbatch.passes.auditor.work import AuditorWork

    return AuditorWork(section, **asked)


main = script(
    "dbb-auditor",
    "finder",
    _auditor,
    "Compare the storage area of a finder with the table, and targets with the table.",
    [
        click.Option(
            ["--adopt"], is_flag=True, help="Record files without a row, for the ingesters to take."
        ),
        click.Option(
            ["--share"],
            type=click.FloatRange(0, 1),
            help="Read this share of the stored files, instead of audit_share.",
        ),
        click.Option(
            ["--missing"],
            type=click.FloatRange(0, 1),
            help="Mark missing files up to this share of those looked at, instead of "
            "audit_missing; 1: whole directories too.",
        ),
    ],
)
