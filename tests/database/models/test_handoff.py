"""The rows of a handoff: what a scan records, and that no question reads the history."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import peewee
import pytest

from dbbbatch.database import connect
from dbbbatch.database.models.handoff import FIRST, HandoffFile, HandoffRow
from dbbbatch.database.models.statuses import BatchStatus, HandoffStatus
from dbbbatch.database.models.transfer import TransferAttempt, TransferBatch

#: The longest wait that is configured, seconds.
LONGEST = 3600.0

FILE = HandoffRow("night", "a.fits", 10, 1000, 1, 0, 1000)


def found(*files: HandoffRow) -> None:
    connect.write(HandoffFile.found, "summit", "latiss", files)


def row() -> HandoffFile:
    return HandoffFile.get()


def put(**values: Any) -> None:
    connect.write(lambda: HandoffFile.update(**values).execute())


@pytest.mark.usefixtures("database")
class TestFound:
    """What a scan makes of a file, and of one that is known."""

    def test_a_new_file(self) -> None:
        found(FILE)
        assert (row().relpath, row().filename, row().status) == ("night", "a.fits", "FOUND")

    def test_a_known_file_is_recorded_once(self) -> None:
        for _ in range(2):
            found(FILE)
        assert HandoffFile.select().count() == 1

    def test_another_version_is_another_row(self) -> None:
        found(FILE, FILE._replace(mtime_ns=2000))
        assert HandoffFile.select().count() == 2

    def test_waiting_for_a_further_try_is_not_shortened(self) -> None:
        found(FILE)
        put(attempts=2, next_try_at=connect.now(), error="why")
        found(FILE)
        assert (row().attempts, row().error) == (2, "why")
        assert row().next_try_at is not None

    def test_a_checksum_holds_while_the_inode_does(self) -> None:
        found(FILE)
        put(checksum="blake2b:00")
        found(FILE)
        assert row().checksum == "blake2b:00"
        found(FILE._replace(inode=2))
        assert row().checksum is None

    @pytest.mark.parametrize("status", ["HELD", "PURGED", "VANISHED"])
    def test_what_comes_back_is_sent_again(self, status: str) -> None:
        found(FILE)
        put(status=status, attempts=3, error="why")
        found(FILE)
        assert (row().status, row().attempts, row().error) == ("FOUND", 0, None)

    @pytest.mark.parametrize("status", ["DELIVERED", "QUARANTINED", "IGNORED"])
    def test_what_is_decided_stays(self, status: str) -> None:
        found(FILE)
        put(status=status)
        found(FILE)
        assert row().status == status

    def test_a_delivered_file_that_was_written_again_is_sent_again(self) -> None:
        found(FILE)
        put(status="DELIVERED", checksum="blake2b:00")
        found(FILE._replace(inode=2))
        assert (row().status, row().checksum) == ("FOUND", None)

    def test_the_order_follows_the_configuration(self) -> None:
        found(FILE)
        found(FILE._replace(priority=3, rank=-1000))
        assert (row().priority, row().rank) == (3, -1000)


@pytest.mark.usefixtures("database")
class TestOrder:
    """The next files, page by page."""

    @pytest.fixture(autouse=True)
    def _files(self, database: peewee.Database) -> None:
        found(*(FILE._replace(filename=str(n), rank=n, priority=n % 2) for n in range(6)))

    def test_it_is_priority_then_rank(self) -> None:
        files = HandoffFile.due("summit", "latiss", FIRST, 10, longest=LONGEST)
        assert [file.filename for file in files] == ["0", "2", "4", "1", "3", "5"]

    def test_a_page_goes_on_where_the_last_one_ended(self) -> None:
        first = HandoffFile.due("summit", "latiss", FIRST, 4, longest=LONGEST)
        last = first[-1]
        rest = HandoffFile.due(
            "summit", "latiss", (last.priority, last.rank, last.id), 4, longest=LONGEST
        )
        assert [file.filename for file in (*first, *rest)] == ["0", "2", "4", "1", "3", "5"]

    def test_what_waits_is_left_out(self) -> None:
        ids = [file.id for file in HandoffFile.due("summit", "latiss", FIRST, 10, longest=LONGEST)]
        connect.write(lambda: HandoffFile.failed([(n, "why", 60.0, 1) for n in ids[:5]]))
        (left,) = HandoffFile.due("summit", "latiss", FIRST, 10, longest=LONGEST)
        assert left.id == ids[5]

    def test_what_was_put_off_by_a_clock_that_was_ahead_is_not(self) -> None:
        ids = [file.id for file in HandoffFile.due("summit", "latiss", FIRST, 10, longest=LONGEST)]
        for wait, number in ((LONGEST, ids[0]), (2 * LONGEST, ids[1])):
            connect.write(lambda n=number, w=wait: HandoffFile.failed([(n, "why", w, 1)]))
        found = HandoffFile.due("summit", "latiss", FIRST, 10, longest=LONGEST)
        assert [file.id for file in found] == ids[1:]


@pytest.mark.usefixtures("database")
def test_a_conflict_that_a_clock_ahead_recorded_begins_when_it_is_seen_again() -> None:
    found(FILE)
    ahead = connect.now() + timedelta(days=3650)
    put(conflict_since=ahead)
    connect.write(lambda: HandoffFile.conflicting([(row().id, "other", 60.0)]))
    begun = row().conflict_since
    assert begun < ahead
    connect.write(lambda: HandoffFile.conflicting([(row().id, "other", 60.0)]))
    assert row().conflict_since == begun


@pytest.mark.usefixtures("database")
def test_what_a_clock_ahead_held_is_held_from_when_that_is_seen() -> None:
    found(FILE, FILE._replace(filename="b"))
    now = connect.now()
    put(status="HELD", held_at=now - timedelta(days=1), held_as="a")
    HandoffFile.update(held_at=now + timedelta(days=3650)).where(
        HandoffFile.filename == "b"
    ).execute()
    connect.write(HandoffFile.held_from_now, "summit", "latiss")
    first, second = HandoffFile.select(HandoffFile.held_at).order_by(HandoffFile.held_at)
    assert first.held_at == now - timedelta(days=1)
    assert now <= second.held_at <= connect.now()


@pytest.mark.usefixtures("database")
def test_recording_a_failure_twice_is_recording_it_once() -> None:
    found(FILE)
    for _ in range(2):  # a commit whose answer was lost
        connect.write(lambda: HandoffFile.failed([(row().id, "why", 60.0, 1)]))
    assert row().attempts == 1


@pytest.mark.usefixtures("database")
def test_beginning_a_batch_twice_is_beginning_it_once() -> None:
    found(FILE)
    numbers = {
        connect.write(lambda: TransferBatch.begin(1, "summit", "latiss", "attempt", [row().id], 10))
        for _ in range(2)
    }
    assert len(numbers) == TransferBatch.select().count() == 1


@pytest.mark.usefixtures("database")
class TestDelivered:
    """Which files are DELIVERED after a batch that sent them."""

    @pytest.fixture(autouse=True)
    def files(self, database: object) -> None:
        names = ("sent", "replaced", "other inode", "ignored")
        found(*(FILE._replace(filename=name) for name in names))
        put(checksum="md5:1")

    def sent(self) -> list[tuple[int, int, str | None]]:
        return [(each.id, each.inode, each.checksum) for each in HandoffFile.select()]

    def named(self, status: str) -> set[str]:
        return {each.filename for each in HandoffFile.select() if each.status == status}

    def test_those_that_are_still_what_was_sent(self) -> None:
        sent = self.sent()
        change = {"replaced": {"checksum": "md5:2"}, "other inode": {"inode": 2}}
        change["ignored"] = {"status": "IGNORED"}
        for name, values in change.items():
            HandoffFile.update(values).where(HandoffFile.filename == name).execute()
        delivered = connect.write(HandoffFile.delivered, sent)
        assert self.named("DELIVERED") == {"sent"}
        assert delivered == {each.id for each in HandoffFile.select() if each.filename == "sent"}

    def test_recording_it_twice_is_recording_it_once(self) -> None:
        sent = self.sent()
        first, second = (connect.write(HandoffFile.delivered, sent) for _ in range(2))
        assert first == second == {number for number, _, _ in sent}


@pytest.mark.usefixtures("database")
def test_each_file_of_a_batch_has_its_outcome() -> None:
    found(*(FILE._replace(filename=name) for name in "abcd"))
    ids = [each.id for each in HandoffFile.select().order_by(HandoffFile.filename)]
    first, other = (
        connect.write(TransferBatch.begin, 1, "summit", "latiss", attempt, ids, 10)
        for attempt in ("first", "other")
    )
    outcomes = list(zip(ids, ("DELIVERED", "FAILED", "DELIVERED", "LATER"), strict=True))
    reasons = ("", "why", "", "")
    connect.write(
        lambda: TransferBatch.settle(
            first, [(*each, why) for each, why in zip(outcomes, reasons, strict=True)]
        )
    )
    attempts = TransferAttempt.select().order_by(TransferAttempt.handoff_file_id)
    settled = [each for each in attempts if each.batch_id == first]
    assert [(each.handoff_file_id, each.outcome) for each in settled] == outcomes
    assert [each.error for each in settled] == [None, "why", None, None]
    assert {each.outcome for each in attempts if each.batch_id == other} == {None}


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize(
    ("question", "index"),
    [
        (
            lambda: HandoffFile.due("summit", "latiss", FIRST, 10, longest=LONGEST),
            "handoff_file_due",
        ),
        *(
            (
                lambda status=status: HandoffFile.in_buffer("summit", "latiss", status),
                "handoff_file_due",
            )
            for status in (HandoffStatus.DELIVERED, HandoffStatus.QUARANTINED)
        ),
        (lambda: HandoffFile.held_files("summit", "latiss", None, 10), "handoff_file_held"),
        (lambda: HandoffFile.unknown("summit", "latiss", [FILE]), "autoindex_handoff_file"),
        (lambda: TransferBatch.unfinished("summit", "latiss"), "transfer_batch_open"),
    ],
)
def test_no_question_of_a_pass_reads_the_history(
    database: peewee.Database,
    question: Callable[[], object],
    index: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plans = []
    real = database.execute_sql

    def explained(sql: str, params: Any = None, *more: Any) -> Any:
        if sql.startswith("SELECT"):
            plans.extend(row[-1] for row in real(f"EXPLAIN QUERY PLAN {sql}", params))
        return real(sql, params, *more)

    monkeypatch.setattr(database, "execute_sql", explained)
    question()
    assert any(index in line and line.startswith("SEARCH") for line in plans), plans
    assert not any("TEMP B-TREE" in line or line.startswith("SCAN handoff") for line in plans), (
        plans
    )


def test_every_status_says_when_it_is_entered() -> None:
    for status in (*HandoffStatus, *BatchStatus):
        source = inspect.getsource(type(status))
        before = source.partition(f'    {status.name} = "{status}"')[0].rstrip().splitlines()[-1]
        assert before.strip().startswith("#:"), status


@pytest.mark.usefixtures("database")
class TestWhatWasRead:
    """What the built-in stream reads of files becomes known while they are sent."""

    SUM = "blake2b:00"

    @pytest.fixture
    def batch(self) -> int:
        found(FILE, FILE._replace(filename="b.fits", inode=2))
        return int(connect.write(TransferBatch.begin, 1, "summit", "latiss", "x", self.ids(), 20))

    def ids(self) -> list[int]:
        return [file.id for file in HandoffFile.select().order_by(HandoffFile.id)]

    def sent(self, batch: int) -> list[str]:
        return [file.filename for file in connect.read(HandoffFile.of_batch, batch)]

    def test_nothing_is_known_of_a_batch_at_first(self, batch: int) -> None:
        assert not connect.read(TransferBatch.was_read, batch)
        assert self.sent(batch) == []

    def test_what_was_sent_is_known_and_what_was_left_out_is_not_sent(self, batch: int) -> None:
        first, second = self.ids()
        connect.write(HandoffFile.read, [(first, 1, self.SUM)])
        connect.write(TransferBatch.read, batch, [(first, self.SUM), (second, "")])
        assert connect.read(TransferBatch.was_read, batch)
        assert self.sent(batch) == ["a.fits"]

    def test_one_file_of_which_nothing_is_known_is_enough(self, batch: int) -> None:
        first, _ = self.ids()
        connect.write(TransferBatch.read, batch, [(first, self.SUM)])
        assert not connect.read(TransferBatch.was_read, batch)

    def test_a_file_that_was_replaced_meanwhile_gets_no_checksum(self, batch: int) -> None:
        first, second = self.ids()
        found(FILE._replace(inode=3))
        connect.write(HandoffFile.read, [(first, 1, self.SUM)])
        connect.write(TransferBatch.read, batch, [(first, self.SUM), (second, "")])
        assert HandoffFile.get_by_id(first).checksum is None
        assert self.sent(batch) == []

    def test_a_file_about_which_a_person_decided_stays_as_it_is(self, batch: int) -> None:
        put(status="IGNORED")
        connect.write(HandoffFile.read, [(number, number, self.SUM) for number in self.ids()])
        assert {file.checksum for file in HandoffFile.select()} == {None}
