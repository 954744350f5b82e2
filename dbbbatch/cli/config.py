"""`dbb config`: check the configuration, or write one."""

import os
import sys
from collections.abc import Callable
from typing import Any

import click

from dbbbatch.cli import output
from dbbbatch.cli.operator import Operator, absolute, show_error
from dbbbatch.config import fields, starter, toml
from dbbbatch.config.load import Plugins, examine_file
from dbbbatch.errors import ConfigError, TryLater, UsageError
from dbbbatch.files import names, place
from dbbbatch.files.tree import outside


@click.group()
def command() -> None:
    """Check the configuration, or write one."""


@command.command("check")
@click.option("-v", "--verbose", is_flag=True, help="Also show what is right.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def check_command(operator: Operator, verbose: bool, as_json: bool) -> None:
    """Report everything that is wrong with the configuration, and with what it names.

    Run it as the user that runs the scripts. It tries directories, commands, the far end and the
    database, and leaves nothing behind. The exit code is 78 if anything is wrong, but 75 if all of
    it may pass by itself, such as a busy database or a host that does not answer.
    """
    from dbbbatch.passes import check as checks
    from dbbbatch.targets import registry

    settings, problems = examine_file(operator.given, registry)
    if settings is None:
        raise ConfigError(*problems)
    right, warnings, lasting = 0, 0, bool(problems)
    told = {"path": str(settings.path), "problems": [*problems], "checks": (every := [])}
    line = (lambda _: None) if as_json else output.line
    # Sections without an error are tried even if others have one: everything is reported at once.
    for checked in checks.check_everything(settings):
        every.append(checked)
        if checked.problem:
            problems.append(f"{settings.path}: {checked.where}: {checked.problem}")
            lasting = lasting or not checked.later
            continue
        if checked.remark:
            warnings += 1
            line(f"{settings.path}: {checked.where}: {checked.remark}")
            continue
        right += 1
        if checked.note:
            line(f"{settings.path}: {checked.where}: {checked.note}")
        elif verbose:
            line(f"ok  {checked.where}: {checked.what}")
    code = 0
    if problems:
        error = ConfigError(*problems) if lasting else TryLater(*problems)
        code = show_error(operator.program, error)
    if as_json:
        output.show_json(told)
    line(f"{settings.path}: {_total(right, warnings, len(problems))}")
    raise click.exceptions.Exit(code)


def _total(right: int, warnings: int, wrong: int) -> str:
    """Return the line that ends a check."""
    parts = [f"{right} well"]
    parts += [names.counted(warnings, "warning")] if warnings else []
    parts += [f"{wrong} wrong"] if wrong else []
    return f"{names.counted(right + warnings + wrong, 'check')}: {', '.join(parts)}"


def _answers_as_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each answer that a first configuration needs."""
    for question in reversed(starter.QUESTIONS):
        of = "" if len(question.roles) == len(starter.ROLES) else f" ({', '.join(question.roles)})"
        default = f" [{question.default}]" if question.default.startswith("/") else ""
        command = click.option(
            f"--{question.name}", metavar="TEXT", help=f"{question.help}{of}{default}"
        )(command)
    return command


@command.command("new")
@click.argument("role", type=click.Choice(list(starter.ROLES)))
@_answers_as_options
@click.option(
    "-o",
    "--output",
    "path",
    metavar="FILE",
    default="dbb.toml",
    help="Where to write it; the lines for the crontab go beside it.",
)
def write_first(role: str, path: str, **given: str | None) -> None:
    """Write a first configuration, and the lines for a crontab.

    ROLE is handoff (new files appear here and go to another site), endpoint (files arrive here, are
    stored and offered to a target) or light (one host does everything, with SQLite). What no option
    says is asked for on a terminal; elsewhere the default is taken. No file is overwritten.
    """
    from dbbbatch.targets import registry
    from dbbbatch.targets.plugin import Misconfigured

    ask = _ask if sys.stdin.isatty() else None
    known = {name.replace("_", "-"): value for name, value in given.items()}
    answers = starter.answered(role, known, ask)
    if fields.without_password(url := answers.get("database", "")) != url:
        raise UsageError("--database: no password here: use password_file, or ~/.pgpass")
    plugin = answers.get("plugin")
    path = absolute(path)
    try:
        chosen = registry.find(plugin) if plugin else None
    except Misconfigured as error:
        raise UsageError(f"--plugin: {error}") from None
    cron_lines = f"{os.path.splitext(path)[0]}.crontab"
    text = starter.configuration(role, answers, chosen)
    scripts = os.path.dirname(absolute(sys.argv[0]))
    for each in (path, cron_lines):
        if place.is_there(outside(each)):
            raise UsageError(f"{each}: is there already, and is not overwritten")
    _write_checked(path, text, registry)
    _write_file(cron_lines, starter.crontab(role, answers, path, scripts))
    output.line(f"{path}: written and checked; {cron_lines}: lines for the crontab. Next:")
    for line in starter.next_steps(answers, path, cron_lines):
        output.line(f"  {line}")


def _ask(question: starter.Asked) -> str:
    optional = question.name in starter.OPTIONAL
    default = question.default if question.default or optional else None
    answer: str = click.prompt(question.help, default=default, err=True)
    return answer


def _write_checked(path: str, text: str, plugins: Plugins) -> None:
    """Write a configuration, and remove it again if anything is wrong with it."""
    _write_file(path, text)
    try:
        problems = examine_file(path, plugins)[1]
        if problems:
            raise ConfigError(*problems)
    except ConfigError:
        outside(path).remove()
        raise


def _write_file(path: str, text: str) -> None:
    try:
        place.write_new(outside(path), text)
    except FileExistsError:
        raise UsageError(f"{path}: is there already, and is not overwritten") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from None


@command.command("convert")
@click.argument("files", metavar="OLD.yaml...", nargs=-1, required=True)
@click.option("--name", default="main", help="Of the sections, as in handoff.NAME [main].")
@click.option("--site", metavar="NAME", help="Name of this site [that of the host].")
@click.option("--state", metavar="DIRECTORY", default="/var/lib/dbb", help="[site] state.")
@click.option("-o", "--output", "path", metavar="FILE", help="Where to write it [stdout].")
@click.pass_obj
def convert_files(
    operator: Operator,
    files: tuple[str, ...],
    name: str,
    site: str | None,
    state: str,
    path: str | None,
) -> None:
    """Turn files of the original managers (dbb_buffmngrs_handoff, …_endpoint) into one of ours.

    What has no counterpart, or must be looked at, is told on stderr, key by key. With --output the
    result is checked, and the exit code is 78 if it must be corrected. No file is overwritten.
    """
    from dbbbatch.config import convert

    documents = {file: _read_yaml(file) for file in files}
    this = {"name": site or starter.host_name(), "state": state}
    converted, commands = convert.convert(documents, name, this)
    text = toml.toml_document(converted.tables)
    for note in converted.notes:
        output.line(note, err=True)
    for each in commands:
        output.line(f"once, after `dbb init`: {each}", err=True)
    if path is None:
        for line in text.rstrip("\n").split("\n"):
            output.line(line)
        return
    from dbbbatch.targets import registry

    path = absolute(path)
    _write_file(path, text)
    problems = examine_file(path, registry)[1]
    output.line(f"{path}: written{', and must be corrected' if problems else ' and checked'}")
    if problems:
        raise ConfigError(*problems)


def _read_yaml(path: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise UsageError("PyYAML is not installed: pip install 'dbbbatch[convert]'") from None
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        # By aliases a few lines become billions, or have no end.
        events = yaml.parse(text, yaml.SafeLoader)
        if any(isinstance(event, yaml.AliasEvent) for event in events):
            raise UsageError(f"{path}: has aliases (*name): write out what they stand for")
        return yaml.safe_load(text)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise UsageError(f"{path}: is not YAML: {why}") from None


@command.command("sample")
def print_sample() -> None:
    """Print a configuration with every key, its default, and what it is for."""
    click.echo(sample_of_plugins(), nl=False)


def sample_of_plugins() -> str:
    """Return the sample configuration with the built-in plugins."""
    from dbbbatch.config.sample import sample_text
    from dbbbatch.targets import registry

    return sample_text({name: registry.find(name) for name in registry.BUILT_IN})
