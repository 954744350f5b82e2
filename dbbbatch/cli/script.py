"""The command line that every pass has: `Script` makes one of a kind of pass."""

from collections.abc import Callable, Sequence
from typing import Any

import click

from dbbbatch import __version__
from dbbbatch.cli import output
from dbbbatch.cli.logs import set_up_logging
from dbbbatch.cli.operator import Operator, leave, show_error
from dbbbatch.cli.options import duration_option
from dbbbatch.cli.sections import SectionName
from dbbbatch.config.sections import Target
from dbbbatch.errors import ConfigError, DbbError, Interrupted, UsageError
from dbbbatch.passes import runner
from dbbbatch.passes.context import Options
from dbbbatch.passes.signals import Signals

_OPTIONS = [
    click.argument("name", required=False),
    click.option("-c", "--config", metavar="FILE", type=click.Path(), help="Configuration file."),
    click.option("--all", "every", is_flag=True, help="Every section of this kind, in turn."),
    click.option("-v", "--verbose", count=True, help="Log to stderr; twice: in detail."),
    click.option(
        "--log-file", metavar="FILE", type=click.Path(), help="Append the log to this file."
    ),
    click.option(
        "--dry-run", is_flag=True, help="Show what would be done; take no lock, change nothing."
    ),
    duration_option("--wait", "Wait so long for another pass to end.", "0"),
    duration_option("--max-time", "Start no further batch after so long."),
    click.option("--limit", type=click.IntRange(1), help="Handle at most so many files."),
    click.option(
        "--match", multiple=True, metavar="GLOB", help="Only such relative paths (any of several)."
    ),
    click.option(
        "--progress", is_flag=True, help="Show files, bytes, rate and time left, on a terminal."
    ),
    duration_option("--linger", "Wait so long for work, and pass again.", "0"),
    click.option("--strict", is_flag=True, help="Exit with 75, not 0, if another pass is running."),
    click.version_option(__version__),
]


class Script:
    """A script of bin/: a call runs it and exits with its code.

    Parameters
    ----------
    program : `str`
        Its name, such as ``dbb-handoff``.
    kind : `str`
        The sections that it works on: "handoff", "finder" or "target".
    work : callable
        Makes the `dbbbatch.passes.runner.Work` of a section; gets the values of `own` by name.
    help : `str`
        What it does, for ``--help``.
    own : sequence of `click.Option`
        Options that only this script has.
    at_once : `bool`
        Passes over the endpoints of one buffer are made at the same time.
    """

    def __init__(
        self,
        program: str,
        kind: str,
        work: Callable[..., runner.Work],
        help: str,
        own: Sequence[click.Option] = (),
        *,
        at_once: bool = False,
    ) -> None:
        self._operator = Operator(program=program)
        self._kind = kind
        self._work = work
        self._pass = str(getattr(work, "kind", kind))
        self._own = [str(option.name) for option in own]
        self._at_once = at_once
        self.command = click.Command(
            program,
            callback=self._run,
            help=help,
            context_settings={"help_option_names": ["-h", "--help"]},
        )
        for option in _OPTIONS:
            option(self.command)
        for parameter in self.command.params:
            if parameter.name == "name":
                parameter.type = SectionName([kind], labelled=False)
        self.command.params += own

    def __call__(self) -> None:
        """Run the script and exit."""
        leave(self._operator.program, self.command, self._operator)

    def _run(
        self, name: str | None, config: str | None, every: bool, dry_run: bool, **options: Any
    ) -> int:
        self._operator.given = config
        chosen = self._operator.settings.chosen(self._kind, name, every)
        own = {option: options.pop(option) for option in self._own}
        asked = Options(**options)
        at_once = self._at_once and not dry_run and not asked.progress
        if asked.linger and name in chosen and not at_once:
            chosen = [name]  # of several endpoints the one without a name
        groups: dict[str, list[str]] = {}
        for one in chosen:
            groups.setdefault(one.partition(".")[0] if at_once else one, []).append(one)
        if asked.linger and len(groups) > 1:
            raise UsageError("--linger works for one section: give each a crontab line of its own")
        if not dry_run or asked.log_file:
            self._operator.must_own_state()
        set_up_logging(asked.verbose, asked.log_file)
        if len(chosen) == 1:
            return self._make_pass(chosen[0], dry_run, asked, own)
        if dry_run:
            return max(self._make_any_pass(one, dry_run, asked, own) for one in chosen)
        codes = []
        # A signal ends all of them.
        with Signals() as signals:
            for one, *others in groups.values():
                if signals.seen:
                    codes.append(Interrupted.exit_code)
                    break
                if others:
                    mine, ended = signals.at_once([one, *others])
                    if mine:
                        return self._make_any_pass(mine, dry_run, asked, own)
                    codes += ended
                else:
                    codes.append(self._make_any_pass(one, dry_run, asked, own))
        return max(codes)

    def _make_any_pass(self, *arguments: Any) -> int:
        """Make a pass over one of several sections: its failure stops no other."""
        try:
            return self._make_pass(*arguments)
        except DbbError as error:
            return show_error(self._operator.program, error)

    def _make_pass(self, name: str, dry_run: bool, asked: Options, own: dict[str, Any]) -> int:
        settings = self._operator.settings
        try:
            section = settings.section(self._kind, name)
            if isinstance(section, Target):
                from dbbbatch.targets import registry

                settings.check_plugin(section, registry)
        except ConfigError as error:
            if dry_run:
                raise
            return runner.refuse_pass(settings, f"{self._pass}.{name}", asked, error)
        work = self._work(section, **own)
        if not dry_run:
            return runner.run_pass(work, settings, section, asked)
        for line in runner.plan_pass(work, settings, section, asked):
            output.line(line)
        return 0
