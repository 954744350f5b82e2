"""`dbb quarantine`: what was moved aside, why, and the way back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import click

from dbbbatch.cli import by_hand, output
from dbbbatch.cli.dbb import Operator
from dbbbatch.config.sections import Finder, Handoff, Target
from dbbbatch.database.models.quarantine import Quarantine
from dbbbatch.errors import ConfigError, TryLater, UsageError
from dbbbatch.files import names
from dbbbatch.files.lock import Lock


@click.group()
def command() -> None:
    """List and release what was moved aside and waits for a person."""


@command.command("list")
@click.argument("label", metavar="[KIND.NAME]", required=False)
@by_hand.by_name_and_reason
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def list_(
    operator: Operator, label: str | None, match: tuple[str, ...], reason: str | None, as_json: bool
) -> None:
    """Show the files that wait, why, and where they are: of KIND.NAME, or all.

    `dbb ignore KIND.NAME --status QUARANTINED` ends the waiting of those that are disposed of.
    """
    operator.connect(readonly=True)
    rows = _waiting(operator, label, match, reason)
    if as_json:
        output.show_json([_row_fields(row) for row in rows])
        return
    for row in rows:
        gone = "" if _is_in_quarantine(row) else " (it is not there)"
        shown = names.printable(names.readable(row.path))
        output.line(f"{row.label}  {shown}{gone}: {row.reason}")
    if not rows:
        output.line("nothing is in quarantine")


@command.command("release")
@click.argument("label", metavar="KIND.NAME")
@by_hand.by_name_and_reason
@click.option(
    "--as-new",
    metavar="NAME",
    default="",
    help="Accept the file, which must be one, under this name or relative path.",
)
@click.option("--dry-run", is_flag=True, help="Only say which files it would be.")
@click.pass_obj
def release_command(
    operator: Operator,
    label: str,
    match: tuple[str, ...],
    reason: str | None,
    as_new: str,
    dry_run: bool,
) -> None:
    """Put files of KIND.NAME back where they came from, to be tried again as if they were new.

    Which ones must be said by --match or --reason ('*' matches all). A corrected version of a file
    that storage holds is accepted under a name of its own: --as-new.
    """
    if not (match or reason):
        raise click.UsageError("which files? Give --match or --reason ('*' matches all)")
    section = operator.settings.labelled(label)
    operator.connect(readonly=dry_run)
    if isinstance(section, Target):
        raise UsageError(f"{label} has no quarantine")
    with nullcontext() if dry_run else _without_releases(operator, label):
        rows = _waiting(operator, label, match, reason)
        if as_new and len(rows) != 1:
            raise UsageError(f"--as-new goes with one file, and {len(rows)} match")
        count = _release(section, rows, as_new, dry_run)
    output.line(f"{count} files of {label} {'would be' if dry_run else 'are'} back")


def _release(section: Finder | Handoff, rows: list[Quarantine], as_new: str, dry_run: bool) -> int:
    from dbbbatch.areas.release import Releases
    from dbbbatch.files.roots import Roots

    refused = []
    with closing(Roots()) as roots:
        releases = Releases(section, roots)
        for row in rows:
            if dry_run:
                output.line(names.printable(names.readable(row.path)))
                continue
            try:
                releases.release(row, as_new)
            except UsageError as error:
                refused.append(str(error))
            except TryLater as error:
                raise TryLater(*refused, str(error)) from None
    if refused:
        raise UsageError(*refused)
    return len(rows)


@contextmanager
def _without_releases(operator: Operator, label: str) -> Iterator[None]:
    """Keep other releases away: two of one file would put it back under two names."""
    operator.must_own_state()
    lock = Lock(Path(operator.settings.site.state) / "locks", f"release.{label}")
    try:
        lock.acquire()
    except OSError as error:
        raise ConfigError(
            f"{error.filename}: {error.strerror}; this user must be able to write in "
            f"{operator.settings.site.state} ([site] state)"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _waiting(
    operator: Operator, label: str | None, match: tuple[str, ...], reason: str | None
) -> list[Quarantine]:
    site = operator.settings.site.name
    return by_hand.waiting(site, label, by_hand.Selection(match, reason))


def _is_in_quarantine(row: Quarantine) -> bool:
    path = names.readable(row.path)
    return "\0" not in path and os.path.lexists(path)


def _row_fields(row: Quarantine) -> dict[str, object]:
    return {
        "label": row.label,
        "relpath": row.relpath,
        "filename": row.filename,
        "path": row.path,
        "is_there": _is_in_quarantine(row),
        "size_bytes": row.size_bytes,
        "checksum": row.checksum,
        "reason": row.reason,
        "quarantined_at": row.quarantined_at.isoformat(),
    }
