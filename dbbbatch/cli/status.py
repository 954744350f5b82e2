"""`dbb status`: whether all is well, what needs a person, what runs and what waits."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from dbbbatch.cli import options, output
from dbbbatch.cli.operator import Operator
from dbbbatch.config import fields
from dbbbatch.errors import DbbError
from dbbbatch.files.names import counted
from dbbbatch.report import plugin_line, verdict, words
from dbbbatch.report.health import Component, Health, Level, Trouble, Waiting

#: Colours of the first line.
_VERDICT_COLOURS = {Level.WELL: "green", Level.WARNING: "yellow", Level.UNKNOWN: "yellow"}


@click.command()
@click.option("--short", is_flag=True, help="Only the verdict, and what needs a person.")
@click.option(
    "--watch",
    "seconds",
    metavar="[SECONDS]",
    is_flag=False,
    flag_value="5",
    callback=options.parsed(options.seconds),
    help="Show it anew every 5 seconds, or so many, until Ctrl-C.",
)
@click.option("--check", is_flag=True, help="One line, and exit code, for monitoring plugins.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def command(
    operator: Operator, short: bool, seconds: float | None, check: bool, as_json: bool
) -> int:
    """Show whether all is well, what needs a person, what runs and what waits.

    All sites that use the same database are shown. Times are UTC. If the database is away, it shows
    what this host knows.

    The exit code is 0, whatever is shown, but 75 or 78 if the database could not be asked. With
    --check it is 0 if all is well, 1 for a warning, 2 if it is critical, 3 if it is not known.
    """
    if check:
        return _print_line(operator)
    if seconds is not None:
        return _watch(operator, short, seconds)
    health = verdict.examine(operator.settings)
    if as_json:
        output.show_json(_for_programs(health))
    else:
        show_health(health, short)
    return health.exit_code


def _print_line(operator: Operator) -> int:
    try:
        health = verdict.examine(operator.settings)
    except DbbError as error:
        output.line(f"DBB UNKNOWN - {plugin_line.one_line('; '.join(error.problems))}")
        return int(Level.UNKNOWN)
    output.line(plugin_line.of_health(health))
    return int(health.level)


def _watch(operator: Operator, short: bool, seconds: float) -> int:
    settings = operator.settings
    try:
        while True:
            health = verdict.examine(settings)
            if sys.stdout.isatty():
                click.clear()
            show_health(health, short)
            time.sleep(seconds)
    except KeyboardInterrupt:
        return 0


def show_health(health: Health, short: bool) -> None:
    """Print the state of all sites; ``short``: no more than the verdict and troubles."""
    several = len({one.site for one in health.components} | {health.site}) > 1
    colour = _VERDICT_COLOURS.get(health.level, "red")
    said = f"{words.verdict(health)}: {words.in_short(health)}"
    output.show_text(said, first="", then="  ", style=colour)
    output.show_text(f"Site {health.site}, {words.minute(health.at)} UTC; all times are UTC.", "")
    if health.database:
        output.show_text(
            "The database could not be asked. This is what this host knows: not what other hosts "
            "do, nor what became of files.",
            first="",
        )
    output.line()
    _show_troubles(health, several)
    if not short:
        _show_components(health, several)
        _show_backlog(health, several)
        _show_rooms(health)


def _named(one: Trouble | Component | Waiting, several: bool) -> str:
    """Return which component it is: with its site, where there are several."""
    return (f"{one.site} {one.label}".strip() if several else one.label) or one.site


def _show_troubles(health: Health, several: bool) -> None:
    if not health.troubles:
        return
    output.heading("Troubles")
    for trouble in health.troubles:
        said = f"{_named(trouble, several)}: {trouble.what}"
        if trouble.files:
            said += f", {counted(trouble.files, 'file')}"
        if trouble.since:
            lasts = words.span_of(trouble.since, health.at)
            said += f", since {words.minute(trouble.since)} ({lasts})"
        output.show_text(said, "  ", "    ", "yellow" if trouble.level < Level.CRITICAL else "red")
        for message in (trouble.message, *trouble.others):
            output.show_text(message, "    ")
        prose, commands = words.commands_in(trouble.advice)
        if prose or (not commands and trouble.what != "warning"):
            output.show_text(f"next: {prose or 'nothing: it is tried again by itself'}", "    ")
        # A command is one line, so that it can be pasted.
        for number, command in enumerate(commands):
            before = "or:" if number else "" if prose else "next:"
            output.line(f"    {before.rjust(5)} {command}")
        if trouble.listing:
            output.line(f"    list: {trouble.listing}")
    output.line()


def _show_components(health: Health, several: bool) -> None:
    # Which host made the last pass matters where it may be another one.
    hosts = len({one.host for one in health.components if one.host}) > 1
    output.show_table(
        "Components",
        ["section", "state", *(["host"] if hosts else []), ">last ok", ">every", "last pass"],
        [
            [
                _named(one, several),
                f"overdue, {one.state}" if one.overdue else one.state,
                *([one.host] if hosts else []),
                words.ago(one.last_ok, health.at),
                fields.span_text(one.usual) if one.usual else "",
                _did(one),
            ]
            for one in health.components
        ],
    )


def _did(component: Component) -> str:
    """Return what the last pass did; or until when it is paused, and why."""
    if component.state != "paused":
        return words.counts_for_people(component.counts)
    until = words.minute(component.paused_until) or "`dbb resume`"
    return f"until {until}{f': {component.message}' if component.message else ''}"


def _show_backlog(health: Health, several: bool) -> None:
    output.show_table(
        "Backlog",
        ["section", "to", ">files", ">size", ">oldest", "at this rate"],
        [
            [
                _named(one, several),
                one.step,
                f"{'≥ ' if one.at_least else ''}{one.files:,}" if one.is_known else "not known",
                words.size_for_people(one.size_bytes) if one.is_known else "",
                words.span_of(one.oldest, health.at) if one.oldest else "",
                _left(one),
            ]
            for one in health.backlog
        ],
    )


def _left(waiting: Waiting) -> str:
    if waiting.seconds_left is not None:
        return f"done in {fields.span_text(waiting.seconds_left)}"
    return "" if waiting.rate is None else words.rate_for_people(waiting.rate)


def _show_rooms(health: Health) -> None:
    output.show_table(
        "Free room",
        [">free", ">of", ">must be free", "where"],
        [
            [
                words.size_for_people(room.free_bytes),
                words.size_for_people(room.total_bytes),
                words.size_for_people(room.needed_bytes),
                f"{room.where} {room.path}",
            ]
            for room in health.rooms
        ],
    )


def _for_programs(health: Health) -> dict[str, Any]:
    """Return all of it for JSON, with what is worked out from it."""
    return {
        "verdict": words.verdict(health),
        "level": health.level.name,
        **vars(health),
        "troubles": [{**vars(one), "level": one.level.name} for one in health.troubles],
        "backlog": [{**vars(one), "seconds_left": one.seconds_left} for one in health.backlog],
    }
