"""What the pages say, as plain text of 80 columns for a mail."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator

from dbbbatch.files.names import harmless
from dbbbatch.report import words
from dbbbatch.report.health import Component, Health, Room, Trouble, Waiting
from dbbbatch.report.nights import Night, Step
from dbbbatch.report.survey import Survey

_WIDTH = 80
_INDENT = "  "


def as_text(seen: Survey) -> Iterator[str]:
    """Yield the lines; those longer than 80 columns are names, and commands to paste."""
    health = seen.health
    yield from _wrapped(f"{words.verdict(health)}: {words.in_short(health)}")
    yield f"{health.site}, {words.minute(health.at)} UTC; all times are UTC."
    if health.database:
        yield from _wrapped(
            f"The database could not be asked: {health.database}. This is what this host knows: "
            "not what other hosts do, nor what became of files."
        )
    person = [trouble for trouble in health.troubles if trouble.advice]
    itself = [trouble for trouble in health.troubles if not trouble.advice]
    yield from _section("Needs a person", (_trouble(one, health) for one in person))
    yield from _section("Is tried again by itself", (_trouble(one, health) for one in itself))
    yield from _section("Components", (_component(one, health) for one in health.components))
    yield from _section("Backlog", (_waiting(one, health) for one in health.backlog))
    yield from _section("Free room", (_wrapped(_room(one)) for one in health.rooms))
    if seen.unknown and not health.database:
        yield from _section("Nights", [_wrapped(f"Not known: {seen.unknown}")])
    for night in [night for night in seen.nights if night.files][:1]:
        yield from _section(f"Night {night.day}", _night(night))


def _section(title: str, items: Iterable[Iterable[str]]) -> Iterator[str]:
    lines = [line for item in items for line in item]
    if lines:
        yield from ("", title.upper(), *(_INDENT + line for line in lines))


#: A number and its unit stay in one line.
_UNIT = re.compile(r"(?<=\d) (?=(?:s|min|h|d|%|[kMGT]?B)\b|%)")


def _wrapped(text: str, first: str = "", then: str = "  ") -> list[str]:
    """Break a text into lines between words; a name is never cut."""
    lines = textwrap.wrap(
        _UNIT.sub("\0", harmless(text)),
        _WIDTH - len(_INDENT),
        initial_indent=first,
        subsequent_indent=then,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\0", " ") for line in lines]


def _trouble(trouble: Trouble, health: Health) -> Iterator[str]:
    parts = [f"{_who(trouble)}: {trouble.what}"]
    if trouble.since:
        parts.append(f"for {words.span_for_people((health.at - trouble.since).total_seconds())}")
    if trouble.files:
        parts.append(f"{trouble.files:,} {words.noun(trouble.files, 'file')}")
    yield from _wrapped(", ".join(parts))
    prose, command = words.commands_in(trouble.advice)
    for text in (trouble.message, prose):
        yield from _wrapped(text, "  ")
    # A command is one line, so that it can be pasted.
    yield from (f"    {harmless(one)}" for one in (command, trouble.listing) if one)


def _who(one: Trouble | Component | Waiting) -> str:
    return f"{one.site} {one.label}".strip()


def _component(one: Component, health: Health) -> Iterator[str]:
    state = f"{one.state}, overdue" if one.overdue else one.state
    usual = f"; every {words.span_for_people(one.usual)}" if one.usual else ""
    yield from _wrapped(f"{_who(one)}: {state}; last ok {words.ago(one.last_ok, health.at)}{usual}")


def _waiting(one: Waiting, health: Health) -> Iterator[str]:
    least = "at least " if one.at_least else ""
    parts = [f"{least}{one.files:,} {words.noun(one.files, 'file')} to {one.step}"]
    if one.size_bytes is not None:
        parts.append(words.size_for_people(one.size_bytes))
    if one.oldest:
        oldest = words.span_for_people((health.at - one.oldest).total_seconds())
        parts.append(f"the oldest for {oldest}")
    if one.rate is not None:
        parts.append(words.rate_for_people(one.rate))
    if one.seconds_left is not None:
        parts.append(f"at this rate done in {words.span_for_people(one.seconds_left)}")
    yield from _wrapped(f"{_who(one)}: {', '.join(parts)}")


def _room(room: Room) -> str:
    free, total, needed = map(
        words.size_for_people, (room.free_bytes, room.total_bytes, room.needed_bytes)
    )
    little = f"; too little: {needed} needed" if room.free_bytes < room.needed_bytes else ""
    return f"{room.where} ({room.path}): {free} of {total}{little}"


def _night(night: Night) -> Iterator[Iterable[str]]:
    yield _wrapped(words.night_summary(night))
    yield from (_wrapped(_latency(step)) for step in night.steps if step.latency)
    for reason in night.reasons:
        files = f"{reason.files:,} {words.noun(reason.files, 'file')}"
        yield _wrapped(f"{reason.step}: {files}: {reason.text} ({reason.example})")


def _latency(step: Step) -> str:
    latency = step.latency
    assert latency is not None
    half, p95, p99 = map(words.span_for_people, (latency.median, latency.p95, latency.p99))
    text = f"{step.name}, since {latency.since}: half in {half}, 95 % in {p95}, 99 % in {p99}"
    for slowest in latency.worst[:1]:
        text += f"; worst {words.span_for_people(slowest.seconds)}: {slowest.path}"
    return text
