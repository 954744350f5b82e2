"""The `dbb-auditor` script."""

import click

from dbbbatch.cli.script import Script
from dbbbatch.passes.auditor.work import AuditorWork

main = Script(
    "dbb-auditor",
    "finder",
    AuditorWork,
    "Compare the storage area of a finder with the table, and targets with the table.",
    [
        click.Option(
            ["--adopt"], is_flag=True, help="Record files without a row, and offer them to targets."
        ),
        click.Option(
            ["--share"],
            type=click.FloatRange(0, 1),
            help="Read this share of the stored files, instead of audit_share.",
        ),
        click.Option(
            ["--missing"],
            type=click.FloatRange(0, 1),
            help="Mark missing files up to this share of the files compared, instead of "
            "audit_missing; 1: whole directories too.",
        ),
    ],
)
