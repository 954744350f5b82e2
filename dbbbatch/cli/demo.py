"""`dbb demo`: build two sites in a directory, and send files through them."""

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbbbatch.cli import history, output, status
from dbbbatch.cli.operator import Operator, absolute
from dbbbatch.errors import DbbError
from dbbbatch.files.names import counted

if TYPE_CHECKING:
    from dbbbatch.demo.sites import Demo

_NEXT = """\
See
  {root}/summit/holding      the originals, delivered
  {root}/archive/storage     what storage holds, by night
  {root}/archive/by-night    the tree that the target by-night made
  {root}/summit.toml         the configuration of each site
  {root}/archive.toml
and try, in {root},
  {scripts}dbb history -c archive.toml {broken}
  {scripts}dbb-ingester -c archive.toml catalog -v
  sqlite3 dbb.sqlite 'SELECT path, target, status FROM ingest_current'
Run `{scripts}dbb demo {root}` again for more files.
"""

#: Targets that need further packages or servers.
_SYSTEMS = ("butler-gen3", "rucio")


def _systems(_: click.Context, __: click.Parameter, value: str) -> list[str]:
    named = [name.strip() for name in value.split(",") if name.strip()]
    if wrong := set(named) - set(_SYSTEMS):
        raise click.BadParameter(f"{', '.join(sorted(wrong))}: known are {', '.join(_SYSTEMS)}")
    return named


@click.command()
@click.argument("directory", default="dbb-demo", type=click.Path(path_type=Path))
@click.option(
    "--targets",
    "systems",
    default="",
    metavar="NAME,…",
    callback=_systems,
    help="Ingest also into butler-gen3, rucio or both; their extras must be installed.",
)
@click.option(
    "--rucio-server",
    metavar="VENV",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Start a Rucio server from this environment, instead of using that of rucio.cfg.",
)
@click.pass_context
def command(
    ctx: click.Context, directory: Path, systems: list[str], rucio_server: Path | None
) -> None:
    """Build two sites in DIRECTORY (./dbb-demo), and send FITS files from one to the other.

    The real scripts, run as cron runs them, move the files and record them in an SQLite database.
    Can be run again.
    """
    from dbbbatch.demo import systems as demo_systems
    from dbbbatch.demo.sites import Demo

    demo = Demo(Path(absolute(str(directory))))
    demo.make_directories()
    more: dict[str, Any] = {}
    with ExitStack() as servers:
        if "butler-gen3" in systems:
            more |= demo_systems.butler(demo.root)
        if "rucio" in systems:
            more |= servers.enter_context(demo_systems.rucio(demo.root, rucio_server))
        demo.configure(more)
        written = demo.observe()
        click.echo(
            f"The summit wrote {counted(len(written), 'FITS file')} into its buffer; two are "
            "incomplete."
        )
        _run_demo(demo)
    ctx.obj = Operator(str(demo.archive))
    ctx.invoke(status.command)
    ctx.invoke(history.command, patterns=(written[0],), limit=20)
    scripts = "" if shutil.which("dbb") else f"{demo.scripts}/"
    broken = Path(written[-1]).name
    click.echo(_NEXT.format(root=directory, scripts=scripts, broken=broken), nl=False)


def _run_demo(demo: "Demo") -> None:
    from dbbbatch.demo.sites import STEPS

    click.echo()
    for words in STEPS:
        command_line = " ".join(words)
        output.line(f"$ {command_line}")
        ended = demo.run(*words)
        for each in (ended.stdout + ended.stderr).decode("utf-8", "backslashreplace").splitlines():
            output.line(each)
        if ended.exit_code not in (0, 1):
            raise DbbError(f"{command_line}: ended with {ended.exit_code}")
        if ended.exit_code:
            click.echo("(exit code 1)")
    click.echo()
