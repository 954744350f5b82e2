"""Options of the command line whose values are parsed here: lengths of time, and moments."""

from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from typing import Any

import click

from dbbbatch.config import fields


def parsed(parse: Callable[[str], Any]) -> Callable[..., Any]:
    """Return the callback of an option whose text is parsed; `ValueError` says what is expected."""

    def callback(_: click.Context, __: click.Parameter, value: str | None) -> Any:
        try:
            return None if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return callback


def duration_option(name: str, help: str, default: str | None = None) -> Callable[..., Any]:
    """Declare an option that takes seconds, or a text such as 90s, 10min, 2h."""
    return click.option(
        name, metavar="DURATION", default=default, callback=parsed(fields.duration), help=help
    )


def seconds(text: str) -> float:
    """Read a length of time of at least a second."""
    return max(fields.duration(text), 1)


def since(text: str) -> datetime:
    """Read a moment in UTC, or how long ago it was: 2026-11-24, '2026-11-24 18:00', 12h, 7d."""
    try:
        return utc_now() - timedelta(seconds=fields.duration(text))
    except ValueError:
        pass
    try:
        return _moment(text)
    except ValueError:
        raise ValueError(f"expected a date, a time in UTC, or 12h, 7d, not {text!r}") from None


def until(text: str, now: datetime) -> datetime:
    """Read a moment in UTC; a time of day is the next one after ``now``."""
    try:
        moment = datetime.combine(now.date(), time.fromisoformat(text.strip().removesuffix("Z")))
        return moment if moment > now else moment + timedelta(days=1)
    except ValueError:
        pass
    try:
        return _moment(text)
    except ValueError:
        raise ValueError(
            f"expected HH:MM, YYYY-MM-DD or 'YYYY-MM-DD HH:MM', in UTC, not {text!r}"
        ) from None


def utc_now() -> datetime:
    """Return the time by this host's clock: UTC, without a time zone."""
    return datetime.now(UTC).replace(tzinfo=None)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text.strip().removesuffix("Z"))
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
