"""`dbb confirm`: what a far site's janitor calls before it purges its holding area."""

import sys

import click

from dbbbatch.cli import output
from dbbbatch.cli.dbb import Operator


@click.command()
@click.pass_obj
def command(operator: Operator) -> None:
    """Answer a far site's janitor which files are stored here.

    It is not meant to be typed: the `confirm` key of the other site's endpoint calls it, with the
    question on stdin. Nothing is changed here.
    """
    operator.connect(readonly=True)
    from dbbbatch.areas.endpoint.confirm import answer, lines_of

    sys.stdin.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    for line in answer(operator.settings, lines_of(sys.stdin)):
        output.line(line)
