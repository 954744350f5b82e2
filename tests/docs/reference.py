"""The pages that are made from the code: run ``python -m tests.docs.reference`` to renew them."""

import inspect
from pathlib import Path

import click

from dbbbatch.cli import config, described
from tests.support.scripts import TOP

_HEAD = """\
# Commands

Every script and command with its options. Made from the code by `python -m tests.docs.reference`.
"""


def options(command: click.Command) -> set[str]:
    """Return the long and short options of a command."""
    return {name for names, _, _ in described.options(command) for name in names} | {"--help", "-h"}


def command_page() -> str:
    """Write docs/commands.md."""
    parts = [_HEAD]
    for name, command in described.commands():
        usage = described.usage(name, command)
        parts.append(f"## `{name}`\n\n    {usage}\n\n{inspect.cleandoc(command.help or '')}\n")
        rows = [
            f"| {', '.join(f'`{name}`' for name in names)}{' ' if metavar else ''}{metavar} | "
            f"{help.replace('|', chr(92) + '|')} |"
            for names, metavar, help in described.options(command)
        ]
        parts.append("\n".join(["| option | |", "| --- | --- |", *rows]) + "\n")
    return "\n".join(parts)


PAGES = {"commands.md": command_page, "dbb.sample.toml": config.sample_of_plugins}


if __name__ == "__main__":
    for page, write in PAGES.items():
        Path(TOP, "docs", page).write_text(write(), encoding="utf-8")
