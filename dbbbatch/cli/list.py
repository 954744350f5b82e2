"""`dbb list`: the files behind each number of `dbb status`."""

from __future__ import annotations

from dataclasses import replace

import click

from dbbbatch.cli import output, showing
from dbbbatch.cli.operator import Operator
from dbbbatch.config import fields
from dbbbatch.config.sections import Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.run import Run
from dbbbatch.errors import UsageError
from dbbbatch.files import names
from dbbbatch.report import backlog
from dbbbatch.report.health import Waiting
from dbbbatch.report.listing import LISTS, FileList, ListedComponent, ListedFile, file_list
from dbbbatch.report.whereabouts import Directories
from dbbbatch.report.words import time_for_people

#: Seconds for a look into a buffer or source.
_LONGEST_LOOK = 2.0


@click.command()
@click.argument("component", metavar="COMPONENT")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    metavar="LIST",
    help="Only this list (any of several), such as failing; all by default.",
)
@showing.limit_option(100)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def command(
    operator: Operator, component: str, statuses: tuple[str, ...], limit: int, as_json: bool
) -> None:
    """List the files of COMPONENT that wait, failed, or need a person; nothing is changed.

    COMPONENT is KIND.NAME, or a storage area. Of each file there is its path, quoted for a shell,
    then why, since when, and when the next attempt is due. The lists are, of a handoff:
    quarantined, failing, not-confirmed, waiting; of a finder: missing, corrupt, quarantined,
    gave-up, not-removed, failing, awaited, waiting, duplicates; of a target: gave-up, invalid,
    failing, put-off, claimed, waiting; of a storage area: missing, corrupt. A list has the files
    that a pass has recorded; of others in a buffer or source there is the number only.
    """
    operator.connect(readonly=True)
    chosen = _named_component(operator, component)
    known = LISTS[chosen.kind]
    asked = [status.lower().replace("_", "-").replace(" ", "-") for status in statuses]
    for status in asked:
        if status not in known:
            raise UsageError(
                f"--status {status}: {component} has no such list{fields.nearest(status, [*known])}"
            )
    directories = Directories(operator.settings)
    lists = [file_list(chosen, what, directories, limit) for what in asked or known]
    label = f"{chosen.kind}.{chosen.name}"
    lists = [
        replace(one, unrecorded=backlog.unrecorded(operator.settings, label, _LONGEST_LOOK))
        if one.what == "waiting"
        else one
        for one in lists
    ]
    if as_json:
        output.show_json(lists)
        return
    for one in lists:
        _show_list(one)
    if not any(one.count or _more_waiting(one.unrecorded) for one in lists):
        output.line(f"{component}: no such files")


def _named_component(operator: Operator, text: str) -> ListedComponent:
    if text.startswith("/"):
        return ListedComponent(operator.site, "storage", text, text.rstrip("/"))
    kind, _, name = text.partition(".")
    if kind in ("handoff", "finder", "target"):
        section = operator.settings.sections(kind).get(name)
        if section is not None:
            storage = "" if isinstance(section, Handoff) else getattr(section, "storage", "")
            return ListedComponent(operator.site, kind, name, storage)
        # Its section is wrong, or gone; its files are still counted.
        if connect.read(Run.last, operator.site, kind, name) is not None:
            return ListedComponent(operator.site, kind, name)
    operator.settings.labelled(text)
    raise UsageError(f"{text}: expected handoff.NAME, finder.NAME, target.NAME, or a storage area")


def _show_list(one: FileList) -> None:
    for file in one.files:
        output.line(showing.pasted(file.path))
        output.line(f"  {'; '.join(_told(file))}")
    if one.count > len(one.files):
        output.line(f"and {one.count - len(one.files)} more that are {one.what}: give --limit")
    if more := _more_waiting(one.unrecorded):
        output.line(more)


def _more_waiting(unrecorded: Waiting | None) -> str:
    """Return how many files wait that are in no list, as no pass has recorded them."""
    if unrecorded is None or (unrecorded.is_known and not unrecorded.files):
        return ""
    where = "buffer" if unrecorded.step == "deliver" else "source"
    if not unrecorded.is_known:
        return f"what waits in its {where}, and no pass has recorded, is not known"
    least = "at least " if unrecorded.at_least else ""
    more = names.counted(unrecorded.files, "file waits", "files wait")
    return f"{least}{more} in its {where} that no pass has recorded, and that no list has"


def _told(file: ListedFile) -> list[str]:
    reason = " ".join(file.reason.split())
    since = f" since {time_for_people(file.since)} UTC" if file.since else ""
    tries = f"try {file.attempts}" if file.attempts else ""
    due = f"next try {time_for_people(file.next_try_at)} UTC" if file.next_try_at else ""
    told = [f"{file.what} ({file.status}){since}", reason, tries, due]
    return [each for each in told if each]
