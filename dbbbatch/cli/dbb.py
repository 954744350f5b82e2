"""The `dbb` command: one file a subcommand, imported only when it is the one that was typed."""

import importlib
import sys

import click

from dbbbatch.errors import DbbError, UsageError

#: Subcommand to the module that holds it as a click command named ``command``, and its line of help
#: (kept here so that ``dbb --help`` imports none of them).
COMMANDS: dict[str, tuple[str, str]] = {}


class LazyGroup(click.Group):
    """A group that imports a subcommand's module when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[name][0]).command
        command.name = name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()] or [("", "")])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
def dbb() -> None:
    """Look after the Data Backbone buffer managers of a site."""


def main() -> None:
    """Run the command and exit with a code of DESIGN's list; no traceback for the foreseeable."""
    try:
        sys.exit(dbb.main(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(UsageError.exit_code)
    except DbbError as error:
        print(f"dbb: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
