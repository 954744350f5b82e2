"""The `dbb` command: one file a subcommand, imported only when it is the one that was typed.

A subcommand is a click command (or group) named ``command`` in its module. It is given an
`Operator` by ``@click.pass_obj``, and takes ``-c FILE`` before or after its name.
"""

import importlib

import click

from dbbbatch import __version__
from dbbbatch.cli.script import Operator, leave

#: Subcommand, which is also its module below `dbbbatch.cli`, to a line of help, kept here so that
#: ``dbb --help`` imports none of them.
COMMANDS = {
    "init": "Create or upgrade the database; mark storage areas as mounted.",
    "check": "Check the configuration against the world.",
    "config": "Check the configuration against the world, or print a sample.",
    "status": "Backlog, last passes, and what needs a person.",
    "history": "Everything that happened to a file.",
    "pause": "Keep a script's passes from working for a while.",
    "resume": "End a pause.",
    "demo": "Two sites in a directory, with real files going through.",
    "retry": "Make files that failed, or are ignored, due again.",
    "ignore": "Leave files alone, until `dbb retry` takes them up.",
    "quarantine": "List and release what was moved aside.",
    "target": "List or retire targets.",
    "storage": "Tell the table that a storage area has moved.",
    "backfill": "Record files that were in storage before us.",
    "forget": "Take a file out of the truth about storage.",
    "rebuild": "Restore rows of a lost database from the disk.",
    "backup": "Copy an SQLite database while passes run.",
    "confirm": "Answer a far site's janitor which files are stored here.",
    "butler": "Prepare a Butler repository.",
}


class LazyGroup(click.Group):
    """A group that imports a subcommand's module when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"dbbbatch.cli.{name}").command
        command.name = name
        _let_take_a_configuration(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _note_configuration(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    operator = ctx.ensure_object(Operator)
    operator.given = value or operator.given


def _configuration() -> click.Option:
    return click.Option(
        ["-c", "--config"],
        metavar="FILE",
        help="Configuration file.",
        expose_value=False,
        callback=_note_configuration,
    )


def _let_take_a_configuration(command: click.Command) -> None:
    if any(parameter.name == "config" for parameter in command.params):
        return
    command.params.append(_configuration())
    command.context_settings.setdefault("help_option_names", ["-h", "--help"])
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _let_take_a_configuration(inner)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[_configuration()],
)
@click.version_option(__version__)
def dbb() -> None:
    """Look after the Data Backbone buffer managers of a site."""


def main() -> None:
    """Run the command and exit with its code."""
    leave("dbb", dbb, Operator())
