"""The `dbb-report` script: what all sites that use a database do, as pages or as text."""

from __future__ import annotations

import contextlib
import os

import click

from dbbbatch import __version__
from dbbbatch.cli import output
from dbbbatch.cli.operator import Operator, absolute, leave
from dbbbatch.cli.status import show_health
from dbbbatch.config import fields
from dbbbatch.errors import ConfigError, LockHeld, UsageError
from dbbbatch.files.names import counted, printable
from dbbbatch.files.replace import replace_whole
from dbbbatch.files.state import is_ours
from dbbbatch.report import words
from dbbbatch.report.nights import Latency, Night
from dbbbatch.report.survey import Survey, survey

#: How a file of metrics begins.
_METRICS = b"# HELP dbb_"


@click.command("dbb-report", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("directory", metavar="[DIR]", required=False)
@click.option("-c", "--config", metavar="FILE", help="Configuration file.")
@click.option("--text", is_flag=True, help="Print it as plain text, for a mail.")
@click.option("--metrics", metavar="FILE", help="Write metrics for Prometheus; -: to stdout.")
@click.version_option(__version__)
@click.pass_obj
def command(
    operator: Operator, directory: str | None, config: str | None, text: bool, metrics: str | None
) -> int:
    """Write the state of all sites that use the database: to DIR, as pages for a browser.

    It changes nothing but its own pages and FILE. Without the database, it reports what this host
    knows. The exit code is 0 also where not all is well: `dbb status --check` is for that.
    """
    operator.given = config or operator.given
    if not (directory or text or metrics):
        raise UsageError("nothing to do: give the directory of the pages, --text or --metrics")
    # Metrics are of the current night.
    count = None if directory or text else 1
    seen = survey(operator.settings, with_files=bool(directory), count=count)
    if text:
        show_survey(seen)
    if directory:
        _write_pages(operator, absolute(directory), seen)
    if metrics:
        _write_metrics(metrics, seen)
    if seen.error:
        raise seen.error
    return 0


def show_survey(seen: Survey) -> None:
    """Print the state of all sites, and of the newest night that has files, for a mail."""
    show_health(seen.health, short=False)
    if seen.unknown and not seen.health.database:
        output.heading("Nights")
        output.show_text(f"not known: {seen.unknown}")
    for night in [night for night in seen.nights if night.files][:1]:
        _show_night(night)


def _show_night(night: Night) -> None:
    output.heading(f"Night {night.day}")
    output.show_text(words.night_summary(night))
    output.line()
    output.show_table(
        "Latency",
        ["step", "since", ">median", ">95 %", ">99 %", ">worst"],
        [[step.name, *_latency(step.latency)] for step in night.steps if step.latency],
        [
            f"the slowest until {step.name}: {slow.path}"
            for step in night.steps
            for slow in (step.latency.worst[:1] if step.latency else ())
        ],
    )
    if night.reasons:
        output.heading("Failures")
    for reason in night.reasons:
        files = counted(reason.files, "file")
        text = f"{reason.step}: {files}: {reason.text} ({reason.example})"
        output.show_text(text, then=2 * output.INDENT)


def _latency(latency: Latency) -> list[str]:
    worst = [slow.seconds for slow in latency.worst[:1]]
    seconds = (latency.median, latency.p95, latency.p99, *(worst or [latency.p99]))
    return [latency.since, *map(fields.span_text, seconds)]


def _write_metrics(path: str, seen: Survey) -> None:
    try:
        from dbbbatch.report.metrics import as_metrics
    except ImportError as error:
        raise _needed(error, "metrics need") from None
    content = as_metrics(seen)
    if path == "-":
        for line in content.decode().splitlines():
            output.line(line)
        return
    # A rename would replace a device, too.
    if os.path.exists(path) and not (os.path.isfile(path) and _begins_as_metrics(path)):
        raise UsageError(f"--metrics {printable(path)}: holds something else, and is not replaced")
    # node_exporter is another user.
    replace_whole(absolute(path), content)


def _begins_as_metrics(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(len(_METRICS)) in (_METRICS, b"")


def _needed(error: ImportError, what: str) -> ConfigError:
    return ConfigError(
        f"{error.name} is not installed, which {what}: pip install 'dbbbatch[report]'"
    )


def _write_pages(operator: Operator, directory: str, seen: Survey) -> None:
    state = operator.settings.site.state
    if os.path.isdir(state) and is_ours(state):
        # What the library that plots knows of fonts: cron's user may have no home to keep it in.
        os.environ.setdefault("MPLCONFIGDIR", os.path.join(state, "matplotlib"))
    try:
        from dbbbatch.report.page.site import write_site
    except ImportError as error:
        raise _needed(error, "pages need") from None
    with contextlib.suppress(LockHeld):  # that one writes the same
        write_site(directory, seen)


def main() -> None:
    """Run the script and exit with its code."""
    leave("dbb-report", command, Operator(program="dbb-report"))
