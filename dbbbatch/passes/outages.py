"""Which troubles of several components are one outage, when it is over, and what is told of it.

Decisions only: nothing here reads a clock, a disk or a database. An outage is known by a key, and
has holders: the components whose passes met it. It is over when each of them has made a pass that
saw everything and did not meet it again. A component whose passes are rare need not be waited for:
what it met counts no longer when another one has met the same later, and is over it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from dbbbatch.config import fields
from dbbbatch.files import names
from dbbbatch.files.state import read_time
from dbbbatch.passes.notices import Symptom, has_grown

#: Files that a message names.
_NAMED = 5

#: Characters of a message that are remembered, and of a subject.
_LONGEST, _SUBJECT = 400, 120

#: Seconds after which a holder that made no further pass need not be waited for, if another one
#: that met the outage later is over it; and if nobody else met it.
_RARE = 600.0
_LEFT_ALONE = 8 * 86400.0


@dataclass(frozen=True, kw_only=True)
class Sufferer:
    """A component that met an outage: when last (seconds since 1970), and whether it is over it."""

    met: float
    over: bool = False


@dataclass(frozen=True, kw_only=True)
class Outage:
    """A trouble that was told and is not over.

    Attributes
    ----------
    message, level, files, more
        As `Symptom` has them.
    since : `float`
        When it was first met; seconds since 1970.
    holders : mapping
        By KIND.NAME; '' is what every pass looks at.
    told : `bool`
        False while telling that it began has failed.
    """

    message: str
    since: float
    level: int = 0
    files: Sequence[str] = ()
    more: int = 0
    holders: Mapping[str, Sufferer] = field(default_factory=dict)
    told: bool = True


class What(StrEnum):
    """What is told of an outage."""

    BEGINS = "begins"
    GROWS = "has grown"
    OVER = "is over"
    ABANDONED = "is no longer watched"


class Turn(NamedTuple):
    """Something to tell."""

    what: What
    key: str
    outage: Outage


def follow(
    known: Mapping[str, Outage], label: str, met: Mapping[str, Symptom], whole: bool, now: float
) -> tuple[dict[str, Outage], list[Turn]]:
    """Return which outages last after a pass, and what is to be told.

    Parameters
    ----------
    known : mapping
        Those that were told and are not over, by key.
    label : `str`
        The component that made the pass.
    met : mapping
        What it met, by key.
    whole : `bool`
        It saw everything: what it did not meet is over, for this component.
    now : `float`
        Seconds since 1970.
    """
    after: dict[str, Outage] = {}
    changes: list[Turn] = []
    for key in {**known, **met}:
        before, symptom = known.get(key), met.get(key)
        if symptom is not None:
            outage = _met(before, label, symptom, now)
            after[key] = outage
            if before is None or not before.told:
                changes.append(Turn(What.BEGINS, key, outage))
            elif outage.level > before.level:
                changes.append(Turn(What.GROWS, key, outage))
        elif before is not None:
            outage = _not_met(before, label) if whole else before
            if ended := _ended(outage, now):
                changes.append(Turn(ended, key, outage))
            else:
                after[key] = outage
    return after, changes


def untold(
    known: Mapping[str, Outage], after: Mapping[str, Outage], changes: Sequence[Turn]
) -> dict[str, Outage]:
    """Return outages so that what could not be told is told by the next pass.

    Parameters
    ----------
    known, after, changes
        What `follow` was given, and returned.
    """
    found = dict(after)
    for what, key, outage in changes:
        if what is What.BEGINS:
            outage = replace(outage, told=False)
        elif what is What.GROWS:
            outage = replace(outage, level=known[key].level)
        found[key] = outage
    return found


def _met(before: Outage | None, label: str, symptom: Symptom, now: float) -> Outage:
    holders = {**(before.holders if before else {}), label: Sufferer(met=now)}
    if before is not None and not has_grown(symptom.level, before.level):
        return replace(before, holders=holders, told=True)
    return Outage(
        message=symptom.message[:_LONGEST],
        since=before.since if before else now,
        level=symptom.level,
        files=tuple(symptom.files),
        more=symptom.more,
        holders=holders,
    )


def _not_met(outage: Outage, label: str) -> Outage:
    holder = outage.holders.get(label)
    if holder is None:
        return outage
    return replace(outage, holders={**outage.holders, label: replace(holder, over=True)})


def _ended(outage: Outage, now: float) -> What | None:
    over = max((one.met for one in outage.holders.values() if one.over), default=None)
    lasting = [one.met for one in outage.holders.values() if not one.over]
    if not lasting:
        return What.OVER
    if over is not None and max(lasting) < min(over, now - _RARE):
        return What.OVER
    return What.ABANDONED if max(lasting) < now - _LEFT_ALONE else None


def subject_of(site: str, changes: Sequence[Turn]) -> str:
    """Return one line that says what is to be told."""
    worst = next((one for one in changes if one.what in (What.BEGINS, What.GROWS)), changes[0])
    more = f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""
    verdict = "NOT WELL" if worst.what in (What.BEGINS, What.GROWS) else worst.what
    words = names.harmless(f"{site}: {verdict}: {worst.outage.message}")
    most = _SUBJECT - len(more)
    return (words if len(words) <= most else words[: most - 1] + "…") + more


def text_of(changes: Sequence[Turn], now: float) -> str:
    """Return paragraphs that say of each outage what it is, since when, where and of which files.

    Parameters
    ----------
    changes : sequence of `Turn`
    now : `float`
        Seconds since 1970.
    """
    return "\n\n".join("\n".join(_paragraph(change, now)) for change in changes)


def _paragraph(change: Turn, now: float) -> list[str]:
    what, _, outage = change
    ended = what in (What.OVER, What.ABANDONED)
    found = [f"{what.upper()}: {names.harmless(outage.message)}"]
    since = f"since {clock_text(outage.since)}"
    lasted = f"lasted {fields.span_text(now - outage.since)}, " if ended else ""
    found.append(f"  {lasted}{since}")
    if holders := ", ".join(filter(None, outage.holders)):
        found.append(f"  met by {holders}")
    if outage.files and not ended:
        shown = outage.files[:_NAMED]
        more = outage.more + len(outage.files) - len(shown)
        end = f", and {more} more" if more else ""
        found.append(f"  files: {', '.join(map(names.printable, shown))}{end}")
    if what is What.ABANDONED:
        found.append("  nobody who met it has made a pass for long")
    return found


def clock_text(seconds: float) -> str:
    """Return a time of seconds since 1970, as UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def as_json(outages: Mapping[str, Outage]) -> dict[str, Any]:
    """Return outages as they are remembered."""
    return {key: asdict(outage) for key, outage in outages.items()}


def from_json(found: Mapping[str, Any] | None) -> dict[str, Outage]:
    """Return the outages that were remembered; what makes no sense was none."""
    outages = {}
    for key, table in (found or {}).items():
        try:
            holders = {
                str(label): Sufferer(met=read_time(one["met"]), over=bool(one["over"]))
                for label, one in table["holders"].items()
            }
            outages[str(key)] = Outage(
                message=str(table["message"]),
                since=read_time(table["since"]),
                level=int(table["level"]),
                files=tuple(map(str, table["files"])),
                more=int(table["more"]),
                holders=holders,
                told=bool(table["told"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
            continue
    return outages
