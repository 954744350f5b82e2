"""`dbb config`: check the configuration, or print a sample of one."""

import click

from dbbbatch.cli import output
from dbbbatch.cli.operator import Operator
from dbbbatch.config.load import examine_file
from dbbbatch.errors import ConfigError, TryLater
from dbbbatch.files import names


@click.group()
def command() -> None:
    """Check the configuration, or print a sample of one."""


@command.command("check")
@click.option("-v", "--verbose", is_flag=True, help="Also show what is right.")
@click.pass_obj
def check_command(operator: Operator, verbose: bool) -> None:
    """Report everything that is wrong with the configuration, and with what it names.

    Run it as the user that runs the scripts. It tries directories, commands, the far end and the
    database, and leaves nothing behind. The exit code is 78 if anything is wrong, but 75 if all of
    it may pass by itself, such as a busy database.
    """
    from dbbbatch.passes import check as checks
    from dbbbatch.targets import registry

    settings, problems = examine_file(operator.given, registry)
    if settings is None:
        raise ConfigError(*problems)
    count, lasting = 0, bool(problems)
    # Sections without an error are tried even if others have one: everything is reported at once.
    for checked in checks.check_everything(settings):
        count += 1
        if checked.problem:
            problems.append(f"{settings.path}: {checked.where}: {checked.problem}")
            lasting = lasting or not checked.later
        elif checked.remark:
            output.line(f"{settings.path}: {checked.where}: {checked.remark}")
        elif verbose:
            output.line(f"ok  {checked.where}: {checked.what}")
    if problems:
        raise ConfigError(*problems) if lasting else TryLater(*problems)
    output.line(f"{settings.path}: {names.counted(count, 'check')}, all well")


@command.command("sample")
def print_sample() -> None:
    """Print a configuration with every key, its default, and what it is for."""
    click.echo(sample_of_plugins(), nl=False)


def sample_of_plugins() -> str:
    """Return the sample configuration with the built-in plugins."""
    from dbbbatch.config.sample import sample_text
    from dbbbatch.targets import registry

    return sample_text({name: registry.find(name) for name in registry.BUILT_IN})
