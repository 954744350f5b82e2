"""The files behind the numbers of `dbb status`; what is in each, `tests/cli/test_list.py` says."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from dbbbatch.database import connect
from dbbbatch.report.listing import LISTS, ListedComponent, file_list
from dbbbatch.report.whereabouts import Directories

Row = Callable[..., int]
NOWHERE = Directories(None)


def component(kind: str) -> ListedComponent:
    name = {"handoff": "latiss", "finder": "latiss", "target": "gen3"}.get(kind, "/data/storage")
    site = "summit" if kind == "handoff" else "archive"
    return ListedComponent(site, kind, name, "/data/storage")


@pytest.mark.parametrize("kind", LISTS)
def test_an_empty_database_has_empty_lists(kind: str, database: Any) -> None:
    for what in LISTS[kind]:
        found = file_list(component(kind), what, NOWHERE, 9)
        assert (found.files, found.count) == ([], 0)


def test_all_files_are_counted_and_the_first_ones_given(handoff_row: Row) -> None:
    for number in range(4):
        handoff_row(f"{number}", "DELIVERED" if number == 3 else "FOUND")
    found = file_list(component("handoff"), "waiting", NOWHERE, 2)
    assert [file.path for file in found.files] == ["night/0", "night/1"]
    assert found.count == 4


def test_a_file_is_missing_since_the_auditor_said_so(stored: Row, insert: Row) -> None:
    stored("a", "MISSING", error="is not in storage")
    for day, becomes in ((25, "MISSING"), (26, "STORED"), (27, "MISSING")):
        insert(
            "file_event",
            site="",
            label="/data/storage",
            relpath="night",
            filename="a",
            at=f"2026-11-{day} 05:00:00.000000",
            was="",
            becomes=becomes,
            message="",
        )
    (file,) = file_list(component("storage"), "missing", NOWHERE, 9).files
    assert (file.path, file.since and file.since.day) == ("/data/storage/night/a", 27)


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("kind", LISTS)
def test_no_list_reads_a_whole_table(
    kind: str, stored: Row, handoff_row: Row, ingest_row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    handoff_row("a", "FOUND")
    ingest_row(stored("a"), "SUCCESS")
    steps = []
    really = connect.execute

    def execute(sql: str, values: Any = ()) -> Any:
        steps.extend(row[-1] for row in really(f"EXPLAIN QUERY PLAN {sql}", values).fetchall())
        return really(sql, values)

    monkeypatch.setattr(connect, "execute", execute)
    for what in LISTS[kind]:
        file_list(component(kind), what, NOWHERE, 9)
    assert len(steps) >= len(LISTS[kind])
    whole = [step for step in steps if re.match(r"SCAN (?!oldest)", step)]
    assert [step for step in whole if "INDEX" not in step] == []
