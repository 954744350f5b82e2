"""A database that was lost, or is last night's: `dbb rebuild`, and passes over it."""

import os
import shlex
import shutil
import sys

import pytest

from dbbbatch.database import connect
from tests.support.scripts import TOP
from tests.support.site import Site, tree

FILES = {"2026/a.fits": b"one", "2026/b.fits": b"two", "c.fits": b"three"}


@pytest.fixture
def lived(site: Site) -> Site:
    """A site whose files were delivered, stored and ingested, with one more in each quarantine."""
    confirm = shlex.join([sys.executable, f"{TOP}/bin/dbb", "-c", str(site.config), "confirm"])
    site.write(
        targets={"a": {}},
        handoff={"min_free": 0, "purge_after": 0},
        endpoint={"confirm": confirm},
    )
    (site.storage / ".dbb-storage").touch()
    site.put_all(FILES)
    for script in ("dbb-ingester", "dbb-handoff", "dbb-finder", "dbb-ingester"):
        assert site.run(script).code == 0
    site.put("c.fits", b"other content", site.far_buffer)
    assert site.run("dbb-finder").code == 1
    return site


def ask(site, sql):
    connect.connect(site.settings().database)
    rows = [tuple(row) for row in connect.execute(sql).fetchall()]
    connect.disconnect()
    return rows


def lose(site):
    """Empty the database."""
    tables = ("ingest_event", "ingest_state", "ingest_claim", "file_checksum", "file", "target")
    more = ("finder_left", "quarantine", "transfer_attempt", "transfer_batch", "handoff_file")
    connect.connect(site.settings().database)
    for table in (*tables, *more):
        connect.transact(lambda table=table: connect.execute(f"DELETE FROM {table}"))
    connect.disconnect()


STORED = (
    "SELECT relpath, filename, size_bytes, checksum, status FROM file ORDER BY relpath, filename"
)
HELD = (
    "SELECT relpath, filename, size_bytes, checksum, status, held_as FROM handoff_file"
    " ORDER BY relpath, filename"
)
ASIDE = "SELECT label, relpath, filename, path, reason FROM quarantine ORDER BY path"
STATES = "SELECT DISTINCT status FROM ingest_state"


def test_rows_of_storage_come_back(lived):
    before = ask(lived, STORED)
    lose(lived)
    ran = lived.run("dbb", "rebuild", "finder.latiss")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("3 recorded, 0 already known")
    assert "Not to be known any more" in ran.out
    assert ask(lived, STORED) == before
    assert ask(lived, "SELECT DISTINCT finder FROM file") == [("rebuild",)]


@pytest.mark.parametrize("status", ["UNTRIED", "BACKFILL"])
def test_targets_are_offered_what_is_rebuilt_unless_told_otherwise(lived, status):
    lose(lived)
    lived.run("dbb", "rebuild", "finder.latiss", "--as", status)
    assert ask(lived, STATES) == [(status,)]


def test_rows_of_holding_come_back(lived):
    before = ask(lived, HELD)
    lose(lived)
    assert lived.run("dbb", "rebuild", "handoff.latiss").code == 0
    assert ask(lived, HELD) == before
    assert [row[4] for row in before] == ["HELD"] * 3


def test_rows_of_quarantine_come_back_with_the_reason_beside_the_file(lived):
    before = ask(lived, ASIDE)
    lose(lived)
    ran = lived.run("dbb", "rebuild", "finder.latiss")
    assert "1 in quarantine recorded" in ran.out
    assert ask(lived, ASIDE) == before


def test_file_of_quarantine_comes_back_though_another_was_released_from_there(lived):
    assert lived.run("dbb", "quarantine", "release", "finder.latiss", "--match", "*").code == 0
    assert lived.run("dbb-finder").code == 1
    waiting = f"{ASIDE.replace('ORDER', 'WHERE released_at IS NULL ORDER')}"
    before = ask(lived, waiting)
    connect.connect(lived.settings().database)
    connect.transact(lambda: connect.execute("DELETE FROM quarantine WHERE released_at IS NULL"))
    connect.disconnect()
    assert "1 in quarantine recorded" in lived.run("dbb", "rebuild", "finder.latiss").out
    assert ask(lived, waiting) == before
    assert "in quarantine" not in lived.run("dbb", "rebuild", "finder.latiss").out


def test_versions_in_holding_that_look_alike_are_no_obstacle(lived):
    for name in ("2026/e.fits", "2026/e.fits.~1~"):
        path = lived.put(name, name[-1].encode(), lived.holding)
        os.utime(path, (1_795_000_000, 1_795_000_000))
    assert lived.run("dbb", "rebuild", "handoff.latiss").out.startswith("1 recorded")
    assert lived.run("dbb", "rebuild", "handoff.latiss").out.startswith("0 recorded")
    assert len(ask(lived, HELD)) == 4


def test_what_is_known_is_left_as_it_is(lived):
    before = [ask(lived, sql) for sql in (STORED, HELD, ASIDE, STATES)]
    for label in ("finder.latiss", "handoff.latiss"):
        ran = lived.run("dbb", "rebuild", label)
        assert ran.out.startswith("0 recorded, 3 already known")
    assert [ask(lived, sql) for sql in (STORED, HELD, ASIDE, STATES)] == before


@pytest.mark.parametrize("backend", ["sqlite"])
def test_dry_run_changes_nothing(lived):
    lose(lived)
    for label in ("finder.latiss", "handoff.latiss"):
        ran = lived.run("dbb", "rebuild", label, "--dry-run")
        assert len(ran.out.splitlines()) == 3
    assert ask(lived, STORED) == ask(lived, HELD) == []


