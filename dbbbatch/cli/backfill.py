"""`dbb backfill`: record files that were in storage before dbbbatch."""

from __future__ import annotations

from typing import Any

import click

from dbbbatch.cli.operator import Operator
from dbbbatch.cli.options import duration_option
from dbbbatch.cli.recording import jobs_option, run_options, run_recording


@click.command()
@click.argument("label", metavar="finder.NAME")
@click.argument("globs", metavar="[GLOB]...", nargs=-1)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="NAME",
    help="Assume that only this target holds them; offer them to the others as new.",
)
@click.option(
    "--as",
    "becomes",
    type=click.Choice(["BACKFILL", "RERUN"]),
    default="BACKFILL",
    show_default=True,
    help="RERUN: offer them to the targets as well.",
)
@jobs_option
@click.option("--limit", type=click.IntRange(1), help="Record at most so many files.")
@duration_option("--max-time", "Start no further batch after so long.")
@run_options
@click.pass_obj
def command(
    operator: Operator, /, label: str, dry_run: bool, limit: int | None, verbose: int, **chosen: Any
) -> int:
    """Record the files in the storage of finder.NAME that the table does not know.

    GLOB is relative to storage, and its * also crosses /; without one, all files are recorded. Each
    file is read for its checksum, and assumed to be ingested already: it is offered to no target.
    Recorded files are not read again, so the command can be interrupted, and run again. The
    finder's `exclude` and `settle` apply. A directory that cannot be read, and a link to one, is
    reported and makes the exit code 1; exclude it if that is intended.
    """
    from dbbbatch.database.models.statuses import IngestStatus
    from dbbbatch.passes.backfill import BackfillWork

    finder = operator.finder(label)
    becomes = IngestStatus(chosen["becomes"])
    globs = chosen["globs"] or ("*",)
    work = BackfillWork(finder, globs, chosen["targets"], becomes, chosen["jobs"])
    limits = {"limit": limit, "max_time": chosen["max_time"]}
    return run_recording(operator, finder, work, dry_run, verbose=verbose, **limits)
