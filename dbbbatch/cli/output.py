"""How the operators' commands show things: tables for people, JSON for programs."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import click

from dbbbatch.config import fields
from dbbbatch.files.names import harmless


def line(text: str = "", *, err: bool = False) -> None:
    """Print one line, whatever is in it: the only way for text to stdout, and to stderr."""
    click.echo(harmless(text), err=err)


def show_json(value: Any) -> None:
    """Print a value (dataclasses and times included) as JSON; times are ISO 8601 in UTC."""
    text = json.dumps(value, default=_plain_value, indent=2, ensure_ascii=False)
    click.echo(text if text.isascii() and "\x7f" not in text else "".join(map(_in_json, text)))


def _in_json(character: str) -> str:
    """Escape a character that is not to be seen; a program reads what it was."""
    if character.isprintable() or character == "\n":
        return character
    return json.dumps(character)[1:-1] if character != "\x7f" else "\\u007f"


def show_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    lines: Iterable[str] = (),
) -> None:
    """Print a table, or that there is none; a column named ``>…`` is aligned to the right.

    What is long, or is to be copied, is in the lines below it: a column would fold it.
    """
    rows = list(rows)
    if not rows:
        line(f"{title}: none")
        line()
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # Of plain text no part is taken for markup.
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
    """Give where tables go: as wide as the terminal, or as they need where there is none."""
    from rich.console import Console

    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=160)


#: Words that begin a cell and deserve a colour on a terminal.
_STYLES = {
    "ok": "green",
    "SUCCESS": "green",
    "STORED": "green",
    "HELD": "green",
    "failed": "red",
    "error": "red",
    "killed": "red",
    "FAILURE": "red",
    "QUARANTINED": "red",
    "quarantined": "red",
    "gave": "red",
    "missing": "red",
    "corrupt": "red",
    "later": "yellow",
    "interrupted": "yellow",
    "failing": "yellow",
}


def size_for_people(number: int | None) -> str:
    """Write a number of bytes for people."""
    return "" if number is None else fields.size_text(number)


def time_for_people(value: datetime | None) -> str:
    """Write a time (UTC)."""
    return f"{value:%Y-%m-%d %H:%M:%S}" if value else ""


def ago(value: datetime | None, now: datetime) -> str:
    """Write how long ago a time was."""
    return f"{span_for_people((now - value).total_seconds())} ago" if value else "never"


def span_for_people(seconds: float) -> str:
    """Write a length of time for people, in its largest unit."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _plain_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat() + "Z"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return vars(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
