"""Changes of rows: only those that are asked for, and no change of status that is not listed."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import pytest
from peewee import SQL

from dbbbatch.database import bulk, connect
from dbbbatch.database.models.changes import change
from dbbbatch.database.models.file import File, FileRow
from dbbbatch.database.models.statuses import TRANSITIONS, FileStatus, ImpossibleTransition
from tests.support.scripts import TOP

pytestmark = pytest.mark.usefixtures("rows")

WHEN = datetime(2026, 11, 24, 1, 2, 3, 4)


@pytest.fixture
def rows(database: object) -> None:
    """Three files with the ids 1, 2 and 3: two ARRIVING, the last one STORED."""
    connect.write(
        File.intend, "/s", "f", [FileRow("", name, 1, "md5:0", 1, 1) for name in ("a", "b", "c")]
    )
    connect.execute("UPDATE file SET status = 'STORED' WHERE id = 3")


def column(name: str) -> list[Any]:
    return [row[0] for row in connect.execute(f"SELECT {name} FROM file ORDER BY id").fetchall()]


def test_rows_of_other_statuses_are_left() -> None:
    count = change(
        *(File, [1, 3, 9]), before=[FileStatus.ARRIVING], becomes=FileStatus.STORED, error="x"
    )
    assert (count, column("status")) == (1, ["STORED", "ARRIVING", "STORED"])
    assert column("error") == ["x", None, None]


def test_each_row_gets_its_own_values_and_the_common_ones() -> None:
    rows = [(2, "two", None), (1, "ö'\"{}", 2)]
    assert change(File, rows, sets=("error", "copy_of"), verified_at=WHEN) == 2
    assert column("error") == ["ö'\"{}", "two", None]
    assert column("copy_of") == [2, None, None]
    assert [bulk.read_moment(when) for when in column("verified_at")] == [WHEN, WHEN, None]


def test_rows_are_found_by_what_they_were() -> None:
    rows = [(1, "md5:0", "md5:1"), (2, "md5:other", "md5:1")]
    assert change(File, rows, ("id", "checksum"), ["checksum"]) == 1
    assert column("checksum") == ["md5:1", "md5:0", "md5:0"]


def test_values_may_come_from_the_old_row() -> None:
    twice = SQL("size_bytes + ?", [4])
    assert change(File, [1, 2], ("id", SQL("filename = 'b'")), size_bytes=twice) == 1
    assert column("size_bytes") == [1, 5, 1]


def test_rows_may_become_different() -> None:
    audited = (FileStatus.STORED, FileStatus.MISSING)
    rows = [(3, FileStatus.MISSING), (1, FileStatus.CORRUPT)]
    assert change(File, rows, sets=["status"], before=audited) == 1
    assert column("status") == ["ARRIVING", "ARRIVING", "MISSING"]


def test_nothing_is_nothing() -> None:
    assert change(File, [], before=[FileStatus.ARRIVING], becomes=FileStatus.STORED) == 0
    assert change(File, [], sets=["error"]) == 0


@pytest.mark.parametrize("ids", [[], [1]])
def test_an_impossible_change_is_refused(ids: list[int]) -> None:
    with pytest.raises(ImpossibleTransition, match="file: QUARANTINED cannot become STORED"):
        change(
            *(File, ids),
            before=(FileStatus.ARRIVING, FileStatus.QUARANTINED),
            becomes=FileStatus.STORED,
        )
    with pytest.raises(ImpossibleTransition, match="file: ARRIVING cannot become QUARANTINED"):
        change(File, [(1, "QUARANTINED")], sets=["status"], before=[FileStatus.ARRIVING])
    assert column("status") == ["ARRIVING", "ARRIVING", "STORED"]


def test_a_change_of_status_names_what_it_comes_from() -> None:
    with pytest.raises(ValueError, match="statuses that a row may come from"):
        change(File, [1], becomes=FileStatus.STORED)


@pytest.mark.parametrize("backend", ["sqlite"])
def test_no_other_statement_updates_a_status() -> None:
    tables = "|".join(TRANSITIONS)
    for path in (TOP / "dbbbatch").rglob("*.py"):
        # Pieces of one text, as Python joins them.
        text = re.sub(r'"\s*f?"', "", path.read_text())
        updates = re.findall(rf"UPDATE (?:{tables}) SET (.*?)(?: WHERE |$)", text, re.MULTILINE)
        assert not [update for update in updates if re.search(r"\bstatus =", update)], path
