"""The command line that every pass has: `script` makes a click command of a kind of pass."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import click

from dbbbatch import __version__
from dbbbatch.cli import output
from dbbbatch.config import fields
from dbbbatch.config.load import Settings, load
from dbbbatch.config.sections import Section, Target, is_sqlite
from dbbbatch.errors import ConfigError, DbbError, Interrupted, UsageError
from dbbbatch.files import faults
from dbbbatch.files.names import harmless
from dbbbatch.passes import crash
from dbbbatch.passes.runner import EXIT_UNFORESEEN, Options, Work
from dbbbatch.passes.signals import Signals

Factory = Callable[..., Work]

#: Kinds of pass that work by the section of another kind.
_SECTION_OF = {"janitor": "handoff", "auditor": "finder"}


class Duration(click.ParamType):
    """Seconds, or a text such as 90s, 10min, 2h."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Turn an argument into seconds."""
        if isinstance(value, float):
            return value
        try:
            return float(fields.duration(float(value) if str(value).isdigit() else value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()

_OPTIONS = [
    click.argument("name", required=False),
    click.option("-c", "--config", metavar="FILE", help="Configuration file."),
    click.option("--all", "every", is_flag=True, help="Every section of this kind, in turn."),
    click.option("-v", "--verbose", count=True, help="Say what is done; twice: in detail."),
    click.option("--log-file", metavar="FILE", help="Append what is done to this file."),
    click.option(
        "--dry-run", is_flag=True, help="Say what would be done; take no lock, change nothing."
    ),
    click.option(
        "--wait", type=DURATION, default="0", help="Wait so long for another pass to leave."
    ),
    click.option("--max-time", type=DURATION, help="Start no further batch after so long."),
    click.option("--limit", type=click.IntRange(1), help="Handle at most so many files."),
    click.option(
        "--match", multiple=True, metavar="GLOB", help="Only such relative paths (any of several)."
    ),
    click.option("--progress", is_flag=True, help="Show a progress bar on a terminal."),
    click.option(
        "--linger", type=DURATION, default="0", help="Wait so long for work, and pass again."
    ),
    click.option("--strict", is_flag=True, help="Another pass at work is exit code 75, not 0."),
]


class Operator:
    """Who typed the command, as far as a command needs it.

    Attributes
    ----------
    given : `str` or `None`
        The configuration file of ``-c``.
    program : `str`
        What was typed, such as ``dbb-handoff``.
    """

    def __init__(self, given: str | None = None, program: str = "dbb") -> None:
        self.given = given
        self.program = program

    @cached_property
    def settings(self) -> Settings:
        """The configuration, read when it is first asked for."""
        settings = load(self.given)
        for note in settings.notes:
            output.line(f"{self.program}: {note}", err=True)
        return settings

    @property
    def state(self) -> Path | None:
        """The state directory, if the configuration has been read."""
        known = vars(self).get("settings")
        return Path(known.site.state) if known else None

    def must_run(self, label: str) -> None:
        """Hold a pass's KIND.NAME to the configuration; janitors and auditors have no own section.

        What is wrong with the section is no matter here.

        Raises
        ------
        UsageError
            If this configuration runs no such pass.
        """
        kind, _, name = label.partition(".")
        self.settings.named(f"{_SECTION_OF.get(kind, kind)}.{name}" if name else label)

    def must_own_state(self) -> None:
        """Raise unless this user is the one who runs passes, before anything is made.

        Raises
        ------
        ConfigError
            As `dbbbatch.files.state.must_own`.
        """
        from dbbbatch.files.state import must_own

        must_own(self.settings.site.state, str(self.settings.path))

    def connect(self, *, readonly: bool = False) -> Any:
        """Connect to the database of the configuration; its models are bound then.

        Raises
        ------
        ConfigError
            To change an SQLite database, this user must be the one who runs passes: SQLite makes
            files beside it.
        """
        from dbbbatch.database import connect

        if not readonly and is_sqlite(self.settings.database.url):
            self.must_own_state()
        return connect.connect(self.settings.database, readonly=readonly)


def script(
    program: str, kind: str, factory: Factory, help: str, own: Sequence[click.Option] = ()
) -> Callable[[], None]:
    """Make the main function of a script.

    Parameters
    ----------
    program : `str`
        Its name, such as ``dbb-handoff``.
    kind : `str`
        The sections that it is about: "handoff", "finder" or "target".
    factory : callable
        Makes the `dbbbatch.passes.runner.Work` of a section; is given the values of `own` by name.
    help : `str`
        What it does, for ``--help``.
    own : sequence of `click.Option`
        Options that only this script has.
    """

    operator = Operator(program=program)

    def callback(name: str | None, config: str | None, every: bool, **options: Any) -> int:
        operator.given = config
        settings = operator.settings
        chosen = settings.chosen(kind, name, every)
        special = {option.name: options.pop(option.name) for option in own}
        dry_run = options.pop("dry_run")
        if options["linger"] and len(chosen) > 1:
            raise UsageError("--linger goes with one section: give each a crontab line of its own")
        asked = Options(**options)
        if not dry_run or asked.log_file:
            operator.must_own_state()
        set_up_logging(asked.verbose, asked.log_file)
        make = partial(factory, **special)
        run = _plan if dry_run else _run_section
        if len(chosen) == 1:
            section = _runnable(settings, kind, chosen[0])
            return run(make(section), settings, section, asked)
        codes = []
        # A signal is for all of them; what is only looked at ends as anything does.
        with nullcontext() if dry_run else Signals() as signals:
            for one in chosen:
                if signals and signals.seen:
                    codes.append(Interrupted.exit_code)
                    break
                try:
                    section = _runnable(settings, kind, one)
                    codes.append(run(make(section), settings, section, asked))
                except DbbError as error:
                    # One that cannot run stops no other.
                    codes.append(show(program, error))
        return max(codes)

    command = click.command(
        program, help=help, context_settings={"help_option_names": ["-h", "--help"]}
    )(callback)
    for option in (*_OPTIONS, click.version_option(__version__)):
        command = option(command)
    command.params += own

    def main() -> None:
        leave(program, command, operator)

    main.command = command  # type: ignore[attr-defined]
    return main


def leave(program: str, command: click.Command, operator: Operator) -> None:
    """Run a command and exit with its code; whatever goes wrong is a line, never a traceback."""
    set_up_signals()
    for stream in (sys.stdout, sys.stderr):
        # Names may hold what the locale's encoding, or any, has no character for.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            # The script's own handler was for the time of the imports.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = command.main(standalone_mode=False, prog_name=program, obj=operator)
    except click.ClickException as error:
        error.message = harmless(error.message)
        error.show()
        code = UsageError.exit_code
    except (click.Abort, KeyboardInterrupt):
        output.line(f"{program}: interrupted", err=True)
        code = 75
    except DbbError as error:
        code = show(program, error)
    except BrokenPipeError:
        # Whoever read the output (`… | head`) has seen enough.
        sys.stderr.close()
        code = 0
    except Exception as error:  # noqa: BLE001 (the last resort, before Python would end with 1)
        later = faults.of_the_machine(error)
        line = later or crash.keep(error, operator.state, program)
        output.line(f"{program}: {line}", err=True)
        code = later.exit_code if later else EXIT_UNFORESEEN
    sys.exit(code or 0)


def absolute(path: str) -> str:
    """Return a path that somebody typed as an absolute one.

    Raises
    ------
    UsageError
        It is relative to a current directory that is gone.
    """
    try:
        return os.path.abspath(path)
    except OSError as error:
        raise UsageError(
            f"{path}: the current directory is not there any more ({error.strerror}); give the "
            "whole path"
        ) from None


def set_up_signals() -> None:
    """Undo what a parent process may have left that would keep us from seeing our children end.

    A process that ignores SIGCHLD loses the exit codes of its children; one that blocks signals
    cannot be asked to end. Both are inherited (execve(2)). That SIGHUP is ignored is meant (nohup).
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def show(program: str, error: DbbError) -> int:
    """Print what is wrong on stderr, and return its exit code."""
    for problem in error.problems:
        output.line(f"{program}: {problem}", err=True)
    return error.exit_code


def set_up_logging(verbose: int, log_file: str | None) -> None:
    """Send the log to stderr (-v) and to a file (--log-file); else nowhere.

    Raises
    ------
    ConfigError
        If the file cannot be written.
    """
    logger = logging.getLogger("dbbbatch")
    logger.setLevel(logging.DEBUG if verbose > 1 else logging.INFO)
    logger.propagate = False
    handlers: list[logging.Handler] = [logging.NullHandler()]
    if verbose:
        handlers.append(logging.StreamHandler())
        # What the notices say on stderr need not be there twice.
        handlers[-1].addFilter(lambda record: not getattr(record, "said", False))
    if log_file:
        try:
            handlers.append(logging.FileHandler(log_file, encoding="utf-8", errors="replace"))
        except OSError as error:
            raise ConfigError(f"--log-file {log_file}: {error.strerror}") from None
    form = _Lines("%(asctime)s %(levelname)s %(process)d %(message)s")
    form.converter = time.gmtime
    form.default_time_format = "%Y-%m-%dT%H:%M:%S"
    form.default_msec_format = "%s.%03dZ"
    for handler in handlers:
        handler.setFormatter(form)
    logger.handlers = handlers


class _Lines(logging.Formatter):
    """Writes a line for each message; what follows it, of an exception, is indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = harmless(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"  {harmless(each)}" for each in lines)


def _runnable(settings: Settings, kind: str, name: str) -> Section:
    """Return a section that can be run; a target's plugin must accept its keys."""
    section = settings.section(kind, name)
    if isinstance(section, Target):
        from dbbbatch.targets import registry

        settings.check_plugin(section, registry)
    return section


def _run_section(work: Work, settings: Settings, section: Section, options: Options) -> int:
    from dbbbatch.passes import runner

    return runner.run_pass(work, settings, section, options)


def _plan(work: Work, settings: Settings, section: Section, options: Options) -> int:
    from dbbbatch.passes import runner

    for line in runner.plan_pass(work, settings, section, options):
        output.line(line)
    return 0
