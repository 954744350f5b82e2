"""What `dbb find`, `dbb list` and `dbb history` share: patterns, and paths that can be pasted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from dbbbatch.cli import output
from dbbbatch.cli.operator import Operator
from dbbbatch.files import names
from dbbbatch.report.matching import Matches


def limit_option(default: int) -> Callable[..., Any]:
    """Declare the option --limit."""
    return click.option(
        "--limit",
        type=click.IntRange(1),
        default=default,
        show_default=True,
        help="Show at most so many files.",
    )


def pasted(text: str) -> str:
    """Return a path of a table as a word for a shell, which means that file when it is pasted."""
    return names.quoted(names.readable(text))


def show_what_else(found: Matches) -> None:
    """Print how many files are not shown, and what was not searched."""
    if found.more:
        some = f"{'at least ' if found.at_least else ''}{found.more:,}"
        output.line(f"and {some} more: give --limit, or more of the name", err=True)
    if found.newest:
        output.line(
            f"for a part of a name only the newest {names.counted(found.newest, 'record')} were "
            "searched; the begin of a name is found whatever its age",
            err=True,
        )


def nothing(found: Matches, patterns: Sequence[str], operator: Operator) -> list[str]:
    """Return what there is to tell if nothing was found: similar names, and what is not known."""
    named = " ".join(names.printable(pattern) for pattern in patterns)
    told = [f"{named}: no site that uses this database has seen such a file"]
    if found.near:
        near = ", ".join(names.printable(names.readable(name)) for name in found.near)
        told.append(f"similar names: {near}")
    if unread := ", ".join(label for label in operator.settings.wrong if "." in label):
        told.append(f"the directories of {unread} are not known: see `dbb check`")
    return told
