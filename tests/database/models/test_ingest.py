"""Targets, states and events: on both databases."""

import threading
from typing import Any

import pytest

from dbbbatch.database import connect
from dbbbatch.database.models.ingest import ARRIVALS, IngestEvent, IngestState
from dbbbatch.database.models.statuses import ImpossibleTransition, IngestStatus, require_possible
from dbbbatch.database.models.target import TargetRow
from dbbbatch.errors import ConfigError

STORAGE = "/data/storage"


def store(*names: str, storage: str = STORAGE) -> list[int]:
    """Record files as a finder would, in one transaction with their arrival."""

    def transaction() -> list[int]:
        ids = []
        for name in names:
            connect.execute(
                "INSERT INTO file (storage, relpath, filename, size_bytes, checksum, status,"
                " finder, added_on) VALUES (?, 'night', ?, 3, 'blake2b:00', 'STORED', 'f', ?)",
                [storage, name, "2026-01-01 00:00:00.000000"],
            )
            ids.append(connect.execute("SELECT max(id) FROM file").fetchone()[0])
        IngestState.arrive(ids, storage)
        return ids

    return connect.write(transaction)


def target(name: str = "gen3", storage: str = STORAGE, run: int = 7) -> TargetRow:
    return connect.write(TargetRow.ensure, "here", name, storage, "null", run)


def statuses(of: TargetRow) -> dict[int, str]:
    rows = IngestState.select().where(IngestState.target_id == of.id)
    return {row.file_id: row.status for row in rows}


def events(of: TargetRow) -> list[tuple[int, str]]:
    rows = IngestEvent.select().where(IngestEvent.target_id == of.id).order_by(IngestEvent.id)
    return [(row.file_id, row.status) for row in rows]


@pytest.mark.usefixtures("database")
class TestArrival:
    def test_new_file_is_untried_for_each_target_of_its_storage(self) -> None:
        first, second, other = target("a"), target("b"), target("c", "/elsewhere")
        (number,) = store("x.fits")
        assert statuses(first) == statuses(second) == {number: "UNTRIED"}
        assert events(first) == [(number, "UNTRIED")]
        assert statuses(other) == {}

    def test_target_added_later_catches_up(self) -> None:
        stored = store("x.fits", "y.fits")
        late = target()
        assert statuses(late) == dict.fromkeys(stored, "UNTRIED")
        assert events(late) == [(number, "UNTRIED") for number in stored]

    def test_adding_a_target_again_changes_nothing(self) -> None:
        store("x.fits")
        late = target()
        before = events(late)
        assert target().id == late.id
        assert events(late) == before

    def test_arriving_twice_equals_once(self) -> None:
        gen3 = target()
        stored = store("x.fits")
        connect.write(IngestState.arrive, stored, STORAGE)
        assert events(gen3) == [(stored[0], "UNTRIED")]

    def test_events_of_a_pass_are_numbered(self) -> None:
        gen3 = target()
        stored = store("x.fits", "y.fits")
        more = store("z.fits")
        late = target("late", run=8)
        numbers = [
            row.number
            for row in IngestEvent.select().where(IngestEvent.run_id == 8).order_by(IngestEvent.id)
        ]
        assert len(events(late)) == len(stored + more) == len(events(gen3))
        assert numbers == [1, 2, 3]

    def test_backfilled_file_is_not_due(self) -> None:
        gen3 = target()
        other = store("x.fits", storage="/elsewhere")
        connect.execute("UPDATE file SET storage = ?", [STORAGE])
        connect.write(IngestState.arrive, other, STORAGE, 3, IngestStatus.BACKFILL)
        assert statuses(gen3) == {other[0]: "BACKFILL"}

    def test_file_that_is_there_again_is_due_again_where_it_was_invalid(self) -> None:
        gen3 = target()
        stored = store("x.fits", "y.fits")
        connect.execute("UPDATE ingest_state SET status = 'INVALID' WHERE file_id = ?", stored[:1])
        connect.write(IngestState.arrive, stored, STORAGE, 9)
        assert statuses(gen3) == dict.fromkeys(stored, "UNTRIED")
        assert events(gen3)[2:] == [(stored[0], "UNTRIED")]

    def test_file_that_is_there_again_does_not_wait(self) -> None:
        target()
        stored = store("x.fits")
        connect.execute("UPDATE ingest_state SET next_try_at = '2099-01-01 00:00:00.000000'")
        connect.write(IngestState.arrive, stored, STORAGE)
        assert IngestState.get(file_id=stored[0]).next_try_at <= connect.now()

    def test_retired_target_gets_no_files(self) -> None:
        gen3 = target()
        connect.write(gen3.retire)
        store("x.fits")
        assert statuses(gen3) == {}

    def test_retired_target_is_refused_to_its_ingester(self) -> None:
        connect.write(target().retire)
        with pytest.raises(ConfigError, match="retired"):
            target()

    def test_restored_target_catches_up(self) -> None:
        gen3 = target()
        connect.write(gen3.retire)
        stored = store("x.fits")
        connect.write(gen3.restore)
        assert statuses(gen3) == {stored[0]: "UNTRIED"}

    def test_target_with_another_storage_is_refused(self) -> None:
        target()
        with pytest.raises(ConfigError, match="another storage area needs"):
            target(storage="/moved")


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["postgresql"])
def test_adding_a_target_waits_for_files_that_are_being_stored(
    database: Any, database_url: str
) -> None:
    """A finder that began before the target was added does not know of it: nor is it missed."""
    import psycopg

    with psycopg.connect(database_url) as finder:
        finder.execute("SELECT pg_advisory_xact_lock_shared(%s)", [ARRIVALS])
        finder.execute(
            "INSERT INTO file (storage, relpath, filename, size_bytes, checksum, status, finder,"
            " added_on) VALUES (%s, '', 'x.fits', 3, 'blake2b:00', 'STORED', 'f', now())",
            [STORAGE],
        )
        added: list[TargetRow] = []

        def add() -> None:
            added.append(target())
            connect.disconnect()

        adding = threading.Thread(target=add)
        adding.start()
        waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while not connect.execute(waits).fetchone()[0]:
            assert adding.is_alive()
        assert not added
        finder.commit()
    adding.join()
    assert list(statuses(added[0]).values()) == ["UNTRIED"]


