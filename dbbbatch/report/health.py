"""Whether all is well: what status, `--check`, page, metrics and mail show, as plain data."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


class Level(enum.IntEnum):
    """How bad it is: the exit codes of monitoring plugins."""

    WELL = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


@dataclass(frozen=True, kw_only=True)
class Component:
    """A script and section, with its last pass.

    Attributes
    ----------
    label : `str`
        KIND.NAME, as operators' commands take it.
    state : `str`
        In words: "ok", "at work", "killed", "paused", "never", "failed (1)", "later (75)", …
    started, finished, last_ok : `datetime.datetime` or `None`
        Of the last pass, and when the last successful one ended; UTC.
    usual : `float` or `None`
        Seconds within which it is expected to succeed again: `expect`, or learned from its passes.
    overdue : `bool`
        It did not succeed for longer than that.
    code : `int` or `None`
        Exit code of the last pass that ended; `None` if it is not known.
    failing_since : `datetime.datetime` or `None`
        When the first pass after the last successful one ended, if the last one failed; UTC.
    paused_until : `datetime.datetime` or `None`
        When a pause (``state`` is "paused") ends by itself; UTC.
    counts : mapping
        What the last pass did, in numbers.
    message : `str`
        Why it did not succeed; of a pause, its reason.
    """

    site: str
    label: str
    host: str
    state: str
    started: datetime | None = None
    finished: datetime | None = None
    last_ok: datetime | None = None
    usual: float | None = None
    overdue: bool = False
    code: int | None = None
    failing_since: datetime | None = None
    paused_until: datetime | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Files of a section that wait for one step.

    Attributes
    ----------
    step : `str`
        "deliver", "hold", "store", "ingest", "try again", "end its try".
    files : `int`
    at_least : `bool`
        There was no time to count all of them: there are at least so many.
    size_bytes : `int` or `None`
        `None` if it is not known.
    oldest : `datetime.datetime` or `None`
        Since when the oldest of them waits; UTC.
    rate : `float` or `None`
        Files a second by which the backlog shrinks; negative while it grows; `None` if unknown.
    """

    site: str
    label: str
    step: str
    files: int
    at_least: bool = False
    size_bytes: int | None = None
    oldest: datetime | None = None
    rate: float | None = None

    @property
    def is_known(self) -> bool:
        """Whether anything is known of how many files wait."""
        return bool(self.files) or not self.at_least

    @property
    def seconds_left(self) -> float | None:
        """How long it takes until nothing waits, at this rate."""
        return self.files / self.rate if self.rate and self.rate > 0 and not self.at_least else None


@dataclass(frozen=True)
class Trouble:
    """Something that is not well.

    Attributes
    ----------
    label : `str`
        KIND.NAME; a storage area; or '' for what concerns the whole site.
    what : `str`
        The kind of trouble, in one to three words, for people and as a label of metrics:
        "try again later" (75), "configuration" (78), "error" (70), "overdue", "hangs", "killed",
        "database away", "no room", "lock", "failing", "quarantined", "gave up", "invalid",
        "missing", "corrupt", "warning", "not seen", …
    files : `int`
        How many files it holds up or concerns; 0 if it is not about files. A file is counted in
        one trouble only.
    message : `str`
        One line: what, which file or key; of files, the reason of the newest of them.
    advice : `str`
        A command that can be pasted, or what else to do; '' if nobody need do anything.
    listing : `str`
        A command that lists the files with their reasons; '' if there is none.
    since : `datetime.datetime` or `None`
        When it began; UTC.
    level : `Level`
    others : `tuple` [`str`]
        Of warnings, the messages of all others that the component reported, one line each.
    """

    site: str
    label: str
    what: str
    files: int
    message: str
    advice: str = ""
    listing: str = ""
    since: datetime | None = None
    level: Level = Level.WARNING
    others: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Room:
    """Free room where a component writes.

    Attributes
    ----------
    where : `str`
        Section and key, such as "[finder.latiss] storage".
    free_bytes, total_bytes : `int`
    needed_bytes : `int`
        `min_free`, or 0.
    """

    where: str
    path: str
    free_bytes: int
    total_bytes: int
    needed_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Health:
    """The state of everything that uses a database, as seen from one host.

    Attributes
    ----------
    at : `datetime.datetime`
        When it was looked at; UTC.
    troubles : `list` [`Trouble`]
        The worst first.
    database : `str`
        Why the database could not be asked; '' if it was. Without it, components are those of this
        host, and files are counted only where they lie.
    exit_code : `int`
        What a command that asked for all of this exits with: 75 or 78 where the database could
        not be asked, else 0.
    """

    at: datetime
    site: str
    troubles: list[Trouble] = field(default_factory=list)
    components: list[Component] = field(default_factory=list)
    backlog: list[Waiting] = field(default_factory=list)
    rooms: list[Room] = field(default_factory=list)
    database: str = ""
    exit_code: int = 0

    @property
    def level(self) -> Level:
        """The worst of all troubles; what could not be seen is no worse than what was."""
        levels = {trouble.level for trouble in self.troubles}
        worst = (Level.CRITICAL, Level.WARNING, Level.UNKNOWN)
        return next((level for level in worst if level in levels), Level.WELL)
