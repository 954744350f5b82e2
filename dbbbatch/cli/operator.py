"""What every command shares: the configuration and database it works with, and how it ends."""

import gc
import io
import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import click

from dbbbatch.cli import output
from dbbbatch.config.load import Settings, load
from dbbbatch.config.sections import KINDS, Finder, is_sqlite
from dbbbatch.errors import DbbError, UsageError
from dbbbatch.files import faults
from dbbbatch.files.names import harmless
from dbbbatch.passes import crash
from dbbbatch.passes.overdue import SECTION_OF
from dbbbatch.passes.runner import EXIT_UNFORESEEN

_MAIN_THREAD = threading.main_thread()


class Operator:
    """The person or cron entry that runs a command.

    Attributes
    ----------
    given : `str` or `None`
        The configuration file of ``-c``.
    program : `str`
        The command's name, such as ``dbb-handoff``.
    """

    def __init__(self, given: str | None = None, program: str = "dbb") -> None:
        self.given = given
        self.program = program

    @cached_property
    def settings(self) -> Settings:
        """The configuration, read when it is first used."""
        settings = load(self.given)
        for note in settings.notes:
            output.line(f"{self.program}: {note}", err=True)
        return settings

    @property
    def site(self) -> str:
        """The name of this site."""
        return self.settings.site.name

    @property
    def state(self) -> Path | None:
        """The state directory, if the configuration has been read."""
        known = vars(self).get("settings")
        return Path(known.site.state) if known else None

    def finder(self, label: str) -> Finder:
        """Return the finder that KIND.NAME names.

        Raises
        ------
        UsageError
            If it names none.
        """
        section = self.settings.labelled(label)
        if not isinstance(section, Finder):
            raise UsageError(f"{label}: only finders have a storage area; expected finder.NAME")
        return section

    def passes_of(self, label: str) -> list[str]:
        """Return the passes KIND.NAME that an operator names: one, or all of a KIND.

        However wrong their sections are, or removed. Janitors and auditors have none of their own.

        Raises
        ------
        UsageError
            If this configuration runs no such pass, and none was ever made at this site.
        """
        kind, _, name = label.partition(".")
        of = SECTION_OF.get(kind, kind)
        if not name and of in KINDS:
            return [f"{kind}.{each}" for each in self.settings.chosen(of, None, every=True)]
        try:
            if of not in KINDS or ("." in name and name not in self.settings.names(of)):
                self.settings.named(label)
            return [f"{kind}.{each}" for each in self.settings.chosen(of, name)]
        except UsageError:
            if not self._has_made_passes(kind, name):
                raise
        return [label]

    def _has_made_passes(self, kind: str, name: str) -> bool:
        """Return whether passes are known, here or in the database, whose section is gone."""
        from dbbbatch.database import connect
        from dbbbatch.database.models.run import Run
        from dbbbatch.passes.memory import last_pass

        if last_pass(Path(self.settings.site.state), f"{kind}.{name}").started:
            return True
        with suppress(DbbError):
            self.connect(readonly=True)
            return connect.read(Run.last, self.site, kind, name) is not None
        return False

    def must_own_state(self) -> None:
        """Raise unless this user is the one that runs passes, before anything is made.

        Raises
        ------
        ConfigError
            As `dbbbatch.files.state.must_own`.
        """
        from dbbbatch.files.state import must_own

        must_own(self.settings.site.state, str(self.settings.path))

    def connect(self, *, readonly: bool = False) -> None:
        """Connect to the database of the configuration, and bind the models to it.

        Raises
        ------
        ConfigError
            To change an SQLite database, this user must be the one that runs passes: SQLite makes
            files beside it.
        """
        from dbbbatch.database import connect

        if not readonly and is_sqlite(self.settings.database.url):
            self.must_own_state()
        connect.connect(self.settings.database, readonly=readonly)


def leave(program: str, command: click.Command, operator: Operator) -> None:
    """Run a command and exit with its code; any error is shown as a line, never a traceback."""
    _set_up_signals()
    for stream in (sys.stdout, sys.stderr):
        # Names may hold characters that the locale's encoding, or any encoding, lacks.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            # The script's own handler was only for the time of the imports.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = command.main(standalone_mode=False, prog_name=program, obj=operator)
    except click.ClickException as error:
        # Click shows the attribute, which newer versions call final.
        vars(error)["message"] = harmless(error.message)
        error.show()
        code = UsageError.exit_code
    except (click.Abort, KeyboardInterrupt):
        output.line(f"{program}: interrupted", err=True)
        code = 75
    except DbbError as error:
        code = show_error(program, error)
    except BrokenPipeError:
        # The reader of the output (`… | head`) has seen enough.
        sys.stderr.close()
        code = 0
    except Exception as error:  # noqa: BLE001 (the last resort, before Python would end with 1)
        later = faults.of_the_machine(error)
        line = later or crash.keep(error, operator.state, program)
        output.line(f"{program}: {line}", err=True)
        code = later.exit_code if later else EXIT_UNFORESEEN
    if any(not thread.daemon for thread in threading.enumerate() if thread is not _MAIN_THREAD):
        # A thread that waits for a dead disk must not keep the process: its lock is free, and cron
        # starts the next one.
        logging.shutdown()
        with suppress(OSError, ValueError):  # nobody reads, or stderr is closed
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code or 0)
    # Python would look for garbage once more: a fifth of a pass with nothing to do.
    gc.freeze()
    sys.exit(code or 0)


def show_error(program: str, error: DbbError) -> int:
    """Print what is wrong on stderr, and return its exit code."""
    for problem in error.problems:
        output.line(f"{program}: {problem}", err=True)
    return error.exit_code


def absolute(path: str) -> str:
    """Return a path from the command line as an absolute one.

    Raises
    ------
    UsageError
        It is relative, and the current directory no longer exists.
    """
    try:
        return os.path.abspath(path)
    except OSError as error:
        raise UsageError(
            f"{path}: the current directory no longer exists ({error.strerror}); give the whole "
            "path"
        ) from None


def _set_up_signals() -> None:
    """Undo inherited settings that would hide the end of child processes.

    A process that ignores SIGCHLD loses the exit codes of its children; one that blocks signals
    cannot be asked to end. Both are inherited (execve(2)). An ignored SIGHUP is intended (nohup).
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
