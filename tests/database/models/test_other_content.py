"""What becomes of ingests when a file gets other content: on both databases."""

import threading
from datetime import timedelta
from typing import Any

import pytest

from dbbbatch.database import connect
from dbbbatch.database.models.claim import IngestClaim, StateChange
from dbbbatch.database.models.due import DueQueue
from dbbbatch.database.models.ingest import IngestState
from dbbbatch.database.models.statuses import IngestStatus
from tests.database.models.test_ingest import events, store, target

NUMBER = 10
RUN = 8


@pytest.fixture
def gen3(database: Any) -> int:
    """Return the id of a target, with one file, 1."""
    made = target()
    store("x.fits")
    return made.id


def claim(gen3: int) -> Any:
    """Claim the file, as a pass of the ingester does."""
    now = connect.now()
    IngestClaim.renew(RUN, gen3, "here", 300)
    queue = DueQueue(gen3, now, now + timedelta(days=1))
    return IngestClaim.take(RUN, queue, 1, 1, NUMBER, lambda file: IngestStatus.PENDING)


def offer_anew(gen3: int) -> None:
    connect.write(IngestState.offer_anew, gen3, [1], "other content")


def record(gen3: int, status: IngestStatus, **more: Any) -> set[int]:
    """Record a result of a plugin for the claimed file."""
    due = (
        None
        if status in (IngestStatus.SUCCESS, IngestStatus.INVALID, IngestStatus.UNTRIED)
        else connect.now()
    )
    judgement = StateChange(
        *(1, status, 1, due, frozenset({"raw"}), "said", "1.0", connect.now(), 0.5),
        number=NUMBER + 1,
        **more,
    )
    return connect.write(IngestClaim.record, RUN, gen3, [judgement])


def state() -> tuple[str, int, str, bool]:
    row = IngestState.get(file_id=1)
    return row.status, row.attempts, row.parts_done, row.next_try_at is not None


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        *((status, "RERUN") for status in ("SUCCESS", "FAILURE", "UNKNOWN", "INVALID", "BACKFILL")),
        *((status, status) for status in ("UNTRIED", "RERUN", "IGNORED", "PENDING")),
    ],
)
def test_other_content_is_offered_where_the_old_one_was(gen3: int, was: str, becomes: str) -> None:
    connect.execute("UPDATE ingest_state SET status = ?, attempts = 2", [was])
    offer_anew(gen3)
    status, attempts, _, due = state()
    assert (status, attempts) == (becomes, 0 if was != becomes else 2)
    assert due == (was != becomes)


@pytest.mark.parametrize("was", ["FAILURE", "RERUN", "IGNORED", "PENDING"])
def test_parts_done_of_the_old_content_count_no_more(gen3: int, was: str) -> None:
    connect.execute("UPDATE ingest_state SET status = ?, parts_done = '[\"raw\"]'", [was])
    offer_anew(gen3)
    assert state()[2] == ""


@pytest.mark.promise
@pytest.mark.parametrize(
    ("result", "becomes"),
    [
        (IngestStatus.SUCCESS, "RERUN"),
        (IngestStatus.FAILURE, "RERUN"),
        (IngestStatus.UNKNOWN, "RERUN"),
        (IngestStatus.INVALID, "RERUN"),
        (IngestStatus.UNTRIED, "UNTRIED"),
        (IngestStatus.RERUN, "RERUN"),
    ],
)
def test_content_that_changes_while_a_pass_has_claimed_it_is_due(
    gen3: int, result: IngestStatus, becomes: str
) -> None:
    connect.write(claim, gen3)
    offer_anew(gen3)
    assert record(gen3, result) == set()
    status, _, parts, due = state()
    assert (status, parts) == (becomes, "")
    assert due == (becomes == "RERUN")


def test_what_became_of_the_old_content_stays_in_the_history(gen3: int) -> None:
    connect.write(claim, gen3)
    offer_anew(gen3)
    record(gen3, IngestStatus.SUCCESS)
    record(gen3, IngestStatus.SUCCESS)
    recorded = ["UNTRIED", "PENDING", "SUCCESS", "RERUN"]
    assert [status for _, status in events(target())] == recorded


def test_content_that_changed_is_told_of_once(gen3: int) -> None:
    connect.write(claim, gen3)
    offer_anew(gen3)
    record(gen3, IngestStatus.SUCCESS)
    connect.write(claim, gen3)
    again = StateChange(
        *(1, IngestStatus.SUCCESS, 1, None, frozenset(), "", "1.0", connect.now(), 0.5),
        number=NUMBER + 2,
    )
    connect.write(IngestClaim.record, RUN, gen3, [again])
    assert state()[0] == "SUCCESS"


@pytest.mark.parametrize(("changes", "kept"), [(False, [("md5", "00")]), (True, [])])
def test_checksums_of_the_old_content_are_not_kept(
    gen3: int, changes: bool, kept: list[tuple[str, str]]
) -> None:
    connect.write(claim, gen3)
    if changes:
        offer_anew(gen3)
    record(gen3, IngestStatus.SUCCESS, checksums={"md5": "00"})
    rows = connect.execute("SELECT algorithm, value FROM file_checksum").fetchall()
    assert [tuple(row) for row in rows] == kept


def test_content_that_changes_in_the_hands_of_a_pass_that_dies_is_due(gen3: int) -> None:
    connect.write(claim, gen3)
    connect.execute("UPDATE ingest_state SET parts_done = '[\"raw\"]'")
    offer_anew(gen3)
    connect.execute(
        "UPDATE ingest_claim SET expires_at = ?", [str(connect.now() - timedelta(seconds=1))]
    )
    connect.write(
        lambda: IngestClaim.take_over(9, gen3, "here", lambda pid, started: False, 1, 60.0)
    )
    assert state() == ("UNKNOWN", 0, "", True)


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_content_that_changes_while_a_pass_takes_the_file_is_due(database: Any, gen3: int) -> None:
    """The pass reads the old checksums, and has not committed when the change is recorded."""
    with database.atomic() as taking:
        claim(gen3)

        def change() -> None:
            offer_anew(gen3)
            connect.disconnect()

        changing = threading.Thread(target=change)
        changing.start()
        while not connect.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()[0]:
            assert changing.is_alive()
        taking.commit()
    changing.join()
    record(gen3, IngestStatus.SUCCESS)
    assert state()[0] == "RERUN"
