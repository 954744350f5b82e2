"""How fast backlogs shrink: what was done lately, less what came in the same time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, timedelta
from typing import Any

from dbbbatch.database import bulk, connect
from dbbbatch.report.health import Waiting

#: Seconds over which a rate is taken.
LATELY = 600


def with_rates(waiting: Sequence[Waiting], looked: Mapping[str, int]) -> list[Waiting]:
    """Return backlogs with the rate at which each shrinks, where it is known.

    The cost follows what was done in the last 10 minutes, and the backlog, whatever the history.

    Parameters
    ----------
    waiting : sequence of `Waiting`
    looked : mapping
        By the KIND.NAME of what was looked at to its end on this host: how many files that no table
        knows came in the last 10 minutes.
    """
    return connect.read(_with_rates, waiting, looked)


def _with_rates(waiting: Sequence[Waiting], looked: Mapping[str, int]) -> list[Waiting]:
    since = connect.now() - timedelta(seconds=LATELY)
    ingested = _first_tries(since) if any(one.step == "ingest" for one in waiting) else {}
    found = []
    for one in waiting:
        name, shrinks = one.label.partition(".")[2], None
        if not one.is_known:
            pass
        elif one.step == "deliver":
            shrinks = _delivered_less_new(one.site, name, since) - looked.get(one.label, 0)
        elif one.step == "hold":
            shrinks = _held_less_delivered(one.site, name, since)
        elif one.step == "store" and looked.get(one.label, one.files) < one.files:
            # Some have waited for longer: what was stored meanwhile had been there, too.
            shrinks = _stored_since(name, since) - looked[one.label]
        elif one.step == "ingest":
            shrinks = ingested.get((one.site, name), 0)
        found.append(one if shrinks is None else replace(one, rate=shrinks / LATELY))
    return found


#: Of files that a handoff found lately, those that were made before were in its buffer before.
_CAME_BEFORE = "(discovered_at < ? OR mtime_ns < ?)"

#: The condition of the partial index of `handoff_file`; SQLite compares the words.
_IN_INDEX = "status IN ('FOUND', 'DELIVERED', 'QUARANTINED')"


def _delivered_less_new(site: str, name: str, since: Any) -> int:
    """Return how many files were delivered that had waited at a time, less those that came."""
    when, at_ns = bulk.time_value(since), int(since.replace(tzinfo=UTC).timestamp()) * 10**9
    ours, before = [site, name], [when, at_ns]
    return (
        _rows_in(
            f"handoff_file WHERE site = ? AND handoff = ? AND {_IN_INDEX}"
            f" AND status = 'DELIVERED' AND delivered_at >= ? AND {_CAME_BEFORE}",
            [*ours, when, *before],
        )
        + _rows_in(
            "handoff_file WHERE site = ? AND handoff = ? AND status = 'HELD' AND held_at >= ?"
            f" AND delivered_at >= ? AND {_CAME_BEFORE}",
            [*ours, when, when, *before],
        )
        - _rows_in(
            f"handoff_file WHERE site = ? AND handoff = ? AND {_IN_INDEX}"
            f" AND status = 'FOUND' AND NOT {_CAME_BEFORE}",
            [*ours, *before],
        )
    )


def _held_less_delivered(site: str, name: str, since: Any) -> int:
    """Return how many delivered files were moved to holding since, less those delivered since."""
    when = bulk.time_value(since)
    return _rows_in(
        "handoff_file WHERE site = ? AND handoff = ? AND status = 'HELD' AND held_at >= ?"
        " AND delivered_at < ?",
        [site, name, when, when],
    ) - _rows_in(
        f"handoff_file WHERE site = ? AND handoff = ? AND {_IN_INDEX}"
        " AND status = 'DELIVERED' AND delivered_at >= ?",
        [site, name, when],
    )


def _stored_since(finder: str, since: Any) -> int:
    return _rows_in("file WHERE added_on >= ? AND finder = ?", [bulk.time_value(since), finder])


def _first_tries(since: Any) -> dict[tuple[str, str], int]:
    """Return how many files targets tried for the first time, less those that became due."""
    rows = connect.execute(
        "SELECT target.site, target.name, SUM(CASE e.status WHEN 'UNTRIED' THEN -1 ELSE 1 END)"
        " FROM ingest_event AS e JOIN target ON target.id = e.target_id WHERE e.start_time >= ?"
        " AND e.status IN ('UNTRIED', 'SUCCESS', 'FAILURE', 'UNKNOWN', 'INVALID', 'IGNORED')"
        " AND NOT EXISTS (SELECT 1 FROM ingest_event AS b WHERE b.file_id = e.file_id"
        " AND b.target_id = e.target_id AND b.id < e.id"
        " AND (e.status = 'UNTRIED' OR b.status NOT IN ('UNTRIED', 'PENDING')))"
        " GROUP BY target.site, target.name",
        [bulk.time_value(since)],
    )
    return {(site, name): int(shrinks) for site, name, shrinks in rows.fetchall()}


def _rows_in(what: str, values: Sequence[Any]) -> int:
    return int(connect.execute(f"SELECT COUNT(*) FROM {what}", values).fetchone()[0])
