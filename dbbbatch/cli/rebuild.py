"""`dbb rebuild`: restore rows of a database that was lost, or restored from a backup."""

from __future__ import annotations

import click

from dbbbatch.cli import output
from dbbbatch.cli.operator import Operator
from dbbbatch.cli.recording import jobs_option, run_options, run_recording
from dbbbatch.config.sections import Finder, Handoff
from dbbbatch.errors import UsageError


@click.command()
@click.argument("label", metavar="KIND.NAME")
@click.option(
    "--as",
    "becomes",
    type=click.Choice(["UNTRIED", "BACKFILL"]),
    default="UNTRIED",
    show_default=True,
    help="Offer stored files to the targets as new, or assume that they are ingested.",
)
@jobs_option
@run_options
@click.pass_obj
def command(
    operator: Operator, label: str, becomes: str, jobs: int, dry_run: bool, verbose: int
) -> int:
    """Record files that are on disk and not in the table.

    Of finder.NAME: those in its storage and quarantine; of handoff.NAME: those in its holding area
    and quarantine. Run it for each section after `dbb init` made an empty database, or after a
    backup was restored, while their passes are stopped. Of a handoff, rows that say that a file is
    still to be sent, or is gone, are updated where holding or quarantine has it; the buffer needs
    nothing: the next pass finds its files. Of a finder, `exclude` and `settle` apply. At the end it
    prints what it could not know; the exit code is 1 if it could not read everything.
    """
    from dbbbatch.database.models.statuses import IngestStatus
    from dbbbatch.passes.rebuild import HandoffRebuild, StorageRebuild

    section = operator.settings.labelled(label)
    work: StorageRebuild | HandoffRebuild
    if isinstance(section, Finder):
        work = StorageRebuild(section, IngestStatus(becomes), jobs)
        ingested = "they are offered again: a target that holds one answers so"
        if becomes == "BACKFILL":
            ingested = "all are assumed to be"
        unknown = (
            "when and by which finder the files were stored, which were ingested "
            f"({ingested}), and which were forgotten"
        )
    elif isinstance(section, Handoff):
        work = HandoffRebuild(section, jobs)
        unknown = (
            "when the files were delivered, which of them the endpoint has confirmed (the janitor "
            "asks again), and what was purged"
        )
    else:
        raise UsageError(f"{label}: there is nothing on disk to rebuild a target from")
    code = run_recording(operator, section, work, dry_run, verbose=verbose)
    if not dry_run and code in (0, 1):
        output.line(f"No longer known: {unknown}.")
        if isinstance(section, Handoff) and section.siblings:
            others = "; ".join(f"dbb rebuild handoff.{name}" for name in section.others)
            output.line(f"The janitor asks only the endpoints that are recorded. Now: {others}")
    return 1 if code == 0 and work.counts["not settled"] else code
