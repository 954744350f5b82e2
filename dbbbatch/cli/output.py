"""How the operators' commands print: tables for people, JSON for programs."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import click

from dbbbatch.files.names import harmless
from dbbbatch.report.words import ago as ago
from dbbbatch.report.words import size_for_people as size_for_people
from dbbbatch.report.words import span_for_people as span_for_people
from dbbbatch.report.words import time_for_people as time_for_people


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

    Text that is long, or will be copied, belongs in the lines below it: a column would fold it.
    """
    rows = list(rows)
    if not rows:
        line(f"{title}: none")
        line()
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # Rich reads no markup in a Text.
    shown = Text(harmless(title))
    made = Table(title=shown, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in columns:
        right = column.startswith(">")
        made.add_column(column.lstrip(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(_cell, row))
    console().print(made)
    if lines := list(lines):
        for each in lines:
            line(f"  {each}")
        line()


def _cell(text: str) -> Any:
    from rich.text import Text

    return Text(harmless(text), style=_STYLES.get(text.split(" ")[0], ""))


def console() -> Any:
    """Return the console for tables, wide where there is no terminal."""
    from rich.console import Console

    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=160)


#: Colours on a terminal, by the word that begins a cell.
_STYLES = {
    **dict.fromkeys(("ok", "SUCCESS", "STORED", "HELD"), "green"),
    **dict.fromkeys(("failed", "error", "killed", "FAILURE", "gave", "missing", "corrupt"), "red"),
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
