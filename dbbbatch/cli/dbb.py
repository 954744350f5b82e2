"""The `dbb` command: one file a subcommand, imported only when that subcommand runs.

A subcommand is a click command (or group) named ``command`` in its module. It gets an `Operator` by
``@click.pass_obj``, and takes ``-c FILE`` before or after its name.
"""

import importlib

import click

from dbbbatch import __version__
from dbbbatch.cli.operator import Operator, leave
from dbbbatch.cli.sections import complete_sections

#: Subcommands, each also a module below `dbbbatch.cli`, with a line of help: kept here so that
#: ``dbb --help`` imports none of them.
SUBCOMMANDS = {
    "init": "Create or upgrade the database; mark storage areas as mounted.",
    "check": "Check the configuration, and what it names.",
    "config": "Check the configuration, or write one.",
    "status": "Show last passes, the backlog, and what needs a person.",
    "find": "Show where files are: by name, part of a path, glob or night.",
    "list": "List the files that wait, failed, or need a person.",
    "history": "Show everything that happened to a file.",
    "pause": "Keep a script's passes from working for a while.",
    "resume": "End a pause.",
    "demo": "Build two sites in a directory, and send files through them.",
    "retry": "Make files that failed, or are ignored, due again.",
    "resend": "Send held files again that the endpoint has lost.",
    "ignore": "Leave files alone, until `dbb retry`.",
    "quarantine": "List and release quarantined files.",
    "target": "List or retire targets.",
    "storage": "Record that a storage area has moved.",
    "backfill": "Record files that were in storage before dbbbatch.",
    "forget": "Record that a file is no longer in storage.",
    "rebuild": "Restore rows of a lost database from the disk.",
    "backup": "Copy an SQLite database while passes run.",
    "confirm": "Answer a far site's janitor which files are stored here.",
    "receive": "Do what another site's ssh key may do here.",
    "butler": "Prepare a Butler repository.",
    "man": "Write manual pages.",
    "completion": "Print what makes a shell complete the commands.",
}


class LazyGroup(click.Group):
    """A group that imports a subcommand's module when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the subcommands."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a subcommand."""
        if name not in SUBCOMMANDS:
            return None
        command: click.Command = importlib.import_module(f"dbbbatch.cli.{name}").command
        command.name = name
        _add_configuration(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(SUBCOMMANDS.items()))


def _note_configuration(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    operator = ctx.ensure_object(Operator)
    operator.given = value or operator.given


def _configuration() -> click.Option:
    return click.Option(
        ["-c", "--config"],
        metavar="FILE",
        type=click.Path(),
        help="Configuration file.",
        expose_value=False,
        callback=_note_configuration,
    )


def _add_configuration(command: click.Command) -> None:
    if any(parameter.name == "config" for parameter in command.params):
        return
    command.params.append(_configuration())
    complete_sections(command)
    command.context_settings.setdefault("help_option_names", ["-h", "--help"])
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _add_configuration(inner)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[_configuration()],
)
@click.version_option(__version__)
def dbb() -> None:
    """Operate the Data Backbone buffer managers of a site."""


def main() -> None:
    """Run the command and exit with its code."""
    leave("dbb", dbb, Operator())
