"""What is due for a target: by its time, or since its time is one that no clock now would write."""

from datetime import timedelta
from typing import Any

import peewee
import pytest

from dbbbatch.database import connect
from dbbbatch.database.models.claim import IngestClaim
from dbbbatch.database.models.due import DueQueue, due_count, due_now
from dbbbatch.database.models.ingest import IngestState
from dbbbatch.database.models.run import Run
from tests.database.models.test_ingest import store, target

#: The longest wait that is configured, seconds.
LONGEST = 3600.0


@pytest.fixture
def failed(database: peewee.Database) -> Any:
    """Return a function that makes files fail whose next tries are in so many seconds."""

    def fail(*waits: float) -> tuple[int, dict[int, float]]:
        of = target()
        ids = store(*(f"{n}.fits" for n in range(len(waits))))
        now = connect.now()
        for number, wait in zip(ids, waits, strict=True):
            IngestState.update(
                status="FAILURE", attempts=1, next_try_at=now + timedelta(seconds=wait)
            ).where(IngestState.file_id == number).execute()
        return of.id, dict(zip(ids, waits, strict=True))

    return fail


def due(of: int) -> DueQueue:
    now = connect.now()
    return DueQueue(of, now, now + timedelta(seconds=LONGEST))


def found(queue: DueQueue, count: int) -> tuple[list[int], DueQueue]:
    files, after = queue.next(0, count, lock=False)
    return [file.file_id for file in files], after


def test_what_waits_for_longer_than_it_can_is_due(failed: Any) -> None:
    of, waits = failed(-1.0, 60.0, LONGEST - 1, LONGEST + 60, 1e8)
    ids = list(waits)
    assert found(due(of), 10)[0] == [ids[0], ids[3], ids[4]]
    assert due_count(of, LONGEST) == 3


@pytest.mark.parametrize(("wait", "expected"), [(-1.0, True), (60.0, False), (1e8, True)])
def test_a_look_for_work_sees_the_same(failed: Any, wait: float, expected: bool) -> None:
    of, _ = failed(wait)
    assert due_now(of, LONGEST) is expected


@pytest.mark.parametrize("status", ["SUCCESS", "PENDING", "IGNORED", "INVALID", "BACKFILL"])
def test_a_time_that_somebody_wrote_to_a_row_that_is_not_tried_means_nothing(
    failed: Any, status: str
) -> None:
    of, _ = failed(-1.0, 1e8)
    IngestState.update(status=status).execute()
    assert found(due(of), 10)[0] == []
    assert not due_now(of, LONGEST)


def test_pages_go_on_from_what_is_due_by_its_time_to_what_is_not(failed: Any) -> None:
    of, waits = failed(-3.0, -2.0, 60.0, LONGEST + 60, LONGEST + 61, 1e8)
    seen, queue = [], due(of)
    while (page := found(queue, 2))[0]:
        seen += page[0]
        queue = page[1]
    assert seen == [number for number, wait in waits.items() if wait != 60.0]


def test_no_look_reads_what_only_waits(
    failed: Any, database: peewee.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, _ = failed(60.0)
    plans: list[str] = []
    real = database.execute_sql
    explain = "EXPLAIN QUERY PLAN" if isinstance(database, peewee.SqliteDatabase) else "EXPLAIN"

    def explained(sql: str, params: Any = None, *more: Any) -> Any:
        if sql.startswith("SELECT") and "ingest_state" in sql:
            plans.extend(str(step[-1]) for step in real(f"{explain} {sql}", params).fetchall())
        return real(sql, params, *more)

    if not isinstance(database, peewee.SqliteDatabase):
        real("SET enable_seqscan = off")  # of a table of one row it is the best plan
    monkeypatch.setattr(database, "execute_sql", explained)
    found(due(of), 10)
    due_now(of, LONGEST)
    due_count(of, LONGEST)
    steps = [step for step in plans if "ingest_state_again" in step]
    assert len(steps) >= 6
    assert not any("SCAN ingest_state" in step or "Seq Scan" in step for step in plans)


def test_a_claim_that_a_clock_ahead_renewed_ends_as_one_of_now(database: peewee.Database) -> None:
    of = target().id
    IngestClaim.renew(8, of, "another machine", 1e8)
    IngestClaim.renew(9, of, "another machine", 100.0)

    def take() -> int:
        return IngestClaim.take_over(7, of, "ours", lambda *_: True, 1, 300.0)

    assert connect.write(take) == 0
    ends = {row.run_id: row.expires_at for row in IngestClaim.select()}
    soon = connect.now() + timedelta(seconds=300)
    assert ends[9] < soon - timedelta(seconds=100)
    assert soon - timedelta(seconds=100) < ends[8] <= soon


def test_rows_of_passes_that_a_clock_ahead_recorded_keep_no_others(
    database: peewee.Database,
) -> None:
    now = connect.now()

    def begin(started: Any) -> Run:
        return Run.create(
            site="s",
            script="demo",
            name="a",
            host="h",
            pid=1,
            process_started=0,
            version="",
            started=started,
            outcome="running",
        )

    for days in (3650, 3651, -100, -1):
        begin(now + timedelta(days=days))
    begin(now).finish(now, "ok", 0, {}, "", 90 * 86400.0)
    assert [row.started for row in Run.select().order_by(Run.id)] == [now - timedelta(days=1), now]
