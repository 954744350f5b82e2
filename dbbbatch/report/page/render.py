"""The pages as bytes: pure functions of what is known."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from dbbbatch import __version__
from dbbbatch.config import fields
from dbbbatch.files.names import harmless
from dbbbatch.report import words
from dbbbatch.report.health import Component, Health, Level, Room, Waiting
from dbbbatch.report.nights import Night, NightFile, Step
from dbbbatch.report.page import plots
from dbbbatch.report.rates import LATELY
from dbbbatch.report.survey import Survey

_TEMPLATES = Path(__file__).parent / "templates"

#: Where a file is that is on its way, or in trouble.
_ON_THE_WAY = {"in the buffer", "quarantined", "arriving in storage", "missing", "corrupt"}

#: Statuses of ingests to which nothing is to be done.
_FINISHED = frozenset({"SUCCESS", "BACKFILL", "IGNORED"})

#: How many files that are not finished a page names.
_MOST_UNFINISHED = 100

#: The sign of a level, for those who do not see colours.
_SIGNS = {Level.WELL: "✓", Level.WARNING: "!", Level.CRITICAL: "✕", Level.UNKNOWN: "?"}


def overview(seen: Survey, days: Sequence[date]) -> bytes:
    """Return the page that says how all is.

    Parameters
    ----------
    seen : `dbbbatch.report.survey.Survey`
    days : sequence of `datetime.date`
        Those that have a page, the newest first.
    """
    health = seen.health
    steps = {step.name: None for night in seen.nights for step in night.steps[1:]}
    return _render(
        "index.html",
        digest="",
        health=health,
        site=health.site,
        made=health.at,
        lately=LATELY,
        nights=seen.nights,
        unknown=seen.unknown,
        days=days,
        last=next((night.day for night in seen.nights if night.files), None),
        steps=sorted(steps, key=_order),
        person=[trouble for trouble in health.troubles if trouble.advice],
        itself=[trouble for trouble in health.troubles if not trouble.advice],
        level=_class(health.level),
        verdict=words.verdict(health),
        summary=words.in_short(health),
    )


@dataclass(frozen=True, kw_only=True)
class NightPage:
    """What the page of a night shows.

    Attributes
    ----------
    night : `Night`
    site : `str`
    over : `bool`
        The night has ended.
    before, after : `datetime.date` or `None`
        The nights to which it links.
    unfinished : sequence of `NightFile`
        The files that have not made all steps.
    """

    night: Night
    site: str
    over: bool
    before: date | None
    after: date | None
    unfinished: Sequence[NightFile]

    def html(self, made: datetime) -> bytes:
        """Return the page, as it is made at that time (UTC)."""
        night = self.night
        drawn = (plots.bytes_by_time(night), plots.latencies(night))
        return _render(
            "night.html",
            digest=self.digest(),
            night=night,
            site=self.site,
            made=made,
            days=[night.day],
            over=self.over,
            before=self.before,
            after=self.after,
            unfinished=self.unfinished[:_MOST_UNFINISHED],
            more=len(self.unfinished[_MOST_UNFINISHED:]),
            summary=words.night_summary(night),
            plots=[plot for plot in drawn if plot],
            timed=[step for step in night.steps if step.latency and step.latency.files],
        )

    def digest(self) -> str:
        """Return what changes when the page does, but for the time at which it is made."""
        return _digest(repr((_form(), self)).encode("utf-8", "backslashreplace"))


def is_unfinished(file: NightFile, night: Night) -> bool:
    """Return whether a file has steps to make of which this database would know."""
    if file.where == "delivered":
        return any(step.name == "stored" and step.missing_files for step in night.steps)
    if file.where == "stored":
        return not _FINISHED.issuperset(file.targets.values())
    return file.where in _ON_THE_WAY


def files_of_night(day: date, files: Iterable[NightFile]) -> bytes:
    """Return the files of a night for the search: a script, as a page may read no data."""
    found: dict[tuple[str, str], list[str]] = {}
    for file in files:
        relpath, _, filename = harmless(file.path).rpartition("/")
        state = _state_in_words(file)
        found.setdefault((state, relpath), []).append(filename)
    groups = [(state, relpath, names) for (state, relpath), names in found.items()]
    data = json.dumps(groups, separators=(",", ":"))
    return f'// dbb-report\ndbbFiles("{day}",{data});\n'.encode()


@functools.cache
def _state_of_file(where: str, *targets: tuple[str, str]) -> str:
    return harmless(", ".join([where, *(f"{name}: {status}" for name, status in targets)]))


def _state_in_words(file: NightFile) -> str:
    return _state_of_file(file.where, *sorted(file.targets.items()))


def search_script() -> bytes:
    """Return the script of the search box."""
    return (_TEMPLATES / "search.js").read_bytes()


@functools.cache
def _form() -> str:
    """Return what changes with how pages are made."""
    sources = sorted([*_TEMPLATES.iterdir(), *Path(__file__).parent.glob("*.py")])
    return _digest(b"".join(path.read_bytes() for path in sources) + __version__.encode())


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def _render(template: str, **values: Any) -> bytes:
    style = Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8"))
    text = _environment().get_template(template).render(values, style=style, version=__version__)
    return re.sub(r"\n\s*\n+", "\n", text).encode()


@functools.cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    made.filters |= {
        "advice": words.commands_in,
        "ago": words.ago,
        "class": _class,
        "counts": words.counts_for_people,
        "iso": lambda at: f"{at:%Y-%m-%dT%H:%M:%SZ}",
        "minute": words.minute,
        "noun": words.noun,
        "number": lambda number: f"{number:,}",
        "percent": _percent,
        "rate": _rate,
        "share": _share,
        "sign": _SIGNS.get,
        "size": words.size_for_people,
        "span": fields.span_text,
        "state": _state,
        "state_in_words": _state_in_words,
        "step": _step,
        "used": _used,
    }
    return made


def _shown(value: Any) -> Any:
    """Return a text without characters that do harm, unless it is ours; tags are escaped later."""
    return harmless(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _class(level: Level) -> str:
    return level.name.lower()


def _state(component: Component, health: Health) -> Level:
    """Return how bad a component is: as its worst trouble; if it has none, as its state says."""
    troubles = [
        one for one in health.troubles if (one.site, one.label) == (component.site, component.label)
    ]
    if troubles:
        return replace(health, troubles=troubles).level
    if component.state.startswith(("paused", "never")):
        return Level.UNKNOWN
    return Level.WARNING if component.overdue else Level.WELL


def _rate(waiting: Waiting) -> str:
    return words.rate_for_people(waiting.rate)


def _percent(share: float) -> str:
    """Return a share of 1 in percent: 100 only if it is all, 0 only if it is nothing."""
    percent = round(100 * share)
    return f"{min(max(percent, 1), 99) if 0 < share < 1 else percent}%"


def _share(step: Step, night: Night) -> float:
    """Return how many of the files, or of the expected units, have made a step."""
    if step.name == "found" and night.expected:
        return min(night.found / night.expected, 1)
    return step.files / ((step.files + step.missing_files) or 1)


def _used(room: Room) -> float:
    return 1 - room.free_bytes / room.total_bytes if room.total_bytes else 1


def _step(night: Night, name: str) -> Step | None:
    return next((step for step in night.steps if step.name == name), None)


def _order(name: str) -> tuple[int, str]:
    first = ("delivered", "stored")
    return (first.index(name) if name in first else len(first), name)
