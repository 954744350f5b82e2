"""The pages as bytes: pure functions of what is known."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from dbbbatch import __version__
from dbbbatch.files.names import harmless
from dbbbatch.report import words
from dbbbatch.report.health import Component, Health, Level, Room, Waiting
from dbbbatch.report.nights import Night, NightFile, Step
from dbbbatch.report.page import plots

_TEMPLATES = Path(__file__).parent / "templates"

#: The sign of a level, for those who do not see colours.
_SIGNS = {Level.WELL: "✓", Level.WARNING: "!", Level.CRITICAL: "✕", Level.UNKNOWN: "?"}


def overview(health: Health, nights: Sequence[Night], days: Sequence[date]) -> bytes:
    """Return the page that says how all is.

    Parameters
    ----------
    health : `Health`
    nights : sequence of `Night`
        The newest first; none without the database.
    days : sequence of `datetime.date`
        Those that have a page, the newest first.
    """
    person = [trouble for trouble in health.troubles if trouble.advice]
    steps = {step.name: None for night in nights for step in night.steps if step.name != "found"}
    return _render(
        "index.html",
        digest="",
        health=health,
        site=health.site,
        made=health.at,
        nights=nights,
        days=days,
        steps=sorted(steps, key=_order),
        person=person,
        itself=[trouble for trouble in health.troubles if not trouble.advice],
        level=_class(health.level),
        verdict=words.verdict(health),
        summary=words.in_short(health),
    )


def night_page(
    night: Night, site: str, made: datetime, before: date | None, after: date | None
) -> bytes:
    """Return the page of a night, with links to the night before and the night after it."""
    digest = night_digest(night, site, before, after)
    drawn = (plots.bytes_by_time(night), plots.latencies(night))
    return _render(
        "night.html",
        digest=digest,
        night=night,
        site=site,
        made=made,
        days=[night.day],
        before=before,
        after=after,
        summary=words.night_summary(night),
        plots=[plot for plot in drawn if plot],
        timed=[step for step in night.steps if step.latency and step.latency.files],
    )


def night_digest(night: Night, site: str, before: date | None, after: date | None) -> str:
    """Return what changes when `night_page` would, but for the time at which it is made."""
    return _digest(repr((_form(), site, before, after, night)).encode("utf-8", "backslashreplace"))


def files_of_night(day: date, files: Iterable[NightFile]) -> bytes:
    """Return the files of a night for the search: a script, as a page may read no data."""
    found: dict[tuple[str, str], list[str]] = {}
    for file in files:
        relpath, _, filename = harmless(file.path).rpartition("/")
        state = _state_of_file(file.where, *sorted(file.targets.items()))
        found.setdefault((state, relpath), []).append(filename)
    groups = [(state, relpath, names) for (state, relpath), names in found.items()]
    data = json.dumps(groups, separators=(",", ":"))
    return f'// dbb-report\ndbbFiles("{day}",{data});\n'.encode()


@functools.cache
def _state_of_file(where: str, *targets: tuple[str, str]) -> str:
    return harmless(", ".join([where, *(f"{name}: {status}" for name, status in targets)]))


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
        "span": words.span_for_people,
        "state": _state,
        "step": _step,
        "used": _used,
    }
    return made


def _shown(value: Any) -> Any:
    """Return a text without characters that do harm, unless it is ours; tags are escaped later."""
    return harmless(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _class(level: Level) -> str:
    return level.name.lower()


#: How bad the state of a component is, by its first word.
_LEVEL_OF_STATE = {
    "ok": Level.WELL,
    "at": Level.WELL,
    "running": Level.WELL,
    "failed": Level.WARNING,
}


def _state(component: Component) -> Level:
    if component.state.startswith(("paused", "never")):
        return Level.WARNING if component.overdue else Level.UNKNOWN
    level = _LEVEL_OF_STATE.get(component.state.partition(" ")[0], Level.CRITICAL)
    return max(level, Level.WARNING) if component.overdue else level


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
