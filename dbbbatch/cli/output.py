"""How the operators' commands print: tables for people, JSON for programs."""

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import click

from dbbbatch.files.names import harmless

#: What the lines below a heading begin with.
INDENT = "  "


def line(text: str = "", *, err: bool = False) -> None:
    """Print one line, and no character that a terminal would obey; no other code prints text."""
    click.echo(harmless(text), err=err)


def show_json(value: Any) -> None:
    """Print a value (also dataclasses, rows and times) as JSON; times are ISO 8601 in UTC."""
    text = json.dumps(value, default=_plain_value, indent=2, ensure_ascii=False)
    click.echo(text if text.isascii() and "\x7f" not in text else "".join(map(_in_json, text)))


def _in_json(character: str) -> str:
    """Escape a character that a terminal may obey; a program reads the character itself."""
    if character.isprintable() or character == "\n":
        return character
    return json.dumps(character)[1:-1] if character != "\x7f" else "\\u007f"


def show_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    lines: Iterable[str] = (),
) -> None:
    """Print a table, or that it is empty; a column named ``>…`` is aligned to the right.

    Only the last column may hold free text: where the terminal is narrow, it is wrapped.
    """
    rows = [[harmless(cell) for cell in row] for row in rows]
    if not rows:
        line(f"{title}: none")
        line()
        return
    from dbbbatch.cli import table

    heading(title)
    for pieces in table.table_lines(columns, rows, width() - len(INDENT)):
        click.echo(INDENT + "".join(map(_styled, pieces)))
    if lines := list(lines):
        line()
        for each in lines:
            line(f"{INDENT}{each}")
    line()


def heading(text: str) -> None:
    """Print a line that begins a part of the output."""
    click.echo(_style(harmless(text), bold=True))


def show_text(text: str, first: str = INDENT, then: str = "", style: str | None = None) -> None:
    """Print a text in lines that are broken between words only.

    Parameters
    ----------
    text : `str`
    first, then : `str`
        What the first line begins with, and the others.
    style : `str`, optional
        The colour on a terminal.
    """
    from dbbbatch.cli import table

    for each in table.wrapped(harmless(text), width(), first, then or first):
        click.echo(_style(each, fg=style))


def width() -> int:
    """Return the columns of the terminal; 80 where there is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 80


def _styled(text: str) -> str:
    return _style(text, fg=_STYLES.get(text.split(" ")[0]))


def _style(text: str, **how: Any) -> str:
    # Click leaves colours out where there is no terminal (https://no-color.org is not its own).
    return text if os.environ.get("NO_COLOR") or not any(how.values()) else click.style(text, **how)


#: Colours on a terminal, by the word that begins a cell.
_STYLES = {
    **dict.fromkeys(("ok", "SUCCESS", "STORED", "HELD"), "green"),
    **dict.fromkeys(("failed", "error", "killed", "overdue", "FAILURE", "gave"), "red"),
    **dict.fromkeys(("missing", "corrupt"), "red"),
    **dict.fromkeys(("QUARANTINED", "quarantined"), "red"),
    **dict.fromkeys(("later", "interrupted", "failing"), "yellow"),
}


def _plain_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat() + "Z"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return vars(value)
    if isinstance(value, set):
        return sorted(value)
    if hasattr(value, "__data__"):  # a row of a table
        return value.__data__
    raise TypeError(f"{type(value).__name__} has no JSON form")