@pytest.mark.parametrize("backend", ["sqlite"])
def test_target_cannot_be_rebuilt(lived):
    assert lived.run("dbb", "rebuild", "target.a").code == 64


def contents(*directories):
    """Every content below directories, however often: what must not become less."""
    found = set()
    for directory in directories:
        found |= {path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    return found


SCRIPTS = [
    "dbb-handoff",
    "dbb-finder",
    "dbb-ingester",
    "dbb-janitor",
    "dbb-auditor --adopt --share 1",
    "dbb backfill finder.latiss",
]


def restore(site, backup):
    """Put a backup in the place of the database."""
    database = site.database_url.removeprefix("sqlite:///")
    shutil.copy(backup, database)
    for suffix in ("-wal", "-shm"):
        (site.root / (database + suffix)).unlink(missing_ok=True)


@pytest.mark.promise
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_pass_over_a_lost_database_loses_and_overwrites_nothing(lived, script):
    lived.put_all({"2026/a.fits": b"one", "2026/b.fits": b"two, corrected"})
    lived.put("2026/a.fits", b"one", lived.far_buffer)
    lived.put("2026/b.fits", b"two, corrected", lived.far_buffer)
    lose(lived)
    held = {path: path.read_bytes() for path in lived.holding.rglob("*") if path.is_file()}
    stored = {path: path.read_bytes() for path in lived.storage.rglob("*") if path.is_file()}
    before = contents(lived.root / "summit", lived.root / "archive")
    for _ in range(2):
        assert lived.run(*script.split()).code in (0, 1)
    assert contents(lived.root / "summit", lived.root / "archive") >= before
    assert all(path.read_bytes() == content for path, content in held.items())
    assert all(path.read_bytes() == content for path, content in stored.items())


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_pass_over_last_nights_database_loses_and_overwrites_nothing(lived, script):
    backup = lived.root / "backup.sqlite"
    assert lived.run("dbb", "backup", str(backup)).code == 0
    lived.put_all({"d.fits": b"four", "2026/a.fits": b"one, corrected"})
    for each in ("dbb-handoff", "dbb-finder", "dbb-ingester"):
        lived.run(each)
    before = contents(lived.root / "summit", lived.root / "archive")
    restore(lived, backup)
    for _ in range(2):
        assert lived.run(*script.split()).code in (0, 1)
    assert contents(lived.root / "summit", lived.root / "archive") >= before
    assert (lived.storage / "2026/a.fits").read_bytes() == b"one"


@pytest.mark.promise
def test_janitor_purges_nothing_that_a_lost_database_cannot_confirm(lived):
    held = tree(lived.holding)
    lose(lived)
    assert lived.run("dbb-janitor").code == 0
    assert lived.run("dbb", "rebuild", "handoff.latiss").code == 0
    assert lived.run("dbb-janitor").code == 0
    assert tree(lived.holding) == held
    assert lived.run("dbb", "rebuild", "finder.latiss").code == 0
    assert lived.run("dbb-janitor").code == 0
    assert tree(lived.holding) == {}
    assert tree(lived.storage) == FILES


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["sqlite"])
def test_janitor_purges_nothing_else_for_what_last_nights_database_has_held(lived):
    backup = lived.root / "backup.sqlite"
    assert lived.run("dbb", "backup", str(backup)).code == 0
    assert lived.run("dbb-janitor").code == 0
    assert tree(lived.holding) == {}
    # Another file has the name of a purged one by now.
    lived.put("2026/a.fits", b"ONE")
    assert lived.run("dbb-handoff").code == 0
    restore(lived, backup)
    assert ask(lived, "SELECT DISTINCT status FROM handoff_file") == [("HELD",)]
    # 75: so many are gone from holding that it may not be mounted.
    assert lived.run("dbb-janitor").code in (0, 75)
    assert tree(lived.holding) == {"2026/a.fits": b"ONE"}
    assert tree(lived.storage) == FILES


@pytest.mark.promise
@pytest.mark.parametrize("script", ["dbb-auditor --adopt", "dbb backfill finder.latiss"])
def test_storage_is_recorded_as_it_is_over_a_lost_database(lived, script):
    before = ask(lived, STORED)
    lose(lived)
    assert lived.run(*script.split()).code == 0
    assert ask(lived, STORED) == before
    assert tree(lived.storage) == FILES


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize(
    "script", ["dbb-auditor --adopt --missing 1", "dbb backfill finder.latiss"]
)
def test_storage_is_recorded_as_it_is_over_last_nights_database(lived, script):
    backup = lived.root / "backup.sqlite"
    assert lived.run("dbb", "backup", str(backup)).code == 0
    assert lived.run("dbb", "forget", "finder.latiss", "c.fits", "--remove", "--yes").code == 0
    lived.put("d.fits", b"four", lived.far_buffer)
    lived.run("dbb-finder")
    now = tree(lived.storage)
    restore(lived, backup)
    assert lived.run(*script.split()).code in (0, 1)
    rows = {name: status for _, name, _, _, status in ask(lived, STORED)}
    # Only who looks for what rows tell of finds out that one is gone.
    gone = "MISSING" if "auditor" in script else "STORED"
    assert rows == {"a.fits": "STORED", "b.fits": "STORED", "c.fits": gone, "d.fits": "STORED"}
    assert tree(lived.storage) == now


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["sqlite"])
def test_last_nights_database_is_brought_up_to_date(lived):
    backup = lived.root / "backup.sqlite"
    lived.run("dbb", "backup", str(backup))
    lived.put("d.fits", b"four", lived.far_buffer)
    lived.run("dbb-finder")
    now = ask(lived, STORED)
    restore(lived, backup)
    assert lived.run("dbb", "rebuild", "finder.latiss").out.startswith("1 recorded, 3 already")
    assert ask(lived, STORED) == now
