"""`dbb demo`: two sites in a directory, with files going through, to look at."""

from pathlib import Path

import click

from dbbbatch.cli import history, status
from dbbbatch.cli.dbb import Operator
from dbbbatch.errors import DbbError

_NEXT = """\
Look at
  {root}/summit/holding      the originals, delivered
  {root}/archive/storage     what storage holds, by night
  {root}/archive/by-night    the tree that the target by-night made
  {root}/summit.toml         the configuration of each site
  {root}/archive.toml
and try, in {root},
  dbb history -c archive.toml {broken}
  dbb-ingester -c archive.toml catalog -v
  sqlite3 dbb.sqlite .tables
Run `dbb demo {given}` again for more files.
"""


@click.command()
@click.argument("directory", default="dbb-demo", type=click.Path(path_type=Path))
@click.pass_context
def command(ctx: click.Context, directory: Path) -> None:
    """Build two sites in DIRECTORY (./dbb-demo), send FITS files from one to the other, and look.

    The files go through the real scripts, run as cron runs them, into an SQLite database. Can be
    run again.
    """
    from dbbbatch.demo.sites import Demo

    demo = Demo(directory)
    demo.build()
    written = demo.observe()
    click.echo(f"The summit wrote {len(written)} FITS files into its buffer; two are cut short.\n")
    for step in demo.run():
        click.echo(f"$ {step.command}")
        if step.output:
            click.echo(step.output.rstrip())
        if step.code not in (0, 1):
            raise DbbError(f"{step.command}: ended with {step.code}")
        if step.code:
            click.echo(f"(exit code {step.code})")
    click.echo()
    ctx.obj = Operator(str(demo.archive))
    ctx.invoke(status.command)
    ctx.invoke(history.command, file=written[0])
    click.echo(
        _NEXT.format(root=directory, given=directory, broken=Path(written[-1]).name), nl=False
    )
