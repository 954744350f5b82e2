"""Everything that a report shows, as far as it can be known now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dbbbatch.config.load import Settings
from dbbbatch.errors import ConfigError, TryLater
from dbbbatch.report import night_rows, verdict
from dbbbatch.report.health import Health
from dbbbatch.report.night_files import NightFiles
from dbbbatch.report.nights import Night


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What is known.

    Attributes
    ----------
    health : `Health`
    nights : sequence of `Night`
        The newest first.
    unknown : `str`
        Why the nights are not known; '' if they are.
    files : `NightFiles`
        Those of the nights, if they were asked for.
    error : `ConfigError` or `None`
        What a person must correct before the nights can be known.
    """

    health: Health
    nights: Sequence[Night] = ()
    unknown: str = ""
    files: NightFiles = field(default_factory=NightFiles)
    error: ConfigError | None = None


def survey(settings: Settings, *, with_files: bool, count: int | None = None) -> Survey:
    """Return everything that a report shows; never raise because the database is away.

    Parameters
    ----------
    settings : `dbbbatch.config.load.Settings`
    with_files : `bool`
        Keep the files of the nights, too.
    count : `int`, optional
        How many nights; by default as many as the configuration says.
    """
    health = verdict.examine(settings)
    if health.database:
        return Survey(health=health, unknown=health.database)
    files = NightFiles()
    try:
        each = files.add if with_files else None
        nights = night_rows.nights(settings, count=count, each=each)
    except ConfigError as error:
        return Survey(health=health, unknown=str(error), error=error)
    except TryLater as error:
        return Survey(health=health, unknown=str(error))
    return Survey(health=health, nights=nights, files=files)
