"""`dbb find`: where files are."""

from __future__ import annotations

import click

from dbbbatch.cli import output, showing
from dbbbatch.cli.operator import Operator
from dbbbatch.report.matching import matching
from dbbbatch.report.whereabouts import Directories, Whereabouts, whereabouts


@click.command()
@click.argument("patterns", metavar="PATTERN...", nargs=-1, required=True)
@showing.limit_option(100)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def command(operator: Operator, patterns: tuple[str, ...], limit: int, as_json: bool) -> int:
    """Show where files are, at the handoff, in storage and in each target.

    PATTERN is a path, a name or its begin, a glob ('*_bias_*'), a night (2026-11-28 or 20261128),
    or a part of a path. Each file is shown once: where it is now, quoted for a shell, then its
    statuses. The exit code is 1 if there is no such file; then similar names are shown.
    """
    operator.connect(readonly=True)
    directories = Directories(operator.settings)
    found = matching(patterns, directories.roots, limit)
    files = whereabouts(found.places, directories)
    if as_json:
        output.show_json({**vars(found), "places": files})
        return 0 if files else 1
    for one in files:
        _show_file(one)
    showing.show_what_else(found)
    if not files:
        for told in showing.nothing(found, patterns, operator):
            output.line(told, err=True)
    return 0 if files else 1


def _show_file(one: Whereabouts) -> None:
    first, *others = one.places or [""]
    output.line(
        showing.pasted(first) if first else f"{showing.pasted(one.path)} (in no place here)"
    )
    for other in others:
        output.line(f"  also {showing.pasted(other)}")
    statuses = [f"{each.where} {each.status}" for each in one.versions]
    statuses += [f"target.{name} {state.status}" for name, state in one.targets.items()]
    output.line(f"  {', '.join(statuses)}")
