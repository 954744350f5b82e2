"""The state of all sites as metrics for Prometheus, in its text format.

Labels are sites, components, steps and places, of which there are few: never files, days or
messages. What is counted over time is counted over the last hour or the current night, so the cost
does not grow with history.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric

from dbbbatch import __version__
from dbbbatch.database import bulk, connect
from dbbbatch.errors import TryLater
from dbbbatch.files.names import harmless
from dbbbatch.report.health import Health
from dbbbatch.report.nights import LATENCY_BOUNDS, Night
from dbbbatch.report.survey import Survey

#: Seconds over which passes and their files are counted.
_LATELY = 3600

#: Site, component, what is counted, and how many.
Count = tuple[str, str, str, int]

#: A metric: its name without the prefix, its help, and the names of its labels.
_Declared = tuple[str, str, list[str]]

_COMPONENT = ["site", "component", "host"]
_OF_STEP = ["site", "component", "step"]
_PLACE = ["site", "place"]

_HEALTH: _Declared = ("health_level", "0 well, 1 warning, 2 critical, 3 unknown.", ["site"])
_UP: _Declared = ("database_up", "Whether the database could be asked.", ["site"])
_AT: _Declared = ("report_timestamp_seconds", "When this was written.", ["site"])
_BUILD: _Declared = ("build_info", "Version of dbbbatch that wrote this.", ["site", "version"])
_OF_COMPONENT: list[_Declared] = [
    ("component_last_start_timestamp_seconds", "When the last pass began.", _COMPONENT),
    ("component_last_success_timestamp_seconds", "When one last succeeded.", _COMPONENT),
    ("component_last_duration_seconds", "How long the last pass took.", _COMPONENT),
    ("component_last_exit_code", "Exit code of the last pass that ended.", _COMPONENT),
    ("component_expected_interval_seconds", "How often one is expected to succeed.", _COMPONENT),
    ("component_overdue", "Whether none succeeded for longer than that.", _COMPONENT),
    ("component_paused", "Whether an operator paused it.", _COMPONENT),
]
_BACKLOG: list[_Declared] = [
    ("backlog_files", "Files that wait for a step.", _OF_STEP),
    ("backlog_bytes", "Their size, where it is known.", _OF_STEP),
    ("backlog_oldest_timestamp_seconds", "Since when the oldest of them waits.", _OF_STEP),
    ("backlog_complete", "Whether all were counted; if not, there are at least so many.", _OF_STEP),
]
_ROOM: list[_Declared] = [
    ("room_free_bytes", "Free room where passes write.", _PLACE),
    ("room_needed_bytes", "Room that must stay free there.", _PLACE),
    ("room_size_bytes", "Size of the file system.", _PLACE),
]
_TROUBLE = ["site", "component", "trouble", "level"]
_TROUBLE_COUNT: _Declared = ("troubles", "What is not well, by kind.", _TROUBLE)
_TROUBLE_FILES: _Declared = ("trouble_files", "Files that it holds up or concerns.", _TROUBLE)
_PASSES: _Declared = (
    "recent_passes",
    "Passes that began in the last hour, by outcome.",
    ["site", "component", "outcome"],
)
_FILES: _Declared = (
    "recent_files",
    "Files of these passes, by what became of them.",
    ["site", "component", "outcome"],
)
_OF_NIGHT: _Declared = (
    "night_files",
    "Files of the current night that have made a step, and that have not though they ought to.",
    ["step", "state"],
)
_LATENCY: _Declared = (
    "latency_seconds",
    "Time from found (or stored, where no handoff is known) to a step, in the current night.",
    ["step", "since"],
)


def as_metrics(seen: Survey) -> bytes:
    """Return metrics in the text format of Prometheus; of the nights, only the newest."""
    health, night = seen.health, seen.nights[0] if seen.nights else None
    passes: Sequence[Count] = ()
    files: Sequence[Count] = ()
    if not health.database:
        with suppress(TryLater):  # it is away since just now
            passes, files = recent_counts()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected([*_of_health(health), *_of_night(night), *_recent(passes, files)]))
    return bytes(generate_latest(registry))


def recent_counts() -> tuple[list[Count], list[Count]]:
    """Return passes of the last hour by outcome, and their files by what became of them.

    Raises
    ------
    TryLater
        The database is away.
    """
    return connect.read(_recent_counts)


def _recent_counts() -> tuple[list[Count], list[Count]]:
    since = bulk.time_value(connect.now() - timedelta(seconds=_LATELY))
    passes: Counter[tuple[str, str, str]] = Counter()
    files: Counter[tuple[str, str, str]] = Counter()
    rows = connect.execute(
        "SELECT site, script, name, outcome, counts FROM run WHERE started >= ?", [since]
    )
    for site, script, name, outcome, counts in rows.fetchall():
        label = f"{script}.{name}"
        passes[site, label, outcome] += 1
        for what, number in bulk.read_counts(counts).items():
            files[site, label, what] += number
    return [(*key, number) for key, number in sorted(passes.items())], [
        (*key, number) for key, number in sorted(files.items())
    ]


class _Collected:
    """What `prometheus_client` asks for its metrics."""

    def __init__(self, found: Sequence[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        yield from self._found


def _gauge(
    declared: _Declared, values: Iterable[tuple[Sequence[str], float | None]]
) -> GaugeMetricFamily:
    name, documentation, labels = declared
    made = GaugeMetricFamily(f"dbb_{name}", documentation, labels=labels)
    for named, value in values:
        if value is not None:
            made.add_metric([harmless(label) for label in named], value)
    return made


def _of_health(health: Health) -> Iterator[Metric]:
    site = (health.site,)
    yield _gauge(_HEALTH, [(site, health.level)])
    yield _gauge(_UP, [(site, not health.database)])
    yield _gauge(_AT, [(site, _seconds(health.at))])
    yield _gauge(_BUILD, [((health.site, __version__), 1)])
    yield from _of_components(health)
    yield from _of_backlog(health)
    rooms = [
        ((health.site, room.where), (room.free_bytes, room.needed_bytes, room.total_bytes))
        for room in health.rooms
    ]
    yield from _together(_ROOM, rooms)
    troubles: Counter[tuple[str, ...]] = Counter()
    files: Counter[tuple[str, ...]] = Counter()
    for one in health.troubles:
        key = (one.site, one.label, one.what, one.level.name.lower())
        troubles[key] += 1
        files[key] += one.files
    yield _gauge(_TROUBLE_COUNT, troubles.items())
    yield _gauge(_TROUBLE_FILES, files.items())


def _together(
    declared: Sequence[_Declared], rows: Sequence[tuple[Sequence[str], Sequence[float | None]]]
) -> Iterator[Metric]:
    """Yield gauges with the same labels, from rows with a value of each."""
    for number, one in enumerate(declared):
        yield _gauge(one, [(named, values[number]) for named, values in rows])


def _of_components(health: Health) -> Iterator[Metric]:
    rows = []
    for one in health.components:
        began, ended = _seconds(one.started), _seconds(one.finished)
        values = (
            began,
            _seconds(one.last_ok),
            ended - began if began and ended else None,
            one.code,
            one.usual,
            one.overdue,
            one.state == "paused",
        )
        rows.append(((one.site, one.label, one.host), values))
    return _together(_OF_COMPONENT, rows)


def _of_backlog(health: Health) -> Iterator[Metric]:
    rows = [
        (
            (one.site, one.label, one.step),
            (
                one.files if one.is_known else None,
                one.size_bytes if one.is_known else None,
                _seconds(one.oldest),
                not one.at_least,
            ),
        )
        for one in health.backlog
    ]
    return _together(_BACKLOG, rows)


def _of_night(night: Night | None) -> Iterator[Metric]:
    name, documentation, labels = _LATENCY
    latency = HistogramMetricFamily(f"dbb_{name}", documentation, labels=labels)
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for step in night.steps if night else ():
        if step.known:
            counts[step.name, "done"] += step.files
            counts[step.name, "missing"] += step.missing_files
        if step.latency is not None:
            within = zip(LATENCY_BOUNDS, step.latency.within, strict=True)
            buckets = [(f"{bound:.1f}", float(files)) for bound, files in within]
            buckets.append(("+Inf", float(step.latency.files)))
            latency.add_metric([step.name, step.latency.since], buckets, step.latency.total)
    yield _gauge(_OF_NIGHT, counts.items())
    yield latency


def _recent(passes: Iterable[Count], files: Iterable[Count]) -> Iterator[Metric]:
    yield _gauge(_PASSES, [(key, number) for *key, number in passes])
    yield _gauge(_FILES, [(key, number) for *key, number in files])


def _seconds(value: datetime | None) -> float | None:
    return None if value is None else value.replace(tzinfo=UTC).timestamp()
