"""What somebody, or a mishap, may have written into a row: it is told in one line."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from dbbbatch.database import bulk
from dbbbatch.errors import ConfigError
from tests.support.handing import change
from tests.support.site import Site

COMMANDS = [
    ["dbb", "status"],
    ["dbb", "status", "--check"],
    ["dbb", "find", "*"],
    ["dbb", "list", "handoff.latiss"],
    ["dbb", "list", "target.a"],
    ["dbb", "history", "good"],
    ["dbb-report", "--text"],
    ["dbb-report", "--metrics", "-"],
    ["dbb-report", "pages"],
]

#: Times that only SQLite would take.
NO_TIMES = ["nonsense", "", "1e308", "2026-11-30 10:00:00+05:00", "\x1b[31m"]
TIMES = ["0001-01-01 00:00:00", "9999-12-31 23:59:59"]
COUNTS = ["", "{", "[]", "null", '{"failed": [1]}', '{"failed": "x"}', '{"failed": NaN}']

COLUMNS = [
    "handoff_file.held_at",
    "handoff_file.discovered_at",
    "run.finished",
    "handoff_file.delivered_at",
    "file.added_on",
    "ingest_state.changed_at",
    "ingest_event.start_time",
    "run.started",
]


@pytest.fixture
def used(site: Site) -> Site:
    """Return a site after a pass of each kind."""
    site.write()
    site.put("2026-11-28/good")
    for script in ("dbb-handoff", "dbb-finder", "dbb-ingester"):
        assert site.run(script).code == 0
    return site


def tell(site: Site, cwd: Path) -> None:
    # 78 where a row keeps it from asking for the rest.
    assert site.run("dbb", "status").code in (0, 78)
    for command in COMMANDS[1:]:
        ran = site.run(*command, cwd=cwd)
        assert ran.code in (0, 1, 2, 75, 78), (command, ran)
        assert len(ran.err.splitlines()) <= 1
        assert "\x1b" not in ran.out + ran.err


@pytest.mark.parametrize(
    ("column", "when"),
    [*product(COLUMNS, ["infinity"]), *product(COLUMNS[:3], NO_TIMES + TIMES)],
)
def test_a_time_that_makes_no_sense_is_told(
    used: Site, backend: str, column: str, when: str, tmp_path: Path
) -> None:
    if backend != "sqlite" and when in NO_TIMES:
        pytest.skip("PostgreSQL does not take it")
    table, _, name = column.partition(".")
    used.put("2026-11-28/good", b"once more")
    change(used, f"UPDATE {table} SET {name} = ?", when)
    tell(used, tmp_path)


@pytest.mark.parametrize("counts", COUNTS)
def test_counts_that_make_no_sense_are_none(used: Site, counts: str, tmp_path: Path) -> None:
    change(used, "UPDATE run SET counts = ?", counts)
    tell(used, tmp_path)


@pytest.mark.parametrize("value", [*NO_TIMES, b"\xff", 5])
def test_what_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="a time"):
        bulk.read_moment(value)
