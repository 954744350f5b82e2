"""The numbers of nights: what was found, delivered, stored and ingested, how soon, what is missing.

`dbbbatch.report.night_rows` reads them from the database.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from types import MappingProxyType
from typing import NamedTuple

#: Seconds: the upper bounds of `Latency.within`.
LATENCY_BOUNDS = (10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800)

#: Seconds of a night of which `Step.bytes_by_time` has one number.
BIN = 900


@dataclass(frozen=True)
class Slow:
    """A file that took long.

    Attributes
    ----------
    path : `str`
        Relative, as in the database.
    seconds : `float`
    """

    path: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long it took until files had made a step.

    Attributes
    ----------
    since : `str`
        Where the time begins: "found" (in the buffer of a handoff), or "stored" where no handoff of
        this database knows the files.
    files : `int`
        How many made it.
    median, p95, p99 : `float`
        Seconds: half of the files, 95 %, and 99 % of them made it in so long, or sooner.
    total : `float`
        The seconds of all files together.
    within : `tuple` [`int`]
        How many files made it within each of `LATENCY_BOUNDS`.
    worst : `tuple` [`Slow`]
        Those that took longest, the worst first; at most 10.
    """

    since: str
    files: int
    median: float
    p95: float
    p99: float
    total: float
    within: tuple[int, ...]
    worst: tuple[Slow, ...]


@dataclass(frozen=True, kw_only=True)
class Step:
    """How far the files of a night are with one step.

    An exposure has made it when all of its files that were found have.

    Attributes
    ----------
    name : `str`
        "found", "delivered", "stored", or "target.NAME".
    site : `str`
        Of a target; else ''.
    done : `int`
        Units (exposures or files) that have made it.
    missing : `int`
        Units that have not, though they ought to: those on their way, and those in trouble. Of a
        target: among the stored ones.
    unknown : `int`
        Units of which this database does not know it: they are another site's business.
    files, missing_files, unknown_files : `int`
        The same, in files.
    size_bytes : `int`
        Of the files that have made it.
    latency : `Latency` or `None`
        `None` where no time is known; of "found" always.
    bytes_by_time : `tuple` [`int`]
        Bytes that made it in each `BIN` seconds from the beginning of the night to its end.
    bytes_earlier, bytes_later : `int`
        Bytes that made it before the night, as its beginning is configured, and after it.
    """

    name: str
    site: str = ""
    done: int
    missing: int
    unknown: int
    files: int
    missing_files: int
    unknown_files: int
    size_bytes: int
    latency: Latency | None
    bytes_by_time: tuple[int, ...]
    bytes_earlier: int
    bytes_later: int

    @property
    def known(self) -> bool:
        """Return whether this database knows it of any file; if not, say "not known here"."""
        return not self.unknown_files or self.files + self.missing_files > 0


@dataclass(frozen=True)
class Reason:
    """Why files do not make a step.

    Attributes
    ----------
    step : `str`
        As `Step.name`.
    text : `str`
        The reason that most of them have, with numbers replaced by "#".
    files : `int`
    example : `str`
        The relative path of one of them.
    """

    step: str
    text: str
    files: int
    example: str


class NightFile(NamedTuple):
    """A file of a night, and where it is now.

    Attributes
    ----------
    path : `str`
        Relative, as in the database.
    size_bytes : `int`
    where : `str`
        In words: "in the buffer", "delivered", "stored", "missing", "corrupt", "quarantined", ….
    targets : mapping
        Name to status, for each target that it is for.
    """

    path: str
    size_bytes: int
    where: str
    targets: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Night:
    """What became of the files of one night.

    Attributes
    ----------
    day : `datetime.date`
        On which it began.
    begins, ends : `datetime.datetime`
        UTC.
    unit : `str`
        "exposure" or "file": what is counted.
    expected : `int` or `None`
        Units that a night should bring, if the configuration says so.
    found : `int`
        Units that were seen, at the handoff or, where no handoff of this database knows them, in
        storage.
    files : `int`
        The same, in files.
    size_bytes : `int`
        Of all these files.
    withdrawn : `int`
        Files that are not missing though they are not stored: someone removed them from the buffer,
        or decided that they are not to be stored (`dbb ignore`, `dbb forget`).
    steps : `tuple` [`Step`]
        In order: found, delivered, stored, and the targets by name.
    reasons : `tuple` [`Reason`]
        Why files do not proceed, those that hold up most files first.
    """

    day: date
    begins: datetime
    ends: datetime
    unit: str
    expected: int | None
    found: int
    files: int
    size_bytes: int
    withdrawn: int
    steps: tuple[Step, ...]
    reasons: tuple[Reason, ...]
