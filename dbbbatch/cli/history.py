"""`dbb history`: everything that happened to a file."""

from collections.abc import Sequence

import click

from dbbbatch.cli import output, showing
from dbbbatch.cli.operator import Operator
from dbbbatch.database.models.file import Name
from dbbbatch.errors import DbbError, TryLater, UsageError
from dbbbatch.report import history
from dbbbatch.report.matching import matching
from dbbbatch.report.whereabouts import Directories
from dbbbatch.report.words import size_for_people, time_for_people


@click.command()
@click.argument("patterns", metavar="FILE...", nargs=-1, required=True)
@showing.limit_option(20)
@click.option(
    "--remote",
    "elsewhere",
    is_flag=True,
    help="Also ask the endpoints of handoffs, which have a database of their own.",
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def command(
    operator: Operator, patterns: tuple[str, ...], limit: int, elsewhere: bool, as_json: bool
) -> None:
    """Show where FILE is, where it is ingested, and every step and attempt on the way.

    FILE is a path in a buffer, holding or storage area, a path relative to one, or what `dbb find`
    takes.
    """
    operator.connect(readonly=True)
    directories = Directories(operator.settings)
    found = matching(patterns, directories.roots, limit)
    files = history.histories(found.places, directories)
    if not files:
        raise UsageError(*showing.nothing(found, patterns, operator))
    problems = _ask_endpoints(operator, found.places, files) if elsewhere else []
    if as_json:
        output.show_json(files)
    else:
        for one in files:
            _show_history(one)
            for label, there in one.elsewhere.items():
                _show_history(there, f" at the endpoint of {label}")
        showing.show_what_else(found)
    if problems:
        raise TryLater(*problems)


def _ask_endpoints(
    operator: Operator, places: Sequence[Name], files: Sequence[history.History]
) -> list[str]:
    """Add to each file what endpoints know of it; return why some do not say."""
    from dbbbatch.report import remote

    sections = [one for one in operator.settings.handoff.values() if one.endpoint.confirm]
    if not sections:
        raise UsageError("--remote: no endpoint of this configuration has `confirm`, which asks it")
    problems: list[str] = []
    by_path = {one.path: one for one in files}
    for section in sections:
        try:
            for there in remote.ask_history(section, places):
                by_path[there.path].elsewhere[section.label] = there
        except DbbError as error:
            problems += error.problems
    return problems


def _show_history(one: history.History, where: str = "") -> None:
    output.show_table(
        f"{one.path}{where}",
        ["where", "status", ">size", "checksum", "next try", ""],
        [
            [
                each.where,
                each.status,
                size_for_people(each.size_bytes),
                _short(each.checksum),
                time_for_people(each.next_try_at),
                each.detail,
            ]
            for each in one.versions
        ]
        + [
            [f"target.{name}", each.status, "", "", time_for_people(each.next_try_at), each.message]
            for name, each in one.targets.items()
        ],
        map(showing.pasted, one.places),
    )
    output.show_table(
        f"History{where} (UTC)",
        ["when", "where", ">took", "what"],
        [
            [
                time_for_people(event.at),
                event.where,
                f"{max(event.duration, 0.001):.3g} s" if event.duration is not None else "",
                f"{event.what}: {event.message}" if event.message else event.what,
            ]
            for event in one.events
        ],
    )


def _short(checksum: str) -> str:
    algorithm, _, value = checksum.partition(":")
    return f"{algorithm}:{value[:12]}…" if len(value) > 12 else checksum
