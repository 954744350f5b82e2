"""`dbb status`: what runs, what waits, what failed, what needs a person."""

import socket
from collections.abc import Iterator

import click

from dbbbatch.cli import output
from dbbbatch.cli.operator import Operator
from dbbbatch.files import processes
from dbbbatch.report import queries
from dbbbatch.report.health import Trouble


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def command(operator: Operator, as_json: bool) -> None:
    """Show the last pass of each script, the backlog, and what needs a person.

    All sites that use the same database are shown. Times are UTC.
    """
    operator.connect(readonly=True)
    status = queries.status()
    if as_json:
        output.show_json(status)
    else:
        _show_status(status)


def _show_status(status: queries.SiteStatus) -> None:
    output.show_table(
        f"Last passes ({output.time_for_people(status.at)} UTC)",
        ["site", "script", "outcome", ">began", ">last ok", "did"],
        [
            [
                last.site,
                last.label,
                outcome(last),
                output.ago(last.started, status.at),
                output.ago(last.last_ok, status.at),
                ", ".join(f"{number} {what}" for what, number in last.counts.items() if number),
            ]
            for last in status.passes
        ],
        [f"{last.site} {last.label}: {last.message}" for last in status.passes if last.message],
    )
    output.show_table(
        "Backlog",
        ["site", "section", "to", ">files", ">size", ">oldest waits since"],
        [
            [
                waiting.site,
                waiting.label,
                waiting.step,
                f"{waiting.files:,}",
                output.size_for_people(waiting.size_bytes),
                output.time_for_people(waiting.oldest),
            ]
            for waiting in status.backlog
        ],
    )
    output.show_table(
        "Trouble",
        ["site", "section", "what", ">files"],
        [[each.site, each.label, each.what, f"{each.files:,}"] for each in status.trouble],
        [line for each in status.trouble for line in _lines(each)],
    )
    if status.paused:
        output.show_table(
            "Paused",
            ["site", "section", "since", "until", "reason"],
            [
                [
                    pause.site,
                    pause.label,
                    output.time_for_people(pause.since),
                    output.time_for_people(pause.until) or "dbb resume",
                    pause.reason,
                ]
                for pause in status.paused
            ],
        )


def _lines(trouble: Trouble) -> Iterator[str]:
    """Yield why the newest of some files failed, what to do, and how to list them all."""
    yield f"{trouble.label}, {trouble.what}: {trouble.message}"
    yield f"  next: {trouble.advice or 'nothing to do, it is tried again'}"
    if trouble.listing:
        yield f"  list: {trouble.listing}"


def outcome(last: queries.LastPass) -> str:
    """Return how a pass ended, or whether it still runs: a killed one could not record its end."""
    if last.outcome != "running":
        return f"{last.outcome} ({last.exit_code})" if last.exit_code else last.outcome
    here = processes.machine()
    if last.machine == here or (not last.machine and last.host == socket.gethostname()):
        lives = processes.lives(last.pid, last.start_ticks, last.process_started)
        return "at work" if lives else "killed"
    if last.host == socket.gethostname() and not processes.same_boot(last.machine, here):
        return "killed"
    return f"running on {last.host}"
