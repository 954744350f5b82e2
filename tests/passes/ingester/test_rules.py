"""What an outcome makes of a file: pure decisions."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from dbbbatch.config.fields import defaults
from dbbbatch.config.sections import Target
from dbbbatch.database.models.claim import StateChange
from dbbbatch.database.models.due import ClaimedFile
from dbbbatch.database.models.statuses import TRANSITIONS, IngestStatus
from dbbbatch.passes.ingester import rules
from dbbbatch.targets.plugin import Outcome, Result

NOW = datetime(2026, 11, 24, 12)
SECTION = defaults(
    Target,
    name="a",
    storage="/s",
    plugin="null",
    max_attempts=3,
    retry_wait=60,
    retry_wait_max=3600,
    include=[r"\.fits$"],
    exclude=["^flats/"],
)
HELD = ClaimedFile(1, "night", "x.fits", 4, {}, "STORED", NOW, IngestStatus.UNTRIED, 0, frozenset())


def changed(result: Result, file: ClaimedFile = HELD, **more: Any) -> StateChange:
    outcome = Outcome(1, result, **more)
    return rules.next_state(outcome, file, SECTION, started=NOW, now=NOW, chance=0.5)


@pytest.mark.parametrize("result", list(Result))
@pytest.mark.parametrize(
    "was", [IngestStatus.UNTRIED, IngestStatus.RERUN, IngestStatus.FAILURE, IngestStatus.UNKNOWN]
)
@pytest.mark.parametrize("attempts", [0, 2])
def test_every_change_is_a_possible_change(
    result: Result, was: IngestStatus, attempts: int
) -> None:
    change = changed(result, replace(HELD, was=was, attempts=attempts))
    assert (IngestStatus.PENDING, change.status) in TRANSITIONS["ingest_state"]


@pytest.mark.parametrize(
    ("result", "status", "attempts", "again"),
    [
        (Result.DONE, IngestStatus.SUCCESS, 0, False),
        (Result.ALREADY, IngestStatus.SUCCESS, 0, False),
        (Result.LATER, IngestStatus.UNTRIED, 0, True),
        (Result.FAILED, IngestStatus.FAILURE, 1, True),
        (Result.PARTLY, IngestStatus.FAILURE, 1, True),
        (Result.ALTERED, IngestStatus.FAILURE, 1, True),
        (Result.MISSING, IngestStatus.FAILURE, 1, True),
        (Result.UNKNOWN, IngestStatus.UNKNOWN, 1, True),
        (Result.NEVER, IngestStatus.INVALID, 0, False),
        (Result.EMPTY, IngestStatus.INVALID, 0, False),
    ],
)
def test_first_attempt(result: Result, status: IngestStatus, attempts: int, again: bool) -> None:
    change = changed(result)
    assert (change.status, change.attempts) == (status, attempts)
    assert (change.next_try_at is not None) == again


@pytest.mark.parametrize(
    ("result", "status"),
    [
        (Result.FAILED, IngestStatus.FAILURE),
        (Result.PARTLY, IngestStatus.FAILURE),
        (Result.UNKNOWN, IngestStatus.FAILURE),
        (Result.MISSING, IngestStatus.INVALID),
    ],
)
def test_last_attempt_is_left_to_a_person(result: Result, status: IngestStatus) -> None:
    change = changed(result, replace(HELD, was=IngestStatus.FAILURE, attempts=2))
    assert (change.status, change.attempts, change.next_try_at) == (status, 3, None)


def test_later_leaves_a_failure_a_failure() -> None:
    change = changed(Result.LATER, replace(HELD, was=IngestStatus.FAILURE, attempts=2))
    assert (change.status, change.attempts) == (IngestStatus.FAILURE, 2)


def test_already_there_is_said() -> None:
    assert changed(Result.ALREADY).message == "was there already"


def test_parts_add_up() -> None:
    held = replace(HELD, parts_done=frozenset({"ingest"}))
    change = changed(Result.PARTLY, held, parts_done=frozenset({"visits"}))
    assert change.parts_done == {"ingest", "visits"}


def test_waits_double_up_to_the_longest() -> None:
    waits = [rules.waiting_time(SECTION, attempts, 0.5) for attempts in (1, 2, 3, 7, 2000)]
    assert waits == [60, 120, 240, 3600, 3600]


def test_no_wait_is_longer_than_the_longest() -> None:
    assert rules.waiting_time(SECTION, 9, 1.0) == rules.longest_wait(SECTION)


def test_waits_differ_by_chance() -> None:
    assert rules.waiting_time(SECTION, 1, 0.0) == 45
    assert rules.waiting_time(SECTION, 1, 1.0) == 75


def test_given_back_file_is_what_it_was() -> None:
    held = replace(HELD, was=IngestStatus.FAILURE, attempts=2)
    change = rules.released(held, held.was, "stopped", NOW)
    assert (change.status, change.attempts) == (IngestStatus.FAILURE, 2)
    assert change.next_try_at == NOW


def test_given_back_new_file_is_new() -> None:
    change = rules.released(HELD, HELD.was, "stopped", NOW)
    assert (change.status, change.next_try_at) == (IngestStatus.UNTRIED, None)


@pytest.mark.parametrize(
    ("missing", "others", "trouble"), [(9, 0, False), (10, 10, True), (10, 11, False)]
)
def test_many_missing_files_are_trouble(missing: int, others: int, trouble: bool) -> None:
    outcomes = [Outcome(n, Result.MISSING) for n in range(missing)]
    outcomes += [Outcome(n, Result.DONE) for n in range(others)]
    assert rules.storage_is_in_trouble(outcomes) == trouble


def test_only_these_missing_files_are_tried_later() -> None:
    outcomes = [Outcome(n, Result.MISSING, "gone") for n in (1, 2)] + [Outcome(3, Result.FAILED)]
    later = rules.try_missing_later(outcomes, {1, 3})
    assert [one.result for one in later] == [Result.LATER, Result.MISSING, Result.FAILED]
    assert later[0].message == "gone"
    assert changed(Result.LATER).attempts == 0


def test_released_file_may_be_unknown() -> None:
    change = rules.released(HELD, IngestStatus.UNKNOWN, "killed", NOW)
    assert (change.status, change.attempts, change.next_try_at) == (IngestStatus.UNKNOWN, 0, NOW)


@pytest.mark.parametrize(
    ("rel", "wanted"), [("a/x.fits", True), ("x.log", False), ("flats/x.fits", False)]
)
def test_patterns_decide_what_is_wanted(rel: str, wanted: bool) -> None:
    assert rules.is_wanted(SECTION, rel) == wanted


def test_only_a_charged_unknown_goes_alone() -> None:
    unknown = replace(HELD, was=IngestStatus.UNKNOWN)
    assert not rules.must_go_alone(unknown)
    assert rules.must_go_alone(replace(unknown, attempts=1))
    assert not rules.must_go_alone(replace(HELD, was=IngestStatus.FAILURE, attempts=1))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 1000])
def test_neither_queue_starves(count: int) -> None:
    shares = [rules.share_of_batch(count, turn) for turn in range(4)]
    assert all(new + again == count for new, again in shares)
    assert sum(new for new, _ in shares) >= sum(again for _, again in shares) > 0


def test_slow_target_gets_small_batches() -> None:
    assert rules.next_count(1000, 0.1, 1000) == rules.SMALLEST


def test_fast_target_gets_large_batches_step_by_step() -> None:
    assert rules.next_count(10, 10_000.0, 1000) == 40
    assert rules.next_count(640, 10_000.0, 1000) == 1000


def test_batch_is_never_larger_than_asked_for() -> None:
    assert rules.next_count(4, 10_000.0, 5) == 5
    assert rules.next_count(1, 0.1, 1) == 1
