"""`dbb quarantine`: which files were quarantined, why, and the way back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext

import click

from dbbbatch.cli import by_hand, output, showing
from dbbbatch.cli.operator import Operator
from dbbbatch.config.sections import Finder, Handoff, Target
from dbbbatch.database.models.quarantine import Quarantine
from dbbbatch.errors import ConfigError, TryLater, UsageError
from dbbbatch.files import names
from dbbbatch.passes.lease import without_others


@click.group()
def command() -> None:
    """List and release files that were quarantined and wait for a person."""


@command.command("list")
@click.argument("label", metavar="[KIND.NAME]", required=False)
@by_hand.by_name_and_reason
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def list_(
    operator: Operator, label: str | None, match: tuple[str, ...], reason: str | None, as_json: bool
) -> None:
    """Show the files that wait, why, and where they are: of KIND.NAME, or all.

    `dbb ignore KIND.NAME --status QUARANTINED` ends the waiting of files that you have dealt with.
    """
    operator.connect(readonly=True)
    rows = by_hand.waiting(operator.site, label, by_hand.Selection(match, reason))
    if as_json:
        output.show_json([_row_fields(row) for row in rows])
        return
    for row in rows:
        gone = "" if _is_in_quarantine(row) else " (it is not there)"
        output.line(f"{row.label}  {showing.pasted(row.path)}{gone}: {row.reason}")
    if not rows:
        output.line("nothing is in quarantine")


@command.command("release")
@click.argument("label", metavar="KIND.NAME")
@by_hand.by_name_and_reason
@click.option(
    "--as-new",
    metavar="NAME",
    default="",
    help="Accept the selected file, only one, under this name or relative path.",
)
@click.option("--dry-run", is_flag=True, help="Only list the files.")
@click.pass_obj
def release_selected(
    operator: Operator,
    label: str,
    match: tuple[str, ...],
    reason: str | None,
    as_new: str,
    dry_run: bool,
) -> None:
    """Put files of KIND.NAME back where they came from, to be tried again as if they were new.

    Select them by --match or --reason ('*' matches all). A corrected version of a file that storage
    holds is accepted under a name of its own: --as-new.
    """
    if not (match or reason):
        raise click.UsageError("which files? Give --match or --reason ('*' matches all)")
    section = operator.settings.labelled(label)
    operator.connect(readonly=dry_run)
    if isinstance(section, Target):
        raise UsageError(f"{label} has no quarantine")
    with nullcontext() if dry_run else _without_releases(operator, label):
        rows = by_hand.waiting(operator.site, label, by_hand.Selection(match, reason))
        if as_new and len(rows) != 1:
            raise UsageError(f"--as-new works for one file, and {len(rows)} match")
        if dry_run:
            for row in rows:
                output.line(names.printable(names.readable(row.path)))
        else:
            _release(section, rows, as_new)
    output.line(by_hand.summary(len(rows), label, dry_run, "back"))


def _release(section: Finder | Handoff, rows: list[Quarantine], as_new: str) -> None:
    from dbbbatch.areas.release import Releases
    from dbbbatch.files.roots import Roots

    refused = []
    with closing(Roots()) as roots:
        releases = Releases(section, roots)
        for row in rows:
            try:
                releases.release(row, as_new)
            except UsageError as error:
                refused.append(str(error))
            except TryLater as error:
                raise TryLater(*refused, str(error)) from None
    if refused:
        raise UsageError(*refused)


@contextmanager
def _without_releases(operator: Operator, label: str) -> Iterator[None]:
    """Exclude other releases: two of one file would put it back under two names."""
    operator.must_own_state()
    state = operator.settings.site.state
    with ExitStack() as held:
        try:
            held.enter_context(without_others(operator.settings, [f"release.{label}"]))
        except OSError as error:
            raise ConfigError(
                f"{error.filename}: {error.strerror}; this user must be able to write in {state} "
                "([site] state)"
            ) from None
        yield


def _is_in_quarantine(row: Quarantine) -> bool:
    path = names.readable(row.path)
    return "\0" not in path and os.path.lexists(path)


def _row_fields(row: Quarantine) -> dict[str, object]:
    keys = ("label", "relpath", "filename", "path", "size_bytes", "checksum", "reason")
    fields: dict[str, object] = {key: getattr(row, key) for key in keys}
    fields["is_there"] = _is_in_quarantine(row)
    fields["quarantined_at"] = row.quarantined_at
    return fields
