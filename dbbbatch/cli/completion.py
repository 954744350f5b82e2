"""`dbb completion`: what makes a shell complete the commands."""

from __future__ import annotations

import click

from dbbbatch.cli import output


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print what makes SHELL complete `dbb` and the scripts, with their options and sections."""
    from click.shell_completion import get_completion_class

    from dbbbatch.cli import dbb, described

    made = get_completion_class(shell)
    assert made is not None
    for name, one in {"dbb": dbb.dbb, **described.scripts()}.items():
        variable = f"_{name}_COMPLETE".replace("-", "_").upper()
        for line in made(one, {}, name, variable).source().splitlines():
            output.line(line)
