"""`dbb rebuild`: restore rows of a database that was lost, or is last night's."""

from __future__ import annotations

import click

from dbbbatch.cli import output
from dbbbatch.cli.backfill import carry_out
from dbbbatch.cli.dbb import Operator
from dbbbatch.cli.script import set_up_logging
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
    help="What stored files are for the targets: new, or taken to be ingested.",
)
@click.option("--jobs", type=click.IntRange(1, 64), default=2, help="Files read at a time.")
@click.option("--dry-run", is_flag=True, help="Say what would be recorded; change nothing.")
@click.option("-v", "--verbose", count=True, help="Say more.")
@click.pass_obj
def command(
    operator: Operator, label: str, becomes: str, jobs: int, dry_run: bool, verbose: int
) -> int:
    """Record what is on disk and not in the table: of finder.NAME what its storage and quarantine
    hold, of handoff.NAME what its holding area and quarantine hold.

    Run it for each section after `dbb init` made an empty database, or after a backup was put in
    place, while their passes are stopped. Of a handoff, rows that say that a file is still to be
    sent, or is gone, are brought up to date where holding or quarantine has it; what is in the
    buffer needs nothing: the next pass finds it. Of a finder, `exclude` and `settle` hold. It ends
    by saying what it could not know; the exit code is 1 if it could not see everything.
    """
    from dbbbatch.passes.rebuild import HandoffRebuild, StorageRebuild
    from dbbbatch.passes.runner import Options

    section = operator.settings.labelled(label)
    set_up_logging(verbose, None)
    options = Options(verbose=verbose, progress=True, strict=True)
    if isinstance(section, Finder):
        from dbbbatch.database.models.statuses import IngestStatus

        work: StorageRebuild | HandoffRebuild = StorageRebuild(
            section, becomes=IngestStatus(becomes), jobs=jobs
        )
        unknown = (
            "when and by which finder the files were stored, and which were ingested"
            + (
                " (they are offered again: a target that holds one says so)"
                if becomes == "UNTRIED"
                else " (they are taken to be)"
            )
            + "; which were forgotten"
        )
    elif isinstance(section, Handoff):
        work = HandoffRebuild(section, jobs)
        unknown = (
            "when the files were delivered, which of them the endpoint has confirmed (the janitor "
            "asks again), and what was purged"
        )
    else:
        raise UsageError(f"{label}: there is nothing on disk to rebuild a target from")
    code = carry_out(operator, section, work, options, dry_run)
    if not dry_run and code in (0, 1):
        output.line(f"Not to be known any more: {unknown}.")
    if code == 0 and work.counts["not settled"]:
        return 1
    return code
