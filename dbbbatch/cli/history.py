"""`dbb history`: everything that happened to a file."""

import click

from dbbbatch.cli import output
from dbbbatch.cli.operator import Operator
from dbbbatch.config.load import Settings
from dbbbatch.errors import UsageError
from dbbbatch.files.names import to_text
from dbbbatch.report import history


@click.command()
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def command(operator: Operator, file: str, as_json: bool) -> None:
    """Show where FILE is, where it is ingested, and every step and attempt on the way.

    FILE is a path in a buffer, holding or storage area, a path relative to one, or only a name.
    """
    operator.connect(readonly=True)
    found = history.history(file, _known_roots(operator.settings))
    if not found:
        unread = ", ".join(label for label in operator.settings.wrong if "." in label)
        raise UsageError(
            f"{to_text(file)}: no site that uses this database has seen such a file"
            + (f" (the directories of {unread} are not known: see `dbb check`)" if unread else "")
        )
    if as_json:
        output.show_json(found)
        return
    for one in found:
        _show_history(one)


def _known_roots(settings: Settings) -> list[str]:
    handoffs, finders = settings.handoff.values(), settings.finder.values()
    return [
        *(path for one in handoffs for path in (one.buffer, one.holding, one.endpoint.buffer)),
        *(path for one in finders for path in (one.source, one.storage)),
        *(one.storage for one in settings.target.values()),
    ]


def _show_history(one: history.History) -> None:
    output.show_table(
        one.path,
        ["where", "status", ">size", "checksum", ""],
        [
            [v.where, v.status, output.size_for_people(v.size_bytes), _short(v.checksum), v.detail]
            for v in one.versions
        ]
        + [[f"target.{name}", status, "", "", ""] for name, status in one.targets.items()],
    )
    output.show_table(
        "History (UTC)",
        ["when", "where", "what", ">took", "message"],
        [
            [
                output.time_for_people(event.at),
                event.where,
                event.what,
                f"{event.duration:.3g} s" if event.duration is not None else "",
                event.message,
            ]
            for event in one.events
        ],
    )


def _short(checksum: str) -> str:
    algorithm, _, value = checksum.partition(":")
    return f"{algorithm}:{value[:12]}…" if len(value) > 12 else checksum