@pytest.mark.usefixtures("database")
class TestByHand:
    @pytest.fixture
    def failed(self, database: Any) -> tuple[TargetRow, list[int]]:
        gen3 = target()
        stored = store("x.fits", "y.fits")
        connect.execute(
            "UPDATE ingest_state SET status = 'FAILURE', attempts = 5 WHERE file_id = ?",
            [stored[0]],
        )
        return gen3, stored

    def test_rerun_takes_only_the_statuses_asked_for(self, failed: Any) -> None:
        gen3, stored = failed
        count = connect.write(IngestState.rerun, gen3.id, stored, ["FAILURE"], "asked")
        assert count == 1
        assert statuses(gen3) == {stored[0]: "RERUN", stored[1]: "UNTRIED"}

    def test_rerun_begins_attempts_anew_and_is_due_now(self, failed: Any) -> None:
        gen3, stored = failed
        connect.write(IngestState.rerun, gen3.id, stored, ["FAILURE"], "asked")
        row = IngestState.get(file_id=stored[0], target_id=gen3.id)
        assert row.attempts == 0
        assert row.next_try_at <= connect.now()

    def test_ignored_file_is_not_due(self, failed: Any) -> None:
        gen3, stored = failed
        connect.write(IngestState.ignore, gen3.id, stored, ["FAILURE"], "bad detector")
        row = IngestState.get(file_id=stored[0], target_id=gen3.id)
        assert (row.status, row.next_try_at, row.message) == ("IGNORED", None, "bad detector")

    def test_pending_file_cannot_be_rerun(self, failed: Any) -> None:
        gen3, stored = failed
        with pytest.raises(ImpossibleTransition):
            connect.write(IngestState.rerun, gen3.id, stored, ["PENDING"], "asked")


def test_impossible_transition_is_an_error() -> None:
    with pytest.raises(ImpossibleTransition):
        require_possible("ingest_state", IngestStatus.INVALID, IngestStatus.SUCCESS)
