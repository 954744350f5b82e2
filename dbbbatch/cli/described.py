"""All scripts and commands, for what is made from them: man pages, completion, docs/commands.md."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import click

from dbbbatch.cli import dbb

#: The scripts besides `dbb`, in the order of the flow, each a module of `dbbbatch.cli`.
_SCRIPTS = ("handoff", "finder", "ingester", "auditor", "janitor", "report")


def scripts() -> dict[str, click.Command]:
    """Return the scripts besides `dbb` by name."""
    modules = {f"dbb-{name}": importlib.import_module(f"dbbbatch.cli.{name}") for name in _SCRIPTS}
    return {
        name: getattr(module, "command", None) or module.main.command
        for name, module in modules.items()
    }


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its name as it is typed, groups and their commands included."""
    yield from scripts().items()
    context = click.Context(dbb.dbb)
    for name in dbb.SUBCOMMANDS:
        command = dbb.dbb.get_command(context, name)
        assert command is not None
        yield f"dbb {name}", command
        if isinstance(command, click.Group):
            for inner, one in command.commands.items():
                yield f"dbb {name} {inner}", one


def usage(name: str, command: click.Command) -> str:
    """Return how a command is called, in words that do not depend on the version of click."""
    arguments = [_argument(one) for one in command.params if isinstance(one, click.Argument)]
    line = " ".join([name, "[OPTIONS]", *arguments])
    return f"{line} {'|'.join(command.commands)}" if isinstance(command, click.Group) else line


def options(command: click.Command) -> list[tuple[list[str], str, str]]:
    """Return the names, the metavar and the help of each option of a command."""
    return [
        ([*one.opts, *one.secondary_opts], _metavar(one), one.help or "")
        for one in command.params
        if isinstance(one, click.Option)
    ]


def _argument(argument: click.Argument) -> str:
    word = argument.metavar or (argument.name or "").upper()
    if not argument.required and not word.startswith("["):
        word = f"[{word}]"
    return word + ("..." if argument.nargs == -1 and not word.endswith("...") else "")


def _metavar(option: click.Option) -> str:
    if option.is_flag or option.count:
        return ""
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return " or ".join(str(choice) for choice in option.type.choices)
    return option.type.name.removesuffix(" range").upper()
