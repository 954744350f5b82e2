"""What `dbb status` says, and that its cost does not grow with history."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from dbbbatch.database import connect
from dbbbatch.report import queries

Row = Callable[..., int]
SOON = "2999-01-01 00:00:00.000000"


@pytest.mark.usefixtures("database")
def test_an_empty_database_has_nothing_to_say() -> None:
    status = queries.status()
    assert (status.passes, status.backlog, status.trouble, status.paused) == ([], [], [], [])


def test_the_last_pass_of_each_section_is_given(run_row: Row) -> None:
    run_row("handoff", "latiss", "ok", 1)
    run_row("handoff", "latiss", "later", 2, exit_code=75, message="the network is away")
    run_row("target", "gen3", "ok", 3, site="archive", counts='{"done": 7}')
    found = {(last.site, last.label): last for last in queries.status().passes}
    assert set(found) == {("summit", "handoff.latiss"), ("archive", "target.gen3")}
    handoff = found["summit", "handoff.latiss"]
    assert (handoff.outcome, handoff.exit_code, handoff.message) == (
        "later",
        75,
        "the network is away",
    )
    assert handoff.last_ok is not None
    assert handoff.last_ok.minute == 1
    assert found["archive", "target.gen3"].counts == {"done": 7}


def test_a_pass_that_never_ended_well_has_no_last_time(run_row: Row) -> None:
    run_row("handoff", "latiss", "error", 1, exit_code=70)
    assert queries.status().passes[0].last_ok is None


def test_a_pass_in_which_files_failed_worked(run_row: Row) -> None:
    run_row("handoff", "latiss", "failed", 1, exit_code=1)
    run_row("handoff", "latiss", "later", 2, exit_code=75)
    run_row("handoff", "latiss", "later", 3, exit_code=75)
    (last,) = queries.status().passes
    assert last.last_ok is not None
    assert last.failing_since is not None
    assert (last.last_ok.minute, last.failing_since.minute) == (1, 2)


def test_how_the_pass_before_ended_is_known_while_one_is_at_work(run_row: Row) -> None:
    run_row("handoff", "latiss", "ok", 1)
    run_row("handoff", "latiss", "later", 2, exit_code=75, message="no route")
    run_row("handoff", "latiss", "running", 3)
    (last,) = queries.status().passes
    assert (last.outcome, last.exit_code, last.message) == ("running", 75, "no route")
    assert last.failing_since is not None
    assert last.failing_since.minute == 2


def test_an_interrupted_pass_is_not_when_a_failure_began(run_row: Row) -> None:
    run_row("handoff", "latiss", "ok", 1)
    run_row("handoff", "latiss", "interrupted", 2, exit_code=75)
    assert queries.status().passes[0].failing_since is None
    run_row("handoff", "latiss", "later", 3, exit_code=75)
    (last,) = queries.status().passes
    assert last.failing_since is not None
    assert last.failing_since.minute == 3


def test_a_process_that_lingers_starts_once(run_row: Row) -> None:
    for minute, pid in enumerate((1, 1, 1, 2, 2, 3)):
        run_row("handoff", "latiss", "ok", minute, pid=pid)
    assert [start.minute for start in queries.status().passes[0].starts] == [0, 3, 5]


def test_the_backlog_of_a_handoff_is_what_is_not_yet_held(handoff_row: Row) -> None:
    handoff_row("a", "FOUND")
    handoff_row("b", "FOUND", discovered_at="2026-11-24 04:00:00.000000")
    handoff_row("c", "DELIVERED")
    for n, status in enumerate(("HELD", "PURGED", "QUARANTINED", "IGNORED", "VANISHED")):
        handoff_row(f"d{n}", status)
    found = [
        (one.site, one.label, one.step, one.files, one.size_bytes, one.oldest and one.oldest.hour)
        for one in queries.status().backlog
    ]
    assert found == [
        ("summit", "handoff.latiss", "deliver", 2, 2000, 4),
        ("summit", "handoff.latiss", "hold", 1, 1000, 5),
    ]


def test_the_backlog_of_a_target_is_what_is_due_or_will_be(stored: Row, ingest_row: Row) -> None:
    ingest_row(stored("a"), "UNTRIED")
    ingest_row(stored("b"), "UNTRIED")
    ingest_row(stored("c"), "RERUN", next_try_at=SOON)
    ingest_row(stored("d"), "PENDING", claim=1)
    for n, status in enumerate(("SUCCESS", "IGNORED", "INVALID", "BACKFILL", "FAILURE")):
        ingest_row(stored(f"e{n}"), status)
    found = [(one.label, one.step, one.files) for one in queries.status().backlog]
    assert found == [
        ("target.gen3", "ingest", 2),
        ("target.gen3", "try again", 1),
        ("target.gen3", "end its try", 1),
    ]


def test_a_file_that_fails_is_counted_once(stored: Row, ingest_row: Row, handoff_row: Row) -> None:
    handoff_row("a", "FOUND", error="exit code 12", attempts=2)
    ingest_row(stored("b"), "FAILURE", next_try_at=SOON, message="busy")
    ingest_row(stored("c"), "UNTRIED", next_try_at=SOON, message="exit code 75")
    status = queries.status()
    assert status.backlog == []
    assert [(one.label, one.what, one.files, one.advice) for one in status.trouble] == [
        ("handoff.latiss", "failing", 1, ""),
        ("target.gen3", "put off", 1, ""),
        ("target.gen3", "failing", 1, ""),
    ]


def test_a_retired_target_has_no_backlog(stored: Row, ingest_row: Row) -> None:
    ingest_row(stored("a"), "UNTRIED")
    connect.execute("UPDATE target SET retired_at = ?", [SOON])
    assert queries.status().backlog == []


def test_files_that_arrive_are_the_backlog_of_a_finder(stored: Row) -> None:
    stored("a", "ARRIVING", added_on=None)
    assert [(one.label, one.step, one.files) for one in queries.status().backlog] == [
        ("finder.latiss", "store", 1)
    ]


def test_trouble_says_what_a_person_must_do(
    insert: Row, stored: Row, ingest_row: Row, handoff_row: Row
) -> None:
    handoff_row("a", "FOUND", error="exit code 12", attempts=2)
    ingest_row(stored("b"), "FAILURE", next_try_at=SOON, message="busy")
    ingest_row(stored("c"), "FAILURE", message="no such detector")
    ingest_row(stored("d"), "INVALID", message="empty")
    stored("e", "MISSING")
    insert(
        "quarantine",
        site="summit",
        label="handoff.latiss",
        relpath="",
        filename="f",
        path="/data/quarantine/f",
        size_bytes=1,
        mtime_ns=1,
        inode=1,
        reason="another content",
        quarantined_at="2026-11-24 05:00:00.000000",
    )
    found = [(t.label, t.what, t.files, t.message, t.listing) for t in queries.status().trouble]
    ingests, quarantine = "dbb list target.gen3 --status", "dbb quarantine list handoff.latiss"
    sent = "dbb list handoff.latiss --status failing"
    assert found == [
        ("handoff.latiss", "failing", 1, "exit code 12", sent),
        ("target.gen3", "failing", 1, "busy", f"{ingests} failing"),
        ("target.gen3", "gave up", 1, "no such detector", f"{ingests} gave-up"),
        ("target.gen3", "invalid", 1, "empty", f"{ingests} invalid"),
        ("handoff.latiss", "quarantined", 1, "another content", quarantine),
        (
            "/data/storage",
            "missing",
            1,
            "night/e: missing",
            "dbb list /data/storage --status missing",
        ),
    ]


def test_the_reason_is_that_of_the_ingest_that_failed_last(stored: Row, ingest_row: Row) -> None:
    soon = {"next_try_at": SOON}
    ingest_row(
        stored("a"), "FAILURE", message="new", changed_at="2026-11-24 06:00:00.000000", **soon
    )
    ingest_row(stored("b"), "FAILURE", message="old", **soon)
    assert [one.message for one in queries.status().trouble] == ["new"]


def test_a_file_in_storage_is_wrong_at_the_site_of_its_finder(stored: Row, run_row: Row) -> None:
    run_row("finder", "latiss", "ok", 1)
    stored("e", "CORRUPT", error="has 1 byte instead of 1000")
    (found,) = queries.status().trouble
    assert (found.site, found.listing) == ("summit", "dbb list /data/storage --status corrupt")


def test_held_files_that_are_not_confirmed_are_told(handoff_row: Row, run_row: Row) -> None:
    run_row("janitor", "latiss", "ok", 1)
    for name, minute, error in (("b", "02", "not confirmed: missing"), ("a", "01", None)):
        handoff_row(name, "HELD", held_at=f"2026-11-24 05:{minute}:00.000000", error=error)
    found = [(one.what, one.files, one.message) for one in queries.status().trouble]
    assert found == [("not confirmed", 1, "night/b: not confirmed: missing")]


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("missing", "at the endpoint: dbb-auditor --all --share 0"),
        ("unknown", "at the endpoint: dbb history night/b"),
    ],
)
def test_who_is_to_be_asked_why_a_file_is_not_confirmed(
    handoff_row: Row, run_row: Row, word: str, advice: str
) -> None:
    run_row("janitor", "latiss", "ok", 1)
    held_at = "2026-11-24 05:00:00.000000"
    handoff_row("b", "HELD", held_at=held_at, error=f"not confirmed by the endpoint: {word}")
    assert [one.advice for one in queries.status().trouble] == [advice]


def test_a_pause_that_is_over_is_not_shown(insert: Row) -> None:
    past, since = "2001-01-01 00:00:00.000000", "2000-01-01 00:00:00.000000"
    insert("pause", site="summit", label="handoff.latiss", since=since, until=past)
    insert("pause", site="summit", label="target.gen3", since=since, until=None, reason="move")
    assert [(one.label, one.reason) for one in queries.status().paused] == [("target.gen3", "move")]


@pytest.mark.parametrize("backend", ["sqlite"])
def test_no_question_reads_a_whole_table(
    stored: Row, ingest_row: Row, handoff_row: Row, run_row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_row("handoff", "latiss", "ok", 1)
    handoff_row("a", "FOUND", error="x")
    handoff_row("b", "DELIVERED")
    ingest_row(stored("a"), "FAILURE")
    asked: list[tuple[str, Any]] = []
    really = connect.execute

    def execute(sql: str, values: Any = ()) -> Any:
        asked.append((sql, values))
        return really(sql, values)

    monkeypatch.setattr(connect, "execute", execute)
    queries.status()
    whole = []
    for sql, values in asked:
        for *_, step in really(f"EXPLAIN QUERY PLAN {sql}", values).fetchall():
            scan = re.fullmatch(r"SCAN (file|handoff_file|ingest_\w+|run|quarantine)\b(.*)", step)
            if scan and "INDEX" not in scan[2]:
                whole.append((sql, step))
    assert len(asked) > 10
    assert whole == []


@pytest.mark.usefixtures("database")
def test_what_a_finder_could_not_store_is_told_but_not_its_duplicates() -> None:
    from dbbbatch.database.models.finder import Remembered, RememberedFile
    from dbbbatch.database.models.statuses import WhyRemembered

    rows = [
        RememberedFile("", "a", 1, 2, 3, WhyRemembered.FAILED, 2, "Permission denied"),
        RememberedFile(
            "", "b", 1, 2, 3, WhyRemembered.DUPLICATE, 1, "storage has the same file already"
        ),
        RememberedFile("", "c", 0, 0, 0, WhyRemembered.GIVEN_UP, 8, "given up after 8 tries"),
    ]
    connect.write(Remembered.remember, "archive", "latiss", rows)
    first, second = queries.status().trouble
    assert (first.label, first.what, first.files) == ("finder.latiss", "failing", 1)
    assert first.message.startswith("Permission denied (a, last tried 20")
    assert (
        first.advice == "change owner or mode of the directory that is named, or else of the file"
    )
    assert (second.what, second.listing) == (
        "gave up",
        "dbb list finder.latiss --status gave-up",
    )


@pytest.mark.usefixtures("database")
def test_the_reason_is_that_of_the_file_that_a_finder_tried_last() -> None:
    from dbbbatch.database.models.finder import Remembered, RememberedFile
    from dbbbatch.database.models.statuses import WhyRemembered

    for name in ("z", "a"):
        left = RememberedFile("", name, 1, 2, 3, WhyRemembered.FAILED, 1, f"{name} failed")
        connect.write(lambda left=left: Remembered.remember("archive", "latiss", [left]))
    connect.execute("UPDATE finder_left SET seen_at = '2026-01-01 00:00:00' WHERE filename = 'z'")
    assert queries.status().trouble[0].message.startswith("a failed")
