"""`dbb history`: everything that happened to a file."""

import click

from dbbbatch.cli import output, showing
from dbbbatch.cli.operator import Operator
from dbbbatch.errors import UsageError
from dbbbatch.report import history
from dbbbatch.report.matching import matching
from dbbbatch.report.whereabouts import Directories
from dbbbatch.report.words import size_for_people, time_for_people


@click.command()
@click.argument("patterns", metavar="FILE...", nargs=-1, required=True)
@showing.limit_option(20)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def command(operator: Operator, patterns: tuple[str, ...], limit: int, as_json: bool) -> None:
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
    if as_json:
        output.show_json(files)
        return
    for one in files:
        _show_history(one)
    showing.show_what_else(found)


def _show_history(one: history.History) -> None:
    output.show_table(
        one.path,
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
        "History (UTC)",
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
