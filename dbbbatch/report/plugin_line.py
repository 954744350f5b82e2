"""The line of a monitoring plugin (Nagios, Icinga, …): a state, its reason, and numbers.

The form is that of the Monitoring Plugins Development Guidelines: text, a bar, and
``'label'=value[unit];[warn];[crit];[min];[max]``.
"""

from __future__ import annotations

from collections.abc import Iterator

from dbbbatch.files.names import counted, harmless
from dbbbatch.report import words
from dbbbatch.report.health import Health, Level, Trouble

_STATE_WORDS = {Level.WELL: "OK"}

#: Troubles that are named; the others are counted.
_MOST_NAMED = 3

#: Characters of the message of one trouble: some servers keep few of a line.
_LONGEST_MESSAGE = 300


def of_health(health: Health) -> str:
    """Return the line."""
    state = _STATE_WORDS.get(health.level, health.level.name)
    named = [_trouble_named(trouble) for trouble in health.troubles[:_MOST_NAMED]]
    if (more := len(health.troubles) - len(named)) > 0:
        named.append(f"and {counted(more, 'more trouble')}")
    text = "; ".join([*named, words.files_waiting(health)])
    return f"DBB {state} - {one_line(text)} | {' '.join(_numbers(health))}"


def one_line(text: str) -> str:
    """Return a text for the first part of the line: the bar ends it."""
    return " ".join(harmless(text).replace("|", "/").split())


def _trouble_named(trouble: Trouble) -> str:
    who = f"{trouble.site} {trouble.label}".strip()
    since = f" since {words.minute(trouble.since)} UTC" if trouble.since else ""
    files = f", {counted(trouble.files, 'file')}" if trouble.files else ""
    message = trouble.message
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[: _LONGEST_MESSAGE - 1]}…"
    return f"{who}: {trouble.what}{files}{since}: {message}"


def _numbers(health: Health) -> Iterator[str]:
    """Yield the performance data: files, bytes, seconds."""
    files = sum(one.files for one in health.backlog)
    size = sum(one.size_bytes or 0 for one in health.backlog)
    oldest = min((one.oldest for one in health.backlog if one.oldest), default=None)
    age = (health.at - oldest).total_seconds() if oldest else 0
    if files or all(one.is_known for one in health.backlog):
        yield f"backlog_files={files};;;0"
        yield f"backlog_bytes={size}B;;;0"
        yield f"backlog_oldest={max(age, 0):.0f}s;;;0"
    else:
        # The guidelines' word for a value that could not be determined.
        yield from (f"backlog_{what}=U;;;0" for what in ("files", "bytes", "oldest"))
    yield f"troubles={len(health.troubles)};;;0"
    for one in health.components:
        if one.last_ok is not None:
            seconds = max((health.at - one.last_ok).total_seconds(), 0)
            label = f"{one.site} {one.label} last ok".replace("'", "").replace("=", "")
            yield f"'{label}'={seconds:.0f}s;;;0"
