"""Sizes, times and states in words for people."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from dbbbatch.config import fields
from dbbbatch.report.health import Health, Level
from dbbbatch.report.nights import Night

#: What files are that have made a step; of a target they are in it.
_DONE = {"delivered": "delivered", "stored": "stored"}


def size_for_people(number: int | None) -> str:
    """Write a number of bytes for people."""
    return "" if number is None else fields.size_text(number)


def time_for_people(value: datetime | None) -> str:
    """Write a time (UTC)."""
    return f"{value:%Y-%m-%d %H:%M:%S}" if value else ""


def ago(value: datetime | None, now: datetime) -> str:
    """Write how long ago a time was."""
    return f"{fields.span_text((now - value).total_seconds())} ago" if value else "never"


def minute(value: datetime | None) -> str:
    """Write a time (UTC) to the minute."""
    return f"{value:%Y-%m-%d %H:%M}" if value else ""


def noun(number: int, one: str) -> str:
    """Return a noun, which takes an s but after 1."""
    return one if number == 1 else f"{one}s"


def counts_for_people(counts: Mapping[str, int]) -> str:
    """Write what a pass did."""
    return ", ".join(f"{number:,} {what}" for what, number in counts.items() if number)


def rate_for_people(rate: float | None) -> str:
    """Write by how many files a second a backlog shrinks, or grows if that is negative."""
    if rate is None:
        return "not known"
    for seconds, unit in ((60, "min"), (3600, "h"), (86400, "d")):
        if (files := abs(rate) * seconds) >= 1:
            return f"{'shrinks' if rate > 0 else 'grows'} by {files:,.0f}/{unit}"
    return "stays the same"


#: A command in a text: alone, or after a colon.
_TYPED = re.compile(r"(?:\A|(?<=: ))(?:sudo .*|chmod .*|kill .*|(?:\S*/)?dbb[ -].*)", re.DOTALL)


def commands_in(advice: str) -> tuple[str, list[str]]:
    """Split an advice into words and commands, of which one is to be typed; it may lack both."""
    found = _TYPED.search(advice)
    if not found:
        return advice, []
    return advice[: found.start()].strip(), found[0].split(", or: ")


def verdict(health: Health) -> str:
    """Return in capitals whether all is well."""
    known = {Level.WELL: "WELL", Level.UNKNOWN: "NOT KNOWN WHETHER ALL IS WELL"}
    return known.get(health.level, "NOT WELL")


def in_short(health: Health) -> str:
    """Return what follows the verdict: the worst trouble, how many there are, how much waits."""
    parts = [files_waiting(health)]
    if health.troubles:
        worst, number = health.troubles[0], len(health.troubles)
        where = f"{worst.site} " if worst.site not in ("", health.site) and worst.label else ""
        who = f"{where}{worst.label or worst.site}: {worst.what}"
        if worst.since:
            who += f" since {minute(worst.since)} UTC ({span_of(worst.since, health.at)})"
        person = sum(bool(trouble.advice) for trouble in health.troubles)
        needs = f"{person or 'none'} {'needs' if person == 1 else 'need'} a person"
        parts = [who, f"{number:,} {noun(number, 'trouble')}, {needs}", *parts]
    return f"{'; '.join(parts)}."


def files_waiting(health: Health) -> str:
    """Return how many files wait, in words."""
    files = sum(one.files for one in health.backlog)
    least = "at least " if any(one.at_least for one in health.backlog) else ""
    if not files:
        return "whether files wait is not known" if least else "no file waits"
    return f"{least}{files:,} {noun(files, 'file')} {'waits' if files == 1 else 'wait'}"


def span_of(since: datetime, now: datetime) -> str:
    """Write how long something has lasted."""
    return fields.span_text((now - since).total_seconds())


def night_summary(night: Night) -> str:
    """Return in a sentence how far the files of a night are."""
    of = f" of {night.expected:,} expected" if night.expected is not None else ""
    parts = [f"{night.found:,}{of} {noun(night.expected or night.found, night.unit)} found"]
    for step in night.steps:
        if step.name != "found" and step.known:
            missing = f" ({step.missing:,} missing)" if step.missing else ""
            parts.append(f"{step.done:,} {_DONE.get(step.name, f'in {step.name}')}{missing}")
    return f"{', '.join(parts)}."
