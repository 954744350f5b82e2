"""`dbb backfill`: record files that were in storage before us."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dbbbatch.cli import output
from dbbbatch.cli.dbb import Operator
from dbbbatch.cli.script import DURATION, set_up_logging
from dbbbatch.config.sections import Finder, Section
from dbbbatch.errors import UsageError

if TYPE_CHECKING:
    from dbbbatch.passes.recording import Recording
    from dbbbatch.passes.runner import Options


@click.command()
@click.argument("label", metavar="finder.NAME")
@click.argument("globs", metavar="[GLOB]...", nargs=-1)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="NAME",
    help="Only this target is taken to hold them; the others are offered them as new.",
)
@click.option(
    "--as",
    "becomes",
    type=click.Choice(["BACKFILL", "RERUN"]),
    default="BACKFILL",
    show_default=True,
    help="RERUN: offer them to the targets as well.",
)
@click.option("--jobs", type=click.IntRange(1, 64), default=2, help="Files read at a time.")
@click.option("--limit", type=click.IntRange(1), help="Record at most so many files.")
@click.option("--max-time", type=DURATION, help="Start no further batch after so long.")
@click.option("--dry-run", is_flag=True, help="Say what would be recorded; change nothing.")
@click.option("-v", "--verbose", count=True, help="Say more.")
@click.pass_obj
def command(
    operator: Operator,
    label: str,
    globs: tuple[str, ...],
    targets: tuple[str, ...],
    becomes: str,
    jobs: int,
    limit: int | None,
    max_time: float | None,
    dry_run: bool,
    verbose: int,
) -> int:
    """Record the files in the storage of finder.NAME that the table does not know.

    GLOB is relative to storage, and its * also crosses /; without one, everything is meant. Each
    file is read for its checksum, and taken to be ingested already: no target is offered it. What
    is recorded is not read again, so the command can be interrupted, and run again. The finder's
    `exclude` and `settle` hold here too. A directory that cannot be read, and a link to one, is
    said and makes the exit code 1: exclude it if that is meant.
    """
    from dbbbatch.database.models.statuses import IngestStatus
    from dbbbatch.passes.backfill import BackfillWork
    from dbbbatch.passes.runner import Options

    finder = finder_of(operator, label)
    work = BackfillWork(finder, globs or ("*",), targets, IngestStatus(becomes), jobs)
    options = Options(verbose=verbose, limit=limit, max_time=max_time, progress=True, strict=True)
    set_up_logging(verbose, None)
    return carry_out(operator, finder, work, options, dry_run)


def finder_of(operator: Operator, label: str) -> Finder:
    """Return the finder that a label names.

    Raises
    ------
    UsageError
        It names none.
    """
    section = operator.settings.labelled(label)
    if not isinstance(section, Finder):
        raise UsageError(f"{label}: storage is a finder's matter; finder.NAME is wanted")
    return section


def carry_out(
    operator: Operator, section: Section, work: Recording, options: Options, dry_run: bool
) -> int:
    """Run a pass over what is on disk, and print its summary; return the exit code."""
    from dbbbatch.passes import runner

    if dry_run:
        for line in runner.plan_pass(work, operator.settings, section, options):
            output.line(line)
        code = 1 if work.troubles else 0
    else:
        code = runner.run_pass(work, operator.settings, section, options)
    counts = work.counts
    for trouble in work.troubles:
        output.line(trouble, err=True)
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
            f"{counts['in doubt']} known files are gone from storage, or are of another size, time "
            f"or inode: run `dbb-auditor {section.name} --share 1` to judge them"
        )
    return code
