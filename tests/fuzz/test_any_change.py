"""Any order of changes leaves rows and history as a model of the state machines has them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from dbbbatch.database import connect
from dbbbatch.database.models.claim import DueQueue, IngestClaim, StateChange
from dbbbatch.database.models.handoff import FIRST, HandoffFile, HandoffRow
from dbbbatch.database.models.ingest import IngestState
from dbbbatch.database.models.statuses import TRANSITIONS, HandoffStatus, IngestStatus
from tests.support.fuzz import fuzzed

pytestmark = pytest.mark.promise

NUMBERS = st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True)
FOUND, DELIVERED, HELD, PURGED, QUARANTINED, IGNORED, VANISHED = HandoffStatus


class Handoffs(RuleBasedStateMachine):
    """Four versions of files, and what the model says of each: status, inode and attempts."""

    def __init__(self) -> None:
        super().__init__()
        connect.write(_emptied, ("transfer_attempt", "file_event", "handoff_file"))
        self.rows = [HandoffRow("n", f"{n // 2}", 10 + n % 2, 5, 100 + n) for n in range(4)]
        self.status: dict[int, str] = {}
        self.inode: dict[int, int] = {}
        self.ids: dict[int, int] = {}

    def _move(self, numbers: list[int], before: set[str], becomes: str) -> None:
        for n in numbers:
            if self.status.get(n) in before:
                self.status[n] = becomes

    def _of(self, numbers: list[int]) -> list[int]:
        return [self.ids.get(n, -1 - n) for n in numbers]

    @initialize(known=NUMBERS, sent=NUMBERS, kept=NUMBERS)
    def begin_on_the_way(self, known, sent, kept) -> None:
        self.found(known, other_inode=False)
        self.delivered(sent, right=True)
        self.held(kept)

    @rule(numbers=NUMBERS, other_inode=st.booleans())
    def found(self, numbers, other_inode) -> None:
        seen = []
        for n in numbers:
            inode = self.inode.get(n, self.rows[n].inode) + other_inode
            seen.append(self.rows[n]._replace(inode=inode))
            was = self.status.get(n)
            if was in (None, HELD, PURGED, VANISHED) or (
                was in (DELIVERED, QUARANTINED) and inode != self.inode[n]
            ):
                self.status[n] = FOUND
            if self.status[n] == FOUND and was != IGNORED:
                self.inode[n] = inode
        connect.write(HandoffFile.found, "s", "h", seen)
        for n in numbers:
            (row,) = [
                row
                for row in HandoffFile.known("s", "h", [self.rows[n][:2]])
                if row.size_bytes == self.rows[n].size_bytes
            ]
            assert self.ids.setdefault(n, row.id) == row.id

    @rule(numbers=NUMBERS, right=st.booleans())
    def delivered(self, numbers, right) -> None:
        known = [n for n in numbers if n in self.ids]
        done = connect.write(
            HandoffFile.delivered, [(self.ids[n], self.inode[n] + (not right), None) for n in known]
        )
        same = [n for n in known if right and self.status[n] in (FOUND, DELIVERED)]
        assert done == {self.ids[n] for n in same}
        self._move(same, {FOUND}, DELIVERED)

    @rule(numbers=NUMBERS)
    def held(self, numbers) -> None:
        connect.write(
            HandoffFile.held, [(self.ids[n], "x", self.inode[n]) for n in numbers if n in self.ids]
        )
        self._move(numbers, {DELIVERED}, HELD)

    @rule(numbers=NUMBERS)
    def vanished(self, numbers) -> None:
        connect.write(HandoffFile.vanished, [(one, "gone") for one in self._of(numbers)])
        self._move(numbers, {FOUND, DELIVERED}, VANISHED)

    @rule(numbers=NUMBERS, wait=st.sampled_from([0.0, 1e6]))
    def failed(self, numbers, wait) -> None:
        connect.write(HandoffFile.failed, [(one, "why", wait, 1) for one in self._of(numbers)])

    @rule(numbers=NUMBERS)
    def quarantined(self, numbers) -> None:
        connect.write(HandoffFile.quarantined, [(one, "bad") for one in self._of(numbers)])
        self._move(numbers, {FOUND}, QUARANTINED)

    @rule(numbers=NUMBERS)
    def confirmed_and_purged(self, numbers) -> None:
        connect.write(HandoffFile.confirmed, self._of(numbers))
        connect.write(HandoffFile.purged, self._of(numbers))
        self._move(numbers, {HELD}, PURGED)

    @rule(numbers=NUMBERS, statuses=st.sets(st.sampled_from([FOUND, HELD]), min_size=1))
    def ignored(self, numbers, statuses) -> None:
        count = connect.write(HandoffFile.ignored, self._of(numbers), sorted(statuses), "a reason")
        assert count == sum(self.status.get(n) in statuses for n in numbers)
        self.was_held = {
            **getattr(self, "was_held", {}),
            **{n: self.status[n] == HELD for n in numbers if self.status.get(n) in statuses},
        }
        self._move(numbers, set(statuses), IGNORED)

    @rule(numbers=NUMBERS)
    def again(self, numbers) -> None:
        count = connect.write(HandoffFile.again, self._of(numbers), [FOUND, IGNORED], "a reason")
        assert count == sum(self.status.get(n) in (FOUND, IGNORED) for n in numbers)
        for n in numbers:
            if self.status.get(n) == IGNORED:
                self.status[n] = HELD if self.was_held[n] else FOUND

    @rule(numbers=NUMBERS)
    def back_again(self, numbers) -> None:
        held = {row.id: row.held_at for row in HandoffFile.held_files("s", "h", None, 9)}
        assert set(held) == {self.ids[n] for n, status in self.status.items() if status == HELD}
        connect.write(
            HandoffFile.back_again, [(one, held[one]) for one in self._of(numbers) if one in held]
        )
        self._move(numbers, {HELD}, FOUND)

    @invariant()
    def rows_are_as_the_model_says(self) -> None:
        found = {
            row[0]: row[1]
            for row in connect.execute("SELECT id, status FROM handoff_file").fetchall()
        }
        assert found == {self.ids[n]: str(status) for n, status in self.status.items()}
        due = HandoffFile.due("s", "h", FIRST, 9, longest=1e9)
        assert all(found[row.id] == FOUND for row in due)
        for was, becomes in connect.execute("SELECT was, becomes FROM file_event").fetchall():
            assert (was, becomes) in TRANSITIONS["handoff_file"]


DEAD, ALIVE = 900_000, 900_001
RESULTS = ["SUCCESS", "FAILURE", "UNKNOWN", "INVALID", "UNTRIED"]


class Ingests(RuleBasedStateMachine):
    """Three files and a target, offered by passes of which some die."""

    def __init__(self) -> None:
        super().__init__()
        connect.write(_emptied, ("ingest_event", "ingest_state", "ingest_claim", "file", "target"))
        connect.write(self._make)
        self.status: dict[int, str] = {}
        self.claim: dict[int, int] = {}
        self.number = 0

    def _make(self) -> None:
        connect.execute(
            "INSERT INTO target (site, name, storage, plugin, created_at)"
            " VALUES ('s', 't', '/st', 'null', '2026-01-01 00:00:00')"
        )
        (self.target,) = connect.execute("SELECT max(id) FROM target").fetchone()
        self.files = []
        for name in "abc":
            connect.execute(
                "INSERT INTO file (storage, relpath, filename, size_bytes, checksum, status,"
                " finder) VALUES ('/st', '', ?, 1, 'md5:0', 'STORED', 'f')",
                [name],
            )
            self.files.append(connect.execute("SELECT max(id) FROM file").fetchone()[0])

    @initialize(results=st.lists(st.sampled_from(RESULTS), max_size=3))
    def begin_with_results(self, results) -> None:
        for at, becomes in enumerate(results):
            self.arrive(at)
            self.take(ALIVE, wanted=True, most=3)
            self.record(ALIVE, at, becomes)

    @rule(at=st.integers(0, 2))
    def arrive(self, at) -> None:
        file = self.files[at]
        connect.write(IngestState.arrive, [file], "/st")
        if self.status.get(file) in (None, IngestStatus.INVALID):
            self.status[file] = IngestStatus.UNTRIED

    @rule(run=st.sampled_from([DEAD, ALIVE]), wanted=st.booleans(), most=st.integers(1, 3))
    def take(self, run, wanted, most) -> None:
        connect.write(
            connect.execute,
            "UPDATE ingest_state SET next_try_at = '2020-01-01 00:00:00.000000'"
            " WHERE next_try_at IS NOT NULL",
        )
        connect.write(IngestClaim.renew, run, self.target, "here", 60)
        becomes = IngestStatus.PENDING if wanted else IngestStatus.IGNORED
        claimed, ignored, _ = connect.write(
            IngestClaim.take, run, self._queue(), most, most, self._numbers(6), lambda file: becomes
        )
        took = [
            row[0]
            for row in connect.execute(
                "SELECT file_id FROM ingest_event WHERE run_id = ? AND number > ? ORDER BY id",
                [run, self.number - 6],
            ).fetchall()
        ]
        assert len(took) == len(claimed) + ignored
        for file in took:
            assert (self.status[file], becomes) in TRANSITIONS["ingest_state"]
            self.status[file] = becomes
            if wanted:
                self.claim[file] = run

    def _queue(self) -> DueQueue:
        return DueQueue(self.target, connect.now(), connect.now())

    def _numbers(self, count: int) -> int:
        self.number += count
        return self.number - count + 1

    @rule(
        run=st.sampled_from([DEAD, ALIVE]),
        at=st.integers(0, 2),
        becomes=st.sampled_from(RESULTS),
    )
    def record(self, run, at, becomes) -> None:
        file = self.files[at]
        one = StateChange(
            file_id=file,
            status=IngestStatus(becomes),
            attempts=1,
            next_try_at=None,
            parts_done=frozenset(),
            message="",
            version="",
            start_time=connect.now(),
            duration=None,
            number=self._numbers(1),
        )
        lost = connect.write(IngestClaim.record, run, self.target, [one])
        if self.claim.get(file) == run:
            assert lost == set()
            self.status[file] = becomes
            del self.claim[file]
        else:
            assert lost == {file}

    @rule()
    def take_over(self) -> None:
        count = connect.write(
            IngestClaim.take_over,
            ALIVE,
            self.target,
            "there",
            lambda *process: True,
            self._numbers(3),
            1e6,
        )
        assert count == 0  # not yet
        connect.write(
            lambda: (
                IngestClaim.update(expires_at=connect.now() - timedelta(1))
                .where(IngestClaim.run_id == DEAD)
                .execute()
            )
        )
        dead = [file for file, run in self.claim.items() if run == DEAD]
        count = connect.write(
            IngestClaim.take_over,
            ALIVE,
            self.target,
            "there",
            lambda *process: True,
            self._numbers(3),
            1e6,
        )
        assert count == len(dead)
        for file in dead:
            del self.claim[file]
            self.status[file] = IngestStatus.UNKNOWN

    @rule(
        at=st.integers(0, 2),
        statuses=st.sets(
            st.sampled_from(["SUCCESS", "FAILURE", "UNKNOWN", "INVALID", "IGNORED", "UNTRIED"]),
            min_size=1,
        ),
    )
    def rerun(self, at, statuses) -> None:
        file = self.files[at]
        count = connect.write(IngestState.rerun, self.target, [file], sorted(statuses), "a reason")
        assert count == (self.status.get(file) in statuses)
        if count:
            self.status[file] = IngestStatus.RERUN

    @rule(
        at=st.integers(0, 2),
        statuses=st.sets(
            st.sampled_from(["FAILURE", "UNKNOWN", "INVALID", "UNTRIED", "RERUN"]), min_size=1
        ),
    )
    def ignore(self, at, statuses) -> None:
        file = self.files[at]
        count = connect.write(IngestState.ignore, self.target, [file], sorted(statuses), "a reason")
        assert count == (self.status.get(file) in statuses)
        if count:
            self.status[file] = IngestStatus.IGNORED

    @invariant()
    def rows_and_history_are_as_the_model_says(self) -> None:
        rows = connect.execute("SELECT file_id, status, claim FROM ingest_state").fetchall()
        assert {row[0]: row[1] for row in rows} == {f: str(s) for f, s in self.status.items()}
        assert {row[0]: row[2] for row in rows if row[2]} == self.claim
        was: dict[int, str | None] = {}
        for file, status in connect.execute(
            "SELECT file_id, status FROM ingest_event ORDER BY id"
        ).fetchall():
            assert (was.get(file), status) in TRANSITIONS["ingest_state"]
            was[file] = status
        assert was == {file: str(status) for file, status in self.status.items()}


def _emptied(tables: tuple[str, ...]) -> None:
    for table in tables:
        connect.execute(f"DELETE FROM {table}")


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("machine", [Handoffs, Ingests])
def test_any_order_of_changes(machine: type[RuleBasedStateMachine]) -> None:
    run_state_machine_as_test(machine, settings=fuzzed(20, steps=15))
