"""`dbb confirm`: called by a far site's janitor before it purges its holding area."""

import io
import sys
from collections.abc import Collection

import click

from dbbbatch.cli import output
from dbbbatch.cli.operator import Operator


@click.command()
@click.pass_obj
def command(operator: Operator) -> None:
    """Answer a far site's janitor which files are stored here.

    It is not for people: the command in the `confirm` key of the other site's endpoint calls it,
    with the question on stdin. Nothing is changed here.
    """
    answer_question(operator)


def answer_question(operator: Operator, storages: Collection[str] | None = None) -> None:
    """Answer the question on stdin about files in storage areas, by default all of this site."""
    operator.connect(readonly=True)
    from dbbbatch.areas.endpoint.confirm import answer, lines_of

    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="backslashreplace")
    for line in answer(operator.settings, lines_of(sys.stdin), storages):
        output.line(line)
