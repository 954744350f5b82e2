"""`dbb confirm`: called by a far site's janitor before it purges its holding area."""

import io
import sys
from collections.abc import Collection
from itertools import chain

import click

from dbbbatch.cli import output
from dbbbatch.cli.operator import Operator
from dbbbatch.errors import UsageError


@click.command()
@click.pass_obj
def command(operator: Operator) -> None:
    """Answer a far site's janitor which files are stored here.

    It is not for people: the command in the `confirm` key of the other site's endpoint calls it,
    with the question on stdin, also for `dbb history --remote`. Nothing is changed here.
    """
    answer_question(operator)


def answer_question(
    operator: Operator, storages: Collection[str] | None = None, *, tells_history: bool = True
) -> None:
    """Answer the question on stdin about files in storage areas, by default all of this site."""
    operator.connect(readonly=True)
    from dbbbatch.areas.endpoint.confirm import answer, history_asked, lines_of

    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="backslashreplace")
    lines = lines_of(sys.stdin)
    header = next(lines, "")
    if asked := history_asked(header):
        if not tells_history:
            raise UsageError("this key may not ask what happened to files: see [receive] history")
        from dbbbatch.report import remote

        for line in remote.answer_history(operator.settings, *asked, storages):
            output.line(line)
        return
    for line in answer(operator.settings, chain([header], lines), storages):
        output.line(line)
