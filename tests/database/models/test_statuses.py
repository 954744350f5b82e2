"""The tables of statuses and of their changes: complete, consistent, and shown in the docs."""

import re
from enum import StrEnum

import pytest

from dbbbatch.database.models.statuses import (
    TRANSITIONS,
    FileStatus,
    HandoffStatus,
    ImpossibleTransition,
    IngestStatus,
    require_possible,
)
from tests.support.scripts import TOP

STATUSES = {"handoff_file": HandoffStatus, "file": FileStatus, "ingest_state": IngestStatus}


def documented_changes() -> list[list[tuple[str, str, str]]]:
    """Return the rows of each table of changes in the docs, in their order."""
    text = "\n".join((TOP / "docs" / page).read_text() for page in ("history.md", "ingests.md"))
    tables = re.findall(r"^\| from \| to \| because \|\n\|.*\n((?:\|.*\n?)+)", text, re.MULTILINE)
    return [
        [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in table.splitlines()]
        for table in tables
    ]


def test_docs_show_every_change_and_no_other() -> None:
    assert documented_changes() == [
        [(was or "(none)", becomes, why) for (was, becomes), why in changes.items()]
        for changes in TRANSITIONS.values()
    ]


@pytest.mark.parametrize("table", TRANSITIONS)
def test_each_change_is_between_statuses_of_its_table(table: str) -> None:
    known: type[StrEnum] = STATUSES[table]
    for was, becomes in TRANSITIONS[table]:
        assert was is None or was in set(known)
        assert becomes in set(known)


@pytest.mark.parametrize(
    ("table", "without"),
    [("handoff_file", set()), ("file", {"QUARANTINED"}), ("ingest_state", set())],
)
def test_each_status_can_be_reached(table: str, without: set[str]) -> None:
    """But for QUARANTINED of a file, which a person writes."""
    reached: set[str | None] = {None}
    for _ in TRANSITIONS[table]:
        reached |= {becomes for was, becomes in TRANSITIONS[table] if was in reached}
    assert reached - {None} | without == set(STATUSES[table])


def test_another_change_is_refused() -> None:
    require_possible("file", FileStatus.ARRIVING, FileStatus.STORED)
    with pytest.raises(ImpossibleTransition, match="file: QUARANTINED cannot become STORED"):
        require_possible("file", FileStatus.QUARANTINED, FileStatus.STORED)
