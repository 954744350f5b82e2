"""Every statement of passes and commands is answered by an index, however old the tables are."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import peewee
import pytest

from dbbbatch.cli import auditor, finder, handoff, ingester, janitor, report
from dbbbatch.cli.dbb import dbb
from dbbbatch.cli.operator import Operator
from dbbbatch.database import connect, partitions
from dbbbatch.report import matching
from tests.support.database import Databases
from tests.support.scripts import TOP
from tests.support.site import Site

#: Tables that grow with the years.
GROWING = (
    *("file", "file_checksum", "file_event", "handoff_file", "ingest_event", "ingest_state"),
    *("quarantine", "run", "transfer_attempt", "transfer_batch"),
)

#: Indexes that hold what is due or wrong, so that all of it may be read.
SMALL = (
    *("file_arriving", "file_wrong", "handoff_file_due", "ingest_state_again"),
    *("ingest_state_claimed", "ingest_state_new", "ingest_state_trouble", "quarantine_moving"),
    *("quarantine_waiting", "transfer_batch_open"),
)

#: Partitions of PostgreSQL without a row: it reads any index of them to its end.
EMPTY = r"ingest_event_(\d+|other)"

#: Statements that are about every row, or end after a few rows.
EXCEPTIONS = (
    # A target that is new becomes due for each file that is stored.
    r"INSERT INTO ingest_\w+ .* FROM target t JOIN file f ON f.storage = t.storage",
    # Names that are like one that was not found.
    r"SELECT filename FROM \w+ ORDER BY id DESC LIMIT \d+$",
)

#: Instructions for each further directory, for questions that look at each directory once.
A_NIGHT = 100
BY_DIRECTORY = ("dbb find 2026-11-29", "dbb find */NEW_1*", "dbb find EW_1")

#: The passes whose cost must not follow the history: the auditor compares every row with its file.
PASSES = (handoff, finder, ingester, janitor)

QUESTIONS = (
    *(["status"], ["find", "NEW_1.fits"], ["find", "NEW_"], ["find", "2026-11-29"]),
    *(["find", "*/NEW_1*"], ["find", "EW_1"], ["history", "NEW_1.fits"]),
    ["list", "handoff.latiss"],
    *(["list", "finder.latiss"], ["list", "target.one"], ["quarantine", "list"]),
)


class Runs:
    """Passes and questions of a site, made in this process."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def all(self, also_auditor: bool) -> Iterator[str]:
        """Make each, with work and without; yield what comes next."""
        site = self._site
        for night in ("2026-11-29", "2026-11-30"):
            site.put_all([f"{night}/NEW_{number}.fits" for number in range(3)])
            for script in PASSES:
                yield f"{script.__name__} {night}"
                self._pass(script.main, "--all")
        for script in PASSES:
            yield f"{script.__name__} with nothing to do"
            self._pass(script.main, "--all")
        if also_auditor:
            yield "auditor"
            self._pass(auditor.main, "--share", "1")
        for question in QUESTIONS:
            yield f"dbb {' '.join(question)}"
            dbb.main(question, standalone_mode=False, obj=Operator())
        for given in ([str(site.root / "pages")], ["--text"], ["--metrics", str(site.root / "m")]):
            yield f"dbb-report {given[0]}"
            report.command.main(given, standalone_mode=False, obj=Operator())

    def _pass(self, script: Any, *arguments: str) -> None:
        script._operator = operator = Operator(program="test")
        script.command.main(list(arguments), standalone_mode=False, obj=operator)


@pytest.fixture
def old_site(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, str, int], Site]:
    """Return what makes a site of three targets with so many old files; scripts here find it."""
    monkeypatch.syspath_prepend(str(TOP / "benchmarks"))
    import millions

    def make(root: Path, url: str, files: int) -> Site:
        made = Site(root, url)
        millions.fill(url, made.storage, files)
        monkeypatch.setenv("DBB_CONFIG", str(made.config))
        return made.write(
            site={"keep_events": "30d"}, targets={name: {} for name in millions.TARGETS}
        )

    return make


OldSite = Callable[[Path, str, int], Site]


