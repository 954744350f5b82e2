"""What `dbb history` says of a file."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from dbbbatch.database import connect
from dbbbatch.report.history import History, histories
from dbbbatch.report.matching import matching
from dbbbatch.report.whereabouts import Directories

Row = Callable[..., int]


def history(name: str, roots: list[str]) -> list[History]:
    return histories(matching([name], roots, 20).places, Directories(None))


def test_an_unknown_file_has_none(database: Any) -> None:
    assert history("nothing.fits", []) == []


def test_every_step_at_both_sites_is_told_in_order(
    insert: Row, handoff_row: Row, stored: Row, ingest_row: Row, target: int
) -> None:
    at = "2026-11-24 05:{}.000000".format
    file = handoff_row(
        "a.fits",
        "HELD",
        checksum="md5:1234",
        delivered_at=at("02:00"),
        held_at=at("03:00"),
        held_as="a.fits",
    )
    batch = insert(
        "transfer_batch",
        run_id=1,
        site="summit",
        handoff="latiss",
        attempt="x",
        status="DONE",
        files=3,
        size_bytes=3000,
        started=at("01:00"),
        transfer_started=at("01:10"),
        transfer_duration=2.5,
    )
    insert("transfer_attempt", batch_id=batch, handoff_file_id=file, outcome="DELIVERED")
    number = stored("a.fits")
    ingest_row(number, "SUCCESS")
    for n, (status, start) in enumerate([("FAILURE", at("20:00")), ("SUCCESS", at("21:00"))]):
        insert(
            "ingest_event",
            file_id=number,
            target_id=target,
            status=status,
            start_time=start,
            duration=0.5,
            message="busy" if n == 0 else "",
            version="v1",
            number=n,
        )
    (found,) = history("night/a.fits", [])
    assert found.path == "night/a.fits"
    assert [(one.where, one.status) for one in found.versions] == [
        ("summit handoff.latiss", "HELD"),
        ("/data/storage", "STORED"),
    ]
    assert [(name, one.status) for name, one in found.targets.items()] == [("gen3", "SUCCESS")]
    assert [(e.where, e.what, e.duration) for e in found.events] == [
        ("summit handoff.latiss", "found in the buffer", None),
        ("summit handoff.latiss", "transfer with 2 others: delivered", 2.5),
        ("summit handoff.latiss", "delivered, verified", None),
        ("summit handoff.latiss", "moved to holding", None),
        ("finder.latiss", "stored in /data/storage", None),
        ("archive target.gen3", "FAILURE", 0.5),
        ("archive target.gen3", "SUCCESS", 0.5),
    ]
    assert found.events[5].message == "busy (v1)"


def test_a_file_is_found_by_its_name_alone(stored: Row) -> None:
    stored("a.fits")
    stored("a.fits", relpath="another")
    assert [one.path for one in history("a.fits", [])] == ["another/a.fits", "night/a.fits"]


def test_a_file_is_found_by_its_path_in_a_configured_place(stored: Row) -> None:
    stored("a.fits")
    assert [one.path for one in history("/data/storage/night/a.fits", ["/data/storage"])] == [
        "night/a.fits"
    ]


def test_a_name_that_is_not_utf8_is_found_by_its_bytes_and_as_it_is_written(stored: Row) -> None:
    stored(r"caf\xe9.fits")
    for name in ("caf\udce9.fits", r"caf\xe9.fits"):
        assert [one.path for one in history(name, [])] == [r"night/caf\xe9.fits"]


def test_what_waits_in_quarantine_is_shown_with_its_reason(insert: Row) -> None:
    insert(
        "quarantine",
        site="archive",
        label="finder.latiss",
        relpath="night",
        filename="a.fits",
        path="/data/quarantine/night/a.fits",
        size_bytes=1,
        mtime_ns=1,
        inode=1,
        reason="storage has another content under this name",
        quarantined_at="2026-11-24 05:00:00.000000",
    )
    (found,) = history("a.fits", [])
    assert [(one.status, one.path) for one in found.versions] == [
        ("QUARANTINED", "/data/quarantine/night/a.fits")
    ]
    assert [one.message for one in found.events] == ["storage has another content under this name"]


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("name", ["a.fits", "night/a.fits"])
def test_no_question_reads_a_whole_table(
    name: str, handoff_row: Row, stored: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    handoff_row("a.fits", "HELD")
    stored("a.fits")
    steps = []
    really = connect.execute

    def execute(sql: str, values: Any = ()) -> Any:
        steps.extend(row[-1] for row in really(f"EXPLAIN QUERY PLAN {sql}", values).fetchall())
        return really(sql, values)

    monkeypatch.setattr(connect, "execute", execute)
    history(name, [])
    assert len(steps) > 5
    assert [step for step in steps if re.match("SCAN (?!target|state)", step)] == []


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("name", ["a.fits", "night/a.fits"])
def test_what_a_finder_has_in_mind_is_told(name: str) -> None:
    from dbbbatch.database.models.finder import Remembered, RememberedFile
    from dbbbatch.database.models.statuses import WhyRemembered

    left = RememberedFile("night", "a.fits", 5, 2, 3, WhyRemembered.FAILED, 2, "Permission denied")
    connect.write(Remembered.remember, "archive", "latiss", [left])
    (found,) = history(name, [])
    (version,) = found.versions
    assert (version.where, version.status, version.detail) == (
        "archive finder.latiss",
        "FAILED",
        "Permission denied",
    )
    assert [event.what for event in found.events] == ["could not be stored (try 2)"]


def test_a_handoffs_file_in_quarantine_is_one_version(insert: Row, handoff_row: Row) -> None:
    handoff_row("a.fits", "QUARANTINED", error="gave up")
    insert(
        "quarantine",
        site="summit",
        label="handoff.latiss",
        relpath="night",
        filename="a.fits",
        path="/q/night/a.fits",
        size_bytes=1000,
        mtime_ns=1,
        inode=1,
        reason="gave up",
        quarantined_at="2026-11-24 05:30:00.000000",
    )
    (found,) = history("a.fits", [])
    assert [(one.status, one.path) for one in found.versions] == [
        ("QUARANTINED", "/q/night/a.fits")
    ]


def test_when_a_stored_file_was_last_verified_is_told(stored: Row) -> None:
    stored("a.fits", verified_at="2026-11-25 05:00:00.000000")
    (found,) = history("a.fits", [])
    assert [event.what for event in found.events][-1] == "last verified by its checksum"


def test_what_no_column_keeps_is_told(insert: Row, stored: Row) -> None:
    stored("a.fits", finder="rebuild")
    for becomes, message in (("MISSING", "is not in storage"), ("STORED", "")):
        insert(
            "file_event",
            site="",
            label="/data/storage",
            relpath="night",
            filename="a.fits",
            at="2026-11-25 05:00:00.000000",
            was="STORED" if message else "MISSING",
            becomes=becomes,
            message=message,
        )
    (found,) = history("a.fits", [])
    assert [(event.what, event.message) for event in found.events] == [
        ("recorded by `dbb rebuild`", ""),
        ("STORED → MISSING", "is not in storage"),
        ("MISSING → STORED", "the auditor found and verified it"),
    ]


def test_when_the_next_attempt_is_due_is_told(
    handoff_row: Row, stored: Row, ingest_row: Row
) -> None:
    due = "2999-01-01 00:00:00.000000"
    handoff_row("a.fits", "FOUND", next_try_at=due)
    ingest_row(stored("a.fits"), "FAILURE", next_try_at=due)
    (found,) = history("a.fits", [])
    assert [version.next_try_at and version.next_try_at.year for version in found.versions] == [
        2999,
        None,
    ]
    assert found.targets["gen3"].next_try_at == found.versions[0].next_try_at
