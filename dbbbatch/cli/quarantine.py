"""`dbb quarantine`: what was moved aside, why, and the way back."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

import click

from dbbbatch.cli.dbb import Operator
from dbbbatch.config import Section
from dbbbatch.database import connect
from dbbbatch.database.models.quarantine import Quarantine
from dbbbatch.errors import UsageError
from dbbbatch.files import names


@click.group()
def command() -> None:
    """List and release what was moved aside and waits for a person."""


@command.command("list")
@click.argument("label", metavar="[KIND.NAME]", required=False)
@click.option("--match", multiple=True, metavar="GLOB", help="Only such relative paths (any of).")
@click.option("--reason", metavar="TEXT", help="Only where the reason holds this text.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def list_(
    operator: Operator, label: str | None, match: tuple[str, ...], reason: str | None, as_json: bool
) -> None:
    """Show the files that wait, why, and where they are: of KIND.NAME, or all."""
    operator.connect(readonly=True)
    rows = connect.look(lambda: list(_waiting(operator, label, match, reason)))
    if as_json:
        import json

        click.echo(json.dumps([_fields(row) for row in rows], indent=2))
        return
    for row in rows:
        click.echo(f"{row.label}  {names.printable(names.from_text(row.path))}: {row.reason}")
    if not rows:
        click.echo("nothing is in quarantine")


@command.command()
@click.argument("label", metavar="KIND.NAME")
@click.option("--match", multiple=True, metavar="GLOB", help="Only such relative paths (any of).")
@click.option("--reason", metavar="TEXT", help="Only where the reason holds this text.")
@click.option(
    "--as-new",
    metavar="NAME",
    default="",
    help="Accept the file, which must be one, under this name or relative path.",
)
@click.option("--dry-run", is_flag=True, help="Only say which files it would be.")
@click.pass_obj
def release(
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
    from dbbbatch.passes import release as way_back

    way_back.source_of(section)
    rows = connect.look(lambda: list(_waiting(operator, label, match, reason)))
    if as_new and len(rows) != 1:
        raise UsageError(f"--as-new goes with one file, and {len(rows)} match")
    count = _release(section, rows, as_new, dry_run)
    click.echo(f"{count} files of {label} {'would be' if dry_run else 'are'} back")


def _release(section: Section, rows: list[Quarantine], as_new: str, dry_run: bool) -> int:
    from dbbbatch.passes import release as way_back

    refused = []
    for row in rows:
        if dry_run:
            click.echo(names.printable(names.from_text(row.path)))
            continue
        try:
            way_back.release(section, row, as_new)
        except UsageError as error:
            refused.append(str(error))
    if refused:
        raise UsageError("\n".join(refused))
    return len(rows)


def _waiting(
    operator: Operator, label: str | None, match: tuple[str, ...], reason: str | None
) -> Iterator[Quarantine]:
    for row in Quarantine.waiting(operator.settings.site.name, label):
        rel = names.from_text(names.join(row.relpath, row.filename))
        if match and not any(fnmatch.fnmatchcase(rel, glob) for glob in match):
            continue
        if row.quarantined_at is not None and (reason or "") in row.reason:
            yield row


def _fields(row: Quarantine) -> dict[str, object]:
    return {
        "label": row.label,
        "relpath": row.relpath,
        "filename": row.filename,
        "path": row.path,
        "size_bytes": row.size_bytes,
        "checksum": row.checksum,
        "reason": row.reason,
        "quarantined_at": row.quarantined_at.isoformat(),
    }
