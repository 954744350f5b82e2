"""`dbb man`: manual pages, made from the commands that are installed."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator

import click

from dbbbatch import __version__
from dbbbatch.cli import output
from dbbbatch.config.load import SEARCH
from dbbbatch.errors import ConfigError
from dbbbatch.files import names

#: What each exit code means.
EXIT_CODES = {
    0: "All well, nothing to do, a limit was reached, or another pass is running.",
    1: "Some files failed: `dbb status` shows why, and what to do.",
    64: "The command line asks for something that does not exist.",
    70: "An error in dbbbatch. Nothing is lost; the message names a file with the details.",
    75: "Try again later, or interrupted. The next pass continues.",
    78: "The configuration or the set-up must be changed.",
}

_ENVIRONMENT = {
    "DBB_CONFIG": "The configuration file, where there is no `-c`.",
    "NO_COLOR": "If it is set, there are no colours.",
}

_CONFIGURATION = (
    "The configuration file, where neither `-c` nor DBB_CONFIG names one: the first of these."
)

_STATE = (
    "The state directory, `state` of `[site]`: locks, how the last passes ended, what was "
    "reported, what helps to find an error in dbbbatch, and by default the SQLite database."
)


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False))
def command(directory: str) -> None:
    """Write a manual page for each command to DIR, such as /usr/local/share/man/man1.

    The pages belong to the installed version: run it again after each upgrade. If a page cannot be
    found, try `man -M` with the directory above DIR, or `man -l` with the page itself.
    """
    written = 0
    try:
        os.makedirs(directory, exist_ok=True)
        for title, text in manual_pages():
            with open(os.path.join(directory, f"{title}.1"), "w", encoding="utf-8") as file:
                file.write(text)
            written += 1
    except OSError as error:
        raise ConfigError(f"{error.filename or directory}: {error.strerror}") from None
    output.line(f"{directory}: {names.counted(written, 'page')}")


def manual_pages() -> Iterator[tuple[str, str]]:
    """Yield the title and the text of each page, in the language of man(7)."""
    from dbbbatch.cli import dbb, described

    listed = [(f"dbb {name}", help) for name, help in dbb.SUBCOMMANDS.items()]
    usage = "dbb [OPTIONS] COMMAND [ARGUMENTS]"
    yield "dbb", _page("dbb", usage, dbb.dbb, list(described.scripts()), listed)
    for name, one in described.commands():
        yield name.replace(" ", "-"), _page(name, described.usage(name, one), one, ["dbb"])


def _page(
    name: str,
    usage: str,
    command: click.Command,
    others: list[str],
    commands: list[tuple[str, str]] | None = None,
) -> str:
    from dbbbatch.cli import described

    first, _, rest = inspect.cleandoc(command.help or "").partition("\n\n")
    title = name.replace(" ", "-")
    lines = [
        f'.TH {_plain(title.upper())} 1 "" "dbbbatch {__version__}" "Data Backbone"',
        # Names are not divided, and no gaps are made to justify lines.
        ".nh",
        ".ad l",
        ".SH NAME",
        f"{_plain(title)} \\- {_text(' '.join(first.split()).removesuffix('.'))}",
        ".SH SYNOPSIS",
        f".B {_plain(usage)}",
    ]
    if rest:
        lines.append(".SH DESCRIPTION")
        paragraphs = (" ".join(part.split()) for part in rest.split("\n\n"))
        lines.append("\n.PP\n".join(map(_text, paragraphs)))
    lines += _definitions("COMMANDS", commands or [])
    lines += _definitions("OPTIONS", [_option(*one) for one in described.options(command)])
    lines += _definitions("EXIT STATUS", [(str(code), what) for code, what in EXIT_CODES.items()])
    lines += _definitions(
        "FILES", [(", ".join(map(str, SEARCH)), _CONFIGURATION), ("/var/lib/dbb", _STATE)]
    )
    lines += _definitions("ENVIRONMENT", list(_ENVIRONMENT.items()))
    lines += [".SH SEE ALSO", ", ".join(f"\\fB{_plain(one)}\\fR(1)" for one in others)]
    return "\n".join(lines) + "\n"


def _option(names: list[str], metavar: str, help: str) -> tuple[str, str]:
    return f"{', '.join(names)} {metavar}".rstrip(), help


def _definitions(heading: str, entries: list[tuple[str, str]]) -> list[str]:
    if not entries:
        return []
    lines = [f".SH {heading}"]
    for term, text in entries:
        lines += [".TP", f".B {_plain(term)}", _text(text)]
    return lines


def _text(text: str) -> str:
    """Return a text with what is in backquotes in bold, and no line that is a request of roff."""
    parts = re.split(r"`([^`]*)`", text)
    bold = [f"\\fB{_plain(part)}\\fR" if at % 2 else _plain(part) for at, part in enumerate(parts)]
    return "\\&" + "".join(bold)


def _plain(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...").replace("'", "\\(aq")
