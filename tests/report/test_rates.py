"""How fast backlogs shrink."""

import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from dbbbatch.database import bulk, connect
from dbbbatch.report import rates
from dbbbatch.report.health import Waiting

Row = Callable[..., int]

#: Minutes ago: within the time that counts, and before it.
LATE, EARLY = 5, 60


def minutes_ago(minutes: float) -> Any:
    now: datetime = connect.now()
    return bulk.time_value(now - timedelta(minutes=minutes))


def made(minutes: float) -> int:
    return time.time_ns() - int(minutes * 60e9)


def rate(label: str, step: str, *, site: str = "summit", came: int | None = None) -> float | None:
    waiting = Waiting(site=site, label=label, step=step, files=100)
    (found,) = rates.with_rates([waiting], {} if came is None else {label: came})
    return None if found.rate is None else round(found.rate * rates.LATELY, 6)


@pytest.mark.parametrize(
    ("status", "found", "written", "delivered", "shrinks"),
    [
        ("FOUND", EARLY, EARLY, None, 0),
        ("FOUND", LATE, LATE, None, -1),
        ("FOUND", LATE, EARLY, None, 0),
        ("DELIVERED", EARLY, EARLY, LATE, 1),
        ("DELIVERED", LATE, EARLY, LATE, 1),
        ("DELIVERED", LATE, LATE, LATE, 0),
        ("HELD", EARLY, EARLY, LATE, 1),
        ("HELD", LATE, LATE, LATE, 0),
        ("HELD", EARLY, EARLY, EARLY, 0),
    ],
)
def test_what_was_delivered_counts_less_what_came(
    handoff_row: Row, status: str, found: int, written: int, delivered: int | None, shrinks: int
) -> None:
    handoff_row(
        "a",
        status,
        discovered_at=minutes_ago(found),
        mtime_ns=made(written),
        delivered_at=None if delivered is None else minutes_ago(delivered),
        held_at=minutes_ago(LATE) if status == "HELD" else None,
    )
    assert rate("handoff.latiss", "deliver") == shrinks


@pytest.mark.usefixtures("database")
def test_what_came_into_the_buffer_and_no_table_knows_makes_the_backlog_grow() -> None:
    assert rate("handoff.latiss", "deliver", came=3) == -3


@pytest.mark.parametrize(
    ("status", "delivered", "held", "shrinks"),
    [("HELD", EARLY, LATE, 1), ("HELD", LATE, LATE, 0), ("DELIVERED", LATE, None, -1)],
)
def test_what_was_held_counts_less_what_was_delivered(
    handoff_row: Row, status: str, delivered: int, held: int | None, shrinks: int
) -> None:
    times = {"delivered_at": minutes_ago(delivered)}
    handoff_row("a", status, held_at=None if held is None else minutes_ago(held), **times)
    assert rate("handoff.latiss", "hold") == shrinks


def test_what_a_finder_stored_counts_while_older_files_wait(stored: Row) -> None:
    stored("a", added_on=minutes_ago(LATE))
    stored("b", added_on=minutes_ago(LATE))
    stored("c", added_on=minutes_ago(EARLY))
    stored("d", added_on=minutes_ago(LATE), finder="other")
    assert rate("finder.latiss", "store", came=1) == 1
    assert rate("finder.latiss", "store", came=100) is None
    assert rate("finder.latiss", "store") is None


def event(insert: Row, target: int, file: int, status: str, minutes: float) -> None:
    number = connect.execute("SELECT COUNT(*) FROM ingest_event").fetchone()[0]
    values = {"file_id": file, "target_id": target, "run_id": 1, "number": number}
    insert("ingest_event", status=status, start_time=minutes_ago(minutes), **values)


@pytest.mark.parametrize(
    ("events", "shrinks"),
    [
        ([("UNTRIED", EARLY)], 0),
        ([("UNTRIED", LATE)], -1),
        ([("UNTRIED", EARLY), ("PENDING", LATE)], 0),
        ([("UNTRIED", EARLY), ("PENDING", LATE), ("SUCCESS", LATE)], 1),
        ([("UNTRIED", LATE), ("PENDING", LATE), ("SUCCESS", LATE)], 0),
        ([("UNTRIED", EARLY), ("PENDING", LATE), ("UNTRIED", LATE)], 0),
        ([("UNTRIED", EARLY), ("FAILURE", EARLY), ("SUCCESS", LATE)], 0),
        ([("UNTRIED", EARLY), ("FAILURE", LATE), ("FAILURE", LATE), ("SUCCESS", LATE)], 1),
        ([("UNTRIED", EARLY), ("IGNORED", LATE)], 1),
    ],
)
def test_first_tries_count_less_what_became_due(
    insert: Row,
    stored: Row,
    ingest_row: Row,
    target: int,
    events: list[tuple[str, float]],
    shrinks: int,
) -> None:
    file = stored("a")
    ingest_row(file, events[-1][0])
    for status, minutes in events:
        event(insert, target, file, status, minutes)
    assert rate("target.gen3", "ingest", site="archive") == shrinks


@pytest.mark.usefixtures("database")
def test_how_fast_further_tries_are_over_is_not_known() -> None:
    assert rate("target.gen3", "try again", site="archive") is None


def test_at_its_rate_a_backlog_ends_after_a_time() -> None:
    waiting = Waiting(site="s", label="handoff.a", step="deliver", files=1200, rate=0.5)
    assert waiting.seconds_left == 2400


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.usefixtures("database")
def test_no_rate_reads_a_whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    really = connect.execute

    def execute(sql: str, values: Any = ()) -> Any:
        steps.extend(row[-1] for row in really(f"EXPLAIN QUERY PLAN {sql}", values).fetchall())
        return really(sql, values)

    monkeypatch.setattr(connect, "execute", execute)
    for label, step in (
        ("handoff.a", "deliver"),
        ("handoff.a", "hold"),
        ("finder.a", "store"),
        ("target.a", "ingest"),
    ):
        rate(label, step, came=1)
    assert len(steps) > 6
    assert [step for step in steps if re.match("SCAN (?!target)", step)] == []
