"""What `dbb backfill` and `dbb rebuild` share: their options, and how they run and report."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from dbbbatch.cli import output
from dbbbatch.cli.logs import set_up_logging
from dbbbatch.cli.operator import Operator
from dbbbatch.config.sections import Section
from dbbbatch.files import names

if TYPE_CHECKING:
    from dbbbatch.passes.recording import Recording

jobs_option = click.option(
    "--jobs", type=click.IntRange(1, 64), default=2, help="Files read at a time."
)


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options --dry-run and --verbose to a command."""
    dry_run = click.option(
        "--dry-run", is_flag=True, help="Show what would be recorded; change nothing."
    )
    return dry_run(click.option("-v", "--verbose", count=True, help="Log to stderr.")(command))


def run_recording(
    operator: Operator, section: Section, work: Recording, dry_run: bool, **options: Any
) -> int:
    """Run a pass that records files where they are, and print its summary.

    Parameters
    ----------
    **options
        As `dbbbatch.passes.context.Options` has them.

    Returns
    -------
    code : `int`
        The exit code.
    """
    from dbbbatch.passes import runner
    from dbbbatch.passes.context import Options

    asked = Options(progress=True, strict=True, repeat=True, **options)
    set_up_logging(asked.verbose)
    if dry_run:
        for line in runner.plan_pass(work, operator.settings, section, asked):
            output.line(line)
        code = 1 if work.counts["failed"] else 0
    else:
        code = runner.run_pass(work, operator.settings, section, asked)
    counts = work.counts
    if not dry_run:
        output.line(
            f"{counts['recorded']} recorded, {counts['known']} already known, "
            f"{counts['failed'] - counts['unreadable']} failed, {counts['unreadable']} unreadable"
        )
    if counts["quarantined"]:
        output.line(f"{counts['quarantined']} in quarantine recorded")
    if counts["not settled"]:
        output.line(f"{counts['not settled']} not settled yet: run it again")
    if counts["in doubt"]:
        output.line(
            f"{names.counted(counts['in doubt'], 'known file')} missing from storage, or changed "
            f"in size, time or inode: `dbb-auditor {section.name} --share 1` examines them"
        )
    return code
