"""The history of what no column keeps."""

from __future__ import annotations

from typing import Any

import pytest

from dbbbatch.database import bulk, connect
from dbbbatch.database.models.file import File, FileRow
from dbbbatch.database.models.finder import Remembered, RememberedFile
from dbbbatch.database.models.handoff import HandoffFile, HandoffRow
from dbbbatch.database.models.statuses import FileStatus, WhyRemembered

pytestmark = pytest.mark.usefixtures("database")

OLD = HandoffRow("night", "a", 5, 7, 11)


def events() -> list[tuple[Any, ...]]:
    return [
        tuple(row)
        for row in connect.execute(
            "SELECT site, label, filename, was, becomes, message FROM file_event ORDER BY id"
        ).fetchall()
    ]


def stored() -> FileRow:
    connect.write(File.intend, "/s", "f", [FileRow("night", "a", 1, "md5:0", 1, 1)])
    connect.write(File.stored, [1])
    return row()


def row() -> FileRow:
    (found,) = connect.read(File.known, "/s", [("night", "a")]).values()
    return found


def seen(inode: int = 11) -> None:
    connect.write(HandoffFile.found, "summit", "latiss", [OLD._replace(inode=inode)])


def test_the_way_into_storage_has_no_event() -> None:
    stored()
    connect.write(File.verified, [row()])
    assert events() == []


def test_what_the_auditor_finds_has_an_event_when_it_changes() -> None:
    stored()
    for status, why in ((FileStatus.MISSING, "gone"), (FileStatus.MISSING, "still gone")):
        connect.write(File.wrong, [(row(), status, why)])
    connect.write(File.wrong, [(row(), FileStatus.CORRUPT, "has 2 bytes")])
    connect.write(File.verified, [row()])
    assert [event[2:] for event in events()] == [
        ("a", "STORED", "MISSING", "gone"),
        ("a", "MISSING", "CORRUPT", "has 2 bytes"),
        ("a", "CORRUPT", "STORED", ""),
    ]
    assert {event[:2] for event in events()} == {("", "/s")}


def test_an_arrival_that_is_taken_back_has_events() -> None:
    known = stored()
    connect.write(File.intend_again, "f", [(known, known._replace(checksum="md5:1"))])
    connect.write(File.withdraw, [1])
    assert [event[3:] for event in events()] == [
        ("STORED", "ARRIVING", ""),
        ("ARRIVING", "STORED", "its arrival is taken back"),
    ]


def test_a_file_that_is_seen_again_has_an_event() -> None:
    seen()
    seen()
    connect.write(HandoffFile.vanished, [(1, "no longer in the buffer")])
    seen()
    seen(inode=12)  # of a file that is FOUND anyway
    assert events() == [
        ("summit", "handoff.latiss", "a", "FOUND", "VANISHED", "no longer in the buffer"),
        ("summit", "handoff.latiss", "a", "VANISHED", "FOUND", "it is in the buffer again"),
    ]


def test_what_a_person_decides_has_an_event_with_the_reason() -> None:
    seen()
    assert connect.write(HandoffFile.ignored, [1], ["FOUND"], "by me") == 1
    assert connect.write(HandoffFile.again, [1], ["IGNORED"], "by you") == 1
    assert connect.write(HandoffFile.again, [1], ["FOUND"], "by them") == 1
    assert [event[3:] for event in events()] == [
        ("FOUND", "IGNORED", "by me"),
        ("IGNORED", "FOUND", "by you"),
        ("FOUND", "FOUND", "by them"),
    ]


def test_what_a_finder_forgets_for_a_person_has_an_event() -> None:
    left = RememberedFile("night", "a", 5, 2, 3, WhyRemembered.FAILED, 2, "denied")
    for why in ("", "by me"):
        connect.write(Remembered.remember, "archive", "latiss", [left])
        key = ("archive", "latiss", WhyRemembered.FAILED, [("night", "a")])
        assert connect.write(Remembered.drop_those, *key, why) == 1
    assert events() == [("archive", "finder.latiss", "a", "FAILED", "", "by me")]


def test_an_event_is_gone_with_the_change_that_is_rolled_back() -> None:
    known = stored()

    def fails() -> None:
        File.wrong([(known, FileStatus.MISSING, "gone")])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        connect.write(fails)
    assert (events(), row().status) == ([], "STORED")


def test_an_event_has_the_time_of_the_change() -> None:
    before = connect.read(connect.now)
    connect.write(File.wrong, [(stored(), FileStatus.MISSING, "gone")])
    ((at,),) = connect.execute("SELECT at FROM file_event").fetchall()
    assert before <= bulk.read_moment(at) <= connect.read(connect.now)
