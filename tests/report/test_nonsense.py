"""What somebody, or a mishap, may have written into a row: it is told in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest

from dbbbatch.database import bulk
from dbbbatch.errors import ConfigError
from tests.support.database import BACKENDS, Databases
from tests.support.handing import change, rows
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


@pytest.fixture(scope="module", params=BACKENDS)
def used(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Yield a site after a pass of each kind, with a new file; each test leaves it as it was."""
    directory = tmp_path_factory.mktemp("used")
    with databases.fresh(request.param, directory) as url:
        site = Site(directory / "site", url).write()
        site.put("2026-11-28/good")
        for script in ("dbb-handoff", "dbb-finder", "dbb-ingester"):
            assert site.run(script).code == 0
        site.put("2026-11-28/good", b"once more")
        yield site


@contextmanager
def written(site: Site, column: str, value: str) -> Iterator[None]:
    """Have a value in a column of all rows, for a while."""
    table, _, name = column.partition(".")
    key = "file_id" if table == "ingest_state" else "id"
    before = rows(site, f"{name}, {key}", table)
    assert before
    change(site, f"UPDATE {table} SET {name} = ?", value)
    try:
        yield
    finally:
        for row in before:
            change(site, f"UPDATE {table} SET {name} = ? WHERE {key} = ?", *row)


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
    used: Site, column: str, when: str, tmp_path: Path
) -> None:
    if not used.database_url.startswith("sqlite") and when in NO_TIMES:
        pytest.skip("PostgreSQL does not take it")
    with written(used, column, when):
        tell(used, tmp_path)


@pytest.mark.parametrize("counts", COUNTS)
def test_counts_that_make_no_sense_are_none(used: Site, counts: str, tmp_path: Path) -> None:
    with written(used, "run.counts", counts):
        tell(used, tmp_path)


@pytest.mark.parametrize("value", [*NO_TIMES, b"\xff", 5])
def test_what_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="a time"):
        bulk.read_moment(value)
