"""A site of version 0.1.0, with a pass that was killed: `dbb init`, and everything goes on.

``sqlite.sql``, ``postgresql.sql`` and ``disk.json`` are what a site had on its disks and in its
database, whose schema had five files: four files went all the way, one is not yet ingested, one
is in the endpoint's buffer, and one was being sent when the pass was killed.
"""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest

from dbbbatch.database import connect
from tests.support.handing import rows
from tests.support.site import Site, tree

pytestmark = pytest.mark.promise

HERE = Path(__file__).parent
SCRIPTS = ["dbb-handoff", "dbb-finder", "dbb-ingester", "dbb-janitor", "dbb-auditor"]


@pytest.fixture
def old(empty_database_url: str, backend: str, tmp_path: Path) -> Site:
    """Return the site as the old version left it."""
    site = Site(tmp_path / "site", empty_database_url).write()
    dump = (HERE / f"{backend}.sql").read_text().replace("{root}", str(site.root))
    if backend == "sqlite":
        with sqlite3.connect(empty_database_url.removeprefix("sqlite:///")) as database:
            database.executescript(dump)
        database.close()
    else:
        import psycopg

        with psycopg.connect(empty_database_url) as connection:
            connection.execute(dump.encode())
    for name, (content, mtime_ns) in json.loads((HERE / "disk.json").read_text()).items():
        path = site.root / os.fsdecode(name.encode("latin-1"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.replace("{root}", str(site.root)).encode("latin-1"))
        os.utime(path, ns=(mtime_ns, mtime_ns))
    return site


def schema_of(site: Site) -> set[tuple[str, str]]:
    connect.connect(site.settings().database)
    if connect.on_postgresql():
        asked = (
            "SELECT table_name, column_name FROM information_schema.columns"
            " WHERE table_schema = 'public'"
            " UNION SELECT indexname, '' FROM pg_indexes WHERE schemaname = 'public'"
        )
    else:
        asked = (
            "SELECT m.name, coalesce(c.name, '') FROM sqlite_master m"
            " LEFT JOIN pragma_table_info(m.name) c WHERE m.name NOT LIKE 'sqlite_%'"
        )
    found = {tuple(row) for row in connect.execute(asked).fetchall()}
    connect.disconnect()
    return found


def test_until_the_tables_are_updated_nothing_is_changed(old: Site) -> None:
    before = tree(old.root / "summit") | tree(old.root / "archive")
    ran = old.run("dbb-handoff")
    assert ran.code == 78
    assert "run `dbb init`" in ran.err
    assert tree(old.root / "summit") | tree(old.root / "archive") == before


def test_a_site_goes_on_where_the_old_version_was_killed(old: Site) -> None:
    originals = tree(old.holding) | tree(old.buffer)
    assert old.run("dbb", "init").code == 0
    for _ in range(2):
        for script in SCRIPTS:
            ran = old.run(script)
            assert ran.code == 0, (script, ran)
    assert tree(old.buffer) == tree(old.far_buffer) == tree(old.staging) == {}
    assert tree(old.holding) == tree(old.storage) == originals
    assert rows(old) == ["HELD"] * 7
    assert rows(old, table="file") == ["STORED"] * 7
    assert rows(old, table="ingest_state") == ["SUCCESS"] * 7
    said = old.run("dbb", "history", "2026-11-24/a.fits").out
    assert all(word in said for word in ("HELD", "STORED", "SUCCESS"))


def test_a_problem_that_the_old_version_reported_ends(old: Site) -> None:
    reported = f"{old.storage}: the storage area is not there; is it mounted?"
    said = old.root / "state" / "said" / "finder.latiss.json"
    said.parent.mkdir()
    said.write_text(json.dumps({reported: reported}))
    assert old.run("dbb", "init").code == 0
    assert old.run("dbb-finder") == (0, "", f"finder.latiss: is over: {reported}\n")
    assert old.run("dbb-finder") == (0, "", "")


def test_the_tables_are_those_of_a_new_database(
    old: Site, database_url: str, tmp_path: Path
) -> None:
    assert old.run("dbb", "init").code == 0
    assert schema_of(old) == schema_of(Site(tmp_path / "new", database_url).write())
