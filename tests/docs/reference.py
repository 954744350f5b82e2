"""The pages that are made from the code: run ``python -m tests.docs.reference`` to renew them."""

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from dbbbatch.cli import config, dbb
from tests.support.scripts import TOP

_HEAD = """\
# Commands

Every script and command with its options. Made from the code by `python -m tests.docs.reference`.
"""


def scripts() -> dict[str, click.Command]:
    """Give the scripts of bin/ other than `dbb`, by name, in the order of the flow."""
    order = ["dbb-handoff", "dbb-finder", "dbb-ingester"]
    found = sorted(path.name for path in (TOP / "bin").iterdir() if path.name != "dbb")
    names = [name for name in order if name in found]
    names += [name for name in found if name not in order]
    return {name: _script(name) for name in names}


def _script(name: str) -> click.Command:
    module = importlib.import_module(f"dbbbatch.cli.{name.removeprefix('dbb-').replace('-', '_')}")
    command: click.Command = getattr(module, "command", None) or module.main.command
    return command


def commands() -> Iterator[tuple[str, click.Command]]:
    """Give every command with its name as it is typed, groups and their commands included."""
    yield from scripts().items()
    context = click.Context(dbb.dbb)
    for name in dbb.SUBCOMMANDS:
        command = dbb.dbb.get_command(context, name)
        assert command is not None
        yield f"dbb {name}", command
        if isinstance(command, click.Group):
            for inner, one in command.commands.items():
                yield f"dbb {name} {inner}", one


def options(command: click.Command) -> set[str]:
    """Give the long and short options of a command."""
    return {
        option
        for parameter in command.get_params(click.Context(command))
        if isinstance(parameter, click.Option)
        for option in (*parameter.opts, *parameter.secondary_opts)
    }


def command_page() -> str:
    """Write docs/commands.md, in words that do not depend on the version of click."""
    parts = [_HEAD]
    for name, command in commands():
        arguments = [_argument(p) for p in command.params if isinstance(p, click.Argument)]
        usage = " ".join([name, "[OPTIONS]", *arguments])
        if isinstance(command, click.Group):
            usage += f" {'|'.join(command.commands)}"
        parts.append(f"## `{name}`\n\n    {usage}\n\n{inspect.cleandoc(command.help or '')}\n")
        rows = [_row(p) for p in command.params if isinstance(p, click.Option)]
        parts.append("\n".join(["| option | |", "| --- | --- |", *rows]) + "\n")
    return "\n".join(parts)


def _argument(argument: click.Argument) -> str:
    word = argument.metavar or (argument.name or "").upper()
    if not argument.required and not word.startswith("["):
        word = f"[{word}]"
    return word + ("..." if argument.nargs == -1 and not word.endswith("...") else "")


def _row(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if not option.is_flag and not option.count:
        names += f" {option.metavar or _kind(option.type)}"
    return f"| {names} | {(option.help or '').replace('|', chr(92) + '|')} |"


def _kind(given: click.ParamType) -> str:
    if isinstance(given, click.Choice):
        return " or ".join(str(choice) for choice in given.choices)
    return given.name.removesuffix(" range").upper()


PAGES = {"commands.md": command_page, "dbb.sample.toml": config.sample_of_plugins}


if __name__ == "__main__":
    for page, write in PAGES.items():
        Path(TOP, "docs", page).write_text(write(), encoding="utf-8")