class TestPlans:
    """How the databases answer each statement."""

    def test_no_growing_table_is_read_to_its_end(
        self, old_site: OldSite, tmp_path: Path, database_url: str, backend: str
    ) -> None:
        site = old_site(tmp_path / "site", database_url, 3000)
        if backend == "postgresql":
            connect.connect(site.settings().database)
            # What holds for each partition holds for one table.
            partitions.partition_events()
            connect.execute("ANALYZE")
            connect.disconnect()
        with pytest.MonkeyPatch.context() as patched:
            statements = recorded(patched)
            for _ in Runs(site).all(also_auditor=True):
                pass
        connect.connect(site.settings().database)
        reads = _reads_of_sqlite if backend == "sqlite" else _reads_of_postgresql
        found = [
            f"{line}: {sql}"
            for sql, values in statements.items()
            if re.match("(SELECT|INSERT|UPDATE|DELETE|WITH) ", sql)
            and not any(re.match(one, sql) for one in EXCEPTIONS)
            for line in reads(sql, values)
        ]
        connect.disconnect()
        assert len(statements) > 100
        assert not found, "\n".join(found)


class TestWork:
    """How much of its machine's work SQLite does for each pass and each question."""

    def test_it_does_not_follow_the_history(
        self,
        old_site: OldSite,
        databases: Databases,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        steps = []
        monkeypatch.setattr(sys.modules["millions"], "NIGHT", 1000)
        for files in (1000, 5000):
            root = tmp_path / str(files)
            root.mkdir()
            with databases.fresh("sqlite", root) as url, pytest.MonkeyPatch.context() as patched:
                steps.append(_steps(Runs(old_site(root, url, files)), patched))
        grown = {
            what: (before, steps[1][what])
            for what, before in steps[0].items()
            if steps[1][what] > 1.2 * before + (4 * A_NIGHT if what in BY_DIRECTORY else 0)
        }
        assert not grown


def _steps(runs: Runs, patched: pytest.MonkeyPatch) -> Counter[str]:
    """Return how many instructions of its machine SQLite ran for each pass and question."""
    steps: Counter[str] = Counter()
    now = ""
    opened = peewee.SqliteDatabase._connect

    def counted() -> int:
        steps[now] += 1
        return 0

    def opens(database: Any) -> Any:
        connection = opened(database)
        connection.set_progress_handler(counted, 1)
        return connection

    patched.setattr(peewee.SqliteDatabase, "_connect", opens)
    # So many of the newest names are read for a part of a name.
    patched.setattr(matching, "_NEWEST", 200)
    patched.setattr(matching, "_READ_AT_ONCE", 100)
    patched.setattr(matching, "_LOOKED_INTO", 2)
    for what in runs.all(also_auditor=False):
        now = what
    return steps


def recorded(patched: pytest.MonkeyPatch) -> dict[str, Sequence[Any]]:
    """Return a mapping that gets every statement, with values that it was run with."""
    statements: dict[str, Sequence[Any]] = {}
    one, many = peewee.Database.execute_sql, connect.execute_many

    def execute_sql(database: Any, sql: str, params: Any = None) -> Any:
        statements.setdefault(sql, params or ())
        return one(database, sql, params)

    def execute_many(sql: str, rows: Any) -> int:
        rows = [list(row) for row in rows]
        if rows:
            statements.setdefault(sql, rows[0])
        return many(sql, rows)

    patched.setattr(peewee.Database, "execute_sql", execute_sql)
    patched.setattr(connect, "execute_many", execute_many)
    return statements


def _reads_of_sqlite(sql: str, values: Sequence[Any]) -> Iterator[str]:
    """Yield which tables or indexes a statement reads to their end."""
    called = re.findall(rf"\b(?:{'|'.join(GROWING)})\b\"?(?: AS)? \"?(\w+)", sql)
    for *_, line in connect.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall():
        scan = re.match(r"SCAN (\w+)(?:.* INDEX (\w+))?", line)
        if scan and scan[1] in (*GROWING, *called) and scan[2] not in SMALL:
            yield line


def _reads_of_postgresql(sql: str, values: Sequence[Any]) -> Iterator[str]:
    with connect.proxy.atomic():
        connect.proxy.execute_sql("SET LOCAL enable_seqscan = off")
        explained = connect.proxy.execute_sql(f"EXPLAIN (FORMAT JSON) {sql}", values)
        nodes = [explained.fetchone()[0][0]["Plan"]]
    while nodes:
        node = nodes.pop()
        if node["Node Type"] == "Limit" and "Filter" not in node["Plans"][0]:
            # It ends after so many rows.
            continue
        nodes += node.get("Plans", ())
        whole = "Scan" in node["Node Type"] and not {"Index Cond", "Recheck Cond"} & node.keys()
        if (
            whole
            and node.get("Relation Name", "").startswith(GROWING)
            and not re.match(EMPTY, node["Relation Name"])
            and node.get("Index Name") not in SMALL
        ):
            yield f"{node['Node Type']} of {node['Relation Name']} {node.get('Index Name')}"
