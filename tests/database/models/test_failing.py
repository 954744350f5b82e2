"""Whether files of a section failed and are not well again."""

from collections.abc import Callable
from typing import Any

import pytest

from dbbbatch.database import connect
from dbbbatch.database.models.failing import failing_files
from dbbbatch.database.models.finder import Remembered, RememberedFile
from dbbbatch.database.models.handoff import SUSPECTED
from dbbbatch.database.models.statuses import WhyRemembered

pytestmark = pytest.mark.usefixtures("database")


def handoff(status: str, **more: Any) -> tuple[bool, int]:
    values = {
        "site": "s",
        "handoff": "a",
        "relpath": "",
        "filename": "x",
        "size_bytes": 1,
        "mtime_ns": 1,
        "inode": 1,
        "status": status,
        "discovered_at": "2026-01-01 00:00:00",
        **more,
    }
    marks = ", ".join("?" for _ in values)
    connect.execute(
        f"INSERT INTO handoff_file ({', '.join(values)}) VALUES ({marks})", list(values.values())
    )
    return failing_files("handoff", "s", "a")


def aside(label: str, **more: Any) -> None:
    values = {
        "site": "s",
        "label": label,
        "relpath": "",
        "filename": "x",
        "path": "/q/x",
        "size_bytes": 1,
        "mtime_ns": 1,
        "inode": 1,
        "reason": "bad",
        "quarantined_at": "2026-01-01 00:00:00",
        **more,
    }
    marks = ", ".join("?" for _ in values)
    connect.execute(
        f"INSERT INTO quarantine ({', '.join(values)}) VALUES ({marks})", list(values.values())
    )


@pytest.mark.parametrize(
    ("status", "more", "some"),
    [
        ("FOUND", {}, False),
        ("FOUND", {"attempts": 1, "error": "exit code 1"}, True),
        ("FOUND", {"error": f"{SUSPECTED}: exit code 1"}, True),
        ("FOUND", {"error": "the endpoint's buffer has another", "conflict_since": "2026"}, False),
        ("DELIVERED", {}, False),
        ("DELIVERED", {"error": "cannot be moved to holding"}, True),
        ("HELD", {"attempts": 3}, False),
        ("VANISHED", {"attempts": 3, "error": "no longer in the buffer"}, False),
    ],
)
def test_a_file_of_a_handoff(status: str, more: dict[str, Any], some: bool) -> None:
    if "conflict_since" in more:
        more = {**more, "conflict_since": "2026-01-01 00:00:00"}
    assert handoff(status, **more) == (some, 0)


def test_a_file_in_quarantine_waits_for_a_person() -> None:
    for name in ("x", "y"):
        aside("handoff.a", filename=name, path=f"/q/{name}")
    assert failing_files("handoff", "s", "a") == (False, 2)
    assert failing_files("handoff", "s", "b") == (False, 0)


def test_a_file_in_quarantine_that_a_person_decided_about_is_well() -> None:
    aside("handoff.a", released_at="2026-01-02 00:00:00")
    assert failing_files("handoff", "s", "a") == (False, 0)


@pytest.mark.parametrize(
    ("verdict", "some"),
    [
        (WhyRemembered.FAILED, True),
        (WhyRemembered.GIVEN_UP, True),
        (WhyRemembered.DUPLICATE, False),
    ],
)
def test_a_file_that_a_finder_left(verdict: WhyRemembered, some: bool) -> None:
    connect.write(
        lambda: Remembered.remember("s", "a", [RememberedFile("", "x", 1, 1, 1, verdict, 1, "bad")])
    )
    assert failing_files("finder", "s", "a")[0] is some


def test_what_an_auditor_finds_wrong_it_finds_anew() -> None:
    aside("finder.a")
    assert failing_files("auditor", "s", "a") == (False, 0)


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("kind", ["handoff", "finder", "target"])
def test_a_look_reads_no_whole_table(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from dbbbatch.database.models import failing as module

    really: Callable[..., Any] = connect.execute
    asked = []

    def execute(sql: str, values: Any = ()) -> Any:
        asked.append((sql, values))
        return really(sql, values)

    monkeypatch.setattr(module, "execute", execute)
    failing_files(kind, "s", "a")
    plans = [
        step[-1] for sql, values in asked for step in really(f"EXPLAIN QUERY PLAN {sql}", values)
    ]
    assert plans
    scans = [step for step in plans if step.startswith("SCAN ")]
    assert [step for step in scans if "CONSTANT" not in step and step != "SCAN waiting"] == []
    assert all("INDEX" in step or "PRIMARY KEY" in step for step in plans if "SEARCH" in step)
